//! The language: loading, checking, context, questions, configuration.

use ovs_cuisine::{
    control::{
        inventory::RecipeRef,
        recipe::{Library, RecipeError, RecipeErrorKind},
    },
    plan::{Answer, Content, Op, Question},
};

use super::stage::{CANARY, Fake, Stage, deploy_of, deploying, failed};

/// The text that the only step writes.
fn written(stage: &Stage) -> String {
    written_with(stage, &Fake::default())
}

fn written_with(stage: &Stage, fake: &Fake) -> String {
    match &stage.evaluate(fake).unwrap().plan.steps[0].op {
        Op::FileWrite(write) => match &write.content {
            Content::Inline(content) => String::from_utf8(content.clone()).unwrap(),
            other => panic!("{other:?}"),
        },
        other => panic!("{other:?}"),
    }
}

fn loading(recipe: &str) -> RecipeError {
    Stage::new(recipe).recipe().err().unwrap()
}

#[test]
fn slips_are_found_when_a_recipe_is_loaded() {
    for (body, kind, expected, line) in [
        ("file_wriet('/a', 'b')", RecipeErrorKind::Type, "file_wriet", 2),
        ("file_write('/a', 'b', ower = 'c')", RecipeErrorKind::Type, "ower", 2),
        ("x = 1\npackage_ensure(1)", RecipeErrorKind::Type, "int", 3),
        ("file_write()", RecipeErrorKind::Type, "path", 2),
        ("file_write('/a', 'b', restart_on = [])", RecipeErrorKind::Type, "restart_on", 2),
        ("run('x', only_if_changed = ['x'])", RecipeErrorKind::Type, "str", 2),
        ("return undefined", RecipeErrorKind::Type, "undefined", 2),
        ("if True\n    pass", RecipeErrorKind::Syntax, "parse error", 2),
        ("x = (1", RecipeErrorKind::Syntax, "parse error", 3),
    ] {
        let error = loading(&deploy_of(body));
        assert_eq!(error.kind(), kind, "{error}");
        assert!(error.message().contains(expected), "{body}: {error}");
        assert_eq!(error.source().unwrap().line, line, "{error}");
        assert!(error.source().unwrap().file.ends_with("web/recipe.star"));
    }
}

