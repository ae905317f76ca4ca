//! The shell scripts that find, place and start a helper, and what they answer.
//!
//! The login shell that gets to see them first may be bash, dash, fish or tcsh, so a script is one line within single
//! quotes and has none of `'`, `\`, `!` and newline in it, which those shells read differently there. Everything
//! else is POSIX sh. Answers are lines that carry a nonce, because a login shell may print what it likes.

use std::fmt::Write as _;

use super::{error::LinkErrorKind, program::HelperProgram, remote_text::one_line, target::Target};

/// Begins every line of an answer.
const MARK: &str = "OVS-CUISINE-";
/// Days after which programs that nobody placed again are removed.
const KEPT_DAYS: u32 = 30;

/// What the start script found.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Verdict {
    /// A helper was there and was started; nothing more is known.
    Found,
    /// There is none; it may be put into the directory with this number.
    Missing { place: usize, directory: String, machine: String },
    /// No directory will do.
    NoPlace { tried: Vec<(String, String)> },
}

/// The command that starts the helper or looks for a place for it.
pub(super) fn start(target: &Target, id: &str, nonce: &str, use_present: bool) -> Result<String, LinkErrorKind> {
    let mut script = places(target)?;
    if use_present {
        // Ours alone: others could have put theirs into a directory that all may write.
        let _ = write!(
            script,
            r#"for d in "$@"; do f="$d/cuisine-helper-{id}"; if [ -O "$d" ] && [ -f "$f" ] && [ -O "$f" ] && [ -x "$f" ]; then echo; echo "{MARK}FOUND {nonce}"; exec "$f" serve {nonce}; fi; done; "#
        );
    }
    let _ = write!(
        script,
        concat!(
            r#"i=0; for d in "$@"; do i=$((i+1)); why=; t="$d/.try-{nonce}"; mkdir -p "${{d%/*}}" 2>/dev/null; "#,
            // Without -p: it would follow a link that somebody put there. The umask makes it ours alone.
            r#"if mkdir "$d" 2>/dev/null || [ -d "$d" ]; then "#,
            r#"if [ -h "$d" ]; then why="it is a symbolic link"; "#,
            r#"elif [ -O "$d" ]; then "#,
            r#"if ( echo : > "$t" ) 2>/dev/null && chmod 700 "$t" 2>/dev/null; then "#,
            r#"if "$t" >/dev/null 2>&1; then rm -f "$t"; echo; echo "{mark}MISSING {nonce} $i $(uname -m) $d"; exit 0; "#,
            r#"else why="programs may not run there"; fi; "#,
            r#"else why="it cannot be written"; fi; rm -f "$t" 2>/dev/null; "#,
            r#"else why="it belongs to somebody else"; fi; "#,
            r#"else why="it cannot be made"; fi; "#,
            r#"echo; echo "{mark}REFUSED {nonce} $d: $why"; done; echo "{mark}NOPLACE {nonce}"; exit 1"#,
        ),
        mark = MARK,
        nonce = nonce
    );
    Ok(command(target, &script))
}

/// The command that takes the program from its input and puts it into the directory with this number.
pub(super) fn upload(
    target: &Target,
    program: &HelperProgram,
    place: usize,
    nonce: &str,
) -> Result<String, LinkErrorKind> {
    let mut script = places(target)?;
    let _ = write!(
        script,
        concat!(
            r#"shift {before}; d=$1; f="$d/cuisine-helper-{id}"; t="$d/.cuisine-helper-{id}.{nonce}.tmp"; "#,
            r#"fail() {{ rm -f "$t"; echo; echo "{mark}FAILED {nonce} $1"; exit 1; }}; "#,
            r#"cat > "$t" || fail "it cannot be written"; "#,
            r#"s=$(($(wc -c < "$t"))); [ "$s" -eq {size} ] || fail "$s of {size} bytes arrived"; "#,
            r#"chmod 700 "$t" || fail "it cannot be made a program"; "#,
            r#"c=$("$t" --self-check) || fail "it does not run there"; "#,
            r#"[ "$c" = {id} ] || fail "it arrived damaged"; "#,
            // Rename last: a cut connection must not leave half a helper that the next run would trust.
            r#"mv -f "$t" "$f" || fail "it cannot be renamed"; "#,
            r#"find "$d" -type f -name "*cuisine-helper-*" -mtime +{kept} -exec rm -f "{{}}" ";" 2>/dev/null; "#,
            r#"echo; echo "{mark}PLACED {nonce}""#,
        ),
        before = place.saturating_sub(1),
        id = program.id(),
        size = program.size(),
        mark = MARK,
        nonce = nonce,
        kept = KEPT_DAYS,
    );
    Ok(command(target, &script))
}

