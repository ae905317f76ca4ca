//! What happens during a run: known to who sends (drive) and who shows (report), owned by neither.

use serde::Serialize;

use crate::plan::{Action, ComponentName, Diff, Facts, HostName, LabName, Outcome, Source, StepId, Tally};

/// What kind of run this is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum RunKind {
    /// Brings everything to its recipe's state.
    Deploy,
    /// The same up to the first write.
    Plan,
    /// One recipe or expression on some hosts.
    Recipe,
    /// One shell command on some hosts.
    Exec,
    /// Starts or removes containers only.
    Lab,
    /// Brings a component's trees to its hosts and restarts what reacts to them.
    Push,
    /// Probes components and changes nothing.
    Health,
}

/// Something that happened during a run. Sent by drive, folded by report.
#[derive(Debug, Clone, PartialEq, Serialize)]
#[serde(rename_all = "kebab-case", tag = "event")]
pub enum RunEvent {
    /// The run begins.
    RunStarted {
        /// What kind of run.
        kind: RunKind,
        /// Which lab.
        lab: LabName,
        /// Hosts that take part, in inventory order.
        hosts: Vec<HostName>,
        /// Components that take part, in the order of the graph.
        components: Vec<ComponentName>,
    },
    /// A container was (or in plan: would be) created, recreated, started, stopped or removed.
    Container {
        /// Its host.
        host: HostName,
        /// What is done.
        action: Action,
        /// Why, in words: `does not exist`, `image changed`.
        why: String,
        /// False in plan.
        done: bool,
        /// How long it took in milliseconds.
        millis: u64,
    },
    /// A container was made that may do more than a bare one.
    Granted {
        /// Its host.
        host: HostName,
        /// Devices, capabilities and security options, such as `/dev/fuse` and `SYS_ADMIN`.
        what: Vec<String>,
        /// All devices and capabilities.
        privileged: bool,
    },
    /// A host's connection made progress.
    Host {
        /// Which host.
        host: HostName,
        /// Where it stands.
        #[serde(flatten)]
        phase: HostPhase,
    },
    /// A component begins on its hosts.
    ComponentStarted {
        /// Which component.
        component: ComponentName,
        /// Its hosts in this run.
        hosts: Vec<HostName>,
    },
    /// A plan was made for one host.
    Planned {
        /// Which component.
        component: ComponentName,
        /// Which host.
        host: HostName,
        /// Number of steps.
        steps: u32,
    },
    /// Something happened to a step.
    Step {
        /// Which component.
        component: ComponentName,
        /// Which host.
        host: HostName,
        /// Which step.
        step: StepId,
        /// What people call it: `file_write /etc/motd`.
        title: String,
        /// The recipe line.
        source: Source,
        /// A failure of it stops nothing: the recipe said so.
        ignored: bool,
        /// What happened.
        #[serde(flatten)]
        progress: StepProgress,
    },
    /// A component's keys in etcd were compared, and written when `applied`.
    Config {
        /// Which component.
        component: ComponentName,
        /// What differs; empty when nothing.
        changes: Vec<ConfigChange>,
        /// False in plan.
        applied: bool,
    },
    /// A component could not be looked at (plan on a host that does not exist yet).
    ComponentUnknown {
        /// Which component.
        component: ComponentName,
        /// Which host.
        host: HostName,
        /// Why it cannot be told.
        why: String,
    },
    /// A component's health probes passed or failed on a host.
    Health {
        /// Which component.
        component: ComponentName,
        /// Which host.
        host: HostName,
        /// Whether all probes passed.
        healthy: bool,
        /// Number of probes.
        probes: u32,
    },
    /// Something outside a step failed for a component: evaluating its recipe, its keys in etcd, reaching its store.
    ComponentFailed {
        /// Which component.
        component: ComponentName,
        /// On which host, when on one.
        host: Option<HostName>,
        /// What to show.
        problem: Problem,
    },
    /// A component has ended on all its hosts.
    ComponentFinished {
        /// Which component.
        component: ComponentName,
        /// In which way.
        status: Status,
        /// How long it took in milliseconds.
        millis: u64,
    },
    /// A host is no longer one of a component's; drained and stopped when `done`.
    Leaving {
        /// Which component.
        component: ComponentName,
        /// Which host.
        host: HostName,
        /// False in plan.
        done: bool,
    },
    /// Something that people should know and that stops nothing.
    Warning {
        /// About which host, when about one.
        host: Option<HostName>,
        /// What.
        text: String,
    },
    /// Content is travelling to a host, and has been for a while: said a few times a second, and once more at its end.
    Transfer(TransferProgress),
    /// A push has brought one set of changes to a component's hosts.
    ChangeSet(ChangeSet),
    /// A watched push is in sync and waits for the next change.
    InSync {
        /// Which component.
        component: ComponentName,
        /// Hosts whose content was compared and equals the sources.
        hosts: Vec<HostName>,
        /// The directories of this machine that are watched.
        sources: Vec<String>,
    },
    /// The run has ended.
    RunFinished(Summary),
}

/// How far the content is that travels to a host for one step, or a few steps in a row.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct TransferProgress {
    /// To which host.
    pub host: HostName,
    /// Contents of files that are complete.
    pub files: u64,
    /// Contents that the host is known to lack, complete ones included.
    pub files_wanted: u64,
    /// Bytes of content that the host got, or was told to take from what it has.
    pub bytes: u64,
    /// Bytes of all contents that it is known to lack.
    pub bytes_wanted: u64,
    /// Those of `bytes` that it had already, in older versions.
    pub reused_bytes: u64,
    /// Bytes sent for it, compressed and framed, before encryption.
    pub sent_bytes: u64,
    /// Since the first of it was asked for or sent, in milliseconds.
    pub millis: u64,
    /// Whether this is the last word about this transfer.
    pub ended: bool,
}