#[test]
fn errors_look_like_a_compilers() {
    let stage = deploying("x = 1\nfile_wriet('/a', 'b')\npackage_ensure(7)");
    let error = stage.recipe().err().unwrap();
    insta::assert_snapshot!(error, @r"
    variable `file_wriet` not found, did you mean `file_write`?
     --> //web/recipe.star:3:5
      |
    3 |     file_wriet('/a', 'b')
      |     ^^^^^^^^^^

    expected type `str | list[str]` but got `int`
     --> //web/recipe.star:4:20
      |
    4 |     package_ensure(7)
      |                    ^
    ");
    let stage = Stage::new("load('//lib/h.star', 'helper')\ndef deploy(ctx):\n    helper(ctx.host)\n").file(
        "recipes/lib/h.star",
        "def helper(host):\n    inner(host)\n\ndef inner(host):\n    fail('no ' + host.name)\n",
    );
    insta::assert_snapshot!(stage.deploy().unwrap_err(), @r"
    no node-1
     --> //lib/h.star:5:5
      |
    5 |     fail('no ' + host.name)
      |     ^^^^^^^^^^^^^^^^^^^^^^^
    called through:
      deploy
      //web/recipe.star:3: helper
      //lib/h.star:2: inner
    ");
}

#[test]
fn an_unknown_recipe_is_told_with_the_nearest_name() {
    let stage = deploying("pass");
    let error = stage.library.load(&RecipeRef::Named("wbe".to_owned())).err().unwrap();
    assert_eq!(error.kind(), RecipeErrorKind::Unknown);
    assert_eq!(error.hint().as_deref(), Some("did you mean `web`?"));
    assert!(error.message().contains(&stage.root().join("recipes").display().to_string()), "{error}");
    for bad in ["../recipes/web", "/etc", ""] {
        assert!(stage.library.load(&RecipeRef::Named(bad.to_owned())).is_err(), "{bad:?}");
    }
    let error = stage.library.load(&RecipeRef::Path(stage.root())).err().unwrap();
    assert!(error.message().contains("no recipe in"), "{error}");
}

#[test]
fn a_recipe_may_live_anywhere() {
    let stage = deploying("pass")
        .file("other/own/recipe.star", "load(':h.star', 'hello')\n".to_owned() + &deploy_of("hello()"))
        .file("other/own/h.star", "load('//lib/h.star', 'deep')\ndef hello():\n    deep()\n")
        .file("recipes/lib/h.star", "def deep():\n    run('x')\n")
        .file("other/single.star", deploy_of("pass"));
    for (path, name) in [("other/own", "own"), ("other/own/recipe.star", "own"), ("other/single.star", "single")] {
        assert_eq!(stage.library.load(&RecipeRef::Path(stage.root().join(path))).unwrap().name(), name);
    }
}

#[test]
fn loading_stays_inside() {
    let stage =
        Stage::new("").file("secret.star", "X = 1\n").file("recipes/lib/a.star", "load(':b.star', 'B')\nA = 1\n");
    let stage =
        stage.file("recipes/lib/b.star", "load('//lib/a.star', 'A')\nB = 1\n").file("recipes/lib/_p.star", "_X = 1\n");
    std::os::unix::fs::symlink(stage.root().join("secret.star"), stage.root().join("recipes/lib/out.star")).unwrap();
    for (load, expected) in [
        ("load('../etcd/recipe.star', 'deploy')", "inside the recipe's folder"),
        ("load('//../secret.star', 'X')", "inside the recipe's folder"),
        ("load('/etc/passwd', 'X')", "inside the recipe's folder"),
        ("load('//lib/out.star', 'X')", "leads out of"),
        ("load('//lib/missing.star', 'X')", "no file `//lib/missing.star`"),
        ("load('//lib/_p.star', '_X')", "_X"),
    ] {
        let stage = Stage::new("").file("recipes/web/recipe.star", format!("{load}\ndef deploy(ctx):\n    pass\n"));
        for file in ["secret.star", "recipes/lib/_p.star"] {
            fs_err::write(stage.root().join(file), "_X = 1\n").unwrap();
        }
        std::os::unix::fs::symlink(stage.root().join("secret.star"), stage.root().join("recipes/lib/out.star"))
            .unwrap();
        let error = stage.recipe().err().unwrap();
        assert!(error.message().contains(expected), "{load}: {error}");
        assert_eq!(error.source().unwrap().line, 1, "{error}");
    }
    let stage = stage.file("recipes/web/recipe.star", "load('//lib/a.star', 'A')\ndef deploy(ctx):\n    pass\n");
    let error = stage.recipe().err().unwrap();
    assert!(error.message().contains("files load each other"), "{error}");
    assert_eq!(error.source().unwrap().to_string(), "//lib/b.star:1");
}

#[test]
fn ops_belong_into_deploy() {
    for (recipe, expected) in [
        ("run('x')\ndef deploy(ctx):\n    pass\n", "`run` may not be called while the file is loaded"),
        ("X = secret('root')\ndef deploy(ctx):\n    pass\n", "`secret` may not be called while the file is loaded"),
        ("X = file_exists('/x')\ndef deploy(ctx):\n    pass\n", "`file_exists` may not be called while"),
    ] {
        let error = loading(recipe);
        assert!(error.message().contains(expected), "{error}");
        assert_eq!(error.source().unwrap().line, 1);
    }
    let stage =
        Stage::new("def config(ctx):\n    run('x')\n    return {}\ndef health(ctx):\n    file_write('/a', 'b')\n");
    assert!(stage.config().unwrap_err().message().contains("`run` may not be called inside config(ctx)"));
    assert!(stage.health().unwrap_err().message().contains("health(ctx) only looks"));
    let error = Stage::new("def config(ctx):\n    return {'a': query('x')}\n").config().unwrap_err();
    assert!(error.message().contains("`query` may not be called inside config(ctx)"), "{error}");
    let error = Stage::new("def config(ctx):\n    return {'a': ctx.host.name}\n").config().unwrap_err();
    assert!(error.hint().unwrap().contains("known only in deploy(ctx)"), "{error}");
    let error = deploying("x = run('x')\nif x.changed:\n    run('y')").deploy().unwrap_err();
    assert!(error.hint().unwrap().contains("restart_on"), "{error}");
    let error = Stage::new("L = []\ndef deploy(ctx):\n    L.append(1)\n").deploy().unwrap_err();
    assert!(error.hint().is_some_and(|hint| hint.contains("shared by all hosts")), "{error}");
}

#[test]
fn recipes_define_functions_of_ctx() {
    assert!(loading("def deploy():\n    pass\n").message().contains("not a function of one argument"));
    assert!(loading("deploy = 1\n").message().contains("not a function of one argument"));
    assert!(loading("X = 1\n").message().contains("defines none of"));
}

#[test]
fn context() {
    let stage = deploying(
        "h = ctx.host\n\
         file_write('/x', '\\n'.join([h.name, h.address, str(h.vars.rack), h.vars.domain, str(h.groups), ctx.lab, ctx.component,\n    \
         ctx.prefix, ctx.facts.distribution.codename, h.facts.init, str(ctx.facts.cpus), str(ctx.vars.rack),\n    \
         str([x.name for x in ctx.hosts]), str([x.name for x in ctx.all_hosts]), str([x.address for x in ctx.component_hosts('etcd')])]))",
    );
    assert_eq!(
        written(&stage),
        "node-1\n10.0.0.1\n7\nlab\n[\"nodes\"]\ndemo\nweb\n/ovs/web/\nnoble\nrunit\n4\n7\n[\"node-1\", \"node-2\"]\n[\"etcd\", \"node-1\", \"node-2\"]\n[None]"
    );
    let error = deploying("ctx.component_hosts('ectd')").deploy().unwrap_err();
    assert_eq!(error.hint().as_deref(), Some("did you mean `etcd`?"));
    let error = deploying("ctx.params.nope").deploy().unwrap_err();
    assert!(error.message().contains("nope"), "{error}");
}

#[test]
fn questions() {
    let fake = Fake {
        answers: vec![
            (Question::Exists("/a".parse().unwrap()), Answer::Flag(true)),
            (Question::IsFile("/a".parse().unwrap()), Answer::Flag(true)),
            (Question::IsDir("/a".parse().unwrap()), Answer::Flag(false)),
            (Question::IsLink("/a".parse().unwrap()), Answer::Flag(false)),
            (Question::Read("/a".parse().unwrap()), Answer::Text("text".to_owned())),
            (Question::Read("/b".parse().unwrap()), Answer::Absent),
            (Question::CommandExists("sh".to_owned()), Answer::Flag(true)),
            (Question::PackageInstalled("htop".to_owned()), Answer::Flag(false)),
            (Question::UserExists("ovs".to_owned()), Answer::Flag(true)),
            (Question::GroupExists("ovs".to_owned()), Answer::Flag(false)),
            (Question::Output { command: "uname -r".to_owned(), timeout_ms: 30_000 }, Answer::Text("6.8".to_owned())),
            (Question::Output { command: "false".to_owned(), timeout_ms: 30_000 }, failed("status 1")),
        ],
        ..Fake::default()
    };
    let stage = deploying(
        "file_write('/x', str([file_exists('/a'), file_is_file('/a'), file_is_dir('/a'), file_is_link('/a'), file_read('/a'),\n    \
         file_read('/b', 'none'), command_check('sh'), package_check('htop'), user_check('ovs'), group_check('ovs'), query('uname -r')]))",
    );
    assert_eq!(
        written_with(&stage, &fake),
        "[True, True, False, False, \"text\", \"none\", True, False, True, False, \"6.8\"]"
    );
    for (body, expected) in [
        ("query('false')", "node-1 cannot answer: status 1"),
        ("file_read('/b')", "there is no file `/b` on the host"),
        ("query('unknown')", "the host is gone"),
    ] {
        let error = deploying(body).evaluate(&fake).unwrap_err();
        assert_eq!((error.message(), error.source().unwrap().line), (expected, 2));
    }
}

#[test]
fn configuration_lies_below_the_prefix() {
    let stage = Stage::new(
        "def config(ctx):\n    return {'web/%s' % h.name: json.encode({'ip': h.address}) for h in ctx.hosts}\n",
    );
    let config = stage.config().unwrap();
    assert_eq!(config.keys().collect::<Vec<_>>(), ["web/node-1", "web/node-2"]);
    assert_eq!(config["web/node-1"].bytes, b"{\"ip\":\"10.0.0.1\"}");
    assert!(deploying("pass").config().unwrap().is_empty());
    assert_eq!(deploying("pass").keyspace().unwrap().prefixes, ["/ovs/web/"]);
    let own = |prefix: &str| {
        format!("def prefix(ctx):\n    return {prefix}\ndef config(ctx):\n    return {{'arakoon/db/config': 'x'}}\n")
    };
    let stage = Stage::new(&own("'arakoon/' + 'db'"));
    assert_eq!((stage.keyspace().unwrap().prefix(), stage.config().unwrap().len()), ("/ovs/arakoon/db/", 1));
    for prefix in ["'/arakoon'", "''", "'a//b'", "'../x'", "1", "secret('root')"] {
        let error = Stage::new(&own(prefix)).keyspace().unwrap_err();
        assert!(error.source().is_some(), "{prefix}: {error}");
    }
    let several = Stage::new(
        "def prefix(ctx):\n    return ['web', 'alba/asds/%s' % stable_id('asd')]\n\
         def access(ctx):\n    return {'read': ['framework/rdma', 'arakoon/'], 'write': ['web/state/']}\n\
         def config(ctx):\n    return {p[len('/ovs/'):] + 'x': 'y' for p in ctx.prefixes}\n\
         def deploy(ctx):\n    launch('web', ['/bin/web', file('a', key = 'arakoon/ovsdb/config')])\n",
    );
    let keyspace = several.keyspace().unwrap();
    assert!(keyspace.prefixes[0] == "/ovs/web/" && keyspace.prefixes[1].starts_with("/ovs/alba/asds/"), "{keyspace:?}");
    assert_eq!(
        (keyspace.reads, keyspace.writes),
        (vec!["/ovs/framework/rdma".to_owned(), "/ovs/arakoon/".to_owned()], vec!["/ovs/web/state/".to_owned()],)
    );
    assert_eq!(several.config().unwrap().len(), 2);
    assert_eq!(several.deploy().unwrap().launches[0].description.files[0].key, "/ovs/arakoon/ovsdb/config");
    for access in ["[]", "{'reads': []}", "{'read': 'x'}", "{'read': ['/x']}", "{'write': ['../x']}"] {
        let error = Stage::new(&format!("def access(ctx):\n    return {access}\n")).keyspace().unwrap_err();
        assert!(error.message().contains("access(ctx)"), "{access}: {error}");
    }
    let hidden =
        deploying("launch('web', ['/bin/web', file('a', key = 'arakoon/ovsdb/config')])").deploy().unwrap_err();
    assert!(hidden.message().contains("nothing that the component's login may read"), "{hidden}");
    for (value, expected) in [
        ("{'other/x': 'y'}", "outside of the component's prefix"),
        ("{'web/x': 1}", "is a int, not a text"),
        ("{'web/': 'y'}", "is not a key"),
        ("{1: 'y'}", "a key is not a text"),
        ("['x']", "not a dictionary"),
    ] {
        let error = Stage::new(&format!("def config(ctx):\n    return {value}\n")).config().unwrap_err();
        assert!(error.message().contains(expected), "{value}: {error}");
    }
}

#[test]
fn stores() {
    assert!(deploying("pass").store().unwrap().is_none());
    for (value, expected) in [
        ("{'endpoints': [], 'user': 'root', 'password': 'x'}", "`endpoints` is empty"),
        ("{'endpoints': ['etcd'], 'user': 'root', 'password': 'x'}", "not `host:port`"),
        ("{'endpoints': ['etcd:1'], 'user': 'root', 'password': ''}", "`password` is empty"),
        ("{'endpoints': ['etcd:1'], 'user': 'root'}", "`password` is missing"),
        ("{'endpoints': ['etcd:1'], 'usr': 'root', 'password': 'x'}", "usr is not one of"),
        ("None", "not a dictionary"),
    ] {
        let error = Stage::new(&format!("def store(ctx):\n    return {value}\n")).store().unwrap_err();
        assert!(error.message().contains(expected), "{value}: {error}");
    }
}

#[test]
fn health_is_a_plan_of_probes() {
    let stage = Stage::new("def health(ctx):\n    wait_port(80)\n    run('curl localhost')\n");
    let plan = stage.health().unwrap().unwrap();
    assert_eq!(plan.steps.len(), 2);
    assert!(matches!(&plan.steps[1].op, Op::Run(run) if !run.changes));
    assert!(deploying("pass").health().unwrap().is_none());
    assert!(stage.steps().is_empty());
}

#[test]
fn texts() {
    for (expression, expected) in [
        (
            "ini({'top': 1, 's': {'a': 'b', 'on': True, 'list': ['x', 2], 'empty': ''}, 't': {}})",
            "top = 1\n\n[s]\na = b\non = true\nlist = x, 2\nempty =\n\n[t]\n",
        ),
        ("text_strip_margin('''\n   |a\n   | b\n   ''')", "a\n b"),
        ("shell_quote(\"it's\")", "'it'\\''s'"),
        (
            "json.encode({'b': [1, None, True, 1.5, 'x\"'], 'a': struct(c = 1)})",
            "{\"b\":[1,null,true,1.5,\"x\\\"\"],\"a\":{\"c\":1}}",
        ),
        ("json.encode({'b': 1}, indent = 2)", "{\n  \"b\": 1\n}"),
        ("str(json.decode('{\"b\": [1, null]}'))", "{\"b\": [1, None]}"),
        ("template('t.j2', {'name': 'x', 'list': [1, 2]})", "x: 1 2 \nincluded\n"),
        ("str(list(range(5, 0, -2)))", "[5, 3, 1]"),
        (
            "str([2 * 3, 'ab' * 2, 2 * [1], 1.5 * 2, [x * 2 for x in [1]], (lambda x: x * 3)(2), -1 * 'x'])",
            "[6, \"abab\", [1, 1], 3.0, [2], 6, \"\"]",
        ),
        ("f'{ctx.component}'", "web"),
    ] {
        // f-strings know plain names only.
        let body = if expression.starts_with("f'") {
            "c = ctx.component\nfile_write('/x', f'{c}')".to_owned()
        } else {
            format!("file_write('/x', {expression})")
        };
        let recipe = if body.contains("'''") { format!("def deploy(ctx):\n    {body}\n") } else { deploy_of(&body) };
        let stage = Stage::new(&recipe)
            .file("recipes/web/t.j2", "{{ name }}: {% for n in list %}{{ n }} {% endfor %}\n{% include '//lib/i.j2' %}")
            .file("recipes/lib/i.j2", "included\n");
        assert_eq!(written(&stage), expected, "{expression}");
    }
    for (expression, expected, kind) in [
        ("template('t.j2', {})", "template `t.j2:2`: undefined value", RecipeErrorKind::Template),
        ("template('missing.j2', {})", "no file `missing.j2`", RecipeErrorKind::Io),
        ("template('../etcd/recipe.star', {})", "inside the recipe's folder", RecipeErrorKind::Io),
        ("template('bad.j2', {})", "template `bad.j2:1`: syntax error", RecipeErrorKind::Template),
        ("template('loop.j2', {})", "does not come to an end", RecipeErrorKind::Template),
        ("ini({'s': {'a': 'x\\ny'}})", "more than one line", RecipeErrorKind::Evaluation),
        ("ini({'s': {'a': None}})", "a NoneType cannot be a value", RecipeErrorKind::Evaluation),
        ("json.decode('{')", "not JSON", RecipeErrorKind::Evaluation),
        ("str(json.encode(lambda: 1))", "cannot become JSON", RecipeErrorKind::Evaluation),
    ] {
        let stage = deploying(&format!("file_write('/x', {expression})"))
            .file("recipes/web/t.j2", "\n{{ name }}\n")
            .file("recipes/web/bad.j2", "{% if %}\n")
            .file(
                "recipes/web/loop.j2",
                "{% for a in range(9999) %}{% for b in range(9999) %}{% endfor %}{% endfor %}",
            );
        let error = stage.deploy().unwrap_err();
        assert!(error.message().contains(expected), "{expression}: {error}");
        assert_eq!((error.kind(), error.source().unwrap().line), (kind, 2), "{error}");
    }
}

#[test]
fn the_same_input_gives_the_same_plan() {
    let stage = deploying(
        "pw = secret('root')\nfor n in {'b': 1, 'a': 2}:\n    file_write('/' + n, json.encode({n: pw, 'z': [pw]}))\nlaunch('web', argv = ['/w'])",
    );
    let first = stage.deploy().unwrap();
    let again = stage.deploy().unwrap();
    assert_eq!(first, again);
    let bytes = |evaluation: &ovs_cuisine::control::recipe::Evaluation| postcard::to_stdvec(&evaluation.plan).unwrap();
    assert_eq!(bytes(&first), bytes(&again));
}

#[test]
fn many_hosts_at_once() {
    let stage = deploying("for i in range(50):\n    file_write('/f%d' % i, ctx.host.name)");
    std::thread::scope(|scope| {
        let runs: Vec<_> = (0..16).map(|_| scope.spawn(|| stage.deploy().unwrap().plan.steps.len())).collect();
        assert!(runs.into_iter().all(|run| run.join().unwrap() == 50));
    });
}

#[test]
fn expressions() {
    let stage = deploying("pass");
    let evaluation = stage.expression("package_ensure('htop')", &Fake::default()).unwrap();
    assert_eq!(evaluation.plan.steps[0].key, "package_ensure:htop");
    assert_eq!(evaluation.plan.steps[0].source.to_string(), "-e:1");
    let many = "if ctx.host.name == 'node-1':\n    run('a')\nrun('b')";
    let steps = stage.expression(many, &Fake::default()).unwrap().plan.steps;
    assert_eq!(steps.iter().map(|step| step.source.line).collect::<Vec<_>>(), [2, 3]);
    let error = stage.expression("run('a')\nrum('b')", &Fake::default()).unwrap_err();
    insta::assert_snapshot!(error, @r"
    variable `rum` not found, did you mean `run`?
     --> -e:2:1
      |
    2 | rum('b')
      | ^^^
    ");
    assert!(stage.expression(" ", &Fake::default()).is_err());
}

#[test]
fn libraries_are_listed_and_checked() {
    let stage = Stage::new("\"\"\"Web.\n\nMore.\"\"\"\ndef deploy(ctx):\n    pass\n")
        .file("recipes/bad/recipe.star", "def deploy(ctx):\n    nope()\n");
    let entries = stage.library.list().unwrap();
    let told: Vec<_> = entries.iter().map(|entry| (entry.name.as_str(), entry.doc.as_deref().ok())).collect();
    assert_eq!(told, [("bad", None), ("etcd", Some("The store.")), ("web", Some("Web."))]);
    let wrong = stage.library.check_all().unwrap();
    assert_eq!(wrong.len(), 1);
    assert!(wrong[0].1.message().contains("nope"), "{}", wrong[0].1);
}

#[test]
fn nothing_of_a_host_variable_shows() {
    let error = deploying("fail(str(ctx.vars), str(ctx.host))").deploy().unwrap_err();
    assert!(error.message().contains("db_password") && !error.to_string().contains(CANARY), "{error}");
}

/// The recipes that come with the tool, with the fake lab's hosts.
fn shipped(recipe: &str, component: &str) -> Stage {
    let mut stage = Stage::with(recipe, component);
    let directory = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("recipes");
    stage.library = Library::new(vec![stage.root().join("recipes"), directory]);
    fs_err::remove_dir_all(stage.root().join("recipes/lib")).unwrap();
    stage
}

#[test]
fn the_shared_library_works() {
    let recipe = "load('//lib/ovs.star', 'json_keys', 'ovs_user')\n\
         load('//lib/arakoon.star', 'arakoon_ini', 'nodes_of')\n\
         def config(ctx):\n    \
             keys = json_keys('web/sections', {'a': {'x': 1}})\n    \
             nodes = nodes_of(ctx.hosts, 'db', 26402, 26403, '/opt/db')\n    \
             keys['web/config'] = arakoon_ini('web', 'db', nodes, {'plugins': ['p']})\n    \
             return keys\n\
         def deploy(ctx):\n    run('x', only_if_changed = ovs_user(uid = 1001))\n";
    let stage = shipped(recipe, "");
    let config = stage.config().unwrap();
    assert_eq!(config["web/sections/a"].bytes, b"{\"x\":1}");
    insta::assert_snapshot!(String::from_utf8(config["web/config"].bytes.clone()).unwrap());
    let steps = stage.steps();
    let keys: Vec<&str> = steps.iter().map(|step| step.key.as_str()).collect();
    assert_eq!(keys, ["group_ensure:ovs", "user_ensure:ovs", "dir_ensure:/opt/OpenvStorage", "run:x"]);
    assert_eq!(steps[0].source.file, "recipes/lib/ovs.star");
}

#[test]
fn the_shipped_recipes_load() {
    let library = Library::new(vec![std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("recipes")]);
    let entries = library.list().unwrap();
    assert!(entries.len() >= 3, "{entries:?}");
    for entry in entries {
        let doc = entry.doc.unwrap_or_else(|error| panic!("{error}"));
        assert!(!doc.is_empty(), "{} says nothing about itself", entry.name);
    }
}

#[test]
fn identifiers_follow_from_lab_and_text() {
    let value = |call: &str| {
        let stage = deploying(&format!("file_write('/' + {call}, '')"));
        stage.deploy().unwrap().plan.steps[0].op.subject()
    };
    assert_eq!(value("stable_id('a')"), value("stable_id('a', 16)"));
    assert_ne!(value("stable_id('a')"), value("stable_id('b')"));
    assert_eq!(value("str(len(stable_id('a', 32)))"), value("'32'"));
    assert_eq!(value("str(len(stable_uuid('a').split('-')))"), value("'5'"));
    assert!(deploying("stable_id('a', 3)").deploy().unwrap_err().message().contains("between 4 and 64"));
    assert!(deploying("stable_id(secret('a'))").deploy().is_err(), "a secret cannot be guessed from an identifier");
}

#[test]
fn preparing_needs_no_configuration() {
    let prepared = Stage::new("def prepare(ctx):\n    package_ensure('x')\n").prepare().unwrap().unwrap();
    assert_eq!(prepared.steps.len(), 1);
    assert!(deploying("pass").prepare().unwrap().is_none());
    let error = Stage::new("def prepare(ctx):\n    launch('x', ['/bin/x'])\n").prepare().unwrap_err();
    assert!(error.message().contains("prepare(ctx) comes before"), "{error}");
}

#[test]
fn parameters_of_other_components_are_known() {
    let body = deploy_of("file_write('/%d' % ctx.component_params('web').port, '')");
    let stage = Stage::new(&format!("params(port = param('port', default = 8080))\n{body}"));
    assert_eq!(stage.deploy().unwrap().plan.steps[0].op.subject(), "/8080");
    let error = deploying("ctx.component_params('wep')").deploy().unwrap_err();
    assert!(error.to_string().contains("no component `wep`"), "{error}");
}
