//! The one matcher of gitignore patterns: scan, comparison and deletion all ask it.

use ::ignore::gitignore::{Gitignore, GitignoreBuilder, Glob};

use super::{
    RelPath,
    pattern::{is_anchored, matcher_line, stated, trimmed},
};

/// The file in a source tree whose patterns hold for its directory and below.
pub const IGNORE_FILE: &str = ".cuisineignore";

/// Patterns as in gitignore(5), with negation, read as git reads them: the same paths are ignored that `git
/// check-ignore` names. A path that matches is neither read, sent nor deleted; what is below an ignored directory cannot
/// be taken back in. A pattern that git takes although it can never match is an error here.
///
/// Rules of ignore files come first, a directory's before those of directories below it; parameters come last. The
/// last pattern that matches decides.
#[derive(Debug, Clone)]
pub struct IgnoreRules {
    files: Vec<Rule>,
    parameters: Vec<Rule>,
    matcher: Gitignore,
}

/// A pattern as a line relative to the root.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Rule {
    line: String,
    /// The same for the matcher.
    matched: String,
    origin: RuleOrigin,
}

/// Where a pattern comes from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum RuleOrigin {
    /// An ignore file.
    File {
        /// Its directory, relative to the root; empty for the root.
        directory: String,
        /// Line, from 1.
        line: usize,
        /// The pattern as it is written there.
        pattern: String,
    },
    /// A parameter.
    Parameter {
        /// The pattern.
        pattern: String,
    },
}

/// What the rules say of a path, and which of them decides.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Decision {
    /// Whether it is ignored.
    pub is_ignored: bool,
    /// The path that the rule matches: the path itself, or a directory above it.
    pub at: RelPath,
    /// The deciding rule.
    pub origin: RuleOrigin,
}

/// Why a pattern is not one.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("`{pattern}` is not a gitignore pattern: {why}")]
pub struct PatternError {
    /// The pattern as given.
    pub pattern: String,
    /// What is wrong with it.
    pub why: String,
}

impl IgnoreRules {
    /// Rules that ignore nothing.
    pub fn none() -> Self {
        Self { files: Vec::new(), parameters: Vec::new(), matcher: Gitignore::empty() }
    }

    /// Rules from parameters, each one pattern relative to the root.
    pub fn new(parameters: &[String]) -> Result<Self, PatternError> {
        let rules = parameters.iter().map(|pattern| {
            let origin = RuleOrigin::Parameter { pattern: pattern.clone() };
            Rule::new(trimmed(pattern).to_owned(), pattern, origin)
        });
        let parameters = rules.filter_map(Result::transpose).collect::<Result<Vec<_>, _>>()?;
        let matcher = compile(parameters.iter())?;
        Ok(Self { files: Vec::new(), parameters, matcher })
    }

    /// Adds the text of an ignore file in `directory` (no bytes: the root). The directory's name must be UTF-8.
    pub fn add_file(&mut self, directory: &str, text: &str) -> Result<(), PatternError> {
        let text = text.strip_prefix('\u{feff}').unwrap_or(text);
        let rules = (1..).zip(text.split('\n')).filter_map(|(number, line)| {
            let pattern = trimmed(line).to_owned();
            let origin = RuleOrigin::File { directory: directory.to_owned(), line: number, pattern };
            Rule::new(rebased(directory, line)?, line, origin).transpose()
        });
        let added = rules.collect::<Result<Vec<_>, _>>()?;
        if added.is_empty() {
            return Ok(());
        }
        self.files.extend(added);
        self.matcher = compile(self.files.iter().chain(&self.parameters))?;
        Ok(())
    }

    /// All rules as lines relative to the root, in order of rising weight. [`IgnoreRules::new`] makes equal rules of
    /// them.
    pub fn lines(&self) -> Vec<String> {
        self.files.iter().chain(&self.parameters).map(|rule| rule.line.clone()).collect()
    }

    /// Whether an entry is ignored, given that the directory that holds it is not.
    pub fn ignores(&self, path: &RelPath, is_directory: bool) -> bool {
        self.matcher.matched(path.as_path(), is_directory).is_ignore()
    }

    /// What decides about an entry, the directories that hold it included; none when no rule matches.
    pub fn decision(&self, path: &RelPath, is_directory: bool) -> Option<Decision> {
        let above = path.ancestors().find_map(|directory| {
            let glob = self.matcher.matched(directory.as_path(), true);
            if glob.is_ignore() { self.decided(&glob, directory) } else { None }
        });
        above.or_else(|| self.decided(&self.matcher.matched(path.as_path(), is_directory), path.clone()))
    }

    fn decided(&self, found: &::ignore::Match<&Glob>, at: RelPath) -> Option<Decision> {
        let is_ignored = found.is_ignore();
        let original = match found {
            ::ignore::Match::None => return None,
            ::ignore::Match::Ignore(glob) | ::ignore::Match::Whitelist(glob) => glob.original(),
        };
        let mut rules = self.parameters.iter().rev().chain(self.files.iter().rev());
        let rule = rules.find(|rule| rule.matched == original)?;
        Some(Decision { is_ignored, at, origin: rule.origin.clone() })
    }
}

impl Rule {
    /// A rule from its line relative to the root; `written` is what the user wrote. None when it says nothing.
    fn new(line: String, written: &str, origin: RuleOrigin) -> Result<Option<Self>, PatternError> {
        match matcher_line(&line) {
            Ok(matched) => Ok(matched.map(|matched| Self { line, matched, origin })),
            Err(why) => Err(PatternError { pattern: trimmed(written).to_owned(), why: why.to_owned() }),
        }
    }
}

