//! A real etcd on loopback, in a directory of its own; ended with the test.

use std::{
    io::{Read as _, Write as _},
    net::{TcpListener, TcpStream},
    path::PathBuf,
    process::{Child, Command, Stdio},
    sync::Arc,
    time::{Duration, Instant},
};

use etcd_client::{Client, ConnectOptions};
use ovs_cuisine::{
    control::config::{Dial, Store, StoreAccess, Stream},
    plan::{LabName, Secret},
};

/// How long anything may take before a test gives up; no test depends on how long it does take.
pub(crate) const LONG: Duration = Duration::from_secs(60);

/// A real etcd.
pub(crate) struct Etcd {
    child: Child,
    directory: tempfile::TempDir,
    pub(crate) port: u16,
    peer: u16,
    options: Vec<String>,
    tls: Option<Tls>,
}

/// What an etcd with TLS needs, made by a CA of its own.
#[derive(Clone)]
pub(crate) struct Tls {
    pub(crate) ca: String,
    certificate: String,
    key: String,
}

impl Tls {
    /// A CA and a certificate for a host name.
    pub(crate) fn new(host: &str) -> Self {
        let mut ca_params = rcgen::CertificateParams::new(Vec::<String>::new()).unwrap();
        ca_params.is_ca = rcgen::IsCa::Ca(rcgen::BasicConstraints::Unconstrained);
        let ca_key = rcgen::KeyPair::generate().unwrap();
        let ca = ca_params.self_signed(&ca_key).unwrap();
        let issuer = rcgen::Issuer::new(ca_params, ca_key);
        let key = rcgen::KeyPair::generate().unwrap();
        let params = rcgen::CertificateParams::new(vec![host.to_owned()]).unwrap();
        let certificate = params.signed_by(&key, &issuer).unwrap();
        Self { ca: ca.pem(), certificate: certificate.pem(), key: key.serialize_pem() }
    }
}

impl Etcd {
    /// Starts one with these extra options and waits until it serves.
    pub(crate) fn start(options: &[&str]) -> Self {
        Self::launch(options, None)
    }

    pub(crate) fn start_tls(tls: Tls) -> Self {
        Self::launch(&[], Some(tls))
    }

    fn launch(options: &[&str], tls: Option<Tls>) -> Self {
        let directory = tempfile::Builder::new().prefix("ovs-cuisine-etcd-").tempdir().unwrap();
        let options: Vec<String> = options.iter().map(|option| (*option).to_owned()).collect();
        if let Some(tls) = &tls {
            fs_err::write(directory.path().join("cert.pem"), &tls.certificate).unwrap();
            fs_err::write(directory.path().join("key.pem"), &tls.key).unwrap();
        }
        let (port, peer) = (free_port(), free_port());
        let child = spawn(directory.path(), port, peer, &options, tls.is_some());
        let mut etcd = Self { child, directory, port, peer, options, tls };
        // A port found free may be taken by another test a moment later: another pair then.
        for _ in 0..10 {
            if etcd.serves() {
                return etcd;
            }
            etcd.kill();
            (etcd.port, etcd.peer) = (free_port(), free_port());
            let _ = fs_err::remove_dir_all(etcd.directory.path().join("data"));
            etcd.child = spawn(etcd.directory.path(), etcd.port, etcd.peer, &etcd.options, etcd.tls.is_some());
        }
        panic!("etcd did not start ten times in a row");
    }

    /// Ends it without warning, as a crash would.
    pub(crate) fn kill(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }

    /// Starts it again with what it had on disk.
    pub(crate) fn restart(&mut self) {
        self.kill();
        self.child = spawn(self.directory.path(), self.port, self.peer, &self.options, self.tls.is_some());
        assert!(self.serves(), "etcd did not come back");
    }

    fn serves(&mut self) -> bool {
        let deadline = Instant::now() + LONG;
        while Instant::now() < deadline {
            if self.child.try_wait().unwrap().is_some() {
                return false;
            }
            if self.tls.is_some() && TcpStream::connect(("127.0.0.1", self.port)).is_ok() {
                return true;
            }
            if self.tls.is_none() && is_healthy(self.port) {
                return true;
            }
            std::thread::sleep(Duration::from_millis(20));
        }
        false
    }

    pub(crate) fn endpoint(&self) -> (String, u16) {
        ("localhost".to_owned(), self.port)
    }

    /// How the administrator gets in.
    pub(crate) fn access(&self, password: &str) -> StoreAccess {
        StoreAccess {
            endpoints: vec![self.endpoint()],
            user: "root".to_owned(),
            password: Secret::new(password.to_owned()),
            ca: self.tls.as_ref().map(|tls| tls.ca.clone()),
        }
    }

    /// A store with authentication on.
    pub(crate) async fn store(&self) -> Store {
        let store = Store::open(self.access("root-pw"), dial(), &lab()).await.unwrap();
        store.ensure_auth(ovs_cuisine::control::config::LoginMode::Apply).await.unwrap();
        store
    }

    /// A client of etcd's own API: another hand.
    pub(crate) async fn client(&self, login: Option<(&str, &str)>) -> Result<Client, etcd_client::Error> {
        let mut options = ConnectOptions::new();
        if let Some((user, password)) = login {
            options = options.with_user(user, password).with_auto_token_refresh(true);
        }
        Client::connect([format!("127.0.0.1:{}", self.port)], Some(options)).await
    }

    pub(crate) async fn root(&self) -> Client {
        self.client(Some(("root", "root-pw"))).await.unwrap()
    }
}

impl Drop for Etcd {
    fn drop(&mut self) {
        self.kill();
    }
}

fn spawn(directory: &std::path::Path, port: u16, peer: u16, options: &[String], tls: bool) -> Child {
    let scheme = if tls { "https" } else { "http" };
    let (client, peer) = (format!("{scheme}://127.0.0.1:{port}"), format!("http://127.0.0.1:{peer}"));
    let data: PathBuf = directory.join("data");
    let mut command = Command::new("etcd");
    command
        .args(["--name", "one", "--log-level", "error", "--data-dir"])
        .arg(data)
        .args(["--listen-client-urls", &client, "--advertise-client-urls", &client])
        .args(["--listen-peer-urls", &peer, "--initial-advertise-peer-urls", &peer])
        .args(["--initial-cluster", &format!("one={peer}")])
        .args(options)
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::null());
    if tls {
        command.arg("--cert-file").arg(directory.join("cert.pem")).arg("--key-file").arg(directory.join("key.pem"));
    }
    command.spawn().expect("etcd must be installed: `apt-get install etcd-server`")
}

fn is_healthy(port: u16) -> bool {
    let ask = || -> std::io::Result<String> {
        let mut stream = TcpStream::connect(("127.0.0.1", port))?;
        stream.set_read_timeout(Some(Duration::from_secs(5)))?;
        stream.write_all(b"GET /health HTTP/1.0\r\n\r\n")?;
        let mut answer = String::new();
        stream.read_to_string(&mut answer)?;
        Ok(answer)
    };
    ask().is_ok_and(|answer| answer.contains("\"true\""))
}

pub(crate) fn free_port() -> u16 {
    TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port()
}

/// Straight to loopback, in place of the SSH tunnel.
pub(crate) fn dial() -> Dial {
    Arc::new(|host, port| {
        Box::pin(async move {
            let stream = tokio::net::TcpStream::connect((host, port)).await?;
            stream.set_nodelay(true)?;
            Ok(Box::new(stream) as Box<dyn Stream>)
        })
    })
}

pub(crate) fn lab() -> LabName {
    "lab".parse().unwrap()
}
