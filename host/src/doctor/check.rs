//! A check: its name, what it looks at, and what it found.

use serde::Serialize;

use super::finding::Finding;
use super::subject::Subject;

/// One thing to look at.
pub struct Check {
    /// Its name, in kebab case.
    pub name: &'static str,
    /// What it looks at, in one sentence.
    pub description: &'static str,
    pub(super) run: fn(&Subject) -> Vec<Finding>,
}

/// A check with what it found.
#[derive(Debug, Serialize)]
pub struct Examined {
    /// The check's name.
    pub name: &'static str,
    /// What it looks at.
    pub description: &'static str,
    /// What it found; at least one thing.
    pub findings: Vec<Finding>,
}

impl Check {
    /// Looks.
    pub fn examine(&self, subject: &Subject) -> Examined {
        Examined { name: self.name, description: self.description, findings: (self.run)(subject) }
    }
}
