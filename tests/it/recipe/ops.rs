//! Every function that records an op.

use ovs_cuisine::plan::{
    Content, DirEnsure, DirRemove, FileLink, FileRemove, FileWrite, GroupEnsure, HostPath, LaunchDescription,
    LaunchFile, MaxDelete, MemoryLock, OnChange, Op, PackageEnsure, PackageState, Principal, Run, RunGuard, Secret,
    ServiceDefinition, ServiceEnsure, SshAuthorize, StepId, UserEnsure, WaitPort,
};

use super::stage::{Fake, Stage, deploy_of, deploying};

fn path(text: &str) -> HostPath {
    text.parse().unwrap()
}

fn name(text: &str) -> Principal {
    Principal::Name(text.to_owned())
}

fn message(body: &str) -> String {
    let error = deploying(body).deploy().unwrap_err();
    let source = error.source().unwrap();
    assert!(source.file.ends_with("web/recipe.star") && source.line > 1, "{error}");
    error.message().to_owned()
}

#[test]
fn files() {
    let ops = deploying(
        r#"
file_write("/etc/motd", "hello\n", "0640", owner = "ovs", group = 33)
file_write("/etc/copy", source = "motd.txt")
file_write("/etc/empty", "")
file_link("/usr/bin/x", "../lib/x", force = True)
file_remove("/etc/old")
dir_ensure("/opt//data/", "0700", owner = "ovs", recursive = True)
dir_remove("/opt/old", recursive = True)"#,
    )
    .file("recipes/web/motd.txt", "copied")
    .ops();
    let write = |at: &str, content: &str| FileWrite {
        path: path(at),
        content: Content::Inline(content.as_bytes().to_vec()),
        mode: None,
        owner: None,
        group: None,
    };
    let motd = FileWrite {
        mode: Some("0640".parse().unwrap()),
        owner: Some(name("ovs")),
        group: Some(Principal::Id(33)),
        ..write("/etc/motd", "hello\n")
    };
    assert_eq!(
        ops,
        [
            Op::FileWrite(motd),
            Op::FileWrite(write("/etc/copy", "copied")),
            Op::FileWrite(write("/etc/empty", "")),
            Op::FileLink(FileLink { path: path("/usr/bin/x"), target: "../lib/x".to_owned(), force: true }),
            Op::FileRemove(FileRemove { path: path("/etc/old") }),
            Op::DirEnsure(DirEnsure {
                path: path("/opt/data"),
                mode: Some("0700".parse().unwrap()),
                owner: Some(name("ovs")),
                group: None,
                recursive: true
            }),
            Op::DirRemove(DirRemove { path: path("/opt/old"), recursive: true }),
        ]
    );
}

#[test]
fn wrong_arguments_of_files() {
    for (body, expected) in [
        ("file_write('etc/motd', 'x')", "absolute path"),
        ("file_write('/etc/../x', 'x')", "absolute path without `..`"),
        ("file_write('/etc/motd')", "exactly one of"),
        ("file_write('/etc/motd', 'x', source = 'y')", "exactly one of"),
        ("file_write('/etc/motd', 'x', mode = '999')", "octal mode"),
        ("file_write('/etc/motd', 'x', owner = 'a:b')", "user or group"),
        ("file_write('/etc/motd', source = '/etc/passwd')", "neither the recipe's nor named by a parameter"),
        ("file_write('/etc/motd', source = 'missing')", "no file `missing`"),
        ("file_write('/etc/motd', source = '../etcd/recipe.star')", "inside the recipe's folder"),
        ("dir_remove('/opt')", "too near to the root"),
        ("file_link('/a/b', '')", "`target` is empty"),
        ("sync('.', '/')", "root directory"),
    ] {
        let message = message(body);
        assert!(message.contains(expected), "{body}: {message}");
    }
}

