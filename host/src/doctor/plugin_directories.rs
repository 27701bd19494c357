//! Check `plugin-directories`.

use super::{Check, Finding, Subject};
use crate::counted::counted;
use crate::plugins::{Searched, Tier};

pub(super) const CHECK: Check = Check {
    name: "plugin-directories",
    description: "The directories that are searched for plugins, in order of priority.",
    run,
};

fn run(subject: &Subject) -> Vec<Finding> {
    match subject.catalog() {
        Ok(catalog) => catalog.searched().iter().map(|(tier, searched)| describe(tier, searched)).collect(),
        Err(failure) => vec![Finding::failed(failure)],
    }
}

fn describe(tier: &Tier, searched: &Searched) -> Finding {
    let place = format!("{} ({})", tier.directory.display(), tier.origin);
    let finding = match searched {
        Searched::Files { plugins, .. } => {
            Finding::ok(format!("{place}: {}", counted(plugins.len(), "plugin"))).fact("plugins", plugins.len())
        }
        Searched::Unreadable(why) => Finding::warning(format!("{place} cannot be listed: {why}")),
        // A directory that the user named should exist.
        Searched::Missing if tier.is_named() => Finding::warning(format!("{place}: no such directory")),
        Searched::Missing => Finding::skipped(format!("{place}: no such directory")),
    };
    finding.fact("directory", tier.directory.to_string_lossy()).fact("origin", tier.origin)
}
