//! `ssh`: a shell on a host through our own client, with the lab's keys and pins.

use std::sync::Arc;

use tokio_util::sync::CancellationToken;

use super::{
    args,
    failure::{Exit, Failure},
    run::Lab,
};
use crate::{
    control::{
        drive::{self, Events, Fleet},
        link::Link,
    },
    plan::HostName,
};

pub(super) async fn ssh(args: args::Ssh) -> Result<Exit, Failure> {
    let lab = Lab::load(&args.inventory)?;
    let host = one_host(&lab, &args.host)?;
    let keyring = drive::open_keyring(&lab.inventory)?;
    let (events, _inbox) = Events::channel();
    let fleet = Fleet::new(lab.inventory.clone(), keyring, events, None, CancellationToken::new());
    let target = fleet.target(&host).await?;
    let link = Link::connect(Arc::new(target)).await?;
    let command = (!args.command.is_empty()).then(|| args.command.join(" "));
    let status = link.shell(command.as_deref()).await?;
    link.close().await;
    Ok(Exit::Remote(u8::try_from(status).unwrap_or(u8::MAX)))
}

fn one_host(lab: &Lab, text: &str) -> Result<HostName, Failure> {
    let hosts = lab.inventory.select(text)?;
    match <[HostName; 1]>::try_from(hosts) {
        Ok([host]) => Ok(host),
        Err(hosts) => {
            let names: Vec<&str> = hosts.iter().map(HostName::as_str).collect();
            Err(Failure::bad_input(format!("`{text}` names {} hosts: {}", names.len(), names.join(", ")))
                .hint("a shell is opened on one host; use `ovs-cuisine exec` for several"))
        }
    }
}
