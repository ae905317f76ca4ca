//! Services that read their configuration from etcd.

use std::net::Ipv4Addr;

use starlark::{
    environment::GlobalsBuilder,
    eval::Evaluator,
    starlark_module,
    values::{list::UnpackList, none::NoneOr},
};

use super::{
    Table,
    arguments::{Argument, Bytes, Handles, Part, Ports},
    manner, program, service_name, session,
};
use crate::{
    control::recipe::{
        Launch,
        error::Fault,
        session::{Manner, Session, caller},
        values::{FileRef, Handle},
    },
    plan::{
        Content, DirEnsure, FileLink, FileWrite, HostPath, LINKS, LaunchDescription, LaunchFile, ListenPort, Mode,
        OnChange, Op, RUNTIME, Secret, ServiceDefinition, ServiceEnsure, Source, StepId,
    },
};

/// Where `ovs-launch` lives on a host.
const LAUNCHER: &str = "/usr/local/lib/ovs-cuisine/ovs-launch";

/// Where `ovs-launch` is found under the name of the program that it stands in for.
const ETCDCTL: &str = "/usr/local/bin/etcdctl";

#[starlark_module]
pub(super) fn functions(builder: &mut GlobalsBuilder) {
    /// A file that `launch()` renders from a key in etcd before the process starts, in `argv` or `files`. In `argv` it
    /// becomes the path `/run/ovs-cuisine/<service>/<name>`. `key` is relative to the lab's prefix, as in config(ctx);
    /// one that ends in `/` is a directory, whose keys become the members of one JSON object. `mode` is 0600 unless given; `on_change` overrides that of `launch()`.
    fn file<'v>(
        name: &str,
        #[starlark(require = named)] key: &str,
        #[starlark(require = named, default = NoneOr::None)] mode: NoneOr<&'v str>,
        #[starlark(require = named, default = NoneOr::None)] on_change: NoneOr<&'v str>,
        eval: &mut Evaluator<'v, '_, '_>,
    ) -> starlark::Result<FileRef> {
        let session = session(eval)?;
        let name = session.plain("name", name)?;
        if name.is_empty() || name.len() > 200 || name.starts_with('.') || name.contains(['/', '\0']) {
            return Err(Fault::evaluation(format!("`{name}` is not a plain file name")).into());
        }
        let on_change = on_change.into_option().map(str::to_owned);
        on_change.as_deref().map(reaction).transpose()?;
        let mode = mode.into_option().map(str::to_owned);
        mode.as_deref().map(|mode| session.mode(mode)).transpose()?;
        Ok(FileRef { name, key: session.plain("key", key)?, mode, on_change })
    }

    /// A service run by `ovs-launch`, which is started with its etcd link only: it reads this description and the
    /// files from etcd, renders the files, runs `argv` as `user`, and follows changes of the keys. A part of `argv` is
    /// a text, a `file()`, or a list of both that are joined. `on_change` is `"restart"`, `"signal:HUP"` (or another
    /// signal) or `"ignore"`. The commands of `before_start` run as root before each start and must succeed.
    /// `stop_command` runs as root to make the process end by itself; the stop signal follows only when it does not.
    /// `stop_timeout` is the time between the stop command or signal and what comes next, in seconds. `limit_nofile`,
    /// `limit_memlock`, `binds_to`, `after` and `ports` are as in `service_ensure()`.
    fn launch<'v>(
        name: &str,
        argv: UnpackList<Argument<'v>>,
        #[starlark(require = named, default = UnpackList::default())] files: UnpackList<FileRef>,
        #[starlark(require = named, default = Table::default())] environment: Table<'v>,
        #[starlark(require = named, default = NoneOr::None)] user: NoneOr<&'v str>,
        #[starlark(require = named, default = NoneOr::None)] directory: NoneOr<&'v str>,
        #[starlark(require = named, default = Handles::none())] restart_on: Handles,
        #[starlark(require = named, default = "restart")] on_change: &str,
        #[starlark(require = named, default = UnpackList::default())] before_start: UnpackList<UnpackList<&'v str>>,
        #[starlark(require = named, default = UnpackList::default())] stop_command: UnpackList<&'v str>,
        #[starlark(require = named, default = NoneOr::None)] limit_nofile: NoneOr<u64>,
        #[starlark(require = named, default = NoneOr::None)] limit_memlock: NoneOr<Bytes<'v>>,
        #[starlark(require = named, default = UnpackList::default())] binds_to: UnpackList<&'v str>,
        #[starlark(require = named, default = UnpackList::default())] after: UnpackList<&'v str>,
        #[starlark(require = named, default = Ports::none())] ports: Ports<'v>,
        #[starlark(require = named, default = 10)] stop_timeout: u32,
        #[starlark(require = named, default = Handles::none())] only_if_changed: Handles,
        #[starlark(require = named, default = false)] ignore_errors: bool,
        #[starlark(require = named, default = false)] sensitive: bool,
        eval: &mut Evaluator<'v, '_, '_>,
    ) -> starlark::Result<Handle> {
        let session = session(eval)?;
        session.may_record("launch")?;
        session.may_record("service_ensure")?;
        let service = service_name(name, session)?;
        let mut rendered = Rendered { session, service: &service, files: Vec::new() };
        let argv = argv.items.iter().map(|argument| rendered.argument(argument)).collect::<Result<_, _>>()?;
        for file in &files.items {
            rendered.file(file)?;
        }
        let description = LaunchDescription {
            argv: program(argv)?,
            files: rendered.files,
            environment: super::environment(&environment, session)?
                .into_iter()
                .map(|(name, value)| Ok((name, session.plain("environment", value)?)))
                .collect::<Result<_, Fault>>()?,
            user: user.into_option().map(|user| session.account("user", user)).transpose()?,
            directory: directory.into_option().map(|directory| session.path("directory", directory)).transpose()?,
            on_change: reaction(on_change)?,
            stop_timeout: u64::from(stop_timeout),
            before_start: before_start
                .items
                .iter()
                .map(|argv| command("before_start", &argv.items, session))
                .collect::<Result<_, Fault>>()?,
            stop_command: match stop_command.items.as_slice() {
                [] => Vec::new(),
                argv => command("stop_command", argv, session)?,
            },
        };
        let definition = ServiceDefinition {
            limit_nofile: limit_nofile.into_option(),
            limit_memlock: limit_memlock.into_option().map(Bytes::memory_lock).transpose()?,
            binds_to: super::services("binds_to", &binds_to.items, &service, session)?,
            after: super::services("after", &after.items, &service, session)?,
            stop_timeout: stop_time(&description),
            ..ServiceDefinition::default()
        };
        let started = Started {
            service,
            arguments: Vec::new(),
            definition,
            restart_on: restart_on.steps(),
            ports: ports.listed(session)?,
            manner: manner(&only_if_changed, ignore_errors, sensitive),
            source: caller(eval),
        };
        Ok(started.launch(session, description)?)
    }

    /// A service that serves etcd's v2 HTTP API on `127.0.0.1:port` with the component's login, for programs that know
    /// no other API and cannot log in, and `/usr/local/bin/etcdctl`, which understands the two calls that arakoon and
    /// alba make: `--peers=HOST:PORT get --quorum PATH` and `--peers=HOST:PORT set PATH VALUE`. Whoever is on the host
    /// has that login.
    fn etcd_v2<'v>(
        #[starlark(default = "etcd-v2")] name: &str,
        #[starlark(default = 2379)] port: u32,
        #[starlark(require = named, default = Handles::none())] only_if_changed: Handles,
        #[starlark(require = named, default = false)] ignore_errors: bool,
        #[starlark(require = named, default = false)] sensitive: bool,
        eval: &mut Evaluator<'v, '_, '_>,
    ) -> starlark::Result<Handle> {
        let session = session(eval)?;
        session.may_record("service_ensure")?;
        let number = u16::try_from(port).ok().filter(|port| *port > 0);
        let port = number.ok_or_else(|| Fault::evaluation(format!("{port} is not a port (1 to 65535)")))?;
        let started = Started {
            service: service_name(name, session)?,
            arguments: vec!["--serve-v2".to_owned(), format!("127.0.0.1:{port}")],
            definition: ServiceDefinition::default(),
            restart_on: Vec::new(),
            ports: vec![ListenPort { address: Some(Ipv4Addr::LOCALHOST.into()), ..ListenPort::tcp(port) }],
            manner: manner(&only_if_changed, ignore_errors, sensitive),
            source: caller(eval),
        };
        Ok(started.forward(session)?)
    }
}

