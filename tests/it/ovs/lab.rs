//! The demo inventory with empty builds, evaluated against hosts that answer from memory.

use std::{collections::BTreeMap, net::IpAddr, path::Path};

use ovs_cuisine::{
    control::{
        inventory::{Component, Inventory},
        recipe::{Evaluation, Keyspace, Library, Params, RecipeError, Scene},
    },
    plan::{Answer, ComponentName, HostName, Plan, Question},
};
use tempfile::TempDir;

use crate::recipe::stage::{Fake, facts};

/// What the recipes want to find in builds.
const BUILDS: [&str; 20] = [
    "arakoon/usr/bin/arakoon",
    "alba/usr/bin/alba",
    "alba/usr/lib/alba/albamgr_plugin.cmxs",
    "alba/usr/lib/alba/nsm_host_plugin.cmxs",
    "volumedriver/usr/bin/volumedriver_fs",
    "volumedriver/usr/bin/volumedriver_fs.sh",
    "volumedriver/usr/bin/failovercache",
    "volumedriver/usr/lib/python2.7/dist-packages/volumedriver/__init__.py",
    "framework/opt/OpenvStorage/ovs/some",
    "framework/opt/OpenvStorage/webapps/api/some",
    "framework/opt/OpenvStorage/webapps/frontend/some",
    "framework/opt/OpenvStorage/config/templates/some",
    "framework/opt/OpenvStorage/config/django_gunicorn_ovs.cfg.py",
    "framework/opt/OpenvStorage/scripts/some",
    "framework/usr/bin/ovs",
    "asd-manager/opt/asd-manager/source/some",
    "asd-manager/opt/asd-manager/source/tools/some",
    "asd-manager/opt/asd-manager/config/systemd/some",
    "asd-manager/opt/asd-manager/downloads/some",
    "asd-manager/usr/bin/asd-manager",
];

/// A lab whose inventory was changed a little.
pub(super) struct Lab {
    directory: TempDir,
    pub(super) inventory: Inventory,
    library: Library,
    ips: BTreeMap<HostName, IpAddr>,
}

/// A component with what it is evaluated with.
struct Bound<'l> {
    component: &'l Component,
    params: BTreeMap<ComponentName, Params>,
}

/// A bounding set with `CAP_SYS_ADMIN`, as `/proc/self/status` has it.
const MAY_MOUNT: &str = "00000000a82425fb";

impl Lab {
    /// The demo lab; each pair replaces text of its inventory, which must be there.
    pub(super) fn with(changes: &[(&str, &str)]) -> Self {
        let root = Path::new(env!("CARGO_MANIFEST_DIR"));
        let directory = tempfile::tempdir().unwrap();
        for file in BUILDS {
            let path = directory.path().join("standins").join(file);
            fs_err::create_dir_all(path.parent().unwrap()).unwrap();
            fs_err::write(path, "").unwrap();
        }
        let recipes = root.join("recipes");
        let mut text = fs_err::read_to_string(root.join("inventory/ovs-demo.toml")).unwrap();
        let recipes = [("\"../recipes\"", format!("{:?}", recipes.display().to_string()))];
        let own = recipes.iter().map(|(from, to)| (*from, to.as_str())).chain([("../target/standins", "standins")]);
        for (from, to) in own.chain(changes.iter().copied()) {
            assert!(text.contains(from), "the demo inventory has no `{from}`");
            text = text.replace(from, to);
        }
        let inventory = Inventory::parse(&text, &directory.path().join("lab.toml")).unwrap();
        let library = Library::new(inventory.lab.recipes.clone());
        let hosts = inventory.hosts.keys().enumerate();
        let ips = hosts.map(|(number, host)| (host.clone(), IpAddr::from([10, 0, 0, u8::try_from(number).unwrap()])));
        let ips = ips.collect();
        Self { directory, inventory, library, ips }
    }

    pub(super) fn demo() -> Self {
        Self::with(&[])
    }

    /// The address of a host.
    pub(super) fn ip(&self, host: &str) -> String {
        self.ips[&host.parse::<HostName>().unwrap()].to_string()
    }

