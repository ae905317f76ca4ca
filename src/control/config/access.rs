//! How etcd is reached: members, login, CA, and who opens the streams.

use std::{future::Future, io, pin::Pin, sync::Arc};

use tokio::io::{AsyncRead, AsyncWrite};

use crate::plan::{Authority, EtcdLink, EtcdLinkError, Secret};

/// A boxed future, as [`Dial`] returns it.
pub type BoxFuture<'a, T> = Pin<Box<dyn Future<Output = T> + Send + 'a>>;

/// A byte stream to etcd: an SSH tunnel, a TCP connection.
pub trait Stream: AsyncRead + AsyncWrite + Unpin + Send {}

impl<T: AsyncRead + AsyncWrite + Unpin + Send> Stream for T {}

/// Opens a stream to a member's host and port. Called again after each loss, so it must find its way anew each time.
pub type Dial = Arc<dyn Fn(String, u16) -> BoxFuture<'static, io::Result<Box<dyn Stream>>> + Send + Sync>;

/// Where etcd is and who logs in.
#[derive(Debug, Clone)]
pub struct StoreAccess {
    /// Members, host and port; at least one. Tried in order, the next one when one does not answer.
    pub endpoints: Vec<(String, u16)>,
    /// The administrator; `root` as a rule.
    pub user: String,
    /// Its password; never empty.
    pub password: Secret<String>,
    /// PEM text of the CA; TLS when given. Each member's certificate must name the host as written in `endpoints`.
    pub ca: Option<String>,
}

impl StoreAccess {
    /// The endpoints as people read them: `etcd-1:2379, etcd-2:2379`.
    pub fn endpoints_text(&self) -> String {
        let texts: Vec<String> = self.endpoints.iter().map(|(host, port)| format!("{host}:{port}")).collect();
        texts.join(", ")
    }

    /// The etcd link of a component's service. The CA travels inside the link, so hosts need no file for it.
    pub fn etcd_link(
        &self,
        user: &str,
        password: &Secret<String>,
        node: &str,
    ) -> Result<Secret<String>, EtcdLinkError> {
        let authority = self.ca.clone().map(Authority::Pem);
        render_etcd_link(user, password, &self.endpoints, node, authority)
    }
}

/// `etcd://user:password@h1:2379,h2:2379/node[?ca=/path]`, percent-encoded.
pub fn render_etcd_link(
    user: &str,
    password: &Secret<String>,
    endpoints: &[(String, u16)],
    node: &str,
    authority: Option<Authority>,
) -> Result<Secret<String>, EtcdLinkError> {
    Ok(EtcdLink::new(user, password, endpoints, node, authority)?.expose())
}
