//! All that may cross the channel.

use serde::{Deserialize, Serialize};

use crate::{
    plan::{Answer, Diff, Facts, Holding, HostPath, LabName, Offer, OpFailure, Outcome, Plan, Question, StepId, Tally},
    tree::{Ahead, Demand, Remembered, Supply},
};

/// From the near side to the helper. The first message is `Hello`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub enum ToHelper {
    /// Says who speaks.
    Hello(NearHello),
    /// Checks or applies a plan. One at a time; a second one waits for the first.
    Plan {
        /// Chosen by the near side; all that comes back about it carries the same number.
        request: u32,
        /// Whether to stop at the diff.
        mode: Mode,
        /// What to do.
        plan: Plan,
    },
    /// Content that the next plan will probably demand; right before that plan.
    Ahead {
        /// The plan's number.
        request: u32,
        /// What is sent.
        ahead: Ahead,
    },
    /// Asks about live state; answered at once, also while a plan runs.
    Ask {
        /// Chosen by the near side.
        request: u32,
        /// All of them, answered in order in one message.
        questions: Vec<Question>,
    },
    /// Content, in answer to a demand.
    Supply {
        /// The plan's number.
        request: u32,
        /// The next message of the answer.
        supply: Supply,
    },
    /// The same, several messages at once: those about small files would cost more on their own than they say.
    Supplies {
        /// The plan's number.
        request: u32,
        /// The next messages of the answer, in order; at most [`MAX_SUPPLIES`].
        supplies: Vec<Supply>,
    },
    /// Ends a plan: its command is killed, no further step begins. `Done` still comes. Withdraws an offer.
    Cancel {
        /// The number of the plan or `Fetch`.
        request: u32,
    },
    /// The near side is finished; the helper ends. So does the end of the stream.
    Bye,
    /// Asks for a file or directory of the host. Answered by `Offered`; then its content may be demanded until `Cancel`.
    Fetch {
        /// Chosen by the near side.
        request: u32,
        /// What is asked for. A link is followed.
        path: HostPath,
        /// Whether it may be a directory.
        recursive: bool,
    },
    /// Content of an offer that this side lacks. One at a time: the next one after the whole answer.
    Demand {
        /// The number of the `Fetch`.
        request: u32,
        /// What is wanted.
        demand: Demand,
    },
}

impl ToHelper {
    /// Whether it holds little but what is compressed already.
    pub fn is_packed(&self) -> bool {
        match self {
            Self::Supply { supply, .. } => supply.is_packed(),
            Self::Supplies { supplies, .. } => supplies.iter().any(Supply::is_packed),
            _ => false,
        }
    }
}

/// Most messages of an answer that travel together.
pub const MAX_SUPPLIES: usize = 256;

/// Whether a plan stops at the diff.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Mode {
    /// Writes nothing.
    Check,
    /// Applies the diff.
    Apply,
}

/// The near side's first message.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct NearHello {
    /// [`super::PROTOCOL`].
    pub protocol: u32,
    /// Who holds the host's lock when a plan is applied, for people: `alice@laptop, run 7f3a`.
    pub owner: String,
    /// How long to wait for the host's lock in milliseconds.
    pub lock_wait_ms: u64,
    /// Which lab it speaks for: hosts keep apart what labs have on them.
    pub lab: LabName,
}

/// From the helper to the near side. The first message is `Hello`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub enum FromHelper {
    /// Says what the host is.
    Hello(HelperHello),
    /// What happened to steps. Batched: quiet steps do not cost a message each.
    Steps {
        /// The plan's number.
        request: u32,
        /// In order.
        reports: Vec<StepReport>,
    },
    /// Content that the host lacks.
    Demand {
        /// The plan's number.
        request: u32,
        /// What is wanted.
        demand: Demand,
    },
    /// The plan is finished; nothing more comes about it.
    Done {
        /// The plan's number.
        request: u32,
        /// How many steps ended in which way.
        tally: Tally,
    },
    /// The answers to an `Ask`.
    Answers {
        /// The number of the `Ask`.
        request: u32,
        /// One for each question, in order.
        answers: Vec<Answer>,
    },
    /// The helper cannot go on and ends.
    Fault {
        /// Why, for people.
        why: String,
    },
    /// The answer to a `Fetch`.
    Offered {
        /// Its number.
        request: u32,
        /// What there is, or why there is nothing to be had.
        offer: Result<Offer, OpFailure>,
    },
    /// Content, in answer to a demand of the near side.
    Supply {
        /// The number of the `Fetch`.
        request: u32,
        /// The next message of the answer.
        supply: Supply,
    },
}

impl FromHelper {
    /// Whether it holds little but what is compressed already.
    pub fn is_packed(&self) -> bool {
        matches!(self, Self::Supply { supply, .. } if supply.is_packed())
    }
}

/// The helper's first message.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct HelperHello {
    /// [`super::PROTOCOL`].
    pub protocol: u32,
    /// What the host is.
    pub facts: Facts,
    /// Trees that it remembers, at most 256, the latest first.
    pub trees: Vec<Remembered>,
    /// What components of labs have on it; at most [`Holding::MOST`].
    pub holdings: Vec<Holding>,
}

/// What happened to one step.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct StepReport {
    /// Which step.
    pub step: StepId,
    /// What happened.
    pub event: StepEvent,
}

/// What can happen to a step.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum StepEvent {
    /// It differs (or has to run) and is being applied, or its check takes long. Quiet steps skip this.
    Started,
    /// A line of output of its command, without the newline, at most 16 KiB.
    Output {
        /// Which stream.
        stream: Stream,
        /// Decoded leniently.
        line: String,
    },
    /// It has ended.
    Finished {
        /// In which way.
        outcome: Outcome,
        /// Before and after, when something differs.
        diff: Option<Diff>,
        /// How long it took in microseconds.
        micros: u64,
    },
}

/// An output stream of a command.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Stream {
    /// Standard output.
    Stdout,
    /// Standard error.
    Stderr,
}