fn compile<'a>(rules: impl Iterator<Item = &'a Rule>) -> Result<Gitignore, PatternError> {
    let mut builder = GitignoreBuilder::new("");
    for Rule { line, matched, .. } in rules {
        let added = builder.add_line(None, matched);
        added.map_err(|error| PatternError { pattern: line.clone(), why: error.to_string() })?;
    }
    builder.build().map_err(|error| PatternError { pattern: String::new(), why: error.to_string() })
}

/// A line of the ignore file in `directory` as a line relative to the root; none when it says nothing.
fn rebased(directory: &str, line: &str) -> Option<String> {
    let (takes_in, pattern) = stated(line)?;
    if directory.is_empty() {
        return Some(trimmed(line).to_owned());
    }
    let negation = if takes_in { "!" } else { "" };
    let depth = if is_anchored(pattern) { "" } else { "**/" };
    let pattern = pattern.strip_prefix('/').unwrap_or(pattern);
    Some(format!("{negation}/{}/{depth}{pattern}", escaped(directory)))
}

fn escaped(directory: &str) -> String {
    let mut text = String::with_capacity(directory.len());
    for c in directory.chars() {
        if matches!(c, '*' | '?' | '[' | ']' | '{' | '}' | '\\') {
            text.push('\\');
        }
        text.push(c);
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rules(parameters: &[&str]) -> IgnoreRules {
        let parameters: Vec<String> = parameters.iter().map(|&text| text.to_owned()).collect();
        IgnoreRules::new(&parameters).unwrap()
    }

    fn ignored(rules: &IgnoreRules, path: &str) -> bool {
        let is_directory = path.ends_with('/');
        rules.ignores(&RelPath::new(path.trim_end_matches('/')).unwrap(), is_directory)
    }

    #[test]
    fn patterns_mean_what_they_mean_in_git() {
        let rules = rules(&["*.pyc", "!keep.pyc", "/build/", "docs/*.txt", "a/**/z", "\\#odd", "# comment", ""]);
        for path in ["x.pyc", "a/b/x.pyc", "build/", "docs/a.txt", "a/z", "a/b/c/z", "#odd"] {
            assert!(ignored(&rules, path), "{path} is ignored");
        }
        for path in ["keep.pyc", "a/keep.pyc", "build", "a/build/", "docs/b/a.txt", "z", "comment"] {
            assert!(!ignored(&rules, path), "{path} is kept");
        }
    }

    #[test]
    fn files_hold_for_their_directory_and_the_deeper_one_wins() {
        let mut rules = rules(&["*.tmp"]);
        rules.add_file("", "*.log\n/top\n").unwrap();
        rules.add_file("a/[x]", "\u{feff}!important.log\n/only\nsub/deep\ncache/\n").unwrap();
        for path in ["x.log", "a/x.log", "top", "a/[x]/only", "a/[x]/sub/deep", "a/[x]/q/cache/", "b.tmp"] {
            assert!(ignored(&rules, path), "{path} is ignored");
        }
        for path in ["a/[x]/important.log", "a/[x]/p/important.log", "a/top", "a/x/only", "a/[x]/q/sub/deep", "cache/"]
        {
            assert!(!ignored(&rules, path), "{path} is kept");
        }
        assert!(ignored(&rules, "important.log"));
    }

    #[test]
    fn lines_carry_the_rules_over() {
        let mut near = rules(&["!a/keep.log"]);
        near.add_file("", "*.log").unwrap();
        near.add_file("a", "!b.log\nc").unwrap();
        let far = IgnoreRules::new(&near.lines()).unwrap();
        for path in ["x.log", "a/x.log", "a/b.log", "a/keep.log", "c", "a/c", "a/d/c"] {
            assert_eq!(ignored(&near, path), ignored(&far, path), "{path}");
        }
        assert!(!ignored(&near, "a/keep.log"));
    }

    #[test]
    fn the_deciding_rule_is_named() {
        let mut rules = rules(&["*.tmp", "!keep.tmp"]);
        rules.add_file("", "# objects\n*.o\n\nbuild/\n").unwrap();
        rules.add_file("src", "!wanted.o\n").unwrap();
        let decision = |path: &str| rules.decision(&RelPath::new(path).unwrap(), false);
        let file = |directory: &str, line, pattern: &str| RuleOrigin::File {
            directory: directory.to_owned(),
            line,
            pattern: pattern.to_owned(),
        };
        let parameter = |pattern: &str| RuleOrigin::Parameter { pattern: pattern.to_owned() };
        for (path, is_ignored, at, origin) in [
            ("a.o", true, "a.o", file("", 2, "*.o")),
            ("build/x/y", true, "build", file("", 4, "build/")),
            ("src/wanted.o", false, "src/wanted.o", file("src", 1, "!wanted.o")),
            ("a/b.tmp", true, "a/b.tmp", parameter("*.tmp")),
            ("a/keep.tmp", false, "a/keep.tmp", parameter("!keep.tmp")),
        ] {
            let wanted = Decision { is_ignored, at: RelPath::new(at).unwrap(), origin };
            assert_eq!(decision(path), Some(wanted), "{path}");
        }
        assert_eq!(decision("src/main.rs"), None);
        assert_eq!(decision("build"), None, "a file of that name is no directory");
    }

    #[test]
    fn a_bad_pattern_is_named() {
        let error = IgnoreRules::new(&["a[b ".to_owned()]).unwrap_err();
        assert_eq!(error.pattern, "a[b");
        assert!(error.to_string().contains("a `[` has no `]`"), "{error}");
    }
}
