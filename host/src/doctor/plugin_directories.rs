//! Check `plugin-directories`.

use super::{Check, Finding, Subject};
use crate::plugins::{Searched, Tier};

pub(super) const CHECK: Check = Check {
    name: "plugin-directories",
    description: "The directories that are searched for plugins, in order of priority.",
    run,
};

fn run(subject: &Subject) -> Vec<Finding> {
    match subject.catalog() {
        Ok(catalog) => catalog.searched().map(|(tier, searched)| describe(tier, searched)).collect(),
        Err(failure) => vec![Finding::failed(failure)],
    }
}

fn describe(tier: &Tier, searched: Searched<'_>) -> Finding {
    let place = format!("{} ({})", tier.directory.display(), tier.origin);
    let finding = match searched {
        Searched::Plugins(1) => Finding::ok(format!("{place}: 1 plugin")),
        Searched::Plugins(count) => Finding::ok(format!("{place}: {count} plugins")).fact("plugins", count),
        Searched::Unreadable(why) => Finding::warning(format!("{place} cannot be listed: {why}")),
        // A directory that the user named should exist.
        Searched::Missing if tier.is_named() => Finding::warning(format!("{place}: no such directory")),
        Searched::Missing => Finding::skipped(format!("{place}: no such directory")),
    };
    finding.fact("directory", tier.directory.to_string_lossy()).fact("origin", tier.origin)
}
