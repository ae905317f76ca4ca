//! `cp`: files and directories to hosts and from them.

use std::{
    error::Error,
    ffi::OsStr,
    fmt::Write as _,
    os::unix::ffi::OsStrExt,
    path::PathBuf,
    time::{SystemTime, UNIX_EPOCH},
};

use serde_json::{Map, Value, json};
use tokio_util::sync::CancellationToken;

use super::{
    args,
    failure::{Exit, Failure, Shown},
    output,
    run::{self, Lab},
};
use crate::control::{
    drive::{self, Copied, CopyDirection, CopyReport, CopyRequest, Mode},
    event::Problem,
    report::{JSON_SCHEMA, bytes, clean, duration, plural, problem_text},
};

/// Most paths that a check shows for a host.
const MAX_PATHS: usize = 20;

pub(super) async fn cp(args: args::Cp, verbose: u8) -> Result<Exit, Failure> {
    let (hosts, direction) = directed(&args.source, &args.dest)?;
    let lab = Lab::load(&args.inventory)?;
    let request = CopyRequest {
        hosts: lab.hosts(Some(&hosts))?,
        inventory: lab.inventory.clone(),
        direction,
        recursive: args.recursive,
        mode: if args.check { Mode::Check } else { Mode::Apply },
        jobs: args.jobs,
        cache: run::cache(),
    };
    let cancel = CancellationToken::new();
    let watcher = tokio::spawn(run::cancel_at_interrupt(cancel.clone()));
    let (mut exit, mut lost) = (Exit::Done, None);
    let show = Show { check: args.check, json: args.json, verbose };
    let copied = drive::copy(request, cancel, |report| {
        match show.report(report) {
            Ok(ended) => exit = exit.max(ended),
            // Nobody reads standard output: the copy goes on all the same.
            Err(failure) => lost = Some(failure),
        }
    });
    let copied = copied.await;
    watcher.abort();
    copied?;
    lost.map_or(Ok(exit), Err)
}

/// What the two operands mean: the hosts, and the way.
fn directed(source: &OsStr, dest: &OsStr) -> Result<(String, CopyDirection), Failure> {
    match (on_hosts(source)?, on_hosts(dest)?) {
        (Some((hosts, source)), None) => Ok((hosts, CopyDirection::Download { source, dest: PathBuf::from(dest) })),
        (None, Some((hosts, dest))) => Ok((hosts, CopyDirection::Upload { source: PathBuf::from(source), dest })),
        (None, None) => Err(Failure::bad_input("neither SOURCE nor DEST is on a host")
            .hint("write the one on hosts as HOST:PATH, such as node-1:/etc/hosts")),
        (Some(_), Some(_)) => Err(Failure::bad_input("both SOURCE and DEST are on hosts")
            .hint("copy to this machine first; a path here that has a colon is written ./a:b")),
    }
}

/// Hosts and path of an operand `HOSTS:PATH`; none when it is a path here. What has a `/` before its first colon is one.
fn on_hosts(operand: &OsStr) -> Result<Option<(String, String)>, Failure> {
    /// The one word of a selection that has a colon itself.
    const COMPONENT: &[u8] = b"component:";
    let all = operand.as_bytes();
    let from = if all.starts_with(COMPONENT) { COMPONENT.len() } else { 0 };
    let Some(colon) = all[from..].iter().position(|byte| *byte == b':').map(|at| from + at) else { return Ok(None) };
    if colon == 0 || all[..colon].contains(&b'/') {
        return Ok(None);
    }
    let text = |bytes: &[u8]| String::from_utf8(bytes.to_vec());
    if let (Ok(hosts), Ok(path)) = (text(&all[..colon]), text(&all[colon + 1..])) {
        return Ok(Some((hosts, path)));
    }
    let shown = operand.display();
    Err(Failure::bad_input(format!("`{shown}` is not UTF-8")).hint("name the directory that holds it, with -r"))
}

/// How reports are shown.
#[derive(Debug, Clone, Copy)]
struct Show {
    check: bool,
    json: bool,
    verbose: u8,
}

impl Show {
    /// Shows what came of one host; gives its exit status.
    fn report(self, report: CopyReport) -> Result<Exit, Failure> {
        let CopyReport { host, end, millis } = report;
        let host = host.as_str();
        match end {
            Ok(copied) if self.json => {
                self.line(
                    host,
                    millis,
                    json!({
                        "status": if copied.is_changed { "changed" } else { "unchanged" },
                        "files": copied.files,
                        "bytes": copied.bytes,
                        "created": copied.created,
                        "modified": copied.modified,
                        "sent": copied.sent,
                        "skipped": copied.skipped_count,
                        "paths": copied.paths,
                    }),
                )?;
                Ok(Exit::Done)
            }
            Ok(copied) => {
                output::result(&self.text(host, &copied, millis))?;
                for line in left_out(host, &copied) {
                    output::progress(&line);
                }
                Ok(Exit::Done)
            }
            Err(error) => {
                let failure = Failure::from(error);
                let exit = failure.exit;
                let problem = problem(host, &failure);
                if self.json {
                    self.line(host, millis, json!({ "status": status(exit), "problem": problem }))?;
                } else {
                    output::diagnostic(&problem_text(&problem));
                }
                Ok(exit)
            }
        }
    }

