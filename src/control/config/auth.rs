//! Authentication: switched on for the whole etcd, and one login per component that may read its own prefix only.
//!
//! Every step looks before it writes and takes "already so" for done, so a run that was cut off anywhere is finished
//! by the next one.

use std::fmt;

use etcd_client::{Error, Permission, PermissionType, RoleRevokePermissionOptions};

use super::{connection::Meaning, error::ConfigError, store::Store, store::range_end};
use crate::plan::{Action, ComponentName, Secret};

/// The user and role that etcd itself asks for before authentication can be enabled.
const ROOT: &str = "root";

/// A part of the store that a login may touch.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Grant {
    /// A whole key; one that ends in `/` stands for all keys below it.
    pub key: String,
    /// Whether it may write there; it may read in any case.
    pub write: bool,
}

impl Grant {
    /// Reading only.
    pub fn read(key: impl Into<String>) -> Self {
        Self { key: key.into(), write: false }
    }

    /// Reading and writing.
    pub fn write(key: impl Into<String>) -> Self {
        Self { key: key.into(), write: true }
    }

    /// The end of its range as etcd stores it; empty for one key.
    fn end(&self) -> Vec<u8> {
        if self.key.ends_with('/') { range_end(&self.key) } else { Vec::new() }
    }

    fn is(&self, permission: &Permission) -> bool {
        let wanted = if self.write { PermissionType::Readwrite } else { PermissionType::Read };
        self.is_range_of(permission) && permission.get_type() == i32::from(wanted)
    }

    /// Whether it is about the same keys.
    fn is_range_of(&self, permission: &Permission) -> bool {
        permission.key() == self.key.as_bytes() && permission.range_end() == self.end()
    }

    fn permission(&self) -> Permission {
        let key = self.key.as_str();
        let permission = if self.write { Permission::read_write(key) } else { Permission::read(key) };
        if self.key.ends_with('/') { permission.with_prefix() } else { permission }
    }

    fn details(&self) -> String {
        format!("may {} `{}`", if self.write { "write" } else { "read" }, self.key)
    }
}

/// Whether a login is only looked at, or made so.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LoginMode {
    /// Says what differs; writes nothing.
    Check,
    /// Makes it so.
    Apply,
}

/// A login that differs from what it should be.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AuthChange {
    /// The user; `root` stands for authentication as a whole.
    pub user: String,
    /// Whether it is new.
    pub action: Action,
    /// What differs, in words: `new user`, `password`.
    pub details: Vec<String>,
}

impl fmt::Display for AuthChange {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "etcd login `{}`: {}", self.user, self.details.join(", "))
    }
}

impl Store {
    /// Switches authentication on: the root user with our password, the root role, and enabling. From any half-done
    /// state; nothing is written when authentication is on (opening proved our password then).
    pub async fn ensure_auth(&self, mode: LoginMode) -> Result<Option<AuthChange>, ConfigError> {
        if self.auth_enabled() {
            return Ok(None);
        }
        let access = self.access();
        if access.user != ROOT {
            let user = access.user.clone();
            return Err(ConfigError::BadLogin { user, why: "cannot switch authentication on: only `root` can" });
        }
        if mode == LoginMode::Apply {
            if self.auth_was_enabled().await {
                return Ok(None);
            }
            if let Err(error) = self.enable_auth(access.password.expose()).await {
                // Another run may have been faster: what is left of our steps is refused then.
                return if self.auth_was_enabled().await { Ok(None) } else { Err(error) };
            }
            self.auth_is_on().await?;
        }
        let details = vec!["authentication enabled".to_owned()];
        Ok(Some(AuthChange { user: ROOT.to_owned(), action: Action::Create, details }))
    }

    async fn enable_auth(&self, password: &str) -> Result<(), ConfigError> {
        self.ensure_user(ROOT, password).await?;
        self.accept(
            Meaning::Exists,
            "add role `root`",
            |mut client| async move { client.role_add(ROOT).await.map(drop) },
        )
        .await?;
        self.accept(Meaning::Exists, "grant role `root`", |mut client| async move {
            client.user_grant_role(ROOT, ROOT).await.map(drop)
        })
        .await?;
        self.connection
            .call("enable authentication", |mut client| async move { client.auth_enable().await.map(drop) })
            .await
    }

