//! The static programs that `ovs-cuisine` carries and places on hosts.

use std::{
    borrow::Cow,
    env, fmt, io,
    path::PathBuf,
    sync::{Arc, OnceLock},
};

use bytes::Bytes;

/// A static program for another machine, compressed.
#[derive(Clone)]
pub struct HelperProgram {
    id: Arc<str>,
    size: u64,
    packed: Cow<'static, [u8]>,
    /// Unpacked at most once, however many hosts need it.
    content: Arc<OnceLock<Bytes>>,
}

/// Why a program to place cannot be had.
#[derive(Debug, thiserror::Error)]
pub enum ProgramError {
    /// The file that replaces the embedded program cannot be read.
    #[error("cannot read `{path}`, given in `{variable}`")]
    Override {
        /// The environment variable.
        variable: &'static str,
        /// The file.
        path: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// The embedded program is damaged.
    #[error("the embedded program cannot be unpacked")]
    Damaged(#[source] io::Error),
}

impl HelperProgram {
    /// The helper: the embedded one, or the file that `OVS_CUISINE_HELPER` names. Read and unpacked once per run.
    pub fn embedded() -> Result<Self, ProgramError> {
        static HELPER: OnceLock<HelperProgram> = OnceLock::new();
        Self::from_variable(
            &HELPER,
            "OVS_CUISINE_HELPER",
            include_bytes!(env!("OVS_CUISINE_EMBEDDED_HELPER_ZST")),
            env!("OVS_CUISINE_EMBEDDED_HELPER_ID"),
            env!("OVS_CUISINE_EMBEDDED_HELPER_SIZE"),
        )
    }

    /// The helper for the machine that this runs on, whatever is given for others.
    pub fn native() -> Result<Self, ProgramError> {
        let size = env!("OVS_CUISINE_EMBEDDED_HELPER_SIZE").parse();
        let size = size.map_err(|_| ProgramError::Damaged(io::ErrorKind::InvalidData.into()))?;
        let packed = Cow::Borrowed(&include_bytes!(env!("OVS_CUISINE_EMBEDDED_HELPER_ZST"))[..]);
        Ok(Self { id: env!("OVS_CUISINE_EMBEDDED_HELPER_ID").into(), size, packed, content: Arc::default() })
    }

    /// Any program, such as one for another CPU.
    pub fn from_content(content: Vec<u8>) -> Self {
        let id = blake3::hash(&content).to_hex().to_string().into();
        let size = content.len() as u64;
        Self { id, size, packed: Cow::Borrowed(&[]), content: Arc::new(OnceLock::from(Bytes::from(content))) }
    }

    fn from_variable(
        known: &OnceLock<Self>,
        variable: &'static str,
        packed: &'static [u8],
        id: &'static str,
        size: &'static str,
    ) -> Result<Self, ProgramError> {
        if let Some(program) = known.get() {
            return Ok(program.clone());
        }
        Self::read(variable, packed, id, size).map(|program| known.get_or_init(|| program).clone())
    }

    fn read(
        variable: &'static str,
        packed: &'static [u8],
        id: &'static str,
        size: &'static str,
    ) -> Result<Self, ProgramError> {
        let Some(path) = env::var_os(variable).filter(|path| !path.is_empty()).map(PathBuf::from) else {
            let size = size.parse().map_err(|_| ProgramError::Damaged(io::ErrorKind::InvalidData.into()))?;
            return Ok(Self { id: id.into(), size, packed: Cow::Borrowed(packed), content: Arc::default() });
        };
        let content = fs_err::read(&path).map_err(|source| ProgramError::Override { variable, path, source })?;
        Ok(Self::from_content(content))
    }

    /// BLAKE3 of the content in hexadecimal: names the file on the host.
    pub fn id(&self) -> &str {
        &self.id
    }

    /// Bytes of the content.
    pub fn size(&self) -> u64 {
        self.size
    }

    /// The content itself, unpacked at first use.
    pub fn content(&self) -> Result<Bytes, ProgramError> {
        if let Some(content) = self.content.get() {
            return Ok(content.clone());
        }
        let capacity = usize::try_from(self.size).unwrap_or(usize::MAX);
        let unpacked = zstd::bulk::decompress(&self.packed, capacity).map_err(ProgramError::Damaged)?;
        if unpacked.len() != capacity {
            return Err(ProgramError::Damaged(io::ErrorKind::InvalidData.into()));
        }
        Ok(self.content.get_or_init(|| unpacked.into()).clone())
    }

    /// The machine type the program is for, as `uname -m` says it; none when it is not an ELF file that we know.
    pub fn machine(&self) -> Result<Option<&'static str>, ProgramError> {
        /// Offset of `e_machine` in an ELF header, little-endian here; values from elf(5) and `elf.h`.
        const E_MACHINE: usize = 18;
        let content = self.content()?;
        let machine = match content.get(..E_MACHINE + 2) {
            Some(header) if header.starts_with(b"\x7fELF") => [header[E_MACHINE], header[E_MACHINE + 1]],
            _ => return Ok(None),
        };
        Ok(match u16::from_le_bytes(machine) {
            62 => Some("x86_64"),
            183 => Some("aarch64"),
            243 => Some("riscv64"),
            21 => Some("ppc64le"),
            _ => None,
        })
    }
}

impl fmt::Debug for HelperProgram {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("HelperProgram").field("id", &self.id).field("size", &self.size).finish_non_exhaustive()
    }
}

