//! Arguments that may be of several types.

use starlark::values::{UnpackValue, dict::UnpackDictEntries, list::UnpackList, type_repr::StarlarkTypeRepr};

use crate::{
    control::recipe::{
        error::Fault,
        session::Session,
        values::{FileRef, Handle},
    },
    plan::{MaxDelete, MemoryLock, Principal, StepId},
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
