//! `run` and `exec`: one recipe, expression or command on some hosts.

use std::{path::Path, sync::Arc};

use indexmap::IndexMap;

use super::{
    args,
    failure::{Exit, Failure},
    output::style,
    run::{Lab, run},
};
use crate::{
    control::{
        drive::{AD_HOC, Mode},
        event::RunKind,
        inventory::{Component, FailurePolicy, ParamValue, RecipeRef},
        recipe::Recipe,
    },
    plan::{ComponentName, HostName, Source},
};

pub(super) async fn run_recipe(args: args::Run, verbose: u8) -> Result<Exit, Failure> {
    let lab = Lab::load(&args.inventory)?;
    let hosts = lab.hosts(Some(&args.on))?;
    let params = args.params.iter().map(|param| parse_param(param)).collect::<Result<_, _>>()?;
    let mode = if args.check { Mode::Check } else { Mode::Apply };
    let (component, recipe) = match (&args.expression, &args.recipe) {
        (Some(expression), _) => {
            let recipe = lab.library.expression(expression)?;
            (component("expression", RecipeRef::Named("expression".to_owned()), hosts.clone(), params)?, recipe)
        }
        (None, name) => {
            let name = name.as_deref().unwrap_or_default();
            let reference = recipe_ref(name);
            let recipe = lab.library.load(&reference)?;
            let short = Path::new(name).file_stem().and_then(|stem| stem.to_str()).unwrap_or(name);
            (component(short, reference, hosts.clone(), params)?, recipe)
        }
    };
    let style = style(&args.options, args.diff || args.check, verbose);
    run_component(&lab, RunKind::Recipe, mode, &args.options, component, recipe, style).await
}

pub(super) async fn exec(args: args::Exec, verbose: u8) -> Result<Exit, Failure> {
    let lab = Lab::load(&args.inventory)?;
    let hosts = lab.hosts(Some(&args.on))?;
    let command = starlark_text(&args.command.join(" "));
    let user = args.user.as_deref().map_or_else(|| "None".to_owned(), starlark_text);
    let expression = format!("run({command}, user = {user}, timeout = {})", args.timeout);
    let recipe = lab.library.expression(&expression)?;
    let component = component("exec", RecipeRef::Named("exec".to_owned()), hosts, IndexMap::new())?;
    let style = style(&args.options, false, verbose);
    run_component(&lab, RunKind::Exec, Mode::Apply, &args.options, component, recipe, style).await
}

async fn run_component(
    lab: &Lab,
    kind: RunKind,
    mode: Mode,
    options: &args::RunOptions,
    component: Component,
    recipe: Arc<Recipe>,
    style: crate::control::report::ReportStyle,
) -> Result<Exit, Failure> {
    let hosts = component.hosts.clone();
    let mut request = lab.bare_request(kind, mode, options, vec![Arc::new(component.clone())], hosts);
    request.recipes.insert(component.name, recipe);
    Ok(Exit::of(&run(request, style).await?))
}

/// A component that no inventory has: named so that it cannot be taken for one.
fn component(
    name: &str,
    recipe: RecipeRef,
    hosts: Vec<HostName>,
    params: IndexMap<String, ParamValue>,
) -> Result<Component, Failure> {
    let name: ComponentName =
        format!("{AD_HOC}{name}").parse().map_err(|error| Failure::new(Exit::BadInput, error, None))?;
    Ok(Component {
        name,
        recipe,
        hosts,
        needs: Vec::new(),
        serial: None,
        on_failure: FailurePolicy::StopHost,
        params,
        source: command_line(),
    })
}

fn command_line() -> Source {
    Source { file: "command line".to_owned(), line: 0 }
}

/// A path when it looks like one, else a name in the recipe directories.
pub(super) fn recipe_ref(text: &str) -> RecipeRef {
    if text.contains('/') || Path::new(text).extension().is_some_and(|extension| extension == "star") {
        let path = std::path::absolute(text).unwrap_or_else(|_| text.into());
        RecipeRef::Path(path)
    } else {
        RecipeRef::Named(text.to_owned())
    }
}

/// `NAME=VALUE`: the value is read as TOML when it is that (`3`, `true`, `["a"]`), else as text.
fn parse_param(text: &str) -> Result<(String, ParamValue), Failure> {
    let Some((name, value)) = text.split_once('=') else {
        return Err(
            Failure::bad_input(format!("parameter `{text}` is not NAME=VALUE")).hint("for example -p port=2379")
        );
    };
    let parsed = toml::from_str::<IndexMap<String, serde_json::Value>>(&format!("value = {value}"));
    let value = match parsed {
        Ok(mut table) => table.shift_remove("value").unwrap_or_default(),
        Err(_) => serde_json::Value::String(value.to_owned()),
    };
    Ok((name.trim().to_owned(), ParamValue { value, source: command_line(), secret: false }))
}

/// A text as a Starlark literal.
fn starlark_text(text: &str) -> String {
    // JSON's escapes are a subset of Starlark's.
    serde_json::Value::String(text.to_owned()).to_string()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parameters_are_toml_or_text() {
        let value = |text: &str| parse_param(text).unwrap().1.value;
        assert_eq!(value("a=3"), 3);
        assert_eq!(value("a=true"), true);
        assert_eq!(value("a=some text"), "some text");
        assert_eq!(value("a=[1, 2]"), serde_json::json!([1, 2]));
        assert_eq!(value("a=\"3\""), "3");
        assert_eq!(value("a=b=c"), "b=c");
        assert!(parse_param("a").is_err());
    }

    #[test]
    fn paths_and_names_are_told_apart() {
        assert_eq!(recipe_ref("etcd"), RecipeRef::Named("etcd".into()));
        assert!(matches!(recipe_ref("./etcd"), RecipeRef::Path(_)));
        assert!(matches!(recipe_ref("x.star"), RecipeRef::Path(_)));
    }
}