    /// A component's own login: user and role named after it, which may do what the grants say and nothing else. Whether the password is right is found out by logging in with it.
    pub async fn ensure_login(
        &self,
        component: &ComponentName,
        grants: &[Grant],
        password: &Secret<String>,
        mode: LoginMode,
    ) -> Result<Option<AuthChange>, ConfigError> {
        let user = component.as_str();
        let bad = |why| Err(ConfigError::BadLogin { user: user.to_owned(), why });
        if user == ROOT || user == self.access().user {
            return bad("is the administrator's; a component needs another name");
        }
        if password.expose().is_empty() {
            return bad("needs a password");
        }
        if grants.is_empty() || grants.iter().any(|grant| !grant.key.starts_with('/') || grant.key.len() < 2) {
            return bad("needs keys to read, which begin with `/`");
        }
        if mode == LoginMode::Apply {
            self.require_auth()?;
        }
        let _turn = self.granting.lock().await;
        let mut details = Vec::new();
        self.ensure_role(user, grants, mode, &mut details).await?;
        let roles = self.roles_of(user).await?;
        match &roles {
            None => details.push("new user".to_owned()),
            Some(_) if !self.auth_enabled() || self.knows(user, password).await? => {}
            Some(_) => details.push("password".to_owned()),
        }
        let roles = roles.unwrap_or_default();
        let surplus: Vec<String> = roles.iter().filter(|role| *role != user).cloned().collect();
        details.extend(surplus.iter().map(|role| format!("role `{role}` taken away")));
        let missing = !roles.iter().any(|role| role == user);
        if missing && !details.iter().any(|detail| detail == "new user") {
            details.push("its role".to_owned());
        }
        if details.is_empty() {
            return Ok(None);
        }
        if mode == LoginMode::Apply {
            if details.iter().any(|detail| detail == "new user" || detail == "password") {
                self.ensure_user(user, password.expose()).await?;
            }
            if missing {
                self.accept(Meaning::Exists, &format!("grant role `{user}`"), |mut client| async move {
                    client.user_grant_role(user, user).await.map(drop)
                })
                .await?;
            }
            for role in &surplus {
                self.accept(Meaning::Missing, &format!("revoke role `{role}`"), |mut client| async move {
                    client.user_revoke_role(user, role.as_str()).await.map(drop)
                })
                .await?;
            }
        }
        let action = if details.iter().any(|detail| detail == "new user") { Action::Create } else { Action::Modify };
        Ok(Some(AuthChange { user: user.to_owned(), action, details }))
    }

    /// Takes a component's login away: user and role. None when there is neither.
    pub async fn drop_login(
        &self,
        component: &ComponentName,
        mode: LoginMode,
    ) -> Result<Option<AuthChange>, ConfigError> {
        let user = component.as_str();
        if user == ROOT || user == self.access().user {
            return Ok(None);
        }
        let mut details = Vec::new();
        if self.roles_of(user).await?.is_some() {
            details.push("user".to_owned());
        }
        let role = self.connection.raw(|mut client| async move { client.role_get(user).await }).await;
        match role {
            Ok(_) => details.push("role".to_owned()),
            Err(error) if Meaning::of(&error) == Meaning::Missing => {}
            Err(error) => return Err(self.connection.explain(&format!("read role `{user}`"), error)),
        }
        if details.is_empty() {
            return Ok(None);
        }
        if mode == LoginMode::Apply {
            self.accept(Meaning::Missing, &format!("remove user `{user}`"), |mut client| async move {
                client.user_delete(user).await.map(drop)
            })
            .await?;
            self.accept(Meaning::Missing, &format!("remove role `{user}`"), |mut client| async move {
                client.role_delete(user).await.map(drop)
            })
            .await?;
        }
        Ok(Some(AuthChange { user: user.to_owned(), action: Action::Remove, details }))
    }