/// What a push brought to a component's hosts in one go.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct ChangeSet {
    /// Which component.
    pub component: ComponentName,
    /// False when it was only compared (`--check`).
    pub applied: bool,
    /// Hosts that were (or would be) changed.
    pub hosts: Vec<HostName>,
    /// Hosts that did not get it: lost, or a step failed.
    pub failed: Vec<HostName>,
    /// Entries made new on the host that needed most.
    pub created: u64,
    /// Entries changed, likewise.
    pub modified: u64,
    /// Entries removed, likewise.
    pub removed: u64,
    /// Bytes of content of new and changed files, likewise.
    pub bytes: u64,
    /// The first changed paths, each prefixed with `+`, `~` or `-`.
    pub paths: Vec<String>,
    /// Services that were (or would be) started or restarted, each once, in the order in which it happened.
    pub restarted: Vec<String>,
    /// From the notice of the change to its end on the last host, in milliseconds.
    pub millis: u64,
}

/// Where a host's connection stands.
#[derive(Debug, Clone, PartialEq, Serialize)]
#[serde(rename_all = "kebab-case", tag = "phase")]
pub enum HostPhase {
    /// Dialling, key exchange and login.
    Connecting,
    /// The helper is being placed. Said again while it takes long, and once when all of it is sent.
    Bootstrapping {
        /// Bytes of it that are sent.
        bytes: u64,
        /// Bytes of all of it.
        of: u64,
    },
    /// The helper answers.
    Ready {
        /// What the host is.
        facts: Box<Facts>,
        /// From dialling to hello in milliseconds.
        millis: u64,
    },
    /// The host could not be reached or was lost.
    Lost {
        /// What to show.
        problem: Problem,
    },
}

/// What happened to a step.
#[derive(Debug, Clone, PartialEq, Serialize)]
#[serde(rename_all = "kebab-case", tag = "progress")]
pub enum StepProgress {
    /// It is being applied.
    Started,
    /// A line of output.
    Output {
        /// True for standard error.
        stderr: bool,
        /// Without the newline.
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

/// A key in etcd that differs.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct ConfigChange {
    /// The whole key.
    pub key: String,
    /// Create, modify or remove.
    pub action: Action,
    /// Before; none when created. `***` when secret.
    pub before: Option<String>,
    /// After; none when removed. `***` when secret.
    pub after: Option<String>,
}

/// In which way a host or component ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Status {
    /// Nothing differed.
    Unchanged,
    /// Something was changed (in plan: would change).
    Changed,
    /// Could not be told in plan.
    Unknown,
    /// Not attempted because of an earlier failure.
    NotAttempted,
    /// Could not be reached.
    Unreachable,
    /// A step, probe or transaction failed.
    Failed,
    /// The run was interrupted.
    Interrupted,
}

/// A problem as people see it: error, causes, hint.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Problem {
    /// Lower case, names the thing.
    pub error: String,
    /// Causes, outermost first.
    pub because: Vec<String>,
    /// The last lines of remote output.
    pub output_tail: Vec<String>,
    /// One line that says what to do.
    pub hint: Option<String>,
}

/// How a run ended.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Summary {
    /// What kind of run.
    pub kind: RunKind,
    /// Per host, in inventory order.
    pub hosts: Vec<HostSummary>,
    /// Per component, in the order of the graph.
    pub components: Vec<ComponentSummary>,
    /// Containers created, recreated, started, stopped or removed (in plan: that would be).
    pub containers_changed: u32,
    /// Keys in etcd written or removed (in plan: that would be).
    pub keys_changed: u32,
    /// What content all hosts got.
    pub transfer: Transfer,
    /// How long the run took in milliseconds.
    pub millis: u64,
    /// Whether the run was interrupted.
    pub interrupted: bool,
}

/// How a run ended for one host.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct HostSummary {
    /// Which host.
    pub host: HostName,
    /// In which way.
    pub status: Status,
    /// Its steps.
    pub tally: Tally,
    /// Messages sent and received over its helper channel.
    pub messages: u64,
    /// What content it got.
    pub transfer: Transfer,
}

/// What content travelled in a run: to one host, or to all of them.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize)]
pub struct Transfer {
    /// Contents of files that were supplied. One that several files of a host have travels once.
    pub files: u64,
    /// Their bytes.
    pub bytes: u64,
    /// Those of `bytes` that hosts had already, in older versions.
    pub reused_bytes: u64,
    /// Bytes sent for content and lists of trees (manifests): compressed and framed, before encryption.
    pub sent_bytes: u64,
    /// Bytes of the helper, where it had to be placed.
    pub helper_bytes: u64,
    /// How long content was under way, in milliseconds; to several hosts at once counts once.
    pub millis: u64,
}

/// How a run ended for one component.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct ComponentSummary {
    /// Which component.
    pub component: ComponentName,
    /// Its hosts.
    pub hosts: Vec<HostName>,
    /// In which way.
    pub status: Status,
    /// Whether its health probes passed; none when it has none or they did not run.
    pub healthy: Option<bool>,
    /// How long it took in milliseconds.
    pub millis: u64,
}
