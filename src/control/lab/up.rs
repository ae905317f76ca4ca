//! Makes, makes anew and starts containers.

use std::time::{Duration, Instant};

use bollard::{
    body_full,
    models::PortBinding,
    query_parameters::{
        CreateContainerOptionsBuilder, DownloadFromContainerOptionsBuilder, RemoveContainerOptions,
        RemoveContainerOptionsBuilder, RenameContainerOptionsBuilder, StartContainerOptions,
        StopContainerOptionsBuilder, UploadToContainerOptionsBuilder,
    },
};
use bytes::BytesMut;
use futures::{StreamExt as _, TryStreamExt as _, stream};

use super::{
    Engine, Grants, LabError, Sight, State, Survey,
    access::{Account, first_file},
    address::{ask, asked, endpoint, lab_endpoint},
    engine::CHANGE,
    ground::{Settled, Work},
    names,
    payload::Subject,
    sight::{AT_ONCE, Wanted},
    spec::Spec,
};
use crate::{
    control::{inventory::Inventory, link::Keyring},
    plan::{Action, HostName},
};

/// Seconds that a container's services have to end before they are killed. Docker's own default.
pub(super) const GRACE: i32 = 10;
/// For stopping: the grace, and then the engine's own work.
pub(super) const STOP: Duration = Duration::from_secs(40);

/// One container was created, recreated or started.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct UpEvent {
    /// Its host.
    pub host: HostName,
    /// Create, modify (made anew) or start.
    pub action: Action,
    /// Why, in words: `does not exist`, `image changed`.
    pub why: String,
    /// How long it took in milliseconds.
    pub millis: u64,
    /// What the container may do beyond a bare one's rights; none when nothing, or when it was only started.
    pub grants: Option<Grants>,
}

/// What [`Engine::up`] did.
#[derive(Debug, Default)]
#[must_use = "failures of single hosts are in here"]
pub struct UpReport {
    /// Hosts whose container did not exist before and was created. When a run cannot go on, these are to be removed with
    /// [`Engine::remove`]; containers that were there before are not.
    pub created: Vec<HostName>,
    /// Hosts whose container was made anew; named volumes were kept.
    pub recreated: Vec<HostName>,
    /// Hosts whose stopped container was started.
    pub started: Vec<HostName>,
    /// Hosts that failed, each with its reason. What was made for them is removed again, and a container that was to be
    /// replaced is back and as it was; without its network, when that had to be made anew.
    pub failed: Vec<(HostName, LabError)>,
    /// What somebody should know about the lab's network.
    pub notice: Option<String>,
}

impl UpReport {
    /// The first failure as an error, for who needs all or nothing.
    pub fn into_result(mut self) -> Result<Self, LabError> {
        if self.failed.is_empty() { Ok(self) } else { Err(self.failed.swap_remove(0).1) }
    }
}

impl Engine {
    /// Makes the containers of these hosts run as the inventory wants them: missing ones are created with their keys in
    /// place, stopped ones started, different ones made anew (named volumes stay). Hosts that are no containers are passed
    /// over. `on_event` is called as each one is done, at most four being worked on at once.
    ///
    /// Errors before anything is touched are those of [`Engine::foresee`]; a failure of one host does not stop the others and
    /// is in the report. Running means that the container started, not that its SSH answers yet.
    pub async fn up(
        &self,
        inventory: &Inventory,
        hosts: &[HostName],
        keyring: &Keyring,
        on_event: impl Fn(UpEvent) + Send + Sync,
    ) -> Result<UpReport, LabError> {
        let wanted = self.wanted(inventory, hosts).await?;
        let ground = self.ground(inventory, &wanted).await?;
        let sights = self.sights(&wanted, &ground, keyring).await?;
        let work: Vec<Work<'_, '_>> =
            wanted.iter().zip(sights).filter(|(_, sight)| sight.state != State::Running).collect();
        let mut report = UpReport { notice: ground.notice(), ..UpReport::default() };
        if work.is_empty() {
            return Ok(report);
        }
        self.preflight(&work).await?;
        let settled = &self.settle(inventory, &ground, &work).await?;
        let mut results = stream::iter(&work)
            .map(|(wanted, sight)| async move {
                let begin = Instant::now();
                let result = self.bring_up(wanted, sight, settled, keyring).await;
                (*wanted, sight, result, u64::try_from(begin.elapsed().as_millis()).unwrap_or(u64::MAX))
            })
            .buffer_unordered(AT_ONCE);
        while let Some((wanted, sight, result, millis)) = results.next().await {
            let host = sight.host.clone();
            match (result, sight.needs()) {
                (Err(error), _) => report.failed.push((host, error)),
                (Ok(()), Some((action, why))) => {
                    match action {
                        Action::Create => report.created.push(host.clone()),
                        Action::Modify => report.recreated.push(host.clone()),
                        _ => report.started.push(host.clone()),
                    }
                    let grants = if action == Action::Start { None } else { wanted.grants() };
                    on_event(UpEvent { host, action, why, millis, grants });
                }
                (Ok(()), None) => {}
            }
        }
        Ok(report)
    }

