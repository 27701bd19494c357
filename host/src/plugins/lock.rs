//! `plugins.lock`: the checksums that plugins must have.

use std::collections::BTreeMap;
use std::path::Path;

use serde::Deserialize;

use super::checked_file::CheckedFile;
use crate::exit::{Failure, Status};
use crate::text_file;

/// Bytes of a lock file at most: a thousand plugins need a tenth of it.
const LIMIT: u64 = 1 << 20;

/// A lock file: `[plugins]` with `"libmdt_optim.so" = "<sha256>"`, and `[native]` with the same of the libraries that
/// come with the plugins.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Lock {
    plugins: BTreeMap<String, String>,
    #[serde(default)]
    native: BTreeMap<String, String>,
}

impl Lock {
    pub(super) fn read(path: &Path) -> Result<Self, Failure> {
        let failure = |cause: &dyn std::fmt::Display| {
            Failure::new(Status::Plugin, "the plugin lock file cannot be read").at(path.display()).because(cause)
        };
        let text = text_file::read(path, LIMIT).map_err(|error| failure(&error))?;
        toml::from_str(&text).map_err(|error| failure(&error))
    }

    /// Refuses a plugin that is not in the lock file or has another checksum; the same for its native libraries.
    pub(super) fn check(&self, plugin: &CheckedFile, libraries: &[(String, CheckedFile)]) -> Result<(), Failure> {
        let name = plugin.path().file_name().map(|name| name.to_string_lossy().into_owned()).unwrap_or_default();
        check("plugin", "plugins", &self.plugins, &name, plugin)?;
        libraries.iter().try_for_each(|(name, file)| check("native library", "native", &self.native, name, file))
    }
}

fn check(
    what: &str,
    table: &str,
    locked: &BTreeMap<String, String>,
    name: &str,
    file: &CheckedFile,
) -> Result<(), Failure> {
    let failure = |message: String| Failure::new(Status::Plugin, message).at(file.path().display());
    let found = file.sha256()?;
    let Some(expected) = locked.get(name) else {
        return Err(failure(format!("the {what} {name} is not in the lock file"))
            .help(format!("if you trust it, add under [{table}]: \"{name}\" = \"{found}\"")));
    };
    if found.eq_ignore_ascii_case(expected) {
        return Ok(());
    }
    Err(failure(format!("the {what} {name} is not the one that was locked"))
        .because(format!("its sha256 is {found}, the lock file has {expected}"))
        .help("install the locked version, or lock the new one if you trust it"))
}
