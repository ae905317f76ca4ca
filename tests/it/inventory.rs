//! Inventories as files: what good ones mean, what people read about bad ones, and that nothing makes the reader panic.

mod demo;

use std::{
    path::{Path, PathBuf},
    process::Command,
};

use ovs_cuisine::{
    control::inventory::{Access, Host, HostKeyPolicy, Inventory, InventoryError, SelectError},
    plan::{ComponentName, HostName},
};
use proptest::prelude::*;

fn fixtures() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/inventory")
}

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

/// A good inventory as if its file lay in `/lab/inventory`, so that absolute paths are the same everywhere.
fn good(name: &str) -> Inventory {
    let text = fs_err::read_to_string(fixtures().join("good").join(name)).unwrap();
    Inventory::parse(&text, &Path::new("/lab/inventory").join(name)).unwrap()
}

fn host<'a>(inventory: &'a Inventory, name: &str) -> &'a Host {
    &inventory.hosts[&name.parse::<HostName>().unwrap()]
}

fn names<T: ToString>(names: &[T]) -> String {
    names.iter().map(ToString::to_string).collect::<Vec<_>>().join(" ")
}

/// Every file below `bad` has a snapshot of its error; the text is what an operator reads.
#[test]
fn bad_inventories_tell_everything_that_is_wrong() {
    let mut files: Vec<PathBuf> =
        fs_err::read_dir(fixtures().join("bad")).unwrap().map(|entry| entry.unwrap().path()).collect();
    files.sort();
    assert!(files.len() >= 30, "only {} bad inventories", files.len());
    for file in files {
        let name = file.file_stem().unwrap().to_str().unwrap();
        let text = fs_err::read_to_string(&file).unwrap();
        let error = Inventory::parse(&text, Path::new(&format!("{name}.toml"))).unwrap_err();
        let rendered = error.to_string();
        assert!(!rendered.contains("canary-"), "{name}: a secret is shown:\n{rendered}");
        for problem in error.problems() {
            assert!(rendered.contains(&format!("{name}.toml:{}:{}", problem.line, problem.column)), "{rendered}");
        }
        insta::assert_snapshot!(format!("bad_{name}"), rendered);
    }
}