/// `ovs-launch`: the embedded one, or the file that `OVS_CUISINE_LAUNCH` names.
pub fn launcher() -> Result<HelperProgram, ProgramError> {
    static LAUNCHER: OnceLock<HelperProgram> = OnceLock::new();
    HelperProgram::from_variable(
        &LAUNCHER,
        "OVS_CUISINE_LAUNCH",
        include_bytes!(env!("OVS_CUISINE_EMBEDDED_LAUNCH_ZST")),
        env!("OVS_CUISINE_EMBEDDED_LAUNCH_ID"),
        env!("OVS_CUISINE_EMBEDDED_LAUNCH_SIZE"),
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn embedded_programs_are_what_they_say() {
        for program in [HelperProgram::embedded().unwrap(), launcher().unwrap()] {
            let content = program.content().unwrap();
            assert_eq!(content.len() as u64, program.size());
            assert_eq!(blake3::hash(&content).to_hex().as_str(), program.id());
            assert_eq!(program.machine().unwrap(), Some(env::consts::ARCH));
        }
    }

    /// Needs its own process: the environment of this one is shared by all tests.
    #[test]
    fn another_file_replaces_the_embedded_one() {
        const INNER: &str = "OVS_CUISINE_TEST_INNER";
        if env::var_os(INNER).is_some() {
            assert_eq!(&HelperProgram::embedded().unwrap().content().unwrap()[..], b"other");
            let error = launcher().unwrap_err();
            assert!(matches!(error, ProgramError::Override { variable: "OVS_CUISINE_LAUNCH", .. }), "{error}");
            return;
        }
        let directory = tempfile::tempdir().unwrap();
        let other = directory.path().join("other");
        fs_err::write(&other, "other").unwrap();
        let inner = std::process::Command::new(env::current_exe().unwrap())
            .args(["--exact", "control::link::program::tests::another_file_replaces_the_embedded_one"])
            .env(INNER, "1")
            .env("OVS_CUISINE_HELPER", &other)
            .env("OVS_CUISINE_LAUNCH", directory.path().join("missing"))
            .output()
            .unwrap();
        assert!(inner.status.success(), "{}", String::from_utf8_lossy(&inner.stdout));
        assert!(String::from_utf8_lossy(&inner.stdout).contains("1 passed"), "it did not run");
    }

    #[test]
    fn other_programs_are_named_by_content() {
        let program = HelperProgram::from_content(b"#!/bin/sh\n".to_vec());
        assert_eq!(program.id(), blake3::hash(b"#!/bin/sh\n").to_hex().as_str());
        assert_eq!(program.machine().unwrap(), None);
    }
}
