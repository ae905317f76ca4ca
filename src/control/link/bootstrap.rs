//! Gets a helper running on a host: one command finds and starts it, or says where it may be put.

use std::{sync::Arc, time::Duration};

use rand::distr::{Alphanumeric, SampleString as _};
use russh::ChannelMsg;
use tokio::time::{Instant, timeout, timeout_at};

use super::{
    connection::{CloseOnDrop, Connection, Ending, Writer},
    error::{LinkError, LinkErrorKind, Phase, SudoProblem},
    exec::STDERR,
    helper_channel::{Begun, HelperChannel},
    program::HelperProgram,
    remote_text::{Tail, one_line},
    script::{self, Verdict},
    target::Target,
};
use crate::wire::{FromHelper, MAX_NOISE, NearHello, PROTOCOL, Preamble, PreambleError, PreambleScanner, ToHelper};

/// Letters and digits of the nonce that a helper begins with.
const NONCE_LENGTH: usize = 24;
/// Bytes sent between two calls of the progress function.
const PIECE: usize = 64 * 1024;

/// Starts the helper, placing it first when the host does not have it, and exchanges hellos.
pub(super) async fn start(
    connection: &Connection,
    target: &Arc<Target>,
    program: &HelperProgram,
    hello: NearHello,
    progress: impl Fn(u64) + Send,
) -> Result<HelperChannel, LinkError> {
    let bootstrap = Bootstrap { connection, target, program };
    let begun = bootstrap.begin(progress).await.map_err(|kind| kind.of(target))?;
    greet(begun, target, hello).await
}

struct Bootstrap<'a> {
    connection: &'a Connection,
    target: &'a Target,
    program: &'a HelperProgram,
}

/// Which helpers on the host are good.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Look {
    /// Any; one that does not run counts as missing.
    Everywhere,
    /// None: a place is wanted.
    Nowhere,
    /// The one that was just placed; that it does not run is an error.
    Placed,
}

/// What the start script came to.
enum Started {
    Begun(Box<Begun>),
    /// The host has no helper, or a broken one; the place to put it has this number.
    Missing {
        place: usize,
        directory: String,
        machine: String,
    },
}