#[test]
fn large_files_travel_as_blobs() {
    let stage = deploying("file_write('/opt/big', source = 'big')").file("recipes/web/big", vec![7; 65 << 10]);
    let Op::FileWrite(write) = &stage.ops()[0] else { panic!("not a file_write") };
    assert!(matches!(write.content, Content::Blob { size, .. } if size == 65 << 10), "{:?}", write.content);
}

#[test]
fn trees() {
    let recipe = format!(
        "params(build = param('path'))\n\n{}",
        deploy_of(
            "sync(ctx.params.build, '/opt/a', owner = 'root', ignore = ['*.pyc'])\n\
             sync(ctx.params.build + '/sub', '/opt/b', delete = True)\n\
             sync('tree', '/opt/c', delete = {'max': 5})"
        )
    );
    let stage = Stage::with(&recipe, "params = { build = \"../build/x/../\" }");
    let root = stage.root();
    let build = root.parent().unwrap().join("build");
    fs_err::create_dir_all(root.join("recipes/web/tree")).unwrap();
    let fake = Fake::default();
    let error = stage.evaluate(&fake).unwrap_err();
    assert!(error.message().contains("there is no directory"), "{error}");

    let stage =
        Stage::with(&recipe, "params = { build = \"build\" }").file("build/sub/x", "").file("recipes/web/tree/x", "");
    let evaluation = stage.evaluate(&fake).unwrap();
    let kinds: Vec<_> = evaluation
        .plan
        .steps
        .iter()
        .map(|step| match &step.op {
            Op::Sync(sync) => (sync.dest.to_string(), sync.delete, sync.owner.clone()),
            other => panic!("{other:?}"),
        })
        .collect();
    assert_eq!(
        kinds,
        [
            ("/opt/a".to_owned(), MaxDelete::Never, Some(name("root"))),
            ("/opt/b".to_owned(), MaxDelete::Any, None),
            ("/opt/c".to_owned(), MaxDelete::AtMost(5), None)
        ]
    );
    assert!(fake.asked().iter().any(|asked| asked.ends_with("build [\"*.pyc\"]")), "{:?} {build:?}", fake.asked());
}

#[test]
fn packages_and_accounts() {
    let ops = deploying(
        r#"
package_ensure("htop")
package_ensure(["libev4", "etcd=3.4.23"], state = "absent", refresh = True)
user_ensure("ovs", uid = 1001, group = "ovs", groups = ["adm"], home = "/opt/ovs", shell = "/bin/sh", comment = "OVS", system = True)
user_ensure("gone", present = False)
group_ensure("ovs", 1001, system = True)
ssh_authorize("ovs", "ssh-ed25519 AAAA me\n")"#,
    )
    .ops();
    let package = |packages: &[&str], state, refresh| {
        let packages = packages.iter().map(ToString::to_string).collect();
        Op::PackageEnsure(PackageEnsure { packages, state, refresh })
    };
    let user = UserEnsure {
        name: "ovs".to_owned(),
        present: true,
        uid: Some(1001),
        group: Some(name("ovs")),
        groups: vec!["adm".to_owned()],
        home: Some(path("/opt/ovs")),
        shell: Some("/bin/sh".to_owned()),
        comment: Some("OVS".to_owned()),
        system: true,
    };
    let gone = UserEnsure {
        name: "gone".to_owned(),
        present: false,
        uid: None,
        group: None,
        groups: Vec::new(),
        home: None,
        shell: None,
        comment: None,
        system: false,
    };
    assert_eq!(
        ops,
        [
            package(&["htop"], PackageState::Present, false),
            package(&["libev4", "etcd=3.4.23"], PackageState::Absent, true),
            Op::UserEnsure(user),
            Op::UserEnsure(gone),
            Op::GroupEnsure(GroupEnsure { name: "ovs".to_owned(), present: true, gid: Some(1001), system: true }),
            Op::SshAuthorize(SshAuthorize {
                user: "ovs".to_owned(),
                key: "ssh-ed25519 AAAA me".to_owned(),
                present: true
            }),
        ]
    );
    for (body, expected) in [
        ("package_ensure([])", "no package"),
        ("package_ensure('a b')", "not a package name"),
        ("package_ensure('--purge')", "not a package name"),
        ("package_ensure('a', state = 'latest')", "\"present\" or \"absent\""),
        ("user_ensure('0')", "is a name, not the number"),
        ("user_ensure('a', comment = 'x:y')", "/etc/passwd"),
        ("ssh_authorize('a', '-----BEGIN OPENSSH PRIVATE KEY-----')", "public key"),
        ("ssh_authorize('a', 'one')", "public key"),
    ] {
        let message = message(body);
        assert!(message.contains(expected), "{body}: {message}");
    }
}

