//! Check `plugin-lock`.

use super::{Check, Finding, Subject};

pub(super) const CHECK: Check = Check {
    name: "plugin-lock",
    description: "Whether every plugin has the checksum of the lock file, where one is configured.",
    run,
};

fn run(subject: &Subject) -> Vec<Finding> {
    let Ok(catalog) = subject.catalog() else {
        return vec![Finding::skipped("the plugin directories or the lock file cannot be read")];
    };
    let Some(verdicts) = catalog.check_lock() else {
        return vec![Finding::skipped("`plugins.lock` is not set: plugins are loaded whatever their checksums")];
    };
    let failures: Vec<_> = verdicts.iter().filter_map(|verdict| verdict.as_ref().err()).map(Finding::failed).collect();
    if failures.is_empty() {
        return vec![Finding::ok(format!("all {} plugins are those that were locked", verdicts.len()))];
    }
    failures
}