/// A command beside the process.
fn command(what: &str, argv: &[&str], session: &Session) -> Result<Vec<String>, Fault> {
    let argv: Vec<String> = argv.iter().map(|word| session.plain(what, word)).collect::<Result<_, _>>()?;
    match argv.first() {
        Some(first) if first.starts_with('/') && !argv.iter().any(|word| word.contains('\0')) => Ok(argv),
        Some(first) if !first.starts_with('/') => {
            Err(Fault::evaluation(format!("`{what}` begins with `{first}`, which is not an absolute path")))
        }
        Some(_) => Err(Fault::evaluation(format!("`{what}` holds a zero byte"))),
        None => Err(Fault::evaluation(format!("a command of `{what}` is empty"))),
    }
}

/// How long the service manager must wait for the launcher, which gives up on its process before that. None when the
/// managers' own time is enough.
fn stop_time(description: &LaunchDescription) -> Option<u64> {
    // A stop command has its time, then the signal has its own.
    let stages = if description.stop_command.is_empty() { 1 } else { 2 };
    let longest = stages * description.stop_timeout + MARGIN;
    (longest > USUAL_STOP_TIME).then_some(longest)
}

/// Seconds that the impatient of the two service managers, runit, gives a service to stop.
const USUAL_STOP_TIME: u64 = 10;

