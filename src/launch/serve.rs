//! The launcher itself: what each form of the command line does.

use std::{
    ffi::OsString, io::Write as _, net::SocketAddr, os::unix::process::ExitStatusExt as _, process::ExitCode,
    sync::Arc, time::Duration,
};

use rustix::process::Signal;
use tokio::{
    sync::watch,
    time::{Instant, sleep_until},
};

use super::{
    account::Account,
    arguments::{self, Mode, Request},
    change::{Effect, Service},
    command, etcdctl,
    failure::Failure,
    follow::Follower,
    link,
    process::{Process, exit_code},
    render,
    say::say,
    signals::{Signals, ends},
    switch, v2,
};
use crate::plan::EtcdLink;

/// When a change that could not be carried out (disk full, no such user) is tried again.
const RETRY: Duration = Duration::from_secs(10);

/// The whole program: arguments, the program's name first, to exit code. Under the name `etcdctl` it is that.
pub fn main(mut arguments: impl Iterator<Item = OsString>) -> ExitCode {
    let result = match arguments.next() {
        Some(program) if etcdctl::is_meant(&program) => etcdctl::run(&arguments.collect::<Vec<_>>()),
        _ => run(arguments),
    };
    match result {
        Ok(code) => ExitCode::from(code),
        Err(error) => {
            say(format_args!("error: {}", error.line()));
            ExitCode::from(error.code())
        }
    }
}

fn run(arguments: impl Iterator<Item = OsString>) -> Result<u8, Failure> {
    let (work, link) = match arguments::parse(arguments)? {
        Request::Help => return print(arguments::HELP),
        Request::Version => return print(concat!("ovs-launch ", env!("CARGO_PKG_VERSION"), "\n")),
        // Before any thread or runtime: see there.
        Request::Become { identity, argv } => return Ok(switch::become_process(&identity, &argv)),
        Request::Launch { mode, link } => (Work::Launch(mode), link),
        Request::ServeV2 { address, link } => (Work::ServeV2(address), link),
    };
    // One thread: the kernel ends the process with the thread that started it.
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .map_err(|source| Failure::System { what: "start", source })?;
    let link = link::read(&link)?;
    match work {
        Work::Launch(mode) => runtime.block_on(launch(mode, link)),
        Work::ServeV2(address) => runtime.block_on(v2::serve(address, link)),
    }
}

/// What is done with a link.
enum Work {
    Launch(Mode),
    ServeV2(SocketAddr),
}

async fn launch(mode: Mode, link: EtcdLink) -> Result<u8, Failure> {
    match mode {
        Mode::Serve => Box::pin(serve(Follower::new(link)?)).await,
        Mode::Once => {
            let service = Follower::new(link)?.once().await?;
            let account = account(&service).await?;
            render::all(&service, account.as_ref())?;
            Ok(0)
        }
        Mode::Check => {
            let place = link.to_string();
            let service = Follower::new(link)?.once().await?;
            let account = account(&service).await?;
            print(&outline(&place, &service, account.as_ref()))
        }
    }
}

/// The process that runs and what it was started with.
struct Running {
    process: Process,
    service: Arc<Service>,
}

async fn serve(mut follower: Follower) -> Result<u8, Failure> {
    let mut signals = Signals::catch()?;
    let service = tokio::select! {
        service = follower.first() => Arc::new(service?),
        signal = signals.ending() => return Ok(shell_code(signal)),
    };
    let mut running = tokio::select! {
        running = Running::start(service.clone()) => running?,
        signal = signals.ending() => return Ok(shell_code(signal)),
    };
    let (sender, mut news) = watch::channel(service);
    tokio::spawn(follower.run(sender));
    let mut retry: Option<Instant> = None;
    loop {
        tokio::select! {
            status = running.process.wait() => return Ok(exit_code(status?)),
            signal = signals.next() => {
                if ends(signal) {
                    return running.end(signal, &mut signals).await;
                }
                running.process.signal(signal);
                continue;
            }
            changed = news.changed() => {
                if changed.is_err() {
                    return Err(Failure::Usage("the follower of etcd has ended".to_owned()));
                }
            }
            () = sleep_until(retry.unwrap_or_else(Instant::now)), if retry.is_some() => {}
        }
        let service = news.borrow_and_update().clone();
        retry = None;
        match running.update(service, &mut signals).await? {
            Update::Done(now) => running = now,
            Update::Failed(now, error) => {
                say(format_args!("the process goes on with what it has: {}", error.line()));
                (running, retry) = (now, Some(Instant::now() + RETRY));
            }
            Update::Asked(code) => return Ok(code),
        }
    }
}