    /// A directory of builds.
    pub(super) fn build(&self, name: &str) -> std::path::PathBuf {
        self.directory.path().join("standins").join(name)
    }

    fn bound(&self, name: &str) -> Result<Bound<'_>, RecipeError> {
        let bind = |component: &Component| -> Result<(ComponentName, Params), RecipeError> {
            let recipe = self.library.load(&component.recipe)?;
            let params = recipe.bind(component, self.inventory.directory())?;
            recipe.check_layouts(component, &params)?;
            Ok((component.name.clone(), params))
        };
        let component = &self.inventory.components[&name.parse::<ComponentName>().unwrap()];
        // Others matter only where this one asks for them; those that cannot be bound here would be found missing.
        let others = self.inventory.components.values().filter_map(|other| bind(other).ok());
        let mut params: BTreeMap<_, _> = others.collect();
        params.extend([bind(component)?]);
        Ok(Bound { component, params })
    }

    fn on_scene<R>(
        &self,
        name: &str,
        act: impl FnOnce(&Scene<'_>) -> Result<R, RecipeError>,
    ) -> Result<R, RecipeError> {
        let bound = self.bound(name)?;
        let scene = Scene {
            inventory: &self.inventory,
            component: bound.component,
            params: &bound.params[&bound.component.name],
            addresses: &BTreeMap::new(),
            ips: &self.ips,
            components: &bound.params,
            keyspace: &Keyspace::default(),
            leaving: &[],
        };
        let keyspace = self.library.load(&bound.component.recipe)?.keyspace(&scene)?;
        act(&Scene { keyspace: &keyspace, ..scene })
    }

    pub(super) fn keyspace(&self, name: &str) -> Keyspace {
        self.on_scene(name, |scene| Ok(scene.keyspace.clone())).unwrap()
    }

    /// The component's keys and their texts.
    pub(super) fn config(&self, name: &str) -> Result<BTreeMap<String, String>, RecipeError> {
        self.on_scene(name, |scene| {
            let config = self.library.load(&scene.component.recipe)?.config(scene, &Fake::default())?;
            let text = |bytes: Vec<u8>| String::from_utf8(bytes).unwrap();
            Ok(config.into_iter().map(|(key, value)| (key, text(value.bytes))).collect())
        })
    }

    /// What a host is to be.
    pub(super) fn deploy(&self, name: &str, host: &str) -> Evaluation {
        let host: HostName = host.parse().unwrap();
        self.on_scene(name, |scene| self.library.load(&scene.component.recipe)?.deploy(scene, &host, &facts(), &bare()))
            .unwrap_or_else(|error| panic!("{name}: {error}"))
    }

    pub(super) fn prepare(&self, name: &str, host: &str) -> Option<Plan> {
        self.prepare_with(name, host, MAY_MOUNT).unwrap()
    }

    /// On a host whose bounding set of capabilities is this; empty for one without /dev/fuse.
    pub(super) fn prepare_with(&self, name: &str, host: &str, bounding: &str) -> Result<Option<Plan>, RecipeError> {
        let host: HostName = host.parse().unwrap();
        let surroundings = Fake { outputs: vec![("CapBnd", bounding.to_owned())], ..bare() };
        self.on_scene(name, |scene| {
            self.library.load(&scene.component.recipe)?.prepare(scene, &host, &facts(), &surroundings)
        })
    }

    pub(super) fn health(&self, name: &str, host: &str) -> Option<Plan> {
        let host: HostName = host.parse().unwrap();
        self.on_scene(name, |scene| {
            self.library.load(&scene.component.recipe)?.health(scene, &host, &facts(), &Fake::default())
        })
        .unwrap()
    }
}

/// A host without any of the files and programs that recipes ask for.
fn bare() -> Fake {
    let missing = |name: &str| (Question::CommandExists(name.to_owned()), Answer::Flag(false));
    let asds = Question::Read("/opt/ovs-cuisine/started/asd.asds".parse().unwrap());
    let programs = ["fusermount", "fusermount3"].map(missing);
    Fake { answers: programs.into_iter().chain([(asds, Answer::Absent)]).collect(), ..Fake::default() }
}
