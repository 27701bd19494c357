//! Checks of everything that a job needs on this machine: one file per check.
//!
//! Nothing is changed: what a check creates, it removes. Plugins are loaded, so their code runs.

mod check;
mod comm;
mod compute;
mod configuration;
mod data;
mod environment;
mod finding;
mod launchers;
mod machine;
mod model;
mod output;
mod plugin_directories;
mod plugin_lock;
mod plugins;
mod port;
mod subject;
mod version;

pub use check::{Check, Examined};
pub use finding::{Finding, Verdict};
pub use subject::Subject;

use serde::Serialize;

use crate::exit::Status;

/// All checks in their order, which is the order in which a job would fail.
pub const CHECKS: [Check; 14] = [
    version::CHECK,
    machine::CHECK,
    environment::CHECK,
    configuration::CHECK,
    plugin_directories::CHECK,
    plugins::CHECK,
    plugin_lock::CHECK,
    compute::CHECK,
    comm::CHECK,
    port::CHECK,
    launchers::CHECK,
    model::CHECK,
    data::CHECK,
    output::CHECK,
];

/// The number of findings of each kind, and the exit status.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize)]
pub struct Summary {
    /// Findings without a problem.
    pub ok: usize,
    /// Findings that a user should know about.
    pub warnings: usize,
    /// Findings that would stop a job.
    pub failed: usize,
    /// Checks that were not made.
    pub skipped: usize,
    /// The exit status: that of the first failure, or 0.
    pub exit_status: u8,
}

impl Summary {
    /// The summary of these checks.
    pub fn of(examined: &[Examined]) -> Self {
        let mut summary = Self::default();
        for finding in examined.iter().flat_map(|check| &check.findings) {
            match finding.status {
                Verdict::Ok => summary.ok += 1,
                Verdict::Warning => summary.warnings += 1,
                Verdict::Failed => summary.failed += 1,
                Verdict::Skipped => summary.skipped += 1,
            }
            if let (0, Some(status)) = (summary.exit_status, finding.exit) {
                summary.exit_status = status.code();
            }
        }
        summary
    }

    /// The status that the process exits with.
    pub fn status(&self) -> Status {
        Status::of_code(i32::from(self.exit_status))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::exit::Failure;

    #[test]
    fn names_are_kebab_case_and_differ() {
        let kebab = |name: &str| name.chars().all(|c| c.is_ascii_lowercase() || c == '-') && !name.starts_with('-');
        assert!(CHECKS.iter().all(|check| kebab(check.name) && check.description.ends_with('.')));
        let names: std::collections::HashSet<_> = CHECKS.iter().map(|check| check.name).collect();
        assert_eq!(names.len(), CHECKS.len());
    }

    #[test]
    fn the_first_failure_decides_the_exit_status() {
        let failed = |status| Finding::failed(&Failure::new(status, "broken"));
        let examined = |findings| Examined { name: "a", description: "", findings };
        let checks = [
            examined(vec![Finding::ok("fine"), Finding::warning("odd"), Finding::skipped("unseen")]),
            examined(vec![failed(Status::Storage), failed(Status::Plugin)]),
        ];
        let summary = Summary::of(&checks);
        assert_eq!(summary, Summary { ok: 1, warnings: 1, failed: 2, skipped: 1, exit_status: 7 });
        assert_eq!(summary.status(), Status::Storage);
        assert_eq!(Summary::of(&checks[..1]).exit_status, 0);
    }
}
