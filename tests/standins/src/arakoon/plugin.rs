//! The plugins of alba in an arakoon: files in the home directory that must fit the arakoon which loads them.

use std::path::Path;

use serde_json::Value;

use super::{
    disk::{Change, Store},
    exit::{self, Exit},
};
use crate::alba;

/// What a plugin file must say to fit this arakoon. `scripts/standins` writes it into the files that it lays out.
pub(crate) const BUILD: &str = "arakoon stand-in 1.9.15";

type Answer = fn(&Store, &Value) -> Result<(Value, Vec<Change>), String>;

/// A loaded plugin: the calls that begin with its prefix are its own.
pub(crate) struct Plugin {
    pub(crate) prefix: &'static str,
    pub(crate) answer: Answer,
}

const KNOWN: [(&str, Plugin); 2] = [
    ("albamgr_plugin", Plugin { prefix: "abm.", answer: alba::manager_answer }),
    ("nsm_host_plugin", Plugin { prefix: "nsm.", answer: alba::nsm_answer }),
];

/// Loads the plugins of a node, in the way and with the failures of dynamic linking.
pub(crate) fn load(home: &Path, names: &[String]) -> Result<Vec<Plugin>, Exit> {
    names.iter().map(|name| load_one(home, name)).collect()
}

fn load_one(home: &Path, name: &str) -> Result<Plugin, Exit> {
    let path = home.join(format!("{name}.cmxs"));
    let failed =
        |text: String| Exit::new(exit::OTHER, format!("error loading shared library: {}: {text}", path.display()));
    let text = fs_err::read_to_string(&path)
        .map_err(|_| failed("cannot open shared object file: No such file or directory".to_owned()))?;
    if !text.lines().any(|line| line == BUILD) {
        return Err(failed("undefined symbol: camlArakoon_config_url".to_owned()));
    }
    let plugin = KNOWN.into_iter().find(|(known, _)| *known == name);
    plugin.map(|(_, plugin)| plugin).ok_or_else(|| failed("not a plugin of alba".to_owned()))
}
