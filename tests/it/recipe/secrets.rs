//! A secret is never shown, and arrives where it must.

use ovs_cuisine::plan::{Content, Op};

use super::stage::{CANARY, Stage, deploy_of, deploying};

/// Forms in which the secret would be recognised.
fn forms() -> Vec<String> {
    vec![CANARY.to_owned(), "c4n4ry".to_owned(), CANARY.to_uppercase()]
}

fn assert_hidden(text: &str) {
    for form in forms() {
        assert!(!text.contains(&form), "a secret shows in {text}");
    }
}

#[test]
fn secrets_arrive_and_are_not_seen() {
    let stage = deploying(
        r#"
pw = secret("root")
file_write("/a", "user=%s password=%s\n" % ("x", pw))
file_write("/b", f"{pw}!")
file_write("/c", json.encode({"pw": pw}))
file_write("/d", ini({"auth": {"pw": "<" + pw + ">"}}))
file_write("/e", template = "e.j2", vars = {"pw": pw})
run("login " + shell_quote(pw))
run("login", stdin = pw, environment = {"PW": pw})
file_write("/f", ctx.host.vars.db_password)
file_write("/h", str([pw, {"pw": pw}]) + repr(pw) + "%r" % pw)
file_write("/g", template("e.j2", {"pw": "{}-{}".format(pw, pw)}))
print(pw, [pw])
launch("web", argv = ["/w"])"#,
    )
    .file("recipes/web/e.j2", "pw={{ pw }} {{ {'a': pw} | tojson }}\n");
    let evaluation = stage.deploy().unwrap();
    let plan = &evaluation.plan;
    assert_hidden(&format!("{evaluation:?}"));
    assert_hidden(&format!("{evaluation:#?}"));
    assert_hidden(&serde_json::to_string(plan).unwrap());
    for step in &plan.steps {
        assert_hidden(&step.title());
        assert_hidden(&step.key);
    }
    let content = |at: &str| {
        let found = plan.steps.iter().find_map(|step| match &step.op {
            Op::FileWrite(write) if write.path.as_str() == at => Some((&write.content, step.sensitive)),
            _ => None,
        });
        match found {
            Some((Content::Secret(content), true)) => String::from_utf8(content.expose().clone()).unwrap(),
            other => panic!("{at} is no secret: {other:?}"),
        }
    };
    let json = serde_json::Value::from(CANARY).to_string();
    assert_eq!(content("/a"), format!("user=x password={CANARY}\n"));
    assert_eq!(content("/b"), format!("{CANARY}!"));
    assert_eq!(content("/c"), format!("{{\"pw\":{json}}}"));
    assert_eq!(content("/d"), format!("[auth]\npw = <{CANARY}>\n"));
    assert_eq!(content("/e"), format!("pw={CANARY} {{\"a\":{json}}}\n"));
    assert_eq!(content("/f"), CANARY);
    assert!(content("/g").starts_with(&format!("pw={CANARY}-{CANARY} ")), "{}", content("/g"));

    assert_eq!(content("/h"), format!("[\"{CANARY}\", {{\"pw\": \"{CANARY}\"}}]\"{CANARY}\"\"{CANARY}\""));

    let runs: Vec<_> = plan
        .steps
        .iter()
        .filter_map(|step| match &step.op {
            Op::Run(run) => Some(run),
            _ => None,
        })
        .collect();
    assert_eq!(runs[0].command.expose(), &format!("login '{}'", CANARY.replace('\'', "'\\''")));
    assert_eq!(runs[1].stdin.as_ref().unwrap().expose(), CANARY);
    assert_eq!(runs[1].environment[0].1.expose(), CANARY);
    assert!(runs.iter().all(|run| run.sensitive));
}

