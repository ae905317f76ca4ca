//! Questions to the live host, and generated secrets.

use starlark::{
    environment::GlobalsBuilder,
    eval::Evaluator,
    starlark_module,
    values::{float::UnpackFloat, none::NoneOr},
};

use super::{milliseconds, session};
use crate::{
    control::recipe::{error::Fault, session::Session},
    plan::{Answer, ComponentName, HostName, HostPath, Question},
};

#[starlark_module]
pub(super) fn functions(builder: &mut GlobalsBuilder) {
    /// Standard output of a shell command on the host, without its last newline. The command must change nothing: it
    /// runs in `plan`, too. `timeout` is in seconds.
    fn query<'v>(
        command: &str,
        #[starlark(require = named, default = UnpackFloat(30.0))] timeout: UnpackFloat,
        eval: &mut Evaluator<'v, '_, '_>,
    ) -> starlark::Result<String> {
        let session = session(eval)?;
        let command = session.plain("command", command)?;
        let question = Question::Output { command, timeout_ms: milliseconds("timeout", timeout.0)? };
        Ok(text(session, "query", question)?.ok_or_else(|| Fault::evaluation("the command gave no answer"))?)
    }

    /// Whether there is anything at this path. Follows links.
    fn file_exists<'v>(path: &str, eval: &mut Evaluator<'v, '_, '_>) -> starlark::Result<bool> {
        let session = session(eval)?;
        Ok(flag(session, "file_exists", Question::Exists(session.path("path", path)?))?)
    }

    /// Whether there is a regular file at this path. Follows links.
    fn file_is_file<'v>(path: &str, eval: &mut Evaluator<'v, '_, '_>) -> starlark::Result<bool> {
        let session = session(eval)?;
        Ok(flag(session, "file_is_file", Question::IsFile(session.path("path", path)?))?)
    }

    /// Whether there is a directory at this path. Follows links.
    fn file_is_dir<'v>(path: &str, eval: &mut Evaluator<'v, '_, '_>) -> starlark::Result<bool> {
        let session = session(eval)?;
        Ok(flag(session, "file_is_dir", Question::IsDir(session.path("path", path)?))?)
    }

    /// Whether there is a symbolic link at this path.
    fn file_is_link<'v>(path: &str, eval: &mut Evaluator<'v, '_, '_>) -> starlark::Result<bool> {
        let session = session(eval)?;
        Ok(flag(session, "file_is_link", Question::IsLink(session.path("path", path)?))?)
    }

    /// The text of a file, at most 1 MiB. When there is none: `default`, or an error without one. `host` names another
    /// host of the component, which has run its `prepare(ctx)` by then: what one host made, such as a public key,
    /// others read like this. One that does not exist yet, in `plan`, has no file.
    fn file_read<'v>(
        path: &str,
        #[starlark(default = NoneOr::None)] default: NoneOr<&'v str>,
        #[starlark(require = named, default = NoneOr::None)] host: NoneOr<&'v str>,
        eval: &mut Evaluator<'v, '_, '_>,
    ) -> starlark::Result<String> {
        let session = session(eval)?;
        let path = session.path("path", path)?;
        let host = host.into_option().map(|host| session.plain("host", host)).transpose()?;
        let content = match &host {
            None => text(session, "file_read", Question::Read(path.clone()))?,
            Some(host) => read_of(session, host, path.clone())?,
        };
        let content = content.or_else(|| default.into_option().map(str::to_owned));
        Ok(content.ok_or_else(|| {
            let whose = host.map_or("the host".to_owned(), |host| format!("`{host}`"));
            Fault::evaluation(format!("there is no file `{path}` on {whose}")).hint("give `default` if that is fine")
        })?)
    }

    /// Whether a command is on the host's search path.
    fn command_check<'v>(name: &str, eval: &mut Evaluator<'v, '_, '_>) -> starlark::Result<bool> {
        let session = session(eval)?;
        Ok(flag(session, "command_check", Question::CommandExists(session.plain("name", name)?))?)
    }

    /// Whether a package is installed on the host.
    fn package_check<'v>(name: &str, eval: &mut Evaluator<'v, '_, '_>) -> starlark::Result<bool> {
        let session = session(eval)?;
        Ok(flag(session, "package_check", Question::PackageInstalled(session.plain("name", name)?))?)
    }

    /// Whether the host has such a user.
    fn user_check<'v>(name: &str, eval: &mut Evaluator<'v, '_, '_>) -> starlark::Result<bool> {
        let session = session(eval)?;
        Ok(flag(session, "user_check", Question::UserExists(session.account("name", name)?))?)
    }

    /// Whether the host has such a group.
    fn group_check<'v>(name: &str, eval: &mut Evaluator<'v, '_, '_>) -> starlark::Result<bool> {
        let session = session(eval)?;
        Ok(flag(session, "group_check", Question::GroupExists(session.account("name", name)?))?)
    }

    /// A password of this name: made up once for the component and kept with the lab's keys. It can be joined,
    /// formatted and put into JSON or a template like any text; whatever is built from it is never shown. `of` names
    /// another component of the lab whose secret it is.
    fn secret<'v>(
        name: &str,
        #[starlark(require = named, default = NoneOr::None)] of: NoneOr<&'v str>,
        eval: &mut Evaluator<'v, '_, '_>,
    ) -> starlark::Result<String> {
        let session = session(eval)?;
        let of = match of.into_option() {
            Some(of) => Some(component(session, of)?),
            None => None,
        };
        let name = session.plain("name", name)?;
        let fits = (1..=100).contains(&name.len())
            && name.chars().all(|c| c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.'))
            && !name.starts_with('.');
        if !fits {
            return Err(Fault::evaluation(format!(
                "`{name}` is not a name for a secret (letters, digits, `-`, `_`, `.`)"
            ))
            .into());
        }
        let secret = {
            let name = name.clone();
            session.ask("secret", move |outside| outside.secret(of.as_ref(), &name))?
        };
        if secret.expose().is_empty() {
            return Err(Fault::evaluation(format!("secret `{name}` is empty")).into());
        }
        Ok(session.veil.hide(secret)?)
    }
}

