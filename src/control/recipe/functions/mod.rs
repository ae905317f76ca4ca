//! What recipes may call. One file per family; each function checks its arguments and records an op or answers.

#[expect(clippy::too_many_arguments, reason = "each is an argument that recipes give by name")]
mod accounts;
#[expect(clippy::no_effect_underscore_binding, reason = "what the interpreter's derive macro writes")]
mod arguments;
mod ask;
mod certificates;
mod declare;
#[expect(clippy::too_many_arguments, reason = "each is an argument that recipes give by name")]
mod files;
mod identity;
#[expect(clippy::too_many_arguments, reason = "each is an argument that recipes give by name")]
mod launch;
#[expect(clippy::too_many_arguments, reason = "each is an argument that recipes give by name")]
mod processes;
mod text;

use std::sync::LazyLock;

use starlark::{
    environment::{Globals, GlobalsBuilder, LibraryExtension},
    values::dict::UnpackDictEntries,
};

use super::{
    error::Fault,
    session::{Manner, Session, session},
};

/// Everything that a recipe may call.
pub(super) fn globals() -> &'static Globals {
    static GLOBALS: LazyLock<Globals> =
        LazyLock::new(|| GlobalsBuilder::extended_by(&EXTENSIONS).with(ours).with(text::replaced).build());
    &GLOBALS
}

/// Only our own functions, for their documentation.
pub(super) fn own_globals() -> Globals {
    GlobalsBuilder::new().with(ours).build()
}

/// Extensions of the language that recipes have.
const EXTENSIONS: [LibraryExtension; 4] =
    [LibraryExtension::StructType, LibraryExtension::Map, LibraryExtension::Filter, LibraryExtension::Print];

fn ours(builder: &mut GlobalsBuilder) {
    declare::functions(builder);
    files::functions(builder);
    accounts::functions(builder);
    processes::functions(builder);
    launch::functions(builder);
    ask::functions(builder);
    certificates::functions(builder);
    identity::functions(builder);
    text::functions(builder);
    builder.namespace("json", text::json);
}

type Table<'v> = UnpackDictEntries<&'v str, &'v str>;

/// Names and values of an environment, in order.
fn environment<'v>(table: &Table<'v>, session: &Session) -> Result<Vec<(String, &'v str)>, Fault> {
    let mut variables = Vec::new();
    for (name, value) in &table.entries {
        let name = session.plain("environment", name)?;
        let fits = !name.is_empty()
            && !name.starts_with(|first: char| first.is_ascii_digit())
            && name.chars().all(|c| c.is_ascii_alphanumeric() || c == '_');
        if !fits {
            return Err(Fault::evaluation(format!("`{name}` is not the name of an environment variable")));
        }
        if value.contains('\0') {
            return Err(Fault::evaluation(format!("the value of `{name}` holds a zero byte")));
        }
        variables.push((name, *value));
    }
    Ok(variables)
}

fn manner(only_if_changed: &arguments::Handles, ignore_errors: bool, sensitive: bool) -> Manner {
    Manner { only_if_changed: only_if_changed.steps(), ignore_errors, sensitive }
}

/// A duration given in seconds, as milliseconds.
fn milliseconds(what: &str, seconds: f64) -> Result<u64, Fault> {
    // A year: whoever waits longer has made a slip.
    const LONGEST: f64 = 366.0 * 86_400.0;
    if !(seconds > 0.0 && seconds <= LONGEST) {
        return Err(Fault::evaluation(format!(
            "`{what}` is in seconds, more than 0 and at most a year; not {seconds}"
        )));
    }
    Ok(std::time::Duration::from_secs_f64(seconds).as_millis().try_into().unwrap_or(u64::MAX).max(1))
}

/// A service's name: it becomes part of paths.
fn service_name(text: &str, session: &Session) -> Result<String, Fault> {
    let name = session.plain("name", text)?;
    let fits = (1..=200).contains(&name.len())
        && name.starts_with(|c: char| c.is_ascii_alphanumeric() || c == '_')
        && name.chars().all(|c| c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.' | '@' | ':'));
    if fits {
        Ok(name)
    } else {
        Err(Fault::evaluation(format!("`{name}` is not a service name (letters, digits, `-`, `_`, `.`, `@`, `:`)")))
    }
}

/// Services that a service depends on.
fn services(what: &str, names: &[&str], own: &str, session: &Session) -> Result<Vec<String>, Fault> {
    let names = names.iter().map(|name| service_name(name, session)).collect::<Result<Vec<_>, _>>()?;
    if names.iter().any(|name| name == own) {
        return Err(Fault::evaluation(format!("`{what}` names the service `{own}` itself")));
    }
    Ok(names)
}

/// Arguments of a program: the first is its absolute path, none is secret.
fn program(argv: Vec<String>) -> Result<Vec<String>, Fault> {
    match argv.first() {
        None => Err(Fault::evaluation("`argv` is empty")),
        Some(first) if !first.starts_with('/') => {
            Err(Fault::evaluation(format!("`argv` begins with `{first}`, which is not an absolute path"))
                .hint("services are started without a shell and without its search path"))
        }
        Some(_) if argv.iter().any(|argument| argument.contains('\0')) => {
            Err(Fault::evaluation("an argument holds a zero byte"))
        }
        Some(_) => Ok(argv),
    }
}
