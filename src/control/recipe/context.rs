//! `ctx`: what a recipe is told about the lab, the component and the host.

use std::{collections::BTreeMap, sync::LazyLock};

use serde_json::Value as Json;
use starlark::{
    environment::{FrozenModule, GlobalsBuilder, Module},
    eval::Evaluator,
    starlark_module,
    values::{
        Heap, Value,
        dict::{AllocDict, DictRef},
        list::AllocList,
        structs::AllocStruct,
    },
};

use super::{
    BoundValue, Params, Scene,
    error::{Fault, RecipeError, RecipeErrorKind},
    files::nearest,
    veil::Veil,
};
use crate::{
    control::inventory::{Host, ParamValue},
    plan::{Facts, HostName, Secret, Source},
};

/// Makes `ctx` on the heap of an evaluation.
pub(super) fn context<'v>(
    module: &Module<'v>,
    scene: &Scene<'_>,
    host: Option<(&HostName, &Facts)>,
    veil: &Veil,
) -> Result<Value<'v>, RecipeError> {
    let heap = module.heap();
    let maker = Maker { scene, veil, heap };
    let hosts = scene.inventory.hosts.keys().map(|name| Ok((name, maker.host(name, None)?)));
    let hosts = hosts.collect::<Result<Vec<_>, RecipeError>>()?;
    let own = hosts.iter().filter(|(name, _)| scene.component.hosts.contains(name)).map(|(_, host)| *host);
    let components = scene.components.iter().map(|(name, params)| Ok((name.as_str(), maker.params(params)?)));
    let components = components.collect::<Result<Vec<_>, RecipeError>>()?;
    // Where the functions of `ctx` find them.
    module.set_extra_value(heap.alloc(AllocDict([
        (HOSTS, heap.alloc(AllocDict(hosts.iter().map(|(name, host)| (name.as_str(), *host))))),
        (PARAMS, heap.alloc(AllocDict(components))),
    ])));
    let method = |name| methods()?.get(name).map_err(internal);
    let (component_hosts, component_params) = (method("component_hosts")?, method("component_params")?);
    let mut fields = vec![
        ("lab", heap.alloc(scene.inventory.lab.name.as_str())),
        ("component", heap.alloc(scene.component.name.as_str())),
        ("params", maker.params(scene.params)?),
        ("hosts", heap.alloc(AllocList(own))),
        ("all_hosts", heap.alloc(AllocList(hosts.iter().map(|(_, host)| *host)))),
        ("component_hosts", heap.access_owned_frozen_value(&component_hosts)),
        ("component_params", heap.access_owned_frozen_value(&component_params)),
    ];
    if !scene.keyspace.prefixes.is_empty() {
        fields.push(("prefix", heap.alloc(scene.keyspace.prefix())));
        fields.push(("prefixes", heap.alloc(AllocList(scene.keyspace.prefixes.iter().map(String::as_str)))));
    }
    if !scene.leaving.is_empty() {
        let leaving = scene.leaving.iter().map(|host| heap.alloc(AllocStruct([("name", heap.alloc(host.as_str()))])));
        fields.push(("leaving", heap.alloc(AllocList(leaving))));
    }
    match host {
        Some((name, facts)) => {
            let facts = facts_value(facts, heap);
            let host = maker.host(name, Some(facts))?;
            fields.push(("vars", maker.vars(&maker.host_of(name)?.vars)?));
            fields.push(("facts", facts));
            fields.push(("host", host));
        }
        None => fields.push(("vars", maker.vars(&scene.inventory.lab.vars)?)),
    }
    Ok(heap.alloc(AllocStruct(fields)))
}

/// The functions of `ctx`, as values.
fn methods() -> Result<&'static FrozenModule, RecipeError> {
    static METHODS: LazyLock<Option<FrozenModule>> =
        LazyLock::new(|| FrozenModule::from_globals(&GlobalsBuilder::new().with(ctx_functions).build()).ok());
    METHODS.as_ref().ok_or_else(|| RecipeError::new(RecipeErrorKind::Evaluation, "cannot make the functions of ctx"))
}

#[starlark_module]
fn ctx_functions(builder: &mut GlobalsBuilder) {
    /// The hosts of a component of the lab.
    fn component_hosts<'v>(name: &str, eval: &mut Evaluator<'v, '_, '_>) -> starlark::Result<Value<'v>> {
        let components = &super::session::session(eval)?.stage("ctx.component_hosts")?.components;
        let hosts = components.get(name).ok_or_else(|| no_component(name, components))?;
        let all = known(eval, HOSTS);
        let found = hosts.iter().map(|host| all.as_ref().and_then(|all| all.get_str(host)));
        let found = found.collect::<Option<Vec<_>>>();
        let found = found.ok_or_else(|| Fault::evaluation(format!("component `{name}` has an unknown host")))?;
        Ok(eval.heap().alloc(AllocList(found)))
    }

    /// The parameters of a component of the lab.
    fn component_params<'v>(name: &str, eval: &mut Evaluator<'v, '_, '_>) -> starlark::Result<Value<'v>> {
        let components = &super::session::session(eval)?.stage("ctx.component_params")?.components;
        let params = known(eval, PARAMS).and_then(|all| all.get_str(name));
        Ok(params.ok_or_else(|| no_component(name, components))?)
    }
}

/// Names of what the functions of `ctx` find in a module's extra value.
const HOSTS: &str = "hosts";
const PARAMS: &str = "params";

fn known<'v>(eval: &Evaluator<'v, '_, '_>, what: &str) -> Option<DictRef<'v>> {
    DictRef::from_value(eval.module().extra_value()?)?.get_str(what).and_then(DictRef::from_value)
}

