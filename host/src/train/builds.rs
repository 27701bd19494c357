//! The builds of the components of a job: which may stand for each other.

use std::collections::BTreeMap;

use mdt_plugin_api::Kind;
use serde::{Deserialize, Serialize};

use crate::exit::Failure;
use crate::job::Job;

/// The build of each component of a job, as `optimizer/adamw`.
pub(super) type Builds = BTreeMap<String, Build>;

/// Which build of a component a rank has.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Build {
    pub(super) version: String,
    /// The checksum of its file.
    pub(super) sha256: String,
    /// The name of the sources of the file; empty where its build did not name them.
    #[serde(default)]
    pub(super) sources: String,
}

/// How two builds of a component are known to be the same.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Sameness {
    /// They are copies of one file.
    File,
    /// They are of one version, and of sources of the same name.
    Sources,
}

impl Build {
    /// None if these may be different programs.
    pub(super) fn sameness(&self, other: &Self) -> Option<Sameness> {
        let is_known = self.version == other.version && !self.sources.is_empty();
        match self.sha256 == other.sha256 {
            true => Some(Sameness::File),
            false => (is_known && self.sources == other.sources).then_some(Sameness::Sources),
        }
    }

    /// What checkpoints remember of it.
    pub(super) fn name(&self) -> &str {
        if self.sources.is_empty() { &self.sha256 } else { &self.sources }
    }
}

impl std::fmt::Display for Build {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let sources = if self.sources.is_empty() { "of no name" } else { &self.sources };
        write!(f, "{}, sha256 {}, sources {sources}", self.version, self.sha256)
    }
}

/// The builds that a job has loaded.
///
/// # Errors
/// A file that cannot be read.
pub(super) fn of(job: &Job) -> Result<Builds, Failure> {
    let build = |(kind, id): (Kind, String)| {
        let version = job.catalog.component(kind, &id)?.version().to_owned();
        let sources = job.catalog.find(kind, &id)?.manifest.sources.clone();
        Ok((format!("{kind}/{id}"), Build { version, sha256: job.catalog.checksum(kind, &id)?, sources }))
    };
    job.components().into_iter().map(build).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn builds_are_the_same_by_their_file_or_by_version_and_named_sources() {
        let build = |version: &str, sha256: &str, sources: &str| Build {
            version: version.to_owned(),
            sha256: sha256.to_owned(),
            sources: sources.to_owned(),
        };
        let one = build("1", "a", "s");
        assert_eq!(one.sameness(&one), Some(Sameness::File));
        assert_eq!(one.sameness(&build("1", "b", "s")), Some(Sameness::Sources));
        for other in [build("2", "b", "s"), build("1", "b", "t"), build("1", "b", "")] {
            assert_eq!(one.sameness(&other), None, "{other}");
            assert_eq!(other.sameness(&one), None, "{other}");
        }
        assert_eq!(build("1", "a", "").sameness(&build("1", "b", "")), None, "sources of no name are unknown");
    }
}
