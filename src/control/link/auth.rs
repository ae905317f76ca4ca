//! Logging in with keys: named ones only when some are named, else the agent's and the usual files.

use std::{env, path::PathBuf, sync::Arc};

use russh::{
    MethodKind, MethodSet,
    client::{AuthResult, Handle},
    keys::{
        Algorithm, HashAlg, PrivateKeyWithHashAlg, PublicKey,
        agent::{AgentIdentity, client::AgentClient},
    },
};
use tokio::net::UnixStream;

use super::{
    connection::{State, Watcher},
    error::{LinkErrorKind, Phase},
    host_key::describe,
    private_key::{FoundKey, KeyError, LoadedKey, NeedsAgent, read_key_file},
    remote_text::one_line,
    target::{Identity, Target},
};

/// The most keys of an agent that are offered: servers count each refused key, six are too many by default
/// (`MaxAuthTries` of `sshd_config(5)`).
const MOST_AGENT_KEYS: usize = 5;
const USUAL_FILES: [&str; 3] = ["id_ed25519", "id_ecdsa", "id_rsa"];

type Agent = AgentClient<UnixStream>;

/// Keys to offer, in order, read from their files.
#[derive(Debug)]
pub(super) struct Credentials {
    keys: Vec<Offer>,
    /// Keys that cannot be offered, and why.
    passed_over: Vec<String>,
}

#[derive(Debug)]
enum Offer {
    Key(LoadedKey),
    /// A key that only the agent can use.
    Held {
        key: Box<PublicKey>,
        path: PathBuf,
        otherwise: NeedsAgent,
    },
    /// Whatever the agent has.
    Agent,
}

impl Credentials {
    pub(super) fn of(target: &Target) -> Result<Self, LinkErrorKind> {
        if target.identities.is_empty() {
            return Ok(Self::usual());
        }
        let offer = |identity: &Identity| -> Result<Offer, KeyError> {
            Ok(match identity {
                Identity::Agent => Offer::Agent,
                Identity::Loaded(key) => Offer::Key(key.clone()),
                Identity::KeyFile(path) => Offer::file(path.clone())?,
            })
        };
        let keys = target.identities.iter().map(offer).collect::<Result<_, _>>()?;
        Ok(Self { keys, passed_over: Vec::new() })
    }

    fn usual() -> Self {
        let mut this = Self { keys: Vec::new(), passed_over: Vec::new() };
        if agent_socket().is_some() {
            this.keys.push(Offer::Agent);
        }
        let Some(home) = directories::BaseDirs::new() else {
            return this;
        };
        let files = USUAL_FILES.map(|name| home.home_dir().join(".ssh").join(name));
        for path in files.into_iter().filter(|path| path.exists()) {
            match Offer::file(path) {
                Ok(offer) => this.keys.push(offer),
                Err(error) => this.passed_over.push(error.to_string()),
            }
        }
        this
    }

    /// Offers one key after another until the server takes one.
    pub(super) async fn log_in(
        &self,
        handle: &mut Handle<Watcher>,
        state: &State,
        target: &Target,
    ) -> Result<(), LinkErrorKind> {
        let mut login = Login {
            handle,
            state,
            user: &target.user,
            agent: None,
            tried: Vec::new(),
            offered: self.passed_over.clone(),
            accepts: Vec::new(),
        };
        // Only named keys may fail the login by themselves; the usual ones are passed over.
        let named = !target.identities.is_empty();
        for offer in &self.keys {
            let done = match offer {
                Offer::Key(key) => login.with_key(key).await?,
                Offer::Held { key, path, otherwise } => match login.with_held_key(key).await? {
                    Some(done) => done,
                    None if named => return Err(otherwise.error(path).into()),
                    None => {
                        login.offered.push(otherwise.error(path).to_string());
                        false
                    }
                },
                Offer::Agent => login.with_agent().await?,
            };
            if done {
                return Ok(());
            }
        }
        if login.tried.is_empty() && login.offered.is_empty() {
            return Err(LinkErrorKind::NoKeys { user: target.user.clone() });
        }
        Err(login.refused())
    }
}

impl Offer {
    fn file(path: PathBuf) -> Result<Self, KeyError> {
        Ok(match read_key_file(&path)? {
            FoundKey::Private(key) => Self::Key(key),
            FoundKey::Public { key, otherwise } => Self::Held { key, path, otherwise },
        })
    }
}

fn agent_socket() -> Option<PathBuf> {
    env::var_os("SSH_AUTH_SOCK").filter(|path| !path.is_empty()).map(PathBuf::from)
}

/// One login under way.
struct Login<'a> {
    handle: &'a mut Handle<Watcher>,
    state: &'a State,
    user: &'a str,
    agent: Option<(Agent, Vec<AgentIdentity>)>,
    /// Keys offered so far: the same key from agent and file costs the server's patience only once.
    tried: Vec<PublicKey>,
    /// The same for people.
    offered: Vec<String>,
    accepts: Vec<String>,
}

