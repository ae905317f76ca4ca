//! The guide page holds the generated reference.

use ovs_cuisine::control::recipe::functions_reference;

const BEGIN: &str = "<!-- functions: generated, see tests/it/recipe/reference.rs -->\n";
const END: &str = "<!-- end of functions -->";

#[test]
fn the_guide_is_up_to_date() {
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/docs/recipes.md");
    let page = fs_err::read_to_string(path).unwrap();
    let (head, rest) = page.split_once(BEGIN).expect("docs/recipes.md has a place for the functions");
    let (shown, tail) = rest.split_once(END).expect("docs/recipes.md ends its functions");
    let wanted = format!("\n{}\n", functions_reference());
    if shown != wanted && std::env::var_os("UPDATE_DOCS").is_some() {
        fs_err::write(path, format!("{head}{BEGIN}{wanted}{END}{tail}")).unwrap();
        return;
    }
    assert!(shown == wanted, "docs/recipes.md is behind the code: run this test with UPDATE_DOCS=1");
}

#[test]
fn every_function_is_explained() {
    let reference = functions_reference();
    for part in reference.split("\n### ") {
        let text = part.rsplit("```").next().unwrap_or_default();
        assert!(text.trim().len() > 20, "not explained: {part}");
    }
    assert!(!reference.contains("...") && !reference.contains("struct("), "a type or default that says nothing");
    for name in ["file_write", "launch", "json.encode", "query", "params", "secret"] {
        assert!(reference.contains(&format!("### {name}\n")), "{name}");
    }
}