#[test]
fn services_commands_and_ports() {
    let ops = deploying(
        r#"
conf = file_write("/etc/web.conf", "x")
service_ensure("ssh", running = False, enabled = False)
web = service_ensure("web", argv = ["/usr/bin/web", "-v"], user = "www", directory = "/srv", environment = {"B": "2", "A": "1"}, limit_nofile = 65536, limit_memlock = "unlimited", binds_to = ["base"], after = ["db"], description = "Web", restart_on = [conf])
run("touch /x", creates = "/x", unless = "test -e /y", only_if = "test -e /z", directory = "/", environment = {"A": "1"}, user = "www", timeout = 1.5, success = [0, 3], stdin = "in", changes = False, only_if_changed = web, ignore_errors = True)
wait_port(80)
wait_port(443, "web.lab", 2)"#,
    )
    .steps();
    let definition = ServiceDefinition {
        argv: vec!["/usr/bin/web".to_owned(), "-v".to_owned()],
        user: Some("www".to_owned()),
        directory: Some(path("/srv")),
        environment: vec![("B".to_owned(), "2".to_owned()), ("A".to_owned(), "1".to_owned())],
        limit_nofile: Some(65536),
        limit_memlock: Some(MemoryLock::Unlimited),
        binds_to: vec!["base".to_owned()],
        after: vec!["db".to_owned()],
        stop_timeout: None,
        description: "Web".to_owned(),
    };
    let service = |name: &str, definition, on, restart_on| {
        Op::ServiceEnsure(ServiceEnsure {
            name: name.to_owned(),
            definition,
            running: on,
            enabled: on,
            restart_on,
            ports: Vec::new(),
            yields: Vec::new(),
        })
    };
    assert_eq!(ops[1].op, service("ssh", None, false, Vec::new()));
    assert_eq!(ops[2].op, service("web", Some(definition), true, vec![StepId(0)]));
    assert_eq!(
        ops[3].op,
        Op::Run(Run {
            command: Secret::new("touch /x".to_owned()),
            sensitive: false,
            guards: vec![
                RunGuard::Creates(path("/x")),
                RunGuard::Unless("test -e /y".to_owned()),
                RunGuard::OnlyIf("test -e /z".to_owned())
            ],
            directory: Some(path("/")),
            environment: vec![("A".to_owned(), Secret::new("1".to_owned()))],
            user: Some("www".to_owned()),
            timeout_ms: 1500,
            success: vec![0, 3],
            stdin: Some(Secret::new("in".to_owned())),
            changes: false,
        })
    );
    assert_eq!((ops[3].only_if_changed.as_slice(), ops[3].ignore_errors), ([StepId(2)].as_slice(), true));
    let wait =
        |address: &str, port, timeout_ms| Op::WaitPort(WaitPort { address: address.to_owned(), port, timeout_ms });
    assert_eq!([&ops[4].op, &ops[5].op], [&wait("127.0.0.1", 80, 30_000), &wait("web.lab", 443, 2000)]);
    for (body, expected) in [
        ("service_ensure('web', argv = ['web'])", "not an absolute path"),
        ("service_ensure('web', argv = [])", "`argv` is empty"),
        ("service_ensure('web', user = 'www')", "together with its `argv`"),
        ("service_ensure('web', after = ['db'])", "together with its `argv`"),
        ("service_ensure('web', argv = ['/w'], after = ['web'])", "the service `web` itself"),
        ("service_ensure('web', argv = ['/w'], binds_to = ['../x'])", "not a service name"),
        ("service_ensure('web', argv = ['/w'], limit_memlock = 'much')", "number of bytes or"),
        ("service_ensure('../web')", "not a service name"),
        ("service_ensure('web', argv = ['/w'], environment = {'A B': '1'})", "environment variable"),
        ("run('x', timeout = 0)", "in seconds"),
        ("run('x', success = [300])", "exit status"),
        ("run('x', success = [])", "`success` is empty"),
        ("run('  ')", "is empty"),
        ("wait_port(70000)", "not a port"),
        ("wait_port(80, 'a b')", "not a name or address"),
    ] {
        let message = message(body);
        assert!(message.contains(expected), "{body}: {message}");
    }
}

