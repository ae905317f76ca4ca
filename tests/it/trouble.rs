//! Bad input and bad hosts in a lab that runs: told all at once, nothing half-configured, and green again when mended.

use std::net::TcpListener;

use crate::support::{
    lab::{Run, TestLab, docker},
    wait::wait_until,
};

/// A service with a build, keys of a schema, and a host that must have a file.
const APP: &str = r#"
params(
    build = param("path", contains = ["program"], doc = "Where the program is."),
    size = param("int", default = 1, doc = "How much it may take, 1 to 9."),
    needs_file = param("str", default = ""),
)

def config(ctx):
    if ctx.params.size > 9:
        fail("size is %d, more than 9" % ctx.params.size)
    return {ctx.component + "/main": json.encode({"size": ctx.params.size})}

def deploy(ctx):
    if ctx.params.needs_file and not file_exists(ctx.params.needs_file):
        fail("%s has no %s" % (ctx.host.name, ctx.params.needs_file))
    build = sync(ctx.params.build, "/small/" + ctx.component)
    launch(
        ctx.component,
        argv = ["/bin/sh", "-c", "exec sleep 1000000", "app", file("main", key = ctx.component + "/main")],
        restart_on = [build],
    )

def health(ctx):
    run("for _ in $(seq 60); do pgrep -f '^sleep 1000000' && exit; sleep 0.1; done; exit 1", changes = False)
"#;

/// What a host refuses before anything is touched.
const PICKY: &str = r#"
def config(ctx):
    return {ctx.component + "/main": "x"}

def prepare(ctx):
    if not file_exists("/dev/never"):
        fail("%s has no /dev/never" % ctx.host.name)
    file_write("/var/tmp/prepared", "")

def deploy(ctx):
    pass
"#;

fn inventory(params: &str, more: &str) -> String {
    format!(
        "[defaults.container]\nimage = \"ovs-cuisine/ssh:latest\"\n\n[host.etcd]\ncontainer = true\n\n\
         [host.node]\ncontainer = {{ tmpfs = {{ \"/small\" = \"size=1m\" }} }}\n\n\
         [component.etcd]\nrecipe = \"etcd\"\nhosts = [\"etcd\"]\n\n\
         [component.app]\nrecipe = \"app\"\nhosts = [\"node\"]\nneeds = [\"etcd\"]\nparams = {{ build = \"build\", {params} }}\n\n{more}"
    )
}

/// Everything that a refused deploy must leave as it is: containers and their starts, networks, keys with the very revisions,
/// the service's process and what is rendered for it.
#[derive(Debug, PartialEq)]
struct State {
    containers: Vec<String>,
    networks: Vec<String>,
    keys: String,
    processes: String,
    files: String,
}

fn state(lab: &TestLab) -> State {
    let filter = format!("label=ovs-cuisine.lab={}", lab.container("").trim_end_matches('-'));
    let lines = |words: &[&str]| {
        let text = String::from_utf8(docker(words).stdout).unwrap();
        let mut lines: Vec<String> = text.lines().map(str::to_owned).collect();
        lines.sort();
        lines
    };
    let containers = lines(&["ps", "-aq", "--no-trunc", "--filter", &filter]);
    let started =
        containers.iter().flat_map(|id| lines(&["inspect", "--format", "{{.Name}} {{.State.StartedAt}}", id]));
    State {
        containers: started.collect(),
        networks: lines(&["network", "ls", "-q", "--filter", &filter]),
        keys: lab.expect(0, &["config", "get", "LAB", "/ovs", "--json"].map(|w| if w == "/ovs" { "/ovs/" } else { w })).stdout,
        processes: lab.inside("node", "pgrep -a -f '^sleep 1000000'; pgrep -a ovs-launch"),
        files: lab.inside("node", "cd / && find small run/ovs-cuisine etc/ovs-cuisine etc/service/app var/tmp -type f ! -path '*/supervise/*' | sort | xargs md5sum"),
    }
}

fn tells(run: &Run, needles: &[&str]) {
    for needle in needles {
        assert!(run.stderr.contains(needle), "`{needle}` is not in\n{}", run.stderr);
    }
}

fn is_green(lab: &TestLab) {
    lab.expect(0, &["deploy", "LAB"]);
    let again = lab.expect(0, &["deploy", "LAB"]);
    assert!(again.stdout.contains("\n0 changed"), "{again:?}");
}

