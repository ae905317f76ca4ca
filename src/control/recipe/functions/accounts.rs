//! Packages, users, groups and the keys that may log in.

use starlark::{
    environment::GlobalsBuilder,
    eval::Evaluator,
    starlark_module,
    values::{list::UnpackList, none::NoneOr},
};

use super::{
    arguments::{Handles, Texts, Who},
    manner, session,
};
use crate::{
    control::recipe::{error::Fault, session::caller, values::Handle},
    plan::{GroupEnsure, Op, PackageEnsure, PackageState, SshAuthorize, UserEnsure},
};

#[starlark_module]
pub(super) fn functions(builder: &mut GlobalsBuilder) {
    /// Packages installed (`state = "present"`) or not (`"absent"`). Each is a name, optionally `name=version`.
    /// `refresh` fetches the package lists even when nothing seems to need it.
    fn package_ensure<'v>(
        packages: Texts<'v>,
        #[starlark(require = named, default = "present")] state: &str,
        #[starlark(require = named, default = false)] refresh: bool,
        #[starlark(require = named, default = Handles::none())] only_if_changed: Handles,
        #[starlark(require = named, default = false)] ignore_errors: bool,
        #[starlark(require = named, default = false)] sensitive: bool,
        eval: &mut Evaluator<'v, '_, '_>,
    ) -> starlark::Result<Handle> {
        let session = session(eval)?;
        let state = match state {
            "present" => PackageState::Present,
            "absent" => PackageState::Absent,
            other => {
                return Err(Fault::evaluation(format!("`state` is \"present\" or \"absent\", not \"{other}\"")).into());
            }
        };
        let mut names = Vec::new();
        for package in packages.list() {
            let package = session.plain("packages", package)?;
            let fits = package.starts_with(|c: char| c.is_ascii_alphanumeric())
                && package.chars().all(|c| c.is_ascii_alphanumeric() || "+-._:=~".contains(c));
            if !fits {
                return Err(Fault::evaluation(format!("`{package}` is not a package name")).into());
            }
            names.push(package);
        }
        if names.is_empty() {
            return Err(Fault::evaluation("no package was named").into());
        }
        let op = Op::PackageEnsure(PackageEnsure { packages: names, state, refresh });
        Ok(session.record(op, manner(&only_if_changed, ignore_errors, sensitive), caller(eval))?)
    }

    /// A user account; with `present = False`, none. What is not given is left alone on an old account; `groups` are
    /// added to those that the user is in.
    fn user_ensure<'v>(
        name: &str,
        #[starlark(require = named, default = NoneOr::None)] uid: NoneOr<u32>,
        #[starlark(require = named, default = NoneOr::None)] group: NoneOr<Who<'v>>,
        #[starlark(require = named, default = UnpackList::default())] groups: UnpackList<&'v str>,
        #[starlark(require = named, default = NoneOr::None)] home: NoneOr<&'v str>,
        #[starlark(require = named, default = NoneOr::None)] shell: NoneOr<&'v str>,
        #[starlark(require = named, default = NoneOr::None)] comment: NoneOr<&'v str>,
        #[starlark(require = named, default = false)] system: bool,
        #[starlark(require = named, default = true)] present: bool,
        #[starlark(require = named, default = Handles::none())] only_if_changed: Handles,
        #[starlark(require = named, default = false)] ignore_errors: bool,
        #[starlark(require = named, default = false)] sensitive: bool,
        eval: &mut Evaluator<'v, '_, '_>,
    ) -> starlark::Result<Handle> {
        let session = session(eval)?;
        let comment = comment.into_option().map(|comment| session.plain("comment", comment)).transpose()?;
        if comment.as_ref().is_some_and(|comment| comment.contains([':', '\n', '\0'])) {
            return Err(Fault::evaluation("`comment` holds a `:` or a newline, which /etc/passwd cannot").into());
        }
        let op = Op::UserEnsure(UserEnsure {
            name: session.account("name", name)?,
            present,
            uid: uid.into_option(),
            group: group.into_option().map(|group| group.principal("group", session)).transpose()?,
            groups: groups.items.iter().map(|group| session.account("groups", group)).collect::<Result<_, _>>()?,
            home: home.into_option().map(|home| session.path("home", home)).transpose()?,
            shell: shell.into_option().map(|shell| session.path("shell", shell)).transpose()?.map(String::from),
            comment,
            system,
        });
        Ok(session.record(op, manner(&only_if_changed, ignore_errors, sensitive), caller(eval))?)
    }

    /// A group; with `present = False`, none.
    fn group_ensure<'v>(
        name: &str,
        #[starlark(default = NoneOr::None)] gid: NoneOr<u32>,
        #[starlark(require = named, default = false)] system: bool,
        #[starlark(require = named, default = true)] present: bool,
        #[starlark(require = named, default = Handles::none())] only_if_changed: Handles,
        #[starlark(require = named, default = false)] ignore_errors: bool,
        #[starlark(require = named, default = false)] sensitive: bool,
        eval: &mut Evaluator<'v, '_, '_>,
    ) -> starlark::Result<Handle> {
        let session = session(eval)?;
        let op = Op::GroupEnsure(GroupEnsure {
            name: session.account("name", name)?,
            present,
            gid: gid.into_option(),
            system,
        });
        Ok(session.record(op, manner(&only_if_changed, ignore_errors, sensitive), caller(eval))?)
    }

    /// A public key (one line) in the user's `authorized_keys`; with `present = False`, not there.
    fn ssh_authorize<'v>(
        user: &str,
        key: &str,
        #[starlark(require = named, default = true)] present: bool,
        #[starlark(require = named, default = Handles::none())] only_if_changed: Handles,
        #[starlark(require = named, default = false)] ignore_errors: bool,
        #[starlark(require = named, default = false)] sensitive: bool,
        eval: &mut Evaluator<'v, '_, '_>,
    ) -> starlark::Result<Handle> {
        let session = session(eval)?;
        let key = session.plain("key", key)?.trim().to_owned();
        let fits = !key.contains(['\n', '\r', '\0']) && key.split_whitespace().count() >= 2;
        if !fits || key.contains("PRIVATE KEY") {
            return Err(
                Fault::evaluation("`key` is not one line of a public key (`ssh-ed25519 AAAA... comment`)").into()
            );
        }
        let op = Op::SshAuthorize(SshAuthorize { user: session.account("user", user)?, key, present });
        Ok(session.record(op, manner(&only_if_changed, ignore_errors, sensitive), caller(eval))?)
    }
}
