//! A check: its name, what it examines, and what it found.

use serde::Serialize;

use super::finding::Finding;
use super::subject::Subject;

/// One check.
pub struct Check {
    /// Its name, in kebab case.
    pub name: &'static str,
    /// What it examines, in one sentence.
    pub description: &'static str,
    pub(super) run: fn(&Subject) -> Vec<Finding>,
}

/// A check and what it found.
#[derive(Debug, Serialize)]
pub struct Examined {
    /// The check's name.
    pub name: &'static str,
    /// What it examines.
    pub description: &'static str,
    /// What it found; at least one finding.
    pub findings: Vec<Finding>,
}

impl Check {
    /// Makes the check.
    pub fn examine(&self, subject: &Subject) -> Examined {
        Examined { name: self.name, description: self.description, findings: (self.run)(subject) }
    }
}