#[test]
fn nothing_is_half_configured() {
    let lab = TestLab::new(&inventory("", ""));
    lab.recipe("app", APP);
    lab.recipe("picky", PICKY);
    lab.write("build/program", "one\n");
    lab.write("empty/readme", "\n");
    is_green(&lab);
    let before = state(&lab);
    let untouched = |status: i32, inventory: &str, needles: &[&str]| {
        lab.inventory(inventory);
        let run = lab.expect(status, &["deploy", "LAB"]);
        tells(&run, needles);
        assert_eq!(state(&lab), before, "{needles:?}");
    };
    all_wrong_input_at_once(&untouched);
    what_the_engine_lacks(&untouched);
    what_recipes_refuse(&untouched);
    // Mended, it goes on as if nothing had been.
    lab.inventory(&inventory("", ""));
    assert!(lab.expect(0, &["deploy", "LAB"]).stdout.contains("\n0 changed"));
    assert_eq!(state(&lab), before);
    a_taken_port_is_free_again(&lab);
    a_full_volume(&lab);
    and_back_again(&lab);
}

type Untouched<'a> = &'a dyn Fn(i32, &str, &[&str]);

fn component(name: &str, recipe: &str, params: &str) -> String {
    format!(
        "[component.{name}]\nrecipe = \"{recipe}\"\nhosts = [\"node\"]\nneeds = [\"etcd\"]\nparams = {{ {params} }}\n\n"
    )
}

/// A missing build, one of another layout, a value of a wrong type, a parameter that there is not: all in one run.
fn all_wrong_input_at_once(untouched: Untouched<'_>) {
    let more = component("no-build", "app", "build = \"nowhere\"")
        + &component("no-layout", "app", "build = \"empty\"")
        + &component("no-type", "app", "build = \"build\", size = \"large\"")
        + &component("no-name", "app", "build = \"build\", colour = \"red\"");
    let needles =
        ["nowhere", "is not a directory", "Where the program is.", "has no `program`", "size", "colour", "lab.toml:"];
    untouched(20, &inventory("", &more), &needles);
}

fn what_the_engine_lacks(untouched: Untouched<'_>) {
    let host = |setting: &str| {
        format!(
            "[host.more]\ncontainer = {{ {setting} }}\n\n[component.more]\nrecipe = \"app\"\nhosts = [\"more\"]\n\
             needs = [\"etcd\"]\nparams = {{ build = \"build\", size = 2 }}\n"
        )
    };
    let device = inventory("size = 3", &host("devices = [\"/dev/not-here\"]"));
    untouched(20, &device, &["`more`", "/dev/not-here"]);
    let holder = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = holder.local_addr().unwrap().port().to_string();
    let taken = inventory("size = 3", &host(&format!("ports = [\"127.0.0.1:{port}:80\"]")));
    untouched(50, &taken, &["`more`", &port, "already in use"]);
}

/// Values that do not fit the keys' schema, hosts that are not as they must be: of all components, before the first.
fn what_recipes_refuse(untouched: Untouched<'_>) {
    let more = component("other", "app", "build = \"build\", size = 11") + &component("picky", "picky", "");
    let needles = ["size is 10, more than 9", "size is 11, more than 9", "node has no /dev/never", "recipe.star:"];
    untouched(20, &inventory("size = 10", &more), &needles);
    // What only the live host can say is found when its turn comes, and before its keys.
    let later = inventory("size = 4, needs_file = \"/dev/never\"", "");
    untouched(40, &later, &["node has no /dev/never"]);
}

fn a_taken_port_is_free_again(lab: &TestLab) {
    let holder = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = holder.local_addr().unwrap().port();
    let more = format!(
        "[host.more]\ncontainer = {{ ports = [\"127.0.0.1:{port}:80\"] }}\n\n\
                        [component.plain]\nrecipe = \"plain\"\nhosts = [\"more\"]\n"
    );
    lab.recipe("plain", "def deploy(ctx):\n    file_write(\"/srv/a\", \"b\")\n");
    lab.inventory(&inventory("", &more));
    lab.expect(50, &["deploy", "LAB"]);
    assert!(docker(&["inspect", &lab.container("more")]).status.code() != Some(0), "a container was made");
    drop(holder);
    is_green(lab);
    lab.inventory(&inventory("", ""));
    lab.expect(0, &["deploy", "LAB", "--prune"]);
}

