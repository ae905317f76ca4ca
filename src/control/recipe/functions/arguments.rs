//! Arguments that may be of several types.

use starlark::values::{UnpackValue, dict::UnpackDictEntries, list::UnpackList, type_repr::StarlarkTypeRepr};

use crate::{
    control::recipe::{
        error::Fault,
        session::Session,
        values::{FileRef, Handle},
    },
    plan::{ListenPort, ListenPortError, MaxDelete, MemoryLock, Principal, StepId},
};

/// `handle` or a list of them.
#[derive(StarlarkTypeRepr, UnpackValue)]
pub(super) enum Handles {
    One(Handle),
    Many(UnpackList<Handle>),
}

impl Handles {
    pub(super) fn none() -> Self {
        Self::Many(UnpackList::default())
    }

    pub(super) fn steps(&self) -> Vec<StepId> {
        let mut steps: Vec<StepId> = match self {
            Self::One(handle) => handle.steps.iter().copied().map(StepId).collect(),
            Self::Many(handles) => {
                handles.items.iter().flat_map(|handle| handle.steps.iter().copied().map(StepId)).collect()
            }
        };
        steps.sort_unstable();
        steps.dedup();
        steps
    }
}

/// One text or a list of them.
#[derive(StarlarkTypeRepr, UnpackValue)]
pub(super) enum Texts<'v> {
    One(&'v str),
    Many(UnpackList<&'v str>),
}

impl<'v> Texts<'v> {
    pub(super) fn list(self) -> Vec<&'v str> {
        match self {
            Self::One(text) => vec![text],
            Self::Many(texts) => texts.items,
        }
    }
}

/// A user or group, by name or number.
#[derive(StarlarkTypeRepr, UnpackValue)]
pub(super) enum Who<'v> {
    Name(&'v str),
    Id(u32),
}

impl Who<'_> {
    pub(super) fn principal(self, what: &str, session: &Session) -> Result<Principal, Fault> {
        match self {
            Self::Name(name) => session.principal(what, name),
            Self::Id(id) => Ok(Principal::Id(id)),
        }
    }
}

/// `False`, `True` or `{"max": n}`.
#[derive(StarlarkTypeRepr, UnpackValue)]
pub(super) enum Delete<'v> {
    Switch(bool),
    Limit(UnpackDictEntries<&'v str, u64>),
}

impl Delete<'_> {
    pub(super) fn bound(&self) -> Result<MaxDelete, Fault> {
        match self {
            Self::Switch(false) => Ok(MaxDelete::Never),
            Self::Switch(true) => Ok(MaxDelete::Any),
            Self::Limit(limit) => match limit.entries.as_slice() {
                [("max", most)] => Ok(MaxDelete::AtMost(*most)),
                _ => Err(Fault::evaluation("`delete` is False, True or {\"max\": number}")),
            },
        }
    }
}

/// A number of bytes or `"unlimited"`.
#[derive(StarlarkTypeRepr, UnpackValue)]
pub(super) enum Bytes<'v> {
    Number(u64),
    Word(&'v str),
}

impl Bytes<'_> {
    pub(super) fn memory_lock(self) -> Result<MemoryLock, Fault> {
        match self {
            Self::Number(bytes) => Ok(MemoryLock::Bytes(bytes)),
            Self::Word("unlimited") => Ok(MemoryLock::Unlimited),
            Self::Word(word) => {
                Err(Fault::evaluation(format!("`limit_memlock` is a number of bytes or \"unlimited\", not \"{word}\"")))
            }
        }
    }
}

/// Ports that a service listens on: a list, or by the parameters that they follow from.
#[derive(StarlarkTypeRepr, UnpackValue)]
pub(super) enum Ports<'v> {
    Plain(UnpackList<OnePort<'v>>),
    Named(UnpackDictEntries<&'v str, SomePorts<'v>>),
}

/// A number, or a text such as `127.0.0.1:8002` or `5353/udp`.
#[derive(StarlarkTypeRepr, UnpackValue)]
pub(super) enum OnePort<'v> {
    Number(u32),
    Text(&'v str),
}

#[derive(StarlarkTypeRepr, UnpackValue)]
pub(super) enum SomePorts<'v> {
    One(OnePort<'v>),
    Many(UnpackList<OnePort<'v>>),
}

impl Ports<'_> {
    pub(super) fn none() -> Self {
        Self::Plain(UnpackList::default())
    }

    /// The ports, each with the parameter that it follows from: the one that was named, else the only one that has its
    /// number.
    pub(super) fn listed(&self, session: &Session) -> Result<Vec<ListenPort>, Fault> {
        let parameters = session.stage("ports")?.parameters.as_slice();
        let mut listed: Vec<ListenPort> = Vec::new();
        let mut add = |port: &OnePort<'_>, parameter: Option<&str>| {
            let mut port = port.read(session)?;
            let number = u64::from(port.number);
            let mut same = parameters.iter().filter(|(_, value)| *value == Some(number)).map(|(name, _)| name.as_str());
            let only = same.next().filter(|_| same.next().is_none());
            port.parameter = parameter.or(only).map(str::to_owned);
            if let Some(known) = listed.iter().find(|known| known.clashes(&port)) {
                let of =
                    |port: &ListenPort| port.parameter.as_ref().map(|name| format!(" (`{name}`)")).unwrap_or_default();
                return Err(Fault::evaluation(format!(
                    "`ports` has {known}{} and {port}{}: one service cannot listen twice on one port",
                    of(known),
                    of(&port)
                )));
            }
            listed.push(port);
            Ok(())
        };
        match self {
            Self::Plain(ports) => ports.items.iter().try_for_each(|port| add(port, None))?,
            Self::Named(table) => {
                for (name, ports) in &table.entries {
                    if !parameters.iter().any(|(known, _)| known == name) {
                        let fault =
                            Fault::evaluation(format!("`ports` names `{name}`, which is no parameter of the recipe"));
                        return Err(fault.hint("the names are those of the parameters that the ports follow from"));
                    }
                    match ports {
                        SomePorts::One(port) => add(port, Some(name))?,
                        SomePorts::Many(ports) => ports.items.iter().try_for_each(|port| add(port, Some(name)))?,
                    }
                }
            }
        }
        Ok(listed)
    }
}

impl OnePort<'_> {
    fn read(&self, session: &Session) -> Result<ListenPort, Fault> {
        let text = match self {
            Self::Number(number) => number.to_string(),
            Self::Text(text) => session.plain("ports", text)?,
        };
        text.parse().map_err(|error: ListenPortError| Fault::evaluation(error.to_string()))
    }
}

/// An argument: a text, a file, or a list of both that are joined.
#[derive(StarlarkTypeRepr, UnpackValue)]
pub(super) enum Argument<'v> {
    Part(Part<'v>),
    Joined(UnpackList<Part<'v>>),
}

#[derive(StarlarkTypeRepr, UnpackValue)]
pub(super) enum Part<'v> {
    Text(&'v str),
    File(FileRef),
}
