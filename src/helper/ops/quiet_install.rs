//! Keeps packages from starting their services while they are installed.

use std::path::Path;

use crate::{
    helper::replace::{Attributes, replace_with},
    plan::OpFailure,
};

/// Asked by `invoke-rc.d(8)` before it starts anything; 101 says "not allowed".
const POLICY: &str = "/usr/sbin/policy-rc.d";
const CONTENT: &str =
    "#!/bin/sh\n# Written by ovs-cuisine while packages are installed; removed afterwards.\nexit 101\n";

/// While this lives, packages do not start services. A policy that was there already is left alone.
#[derive(Debug)]
pub(super) struct QuietInstall {
    ours: bool,
}

impl QuietInstall {
    /// Puts the policy in place.
    pub(super) fn begin() -> Result<Self, OpFailure> {
        let path = Path::new(POLICY);
        // One of ours was left by a helper that was killed: taken over, and removed this time.
        let foreign = fs_err::read_to_string(path).is_ok_and(|found| found != CONTENT);
        if !foreign && !path.is_symlink() {
            replace_with(path, Attributes::mode(0o755), CONTENT.as_bytes())?;
            return Ok(Self { ours: true });
        }
        Ok(Self { ours: false })
    }
}

impl Drop for QuietInstall {
    fn drop(&mut self) {
        if self.ours {
            // When it cannot be removed now, the next install tries again.
            let _ = fs_err::remove_file(POLICY);
        }
    }
}
