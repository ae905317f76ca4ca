//! The page about the lab holds the parameters of the recipes.

use std::path::Path;

use ovs_cuisine::control::{inventory::RecipeRef, recipe::Library};

const BEGIN: &str = "<!-- parameters: generated, see tests/it/ovs/guide.rs -->\n";
const END: &str = "<!-- end of parameters -->";
const RECIPES: [&str; 12] = [
    "etcd",
    "arakoon",
    "alba-manager",
    "alba-asd",
    "alba-maintenance",
    "alba-proxy",
    "asd-manager",
    "volumedriver",
    "dtl",
    "vm-host",
    "controller",
    "framework-node",
];

#[test]
fn the_page_is_up_to_date() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let library = Library::new(vec![root.join("recipes")]);
    let mut wanted = "\n".to_owned();
    for name in RECIPES {
        // Headings one level lower: the page has its own.
        let text = library.load(&RecipeRef::Named(name.to_owned())).unwrap().reference();
        wanted.extend(["##", &text, "\n"]);
    }
    let path = root.join("docs/ovs-lab.md");
    let page = fs_err::read_to_string(&path).unwrap();
    let (head, rest) = page.split_once(BEGIN).expect("docs/ovs-lab.md has a place for the parameters");
    let (shown, tail) = rest.split_once(END).expect("docs/ovs-lab.md ends its parameters");
    if shown != wanted && std::env::var_os("UPDATE_DOCS").is_some() {
        fs_err::write(&path, format!("{head}{BEGIN}{wanted}{END}{tail}")).unwrap();
        return;
    }
    assert!(shown == wanted, "docs/ovs-lab.md is behind the recipes: run this test with UPDATE_DOCS=1");
}