/// Puts the directories to try into the script's arguments, best first.
fn places(target: &Target) -> Result<String, LinkErrorKind> {
    let own = match &target.helper_dir {
        None => String::new(),
        Some(directory) => {
            let directory = directory.as_str();
            if directory.contains(|c: char| c.is_control() || matches!(c, '\'' | '"' | '\\' | '!' | '$' | '`')) {
                let why = "its name has characters that a shell would take apart".to_owned();
                return Err(LinkErrorKind::NoPlace { tried: vec![(directory.to_owned(), why)] });
            }
            format!(r#""{}/ovs-cuisine-$u" "#, directory.trim_end_matches('/'))
        }
    };
    Ok(format!(
        concat!(
            r#"umask 077; u=$(id -u); "#,
            r#"if [ "$u" = 0 ]; then set -- {own}/var/lib/ovs-cuisine/bin; "#,
            r#"else set -- {own}"${{XDG_CACHE_HOME:-$HOME/.cache}}/ovs-cuisine"; fi; "#,
            r#"set -- "$@" /var/tmp/ovs-cuisine-$u /dev/shm/ovs-cuisine-$u /tmp/ovs-cuisine-$u; "#,
        ),
        own = own
    ))
}

/// A script as a command for any login shell. `LC_ALL=C` makes sudo speak English.
fn command(target: &Target, script: &str) -> String {
    let sudo = if target.sudo { "env LC_ALL=C sudo -n -- " } else { "" };
    format!("exec {sudo}/bin/sh -c '{script}'")
}

/// What the start script answered; none when it did not run.
pub(super) fn verdict(output: &str, nonce: &str) -> Option<Verdict> {
    let (mut found, mut tried) = (None, Vec::new());
    for (word, rest) in answers(output, nonce) {
        match word {
            "FOUND" => found = Some(Verdict::Found),
            "REFUSED" => {
                let (directory, why) = rest.rsplit_once(": ").unwrap_or((rest, "unknown"));
                tried.push((one_line(directory), one_line(why)));
            }
            "MISSING" => {
                let mut fields = rest.splitn(3, ' ');
                let (place, machine, directory) = (fields.next()?, fields.next()?, fields.next()?);
                return Some(Verdict::Missing {
                    place: place.parse().ok().filter(|place| (1..=5).contains(place))?,
                    directory: one_line(directory),
                    machine: one_line(machine),
                });
            }
            "NOPLACE" => return Some(Verdict::NoPlace { tried }),
            _ => {}
        }
    }
    found
}

/// What the upload script answered: why it failed, if it did; none when it did not get so far.
pub(super) fn placed(output: &str, nonce: &str) -> Option<Result<(), String>> {
    answers(output, nonce).find_map(|(word, rest)| match word {
        "PLACED" => Some(Ok(())),
        "FAILED" => Some(Err(rest.to_owned())),
        _ => None,
    })
}

fn answers<'a>(output: &'a str, nonce: &'a str) -> impl Iterator<Item = (&'a str, &'a str)> {
    output.lines().filter_map(move |line| {
        let (word, rest) = line.strip_prefix(MARK)?.split_once(' ')?;
        let (its_nonce, rest) = rest.split_once(' ').unwrap_or((rest, ""));
        (its_nonce == nonce).then_some((word, rest))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn scripts_are_read_the_same_by_all_shells() {
        let mut target = Target::new("node-1", "node-1", "admin");
        target.sudo = true;
        target.helper_dir = Some("/opt/with space".parse().unwrap());
        let program = HelperProgram::from_content(b"x".to_vec());
        for command in [
            start(&target, program.id(), "nonce", true).unwrap(),
            start(&target, program.id(), "nonce", false).unwrap(),
            upload(&target, &program, 3, "nonce").unwrap(),
        ] {
            let script = command.strip_prefix("exec env LC_ALL=C sudo -n -- /bin/sh -c '").unwrap();
            let script = script.strip_suffix('\'').unwrap();
            assert!(!script.contains(['\'', '\\', '!', '\n']), "{script}");
            let checked = std::process::Command::new("sh").args(["-n", "-c", script]).output().unwrap();
            assert!(checked.status.success() && checked.stderr.is_empty(), "{checked:?}");
        }
    }

    #[test]
    fn directories_that_a_shell_would_take_apart_are_refused() {
        let mut target = Target::new("node-1", "node-1", "admin");
        for directory in ["/a'b", "/a\"b", "/a\\b", "/a!b", "/a$b", "/a`b", "/a\nb"] {
            target.helper_dir = Some(directory.parse().unwrap());
            assert!(matches!(start(&target, "id", "nonce", true), Err(LinkErrorKind::NoPlace { .. })), "{directory}");
        }
    }

    #[test]
    fn only_answers_with_the_nonce_count() {
        let output = "noise OVS-CUISINE-FOUND n1\nOVS-CUISINE-FOUND n2\nOVS-CUISINE-MISSING n2 1 x86_64 /a\n";
        assert_eq!(verdict(output, "n1"), None);
        assert_eq!(verdict("OVS-CUISINE-FOUND n1\nhello\n", "n1"), Some(Verdict::Found));
        let missing = "welcome\nOVS-CUISINE-REFUSED n1 /b: it is full\n\nOVS-CUISINE-MISSING n1 2 x86_64 /a dir/x\n";
        let wanted = Verdict::Missing { place: 2, directory: "/a dir/x".to_owned(), machine: "x86_64".to_owned() };
        assert_eq!(verdict(missing, "n1"), Some(wanted));
        let none = "OVS-CUISINE-REFUSED n1 /b: c: it is full\nOVS-CUISINE-NOPLACE n1\n";
        let tried = vec![("/b: c".to_owned(), "it is full".to_owned())];
        assert_eq!(verdict(none, "n1"), Some(Verdict::NoPlace { tried }));
        assert_eq!(placed("x\nOVS-CUISINE-PLACED n1\n", "n1"), Some(Ok(())));
        assert_eq!(placed("OVS-CUISINE-FAILED n1 3 of 4 bytes\n", "n1"), Some(Err("3 of 4 bytes".to_owned())));
    }

    #[test]
    fn lies_of_a_host_are_not_followed() {
        for place in ["0", "6", "-1", "99999999999999999999", "x"] {
            assert_eq!(verdict(&format!("OVS-CUISINE-MISSING n1 {place} x86_64 /a\n"), "n1"), None);
        }
        assert_eq!(verdict("OVS-CUISINE-MISSING n1 1\n", "n1"), None);
    }
}