#[test]
fn steps_have_stable_keys_and_their_line() {
    let stage = deploying("run('x')\nfile_write('/a', 'b')\nrun('x')\nhelper()")
        .file("recipes/lib/h.star", "def helper():\n    run('x')\n");
    let text = format!(
        "load('//lib/h.star', 'helper')\n\n{}",
        deploy_of("run('x')\nfile_write('/a', 'b')\nrun('x')\nhelper()")
    );
    let stage = stage.file("recipes/web/recipe.star", text);
    let steps = stage.steps();
    let keys: Vec<&str> = steps.iter().map(|step| step.key.as_str()).collect();
    assert_eq!(keys, ["run:x", "file_write:/a", "run:x#2", "run:x#3"]);
    let places: Vec<String> = steps.iter().map(|step| step.source.to_string()).collect();
    assert_eq!(places, ["//web/recipe.star:4", "//web/recipe.star:5", "//web/recipe.star:6", "//lib/h.star:2"]);
    assert!(steps.iter().zip(0..).all(|(step, at)| step.id == StepId(at)));
}

#[test]
fn launches() {
    let recipe = deploy_of(
        r#"
build = sync("tree", "/opt/web")
launch("web", argv = ["/opt/web/run", ["-config=", file("main", key = "web/main", mode = "0640")], file("main", key = "web/main", mode = "0640")], files = [file("log", key = "web/log", on_change = "ignore"), file("all", key = "web/all/")], environment = {"A": "1"}, user = "www", directory = "/opt/web", restart_on = [build], on_change = "signal:HUP", limit_nofile = 1024, stop_timeout = 3, before_start = [["/bin/a", "b"], ["/bin/c"]], stop_command = ["/bin/d"], limit_memlock = 4096, binds_to = ["base"], after = ["db"])
launch("aux", argv = ["/opt/web/aux"])"#,
    );
    let stage = Stage::new(&recipe).file("recipes/web/tree/x", "");
    let evaluation = stage.deploy().unwrap();
    let keys: Vec<&str> = evaluation.plan.steps.iter().map(|step| step.key.as_str()).collect();
    assert_eq!(
        keys,
        [
            "sync:/opt/web",
            "dir_ensure:/usr/local/lib/ovs-cuisine",
            "file_write:/usr/local/lib/ovs-cuisine/ovs-launch",
            "dir_ensure:/etc/ovs-cuisine",
            "file_write:/etc/ovs-cuisine/web.link",
            "service_ensure:web",
            "file_write:/etc/ovs-cuisine/aux.link",
            "service_ensure:aux",
        ]
    );
    let Op::FileWrite(link) = &evaluation.plan.steps[4].op else { panic!("not a file_write") };
    let Content::Secret(content) = &link.content else { panic!("the link is no secret") };
    let content = String::from_utf8(content.expose().clone()).unwrap();
    assert!(
        content.starts_with("etcd://web:") && content.ends_with("@etcd:2379/ovs/web/launch/node-1/web\n"),
        "{content}"
    );
    assert_eq!(link.mode.unwrap().bits(), 0o600);
    let Op::ServiceEnsure(service) = &evaluation.plan.steps[5].op else { panic!("not a service") };
    assert_eq!(service.restart_on, [StepId(0), StepId(2), StepId(4)]);
    let definition = service.definition.as_ref().unwrap();
    assert_eq!(definition.argv, ["/usr/local/lib/ovs-cuisine/ovs-launch", "@/etc/ovs-cuisine/web.link"]);
    let expected = ServiceDefinition {
        argv: definition.argv.clone(),
        limit_nofile: Some(1024),
        limit_memlock: Some(MemoryLock::Bytes(4096)),
        binds_to: vec!["base".to_owned()],
        after: vec!["db".to_owned()],
        // Twice the launcher's time, and a little for the launcher.
        stop_timeout: Some(11),
        description: "web of web".to_owned(),
        ..ServiceDefinition::default()
    };
    assert_eq!(*definition, expected);

    let launch = &evaluation.launches[0];
    assert_eq!(
        (launch.key.as_str(), launch.node()),
        ("/ovs/web/launch/node-1/web/description", "/ovs/web/launch/node-1/web")
    );
    let file = |name: &str, mode: Option<&str>, on_change| LaunchFile {
        path: path(&format!("/run/ovs-cuisine/web/{name}")),
        key: format!("/ovs/web/{name}"),
        mode: mode.map(|mode| mode.parse().unwrap()),
        on_change,
    };
    assert_eq!(
        launch.description,
        LaunchDescription {
            argv: ["/opt/web/run", "-config=/run/ovs-cuisine/web/main", "/run/ovs-cuisine/web/main"]
                .map(str::to_owned)
                .into(),
            files: vec![
                file("main", Some("0640"), None),
                file("log", None, Some(OnChange::Ignore)),
                LaunchFile { key: "/ovs/web/all/".to_owned(), ..file("all", None, None) },
            ],
            environment: [("A".to_owned(), "1".to_owned())].into(),
            user: Some("www".to_owned()),
            directory: Some(path("/opt/web")),
            on_change: OnChange::Signal("HUP".to_owned()),
            stop_timeout: 3,
            before_start: vec![vec!["/bin/a".to_owned(), "b".to_owned()], vec!["/bin/c".to_owned()]],
            stop_command: vec!["/bin/d".to_owned()],
        }
    );
    assert_eq!(evaluation.launches.len(), 2);
}

