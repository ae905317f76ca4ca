//! Services, commands and ports.

use starlark::{
    environment::GlobalsBuilder,
    eval::Evaluator,
    starlark_module,
    values::{float::UnpackFloat, list::UnpackList, none::NoneOr},
};

use super::{
    Table,
    arguments::{Bytes, Handles, Ports},
    manner, milliseconds, program, service_name, services, session,
};
use crate::{
    control::recipe::{
        error::Fault,
        session::{Phase, Session, caller},
        values::Handle,
        veil::Lifted,
    },
    plan::{Op, Run, RunGuard, Secret, ServiceDefinition, ServiceEnsure, WaitPort},
};

#[starlark_module]
pub(super) fn functions(builder: &mut GlobalsBuilder) {
    /// A service: whether it runs and whether it starts at boot. With `argv` it is defined here (systemd unit or runit
    /// script, whatever the host has); without, it must exist, as from a package. It is restarted when a step of
    /// `restart_on` changed something, or when a tree of a `sync()` there is another one than at its start, whoever
    /// pushed it. `limit_memlock` is in bytes or `"unlimited"`. It starts after the services of `after`; without those
    /// of `binds_to` it does not run at all: when one of them ends it is stopped, and started again with it.
    /// `ports` lists what it listens on: numbers of TCP ports, or texts such as `"127.0.0.1:8002"` and `"5353/udp"`; or a
    /// table of such by the parameter that each follows from, `{"client_port": ctx.params.client_port}`. Two services of a
    /// host that want the same are an error before anything starts; so is a process that has one already, which is looked
    /// for before the plan begins: what a recipe takes out of the way itself, it takes away in prepare(ctx), or by
    /// `service_ensure(name, running = False)`.
    /// No argument or variable may be secret: use `launch()` or a file.
    fn service_ensure<'v>(
        name: &str,
        #[starlark(default = NoneOr::None)] argv: NoneOr<UnpackList<&'v str>>,
        #[starlark(require = named, default = NoneOr::None)] user: NoneOr<&'v str>,
        #[starlark(require = named, default = NoneOr::None)] directory: NoneOr<&'v str>,
        #[starlark(require = named, default = Table::default())] environment: Table<'v>,
        #[starlark(require = named, default = NoneOr::None)] limit_nofile: NoneOr<u64>,
        #[starlark(require = named, default = NoneOr::None)] limit_memlock: NoneOr<Bytes<'v>>,
        #[starlark(require = named, default = UnpackList::default())] binds_to: UnpackList<&'v str>,
        #[starlark(require = named, default = UnpackList::default())] after: UnpackList<&'v str>,
        #[starlark(require = named, default = Ports::none())] ports: Ports<'v>,
        #[starlark(require = named, default = "")] description: &str,
        #[starlark(require = named, default = true)] running: bool,
        #[starlark(require = named, default = true)] enabled: bool,
        #[starlark(require = named, default = Handles::none())] restart_on: Handles,
        #[starlark(require = named, default = Handles::none())] only_if_changed: Handles,
        #[starlark(require = named, default = false)] ignore_errors: bool,
        #[starlark(require = named, default = false)] sensitive: bool,
        eval: &mut Evaluator<'v, '_, '_>,
    ) -> starlark::Result<Handle> {
        let session = session(eval)?;
        let name = service_name(name, session)?;
        let user = user.into_option().map(|user| session.account("user", user)).transpose()?;
        let directory = directory.into_option().map(|directory| session.path("directory", directory)).transpose()?;
        let description = one_line("description", &session.plain("description", description)?)?;
        let variables = super::environment(&environment, session)?
            .into_iter()
            .map(|(name, value)| Ok((name, session.plain("environment", value)?)))
            .collect::<Result<Vec<_>, Fault>>()?;
        let argv = argv.into_option().map(|argv| {
            argv.items.iter().map(|argument| session.plain("argv", argument)).collect::<Result<Vec<_>, _>>()
        });
        let is_ours = argv.is_some();
        let definition = ServiceDefinition {
            argv: argv.map_or(Ok(Vec::new()), |argv| program(argv?))?,
            user,
            directory,
            environment: variables,
            limit_nofile: limit_nofile.into_option(),
            limit_memlock: limit_memlock.into_option().map(Bytes::memory_lock).transpose()?,
            binds_to: services("binds_to", &binds_to.items, &name, session)?,
            after: services("after", &after.items, &name, session)?,
            stop_timeout: None,
            description,
        };
        let bare = ServiceDefinition { description: definition.description.clone(), ..ServiceDefinition::default() };
        if !is_ours && definition != bare {
            return Err(Fault::evaluation("how a service is run can only be said together with its `argv`")
                .hint("without argv the service is one that exists already, with a definition of its own")
                .into());
        }
        let op = Op::ServiceEnsure(ServiceEnsure {
            name,
            definition: is_ours.then_some(definition),
            running,
            enabled,
            restart_on: restart_on.steps(),
            ports: ports.listed(session)?,
            yields: Vec::new(),
        });
        Ok(session.record(op, manner(&only_if_changed, ignore_errors, sensitive), caller(eval))?)
    }

    /// A shell command. It is not run when the path `creates` exists, when the command `unless` succeeds or when the
    /// command `only_if` fails. `timeout` is in seconds; `success` lists the exit statuses that are fine; `changes =
    /// False` says that it only looks. A secret may stand in the command, in `environment` and in `stdin`; then
    /// neither the command nor its output is shown.
    fn run<'v>(
        command: &str,
        #[starlark(require = named, default = NoneOr::None)] creates: NoneOr<&'v str>,
        #[starlark(require = named, default = NoneOr::None)] unless: NoneOr<&'v str>,
        #[starlark(require = named, default = NoneOr::None)] only_if: NoneOr<&'v str>,
        #[starlark(require = named, default = NoneOr::None)] directory: NoneOr<&'v str>,
        #[starlark(require = named, default = Table::default())] environment: Table<'v>,
        #[starlark(require = named, default = NoneOr::None)] user: NoneOr<&'v str>,
        #[starlark(require = named, default = UnpackFloat(300.0))] timeout: UnpackFloat,
        #[starlark(require = named, default = UnpackList { items: vec![0] })] success: UnpackList<i32>,
        #[starlark(require = named, default = NoneOr::None)] stdin: NoneOr<&'v str>,
        #[starlark(require = named, default = true)] changes: bool,
        #[starlark(require = named, default = Handles::none())] only_if_changed: Handles,
        #[starlark(require = named, default = false)] ignore_errors: bool,
        #[starlark(require = named, default = false)] sensitive: bool,
        eval: &mut Evaluator<'v, '_, '_>,
    ) -> starlark::Result<Handle> {
        let session = session(eval)?;
        let command = session.text(command)?;
        let stdin = stdin.into_option().map(|text| session.text(text)).transpose()?;
        let variables = super::environment(&environment, session)?
            .into_iter()
            .map(|(name, value)| Ok((name, session.text(value)?)))
            .collect::<Result<Vec<_>, Fault>>()?;
        let secret = command.is_secret()
            || stdin.as_ref().is_some_and(Lifted::is_secret)
            || variables.iter().any(|(_, value)| value.is_secret());
        let op = Run {
            command: command.into_secret(),
            sensitive: secret || sensitive,
            guards: guards(session, creates, unless, only_if)?,
            directory: directory.into_option().map(|directory| session.path("directory", directory)).transpose()?,
            environment: variables.into_iter().map(|(name, value)| (name, value.into_secret())).collect(),
            user: user.into_option().map(|user| session.account("user", user)).transpose()?,
            timeout_ms: milliseconds("timeout", timeout.0)?,
            success: statuses(success.items)?,
            stdin: stdin.map(Lifted::into_secret),
            // What health(ctx) runs is a probe.
            changes: changes && session.phase != Phase::Health,
        };
        shell_text("command", &op.command)?;
        Ok(session.record(Op::Run(op), manner(&only_if_changed, ignore_errors, sensitive || secret), caller(eval))?)
    }

    /// Waits until a TCP port accepts connections, as seen from the host. `timeout` is in seconds.
    fn wait_port<'v>(
        port: u32,
        #[starlark(default = "127.0.0.1")] address: &str,
        #[starlark(default = UnpackFloat(30.0))] timeout: UnpackFloat,
        #[starlark(require = named, default = Handles::none())] only_if_changed: Handles,
        #[starlark(require = named, default = false)] ignore_errors: bool,
        #[starlark(require = named, default = false)] sensitive: bool,
        eval: &mut Evaluator<'v, '_, '_>,
    ) -> starlark::Result<Handle> {
        let session = session(eval)?;
        let number = u16::try_from(port).ok().filter(|port| *port > 0);
        let address = session.plain("address", address)?;
        if address.is_empty() || address.contains(|c: char| c.is_whitespace() || c.is_control() || c == '/') {
            return Err(Fault::evaluation(format!("`{address}` is not a name or address")).into());
        }
        let op = Op::WaitPort(WaitPort {
            address,
            port: number.ok_or_else(|| Fault::evaluation(format!("{port} is not a port (1 to 65535)")))?,
            timeout_ms: milliseconds("timeout", timeout.0)?,
        });
        Ok(session.record(op, manner(&only_if_changed, ignore_errors, sensitive), caller(eval))?)
    }
}

