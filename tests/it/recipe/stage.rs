//! A lab in a temporary directory, and surroundings that answer from memory.

use std::{
    collections::BTreeMap,
    path::{Path, PathBuf},
    sync::{Arc, Mutex},
};

use indexmap::IndexMap;
use ovs_cuisine::{
    control::{
        inventory::{Component, Inventory, RecipeRef},
        recipe::{
            ConfigValue, Evaluation, Keyspace, Library, Params, Recipe, RecipeError, Refusal, Scene, StoreSpec,
            Surroundings,
        },
    },
    plan::{
        Answer, ComponentName, Distribution, Facts, HostName, InitSystem, Op, OpFailure, PackageManager, Plan,
        Question, Secret, Step,
    },
    tree::{Digest, TreeSummary},
};
use tempfile::TempDir;

/// What no output may show.
pub(crate) const CANARY: &str = "c4n4ry-\"pw'\\x";

/// A lab: recipes and an inventory in a temporary directory.
pub(crate) struct Stage {
    directory: TempDir,
    pub(crate) inventory: Inventory,
    pub(crate) library: Library,
}

impl Stage {
    /// A lab with hosts `etcd`, `node-1` and `node-2` (group `nodes`), and component `web` with this recipe on the nodes.
    pub(crate) fn new(recipe: &str) -> Self {
        Self::with(recipe, "")
    }

    /// The same, with these lines below `[component.web]`.
    pub(crate) fn with(recipe: &str, component: &str) -> Self {
        let directory = tempfile::tempdir().unwrap();
        let root = directory.path();
        for folder in ["recipes/web", "recipes/etcd", "recipes/lib"] {
            fs_err::create_dir_all(root.join(folder)).unwrap();
        }
        fs_err::write(root.join("recipes/web/recipe.star"), recipe).unwrap();
        fs_err::write(root.join("recipes/etcd/recipe.star"), "\"\"\"The store.\"\"\"\n\ndef deploy(ctx):\n    pass\n")
            .unwrap();
        let text = format!(
            "[lab]\nname = \"demo\"\nrecipes = [\"recipes\"]\nvars = {{ domain = \"lab\" }}\n\n\
             [host.etcd]\ncontainer = {{ image = \"ovs-cuisine/ssh:latest\" }}\n\n\
             [host.\"node-[1-2]\"]\ncontainer = {{ image = \"ovs-cuisine/ssh:latest\" }}\nvars = {{ rack = 7, db_password = '''{CANARY}''' }}\n\n\
             [group.nodes]\nhosts = [\"node-*\"]\n\n\
             [component.etcd]\nrecipe = \"etcd\"\nhosts = [\"etcd\"]\n\n\
             [component.web]\nrecipe = \"web\"\nhosts = [\"@nodes\"]\nneeds = [\"etcd\"]\n{component}\n",
        );
        let path = root.join("lab.toml");
        fs_err::write(&path, &text).unwrap();
        let inventory = Inventory::parse(&text, &path).unwrap();
        let library = Library::new(vec![root.join("recipes")]);
        Self { directory, inventory, library }
    }

    pub(crate) fn root(&self) -> PathBuf {
        self.directory.path().canonicalize().unwrap()
    }

    /// Writes a file of the lab.
    pub(crate) fn file(self, path: &str, content: impl AsRef<[u8]>) -> Self {
        let path = self.directory.path().join(path);
        fs_err::create_dir_all(path.parent().unwrap()).unwrap();
        fs_err::write(path, content).unwrap();
        self
    }

    pub(crate) fn component(&self) -> &Component {
        &self.inventory.components[&"web".parse::<ComponentName>().unwrap()]
    }

    pub(crate) fn recipe(&self) -> Result<Arc<Recipe>, RecipeError> {
        self.library.load(&RecipeRef::Named("web".to_owned()))
    }

    pub(crate) fn bind(&self) -> Result<Params, RecipeError> {
        self.recipe()?.bind(self.component(), self.inventory.directory())
    }

    pub(crate) fn layouts(&self) -> Result<(), RecipeError> {
        self.recipe()?.check_layouts(self.component(), &self.bind()?)
    }

