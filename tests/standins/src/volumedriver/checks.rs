//! What must be so on disk before a volumedriver starts.

use std::path::Path;

use super::config::{Config, size};
use crate::limits;

/// Free space that tlogs and metadata need each, in bytes.
const FREE_SPACE: u64 = 200 << 20;
/// Says that this is not the first start.
const MARK: &str = "stand-in.started";

/// Checks and makes the directories. Gives where files are kept and how many bytes they may take.
pub(crate) fn prepare(config: &Config) -> Result<(std::path::PathBuf, u64), String> {
    gaps(config)?;
    let metadata = Path::new(config.text("volume_manager", "metadata_path")?);
    let tlogs = Path::new(config.text("volume_manager", "tlog_path")?);
    for (path, required) in [(metadata, "required_meta_freespace"), (tlogs, "required_tlog_freespace")] {
        fs_err::create_dir_all(path).map_err(|error| error.to_string())?;
        let wanted = config.size("volume_manager", required, FREE_SPACE)?;
        let (free, _) = limits::space(path)?;
        if free < wanted {
            return Err(format!("{}: {free} bytes are free, {required} is {wanted}", path.display()));
        }
    }
    for (section, member) in
        [("file_driver", "fd_cache_path"), ("content_addressed_cache", "read_cache_serialization_path")]
    {
        fs_err::create_dir_all(config.text(section, member)?).map_err(|error| error.to_string())?;
    }
    for node in config.list("metadata_server", "mds_nodes") {
        for member in ["db_directory", "scratch_directory"] {
            let path = node[member].as_str().ok_or_else(|| format!("metadata_server: a node has no {member}"))?;
            fs_err::create_dir_all(path).map_err(|error| error.to_string())?;
        }
    }
    let is_first = !metadata.join(MARK).exists();
    let (place, capacity) = sco_cache(config, is_first)?;
    fs_err::write(metadata.join(MARK), "").map_err(|error| error.to_string())?;
    Ok((place, capacity))
}

fn gaps(config: &Config) -> Result<(), String> {
    let trigger = config.size("scocache", "trigger_gap", 0)?;
    let backoff = config.size("scocache", "backoff_gap", 0)?;
    if trigger == 0 || backoff == 0 {
        return Err("scocache: trigger_gap and backoff_gap must be larger than 0".to_owned());
    }
    if backoff < trigger {
        return Err("scocache: backoff_gap must not be smaller than trigger_gap".to_owned());
    }
    config.number("volume_manager", "clean_interval", 0).map(|_| ())
}

fn sco_cache(config: &Config, is_first: bool) -> Result<(std::path::PathBuf, u64), String> {
    let mut places = Vec::new();
    let mut capacity = 0;
    for point in config.list("scocache", "scocache_mount_points") {
        let path = point["path"].as_str().ok_or("scocache: a mount point has no path")?;
        let wanted = size(&point["size"]).ok_or_else(|| format!("scocache: {path} has no size"))?;
        if !limits::is_writable_directory(Path::new(path)) {
            return Err(format!("scocache mount point {path} is not a directory that I can write"));
        }
        let mut entries = fs_err::read_dir(path).map_err(|error| error.to_string())?;
        if is_first && entries.next().is_some() {
            return Err(format!("scocache mount point {path} is not empty"));
        }
        let (_, whole) = limits::space(Path::new(path))?;
        if whole < wanted {
            return Err(format!("scocache mount point {path}: the file system has {whole} bytes, size is {wanted}"));
        }
        capacity += wanted;
        places.push(Path::new(path).join("files"));
    }
    let place = places.into_iter().next().ok_or("scocache_mount_points is empty")?;
    fs_err::create_dir_all(&place).map_err(|error| error.to_string())?;
    Ok((place, capacity))
}