fn guards(
    session: &Session,
    creates: NoneOr<&str>,
    unless: NoneOr<&str>,
    only_if: NoneOr<&str>,
) -> Result<Vec<RunGuard>, Fault> {
    let mut guards = Vec::new();
    if let NoneOr::Other(path) = creates {
        guards.push(RunGuard::Creates(session.path("creates", path)?));
    }
    if let NoneOr::Other(command) = unless {
        guards.push(RunGuard::Unless(session.plain("unless", command)?));
    }
    if let NoneOr::Other(command) = only_if {
        guards.push(RunGuard::OnlyIf(session.plain("only_if", command)?));
    }
    Ok(guards)
}

fn statuses(success: Vec<i32>) -> Result<Vec<i32>, Fault> {
    match success.iter().find(|status| !(0..=255).contains(*status)) {
        Some(status) => Err(Fault::evaluation(format!("{status} in `success` is not an exit status (0 to 255)"))),
        None if success.is_empty() => Err(Fault::evaluation("`success` is empty: the command could only fail")),
        None => Ok(success),
    }
}

fn shell_text(what: &str, text: &Secret<String>) -> Result<(), Fault> {
    if text.expose().trim().is_empty() || text.expose().contains('\0') {
        return Err(Fault::evaluation(format!("`{what}` is empty or holds a zero byte")));
    }
    Ok(())
}

fn one_line(what: &str, text: &str) -> Result<String, Fault> {
    if text.contains(['\n', '\r', '\0']) {
        return Err(Fault::evaluation(format!("`{what}` is one line")));
    }
    Ok(text.to_owned())
}