/// A volume that is full when the build comes: the keys are there, the files are whole, the service runs on with what it
/// had, and room is all it takes.
fn a_full_volume(lab: &TestLab) {
    let before = state(lab);
    lab.inside("node", "head -c 900000 /dev/zero > /small/filler");
    lab.write("build/program", &"two\n".repeat(100_000));
    lab.inventory(&inventory("", ""));
    let run = lab.expect(40, &["deploy", "LAB"]);
    tells(&run, &["node", "app", "/small/app", "space"]);
    lab.inside("node", "rm /small/filler");
    assert_eq!(state(lab), before, "old content, old process, old keys");
    // The same with keys that changed: these come first, and the service takes them; its build is the old one.
    lab.inside("node", "head -c 900000 /dev/zero > /small/filler");
    lab.inventory(&inventory("size = 5", ""));
    tells(&lab.expect(40, &["deploy", "LAB"]), &["/small/app", "space"]);
    assert_eq!(lab.inside("node", "cat /small/app/program; ls -A /small/app"), "one\nprogram\n");
    assert!(lab.expect(0, &["config", "get", "LAB", "app/main"]).stdout.contains('5'));
    lab.inside("node", "rm /small/filler");
    is_green(lab);
    assert_eq!(lab.inside("node", "tail -n 1 /small/app/program"), "two\n");
}

/// `config history` and `config rollback`: shown, asked, done, and gone back on.
fn and_back_again(lab: &TestLab) {
    let main = || lab.expect(0, &["config", "get", "LAB", "app/main"]).stdout;
    let rendered = || lab.inside("node", "cat /run/ovs-cuisine/app/main");
    let was = main();
    lab.inventory(&inventory("size = 6", ""));
    lab.expect(0, &["deploy", "LAB"]);
    let is = main();
    assert_ne!(was, is);
    let runs = lab.expect(0, &["config", "history", "LAB", "--json"]).events();
    let last = runs.last().unwrap();
    assert_eq!((&last["component"], &last["keys"]), (&"app".into(), &1.into()), "{last}");
    let table = lab.expect(0, &["config", "history", "LAB", "-n", "1"]).stdout;
    assert!(table.lines().count() == 2 && table.contains(last["run"].as_str().unwrap()), "{table}");

    let shown = lab.expect(0, &["config", "rollback", "LAB", "--check"]);
    assert!(shown.stdout.contains("~ /ovs/app/main") && shown.stdout.contains("+{"), "{shown:?}");
    let refused = lab.expect(50, &["config", "rollback", "LAB"]);
    assert!(refused.stderr.contains("not confirmed") && refused.stderr.contains("--yes"), "{refused:?}");
    assert_eq!(main(), is);
    let done = lab.expect(0, &["config", "rollback", "LAB", "--yes"]);
    assert!(done.stdout.contains("1 key back") && done.stderr.contains("the next deploy of app"), "{done:?}");
    assert_eq!(main(), was);
    wait_until("the old value", || rendered() == was);
    // A rollback is a run: undone like any other, or named.
    let run = lab.expect(0, &["config", "history", "LAB", "--json"]).events().last().unwrap().clone();
    assert!(run["back_to"].is_i64(), "{run}");
    lab.expect(0, &["config", "rollback", "LAB", "--yes"]);
    assert_eq!(main(), is);
    lab.expect(0, &["config", "rollback", "LAB", run["run"].as_str().unwrap(), "--only", "app", "--yes"]);
    assert_eq!(main(), was);
    let plan = lab.expect(10, &["plan", "LAB", "--exit-code"]);
    assert!(plan.stdout.contains("/ovs/app/main"), "the recipe wants something else: {plan:?}");
    is_green(lab);
    assert_eq!(main(), is);
    // Keys that nobody of ours changed stop it.
    lab.inventory(&inventory("size = 7", ""));
    lab.expect(0, &["deploy", "LAB"]);
    let put = "ETCDCTL_API=3 ETCDCTL_USER=root:PASSWORD etcdctl put /ovs/app/main foreign";
    lab.inside("etcd", &put.replace("PASSWORD", &lab.password("secret.etcd.root")));
    let stopped = lab.expect(50, &["config", "rollback", "LAB", "--yes"]);
    assert!(stopped.stderr.contains("/ovs/app/main") && stopped.stderr.contains("another hand"), "{stopped:?}");
    assert_eq!(main(), "foreign");
    is_green(lab);
    for (words, why) in [(["r00000000", "--yes"], "no run or revision"), (["999999999", "--yes"], "no run or revision")]
    {
        let unknown = lab.expect(20, &["config", "rollback", "LAB", words[0], words[1]]);
        assert!(unknown.stderr.contains(why) && unknown.stderr.contains("config history"), "{unknown:?}");
    }
}