#[test]
fn an_inventory_that_cannot_be_read_says_why() {
    let error = Inventory::load(Path::new("nowhere/lab.toml")).unwrap_err();
    insta::assert_snapshot!(error.to_string(), @r"
    error: cannot read inventory `nowhere/lab.toml`
     |
     = because: No such file or directory (os error 2)
     = help: the first argument of every command about a lab is its inventory
    ");
    assert!(std::error::Error::source(&error).is_some());

    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("lab.toml");
    fs_err::write(&path, b"[lab]\nname = \"\xff\"\n").unwrap();
    let error = Inventory::load(&path).unwrap_err();
    assert_eq!((error.problems()[0].line, error.problems()[0].column), (2, 9));
    assert_eq!(error.problems()[0].message, "the inventory is not UTF-8");
}

#[test]
fn colour_is_only_added() {
    let error = parse("[lab]\nnme = 'x'\n").unwrap_err();
    let coloured = error.render(true);
    assert!(coloured.contains("\u{1b}["));
    assert!(!error.render(false).contains('\u{1b}'));
    assert_eq!(error.summary(), "inventory `lab.toml` has 2 problems");
}

#[test]
fn a_file_of_problems_is_told_in_bounded_length() {
    let text = "[lab]\nname = 'x'\n[host.a]\ncontainer = true\n".to_owned()
        + &(0..500).map(|number| format!("bad{number} = 1\n")).collect::<Vec<_>>().concat();
    let error = parse(&text).unwrap_err();
    assert_eq!(error.problems().len(), 500);
    assert!(error.to_string().contains("... and 400 more"));
}

#[test]
fn a_whole_inventory_as_json_and_as_tables() {
    let inventory = good("rack.toml");
    let home = std::env::home_dir().unwrap();
    let json = serde_json::to_string_pretty(&inventory.to_json()).unwrap().replace(home.to_str().unwrap(), "~");
    assert!(!json.contains("canary"), "{json}");
    assert!(!format!("{inventory:?}").contains("canary"));
    insta::assert_snapshot!("rack_json", json);
    insta::assert_snapshot!("rack_tables", inventory.show());
    insta::assert_snapshot!("smallest_tables", good("smallest.toml").show());
}

#[test]
fn secrets_are_hidden_but_kept() {
    let inventory = good("rack.toml");
    let etcd = &inventory.components[&"etcd".parse::<ComponentName>().unwrap()];
    assert_eq!(etcd.params["password"].value, "canary");
    assert!(etcd.params["password"].secret);
    assert_eq!(host(&inventory, "arakoon-1").vars["db_password"], "canary");
}

#[test]
fn variables_are_taken_from_lab_then_groups_then_host() {
    let inventory = good("rack.toml");
    let tier = |name: &str| host(&inventory, name).vars["tier"].as_str().unwrap().to_owned();
    assert_eq!(tier("etcd"), "lab");
    assert_eq!(tier("rack01"), "storage");
    assert_eq!(tier("arakoon-2"), "host");
    assert_eq!(host(&inventory, "etcd").vars["started"], "2026-01-31");
}

#[test]
fn jump_chains_are_followed() {
    let inventory = good("rack.toml");
    let chain = |name: &str| match &host(&inventory, name).access {
        Access::Ssh(access) => {
            access.jump.iter().map(|hop| format!("{}@{}:{}", hop.user, hop.address, hop.port)).collect::<Vec<_>>()
        }
        Access::Container(_) => panic!("{name} is a container"),
    };
    let (gate, bastion) = ("admin@gate.example.com:2222", "admin@bastion:22");
    // The hosts of the default chain are reached by the part before them.
    assert!(chain("gate").is_empty());
    assert_eq!(chain("bastion"), [gate]);
    assert_eq!(chain("rack01"), [gate, bastion]);
    assert!(chain("near").is_empty());
    assert_eq!(chain("far"), [gate, bastion, "admin@rack01.lab:22", "ops@10.1.1.1:2022"]);
    let Access::Ssh(near) = &host(&inventory, "near").access else { panic!("near is a container") };
    assert_eq!(near.host_key, HostKeyPolicy::Pinned("ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIJZ5".to_owned()));
}

#[test]
fn hosts_are_selected_in_the_order_of_the_inventory() {
    let inventory = good("rack.toml");
    for (selection, hosts) in [
        ("all", "etcd arakoon-1 arakoon-2 arakoon-3 big service gate bastion rack01 rack02 near far"),
        ("rack02,etcd", "etcd rack02"),
        ("arakoon-*", "arakoon-1 arakoon-2 arakoon-3"),
        ("arakoon-[1,3] near", "arakoon-1 arakoon-3 near"),
        ("arakoon-[!2]", "arakoon-1 arakoon-3"),
        ("{etcd,big}", "etcd big"),
        ("@storage", "big rack01 rack02"),
        ("@everything,!@metadata", "etcd big rack01"),
        ("!arakoon-*,!@storage", "etcd service gate bastion near far"),
        ("component:ovsdb,!arakoon-2", "arakoon-1 arakoon-3"),
        ("component:asd", "rack01"),
    ] {
        assert_eq!(names(&inventory.select(selection).unwrap()), hosts, "{selection}");
    }
}

#[test]
fn a_selection_that_means_nothing_is_refused() {
    let inventory = good("rack.toml");
    let told = |selection: &str| {
        let error = inventory.select(selection).unwrap_err();
        format!("{error} ({})", error.hint().unwrap_or_default())
    };
    for (selection, text) in [
        ("", "the selection is empty (write a name, a glob such as `asd-*`, `@group` or `all`)"),
        (" , ", "the selection is empty (write a name, a glob such as `asd-*`, `@group` or `all`)"),
        ("arakon-1", "no host is named `arakon-1` (did you mean `arakoon-1`?)"),
        ("storage", "no host is named `storage` (a group is written `@storage`)"),
        ("@storge", "no group is named `storge` (did you mean `storage`?)"),
        ("component:ovdb", "no component is named `ovdb` (did you mean `ovsdb`?)"),
        ("rack[01-03]", "no host is named `rack03` (did you mean `rack01`?)"),
        ("rack[2-1]", "range `[2-1]` runs backwards (write `[1-2]`)"),
        ("etcd,!etcd", "`etcd,!etcd` selects nothing ()"),
        (
            "all,!web*",
            "`web*` matches nothing (the hosts are `etcd`, `arakoon-1`, `arakoon-2`, `arakoon-3`, `big`, `service`, `gate`, `bastion`, `rack01`, `rack02`, `near`, `far`)",
        ),
    ] {
        assert_eq!(told(selection), text, "{selection}");
    }
    assert!(matches!(inventory.select("a["), Err(SelectError::BadPattern { .. })));
}

#[test]
fn components_are_ordered_and_selected() {
    let text = r#"
        [lab]
        name = "x"
        [host.a]
        container = true
        [component]
        web = { recipe = "x", hosts = "a", needs = ["api"] }
        api = { recipe = "x", hosts = "a", needs = ["db", "db"] }
        log = { recipe = "x", hosts = "a" }
        db = { recipe = "x", hosts = "a" }
    "#;
    let inventory = parse(text).unwrap();
    assert_eq!(names(&inventory.order()), "log db api web");
    let select = |words: &[&str], with_needs| {
        let words: Vec<String> = words.iter().map(|&word| word.to_owned()).collect();
        inventory.select_components(&words, with_needs).map(|found| names(&found)).map_err(|error| {
            let hint = error.hint().unwrap_or_default();
            format!("{error} ({hint})")
        })
    };
    for (words, with_needs, expected) in [
        (vec![], false, Ok("log db api web")),
        (vec!["api", "log"], false, Ok("log api")),
        (vec!["web"], true, Ok("db api web")),
        (vec!["*b,!db"], false, Ok("web")),
        (vec!["!log"], false, Ok("db api web")),
        (vec!["wbe"], false, Err("no component is named `wbe` (did you mean `web`?)")),
        (vec!["x*"], false, Err("`x*` matches nothing (the components are `log`, `db`, `api`, `web`)")),
        (vec!["db", "!db"], false, Err("`db,!db` selects nothing ()")),
    ] {
        let expected = expected.map(str::to_owned).map_err(str::to_owned);
        assert_eq!(select(&words, with_needs), expected, "{words:?}");
    }
}

/// The reference names every key, and its examples are inventories.
#[test]
fn every_inventory_in_the_reference_is_good() {
    let text = fs_err::read_to_string(root().join("docs/inventory.md")).unwrap();
    let examples: Vec<&str> = text.split("```toml\n").skip(1).map(|rest| rest.split("```").next().unwrap()).collect();
    assert!(examples.len() >= 8, "only {} examples", examples.len());
    for example in examples {
        let lab = if example.contains("[lab]") { "" } else { "[lab]\nname = \"example\"\n" };
        let text = format!("{lab}{example}");
        if let Err(error) = Inventory::parse(&text, Path::new("example.toml")) {
            panic!("{error}\n\n{text}");
        }
    }
}

/// A private key must not even be addable by accident.
#[test]
fn nothing_private_can_be_committed() {
    let git = |arguments: &[&str]| Command::new("git").args(arguments).current_dir(root()).output().unwrap();
    if !git(&["rev-parse", "--is-inside-work-tree"]).status.success() {
        // A released package has no history to look at.
        return;
    }
    for path in [
        "keys/demo/id_ed25519",
        "keys/demo/hosts/etcd",
        "keys/demo/passwords/etcd-root",
        "keys/demo/known_hosts",
        "inventory/keys/demo/id_ed25519",
        "elsewhere/keys/lab/id_ed25519",
        "elsewhere/keys/lab/hosts/etcd",
        "elsewhere/keys/lab/passwords/etcd-root",
        "ca.pem",
        "tls/server.key",
    ] {
        assert!(git(&["check-ignore", "--quiet", "--no-index", path]).status.success(), "{path} is not ignored");
    }
    assert!(!git(&["check-ignore", "--quiet", "--no-index", "keys/README.md"]).status.success());

    let listed = git(&["ls-files", "-z", "--cached", "--others", "--exclude-standard"]).stdout;
    let files: Vec<&str> = std::str::from_utf8(&listed).unwrap().split('\0').filter(|file| !file.is_empty()).collect();
    assert!(files.contains(&"Cargo.toml"), "git lists no files");
    for file in files {
        let Ok(content) = fs_err::read(root().join(file)) else { continue };
        let text = String::from_utf8_lossy(&content);
        let key = text.lines().zip(text.lines().skip(1)).find(|(line, next)| {
            line.contains("PRIVATE KEY-----")
                && next.len() >= 40
                && next.bytes().all(|b| b.is_ascii_alphanumeric() || b"+/=".contains(&b))
        });
        assert_eq!(key, None, "{file} holds a private key");
    }
}

/// Neither depth nor number may exhaust the stack or anybody's patience.
#[test]
fn deep_and_large_inventories_are_read_or_refused() {
    let keys = vec!["a"; 70].join(".");
    let deep = format!("{}1{}", format!("{{ {keys} = ").repeat(70), " }".repeat(70));
    let error = parse(&format!("[lab]\nname = 'x'\nvars = {deep}\n")).unwrap_err();
    assert_eq!(error.problems()[0].message, "values are nested more than 64 deep");
    let error = parse(&format!("[lab]\nname = 'x'\nvars = {{ x = {}1{} }}\n", "[".repeat(9999), "]".repeat(9999)));
    assert!(error.unwrap_err().problems()[0].message.contains("recursion"));

    let hosts: Vec<String> =
        (0..10).map(|rack| format!("[host.\"r{rack}-[1-500]\"]\ncontainer = {{ ports = [80] }}\n")).collect();
    let groups: Vec<String> = (0..10).map(|rack| format!("[group.g{rack}]\nhosts = ['*', '!r{rack}-*']\n")).collect();
    let components: Vec<String> =
        (0..50).map(|number| format!("[component.c{number}]\nrecipe = 'x'\nhosts = '@g{}'\n", number % 10)).collect();
    let text = format!("[lab]\nname = 'x'\n{}{}{}", hosts.concat(), groups.concat(), components.concat());
    let inventory = parse(&text).unwrap();
    assert_eq!(inventory.hosts.len(), 5000);
    assert_eq!(inventory.select("component:c49,!r1-*").unwrap().len(), 4000);
}

fn parse(text: &str) -> Result<Inventory, InventoryError> {
    Inventory::parse(text, Path::new("lab.toml"))
}

/// Pieces that inventories are made of, put together at random: more of them get past the TOML parser than of any text.
fn pieces() -> impl Strategy<Value = String> {
    let piece = prop::sample::select(vec![
        "[lab]\n",
        "name = \"demo\"\n",
        "[host.a]\n",
        "[host.\"a-[1-3]\"]\n",
        "[group.g]\n",
        "[component.c]\n",
        "[defaults.ssh]\n",
        "[defaults.container]\n",
        "container = true\n",
        "container = { ports = [80, \"1:2\"] }\n",
        "ssh = { jump = [\"a\", \"b@c:3\"] }\n",
        "ssh = {}\n",
        "hosts = [\"a*\", \"!@g\", \"all\"]\n",
        "hosts = \"@g\"\n",
        "needs = [\"c\"]\n",
        "recipe = \"r\"\n",
        "params = { password = 1, x = [1, {y = 2.5}] }\n",
        "vars = { é = 'ß' }\n",
        "volumes = [\"{host}:/x\", \"./a:/b:ro\"]\n",
        "jump = \"a\"\n",
        "memory = \"1g\"\n",
        "groups = [\"g\"]\n",
        "= 3\n",
        "x = nan\n",
        "[[host]]\n",
        "host = 3\n",
        "a.b.c = 1\n",
        "\u{feff}",
        "\r\n",
        "\"\"\"",
    ]);
    prop::collection::vec(piece, 0..24).prop_map(|pieces| pieces.concat())
}

fn whatever_it_is_it_is_read_or_refused(text: &str) {
    match parse(text) {
        Ok(inventory) => {
            let _ = (inventory.show(), inventory.to_json(), inventory.order());
        }
        Err(error) => {
            assert!(!error.problems().is_empty());
            assert!(error.to_string().contains("lab.toml"));
        }
    }
}

proptest! {
    #[test]
    fn no_text_makes_the_reader_panic(text in "\\PC{0,200}") {
        whatever_it_is_it_is_read_or_refused(&text);
    }

    #[test]
    fn no_mixture_of_pieces_makes_the_reader_panic(text in pieces()) {
        whatever_it_is_it_is_read_or_refused(&text);
    }

    #[test]
    fn no_selection_panics(selection in "[a-z0-9@!,:*?\\[\\]{}\\- ]{0,40}") {
        let inventory = good("rack.toml");
        if let Ok(hosts) = inventory.select(&selection) {
            prop_assert!(!hosts.is_empty());
        }
    }
}