#[test]
fn a_secret_does_not_go_where_it_would_be_seen() {
    for body in [
        "file_write('/etc/' + secret('root'), 'x')",
        "package_ensure(secret('root'))",
        "service_ensure('web', argv = ['/w', '--password=' + secret('root')])",
        "service_ensure('web', argv = ['/w'], environment = {'PW': secret('root')})",
        "launch('web', argv = ['/w', secret('root')])",
        "launch('web', argv = ['/w'], environment = {'PW': secret('root')})",
        "launch('web', argv = ['/w', file('a', key = 'web/' + secret('root'))])",
        "run('x', unless = 'login ' + secret('root'))",
        "query('login ' + secret('root'))",
        "ssh_authorize('ovs', secret('root'))",
        "wait_port(80, secret('root'))",
    ] {
        let error = deploying(body).deploy().unwrap_err();
        assert!(error.message().contains("cannot hold a secret"), "{body}: {error}");
        assert_hidden(&format!("{error} {error:?} {:?}", error.hint()));
    }
}

#[test]
fn errors_do_not_show_secrets() {
    for body in [
        "fail('the password is ' + secret('root'))",
        "secret('root').nope",
        "int(secret('root'))",
        "{}[secret('root')]",
        "file_write('/a', secret('root')[3:-3])",
        "file_write('/a', secret('root')[0])",
        "file_write('/a', ''.join(reversed(secret('root').elems())))",
        "fail(secret('root')[:-2])",
        "ini({secret('root'): {}, 'x': {'y': None}})",
        "file_write('/x', template = 'x.j2', vars = {'pw': secret('root')})",
    ] {
        let stage = deploying(body).file("recipes/web/x.j2", "{{ pw.nope.nope }}");
        let error = stage.deploy().unwrap_err();
        let text = format!("{error} {error:?} {:?}", error.hint());
        assert_hidden(&text);
        assert!(text.is_ascii(), "a piece of a marker shows: {text}");
    }
    let error = deploying("secret('locked')").deploy().unwrap_err();
    assert_eq!(error.message(), "the key ring is locked");
}

#[test]
fn secret_parameters_and_configuration() {
    let recipe = "params(password = param('secret'), plain = param('str', default = ''))\n\
         def config(ctx):\n    return {'web/auth': 'pw=' + ctx.params.password, 'web/open': 'yes'}\n\
         def store(ctx):\n    return {'endpoints': ['etcd:2379'], 'user': 'root', 'password': ctx.params.password, 'ca': None}\n";
    let stage = Stage::with(recipe, &format!("params = {{ password = '''{CANARY}''' }}"));
    let params = stage.bind().unwrap();
    assert_hidden(&format!("{params:?} {}", serde_json::to_string(&params).unwrap()));
    let config = stage.config().unwrap();
    assert_eq!(config["web/auth"].bytes, format!("pw={CANARY}").into_bytes());
    assert_eq!((config["web/auth"].secret, config["web/open"].secret), (true, false));
    assert_hidden(&format!("{config:?}"));
    let store = stage.store().unwrap().unwrap();
    assert_eq!((store.password.expose().as_str(), store.user.as_str(), store.ca.as_deref()), (CANARY, "root", None));
    assert_eq!(store.endpoints, ["etcd:2379"]);
    assert_hidden(&format!("{store:?}"));
}

#[test]
fn a_text_parameter_with_a_telling_name_is_a_secret() {
    let recipe = format!("params(api_token = param('str'))\n{}", deploy_of("file_write('/a', ctx.params.api_token)"));
    let stage = Stage::with(&recipe, &format!("params = {{ api_token = '''{CANARY}''' }}"));
    assert_hidden(&format!("{:?}", stage.deploy().unwrap()));
}

#[test]
fn a_wrong_secret_parameter_is_not_shown() {
    let recipe = "params(password = param('secret'))\ndef deploy(ctx):\n    pass\n";
    let stage = Stage::with(recipe, &format!("params = {{ password = ['''{CANARY}'''] }}"));
    assert_hidden(&format!("{:?}", stage.bind().unwrap_err()));
}