    fn line(self, host: &str, millis: u64, members: Value) -> Result<(), Failure> {
        let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        let time = u64::try_from(since.as_millis()).unwrap_or(u64::MAX);
        let mut line = Map::from_iter([
            ("schema".to_owned(), JSON_SCHEMA.into()),
            ("time".to_owned(), time.into()),
            ("event".to_owned(), "copied".into()),
            ("host".to_owned(), host.into()),
            ("applied".to_owned(), (!self.check).into()),
            ("millis".to_owned(), millis.into()),
        ]);
        if let Value::Object(members) = members {
            line.extend(members);
        }
        output::result(&format!("{}\n", Value::Object(line)))
    }

    /// `node-1: 3 files, 12 B; 2 new, 1 changed, 8 B sent in 40 ms`, and in a check the paths.
    fn text(self, host: &str, copied: &Copied, millis: u64) -> String {
        let size = format!("{}, {}", plural(copied.files, "file", "files"), bytes(copied.bytes));
        let took = duration(millis);
        if !copied.is_changed {
            return format!("{host}: {size}; all there already, in {took}\n");
        }
        let changes = format!("{} new, {} changed", copied.created, copied.modified);
        if !self.check && self.verbose == 0 {
            return format!("{host}: {size}; {changes}, {} sent in {took}\n", bytes(copied.sent));
        }
        let mut text = if self.check {
            format!("{host}: {size}; would be {changes}, in {took}\n")
        } else {
            format!("{host}: {size}; {changes}, {} sent in {took}\n", bytes(copied.sent))
        };
        let shown = if self.verbose > 0 { copied.paths.len() } else { MAX_PATHS };
        for path in copied.paths.iter().take(shown) {
            let _ = writeln!(text, "    {}", clean(path));
        }
        let rest = (copied.created + copied.modified).saturating_sub(copied.paths.len().min(shown) as u64);
        if rest > 0 {
            let _ = writeln!(text, "    and {rest} more");
        }
        text
    }
}

/// What could not be copied because no tree can hold it, a line each.
fn left_out(host: &str, copied: &Copied) -> Vec<String> {
    let mut lines: Vec<String> =
        copied.skipped.iter().map(|skipped| format!("warning: {host}: left out {}", clean(skipped))).collect();
    let rest = copied.skipped_count.saturating_sub(lines.len() as u64);
    if rest > 0 {
        lines.push(format!("warning: {host}: left out {rest} more sockets, pipes and devices"));
    }
    lines
}

fn status(exit: Exit) -> &'static str {
    match exit {
        Exit::Unreachable => "unreachable",
        Exit::Interrupted => "interrupted",
        _ => "failed",
    }
}

/// A failure at one host as people and programs see it.
fn problem(host: &str, failure: &Failure) -> Problem {
    let (error, mut because) = match &failure.error {
        Shown::Rendered(text) => (text.clone(), Vec::new()),
        Shown::Chain(error) => (error.to_string(), causes(&**error)),
    };
    because.dedup();
    Problem { error: format!("{host}: {error}"), because, output_tail: Vec::new(), hint: failure.hint.clone() }
}

fn causes(error: &dyn Error) -> Vec<String> {
    let mut causes = Vec::new();
    let mut source = error.source();
    while let Some(cause) = source {
        causes.push(cause.to_string());
        source = cause.source();
    }
    causes
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_colon_makes_hosts_unless_a_slash_comes_before() {
        let split = |text: &str| on_hosts(OsStr::new(text)).unwrap();
        let hosts = |hosts: &str, path: &str| Some((hosts.to_owned(), path.to_owned()));
        assert_eq!(split("node-1:/etc/hosts"), hosts("node-1", "/etc/hosts"));
        assert_eq!(split("asd-*,!asd-2:a:b"), hosts("asd-*,!asd-2", "a:b"));
        assert_eq!(split("@web:"), hosts("@web", ""));
        assert_eq!(split("component:web:/x"), hosts("component:web", "/x"));
        assert_eq!(split("./a:b"), None);
        assert_eq!(split("/a:b"), None);
        assert_eq!(split(":b"), None);
        assert_eq!(split("a"), None);
    }

    #[test]
    fn exactly_one_side_is_on_hosts() {
        let directed = |source: &str, dest: &str| directed(OsStr::new(source), OsStr::new(dest));
        assert!(matches!(directed("a", "h:/b"), Ok((_, CopyDirection::Upload { .. }))));
        assert!(matches!(directed("h:/b", "a"), Ok((_, CopyDirection::Download { .. }))));
        for (source, dest) in [("a", "b"), ("h:a", "h:b")] {
            let failure = directed(source, dest).unwrap_err();
            assert_eq!(failure.exit, Exit::BadInput);
            assert!(failure.hint.is_some());
        }
    }
}