impl Bootstrap<'_> {
    async fn begin(&self, progress: impl Fn(u64) + Send) -> Result<Begun, LinkErrorKind> {
        let (place, directory, machine) = match self.run(Look::Everywhere).await? {
            Started::Begun(begun) => return Ok(*begun),
            Started::Missing { place, directory, machine } => (place, directory, machine),
        };
        if let Some(ours) = self.program.machine()?.filter(|ours| *ours != machine) {
            return Err(LinkErrorKind::WrongCpu { host: machine, helper: ours.to_owned() });
        }
        self.upload(place, &directory, progress).await?;
        match self.run(Look::Placed).await? {
            Started::Begun(begun) => Ok(*begun),
            // Placed a moment ago and gone: something on the host removes it.
            Started::Missing { .. } => Err(LinkErrorKind::Upload {
                place: directory,
                why: "it was placed, and is not there now".to_owned(),
                stderr: Vec::new(),
            }),
        }
    }

    /// Runs the start script.
    async fn run(&self, look: Look) -> Result<Started, LinkErrorKind> {
        let nonce = nonce();
        let command = script::start(self.target, self.program.id(), &nonce, look != Look::Nowhere)?;
        let mut heard = self.listen(&command, &nonce).await?;
        if let Some(first) = heard.first.take() {
            let Heard { channel, stderr, ending, .. } = heard;
            let (reader, writer, close) = (channel.reader, channel.writer, channel.close);
            let state = Arc::clone(self.connection.state());
            return Ok(Started::Begun(Box::new(Begun { reader, writer, close, first, stderr, ending, state })));
        }
        match script::verdict(&heard.noise, &nonce) {
            Some(Verdict::Missing { place, directory, machine }) => Ok(Started::Missing { place, directory, machine }),
            Some(Verdict::NoPlace { tried }) => Err(LinkErrorKind::NoPlace { tried }),
            // It is there and does not run: a crash of the host may have left half of it on disk.
            Some(Verdict::Found) if look == Look::Everywhere => Box::pin(self.run(Look::Nowhere)).await,
            _ => Err(self.not_started(heard)),
        }
    }

    /// Runs a command until a preamble comes or the command ends.
    async fn listen(&self, command: &str, nonce: &str) -> Result<Heard, LinkErrorKind> {
        let phase = self.target.timeouts.phase;
        let mut heard = Heard::new(self.execute(command).await?);
        let preamble = Preamble::new(nonce).map_err(|_| LinkErrorKind::Noise)?;
        let mut scanner = PreambleScanner::new(preamble);
        let deadline = Instant::now() + phase;
        loop {
            let next = timeout_at(deadline, heard.channel.reader.wait()).await;
            let next = next.map_err(|_| LinkErrorKind::Deadline { phase: Phase::Hello, after: phase })?;
            let Some(message) = next else { break };
            heard.ending.observe(&message);
            match message {
                ChannelMsg::Data { data } => match scanner.push(&data) {
                    Ok(Some(first)) => {
                        heard.first = Some(first);
                        return Ok(heard);
                    }
                    Ok(None) => {}
                    Err(PreambleError::Noise | PreambleError::Nonce) => return Err(LinkErrorKind::Noise),
                },
                ChannelMsg::ExtendedData { data, ext: STDERR } => heard.stderr.push(&data),
                ChannelMsg::Failure => return Err(LinkErrorKind::ExecRefused),
                ChannelMsg::Close => break,
                _ => {}
            }
        }
        if let Some(why) = self.connection.state().why_lost() {
            return Err(LinkErrorKind::Closed { phase: Phase::Hello, why });
        }
        heard.noise = scanner.noise();
        Ok(heard)
    }

    async fn execute(&self, command: &str) -> Result<Running, LinkErrorKind> {
        let channel = self.connection.open_session().await?;
        let (reader, writer) = channel.split();
        let writer = Arc::new(writer);
        let close = CloseOnDrop(Arc::clone(&writer));
        let lost = |error: russh::Error| self.connection.lost_while(Phase::Open, &error);
        writer.exec(true, command).await.map_err(lost)?;
        Ok(Running { reader, writer, close })
    }

    fn not_started(&self, mut heard: Heard) -> LinkErrorKind {
        let errors = heard.stderr.lines();
        if self.target.sudo
            && let Some(problem) = sudo_problem(&errors, &self.target.user)
        {
            return LinkErrorKind::Sudo(problem);
        }
        let mut output = Tail::default();
        output.push(heard.noise.as_bytes());
        let output = output.lines().into_iter().chain(errors).collect();
        LinkErrorKind::NotStarted { status: heard.ending.status, signal: heard.ending.signal, output }
    }

    /// Sends the program into a temporary file beside its place; the host checks it, by having it name its own hash,
    /// before it gets its name.
    async fn upload(&self, place: usize, directory: &str, progress: impl Fn(u64) + Send) -> Result<(), LinkErrorKind> {
        let nonce = nonce();
        let content = self.program.content()?;
        let command = script::upload(self.target, self.program, place, &nonce)?;
        let mut running = self.execute(&command).await?;
        let writer = Arc::clone(&running.writer);
        let stall = self.target.timeouts.stall;
        let late = || LinkErrorKind::Deadline { phase: Phase::Upload, after: stall };
        let send = async {
            let mut sent = 0;
            while sent < content.len() {
                let piece = content.slice(sent..content.len().min(sent + PIECE));
                sent += piece.len();
                match timeout(stall, writer.data_bytes(piece)).await {
                    Err(_) => return Err(late()),
                    // The command has ended; what it said tells why.
                    Ok(Err(_)) => return Ok(()),
                    Ok(Ok(())) => progress(sent as u64),
                }
            }
            // Nothing to do about a failure: then the command has ended.
            let _ = writer.eof().await;
            Ok(())
        };
        let (mut ending, mut errors, mut said) = (Ending::default(), Tail::default(), Vec::new());
        let hear = async {
            while let Some(message) = running.reader.wait().await {
                ending.observe(&message);
                match message {
                    ChannelMsg::Data { data } if said.len() < MAX_NOISE => said.extend_from_slice(&data),
                    ChannelMsg::ExtendedData { data, ext: STDERR } => errors.push(&data),
                    ChannelMsg::Close => break,
                    _ => {}
                }
            }
        };
        let mut hear = Box::pin(hear);
        tokio::select! {
            // An end that comes early is the command's failure: a full disk, a lost directory.
            () = &mut hear => {}
            result = send => {
                result?;
                timeout(stall, &mut hear).await.map_err(|_| late())?;
            }
        }
        drop(hear);
        if let Some(why) = self.connection.state().why_lost() {
            return Err(LinkErrorKind::Closed { phase: Phase::Upload, why });
        }
        let why = match script::placed(&String::from_utf8_lossy(&said), &nonce) {
            Some(Ok(())) => return Ok(()),
            Some(Err(why)) => why,
            None => super::error::ending(ending.status, ending.signal.as_deref()),
        };
        Err(LinkErrorKind::Upload { place: directory.to_owned(), why: one_line(&why), stderr: errors.lines() })
    }
}

