//! The program `volumedriver_fs`: checks everything, opens the ports, mounts, and stays until it is unmounted.

use std::{
    net::TcpStream,
    os::unix::process::CommandExt as _,
    path::Path,
    process::{Command, ExitCode, Stdio},
    sync::Arc,
    thread,
    time::Duration,
};

use fuser::{Config as MountConfig, MountOption, SessionACL};
use rustix::fs::{FlockOperation, flock};
use serde_json::{Value, json};
use signal_hook::consts::{SIGHUP, SIGTERM, SIGUSR1};

use super::{
    arguments::Arguments,
    backend, checks,
    config::Config,
    edge,
    registry::{self, NodeConfig},
    storage::Storage,
    tree::{Disguise, Tree},
    volumes::Volumes,
    xmlrpc,
};
use crate::{config_url::ConfigUrl, end::end_plainly, limits, lines, log, signals::Arrived};

const OPEN_FILES: u64 = 65536;
const EDGE: &str = "tcp://127.0.0.1:21321";
const NAME_SERVER: (&str, u16) = ("127.0.0.1", 2809);
const AMQP_PORT: u16 = 5672;
const WAIT: Duration = Duration::from_secs(2);
const LONG: Duration = Duration::from_secs(3600);

/// Runs `volumedriver_fs` with these arguments, without the program's own name.
#[must_use]
pub fn main(words: &[String]) -> ExitCode {
    end_plainly("volumedriver_fs", run(words))
}

fn run(words: &[String]) -> Result<String, String> {
    let arguments = Arguments::parse(words)?;
    if arguments.version {
        return Ok("version: 6.8.1\nthis is a stand-in, not volumedriver".to_owned());
    }
    if arguments.help {
        return Ok("The stand-in reads what docs/config.md of volumedriver describes; see its README.".to_owned());
    }
    log::start("volumedriver_fs", &arguments.log_sinks, arguments.log_level.as_deref().unwrap_or("info"))?;
    let url = arguments.config.as_deref().ok_or("the option '--config' is required but missing")?;
    let url = ConfigUrl::of_volumedriver(url)?;
    let mountpoint = arguments.mountpoint.as_deref().ok_or("the option '--mountpoint' is required but missing")?;
    let lock = lock(&arguments, &url)?;
    if !arguments.foreground {
        drop(lock);
        return daemonize(words);
    }
    log::info("starts; this is a stand-in, not volumedriver");
    // A mount that its program has left behind answers nothing but this.
    Path::new(mountpoint)
        .read_dir()
        .map_err(|error| format!("fuse: bad mount point `{mountpoint}': {}", bare(&error)))?;
    let disguise = Disguise {
        uid: arguments.fuse_number("uid", 10)?,
        gid: arguments.fuse_number("gid", 10)?,
        umask: arguments.fuse_number("umask", 8)?,
    };
    let config = Config::read(&url)?;
    limits_of(&config)?;
    let nodes = registry::nodes(&config)?;
    let (place, capacity) = checks::prepare(&config)?;
    backend::connect(&config)?;
    locks(&config)?;
    let suffix = config.text("filesystem", "fs_raw_disk_suffix").unwrap_or("-flat.vmdk");
    let storage = Storage::open(place, capacity, suffix).map_err(|error| error.to_string())?;
    let own = nodes[0].clone();
    let volumes = Arc::new(Volumes::open(storage, &config, nodes)?);
    serve(&config, &own, &volumes, disguise, &arguments, mountpoint).map(|()| String::new())
}

/// What the system said, without its number.
fn bare(error: &std::io::Error) -> String {
    error.to_string().split(" (os error").next().unwrap_or("").to_owned()
}

/// Two must not run with the same lock file; a local configuration is its own.
fn lock(arguments: &Arguments, url: &ConfigUrl) -> Result<fs_err::File, String> {
    let path = match (&arguments.lock_file, url) {
        (Some(path), _) => Path::new(path),
        (None, ConfigUrl::File(path)) => path,
        (None, ConfigUrl::Etcd { .. }) => return Err("the option '--lock-file' is required but missing".to_owned()),
    };
    let mut options = fs_err::OpenOptions::new();
    options.read(true);
    if arguments.lock_file.is_some() {
        options.write(true).create(true);
    }
    let file = options.open(path).map_err(|error| error.to_string())?;
    flock(file.file(), FlockOperation::NonBlockingLockExclusive)
        .map_err(|error| format!("failed to lock {}: {error}; does another one run?", path.display()))?;
    Ok(file)
}

/// The same program again, on its own.
fn daemonize(words: &[String]) -> Result<String, String> {
    let own = std::env::current_exe().map_err(|error| error.to_string())?;
    let mut command = Command::new(own);
    command.arg("-f").args(words).stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null()).process_group(0);
    command.spawn().map(|_| String::new()).map_err(|error| error.to_string())
}