/// Seconds for the launcher itself to end.
const MARGIN: u64 = 5;

/// Collects the files of a launch.
struct Rendered<'s> {
    session: &'s Session,
    service: &'s str,
    files: Vec<LaunchFile>,
}

impl Rendered<'_> {
    fn argument(&mut self, argument: &Argument<'_>) -> Result<String, Fault> {
        match argument {
            Argument::Part(part) => self.part(part),
            Argument::Joined(parts) => parts.items.iter().map(|part| self.part(part)).collect(),
        }
    }

    fn part(&mut self, part: &Part<'_>) -> Result<String, Fault> {
        match part {
            Part::Text(text) => self.session.plain("argv", text),
            Part::File(file) => self.file(file).map(String::from),
        }
    }

    fn file(&mut self, file: &FileRef) -> Result<HostPath, Fault> {
        let path: HostPath = fixed(&format!("{RUNTIME}/{}/{}", self.service, file.name))?;
        let wanted = LaunchFile {
            path: path.clone(),
            key: self.session.readable_key("file", &file.key)?,
            mode: file.mode.as_deref().map(|mode| self.session.mode(mode)).transpose()?,
            on_change: file.on_change.as_deref().map(reaction).transpose()?,
        };
        match self.files.iter().find(|known| known.path == path) {
            None => self.files.push(wanted),
            Some(known) if *known == wanted => {}
            Some(_) => {
                return Err(Fault::evaluation(format!(
                    "two different files of `{}` are called `{}`",
                    self.service, file.name
                )));
            }
        }
        Ok(path)
    }
}

/// How a service of the launcher is started.
struct Started {
    service: String,
    /// The launcher's own, before the link.
    arguments: Vec<String>,
    /// Limits and dependencies.
    definition: ServiceDefinition,
    restart_on: Vec<StepId>,
    ports: Vec<ListenPort>,
    manner: Manner,
    source: Source,
}

impl Started {
    /// The launcher, the link, the service; and the description for etcd.
    fn launch(self, session: &Session, description: LaunchDescription) -> Result<Handle, Fault> {
        let key = format!("{}/{}", self.node(session)?, LaunchDescription::KEY);
        if session.recorded().launches.iter().any(|launch| launch.key == key) {
            return Err(Fault::evaluation(format!("`{}` is launched twice on this host", self.service)));
        }
        let handle = self.record(session)?;
        session.recorded().launches.push(Launch { key, description });
        Ok(handle)
    }

    /// The launcher under the name `etcdctl` too, the link, the service.
    fn forward(self, session: &Session) -> Result<Handle, Fault> {
        if step_of(session, &format!("service_ensure:{}", self.service)).is_some() {
            return Err(Fault::evaluation(format!("`{}` is launched twice on this host", self.service)));
        }
        self.launcher(session)?;
        if step_of(session, &format!("file_link:{ETCDCTL}")).is_none() {
            let op = FileLink { path: fixed(ETCDCTL)?, target: LAUNCHER.to_owned(), force: false };
            session.record(Op::FileLink(op), Manner::default(), self.source.clone())?;
        }
        self.record(session)
    }