/// A command under way.
struct Running {
    reader: russh::ChannelReadHalf,
    writer: Arc<Writer>,
    close: CloseOnDrop,
}

/// What a command said.
struct Heard {
    channel: Running,
    /// What came after the preamble, when one came.
    first: Option<Vec<u8>>,
    noise: String,
    stderr: Tail,
    ending: Ending,
}

impl Heard {
    fn new(channel: Running) -> Self {
        Self { channel, first: None, noise: String::new(), stderr: Tail::default(), ending: Ending::default() }
    }
}

/// Exchanges hellos on a channel where a helper just began.
async fn greet(begun: Begun, target: &Arc<Target>, hello: NearHello) -> Result<HelperChannel, LinkError> {
    let (sender, mut receiver) = HelperChannel::halves(begun, Arc::clone(target));
    sender.send(&ToHelper::Hello(hello)).await?;
    let after: Duration = target.timeouts.phase;
    let late = |_| LinkErrorKind::Deadline { phase: Phase::Hello, after }.of(target);
    match timeout(after, receiver.recv()).await.map_err(late)?? {
        Some(FromHelper::Hello(theirs)) if theirs.protocol == PROTOCOL => {
            Ok(HelperChannel::new(theirs, sender, receiver))
        }
        Some(FromHelper::Hello(theirs)) => Err(LinkErrorKind::Protocol { theirs: theirs.protocol }.of(target)),
        _ => Err(LinkErrorKind::NoHello.of(target)),
    }
}

fn nonce() -> String {
    Alphanumeric.sample_string(&mut rand::rng(), NONCE_LENGTH)
}

/// What sudo's words mean, with messages in English (`LC_ALL=C`): sudo's own and sudo-rs'. Words that are not known
/// here leave the error as it is.
fn sudo_problem(errors: &[String], user: &str) -> Option<SudoProblem> {
    let user = user.to_owned();
    let said = |words: &[&str]| errors.iter().any(|line| words.iter().any(|word| line.contains(word)));
    if said(&["a password is required", "interactive authentication is required"]) {
        Some(SudoProblem::PasswordRequired { user })
    } else if said(&["must have a tty"]) {
        Some(SudoProblem::TerminalRequired { user })
    } else if said(&["not in the sudoers file", "is not allowed to", "may not run sudo", "I'm afraid I can't do that"])
    {
        Some(SudoProblem::NotAllowed { user })
    } else if errors.iter().any(|line| line.contains("sudo") && line.contains("No such file or directory")) {
        Some(SudoProblem::Missing)
    } else {
        None
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sudo_is_understood_whoever_wrote_it() {
        let user = || "alice".to_owned();
        let cases = [
            ("sudo: a password is required", Some(SudoProblem::PasswordRequired { user: user() })),
            ("sudo: interactive authentication is required", Some(SudoProblem::PasswordRequired { user: user() })),
            ("sudo: sorry, you must have a tty to run sudo", Some(SudoProblem::TerminalRequired { user: user() })),
            ("alice is not in the sudoers file.", Some(SudoProblem::NotAllowed { user: user() })),
            (
                "Sorry, user alice is not allowed to execute '/bin/sh -c x' as root on node-1.",
                Some(SudoProblem::NotAllowed { user: user() }),
            ),
            ("sudo: I'm sorry alice. I'm afraid I can't do that", Some(SudoProblem::NotAllowed { user: user() })),
            ("env: 'sudo': No such file or directory", Some(SudoProblem::Missing)),
            ("sudo: unable to resolve host node-1", None),
        ];
        for (line, wanted) in cases {
            let errors = ["something before".to_owned(), line.to_owned()];
            assert_eq!(sudo_problem(&errors, "alice"), wanted, "{line}");
        }
    }
}