    fn on_scene<R>(&self, act: impl FnOnce(&Recipe, &Scene<'_>) -> Result<R, RecipeError>) -> Result<R, RecipeError> {
        let recipe = self.recipe()?;
        self.on_scene_of(&recipe, act)
    }

    fn on_scene_of<R>(
        &self,
        recipe: &Recipe,
        act: impl FnOnce(&Recipe, &Scene<'_>) -> Result<R, RecipeError>,
    ) -> Result<R, RecipeError> {
        let params = recipe.bind(self.component(), self.inventory.directory())?;
        let addresses: BTreeMap<HostName, String> =
            [(host("node-1"), "10.0.0.1".to_owned()), (host("node-2"), "10.0.0.2".to_owned())].into();
        let (inventory, component) = (&self.inventory, self.component());
        let components = [(component.name.clone(), params.clone())].into();
        let scene = Scene {
            inventory,
            component,
            params: &params,
            addresses: &addresses,
            ips: &[(host("node-1"), "10.0.0.1".parse().unwrap())].into(),
            components: &components,
            keyspace: &Keyspace::default(),
            leaving: &[],
        };
        let keyspace = recipe.keyspace(&scene)?;
        act(recipe, &Scene { keyspace: &keyspace, ..scene })
    }

    pub(crate) fn keyspace(&self) -> Result<Keyspace, RecipeError> {
        self.on_scene(|_, scene| Ok(scene.keyspace.clone()))
    }

    pub(crate) fn evaluate(&self, fake: &Fake) -> Result<Evaluation, RecipeError> {
        self.on_scene(|recipe, scene| recipe.deploy(scene, &host("node-1"), &facts(), fake))
    }

    pub(crate) fn expression(&self, source: &str, fake: &Fake) -> Result<Evaluation, RecipeError> {
        let recipe = self.library.expression(source)?;
        self.on_scene_of(&recipe, |recipe, scene| recipe.deploy(scene, &host("node-1"), &facts(), fake))
    }

    pub(crate) fn deploy(&self) -> Result<Evaluation, RecipeError> {
        self.evaluate(&Fake::default())
    }

    pub(crate) fn steps(&self) -> Vec<Step> {
        self.deploy().unwrap().plan.steps
    }

    pub(crate) fn ops(&self) -> Vec<Op> {
        self.steps().into_iter().map(|step| step.op).collect()
    }

    pub(crate) fn prepare(&self) -> Result<Option<Plan>, RecipeError> {
        self.on_scene(|recipe, scene| recipe.prepare(scene, &host("node-1"), &facts(), &Fake::default()))
    }

    pub(crate) fn health(&self) -> Result<Option<Plan>, RecipeError> {
        self.on_scene(|recipe, scene| recipe.health(scene, &host("node-1"), &facts(), &Fake::default()))
    }

    pub(crate) fn config(&self) -> Result<IndexMap<String, ConfigValue>, RecipeError> {
        self.on_scene(|recipe, scene| recipe.config(scene, &Fake::default()))
    }

    pub(crate) fn store(&self) -> Result<Option<StoreSpec>, RecipeError> {
        self.on_scene(|recipe, scene| recipe.store(scene, &Fake::default()))
    }
}

/// A recipe whose `deploy(ctx)` is this body.
pub(crate) fn deploying(body: &str) -> Stage {
    Stage::new(&deploy_of(body))
}

pub(crate) fn deploy_of(body: &str) -> String {
    let mut text = "def deploy(ctx):\n".to_owned();
    for line in body.lines() {
        text.extend(["    ", line, "\n"]);
    }
    text
}

pub(crate) fn host(name: &str) -> HostName {
    name.parse().unwrap()
}

/// Surroundings that answer from memory and note what they were asked.
#[derive(Default)]
pub(crate) struct Fake {
    pub(crate) answers: Vec<(Question, Answer)>,
    /// What commands say, by a part of theirs.
    pub(crate) outputs: Vec<(&'static str, String)>,
    pub(crate) asked: Mutex<Vec<String>>,
}

impl Fake {
    fn note(&self, what: String) {
        self.asked.lock().unwrap().push(what);
    }

    pub(crate) fn asked(&self) -> Vec<String> {
        self.asked.lock().unwrap().clone()
    }
}

impl Surroundings for Fake {
    fn ask(&self, question: Question) -> Result<Answer, String> {
        self.note(format!("{question:?}"));
        if let Question::Output { command, .. } = &question
            && let Some((_, output)) = self.outputs.iter().find(|(part, _)| command.contains(part))
        {
            return Ok(Answer::Text(output.clone()));
        }
        let known = self.answers.iter().find(|(known, _)| *known == question);
        known.map(|(_, answer)| answer.clone()).ok_or_else(|| "the host is gone".to_owned())
    }

    fn tree(&self, source: &Path, ignore: &[String], xattrs: bool) -> Result<TreeSummary, Refusal> {
        self.note(format!("tree {} {ignore:?}", source.display()));
        if !source.is_dir() {
            return Err(format!("there is no directory `{}`", source.display()).into());
        }
        let digest = Digest::of(b"tree");
        let origin = source.display().to_string();
        Ok(TreeSummary {
            origin,
            root: digest,
            manifest: digest,
            manifest_size: 10,
            files: 1,
            bytes: 2,
            ignore: ignore.to_vec(),
            xattrs,
        })
    }

    fn blob(&self, file: &Path) -> Result<(Digest, u64), String> {
        let content = fs_err::read(file).map_err(|error| error.to_string())?;
        Ok((Digest::of(&content), content.len() as u64))
    }

    fn secret(&self, _: Option<&ComponentName>, name: &str) -> Result<Secret<String>, String> {
        self.note(format!("secret {name}"));
        match name {
            "locked" => Err("the key ring is locked".to_owned()),
            "root" => Ok(Secret::new(CANARY.to_owned())),
            other => Ok(Secret::new(format!("{CANARY}-{other}"))),
        }
    }

    fn launcher(&self) -> Result<(Digest, u64), String> {
        self.note("launcher".to_owned());
        Ok((Digest::of(b"launcher"), 8))
    }

    fn etcd_link(&self, node: &str) -> Result<Secret<String>, String> {
        Ok(Secret::new(format!("etcd://web:{CANARY}@etcd:2379{node}")))
    }
}

pub(crate) fn failed(message: &str) -> Answer {
    Answer::Failed(OpFailure::new(ovs_cuisine::plan::FailureKind::Command, message))
}

pub(crate) fn facts() -> Facts {
    Facts {
        hostname: "node-1".to_owned(),
        distribution: Distribution {
            id: "ubuntu".to_owned(),
            like: vec!["debian".to_owned()],
            version: "24.04".to_owned(),
            codename: "noble".to_owned(),
        },
        arch: "x86_64".to_owned(),
        kernel: "6.8.0".to_owned(),
        cpus: 4,
        memory: 8 << 30,
        init: InitSystem::Runit,
        packages: PackageManager::Apt,
        addresses: vec!["172.18.0.2".parse().unwrap()],
        user: "root".to_owned(),
        uid: 0,
        home: "/root".to_owned(),
        boot_id: "b".to_owned(),
        machine_id: "m".to_owned(),
        container: true,
        state_dir: "/var/lib/ovs-cuisine".to_owned(),
    }
}
