//! Checks `plugin-directories`, `plugins` and `plugin-lock`.

use std::path::Path;

use mdt_plugin_api::Kind;
use serde_json::json;

use super::{Check, Finding, Subject};
use crate::config::Components;
use crate::counted::counted;
use crate::exit::Failure;
use crate::plugins::{Catalog, Found, Record, Searched, Tier};

pub(super) const DIRECTORIES: Check = Check {
    name: "plugin-directories",
    description: "The directories that are searched for plugins, in order of priority.",
    runs_plugins: false,
    run: |subject| match subject.catalog() {
        Ok(catalog) => catalog.searched().iter().map(describe_directory).collect(),
        Err(failure) => vec![Finding::failed(failure)],
    },
};

pub(super) const PLUGINS: Check = Check {
    name: "plugins",
    description: "Whether every plugin that was found can be used, as far as its file says.",
    runs_plugins: false,
    run: check_all,
};

pub(super) const COMPONENTS: Check = Check {
    name: "components",
    description: "Whether the components of the job load.",
    runs_plugins: true,
    run: load_components,
};

pub(super) const LOCK: Check = Check {
    name: "plugin-lock",
    description: "Whether every plugin has the checksum in the lock file, if one is configured.",
    runs_plugins: false,
    run: check_lock,
};

fn describe_directory((tier, searched): &(Tier, Searched)) -> Finding {
    let finding = match searched {
        Searched::Files { plugins, .. } => {
            Finding::ok(format!("{tier}: {}", counted(plugins.len(), "plugin"))).fact("plugins", plugins.len())
        }
        Searched::Unreadable(why) => Finding::warning(format!("{tier} cannot be listed: {why}")),
        // A directory that the user named should exist.
        Searched::Missing if tier.is_named() => Finding::warning(format!("{tier}: no such directory")),
        Searched::Missing => Finding::skipped(format!("{tier}: no such directory")),
    };
    finding.fact("directory", tier.directory.to_string_lossy()).fact("origin", tier.origin)
}

fn check_all(subject: &Subject) -> Vec<Finding> {
    let Ok(catalog) = subject.catalog() else {
        return vec![Finding::skipped("the plugin directories cannot be read")];
    };
    let mut findings: Vec<_> = catalog.files().map(|found| describe(catalog, found)).collect();
    findings.extend(catalog.passed_over().map(|(path, why)| passed_over(path, why)));
    if findings.is_empty() {
        findings.push(
            Finding::warning("no plugin is found")
                .help("copy plugins into one of the directories above, or name their directory with --plugin-dir"),
        );
    }
    findings
}

fn describe(catalog: &Catalog, found: Found<'_>) -> Finding {
    let (manifest, path) = (found.manifest, found.path.display());
    let names: Vec<_> = manifest.components.iter().map(|Record { kind, id, .. }| format!("{kind} {id}")).collect();
    let what = format!("{path}: {} ({} {})", names.join(", "), manifest.package, manifest.version);
    let (reached, hidden): (Vec<_>, Vec<_>) =
        manifest.components.iter().partition(|record| is_reached(catalog, record, found.path));
    let unknown: Vec<_> = hidden.iter().filter(|record| Kind::from_name(&record.kind).is_none()).collect();
    let finding = if let Err(failure) = reached.iter().try_for_each(|record| check(catalog, record)) {
        Finding::failed(&failure)
    } else if let Some(record) = unknown.first() {
        Finding::warning(format!("{what}: this host does not know the kind `{}`", record.kind))
    } else if reached.is_empty() {
        Finding::skipped(format!("{what}: not used: earlier directories have all its components"))
    } else {
        Finding::ok(what)
    };
    finding.fact("file", found.path.to_string_lossy()).fact("components", json!(manifest.components))
}

/// Whether this file is the one that the component's name selects.
fn is_reached(catalog: &Catalog, record: &Record, path: &Path) -> bool {
    Kind::from_name(&record.kind)
        .and_then(|kind| catalog.find(kind, &record.id).ok())
        .is_some_and(|found| found.path == path)
}

fn check(catalog: &Catalog, record: &&Record) -> Result<(), Failure> {
    let Some(kind) = Kind::from_name(&record.kind) else { return Ok(()) };
    catalog.check(kind, &record.id)?;
    catalog.schema(kind, &record.id).map(drop)
}

fn load_components(subject: &Subject) -> Vec<Finding> {
    subject.of_job(|job| {
        let observers = job.resolved.settings.observers.iter().map(|observer| (Kind::Observer, observer.id.as_str()));
        let components = job.resolved.components().map(|(kind, chosen)| (*kind, chosen.id.as_str())).chain(observers);
        components
            .map(|(kind, id)| match job.catalog.component(kind, id) {
                Ok(component) => Finding::ok(component.name()).fact("kind", kind.name()).fact("id", id),
                Err(failure) => Finding::failed(&failure).fact("kind", kind.name()).fact("id", id),
            })
            .collect()
    })
}

fn passed_over(path: &Path, why: &str) -> Finding {
    Finding::warning(format!("{}: passed over: {why}", path.display())).fact("file", path.to_string_lossy())
}

fn check_lock(subject: &Subject) -> Vec<Finding> {
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
