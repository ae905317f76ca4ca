//! What few entries have besides kind, mode, content and time: holes and extended attributes.

use serde::{Deserialize, Serialize};

use super::EntryKind;

/// Most extended attributes of one entry.
const MAX_XATTRS: usize = 64;
/// Longest name of one in bytes (`XATTR_NAME_MAX` of Linux).
const MAX_NAME: usize = 255;
/// Longest value of one in bytes (`XATTR_SIZE_MAX` of Linux).
const MAX_VALUE: usize = 64 * 1024;

/// What few entries have.
#[derive(Debug, Clone, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Extra {
    /// Parts of the file are on no disk block and read as zeros. Carried along, but no part of equality.
    pub has_holes: bool,
    /// Extended attributes, ordered by name; empty in a tree that is synced without them.
    pub xattrs: Vec<Xattr>,
}

/// An extended attribute. Access control lists are such attributes too, with numeric users and groups.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct Xattr {
    /// Its name with its class: `user.origin`.
    pub name: Vec<u8>,
    /// Its value; any bytes, at most 64 KiB.
    pub value: Vec<u8>,
}

/// Whether attributes of this name travel: those of users, access control lists and capabilities. What security modules
/// keep, and what only the kernel of one machine understands, stays where it is.
pub fn is_carried(name: &[u8]) -> bool {
    const WHOLE: [&[u8]; 3] = [b"security.capability", b"system.posix_acl_access", b"system.posix_acl_default"];
    name.starts_with(b"user.") || WHOLE.contains(&name)
}

impl Extra {
    /// These, when they are anything.
    pub fn of(has_holes: bool, xattrs: Vec<Xattr>) -> Option<Box<Self>> {
        (has_holes || !xattrs.is_empty()).then(|| Box::new(Self { has_holes, xattrs }))
    }

    /// Whether an entry of this kind can have this.
    pub(super) fn fits(&self, kind: &EntryKind) -> bool {
        let is_possible = match kind {
            EntryKind::File { .. } => true,
            EntryKind::Dir { .. } => !self.has_holes,
            // A symbolic link has none of its own that travel; a hard link has those of its file.
            EntryKind::Symlink { .. } | EntryKind::HardLink { .. } => false,
        };
        let is_valid = |Xattr { name, value }: &Xattr| {
            (1..=MAX_NAME).contains(&name.len()) && !name.contains(&0) && is_carried(name) && value.len() <= MAX_VALUE
        };
        is_possible
            && (self.has_holes || !self.xattrs.is_empty())
            && self.xattrs.len() <= MAX_XATTRS
            && self.xattrs.iter().all(is_valid)
            && self.xattrs.is_sorted_by(|a, b| a.name < b.name)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_an_entry_can_have_fits() {
        let xattr = |name: &str| Xattr { name: name.into(), value: b"x".to_vec() };
        let file = EntryKind::File { size: 1, digest: super::super::Digest::of(b"x"), mode: 0o644 };
        let (dir, link) = (EntryKind::Dir { mode: 0o755 }, EntryKind::Symlink { target: b"x".to_vec() });
        let with = |names: &[&str]| Extra { has_holes: false, xattrs: names.iter().map(|name| xattr(name)).collect() };
        assert!(with(&["system.posix_acl_access", "user.a", "user.b"]).fits(&file));
        assert!(with(&["system.posix_acl_default"]).fits(&dir));
        assert!(!with(&["user.a"]).fits(&link));
        for bad in
            [&["user.b", "user.a"][..], &["user.a", "user.a"], &["trusted.x"], &["security.selinux"], &["user.\0"]]
        {
            assert!(!with(bad).fits(&file), "{bad:?}");
        }
        assert!(!Extra::default().fits(&file), "nothing is said by leaving it out");
        let sparse = Extra { has_holes: true, xattrs: Vec::new() };
        assert!(sparse.fits(&file) && !sparse.fits(&dir));
        let mut long = with(&["user.a"]);
        long.xattrs[0].value = vec![0; MAX_VALUE + 1];
        assert!(!long.fits(&file));
        assert_eq!(Extra::of(false, Vec::new()), None);
    }
}
