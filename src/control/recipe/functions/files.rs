//! Files, directories and trees.

use std::path::Path;

use starlark::{
    environment::GlobalsBuilder,
    eval::Evaluator,
    starlark_module,
    values::{dict::DictRef, list::UnpackList, none::NoneOr},
};

use super::{
    arguments::{Delete, Handles, Who},
    manner, session,
};
use crate::{
    control::recipe::{
        error::Fault,
        files::unreadable,
        session::{Session, caller},
        template,
        values::Handle,
    },
    plan::{Content, DirEnsure, DirRemove, FileLink, FileRemove, FileWrite, MaxDelete, Op, Release, Secret, Sync},
};

/// Longest local file that travels inside the plan, in bytes.
const MAX_INLINE: u64 = 64 << 10;

#[starlark_module]
pub(super) fn functions(builder: &mut GlobalsBuilder) {
    /// A file with this content: `content`, or a rendered `template` of the recipe's folder with `vars`, or a copy of
    /// the local file `source`. A new file gets mode 0644; what is not given is
    /// left alone on an old one. `sensitive` keeps the content out of diffs; it is so by itself when it holds a secret.
    fn file_write<'v>(
        path: &str,
        #[starlark(default = NoneOr::None)] content: NoneOr<&'v str>,
        #[starlark(default = NoneOr::None)] mode: NoneOr<&'v str>,
        #[starlark(default = NoneOr::None)] owner: NoneOr<Who<'v>>,
        #[starlark(default = NoneOr::None)] group: NoneOr<Who<'v>>,
        #[starlark(require = named, default = NoneOr::None)] template: NoneOr<&'v str>,
        #[starlark(require = named, default = NoneOr::None)] vars: NoneOr<DictRef<'v>>,
        #[starlark(require = named, default = NoneOr::None)] source: NoneOr<&'v str>,
        #[starlark(require = named, default = Handles::none())] only_if_changed: Handles,
        #[starlark(require = named, default = false)] ignore_errors: bool,
        #[starlark(require = named, default = false)] sensitive: bool,
        eval: &mut Evaluator<'v, '_, '_>,
    ) -> starlark::Result<Handle> {
        let session = session(eval)?;
        session.may_record("file_write")?;
        let content = match (content.into_option(), template.into_option(), source.into_option()) {
            (Some(text), None, None) => text_content(session, text, sensitive)?,
            (None, Some(name), None) => {
                let text = template::render(session, name, vars.into_option().as_ref())?;
                text_content(session, &text, sensitive)?
            }
            (None, None, Some(source)) => local_content(session, &session.local("file_write", source)?, sensitive)?,
            _ => {
                return Err(Fault::evaluation("give exactly one of `content`, `template` and `source`").into());
            }
        };
        let op = FileWrite {
            path: session.path("path", path)?,
            content,
            mode: mode.into_option().map(|mode| session.mode(mode)).transpose()?,
            owner: owner.into_option().map(|owner| owner.principal("owner", session)).transpose()?,
            group: group.into_option().map(|group| group.principal("group", session)).transpose()?,
        };
        let secret = matches!(op.content, Content::Secret(_));
        let manner = manner(&only_if_changed, ignore_errors, sensitive || secret);
        Ok(session.record(Op::FileWrite(op), manner, caller(eval))?)
    }

    /// A symbolic link at `path` that points to `target`. `force` lets it replace a regular file.
    fn file_link<'v>(
        path: &str,
        target: &str,
        #[starlark(require = named, default = false)] force: bool,
        #[starlark(require = named, default = Handles::none())] only_if_changed: Handles,
        #[starlark(require = named, default = false)] ignore_errors: bool,
        #[starlark(require = named, default = false)] sensitive: bool,
        eval: &mut Evaluator<'v, '_, '_>,
    ) -> starlark::Result<Handle> {
        let session = session(eval)?;
        let target = session.plain("target", target)?;
        if target.is_empty() || target.contains('\0') {
            return Err(Fault::evaluation("`target` is empty or holds a zero byte").into());
        }
        let op = Op::FileLink(FileLink { path: session.path("path", path)?, target, force });
        Ok(session.record(op, manner(&only_if_changed, ignore_errors, sensitive), caller(eval))?)
    }

    /// No file or link at `path`. A directory there is an error.
    fn file_remove<'v>(
        path: &str,
        #[starlark(require = named, default = Handles::none())] only_if_changed: Handles,
        #[starlark(require = named, default = false)] ignore_errors: bool,
        #[starlark(require = named, default = false)] sensitive: bool,
        eval: &mut Evaluator<'v, '_, '_>,
    ) -> starlark::Result<Handle> {
        let session = session(eval)?;
        let op = Op::FileRemove(FileRemove { path: session.path("path", path)? });
        Ok(session.record(op, manner(&only_if_changed, ignore_errors, sensitive), caller(eval))?)
    }

    /// A directory, with its parents. `recursive` extends owner and group to everything below.
    fn dir_ensure<'v>(
        path: &str,
        #[starlark(default = NoneOr::None)] mode: NoneOr<&'v str>,
        #[starlark(default = NoneOr::None)] owner: NoneOr<Who<'v>>,
        #[starlark(default = NoneOr::None)] group: NoneOr<Who<'v>>,
        #[starlark(require = named, default = false)] recursive: bool,
        #[starlark(require = named, default = Handles::none())] only_if_changed: Handles,
        #[starlark(require = named, default = false)] ignore_errors: bool,
        #[starlark(require = named, default = false)] sensitive: bool,
        eval: &mut Evaluator<'v, '_, '_>,
    ) -> starlark::Result<Handle> {
        let session = session(eval)?;
        let op = Op::DirEnsure(DirEnsure {
            path: session.path("path", path)?,
            mode: mode.into_option().map(|mode| session.mode(mode)).transpose()?,
            owner: owner.into_option().map(|owner| owner.principal("owner", session)).transpose()?,
            group: group.into_option().map(|group| group.principal("group", session)).transpose()?,
            recursive,
        });
        Ok(session.record(op, manner(&only_if_changed, ignore_errors, sensitive), caller(eval))?)
    }

    /// No directory at `path`. One that is not empty is an error unless `recursive`.
    fn dir_remove<'v>(
        path: &str,
        #[starlark(require = named, default = false)] recursive: bool,
        #[starlark(require = named, default = Handles::none())] only_if_changed: Handles,
        #[starlark(require = named, default = false)] ignore_errors: bool,
        #[starlark(require = named, default = false)] sensitive: bool,
        eval: &mut Evaluator<'v, '_, '_>,
    ) -> starlark::Result<Handle> {
        let session = session(eval)?;
        let path = session.path("path", path)?;
        if path.as_str().matches('/').count() < 2 {
            return Err(Fault::evaluation(format!("`{path}` is too near to the root to be removed")).into());
        }
        let op = Op::DirRemove(DirRemove { path, recursive });
        Ok(session.record(op, manner(&only_if_changed, ignore_errors, sensitive), caller(eval))?)
    }

    /// The directory `dest` equals the local tree `source`: a `path` parameter or a directory of the recipe's folder.
    /// `delete = True` removes what the tree does not have, `delete = {"max": n}` at most `n` entries; an empty tree
    /// removes nothing unless such a number allows it. `ignore` lists gitignore patterns that are neither read, sent nor
    /// deleted. `release = True` makes each version a directory of its own, `dest/releases/HASH`, and switches the link
    /// `dest/current` when it is complete; `keep` of them stay, and `push --rollback` goes back to the one before. Hard
    /// links within the tree and holes in files are kept; `xattrs = True` keeps extended attributes too: `user.*`,
    /// access control lists with numeric ids, and capabilities.
    fn sync<'v>(
        source: &str,
        dest: &str,
        #[starlark(default = NoneOr::None)] owner: NoneOr<Who<'v>>,
        #[starlark(default = NoneOr::None)] group: NoneOr<Who<'v>>,
        #[starlark(require = named, default = Delete::Switch(false))] delete: Delete<'v>,
        #[starlark(require = named, default = UnpackList::default())] ignore: UnpackList<&'v str>,
        #[starlark(require = named, default = false)] release: bool,
        #[starlark(require = named, default = 5)] keep: u32,
        #[starlark(require = named, default = false)] xattrs: bool,
        #[starlark(require = named, default = Handles::none())] only_if_changed: Handles,
        #[starlark(require = named, default = false)] ignore_errors: bool,
        #[starlark(require = named, default = false)] sensitive: bool,
        eval: &mut Evaluator<'v, '_, '_>,
    ) -> starlark::Result<Handle> {
        let session = session(eval)?;
        session.may_record("sync")?;
        let delete = delete.bound()?;
        if release && delete != MaxDelete::Never {
            return Err(
                Fault::evaluation("`delete` has no meaning with `release`: a release holds nothing else").into()
            );
        }
        if release && keep < 2 {
            return Err(Fault::evaluation("`keep` is at least 2: the current release and the one before it").into());
        }
        let release = release.then_some(Release { keep, rollback: false });
        let dest = session.path("dest", dest)?;
        if dest.as_str() == "/" {
            return Err(Fault::evaluation("`dest` is the root directory").into());
        }
        let source = session.local("sync", source)?;
        let ignore =
            ignore.items.iter().map(|pattern| session.plain("ignore", pattern)).collect::<Result<Vec<_>, _>>()?;
        let patterns = ignore.clone();
        let tree = session.ask("sync", move |outside| outside.tree(&source, &patterns, xattrs))?;
        let op = Op::Sync(Sync {
            dest,
            tree,
            owner: owner.into_option().map(|owner| owner.principal("owner", session)).transpose()?,
            group: group.into_option().map(|group| group.principal("group", session)).transpose()?,
            delete,
            ignore,
            release,
        });
        Ok(session.record(op, manner(&only_if_changed, ignore_errors, sensitive), caller(eval))?)
    }
}

fn text_content(session: &Session, text: &str, sensitive: bool) -> Result<Content, Fault> {
    let text = session.text(text)?;
    Ok(if sensitive || text.is_secret() {
        Content::Secret(Secret::new(text.into_secret().expose().clone().into_bytes()))
    } else {
        Content::Inline(text.into_secret().expose().clone().into_bytes())
    })
}

fn local_content(session: &Session, file: &Path, sensitive: bool) -> Result<Content, Fault> {
    let size = fs_err::metadata(file).map_err(|error| unreadable(file, &error))?.len();
    if size <= MAX_INLINE {
        let content = fs_err::read(file).map_err(|error| unreadable(file, &error))?;
        return Ok(if sensitive { Content::Secret(Secret::new(content)) } else { Content::Inline(content) });
    }
    let file = file.to_path_buf();
    let (digest, size) = session.ask("file_write", move |outside| outside.blob(&file))?;
    Ok(Content::Blob { digest, size })
}
