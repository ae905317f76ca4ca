//! The conversation with the near side: hello, then plans and questions until goodbye.

use std::{
    io::{self, BufReader, Read, Write},
    path::Path,
    process::ExitCode,
    sync::{
        Arc, Mutex, PoisonError,
        mpsc::{Receiver, channel, sync_channel},
    },
    thread,
    time::Duration,
};

use super::{
    accounts::Accounts,
    answer::answer,
    command_line::complain,
    gather::gather,
    holdings::Records,
    inbox::{Inbox, QueuedPlan, QueuedQuestions, Running, read_hello},
    offers::Offers,
    outbox::Outbox,
    runner::Session,
    stop::Stop,
    supply::SupplyGate,
    tree::remembered,
};
use crate::{
    plan::InitSystem,
    wire::{FromHelper, HelperHello, PROTOCOL, Preamble},
};

/// How many plans may wait. The near side sends one per component.
const MAX_PLANS: usize = 256;
/// How many messages of questions may wait.
const MAX_QUESTIONS: usize = 1024;
/// How many questions are answered at once: one that takes long must not hold the others up.
const ANSWERERS: usize = 4;
/// How long running work may take to end after goodbye: a second for its command, and one for what is left.
const FAREWELL: Duration = Duration::from_secs(2);

/// Speaks on standard input and output until the near side is gone. Success when it said goodbye or closed the stream.
pub(super) fn serve(nonce: &str) -> ExitCode {
    let preamble = match Preamble::new(nonce) {
        Ok(preamble) => preamble,
        Err(error) => return complain(&error.to_string(), 2),
    };
    // Modes are set explicitly where they matter; commands get what a login shell would give them.
    rustix::process::umask(rustix::fs::Mode::from_raw_mode(0o022));
    let mut output: Box<dyn Write + Send> = Box::new(io::stdout());
    if let Err(error) = output.write_all(preamble.as_bytes()).and_then(|()| output.flush()) {
        return complain(&format!("cannot write the preamble: {error}"), 1);
    }
    let outbox = Outbox::new(output);
    report_panics(&outbox);
    let mut input = BufReader::with_capacity(256 * 1024, io::stdin());
    match converse(&mut input, &outbox) {
        Ok(()) => ExitCode::SUCCESS,
        Err(why) => {
            outbox.last_words(why.clone());
            complain(&why, 1)
        }
    }
}

/// A panic ends the program; the near side gets to know why.
fn report_panics(outbox: &Outbox) {
    let outbox = outbox.clone();
    let default = std::panic::take_hook();
    std::panic::set_hook(Box::new(move |panic| {
        outbox.last_words(format!("a defect of the helper: {panic}"));
        default(panic);
    }));
}

/// Hello, then messages until goodbye. The error is for people.
fn converse(input: &mut impl Read, outbox: &Outbox) -> Result<(), String> {
    let stop = Stop::default();
    let accounts = Accounts::new(stop.clone());
    let facts = gather(&accounts);
    let trees = remembered(Path::new(&facts.state_dir));
    let holdings = Records::below(Path::new(&facts.state_dir)).all();
    let hello = HelperHello { protocol: PROTOCOL, facts: facts.clone(), trees, holdings };
    outbox.send(&FromHelper::Hello(hello)).map_err(|error| format!("cannot say hello: {error}"))?;
    let Some(near) = read_hello(input).map_err(|error| error.to_string())? else { return Ok(()) };

    let gate = SupplyGate::default();
    let init = facts.init;
    let mut session = Session::new(near.lab, facts, accounts.clone(), outbox.clone(), gate.clone());
    session.owner = near.owner;
    session.lock_wait = Duration::from_millis(near.lock_wait_ms);
    let (plans, plan_queue) = sync_channel(MAX_PLANS);
    let (questions, question_queue) = sync_channel(MAX_QUESTIONS);
    let running = Running::default();

    let question_queue = Arc::new(Mutex::new(question_queue));
    for _ in 0..ANSWERERS {
        let (queue, accounts, outbox, stop) =
            (Arc::clone(&question_queue), accounts.clone(), outbox.clone(), stop.clone());
        thread::spawn(move || answer_all(&queue, init, &accounts, &outbox, &stop));
    }
    let (finished, all_finished) = channel::<()>();
    let worker = running.clone();
    thread::spawn(move || {
        run_all(&session, &plan_queue, &worker);
        drop(finished);
    });

    let offers = Offers::new(outbox.clone(), stop.clone());
    let inbox = Inbox { plans, questions, gate, offers, running, stop: stop.clone() };
    let ended = inbox.read(input).map_err(|error| error.to_string());
    stop.end_session();
    // The queues end with the inbox.
    drop(inbox);
    // Nothing is ever sent: this ends when the plans have, or when their time is over.
    let _ = all_finished.recv_timeout(FAREWELL);
    stop.kill_all();
    ended
}

fn run_all(session: &Session, queue: &Receiver<QueuedPlan>, running: &Running) {
    for next in queue {
        let ended = session.run(next.request, next.mode, &next.plan, Arc::new(next.larder), &next.stop);
        running.remove(next.request);
        if ended.is_err() {
            // Nobody reads what we write. The reader notices at the latest when the stream is closed.
            next.stop.end_session();
        }
    }
    session.trees.write_down(Path::new(&session.facts.state_dir));
}

fn answer_all(
    queue: &Mutex<Receiver<QueuedQuestions>>,
    init: InitSystem,
    accounts: &Accounts,
    outbox: &Outbox,
    stop: &Stop,
) {
    loop {
        let next = queue.lock().unwrap_or_else(PoisonError::into_inner).recv();
        let Ok(next) = next else { return };
        let answers = next.questions.iter().map(|question| answer(question, init, accounts, stop)).collect();
        if outbox.send(&FromHelper::Answers { request: next.request, answers }).is_err() {
            return;
        }
    }
}
