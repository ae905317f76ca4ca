//! Builds the two static programs that `ovs-cuisine` carries, by a nested cargo run each.
//!
//! The nested run has its own profile and target directory, so it neither waits for the outer build's lock nor is
//! rebuilt with it. A prebuilt program (another CPU, a distribution's build) may be given by path instead.

use std::{
    env,
    ffi::OsStr,
    io,
    path::{Path, PathBuf},
    process::Command,
};

/// Set in the nested run: without it the nested run would build itself again, for ever.
const NESTED: &str = "OVS_CUISINE_NESTED_BUILD";

struct Embedded {
    feature: &'static str,
    binary: &'static str,
    /// Names the program in `env!`: `<prefix>_ZST`, `<prefix>_ID`, `<prefix>_SIZE`.
    prefix: &'static str,
    /// A prebuilt program to use instead.
    prebuilt: &'static str,
}

const EMBEDDED: [Embedded; 2] = [
    Embedded {
        feature: "helper",
        binary: "cuisine-helper",
        prefix: "OVS_CUISINE_EMBEDDED_HELPER",
        prebuilt: "OVS_CUISINE_HELPER_PREBUILT",
    },
    Embedded {
        feature: "launch",
        binary: "ovs-launch",
        prefix: "OVS_CUISINE_EMBEDDED_LAUNCH",
        prebuilt: "OVS_CUISINE_LAUNCH_PREBUILT",
    },
];

fn main() {
    println!("cargo::rerun-if-env-changed={NESTED}");
    if env::var_os(NESTED).is_some() || env::var_os("CARGO_FEATURE_CONTROL").is_none() {
        println!("cargo::rerun-if-changed=build.rs");
        return;
    }
    for path in [
        "src/lib.rs",
        "src/bin",
        "src/tree",
        "src/plan",
        "src/wire",
        "src/helper",
        "src/launch",
        "Cargo.toml",
        "Cargo.lock",
        "build.rs",
    ] {
        println!("cargo::rerun-if-changed={path}");
    }
    for program in &EMBEDDED {
        println!("cargo::rerun-if-env-changed={}", program.prebuilt);
        if let Err(error) = embed(program) {
            println!("cargo::error=cannot build the embedded `{}`: {error}", program.binary);
        }
    }
}

fn embed(program: &Embedded) -> io::Result<()> {
    let path = match env::var_os(program.prebuilt) {
        Some(path) => {
            println!("cargo::rerun-if-changed={}", path.display());
            PathBuf::from(path)
        }
        None => build(program)?,
    };
    let content = fs_err::read(&path)?;
    if has_interpreter(&content) {
        return Err(io::Error::other(format!("{} is not static: hosts may lack its C library", path.display())));
    }
    let packed = zstd::bulk::compress(&content, if is_release() { 19 } else { 3 })?;
    let target = out_dir().join(format!("{}.zst", program.binary));
    fs_err::write(&target, packed)?;
    println!("cargo::rustc-env={}_ZST={}", program.prefix, target.display());
    println!("cargo::rustc-env={}_ID={}", program.prefix, blake3::hash(&content).to_hex());
    println!("cargo::rustc-env={}_SIZE={}", program.prefix, content.len());
    Ok(())
}

fn build(program: &Embedded) -> io::Result<PathBuf> {
    let profile = if is_release() { "embedded" } else { "embedded-dev" };
    let triple = variable("TARGET")?;
    // Beside the outer build's directories, not in OUT_DIR: shared by all profiles and kept over rebuilds.
    let directory = out_dir().ancestors().nth(4).map_or_else(out_dir, |dir| dir.join("embedded"));
    let mut cargo = Command::new(variable("CARGO")?);
    cargo
        .args(["build", "--quiet", "--profile", profile, "--no-default-features", "--features", program.feature])
        .args(["--bin", program.binary, "--target", &triple])
        .arg("--target-dir")
        .arg(&directory)
        .arg("--manifest-path")
        .arg(Path::new(&variable("CARGO_MANIFEST_DIR")?).join("Cargo.toml"))
        .env(NESTED, "1")
        .env("RUSTFLAGS", "-C target-feature=+crt-static");
    for (name, _) in env::vars_os().filter(|(name, _)| is_outer_build_variable(name)) {
        cargo.env_remove(name);
    }
    let status = cargo.status()?;
    if !status.success() {
        return Err(io::Error::other(format!("the nested cargo run ended with {status}")));
    }
    Ok(directory.join(triple).join(profile).join(program.binary))
}

/// What the outer cargo sets for this build script and would mislead the nested one.
fn is_outer_build_variable(name: &OsStr) -> bool {
    let Some(name) = name.to_str() else {
        return false;
    };
    ["CARGO_FEATURE_", "CARGO_CFG_", "CARGO_PKG_", "CARGO_PROFILE_", "DEP_"]
        .iter()
        .any(|prefix| name.starts_with(prefix))
        || ["CARGO_ENCODED_RUSTFLAGS", "RUSTC_WORKSPACE_WRAPPER", "CARGO_BUILD_TARGET", "CARGO_TARGET_DIR"]
            .contains(&name)
}

fn is_release() -> bool {
    env::var("PROFILE").is_ok_and(|profile| profile == "release")
}

fn out_dir() -> PathBuf {
    env::var_os("OUT_DIR").map(PathBuf::from).unwrap_or_default()
}

fn variable(name: &str) -> io::Result<String> {
    env::var(name).map_err(|error| io::Error::other(format!("{name}: {error}")))
}

/// Whether an ELF file names a program interpreter (`PT_INTERP`, type 3), that is, needs a dynamic linker.
fn has_interpreter(elf: &[u8]) -> bool {
    const PT_INTERP: u32 = 3;
    let word = |at: usize, len: usize| -> Option<u64> {
        let bytes = elf.get(at..at + len)?;
        Some(bytes.iter().rev().fold(0, |value, byte| value << 8 | u64::from(*byte)))
    };
    let headers = || -> Option<bool> {
        let offset = usize::try_from(word(32, 8)?).ok()?;
        let size = usize::try_from(word(54, 2)?).ok()?;
        let count = usize::try_from(word(56, 2)?).ok()?;
        Some((0..count).any(|index| word(offset + index * size, 4) == Some(u64::from(PT_INTERP))))
    };
    headers().unwrap_or(true)
}
