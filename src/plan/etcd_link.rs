//! The etcd link: where a service finds its configuration and the login to read it, in one line of text.
//!
//! `etcd://user:password@host:2379,host2:2379/prefix?ca=/path` as in RFC 3986, but with a list of hosts. User, password
//! and node are percent-encoded. A CA is named by its path (`ca=`) or carried along (`cert=`, the base64 body of a
//! PEM block, repeatable), so that a host needs no second file.

use std::{fmt, str::FromStr};

use super::{HostPath, Secret};

/// The port that etcd clients use when none is given (IANA: etcd-client).
const DEFAULT_PORT: u16 = 2379;
/// Longer texts are refused before anything is looked at.
const MAX_LENGTH: usize = 64 * 1024;
/// More members than any etcd cluster has.
const MAX_ENDPOINTS: usize = 64;

const PEM_BEGIN: &str = "-----BEGIN CERTIFICATE-----";
const PEM_END: &str = "-----END CERTIFICATE-----";

/// Where a service finds its configuration and the login to read it. Valid once it exists; prints without password.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct EtcdLink {
    user: String,
    password: Secret<String>,
    endpoints: Vec<(String, u16)>,
    node: String,
    authority: Option<Authority>,
}

/// The CA that etcd's certificate is checked against. Having one means TLS.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Authority {
    /// A PEM file on the machine that uses the link.
    File(HostPath),
    /// The PEM text itself: one or more certificates.
    Pem(String),
}

/// Why a text is not an etcd link. Never holds the text: it may contain a password.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("not an etcd link: {0}")]
pub struct EtcdLinkError(&'static str);

impl EtcdLink {
    /// A link from its parts. `node` is a key's path: it gets a leading `/` and loses trailing ones.
    pub fn new(
        user: &str,
        password: &Secret<String>,
        endpoints: &[(String, u16)],
        node: &str,
        authority: Option<Authority>,
    ) -> Result<Self, EtcdLinkError> {
        if user.is_empty() || user.chars().any(char::is_control) {
            return Err(EtcdLinkError("the user is missing or has control characters"));
        }
        if password.expose().is_empty() {
            return Err(EtcdLinkError("the password is missing"));
        }
        if endpoints.is_empty() || endpoints.len() > MAX_ENDPOINTS {
            return Err(EtcdLinkError("it must name 1 to 64 hosts"));
        }
        if endpoints.iter().any(|(host, port)| *port == 0 || !is_host(host)) {
            return Err(EtcdLinkError("a host or port is not one"));
        }
        if let Some(Authority::Pem(pem)) = &authority
            && pem_bodies(pem)?.is_empty()
        {
            return Err(EtcdLinkError("the CA holds no certificate"));
        }
        Ok(Self {
            user: user.to_owned(),
            password: password.clone(),
            endpoints: endpoints.to_vec(),
            node: node_path(node)?,
            authority,
        })
    }

    /// Who logs in.
    pub fn user(&self) -> &str {
        &self.user
    }

    /// The password of that user.
    pub fn password(&self) -> &Secret<String> {
        &self.password
    }

    /// Members to try, host (without brackets) and port; at least one.
    pub fn endpoints(&self) -> &[(String, u16)] {
        &self.endpoints
    }

    /// The key that everything about the service lies below: begins with `/`, does not end with one.
    pub fn node(&self) -> &str {
        &self.node
    }

    /// The CA, when etcd speaks TLS.
    pub fn authority(&self) -> Option<&Authority> {
        self.authority.as_ref()
    }

    /// The whole text with the password, for the one file or argument that needs it.
    pub fn expose(&self) -> Secret<String> {
        Secret::new(self.text(&encode(self.password.expose(), false)))
    }

    fn text(&self, password: &str) -> String {
        let hosts: Vec<String> = self
            .endpoints
            .iter()
            .map(|(host, port)| if host.contains(':') { format!("[{host}]:{port}") } else { format!("{host}:{port}") })
            .collect();
        let mut text =
            format!("etcd://{}:{password}@{}{}", encode(&self.user, false), hosts.join(","), encode(&self.node, true));
        match &self.authority {
            None => {}
            Some(Authority::File(path)) => text.extend(["?ca=", &encode(path.as_str(), true)]),
            Some(Authority::Pem(pem)) => {
                for (index, body) in pem_bodies(pem).unwrap_or_default().iter().enumerate() {
                    text.extend([if index == 0 { "?cert=" } else { "&cert=" }, &encode(body, false)]);
                }
            }
        }
        text
    }
}

impl fmt::Display for EtcdLink {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let text = self.text("***");
        // A carried certificate is no secret, but long and of no use to a reader.
        f.write_str(text.split("?cert=").next().unwrap_or_default())
    }
}

impl FromStr for EtcdLink {
    type Err = EtcdLinkError;

