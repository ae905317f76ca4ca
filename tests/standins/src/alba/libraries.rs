//! The libraries that alba brings along: without them the dynamic loader does not start it.

use std::path::Path;

const BUNDLED: [&str; 5] = ["libJerasure", "libgf_complete", "librocksdb", "libisal", "libgobjfs"];

/// What the loader would say of the first library that it does not find.
pub(crate) fn check() -> Result<(), String> {
    let mut directories: Vec<String> = Vec::new();
    if let Ok(path) = std::env::var("LD_LIBRARY_PATH") {
        directories.extend(path.split(':').filter(|part| !part.is_empty()).map(str::to_owned));
    }
    directories.extend(configured());
    directories.extend(["/lib", "/usr/lib", "/usr/local/lib"].map(str::to_owned));
    let missing = BUNDLED.iter().find(|library| !directories.iter().any(|directory| has(directory, library)));
    missing.map_or(Ok(()), |library| {
        Err(format!("error while loading shared libraries: {library}.so: cannot open shared object file: No such file or directory"))
    })
}

fn has(directory: &str, library: &str) -> bool {
    let name = format!("{library}.so");
    let entries = fs_err::read_dir(directory).into_iter().flatten().flatten();
    entries.into_iter().any(|entry| entry.file_name().to_string_lossy().starts_with(&name))
}

/// The directories of `/etc/ld.so.conf.d`. The cache that `ldconfig` makes of them lists real libraries only.
fn configured() -> Vec<String> {
    let files = fs_err::read_dir(Path::new("/etc/ld.so.conf.d")).into_iter().flatten().flatten();
    let texts = files.filter_map(|file| fs_err::read_to_string(file.path()).ok());
    let lines = texts.flat_map(|text| text.lines().map(|line| line.trim().to_owned()).collect::<Vec<_>>());
    lines.filter(|line| line.starts_with('/')).collect()
}
