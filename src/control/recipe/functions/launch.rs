//! Services that read their configuration from etcd.

use starlark::{
    environment::GlobalsBuilder,
    eval::Evaluator,
    starlark_module,
    values::{list::UnpackList, none::NoneOr},
};

use super::{
    Table,
    arguments::{Argument, Handles, Part},
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
        Content, DirEnsure, FileWrite, HostPath, LaunchDescription, LaunchFile, Mode, OnChange, Op, Secret,
        ServiceDefinition, ServiceEnsure, Source, StepId,
    },
};

/// Where `ovs-launch` lives on a host.
const LAUNCHER: &str = "/usr/local/lib/ovs-cuisine/ovs-launch";

/// Where etcd links live on a host, one file for each service.
pub(crate) const LINKS: &str = "/etc/ovs-cuisine";

/// Where `ovs-launch` renders files, below a directory for each service.
const RUNTIME: &str = "/run/ovs-cuisine";

#[starlark_module]
pub(super) fn functions(builder: &mut GlobalsBuilder) {
    /// A file that `launch()` renders from a key in etcd before the process starts, in `argv` or `files`. In `argv` it
    /// becomes the path `/run/ovs-cuisine/<service>/<name>`. `key` is relative to the lab's prefix, as in config(ctx).
    /// `mode` is 0600 unless given; `on_change` overrides that of `launch()`.
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
    /// signal) or `"ignore"`. `stop_timeout` is the time between the stop signal and the end, in seconds.
    fn launch<'v>(
        name: &str,
        argv: UnpackList<Argument<'v>>,
        #[starlark(require = named, default = UnpackList::default())] files: UnpackList<FileRef>,
        #[starlark(require = named, default = Table::default())] environment: Table<'v>,
        #[starlark(require = named, default = NoneOr::None)] user: NoneOr<&'v str>,
        #[starlark(require = named, default = NoneOr::None)] directory: NoneOr<&'v str>,
        #[starlark(require = named, default = Handles::none())] restart_on: Handles,
        #[starlark(require = named, default = "restart")] on_change: &str,
        #[starlark(require = named, default = NoneOr::None)] limit_nofile: NoneOr<u64>,
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
        };
        let started = Started {
            service,
            limit_nofile: limit_nofile.into_option(),
            restart_on: restart_on.steps(),
            manner: manner(&only_if_changed, ignore_errors, sensitive),
            source: caller(eval),
        };
        Ok(started.record(session, description)?)
    }
}

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

/// How a launched service is started.
struct Started {
    service: String,
    limit_nofile: Option<u64>,
    restart_on: Vec<StepId>,
    manner: Manner,
    source: Source,
}

impl Started {
    /// The launcher, the link, the service; and the description for etcd.
    fn record(self, session: &Session, description: LaunchDescription) -> Result<Handle, Fault> {
        let stage = session.stage("launch")?;
        let node = LaunchDescription::node(stage.keyspace.prefix(), session.host("launch")?, &self.service);
        let key = format!("{node}/{}", LaunchDescription::KEY);
        if session.recorded().launches.iter().any(|launch| launch.key == key) {
            return Err(Fault::evaluation(format!("`{}` is launched twice on this host", self.service)));
        }
        let launcher = self.launcher(session)?;
        let link = self.link(session, &node)?;
        let mut restart_on = self.restart_on.clone();
        restart_on.extend([launcher, link]);
        restart_on.sort_unstable();
        restart_on.dedup();
        let op = Op::ServiceEnsure(ServiceEnsure {
            name: self.service.clone(),
            definition: Some(ServiceDefinition {
                argv: vec![LAUNCHER.to_owned(), format!("@{LINKS}/{}.link", self.service)],
                user: None,
                directory: None,
                environment: Vec::new(),
                limit_nofile: self.limit_nofile,
                description: format!("{} of {}", self.service, stage.component),
            }),
            running: true,
            enabled: true,
            restart_on,
        });
        session.recorded().launches.push(Launch { key, description });
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