    /// The role with exactly these permissions.
    async fn ensure_role(
        &self,
        role: &str,
        grants: &[Grant],
        mode: LoginMode,
        details: &mut Vec<String>,
    ) -> Result<(), ConfigError> {
        let found = self.connection.raw(|mut client| async move { client.role_get(role).await }).await;
        let permissions = match found {
            Ok(found) => Some(found.permissions()),
            Err(error) if Meaning::of(&error) == Meaning::Missing => None,
            Err(error) => return Err(self.connection.explain(&format!("read role `{role}`"), error)),
        };
        let found: &[Permission] = permissions.as_deref().unwrap_or_default();
        let missing: Vec<&Grant> =
            grants.iter().filter(|grant| !found.iter().any(|permission| grant.is(permission))).collect();
        if permissions.is_none() {
            details.push("new role".to_owned());
        }
        details.extend(missing.iter().map(|grant| grant.details()));
        // A permission on the same range is replaced by the grant, not added to.
        let is_surplus = |permission: &&Permission| !grants.iter().any(|grant| grant.is_range_of(permission));
        let surplus: Vec<Permission> = found.iter().filter(is_surplus).cloned().collect();
        for permission in &surplus {
            details.push(format!("may no longer touch `{}`", String::from_utf8_lossy(permission.key())));
        }
        if mode == LoginMode::Check {
            return Ok(());
        }
        if permissions.is_none() {
            self.accept(Meaning::Exists, &format!("add role `{role}`"), |mut client| async move {
                client.role_add(role).await.map(drop)
            })
            .await?;
        }
        for grant in missing {
            self.connection
                .call(&format!("grant `{role}` its keys"), |mut client| async move {
                    client.role_grant_permission(role, grant.permission()).await.map(drop)
                })
                .await?;
        }
        for permission in &surplus {
            self.accept(Meaning::Missing, &format!("revoke a permission of `{role}`"), |mut client| async move {
                let options = RoleRevokePermissionOptions::new().with_range_end(permission.range_end());
                client.role_revoke_permission(role, permission.key(), Some(options)).await.map(drop)
            })
            .await?;
        }
        Ok(())
    }

    /// The roles of a user; none when there is no such user.
    async fn roles_of(&self, user: &str) -> Result<Option<Vec<String>>, ConfigError> {
        match self.connection.raw(|mut client| async move { client.user_get(user).await }).await {
            Ok(found) => Ok(Some(found.roles().to_vec())),
            Err(error) if Meaning::of(&error) == Meaning::Missing => Ok(None),
            Err(error) => Err(self.connection.explain(&format!("read user `{user}`"), error)),
        }
    }

    /// Whether etcd takes this password for the user.
    async fn knows(&self, user: &str, password: &Secret<String>) -> Result<bool, ConfigError> {
        let login = self
            .connection
            .raw(|client| {
                let password = password.expose().clone();
                async move { client.auth_client().authenticate(user.to_owned(), password).await.map(drop) }
            })
            .await;
        match login {
            Ok(()) => Ok(true),
            Err(error) if Meaning::of(&error) == Meaning::LoginRefused => Ok(false),
            Err(error) => Err(self.connection.explain(&format!("log in as `{user}`"), error)),
        }
    }

    /// A user with this password, made or changed.
    async fn ensure_user(&self, user: &str, password: &str) -> Result<(), ConfigError> {
        let added = self
            .connection
            .raw(|mut client| async move { client.user_add(user, password, None).await.map(drop) })
            .await;
        match added {
            Ok(()) => return Ok(()),
            Err(error) if Meaning::of(&error) == Meaning::Exists => {}
            Err(error) => return Err(self.connection.explain(&format!("add user `{user}`"), error)),
        }
        self.connection
            .call(&format!("change the password of `{user}`"), |mut client| async move {
                client.user_change_password(user, password).await.map(drop)
            })
            .await
    }

    /// A call whose "it is so already" counts as done.
    async fn accept<F, Fut>(&self, done: Meaning, what: &str, call: F) -> Result<(), ConfigError>
    where
        F: Fn(etcd_client::Client) -> Fut,
        Fut: Future<Output = Result<(), Error>>,
    {
        match self.connection.raw(call).await {
            Err(error) if Meaning::of(&error) != done => Err(self.connection.explain(what, error)),
            _ => Ok(()),
        }
    }
}
