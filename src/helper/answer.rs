//! Answers read-only questions about the machine's live state.

use std::{io, io::Read, path::Path, time::Duration};

use super::{
    accounts::Accounts,
    failure::{OrFail, cause},
    gather::find_program,
    ops::package_is_installed,
    ports::{ON_ITS_WAY, Ports, Wanted},
    process::{Collected, Ending, Job, run},
    stop::Stop,
};
use crate::plan::{Answer, FailureKind, HostPath, InitSystem, OpFailure, Question};

/// Longest text of a file that is answered in bytes.
const MAX_TEXT: u64 = 1024 * 1024;

/// Answers one question.
pub(crate) fn answer(question: &Question, init: InitSystem, accounts: &Accounts, stop: &Stop) -> Answer {
    let answered = match question {
        Question::Exists(path) => look(path, |path| fs_err::metadata(path).map(|_| true)),
        Question::IsFile(path) => look(path, |path| fs_err::metadata(path).map(|found| found.is_file())),
        Question::IsDir(path) => look(path, |path| fs_err::metadata(path).map(|found| found.is_dir())),
        Question::IsLink(path) => look(path, |path| std::fs::symlink_metadata(path).map(|found| found.is_symlink())),
        Question::Read(path) => text_of(path),
        Question::CommandExists(name) => Ok(Answer::Flag(find_program(name).is_some())),
        Question::PackageInstalled(name) => package_is_installed(name, stop).map(Answer::Flag),
        Question::UserExists(name) => accounts.user_named(name).map(|user| Answer::Flag(user.is_some())),
        Question::GroupExists(name) => accounts.group_named(name).map(|group| Answer::Flag(group.is_some())),
        Question::Output { command, timeout_ms } => output_of(command, *timeout_ms, stop),
        Question::Ports { service, ports, yields } => {
            // Whether it runs is not known here; who cannot look into other processes does not refuse.
            let wanted = Wanted { service, ports, yields, is_running: true };
            Ports::of_machine(init).expect(&wanted, ON_ITS_WAY, stop).map(|_| Answer::Flag(true))
        }
    };
    answered.unwrap_or_else(Answer::Failed)
}

fn look(path: &HostPath, what: impl Fn(&Path) -> io::Result<bool>) -> Result<Answer, OpFailure> {
    match what(path.as_path()) {
        Ok(flag) => Ok(Answer::Flag(flag)),
        Err(error) if matches!(error.kind(), io::ErrorKind::NotFound | io::ErrorKind::NotADirectory) => {
            Ok(Answer::Flag(false))
        }
        Err(error) => Err(error).or_fail("look at", path),
    }
}

fn text_of(path: &HostPath) -> Result<Answer, OpFailure> {
    let file = match fs_err::File::open(path.as_path()) {
        Ok(file) => file,
        Err(error) if matches!(error.kind(), io::ErrorKind::NotFound | io::ErrorKind::NotADirectory) => {
            return Ok(Answer::Absent);
        }
        Err(error) => return Err(error).or_fail("read", path),
    };
    // A pipe would keep us waiting, a device may never end.
    if !file.metadata().or_fail("look at", path)?.is_file() {
        return Err(OpFailure::new(FailureKind::BadInput, format!("`{path}` is not a regular file")));
    }
    let mut bytes = Vec::new();
    file.take(MAX_TEXT + 1).read_to_end(&mut bytes).or_fail("read", path)?;
    if bytes.len() as u64 > MAX_TEXT {
        return Err(OpFailure::new(FailureKind::BadInput, format!("`{path}` is longer than 1 MiB")));
    }
    let text = String::from_utf8(bytes);
    text.map(Answer::Text).map_err(|_| OpFailure::new(FailureKind::BadInput, format!("`{path}` is not UTF-8 text")))
}

fn output_of(command: &str, timeout_ms: u64, stop: &Stop) -> Result<Answer, OpFailure> {
    let job = Job::shell(command).timeout(Duration::from_millis(timeout_ms));
    let mut output = Collected::default();
    let ended = run(&job, stop, &mut output)
        .map_err(|error| OpFailure::new(FailureKind::Command, format!("cannot run `{command}`: {}", cause(&error))))?;
    let (kind, how) = match ended.ending {
        Ending::Exited(0) => {
            let text = output.0.strip_suffix('\n').unwrap_or(&output.0);
            return Ok(Answer::Text(text.to_owned()));
        }
        Ending::Exited(status) => (FailureKind::Command, format!("ended with status {status}")),
        Ending::Signalled(signal) => (FailureKind::Command, format!("was ended by signal {signal}")),
        Ending::TimedOut => (FailureKind::Timeout, format!("did not end within {timeout_ms} ms")),
        Ending::Cancelled => (FailureKind::Cancelled, "was stopped because the run was cancelled".to_owned()),
    };
    Err(OpFailure::new(kind, format!("`{command}` {how}")).output(ended.tail))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ask(question: &Question) -> Answer {
        let stop = Stop::default();
        answer(question, InitSystem::None, &Accounts::new(stop.clone()), &stop)
    }

    fn path(text: &str) -> HostPath {
        text.parse().unwrap()
    }

    #[test]
    fn questions_about_files() {
        let directory = tempfile::tempdir().unwrap();
        let file = directory.path().join("f");
        fs_err::write(&file, "text\n").unwrap();
        let link = directory.path().join("l");
        std::os::unix::fs::symlink("f", &link).unwrap();
        let (file, link) = (path(file.to_str().unwrap()), path(link.to_str().unwrap()));
        assert_eq!(ask(&Question::Exists(file.clone())), Answer::Flag(true));
        assert_eq!(ask(&Question::Exists(path(&format!("{file}/below")))), Answer::Flag(false));
        assert_eq!(ask(&Question::IsFile(link.clone())), Answer::Flag(true));
        assert_eq!(ask(&Question::IsLink(link)), Answer::Flag(true));
        assert_eq!(ask(&Question::IsLink(file.clone())), Answer::Flag(false));
        assert_eq!(ask(&Question::IsDir(path("/"))), Answer::Flag(true));
        assert_eq!(ask(&Question::Read(file)), Answer::Text("text\n".to_owned()));
        assert_eq!(ask(&Question::Read(path("/nonexistent"))), Answer::Absent);
        assert!(matches!(ask(&Question::Read(path("/dev/zero"))), Answer::Failed(_)));
    }

    #[test]
    fn questions_about_commands() {
        let output = |command: &str, timeout_ms| ask(&Question::Output { command: command.to_owned(), timeout_ms });
        assert_eq!(ask(&Question::CommandExists("sh".into())), Answer::Flag(true));
        assert_eq!(ask(&Question::CommandExists("no-such-command".into())), Answer::Flag(false));
        assert_eq!(output("printf 'a\\nb\\n'", 10_000), Answer::Text("a\nb".to_owned()));
        let Answer::Failed(failed) = output("echo oops >&2; exit 4", 10_000) else { panic!() };
        assert_eq!((failed.kind, failed.output_tail), (FailureKind::Command, vec!["oops".to_owned()]));
        let Answer::Failed(late) = output("sleep 60", 100) else { panic!() };
        assert_eq!(late.kind, FailureKind::Timeout);
    }

    #[test]
    fn questions_about_accounts() {
        assert_eq!(ask(&Question::UserExists("root".into())), Answer::Flag(true));
        assert_eq!(ask(&Question::GroupExists("no-such-group".into())), Answer::Flag(false));
    }
}