    /// The service's launch node.
    fn node(&self, session: &Session) -> Result<String, Fault> {
        let stage = session.stage("launch")?;
        Ok(LaunchDescription::node(stage.keyspace.prefix(), session.host("launch")?, &self.service))
    }

    fn record(self, session: &Session) -> Result<Handle, Fault> {
        let launcher = self.launcher(session)?;
        let link = self.link(session, &self.node(session)?)?;
        let mut restart_on = self.restart_on;
        restart_on.extend([launcher, link]);
        restart_on.sort_unstable();
        restart_on.dedup();
        let link = format!("@{LINKS}/{}.link", self.service);
        let argv = [vec![LAUNCHER.to_owned()], self.arguments, vec![link]].concat();
        let description = format!("{} of {}", self.service, session.stage("launch")?.component);
        let op = Op::ServiceEnsure(ServiceEnsure {
            name: self.service,
            definition: Some(ServiceDefinition { argv, description, ..self.definition }),
            running: true,
            enabled: true,
            restart_on,
            ports: self.ports,
            yields: Vec::new(),
        });
        session.record(op, self.manner, self.source)
    }

    fn launcher(&self, session: &Session) -> Result<StepId, Fault> {
        if let Some(step) = step_of(session, &format!("file_write:{LAUNCHER}")) {
            return Ok(step);
        }
        let (digest, size) = session.ask("launch", |outside| outside.launcher())?;
        let folder = LAUNCHER.rsplit_once('/').map_or("/", |(folder, _)| folder);
        self.directory(session, folder)?;
        self.write(session, LAUNCHER, Content::Blob { digest, size }, 0o755, false)
    }

    fn link(&self, session: &Session, node: &str) -> Result<StepId, Fault> {
        self.directory(session, LINKS)?;
        let node = node.to_owned();
        let link = session.ask("launch", move |outside| outside.etcd_link(&node))?;
        let content = Content::Secret(Secret::new(format!("{}\n", link.expose()).into_bytes()));
        self.write(session, &format!("{LINKS}/{}.link", self.service), content, 0o600, true)
    }

    fn directory(&self, session: &Session, path: &str) -> Result<(), Fault> {
        if step_of(session, &format!("dir_ensure:{path}")).is_some() {
            return Ok(());
        }
        let mode = Some(mode_of(0o755)?);
        let op = Op::DirEnsure(DirEnsure { path: fixed(path)?, mode, owner: None, group: None, recursive: false });
        session.record(op, Manner::default(), self.source.clone()).map(drop)
    }

    fn write(
        &self,
        session: &Session,
        path: &str,
        content: Content,
        mode: u32,
        sensitive: bool,
    ) -> Result<StepId, Fault> {
        let write = FileWrite { path: fixed(path)?, content, mode: Some(mode_of(mode)?), owner: None, group: None };
        let manner = Manner { sensitive, ..Manner::default() };
        let handle = session.record(Op::FileWrite(write), manner, self.source.clone())?;
        handle.steps.first().copied().map(StepId).ok_or_else(|| Fault::evaluation("a step without a place"))
    }
}

/// The step with this key, when it was recorded before.
fn step_of(session: &Session, key: &str) -> Option<StepId> {
    session.recorded().steps.iter().find(|step| step.key == key).map(|step| step.id)
}

fn fixed(path: &str) -> Result<HostPath, Fault> {
    path.parse().map_err(|error: crate::plan::NameError| Fault::evaluation(error.to_string()))
}

fn mode_of(bits: u32) -> Result<Mode, Fault> {
    Mode::try_from(bits).map_err(|error| Fault::evaluation(error.to_string()))
}

/// `restart`, `signal:HUP` or `ignore`.
fn reaction(text: &str) -> Result<OnChange, Fault> {
    match text {
        "restart" => return Ok(OnChange::Restart),
        "ignore" => return Ok(OnChange::Ignore),
        _ => {}
    }
    let signal = text.strip_prefix("signal:").map(|signal| signal.strip_prefix("SIG").unwrap_or(signal));
    match signal {
        Some(signal @ ("HUP" | "INT" | "QUIT" | "TERM" | "USR1" | "USR2" | "WINCH" | "ALRM" | "CONT")) => {
            Ok(OnChange::Signal(signal.to_owned()))
        }
        _ => {
            Err(Fault::evaluation(format!("`on_change` is \"restart\", \"signal:HUP\" or \"ignore\", not \"{text}\"")))
        }
    }
}
