//! Checks of everything that a job needs on this machine: one file per subject.
//!
//! Nothing is changed: what a check creates, it removes. Of plugins, the components of the job are loaded, in child
//! processes: one for each check that runs their code.

mod comm;
mod compute;
mod configuration;
mod data;
mod finding;
mod launchers;
mod machine;
mod memory;
mod model;
mod output;
mod plugins;
mod port;
mod subject;

pub use finding::{Finding, Verdict};
pub use subject::Subject;

use serde::Serialize;

use crate::exit::Status;

/// One check.
pub struct Check {
    /// Its name, in kebab case.
    pub name: &'static str,
    /// What it examines, in one sentence.
    pub description: &'static str,
    /// Whether it runs code of plugins, which may end the process.
    pub runs_plugins: bool,
    run: fn(&Subject) -> Vec<Finding>,
}

/// A check and what it found.
#[derive(Debug, Serialize)]
pub struct Examined {
    pub name: &'static str,
    pub description: &'static str,
    /// What it found; at least one finding.
    pub findings: Vec<Finding>,
}

impl Check {
    /// Makes the check in this process.
    pub fn examine(&self, subject: &Subject) -> Examined {
        self.found((self.run)(subject))
    }

    /// The check with what it has found.
    pub fn found(&self, findings: Vec<Finding>) -> Examined {
        Examined { name: self.name, description: self.description, findings }
    }
}

/// All checks in their order, which is the order in which a job would fail.
pub const CHECKS: [Check; 16] = [
    machine::VERSION,
    machine::MACHINE,
    machine::ENVIRONMENT,
    configuration::CHECK,
    plugins::DIRECTORIES,
    plugins::PLUGINS,
    plugins::LOCK,
    plugins::COMPONENTS,
    compute::CHECK,
    comm::CHECK,
    port::CHECK,
    launchers::CHECK,
    model::CHECK,
    data::CHECK,
    memory::CHECK,
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
    pub fn of(examined: &[Examined]) -> Self {
        let findings = || examined.iter().flat_map(|check| &check.findings);
        let count = |verdict| findings().filter(|finding| finding.status == verdict).count();
        Self {
            ok: count(Verdict::Ok),
            warnings: count(Verdict::Warning),
            failed: count(Verdict::Failed),
            skipped: count(Verdict::Skipped),
            exit_status: findings().find_map(|finding| finding.exit).map_or(0, Status::code),
        }
    }

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
