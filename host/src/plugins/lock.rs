//! `plugins.lock`: the checksums that plugins must have.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;

use serde::Deserialize;

use crate::checksum;
use crate::exit::{Failure, Status};

/// A lock file: `[plugins]` with `"libmdt_optim.so" = "<sha256>"`.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Lock {
    plugins: BTreeMap<String, String>,
}

impl Lock {
    pub(super) fn read(path: &Path) -> Result<Self, Failure> {
        let failure = |cause: &dyn std::fmt::Display| {
            Failure::new(Status::Plugin, "the plugin lock file cannot be read").at(path.display()).because(cause)
        };
        let text = fs::read_to_string(path).map_err(|error| failure(&error))?;
        toml::from_str(&text).map_err(|error| failure(&error))
    }

    /// Refuses a file that is not in the lock file or is not what it was.
    pub(super) fn check(&self, path: &Path) -> Result<(), Failure> {
        let name = path.file_name().map(|name| name.to_string_lossy().into_owned()).unwrap_or_default();
        let failure = |message: String| Failure::new(Status::Plugin, message).at(path.display());
        let expected =
            self.plugins.get(&name).ok_or_else(|| failure(format!("the plugin {name} is not in the lock file")))?;
        let found = checksum::of_file(path).map_err(|error| failure(format!("the plugin cannot be read: {error}")))?;
        if found.eq_ignore_ascii_case(expected) {
            return Ok(());
        }
        Err(failure(format!("the plugin {name} is not the one that was locked"))
            .because(format!("its sha256 is {found}, the lock file has {expected}"))
            .help("install the locked version, or lock the new one if you trust it"))
    }
}
