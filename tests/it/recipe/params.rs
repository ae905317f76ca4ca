//! Parameters: declared in the recipe, given in the inventory, told with the inventory's line when wrong.

use ovs_cuisine::control::recipe::{BoundValue, RecipeError, RecipeErrorKind};
use serde_json::json;

use super::stage::Stage;

const RECIPE: &str = r#""""Web.

Serves pages.
"""

params(
    name = param("str", default = "web", doc = "What it is called."),
    port = param("port", default = 80),
    build = param("path", doc = "Where the build is."),
    data = param("path", default = "data"),
    ratio = param("float", default = 1),
    hosts = param("list", default = []),
    options = param("dict", default = {"a": 1}),
    count = param("int", default = None),
    level = param("str", default = "info", choices = ["info", "debug"]),
    fast = param("bool", default = False),
)

def deploy(ctx):
    p = ctx.params
    file_write("/p", json.encode([p.name, p.port, p.build, p.data, p.ratio, p.hosts, p.options, p.count, p.level, p.fast]))
"#;

#[test]
fn defaults_and_given_values() {
    let stage = Stage::with(RECIPE, "params = { build = \"../build\", count = 3, level = \"debug\", ratio = 2 }");
    let params = stage.bind().unwrap();
    let root = stage.root();
    let plain = |name: &str| match params.get(name) {
        Some(BoundValue::Plain(value)) => value.clone(),
        other => panic!("{name}: {other:?}"),
    };
    assert_eq!((plain("name"), plain("port"), plain("count")), (json!("web"), json!(80), json!(3)));
    assert_eq!((plain("ratio"), plain("options"), plain("fast")), (json!(2.0), json!({"a": 1}), json!(false)));
    let paths: Vec<_> = params.paths().collect();
    let build = stage.inventory.directory().parent().unwrap().join("build");
    assert_eq!(paths, [("build", build.as_path()), ("data", root.join("recipes/web/data").as_path())]);
    assert_eq!(stage.steps().len(), 1);
}

#[test]
fn wrong_values_are_told_with_the_line_of_the_inventory() {
    for (given, expected, hint) in [
        ("params = { build = 1 }", "parameter `build` is a path, not a number", None),
        ("params = { build = \"b\", port = 70000 }", "parameter `port` is a port (1 to 65535), not a number", None),
        ("params = { build = \"b\", level = \"loud\" }", "it may be \"info\" or \"debug\"", None),
        ("params = { build = \"b\", fast = \"yes\" }", "is true or false, not a text", None),
        ("params = { build = \"b\", count = 1.5 }", "is a whole number, not a number with a fraction", None),
        ("params = { build = \"\" }", "an empty path", None),
        (
            "params = { build = \"b\", nmae = \"x\" }",
            "recipe `web` has no parameter `nmae`",
            Some("did you mean `name`?"),
        ),
    ] {
        let stage = Stage::with(RECIPE, given);
        let error = stage.bind().unwrap_err();
        assert_eq!(error.kind(), RecipeErrorKind::Param);
        assert!(error.message().contains(expected), "{error}");
        assert_eq!(error.hint().as_deref(), hint);
        let line = fs_err::read_to_string(stage.root().join("lab.toml")).unwrap();
        let line = line.lines().position(|line| line.starts_with("params")).unwrap() + 1;
        let source = error.source().unwrap();
        assert!(source.file.ends_with("lab.toml") && source.line as usize == line, "{source}");
    }
}

#[test]
fn everything_that_is_wrong_is_told_at_once() {
    let error = Stage::with(RECIPE, "params = { prot = 1, port = \"x\" }").bind().unwrap_err();
    let told: Vec<&str> = std::iter::once(&error).chain(error.others()).map(RecipeError::message).collect();
    assert_eq!(
        told,
        [
            "recipe `web` has no parameter `prot`",
            "parameter `port` is a port (1 to 65535), not a text",
            "component `web` needs parameter `build` of recipe `web`",
        ]
    );
    assert!(error.others()[1].hint().unwrap().contains("Where the build is."));
    assert!(error.others()[1].source().unwrap().line > 0);
}

#[test]
fn wrong_declarations() {
    for (declaration, expected) in [
        ("params(a = param('string'))", "`string` is not a type"),
        ("params(a = param('int', default = 'x'))", "is a text, but the parameter is a whole number"),
        ("params(a = param('secret', default = 'x'))", "a secret cannot stand in a recipe"),
        ("params(a = param('str', default = 'x', choices = ['y']))", "not among the choices"),
        ("params(a = param('int'))\nparams(b = param('int'))", "only be called once"),
        ("params(a = 1)", "param"),
        ("params(a = param('str', push_order = 1))", "`push_order` is for parameters of type `path`"),
        ("params(a = param('list', default = [lambda: 1]))", "cannot be a parameter's value"),
    ] {
        let stage = Stage::new(&format!("{declaration}\ndef deploy(ctx):\n    pass\n"));
        let error = stage.recipe().err().unwrap();
        assert!(error.to_string().contains(expected), "{declaration}: {error}");
        assert!(error.source().unwrap().line > 0, "{error:?}");
    }
}

#[test]
fn a_recipe_documents_its_parameters() {
    let recipe = Stage::new(RECIPE).recipe().unwrap();
    insta::assert_snapshot!(recipe.reference());
    assert_eq!(recipe.doc().lines().next(), Some("Web."));
    assert!(recipe.has_deploy() && !recipe.has_config() && !recipe.has_health() && !recipe.has_store());
    assert!(recipe.params()[2].required && recipe.params()[2].source.line == 9, "{:?}", recipe.params()[2]);
}

#[test]
fn a_build_has_the_declared_layout() {
    let recipe = "params(build = param('path', contains = ['usr/bin/arakoon', 'usr/lib/alba/'], doc = 'A build.'))\n\
                  def deploy(ctx):\n    pass\n";
    let given = "params = { build = \"build\" }";
    let nowhere = Stage::with(recipe, given).layouts().unwrap_err();
    assert!(nowhere.message().contains("is not a directory"), "{nowhere}");
    let half = Stage::with(recipe, given).file("build/usr/bin/arakoon", "").layouts().unwrap_err();
    assert!(half.message().contains("has no `usr/lib/alba/`"), "{half}");
    assert!(!half.message().contains("usr/bin/arakoon") && half.hint().unwrap().contains("A build."), "{half:?}");
    let stage = Stage::with(recipe, given).file("build/usr/bin/arakoon", "").file("build/usr/lib/alba/x", "");
    assert!(stage.layouts().is_ok());
    for declared in
        ["param('str', contains = ['x'])", "param('path', contains = ['../x'])", "param('path', contains = [''])"]
    {
        assert!(
            Stage::new(&format!("params(a = {declared})\ndef deploy(ctx):\n    pass\n")).bind().is_err(),
            "{declared}"
        );
    }
}

#[test]
fn the_turn_in_a_push_is_the_last_of_the_directories_that_are_given() {
    let recipe = "params(\n    build = param('path', push_order = 1),\n    tools = param('path', default = None, push_order = 2),\n)\n\
                  def deploy(ctx):\n    pass\n";
    let order = |given: &str| {
        let stage = Stage::with(recipe, given).file("build/x", "");
        stage.recipe().unwrap().push_order(&stage.bind().unwrap())
    };
    assert_eq!(order("params = { build = \"build\" }"), 1, "what is not given has no say");
    assert_eq!(order("params = { build = \"build\", tools = \"build\" }"), 2);
}