    fn from_str(text: &str) -> Result<Self, EtcdLinkError> {
        if text.len() > MAX_LENGTH {
            return Err(EtcdLinkError("it is longer than 64 KiB"));
        }
        let rest = text.strip_prefix("etcd://").ok_or(EtcdLinkError("it must begin with `etcd://`"))?;
        if rest.contains('#') {
            return Err(EtcdLinkError("a `#` must be written `%23`"));
        }
        let (rest, query) = rest.split_once('?').unwrap_or((rest, ""));
        let (place, node) = match rest.find('/') {
            Some(at) => rest.split_at(at),
            None => (rest, ""),
        };
        let (login, hosts) =
            place.split_once('@').ok_or(EtcdLinkError("the login is missing: `user:password@` before the host"))?;
        if hosts.contains('@') {
            return Err(EtcdLinkError("a `@` in user or password must be written `%40`"));
        }
        let (user, password) = login.split_once(':').ok_or(EtcdLinkError("the password is missing"))?;
        if password.contains(':') {
            return Err(EtcdLinkError("a `:` in the password must be written `%3A`"));
        }
        let endpoints = hosts.split(',').map(endpoint).collect::<Result<Vec<_>, _>>()?;
        Self::new(&decode(user)?, &Secret::new(decode(password)?), &endpoints, &decode(node)?, authority(query)?)
    }
}

fn endpoint(text: &str) -> Result<(String, u16), EtcdLinkError> {
    let bad = EtcdLinkError("a host must be written `name`, `name:port` or `[IPv6 address]:port`");
    let (host, port) = match text.strip_prefix('[') {
        Some(rest) => {
            let (host, port) = rest.split_once(']').ok_or_else(|| bad.clone())?;
            host.parse::<std::net::Ipv6Addr>().map_err(|_| bad.clone())?;
            let port = if port.is_empty() { None } else { Some(port.strip_prefix(':').ok_or_else(|| bad.clone())?) };
            (host, port)
        }
        None => match text.split_once(':') {
            Some((host, port)) => (host, Some(port)),
            None => (text, None),
        },
    };
    let port = port.map_or(Ok(DEFAULT_PORT), |port| port.parse().map_err(|_| bad))?;
    Ok((host.to_owned(), port))
}

fn authority(query: &str) -> Result<Option<Authority>, EtcdLinkError> {
    let mut authority = None;
    for pair in query.split('&').filter(|pair| !pair.is_empty()) {
        authority = match (pair.split_once('='), authority) {
            (Some(("ca", path)), None) => {
                let path = decode(path)?.parse().map_err(|_| EtcdLinkError("`ca` must be an absolute path"))?;
                Some(Authority::File(path))
            }
            (Some(("cert", body)), None) => Some(Authority::Pem(pem(&decode(body)?)?)),
            (Some(("cert", body)), Some(Authority::Pem(text))) => Some(Authority::Pem(text + &pem(&decode(body)?)?)),
            (Some(("ca" | "cert", _)), Some(_)) => return Err(EtcdLinkError("it names more than one CA")),
            _ => return Err(EtcdLinkError("after `?` only `ca=` and `cert=` are known")),
        };
    }
    Ok(authority)
}

/// A PEM block from its base64 body (RFC 7468: lines of 64).
fn pem(body: &str) -> Result<String, EtcdLinkError> {
    let is_base64 = |byte: &u8| byte.is_ascii_alphanumeric() || matches!(byte, b'+' | b'/' | b'=');
    if body.is_empty() || !body.as_bytes().iter().all(is_base64) {
        return Err(EtcdLinkError("`cert` must be the base64 body of a certificate"));
    }
    let lines: Vec<&str> =
        body.as_bytes().chunks(64).map(|line| std::str::from_utf8(line).unwrap_or_default()).collect();
    Ok(format!("{PEM_BEGIN}\n{}\n{PEM_END}\n", lines.join("\n")))
}

/// The base64 bodies of all certificates in a PEM text.
fn pem_bodies(text: &str) -> Result<Vec<String>, EtcdLinkError> {
    let mut bodies = Vec::new();
    for block in text.split(PEM_BEGIN).skip(1) {
        let (body, _) = block.split_once(PEM_END).ok_or(EtcdLinkError("the CA's PEM block has no end"))?;
        bodies.push(body.chars().filter(|c| !c.is_whitespace()).collect());
    }
    Ok(bodies)
}

fn is_host(host: &str) -> bool {
    host.parse::<std::net::Ipv6Addr>().is_ok()
        || ((1..=253).contains(&host.len())
            && host.chars().all(|c| c.is_ascii_alphanumeric() || matches!(c, '-' | '.' | '_')))
}

fn node_path(node: &str) -> Result<String, EtcdLinkError> {
    let node = node.trim_matches('/');
    if node.is_empty() || node.chars().any(char::is_control) || node.split('/').any(str::is_empty) {
        return Err(EtcdLinkError("the path that it points to is missing or has empty parts"));
    }
    Ok(format!("/{node}"))
}