/// A component of the lab, by name.
fn component(session: &Session, name: &str) -> Result<ComponentName, Fault> {
    let name = session.plain("of", name)?;
    let known = session.stage("secret")?.components.contains_key(&name);
    name.parse().ok().filter(|_| known).ok_or_else(|| Fault::evaluation(format!("the lab has no component `{name}`")))
}

fn ask(session: &Session, function: &str, question: Question) -> Result<Answer, Fault> {
    let host = session.host(function)?;
    told(host.as_str(), session.ask(function, move |outside| outside.ask(question))?)
}

/// What a host said, when it could answer.
fn told(host: &str, answer: Answer) -> Result<Answer, Fault> {
    let Answer::Failed(failure) = answer else { return Ok(answer) };
    let tail = failure.output_tail.join("; ");
    let tail = if tail.is_empty() { tail } else { format!(" ({tail})") };
    let fault = Fault::evaluation(format!("{host} cannot answer: {}{tail}", failure.message));
    Err(match failure.hint {
        Some(hint) => fault.hint(hint),
        None => fault,
    })
}

fn flag(session: &Session, function: &str, question: Question) -> Result<bool, Fault> {
    match ask(session, function, question)? {
        Answer::Flag(flag) => Ok(flag),
        _ => Err(Fault::evaluation("the host answered another question")),
    }
}

/// The text of a file of another host of the component.
fn read_of(session: &Session, host: &str, path: HostPath) -> Result<Option<String>, Fault> {
    session.host("file_read")?;
    let name: HostName = host.parse().map_err(|_| Fault::evaluation(format!("`{host}` is not the name of a host")))?;
    let answer = session.ask("file_read", move |outside| outside.ask_of(&name, Question::Read(path)))?;
    read(told(host, answer)?)
}

/// The text of a file, or that there is none.
fn read(answer: Answer) -> Result<Option<String>, Fault> {
    match answer {
        Answer::Text(text) => Ok(Some(text)),
        Answer::Absent => Ok(None),
        _ => Err(Fault::evaluation("the host answered another question")),
    }
}

fn text(session: &Session, function: &str, question: Question) -> Result<Option<String>, Fault> {
    read(ask(session, function, question)?)
}