    /// How the containers of these hosts are, and whether [`Engine::up`] could make them as they should be. Hosts that are no
    /// containers are passed over. Makes nothing, but keys for hosts whose container exists already.
    ///
    /// The errors are those with which `up` would refuse to begin: a wrong setting, a missing image, a container or network of
    /// the same name that is not this lab's, a subnet or address that cannot be had, a device or network that is missing, a
    /// published port that somebody has.
    pub async fn foresee(
        &self,
        inventory: &Inventory,
        hosts: &[HostName],
        keyring: &Keyring,
    ) -> Result<Survey, LabError> {
        let wanted = self.wanted(inventory, hosts).await?;
        let ground = self.ground(inventory, &wanted).await?;
        let sights = self.sights(&wanted, &ground, keyring).await?;
        let work: Vec<Work<'_, '_>> =
            wanted.iter().zip(sights.iter().cloned()).filter(|(_, sight)| sight.state != State::Running).collect();
        if !work.is_empty() {
            self.preflight(&work).await?;
            self.expect_ground(inventory, &ground, &work).await?;
        }
        Ok(Survey { sights, notice: ground.notice() })
    }

    async fn bring_up(
        &self,
        wanted: &Wanted<'_>,
        sight: &Sight,
        settled: &Settled,
        keyring: &Keyring,
    ) -> Result<(), LabError> {
        match (&sight.state, &sight.id) {
            (State::Running, _) => Ok(()),
            (State::Stopped, Some(id)) => self.resume(&wanted.subject, id).await,
            (State::Different { .. }, Some(id)) => {
                let ran = settled.stopped.contains(id);
                self.replace(&wanted.subject, &addressed(wanted, settled, keyring)?, id, ran).await
            }
            _ => {
                // It may run again after a restart of the engine, and has the address that its successor gets.
                if let Some(id) = self.leftover(&wanted.subject).await? {
                    self.stop_container(&names::replaced(wanted.subject.lab, wanted.subject.host), &id).await?;
                }
                self.make(&wanted.subject, &addressed(wanted, settled, keyring)?).await?;
                self.remove_leftover(&wanted.subject).await
            }
        }
    }

    /// Creates, places the keys, starts. What was created is removed again when a later part fails.
    async fn make(&self, subject: &Subject<'_>, spec: &Spec) -> Result<(), LabError> {
        let id = self.create(subject, spec).await?;
        let made = async {
            self.place_keys(subject, spec, &id).await?;
            let started = self.start_container(subject, &id).await;
            started.map_err(|error| address_conflict(subject, spec, &error).unwrap_or(error))
        };
        if let Err(error) = made.await {
            if let Err(more) = self.remove_container(&id).await {
                tracing::warn!(host = %subject.host, %more, "a half-made container could not be removed");
            }
            return Err(error);
        }
        Ok(())
    }

    /// Makes a container anew. The old one steps aside until its successor runs, and comes back if that fails; it `ran` when
    /// it runs, or was stopped before for this.
    async fn replace(&self, subject: &Subject<'_>, spec: &Spec, old: &str, ran: bool) -> Result<(), LabError> {
        let (name, aside) = (names::container(subject.lab, subject.host), names::replaced(subject.lab, subject.host));
        self.remove_leftover(subject).await?;
        let ran = ran || self.inspected(old).await?.is_some_and(|found| found.state.running);
        self.stop_container(&name, old).await?;
        self.rename(old, &aside).await?;
        match self.make(subject, spec).await {
            Ok(()) => self.remove_container(old).await,
            Err(error) => {
                if let Err(more) = self.put_back(subject, old, ran).await {
                    tracing::warn!(host = %subject.host, %more, "the container that was to be replaced is not back");
                }
                Err(error)
            }
        }
    }

    async fn put_back(&self, subject: &Subject<'_>, old: &str, ran: bool) -> Result<(), LabError> {
        self.rename(old, &names::container(subject.lab, subject.host)).await?;
        if ran { self.start_container(subject, old).await } else { Ok(()) }
    }