#[test]
fn the_v2_forwarder() {
    let steps = deploying("etcd_v2()\nlaunch('aux', argv = ['/aux'], after = ['etcd-v2'])").steps();
    let keys: Vec<&str> = steps.iter().map(|step| step.key.as_str()).collect();
    assert_eq!(
        keys,
        [
            "dir_ensure:/usr/local/lib/ovs-cuisine",
            "file_write:/usr/local/lib/ovs-cuisine/ovs-launch",
            "file_link:/usr/local/bin/etcdctl",
            "dir_ensure:/etc/ovs-cuisine",
            "file_write:/etc/ovs-cuisine/etcd-v2.link",
            "service_ensure:etcd-v2",
            "file_write:/etc/ovs-cuisine/aux.link",
            "service_ensure:aux",
        ]
    );
    let Op::FileLink(link) = &steps[2].op else { panic!("not a link") };
    assert_eq!((link.target.as_str(), link.force), ("/usr/local/lib/ovs-cuisine/ovs-launch", false));
    let Op::ServiceEnsure(service) = &steps[5].op else { panic!("not a service") };
    assert_eq!(service.restart_on, [StepId(1), StepId(4)]);
    assert_eq!(
        service.definition.as_ref().unwrap().argv,
        ["/usr/local/lib/ovs-cuisine/ovs-launch", "--serve-v2", "127.0.0.1:2379", "@/etc/ovs-cuisine/etcd-v2.link"]
    );
}

