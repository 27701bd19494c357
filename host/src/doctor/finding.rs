//! One finding of a check.

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use crate::exit::{Failure, Status};

/// What a finding means for a job.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Verdict {
    Ok,
    /// A user should know about it; a job may still run.
    Warning,
    /// A job that needs it would fail.
    Failed,
    /// Not checked; the message says why.
    Skipped,
}

/// One finding of a check.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Finding {
    pub status: Verdict,
    /// The finding in one sentence.
    pub message: String,
    /// The whole error with places and causes, if there was one.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub error: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub help: Option<String>,
    /// The same as values, for programs.
    #[serde(default, skip_serializing_if = "Map::is_empty")]
    pub facts: Map<String, Value>,
    /// The exit status of a failure.
    #[serde(skip)]
    pub(super) exit: Option<Status>,
}

impl Finding {
    fn new(status: Verdict, message: impl Into<String>) -> Self {
        Self { status, message: message.into(), error: None, help: None, facts: Map::new(), exit: None }
    }

    pub(super) fn ok(message: impl Into<String>) -> Self {
        Self::new(Verdict::Ok, message)
    }

    /// Something that a user should know about.
    pub(super) fn warning(message: impl Into<String>) -> Self {
        Self::new(Verdict::Warning, message)
    }

    pub(super) fn skipped(message: impl Into<String>) -> Self {
        Self::new(Verdict::Skipped, message)
    }

    /// What a job would fail with.
    pub fn failed(failure: &Failure) -> Self {
        Self { exit: Some(failure.status()), ..Self::because(Verdict::Failed, failure) }
    }

    fn because(status: Verdict, failure: &Failure) -> Self {
        let text = failure.to_string();
        Self {
            error: Some(text.trim_start_matches("error: ").to_owned()),
            help: failure.help_text().map(str::to_owned),
            ..Self::new(status, failure.message())
        }
    }

    #[must_use]
    pub(super) fn help(mut self, help: impl Into<String>) -> Self {
        self.help = Some(help.into());
        self
    }

    /// Adds a value for programs.
    #[must_use]
    pub(super) fn fact(mut self, name: &str, value: impl Into<Value>) -> Self {
        self.facts.insert(name.to_owned(), value.into());
        self
    }

    /// Findings as text for another process of this program, with what people need not see.
    pub fn send(findings: &[Self]) -> String {
        let exit = |finding: &Self| finding.exit.map(Status::code);
        serde_json::json!(findings.iter().map(|finding| (finding, exit(finding))).collect::<Vec<_>>()).to_string()
    }

    /// What [`send`](Self::send) gave, as the last line of a text; none where that is something else.
    pub fn receive(text: &[u8]) -> Option<Vec<Self>> {
        // A plugin may have printed something before.
        let line = text.trim_ascii_end().rsplit(|&byte| byte == b'\n').next()?;
        let sent: Vec<(Self, Option<u8>)> = serde_json::from_slice(line).ok()?;
        let whole = |(finding, exit): (Self, Option<u8>)| Self {
            exit: exit.map(|code| Status::of_code(i32::from(code))),
            ..finding
        };
        Some(sent.into_iter().map(whole).collect())
    }

    /// The finding as text: what was found, where and why, what to do. The first line is the message.
    pub fn text(&self) -> String {
        match (&self.error, &self.help) {
            (Some(error), _) => error.clone(),
            (None, Some(help)) => format!("{}\n  help: {help}", self.message),
            (None, None) => self.message.clone(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn findings_come_from_another_process_as_they_were_sent() {
        let failure = Failure::new(Status::Plugin, "broken").at("here").help("mend it");
        let sent = [Finding::failed(&failure).fact("id", "x"), Finding::ok("fine")];
        let text = format!("a plugin printed this\n{}\n", Finding::send(&sent));
        let received = Finding::receive(text.as_bytes()).unwrap();
        assert_eq!(format!("{received:?}"), format!("{sent:?}"));
        assert!(Finding::receive(b"").is_none() && Finding::receive(b"[1]").is_none());
    }
}