impl Login<'_> {
    async fn with_key(&mut self, key: &LoadedKey) -> Result<bool, LinkErrorKind> {
        let public = key.key().public_key().clone();
        if !self.begin(&public, key.label()) {
            return Ok(false);
        }
        let hash = self.rsa_hash(&public).await?;
        let signing = PrivateKeyWithHashAlg::new(Arc::clone(key.key()), hash);
        let result = self.handle.authenticate_publickey(self.user, signing).await;
        self.finish(result.map_err(|error| self.broken(&error))?)
    }

    /// None when the agent does not hold the key.
    async fn with_held_key(&mut self, key: &PublicKey) -> Result<Option<bool>, LinkErrorKind> {
        let identity = match self.agent().await {
            Some((_, held)) => held.iter().find(|identity| identity.public_key().key_data() == key.key_data()).cloned(),
            None => None,
        };
        match identity {
            Some(identity) => self.with_identity(&identity).await.map(Some),
            None => Ok(None),
        }
    }

    async fn with_agent(&mut self) -> Result<bool, LinkErrorKind> {
        let Some(identities) = self.agent().await.map(|(_, held)| held.clone()) else {
            self.offered.push("the agent does not answer".to_owned());
            return Ok(false);
        };
        for identity in identities.iter().take(MOST_AGENT_KEYS) {
            if self.with_identity(identity).await? {
                return Ok(true);
            }
        }
        if let more @ 1.. = identities.len().saturating_sub(MOST_AGENT_KEYS) {
            self.offered.push(format!("{more} more in the agent not offered: name one as `key`"));
        }
        Ok(false)
    }

    async fn with_identity(&mut self, identity: &AgentIdentity) -> Result<bool, LinkErrorKind> {
        let public = identity.public_key().into_owned();
        if !self.begin(&public, &format!("agent, {}", one_line(identity.comment()))) {
            return Ok(false);
        }
        let hash = self.rsa_hash(&public).await?;
        let Some((agent, _)) = &mut self.agent else {
            return Ok(false);
        };
        let result = match identity {
            AgentIdentity::PublicKey { key, .. } => {
                self.handle.authenticate_publickey_with(self.user, key.clone(), hash, agent).await
            }
            AgentIdentity::Certificate { certificate, .. } => {
                self.handle.authenticate_certificate_with(self.user, certificate.clone(), hash, agent).await
            }
        };
        match result {
            Ok(result) => self.finish(result),
            Err(error) if self.state.why_lost().is_none() => {
                self.note(&format!("the agent did not sign: {error}"));
                Ok(false)
            }
            Err(_) => Err(self.hung_up()),
        }
    }

    /// Writes down that a key is offered; false when it was offered before.
    fn begin(&mut self, public: &PublicKey, origin: &str) -> bool {
        if self.tried.iter().any(|tried| tried.key_data() == public.key_data()) {
            return false;
        }
        self.tried.push(public.clone());
        self.offered.push(format!("{} ({origin})", describe(public)));
        true
    }

    fn note(&mut self, text: &str) {
        if let Some(last) = self.offered.last_mut() {
            last.push_str(": ");
            last.push_str(text);
        }
    }

    /// The signature hash for an RSA key. Servers that do not say get SHA-512, which all since OpenSSH 7.2 know.
    async fn rsa_hash(&mut self, public: &PublicKey) -> Result<Option<HashAlg>, LinkErrorKind> {
        if !matches!(public.algorithm(), Algorithm::Rsa { .. }) {
            return Ok(None);
        }
        match self.handle.best_supported_rsa_hash().await {
            Ok(known) => Ok(known.flatten().or(Some(HashAlg::Sha512))),
            Err(error) => Err(self.broken(&error)),
        }
    }

    fn finish(&mut self, result: AuthResult) -> Result<bool, LinkErrorKind> {
        match result {
            AuthResult::Success => Ok(true),
            AuthResult::Failure { remaining_methods, partial_success: true } => {
                Err(LinkErrorKind::Partial { user: self.user.to_owned(), accepts: names(&remaining_methods) })
            }
            // russh says "refused" also when the connection broke meanwhile.
            AuthResult::Failure { .. } if self.state.why_lost().is_some() => Err(self.hung_up()),
            AuthResult::Failure { remaining_methods, .. } => {
                self.accepts = names(&remaining_methods);
                Ok(false)
            }
        }
    }

    fn hung_up(&self) -> LinkErrorKind {
        let why = self.state.why_lost().unwrap_or_default();
        // Not a broken connection but the server's way to refuse: `MaxAuthTries`, AllowUsers, PerSourcePenalties.
        if why.contains("authentication failures") {
            let mut offered = self.offered.clone();
            offered.push(why);
            return LinkErrorKind::Refusal { user: self.user.to_owned(), offered, accepts: self.accepts.clone() };
        }
        LinkErrorKind::Closed { phase: Phase::Authentication, why }
    }

    fn broken(&self, error: &russh::Error) -> LinkErrorKind {
        let why = self.state.why_lost().unwrap_or_else(|| super::connection::why_ended(error));
        LinkErrorKind::Closed { phase: Phase::Authentication, why }
    }

    fn refused(self) -> LinkErrorKind {
        LinkErrorKind::Refusal { user: self.user.to_owned(), offered: self.offered, accepts: self.accepts }
    }

    /// The agent and what it holds; none when there is none or it does not answer.
    async fn agent(&mut self) -> Option<&(Agent, Vec<AgentIdentity>)> {
        if self.agent.is_none() {
            let mut agent = AgentClient::connect_uds(agent_socket()?).await.ok()?;
            let held = agent.request_identities().await.ok()?;
            self.agent = Some((agent, held));
        }
        self.agent.as_ref()
    }
}

fn names(methods: &MethodSet) -> Vec<String> {
    methods.iter().map(|method: &MethodKind| String::from(method)).collect()
}
