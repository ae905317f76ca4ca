//! Which rule decides whether a path of a tree is synced.

use std::{
    io,
    path::{Path, PathBuf},
};

use crate::tree::{IGNORE_FILE, RelPath, Root, RuleOrigin, RulesError, rules_above};

/// What becomes of a path, and why.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Explanation {
    /// The path, relative to the root of its tree.
    pub path: String,
    /// Whether it is left out.
    pub is_ignored: bool,
    /// The directory above it that is left out, when that is why.
    pub because_of: Option<String>,
    /// The deciding rule and where it is written: `` `*.o` (.cuisineignore:3) ``. None when no rule matches.
    pub rule: Option<String>,
}

/// Why nothing can be said of a path.
#[derive(Debug, thiserror::Error)]
pub enum ExplainError {
    /// It does not lie in the tree.
    #[error("`{path}` is not below `{root}`", path = path.display(), root = root.display())]
    Outside {
        /// The path.
        path: PathBuf,
        /// The root of the tree.
        root: PathBuf,
    },
    /// The root cannot be opened, or there is no current directory.
    #[error("cannot open `{path}`", path = path.display())]
    Open {
        /// Which.
        path: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// The rules cannot be read.
    #[error(transparent)]
    Rules(#[from] RulesError),
}

impl ExplainError {
    /// One line that says what to do, when that is known.
    pub fn hint(&self) -> Option<String> {
        match self {
            Self::Outside { .. } => Some("name the root of the tree with --root".to_owned()),
            _ => None,
        }
    }
}

/// Says what becomes of `path`, which need not exist, in a sync of `root` with these `ignore` parameters. Without a
/// root: the outermost directory above the path that has an ignore file, else the directory
/// that holds it.
pub fn explain(path: &Path, root: Option<&Path>, ignore: &[String]) -> Result<Explanation, ExplainError> {
    let absolute = |path: &Path| {
        let failed = |source| ExplainError::Open { path: path.to_path_buf(), source };
        // Without `.` parts and doubled slashes; links stay as they are.
        std::path::absolute(path).map(|path| path.components().collect::<PathBuf>()).map_err(failed)
    };
    let path = absolute(path)?;
    let root = root.map_or_else(|| Ok(root_of(&path)), absolute)?;
    let outside = || ExplainError::Outside { path: path.clone(), root: root.clone() };
    let relative = path.strip_prefix(&root).map_err(|_| outside())?;
    let relative = RelPath::new(relative.as_os_str().as_encoded_bytes()).map_err(|_| outside())?;
    let opened = Root::open(&root).map_err(|source| ExplainError::Open { path: root.clone(), source })?;
    let decision = rules_above(&opened, &relative, ignore)?.decision(&relative, path.is_dir());
    Ok(Explanation {
        path: relative.to_string(),
        is_ignored: decision.as_ref().is_some_and(|decision| decision.is_ignored),
        because_of: decision
            .as_ref()
            .filter(|decision| decision.at != relative)
            .map(|decision| decision.at.to_string()),
        rule: decision.map(|decision| rule_text(&decision.origin)),
    })
}

fn rule_text(origin: &RuleOrigin) -> String {
    match origin {
        RuleOrigin::File { directory, line, pattern } if directory.is_empty() => {
            format!("`{pattern}` ({IGNORE_FILE}:{line})")
        }
        RuleOrigin::File { directory, line, pattern } => format!("`{pattern}` ({directory}/{IGNORE_FILE}:{line})"),
        RuleOrigin::Parameter { pattern } => format!("`{pattern}` (parameter)"),
    }
}

fn root_of(path: &Path) -> PathBuf {
    let parent = path.parent().unwrap_or(Path::new("/"));
    let has_rules = |directory: &&Path| directory.join(IGNORE_FILE).is_file();
    let outermost = parent.ancestors().filter(has_rules).last();
    outermost.unwrap_or(parent).to_path_buf()
}
