//! Accidents end in an error with a line, in bounded memory and time.

use ovs_cuisine::control::recipe::RecipeErrorKind;

use super::stage::{Stage, deploying};

#[test]
fn runaway_recursion_ends() {
    let stage = Stage::new("def f(n):\n    return f(n + 1)\n\ndef deploy(ctx):\n    f(0)\n");
    let error = stage.deploy().unwrap_err();
    assert_eq!(error.kind(), RecipeErrorKind::Limit, "{error}");
    assert_eq!(error.source().unwrap().line, 2, "{error}");
    assert!(error.message().starts_with("`f` called more than 200 functions"), "{error}");
    assert!(error.frames().len() <= 10 && error.to_string().contains("more calls"), "{error}");
}

/// The most memory that this process ever had, in MiB.
fn most_memory() -> u64 {
    let status = fs_err::read_to_string("/proc/self/status").unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:")).unwrap();
    line.trim().trim_end_matches(" kB").parse::<u64>().unwrap() >> 10
}

#[test]
fn growth_without_end_ends() {
    let before = most_memory();
    for (body, line) in [
        ("x = 'x' * 1000\nfor i in range(60):\n    x = x + x", 4),
        ("x = [1]\nfor i in range(60):\n    x += x", 4),
        ("x = []\nfor i in range(1000000):\n    x.append('%d' % i * 1000)", 4),
    ] {
        let error = deploying(body).deploy().unwrap_err();
        assert_eq!(error.kind(), RecipeErrorKind::Limit, "{error}");
        assert!((3..=line).contains(&error.source().unwrap().line), "{error}");
        assert!(error.message().contains("`deploy` made values of more than 64 MiB"), "{error}");
    }
    // Other tests of this process may grow meanwhile; without bounds it would be terabytes.
    let grown = most_memory() - before;
    assert!(grown < 2048, "grew by {grown} MiB");
    for body in ["x = 'x' * 2000000000", "x = [0] * 2000000000", "x = 2000000000 * (0, 1)"] {
        let error = deploying(body).deploy().unwrap_err();
        assert_eq!((error.kind(), error.source().unwrap().line), (RecipeErrorKind::Limit, 2), "{error}");
        assert!(error.message().contains("1000000 is the most"), "{error}");
    }
    let error = deploying("sorted(range(2000000000))").deploy().unwrap_err();
    assert_eq!((error.kind(), error.source().unwrap().line), (RecipeErrorKind::Limit, 2), "{error}");
}

#[test]
fn deep_nesting_is_refused_before_it_is_parsed() {
    for text in [
        format!("x = {}1{}", "(".repeat(50_000), ")".repeat(50_000)),
        format!("x = {}1", "1+".repeat(50_000)),
        format!("x = {}1{}", "[".repeat(50_000), "]".repeat(50_000)),
    ] {
        let error = Stage::new(&format!("# a line\n{text}\ndef deploy(ctx):\n    pass\n")).recipe().err().unwrap();
        assert_eq!((error.kind(), error.source().unwrap().line), (RecipeErrorKind::Limit, 2), "{error}");
    }
}

#[test]
fn a_huge_file_is_refused() {
    let error = Stage::new(&"#".repeat(2 << 20)).recipe().err().unwrap();
    assert_eq!(error.kind(), RecipeErrorKind::Limit);
    assert!(error.message().contains("recipe.star"), "{error}");
}

#[test]
fn what_is_allowed_fits_the_stack() {
    let deepest = format!("x = {}1{}", "(".repeat(190), ")".repeat(190));
    let longest = format!("y = {}1", "1+".repeat(2400));
    let stage = Stage::new(&format!("{deepest}\n{longest}\ndef deploy(ctx):\n    run('%d %d' % (x, y))\n"));
    assert_eq!(stage.steps()[0].key, "run:1 2401");
}
