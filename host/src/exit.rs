//! Exit statuses, and the one error type that the command prints.

use std::fmt;

use mdt_plugin_api::Error;

/// Why the command failed. Scripts rely on the numbers.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[repr(u8)]
pub enum Status {
    /// Any other error.
    Other = 1,
    /// The command line or the configuration is wrong.
    Configuration = 2,
    /// A plugin is missing, does not load, or failed.
    Plugin = 3,
    /// The model or the data cannot be read or used.
    Input = 4,
    /// Another rank was lost, or a collective failed.
    Peer = 5,
    /// The loss or a gradient is not finite.
    NonFinite = 6,
    /// A checkpoint or the output directory cannot be read or written.
    Storage = 7,
    /// Interrupted. What was trained is in a checkpoint.
    Interrupted = 130,
}

impl Status {
    /// The number that the process exits with.
    pub fn code(self) -> u8 {
        self as u8
    }

    /// The status of a process that exited with this number.
    pub fn of_code(code: i32) -> Self {
        let all = [
            Status::Configuration,
            Status::Plugin,
            Status::Input,
            Status::Peer,
            Status::NonFinite,
            Status::Storage,
            Status::Interrupted,
        ];
        all.into_iter().find(|status| i32::from(status.code()) == code).unwrap_or(Status::Other)
    }
}

/// One error for the user: what was wrong, where, why, and what to do about it.
///
/// `Display` writes it the way the command prints it:
///
/// ```text
/// error: unknown key `optimizer.learning_rat`
///   at: sft.toml:12
///   help: did you mean `optimizer.learning_rate`?
/// ```
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Failure {
    status: Status,
    message: String,
    places: Vec<String>,
    causes: Vec<String>,
    help: Option<String>,
}

impl Failure {
    /// A failure with the given exit status; `message` says what was wrong, in one sentence.
    pub fn new(status: Status, message: impl Into<String>) -> Self {
        Failure { status, message: message.into(), places: Vec::new(), causes: Vec::new(), help: None }
    }

    /// A failure of the command line or the configuration.
    pub fn configuration(message: impl Into<String>) -> Self {
        Self::new(Status::Configuration, message)
    }

    /// A bug of this program.
    pub fn internal() -> Self {
        Self::new(Status::Other, "mdt-host has a bug and stopped; checkpoints already written are intact")
            .help("run it again with MDT_LOG=debug and report what it prints")
    }

    /// Adds where it happened: a file and line, a key, a row, a rank. Outer places come last. One that says what an earlier
    /// one does, as `train.jsonl row 7` after `row 7`, takes its place.
    #[must_use]
    pub fn at(mut self, place: impl fmt::Display) -> Self {
        let place = place.to_string();
        self.places.retain(|inner| {
            place.strip_suffix(inner.as_str()).is_none_or(|before| !(before.is_empty() || before.ends_with(' ')))
        });
        self.places.push(place);
        self
    }

    /// Adds a cause. Deeper causes come last.
    #[must_use]
    pub fn because(mut self, cause: impl fmt::Display) -> Self {
        self.causes.push(cause.to_string());
        self
    }

    /// Says what to do about it; replaces an earlier help.
    #[must_use]
    pub fn help(mut self, help: impl Into<String>) -> Self {
        self.help = Some(help.into());
        self
    }

    pub fn status(&self) -> Status {
        self.status
    }

    /// What was wrong, without places, causes and help.
    pub fn message(&self) -> &str {
        &self.message
    }

    /// The failure without its help, on one line.
    pub fn in_one_line(&self) -> String {
        let text = self.to_string();
        let lines = text.lines().filter(|line| !line.starts_with("  help:")).map(str::trim);
        lines.collect::<Vec<_>>().join(", ").trim_start_matches("error: ").to_owned()
    }

    /// What to do about it, if that is known.
    pub fn help_text(&self) -> Option<&str> {
        self.help.as_deref()
    }
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "error: {}", indented(&self.message, 7))?;
        for place in &self.places {
            write!(f, "\n  at: {}", indented(place, 6))?;
        }
        for cause in &self.causes {
            write!(f, "\n  because: {}", indented(cause, 11))?;
        }
        if let Some(help) = &self.help {
            write!(f, "\n  help: {}", indented(help, 8))?;
        }
        Ok(())
    }
}

impl std::error::Error for Failure {}

/// A plugin's failure ends the command with the status of its error code.
impl From<Error> for Failure {
    fn from(error: Error) -> Self {
        let mut failure = Self::new(Status::of_code(error.code() as i32), error.message());
        for (key, value) in error.context() {
            failure = match &**key {
                "help" => failure.help(value),
                "file" | "at" => failure.at(value),
                key => failure.at(format!("{key} {value}")),
            };
        }
        if let Some(component) = error.component() {
            failure = failure.at(component);
        }
        error.causes().iter().fold(failure, |failure, cause| failure.because(cause))
    }
}

/// Indents the lines after the first to where the text of the first begins.
fn indented(text: &str, width: usize) -> String {
    text.trim_end().replace('\n', &format!("\n{}", " ".repeat(width)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_place_is_told_once() {
        let failure = Failure::configuration("no").at("row 7").at("tokenizer bytes 0.1.0").at("train.jsonl row 7");
        let text = failure.at("tokenizer bytes 0.1.0").at("row 17").to_string();
        assert_eq!(text, "error: no\n  at: train.jsonl row 7\n  at: tokenizer bytes 0.1.0\n  at: row 17");
    }

    #[test]
    fn a_failure_prints_message_place_cause_and_help_in_that_order() {
        let failure = Failure::configuration("two\nlines").help("fix it").because("a reason").at("a.toml:3");
        assert_eq!(
            failure.to_string(),
            "error: two\n       lines\n  at: a.toml:3\n  because: a reason\n  help: fix it"
        );
    }

    #[test]
    fn statuses_have_the_documented_numbers() {
        let all = [
            (Status::Other, 1),
            (Status::Configuration, 2),
            (Status::Plugin, 3),
            (Status::Input, 4),
            (Status::Peer, 5),
            (Status::NonFinite, 6),
            (Status::Storage, 7),
            (Status::Interrupted, 130),
        ];
        for (status, code) in all {
            assert_eq!(status.code(), code);
            assert_eq!(Status::of_code(i32::from(code)), status);
        }
    }
}
