//! Owner, group and mode: what is wanted against what is there.

use std::os::unix::fs::{MetadataExt, PermissionsExt};

use super::Obstacle;
use crate::{
    helper::machine::{Id, Machine},
    plan::{Detail, Mode, Principal},
};

/// The owner, group and mode that an op asks for, with names resolved.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Wanted {
    mode: Option<u32>,
    owner: Option<(Principal, Id)>,
    group: Option<(Principal, Id)>,
}

/// What of it has to be set, and how that is told.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub(super) struct ToSet {
    /// Permission bits to set.
    pub(super) mode: Option<u32>,
    /// User id to set.
    pub(super) uid: Option<u32>,
    /// Group id to set.
    pub(super) gid: Option<u32>,
    /// What differs, for people. Empty when nothing does.
    pub(super) details: Vec<Detail>,
}

impl Wanted {
    /// Resolves the names that an op gives.
    pub(super) fn resolve(
        mode: Option<Mode>,
        owner: Option<&Principal>,
        group: Option<&Principal>,
        machine: &Machine<'_>,
    ) -> Result<Self, Obstacle> {
        Ok(Self {
            mode: mode.map(Mode::bits),
            owner: owner.map(|who| Ok::<_, Obstacle>((who.clone(), machine.user_id(who)?))).transpose()?,
            group: group.map(|who| Ok::<_, Obstacle>((who.clone(), machine.group_id(who)?))).transpose()?,
        })
    }

    /// User and group id, where they are asked for and known.
    pub(super) fn ids(&self) -> (Option<u32>, Option<u32>) {
        let number = |id: &Option<(Principal, Id)>| id.as_ref().and_then(|(_, id)| id.number());
        (number(&self.owner), number(&self.group))
    }

    /// Whether owner or group is asked for.
    pub(super) fn names_somebody(&self) -> bool {
        self.owner.is_some() || self.group.is_some()
    }

    /// A user or group that earlier steps of this check would make.
    pub(super) fn to_be_made(&self) -> Option<&Principal> {
        let would_be = |asked: &&(Principal, Id)| asked.1 == Id::WouldBe;
        [&self.owner, &self.group].into_iter().flatten().find(would_be).map(|(who, _)| who)
    }

    /// For something that is to be made: all that is asked for, or else `default_mode`.
    pub(super) fn for_new(&self, default_mode: u32) -> ToSet {
        let mode = self.mode.unwrap_or(default_mode);
        let (uid, gid) = self.ids();
        let mut details = vec![attribute("mode", None, format!("{mode:04o}"))];
        let asked = [("owner", &self.owner), ("group", &self.group)];
        for (name, who) in asked.into_iter().filter_map(|(name, who)| Some((name, &who.as_ref()?.0))) {
            details.push(attribute(name, None, who.to_string()));
        }
        ToSet { mode: Some(mode), uid, gid, details }
    }

    /// For something that is there: what differs.
    pub(super) fn against(&self, found: &std::fs::Metadata, machine: &Machine<'_>) -> ToSet {
        let mut set = ToSet::default();
        if let Some((who, id)) = self.owner.as_ref().filter(|(_, id)| id.number() != Some(found.uid())) {
            set.uid = id.number();
            set.details.push(attribute("owner", Some(machine.accounts.user_name(found.uid())), who.to_string()));
        }
        if let Some((who, id)) = self.group.as_ref().filter(|(_, id)| id.number() != Some(found.gid())) {
            set.gid = id.number();
            set.details.push(attribute("group", Some(machine.accounts.group_name(found.gid())), who.to_string()));
        }
        let before = found.permissions().mode() & 0o7777;
        if let Some(mode) = self.mode.filter(|mode| *mode != before) {
            set.mode = Some(mode);
            set.details.push(attribute("mode", Some(format!("{before:04o}")), format!("{mode:04o}")));
        } else if set.uid.is_some() || set.gid.is_some() {
            // Changing the owner takes the set-user-id bit away: the mode is set again after it.
            set.mode = Some(before);
        }
        set
    }
}

/// An attribute that would be set.
pub(super) fn attribute(name: &str, before: Option<String>, after: impl Into<String>) -> Detail {
    Detail::Attribute { name: name.to_owned(), before, after: Some(after.into()) }
}