#[test]
fn wrong_launches() {
    for (body, expected) in [
        ("launch('web', argv = ['web'])", "not an absolute path"),
        ("launch('web', argv = ['/w', file('a', key = 'other/a')])", "nothing that the component's login may read"),
        ("launch('web', argv = ['/w', file('a', key = 'web/a'), file('a', key = 'web/b')])", "two different files"),
        ("launch('web', argv = ['/w', file('../a', key = 'web/a')])", "plain file name"),
        ("launch('web', argv = ['/w', file('a', key = 'web//a')])", "is not a key"),
        ("launch('web', argv = ['/w'], on_change = 'signal:KILLALL')", "`on_change`"),
        ("launch('web', argv = ['/w'])\nlaunch('web', argv = ['/w'])", "launched twice"),
        ("launch('web', argv = ['/w', file('a', key = 'web/a//')])", "is not a key"),
        ("launch('web', argv = ['/w', file('a', key = '/')])", "is not a key"),
        ("launch('web', argv = ['/w'], before_start = [['a']])", "`before_start` begins with `a`"),
        ("launch('web', argv = ['/w'], before_start = [[]])", "a command of `before_start` is empty"),
        ("launch('web', argv = ['/w'], stop_command = ['a'])", "`stop_command` begins with `a`"),
        ("launch('web', argv = ['/w'], after = ['web'])", "the service `web` itself"),
        ("etcd_v2()\netcd_v2(port = 1)", "launched twice"),
        ("etcd_v2(port = 0)", "not a port"),
        ("etcd_v2(name = '../x')", "not a service name"),
    ] {
        let message = message(body);
        assert!(message.contains(expected), "{body}: {message}");
    }
}

#[test]
fn ports_of_services_are_told_by_number_text_and_parameter() {
    let declared = r#"
params(port = param("port", default = 8080), admin = param("port", default = 8081), count = param("int", default = 2))
def deploy(ctx):
    p = ctx.params
    service_ensure("web", argv = ["/usr/bin/web"], ports = BODY)
"#;
    let ports = |body: &str| -> Result<Vec<(String, Option<String>)>, String> {
        let stage = Stage::new(&declared.replace("BODY", body));
        let plan = stage.deploy().map_err(|error| error.to_string())?.plan;
        let Op::ServiceEnsure(service) = &plan.steps[0].op else { panic!("not a service") };
        Ok(service.ports.iter().map(|port| (port.to_string(), port.parameter.clone())).collect())
    };
    let told = |port: &str, parameter: Option<&str>| (port.to_owned(), parameter.map(str::to_owned));
    // By itself a port belongs to the only parameter of its number.
    assert_eq!(ports("[p.port, 3260]").unwrap(), [told("8080", Some("port")), told("3260", None)]);
    assert_eq!(
        ports(r#"["127.0.0.1:%d" % p.admin, "5353/udp"]"#).unwrap(),
        [told("127.0.0.1:8081", Some("admin")), told("5353/udp", None)]
    );
    assert_eq!(
        ports(r#"{"port": [p.port + n for n in range(p.count)][:1] + [9000], "admin": "[::1]:1"}"#).unwrap(),
        [told("8080", Some("port")), told("9000", Some("port")), told("[::1]:1", Some("admin"))]
    );
    for (body, why) in [
        ("[0]", "`0` is not a port"),
        ("[70000]", "`70000` is not a port"),
        (r#"["web:80"]"#, "`web:80` is not a port"),
        (r#"{"prot": 80}"#, "`prot`, which is no parameter of the recipe"),
        ("[p.port, 8080]", "one service cannot listen twice on one port"),
        (r#"{"port": 80, "admin": "127.0.0.1:80"}"#, "80 (`port`) and 127.0.0.1:80 (`admin`)"),
        (r#"[secret("x")]"#, "cannot hold a secret"),
    ] {
        let error = ports(body).unwrap_err();
        assert!(error.contains(why), "{body}: {error}");
    }
}