fn no_component(name: &str, components: &BTreeMap<String, Vec<String>>) -> Fault {
    let fault = Fault::evaluation(format!("the lab has no component `{name}`"));
    match nearest(name, components.keys().map(String::as_str)) {
        Some(near) => fault.hint(format!("did you mean `{near}`?")),
        None => fault,
    }
}

fn internal(error: impl std::fmt::Display) -> RecipeError {
    RecipeError::new(RecipeErrorKind::Evaluation, error.to_string())
}

struct Maker<'s, 'v> {
    scene: &'s Scene<'s>,
    veil: &'s Veil,
    heap: Heap<'v>,
}

impl<'v> Maker<'_, 'v> {
    fn host_of(&self, name: &HostName) -> Result<&Host, RecipeError> {
        self.scene.inventory.hosts.get(name).ok_or_else(|| {
            RecipeError::new(RecipeErrorKind::Evaluation, format!("host `{name}` is not in the inventory"))
        })
    }

    fn host(&self, name: &HostName, facts: Option<Value<'v>>) -> Result<Value<'v>, RecipeError> {
        let host = self.host_of(name)?;
        let address = self.scene.addresses.get(name);
        let ip = self.scene.ips.get(name);
        let groups = host.groups.iter().map(AsRef::<str>::as_ref);
        let mut fields = vec![
            ("name", self.heap.alloc(name.as_str())),
            ("address", address.map_or_else(Value::new_none, |address| self.heap.alloc(address.as_str()))),
            ("ip", ip.map_or_else(Value::new_none, |ip| self.heap.alloc(ip.to_string()))),
            ("vars", self.vars(&host.vars)?),
            ("groups", self.heap.alloc(AllocList(groups))),
        ];
        if let Some(facts) = facts {
            fields.push(("facts", facts));
        }
        Ok(self.heap.alloc(AllocStruct(fields)))
    }

    fn params(&self, params: &Params) -> Result<Value<'v>, RecipeError> {
        let fields = params.iter().map(|(name, value)| Ok((name, self.param(value)?)));
        Ok(self.heap.alloc(AllocStruct(fields.collect::<Result<Vec<_>, RecipeError>>()?)))
    }

    fn param(&self, value: &BoundValue) -> Result<Value<'v>, RecipeError> {
        Ok(match value {
            BoundValue::Plain(value) => self.heap.alloc(value),
            BoundValue::Path(path) => self.heap.alloc(path.to_string_lossy().as_ref()),
            BoundValue::Secret(secret) => self.heap.alloc(self.veil.hide(secret.clone())?),
        })
    }

    fn vars(&self, vars: &serde_json::Map<String, Json>) -> Result<Value<'v>, RecipeError> {
        let fields = vars.iter().map(|(name, value)| Ok((name.as_str(), self.var(name, value)?)));
        Ok(self.heap.alloc(AllocStruct(fields.collect::<Result<Vec<_>, RecipeError>>()?)))
    }

    /// A variable; texts under a name that tells a secret are covered, at any depth.
    fn var(&self, name: &str, value: &Json) -> Result<Value<'v>, RecipeError> {
        Ok(match value {
            Json::Object(members) => {
                let members = members.iter().map(|(name, value)| Ok((name.as_str(), self.var(name, value)?)));
                self.heap.alloc(AllocDict(members.collect::<Result<Vec<_>, RecipeError>>()?))
            }
            Json::Array(items) => {
                let items = items.iter().map(|item| self.var(name, item)).collect::<Result<Vec<_>, _>>()?;
                self.heap.alloc(AllocList(items))
            }
            Json::String(text) if !text.is_empty() && tells_secret(name) => {
                self.heap.alloc(self.veil.hide(Secret::new(text.clone()))?)
            }
            value => self.heap.alloc(value),
        })
    }
}

/// Whether the inventory takes a value of this name for a secret.
fn tells_secret(name: &str) -> bool {
    ParamValue::new(name, Json::Null, Source { file: String::new(), line: 0 }).secret
}

fn facts_value<'v>(facts: &Facts, heap: Heap<'v>) -> Value<'v> {
    let distribution = [
        ("id", heap.alloc(facts.distribution.id.as_str())),
        ("like", heap.alloc(AllocList(facts.distribution.like.iter().map(String::as_str)))),
        ("version", heap.alloc(facts.distribution.version.as_str())),
        ("codename", heap.alloc(facts.distribution.codename.as_str())),
    ];
    let word = |value: serde_json::Result<Json>| heap.alloc(value.unwrap_or(Json::Null));
    heap.alloc(AllocStruct([
        ("hostname", heap.alloc(facts.hostname.as_str())),
        ("distribution", heap.alloc(AllocStruct(distribution))),
        ("arch", heap.alloc(facts.arch.as_str())),
        ("kernel", heap.alloc(facts.kernel.as_str())),
        ("cpus", heap.alloc(facts.cpus)),
        ("memory", heap.alloc(facts.memory)),
        ("init", word(serde_json::to_value(facts.init))),
        ("packages", word(serde_json::to_value(facts.packages))),
        ("addresses", heap.alloc(AllocList(facts.addresses.iter().map(ToString::to_string)))),
        ("user", heap.alloc(facts.user.as_str())),
        ("uid", heap.alloc(facts.uid)),
        ("home", heap.alloc(facts.home.as_str())),
        ("machine_id", heap.alloc(facts.machine_id.as_str())),
        ("container", heap.alloc(facts.container)),
    ]))
}