    async fn remove_leftover(&self, subject: &Subject<'_>) -> Result<(), LabError> {
        match self.leftover(subject).await? {
            Some(id) => self.remove_container(&id).await,
            None => Ok(()),
        }
    }

    /// The id of a predecessor that an earlier run, ended in the middle, left aside.
    async fn leftover(&self, subject: &Subject<'_>) -> Result<Option<String>, LabError> {
        let aside = names::replaced(subject.lab, subject.host);
        match self.inspected(&aside).await? {
            Some(found) if super::sight::is_ours(&found.config.labels, subject.lab, subject.host) => Ok(Some(found.id)),
            Some(_) => Err(LabError::ForeignContainer { name: aside, owner: "was not made by ovs-cuisine".to_owned() }),
            None => Ok(None),
        }
    }

    async fn resume(&self, subject: &Subject<'_>, id: &str) -> Result<(), LabError> {
        let is_paused = self.inspected(id).await?.is_some_and(|found| found.state.status == "paused");
        if is_paused {
            let action = format!("resume container `{}`", names::container(subject.lab, subject.host));
            return self.call(&action, CHANGE, self.docker().unpause_container(id)).await;
        }
        self.start_container(subject, id).await
    }

    async fn create(&self, subject: &Subject<'_>, spec: &Spec) -> Result<String, LabError> {
        let name = names::container(subject.lab, subject.host);
        let options = CreateContainerOptionsBuilder::new().name(&name).build();
        let call = self.docker().create_container(Some(options), spec.body.clone());
        let created = self.call(&format!("create container `{name}`"), CHANGE, call).await;
        let created = created.map_err(|error| address_conflict(subject, spec, &error).unwrap_or(error))?;
        for warning in created.warnings {
            tracing::warn!(host = %spec.host, %warning, "docker warns about the container");
        }
        Ok(created.id)
    }

    async fn place_keys(&self, subject: &Subject<'_>, spec: &Spec, id: &str) -> Result<(), LabError> {
        let name = names::container(subject.lab, subject.host);
        let account = self.account(subject, id, &name).await?;
        let archive = spec.keys.archive(&account).map_err(|error| LabError::BadSetting {
            host: spec.host.clone(),
            key: "user".to_owned(),
            why: format!("its home cannot be used: {error}"),
        })?;
        let options = UploadToContainerOptionsBuilder::new().path("/").build();
        let call = self.docker().upload_to_container(id, Some(options), body_full(archive));
        self.call(&format!("place keys in container `{name}`"), CHANGE, call).await
    }

    /// The login account. Root is the same everywhere; others are looked up in the container's own `passwd`.
    async fn account(&self, subject: &Subject<'_>, id: &str, name: &str) -> Result<Account, LabError> {
        let user = &subject.container.user;
        if user == "root" {
            return Ok(Account::root());
        }
        let options = DownloadFromContainerOptionsBuilder::new().path("/etc/passwd").build();
        let download = self.docker().download_from_container(id, Some(options)).try_fold(
            BytesMut::new(),
            |mut archive, piece| async move {
                archive.extend_from_slice(&piece);
                Ok(archive)
            },
        );
        let archive = self.call(&format!("read `/etc/passwd` of container `{name}`"), CHANGE, download).await?;
        first_file(&archive).and_then(|passwd| Account::find(user, &passwd)).ok_or_else(|| LabError::UserMissing {
            host: subject.host.clone(),
            user: user.clone(),
            image: subject.container.image.clone(),
        })
    }

    async fn start_container(&self, subject: &Subject<'_>, id: &str) -> Result<(), LabError> {
        let action = format!("start container `{}`", names::container(subject.lab, subject.host));
        let call = self.docker().start_container(id, None::<StartContainerOptions>);
        match self.call(&action, CHANGE, call).await {
            Err(error) => Err(port_conflict(subject, &error).unwrap_or(error)),
            Ok(()) => Ok(()),
        }
    }

    pub(super) async fn stop_container(&self, name: &str, id: &str) -> Result<(), LabError> {
        let options = StopContainerOptionsBuilder::new().t(GRACE).build();
        let call = self.docker().stop_container(id, Some(options));
        match self.call(&format!("stop container `{name}`"), STOP, call).await {
            Err(error) if error.is_missing() => Ok(()),
            other => other,
        }
    }

    async fn rename(&self, id: &str, name: &str) -> Result<(), LabError> {
        let options = RenameContainerOptionsBuilder::new().name(name).build();
        self.call(&format!("rename a container to `{name}`"), CHANGE, self.docker().rename_container(id, options)).await
    }