/// How carrying out a change went.
enum Update {
    /// It is carried out.
    Done(Running),
    /// It cannot be for now; the process runs as before.
    Failed(Running, Failure),
    /// We were asked to end meanwhile.
    Asked(u8),
}

impl Running {
    async fn start(service: Arc<Service>) -> Result<Self, Failure> {
        let account = account(&service).await?;
        render::all(&service, account.as_ref())?;
        command::before_start(&service.description).await?;
        let process = Process::start(&service.description, account.as_ref())?;
        Ok(Self { process, service })
    }

    /// Renders what changed, then restarts, signals or leaves the process.
    async fn update(mut self, service: Arc<Service>, signals: &mut Signals) -> Result<Update, Failure> {
        // Everything that may fail comes before the process is stopped.
        let prepared = match account(&service).await {
            Ok(account) => render::all(&service, account.as_ref()).map(|()| account),
            Err(error) => Err(error),
        };
        let account = match prepared {
            Ok(account) => account,
            Err(error) => return Ok(Update::Failed(self, error)),
        };
        let old = std::mem::replace(&mut self.service, service);
        match self.service.effect_since(&old) {
            Effect::Nothing => say("files rendered"),
            Effect::Signals(wanted) => {
                say("files rendered, process signalled");
                for signal in wanted {
                    self.process.signal(signal);
                }
            }
            Effect::Restart => {
                say("configuration changed: restarting the process");
                let (status, asked) = self.process.stop(Signal::TERM, &old.description, signals).await?;
                if let Some(signal) = asked {
                    return Ok(Update::Asked(ended_by(signal, status)));
                }
                tokio::select! {
                    done = command::before_start(&self.service.description) => done?,
                    signal = signals.ending() => return Ok(Update::Asked(shell_code(signal))),
                }
                self.process = Process::start(&self.service.description, account.as_ref())?;
            }
        }
        for file in self.service.dropped_since(&old) {
            render::remove(file).unwrap_or_else(|error| say(error.line()));
        }
        Ok(Update::Done(self))
    }

    /// Passes the signal on and waits for the end.
    async fn end(self, signal: Signal, signals: &mut Signals) -> Result<u8, Failure> {
        let (status, _) = self.process.stop(signal, &self.service.description, signals).await?;
        Ok(ended_by(signal, status))
    }
}

/// A process that ends by the very signal that we were told to pass on has done as it was told.
fn ended_by(signal: Signal, status: std::process::ExitStatus) -> u8 {
    if status.signal() == Some(signal.as_raw()) { 0 } else { exit_code(status) }
}

fn shell_code(signal: Signal) -> u8 {
    u8::try_from(128 + signal.as_raw()).unwrap_or(u8::MAX)
}

/// Who the process runs as; none to stay who we are.
async fn account(service: &Service) -> Result<Option<Account>, Failure> {
    let Some(user) = &service.description.user else {
        return Ok(None);
    };
    let account = Account::find(user).await?;
    let me = rustix::process::geteuid();
    if me.is_root() {
        return Ok(Some(account));
    }
    if me.as_raw() == account.uid { Ok(None) } else { Err(Failure::NotRoot(user.clone())) }
}

/// What would be done, for people. No content, no environment values: they may be secret.
fn outline(place: &str, service: &Service, account: Option<&Account>) -> String {
    let description = &service.description;
    let mut lines = vec![format!("link      {place}")];
    lines.extend(service.files().map(|(file, content)| {
        let state = if render::is_right(file, content, account) { "as wanted" } else { "to be written" };
        format!("file      {} from {} ({} bytes, {state})", file.path, file.key, content.len())
    }));
    let names: Vec<&str> = description.environment.keys().map(String::as_str).collect();
    if !names.is_empty() {
        lines.push(format!("variables {}", names.join(" ")));
    }
    lines.push(format!("user      {}", description.user.as_deref().unwrap_or("unchanged")));
    lines.push(format!("directory {}", description.directory.as_ref().map_or("/", |path| path.as_str())));
    lines.extend(description.before_start.iter().map(|argv| format!("before    {}", argv.join(" "))));
    lines.push(format!("process   {}", description.argv.join(" ")));
    if !description.stop_command.is_empty() {
        lines.push(format!("to stop   {}", description.stop_command.join(" ")));
    }
    lines.join("\n") + "\n"
}

fn print(text: &str) -> Result<u8, Failure> {
    let printed = std::io::stdout().lock().write_all(text.as_bytes());
    printed.map_err(|source| Failure::System { what: "write to standard output", source })?;
    Ok(0)
}
