//! Real `etcdctl`, many calls at a time: what its user would see.

use std::{
    process::{Command, Stdio},
    sync::Mutex,
};

/// Calls at once. Each login costs etcd a bcrypt.
const AT_ONCE: usize = 8;

/// Where an etcd is.
#[derive(Clone)]
pub(crate) struct Etcdctl {
    pub(crate) endpoint: String,
    /// Path of the CA; TLS when given.
    pub(crate) ca: Option<String>,
}

/// One call and how it is to end.
#[derive(Debug, Clone)]
pub(crate) struct Call {
    /// Name and password; none for somebody without a login.
    pub(crate) login: Option<(String, String)>,
    pub(crate) words: Vec<String>,
    pub(crate) end: End,
}

/// How a call ends.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum End {
    /// With these lines, empty ones aside.
    Lines(Vec<String>),
    /// Well, whatever it says.
    Done,
    /// Refused by etcd: the login has no permission, or there is none.
    Refused,
}

impl Etcdctl {
    /// The call's lines, or what it said when it failed.
    pub(crate) fn call(&self, login: Option<&(String, String)>, words: &[&str]) -> Result<Vec<String>, String> {
        let mut command = Command::new("etcdctl");
        command.env("ETCDCTL_API", "3").env_remove("ETCDCTL_USER").stdin(Stdio::null());
        command.args(["--endpoints", &self.endpoint, "--command-timeout", "30s", "--dial-timeout", "30s"]);
        if let Some(ca) = &self.ca {
            command.args(["--cacert", ca]);
        }
        if let Some((user, password)) = login {
            command.env("ETCDCTL_USER", format!("{user}:{password}"));
        }
        let output = command.args(words).output().expect("etcdctl must be installed: `apt-get install etcd-client`");
        if !output.status.success() {
            return Err(String::from_utf8_lossy(&output.stderr).into_owned());
        }
        let text = String::from_utf8_lossy(&output.stdout).into_owned();
        Ok(text.lines().filter(|line| !line.is_empty()).map(str::to_owned).collect())
    }

    /// Makes all calls; gives those that ended otherwise, in words.
    pub(crate) fn wrong(&self, calls: &[Call]) -> Vec<String> {
        let next = Mutex::new(calls.iter());
        let wrong = Mutex::new(Vec::new());
        std::thread::scope(|scope| {
            for _ in 0..AT_ONCE {
                scope.spawn(|| {
                    loop {
                        let Some(call) = next.lock().unwrap().next() else { return };
                        if let Some(why) = self.ends_wrong(call) {
                            let who = call.login.as_ref().map_or("nobody", |(user, _)| user);
                            wrong.lock().unwrap().push(format!("{who}: etcdctl {}: {why}", call.words.join(" ")));
                        }
                    }
                });
            }
        });
        wrong.into_inner().unwrap()
    }

    fn ends_wrong(&self, call: &Call) -> Option<String> {
        let words: Vec<&str> = call.words.iter().map(String::as_str).collect();
        let is_refusal = |said: &str| said.contains("permission denied") || said.contains("user name is empty");
        match (self.call(call.login.as_ref(), &words), &call.end) {
            (Ok(lines), End::Lines(wanted)) if lines == *wanted => None,
            (Ok(_), End::Done) => None,
            (Err(said), End::Refused) if is_refusal(&said) => None,
            (Ok(lines), End::Lines(wanted)) => Some(format!("{lines:?} instead of {wanted:?}")),
            (Ok(_), _) => Some("it went through".to_owned()),
            (Err(said), _) => Some(said),
        }
    }
}

impl Call {
    pub(crate) fn new(login: Option<&(String, String)>, words: &[&str], end: End) -> Self {
        Self { login: login.cloned(), words: words.iter().map(|word| (*word).to_owned()).collect(), end }
    }

    /// What nobody but the administrator may do, whatever their login: users, roles, authentication, everything.
    pub(crate) fn administration(login: Option<&(String, String)>) -> Vec<Self> {
        let calls: [&[&str]; 10] = [
            &["get", "/", "--prefix", "--keys-only"],
            &["get", "", "--from-key", "--keys-only"],
            &["get", "/ovs-cuisine/", "--prefix"],
            &["put", "/ovs-cuisine/x", "x"],
            &["put", "/ovs/x", "x"],
            &["user", "list"],
            &["role", "list"],
            &["role", "get", "root"],
            &["user", "grant-role", "nobody", "root"],
            &["auth", "disable"],
        ];
        calls.iter().map(|words| Self::new(login, words, End::Refused)).collect()
    }
}
