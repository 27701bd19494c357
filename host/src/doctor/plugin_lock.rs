//! Check `plugin-lock`.

use super::{Check, Finding, Subject};

pub(super) const CHECK: Check = Check {
    name: "plugin-lock",
    description: "Whether every plugin has the checksum in the lock file, if one is configured.",
    run,
};

fn run(subject: &Subject) -> Vec<Finding> {
    let Ok(catalog) = subject.catalog() else {
        return vec![Finding::skipped("the plugin directories or the lock file cannot be read")];
    };
    let Some(verdicts) = catalog.check_lock() else {
        return vec![Finding::skipped("`plugins.lock` is not set: checksums of plugins are not checked")];
    };
    let failures: Vec<_> = verdicts.iter().filter_map(|verdict| verdict.as_ref().err()).map(Finding::failed).collect();
    if failures.is_empty() {
        return vec![Finding::ok(format!("all {} plugins have the checksums of the lock file", verdicts.len()))];
    }
    failures
}