fn limits_of(config: &Config) -> Result<(), String> {
    if rustix::process::geteuid().is_root() {
        limits::set_files(config.number("filesystem", "fs_max_open_files", OPEN_FILES)?)?;
    }
    limits::warn_of_locked_memory();
    if std::env::var("METADATASTORE_BITS").as_deref() != Ok("6") {
        log::warning("METADATASTORE_BITS is not 6");
    }
    if config.is_on("filesystem", "fs_enable_shm_interface") {
        let address = std::net::SocketAddr::from(([127, 0, 0, 1], NAME_SERVER.1));
        TcpStream::connect_timeout(&address, WAIT).map_err(|error| {
            format!("shm interface: no name server at {}:{}: {error}", NAME_SERVER.0, NAME_SERVER.1)
        })?;
    }
    Ok(())
}

/// The lock store, which may be another cluster than the registry's.
fn locks(config: &Config) -> Result<(), String> {
    if config.text("distributed_lock_store", "dls_type") != Ok("Arakoon") {
        return Ok(());
    }
    let cluster = config.cluster("distributed_lock_store", "dls_arakoon_cluster_id", "dls_arakoon_cluster_nodes")?;
    crate::arakoon::Client::new(cluster)
        .call(&json!({"op": "nop"}))
        .map(|_| ())
        .map_err(|error| format!("lock store: {error}"))
}

fn serve(
    config: &Config,
    node: &NodeConfig,
    volumes: &Arc<Volumes>,
    disguise: Disguise,
    arguments: &Arguments,
    mountpoint: &str,
) -> Result<(), String> {
    let arrived = Arrived::of(&[SIGTERM, SIGHUP, SIGUSR1])?;
    let hello = |_: &Value| lines::answered(Ok(json!("volumedriver stand-in")));
    edge::serve_nodes(lines::listen(std::slice::from_ref(&node.host), node.message_port)?, volumes);
    xmlrpc::serve(lines::listen(&[node.xmlrpc_host().to_owned()], node.xmlrpc_port)?, volumes);
    for mds in config.list("metadata_server", "mds_nodes") {
        let host = lines::text(mds, "host")?.to_owned();
        let port = super::config::number(&mds["port"]).and_then(|port| u16::try_from(port).ok());
        lines::serve(lines::listen(&[host], port.ok_or("metadata_server: a node has no port")?)?, hello);
    }
    if config.is_on("filesystem", "fs_enable_network_interface") {
        let configured = config.text("network_interface", "network_uri").unwrap_or(EDGE);
        edge::serve(node.network_server_uri.as_deref().unwrap_or(configured), volumes)?;
    }
    let tree = Tree::new(Arc::clone(volumes), disguise);
    let session = fuser::Session::new(tree, Path::new(mountpoint), &mount_config(arguments))
        .map_err(|error| format!("fuse: mount of {mountpoint} failed: {error}"))?;
    tell(config, mountpoint);
    let looked_for = Arc::clone(volumes);
    thread::spawn(move || looked_for.look_for_log());
    thread::spawn(move || {
        loop {
            if let Some(signal) = arrived.next(LONG) {
                log::info(&format!("signal {signal}: use fusermount -u to stop"));
            }
        }
    });
    session.run().map_err(|error| format!("fuse: {error}"))?;
    log::info("unmounted, ends");
    Ok(())
}

fn mount_config(arguments: &Arguments) -> MountConfig {
    let mut config = MountConfig::default();
    config.mount_options =
        vec![MountOption::FSName("volumedriver_fs".to_owned()), MountOption::Subtype("standin".to_owned())];
    // What libfuse alone acts on has no meaning here.
    for (name, option) in [
        ("default_permissions", MountOption::DefaultPermissions),
        ("ro", MountOption::RO),
        ("noexec", MountOption::NoExec),
        ("nodev", MountOption::NoDev),
        ("nosuid", MountOption::NoSuid),
        ("noatime", MountOption::NoAtime),
    ] {
        if arguments.has_fuse(name) {
            config.mount_options.push(option);
        }
    }
    if arguments.has_fuse("allow_other") {
        config.acl = SessionACL::All;
    } else if arguments.has_fuse("allow_root") {
        config.acl = SessionACL::RootAndOwner;
    }
    config
}

/// The real one publishes that it is up; the stand-in only looks whether somebody would listen.
fn tell(config: &Config, mountpoint: &str) {
    log::info(&format!("UpAndRunning {{ mountpoint: {mountpoint} }}"));
    let uris = config.list("event_publisher", "events_amqp_uris").iter();
    let uris: Vec<String> = uris.filter_map(|uri| uri["amqp_uri"].as_str().map(str::to_owned)).collect();
    // Beside the mount: a broker that does not answer must not keep the kernel waiting.
    thread::spawn(move || uris.iter().for_each(|uri| look_for_broker(uri)));
}

fn look_for_broker(uri: &str) {
    let place = uri.strip_prefix("amqp://").unwrap_or(uri);
    let place = place.rsplit_once('@').map_or(place, |(_, place)| place);
    let place = place.split('/').next().unwrap_or("");
    let (host, port) = place.split_once(':').unwrap_or((place, ""));
    let port = port.parse().unwrap_or(AMQP_PORT);
    match lines::Line::connect(host, port, WAIT) {
        Ok(_) => log::info(&format!("event publisher: {host}:{port} listens; the stand-in publishes nothing")),
        Err(error) => log::warning(&format!("event publisher: {host}:{port}: {error}")),
    }
}