    /// Removes a container with its unnamed volumes, running or not. One that is gone already is no error.
    pub(super) async fn remove_container(&self, id: &str) -> Result<(), LabError> {
        let options: RemoveContainerOptions = RemoveContainerOptionsBuilder::new().force(true).v(true).build();
        let call = self.docker().remove_container(id, Some(options));
        match self.call(&format!("remove container `{id}`"), CHANGE, call).await {
            // 409: another call is removing it just now.
            Err(error) if error.is_missing() || error.status() == Some(409) => Ok(()),
            other => other,
        }
    }
}

/// Everything about a container, with the address that was decided for it.
fn addressed(wanted: &Wanted<'_>, settled: &Settled, keyring: &Keyring) -> Result<Spec, LabError> {
    let mut spec = wanted.spec(keyring)?;
    let is_on_labs = lab_endpoint(&wanted.subject, &spec.body).is_some();
    if let Some(address) = settled.addresses.get(wanted.subject.host).filter(|_| is_on_labs) {
        ask(&mut spec.body, &wanted.subject.network(), *address);
    }
    Ok(spec)
}

/// The engine tells of an address that cannot be had in prose, before or after version 25 of Docker in other words.
fn address_conflict(subject: &Subject<'_>, spec: &Spec, error: &LabError) -> Option<LabError> {
    let LabError::Api { source, .. } = error else { return None };
    let address = endpoint(subject, &spec.body).and_then(asked)?.to_string();
    let (host, network) = (subject.host.clone(), subject.network());
    let says = |words: &str| source.message.contains(words);
    if says("user configured subnets") {
        Some(LabError::AddressRefused { host, address, network })
    } else if says("does not belong to any of this network's subnets") || says("no configured subnet") {
        Some(LabError::AddressOutside { host, address, network, subnet: None })
    } else if says("Address already in use") {
        Some(LabError::AddressInUse { host, address, network, holder: None })
    } else {
        None
    }
}

/// The engine tells of a taken port in prose, in two ways: "Bind for 127.0.0.1:80 failed: port is already allocated" when
/// another container has it, "listen tcp4 127.0.0.1:80: bind: address already in use" when a process has it.
fn port_conflict(subject: &Subject<'_>, error: &LabError) -> Option<LabError> {
    let LabError::Api { source, .. } = error else { return None };
    if !source.message.contains("already allocated") && !source.message.contains("already in use") {
        return None;
    }
    let body = subject.payload().ok()?;
    let ports = body.host_config?.port_bindings?;
    ports.into_values().flatten().flatten().find_map(|PortBinding { host_ip, host_port }| {
        let (address, port) = (host_ip.unwrap_or_default(), host_port.filter(|port| !port.is_empty())?);
        let ends = |text: &str| source.message.contains(&format!(":{port}{text}"));
        (ends(":") || ends(" ")).then(|| LabError::PortInUse {
            host: subject.host.clone(),
            address,
            port,
            holder: None,
        })
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::control::lab::{EngineAnswer, example};

    #[test]
    fn a_taken_port_is_named_whoever_has_it() {
        let (lab, host) = ("lab".parse().unwrap(), "a".parse().unwrap());
        let mut container = example::container();
        container.ssh_port = Some(2222);
        let subject = Subject { lab: &lab, host: &host, container: &container, apparmor: false };
        let conflict = |message: &str| {
            let source = EngineAnswer { status: 500, message: message.to_owned() };
            port_conflict(&subject, &LabError::Api { action: "start".to_owned(), source })
                .map(|error| error.to_string())
        };
        let expected = Some("host `a`: port 2222 on 127.0.0.1 is already in use".to_owned());
        // Docker 20.10's words for a process, for a container, and Docker 28's.
        let process = "driver failed programming external connectivity on endpoint lab-a (1f): Error starting userland proxy: \
                       listen tcp4 127.0.0.1:2222: bind: address already in use";
        assert_eq!(conflict(process), expected);
        let container = "driver failed programming external connectivity on endpoint lab-a (1f): \
                         Bind for 127.0.0.1:2222 failed: port is already allocated";
        assert_eq!(conflict(container), expected);
        let newer = "failed to set up container networking: driver failed programming external connectivity on endpoint \
                     lab-a (1f): failed to bind host port for 127.0.0.1:2222:172.18.0.2:22/tcp: address already in use";
        assert_eq!(conflict(newer), expected);
        assert_eq!(conflict("Bind for 127.0.0.1:22222 failed: port is already allocated"), None);
        assert_eq!(conflict("no space left on device"), None);
    }
}