/// Percent-encodes everything but RFC 3986's unreserved characters (and `/` where it separates).
fn encode(text: &str, keep_slash: bool) -> String {
    use fmt::Write as _;
    let mut encoded = String::with_capacity(text.len());
    for byte in text.bytes() {
        if byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'.' | b'_' | b'~') || (keep_slash && byte == b'/') {
            encoded.push(char::from(byte));
        } else {
            // Writing to a String cannot fail.
            let _ = write!(encoded, "%{byte:02X}");
        }
    }
    encoded
}

fn decode(text: &str) -> Result<String, EtcdLinkError> {
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.as_bytes();
    while let Some((&byte, tail)) = rest.split_first() {
        rest = tail;
        if byte != b'%' {
            bytes.push(byte);
            continue;
        }
        let digit = |at: usize| tail.get(at).and_then(|digit| char::from(*digit).to_digit(16));
        let (Some(high), Some(low)) = (digit(0), digit(1)) else {
            return Err(EtcdLinkError("a `%` must be followed by two hexadecimal digits"));
        };
        bytes.push(u8::try_from(high * 16 + low).unwrap_or_default());
        rest = &tail[2..];
    }
    String::from_utf8(bytes).map_err(|_| EtcdLinkError("it is not UTF-8 after percent-decoding"))
}

#[cfg(test)]
mod tests {
    use super::*;

    const PASSWORD: &str = "canary:@/?#%ä";

    fn link(authority: Option<Authority>) -> EtcdLink {
        let endpoints = [("etcd-1".to_owned(), 2379), ("fd00::1".to_owned(), 2380)];
        EtcdLink::new("a user", &Secret::new(PASSWORD.to_owned()), &endpoints, "/ovs/launch/x/", authority).unwrap()
    }

    #[test]
    fn text_and_back() {
        let pem = pem("QUJD+/8=").unwrap() + &pem(&"A".repeat(100)).unwrap();
        for authority in [None, Some(Authority::File("/etc/ca.pem".parse().unwrap())), Some(Authority::Pem(pem))] {
            let link = link(authority);
            assert_eq!(link.expose().expose().parse::<EtcdLink>().unwrap(), link);
        }
    }

    #[test]
    fn the_form_is_the_documented_one() {
        let link: EtcdLink = "etcd://agent:pw@etcd:2379/ovs/agent/launch/node-1/agent".parse().unwrap();
        assert_eq!((link.user(), link.password().expose().as_str()), ("agent", "pw"));
        assert_eq!(link.endpoints(), [("etcd".to_owned(), 2379)]);
        assert_eq!(link.node(), "/ovs/agent/launch/node-1/agent");
        assert_eq!(link.authority(), None);
        let link: EtcdLink = "etcd://a:b@h,[::1]:99/n?ca=/c%20a".parse().unwrap();
        assert_eq!(link.endpoints(), [("h".to_owned(), 2379), ("::1".to_owned(), 99)]);
        assert_eq!(link.authority(), Some(&Authority::File("/c a".parse().unwrap())));
    }

    #[test]
    fn the_password_is_not_seen() {
        let link = link(None);
        assert_eq!(link.to_string(), "etcd://a%20user:***@etcd-1:2379,[fd00::1]:2380/ovs/launch/x");
        assert!(!format!("{link:?} {link}").contains("canary"));
    }

    #[test]
    fn bad_links_are_refused_without_their_text() {
        for bad in [
            "",
            "http://u:canary@h/n",
            "etcd://h/n",
            "etcd://u@h/n",
            "etcd://u:@h/n",
            "etcd://:canary@h/n",
            "etcd://u:canary@/n",
            "etcd://u:canary@h:0/n",
            "etcd://u:canary@h:99999/n",
            "etcd://u:canary@h:x/n",
            "etcd://u:canary@h,/n",
            "etcd://u:canary@[::1/n",
            "etcd://u:canary@[x]:1/n",
            "etcd://u:canary@h",
            "etcd://u:canary@h/",
            "etcd://u:canary@h/a//b",
            "etcd://u:canary%4@h/n",
            "etcd://u:canary%zz@h/n",
            "etcd://u:canary%ff@h/n",
            "etcd://u:can:ary@h/n",
            "etcd://u:can@ary@h/n",
            "etcd://u:canary@h/n#x",
            "etcd://u:canary@h/n?x=1",
            "etcd://u:canary@h/n?ca=relative",
            "etcd://u:canary@h/n?ca=/a&ca=/b",
            "etcd://u:canary@h/n?ca=/a&cert=QUJD",
            "etcd://u:canary@h/n?cert=",
            "etcd://u:canary@h/n?cert=%0A",
        ] {
            let error = bad.parse::<EtcdLink>().expect_err(bad);
            assert!(!format!("{error} {error:?}").contains("canary"), "{bad}");
        }
        let long = format!("etcd://u:{}@h/n", "x".repeat(MAX_LENGTH));
        assert!(long.parse::<EtcdLink>().is_err());
    }
}
