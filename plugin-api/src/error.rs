//! The one error type that crosses the plugin boundary.

use std::fmt;

use serde::{Deserialize, Serialize};

/// The kind of an error; the numbers are the host's exit statuses.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(from = "u32", into = "u32")]
#[repr(u32)]
pub enum ErrorCode {
    /// A configuration value or command line that cannot work.
    Config = 2,
    /// A plugin misbehaved: it panicked, was called on the wrong thread, or lacks what was asked of it.
    Plugin = 3,
    /// Model files or data rows that cannot be used.
    Input = 4,
    /// A peer was lost or a collective failed.
    Peer = 5,
    /// A loss or gradient that is not finite.
    NonFinite = 6,
    /// A file that could not be written.
    Output = 7,
    /// The job was cancelled.
    Cancelled = 130,
    /// Anything else.
    Other = 1,
}

/// The code with this number; [`ErrorCode::Other`] for numbers that this version does not know.
impl From<u32> for ErrorCode {
    fn from(number: u32) -> Self {
        match number {
            2 => Self::Config,
            3 => Self::Plugin,
            4 => Self::Input,
            5 => Self::Peer,
            6 => Self::NonFinite,
            7 => Self::Output,
            130 => Self::Cancelled,
            _ => Self::Other,
        }
    }
}

impl From<ErrorCode> for u32 {
    fn from(code: ErrorCode) -> Self {
        code as u32
    }
}

/// An error that says what was wrong, where, and what to do about it.
///
/// It is boxed inside, so that `Result<(), Error>` stays one word.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Error(Box<Body>);

#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
struct Body {
    code: ErrorCode,
    message: String,
    #[serde(default)]
    component: Option<String>,
    #[serde(default)]
    context: Vec<(String, String)>,
    #[serde(default)]
    causes: Vec<String>,
}

/// The key of the context of a call that was refused because of an earlier panic.
const AFTER: &str = "after";

/// The result of every call of this crate.
pub type Result<T, E = Error> = std::result::Result<T, E>;

impl Error {
    /// An error of this kind; `message` is one sentence without a final full stop.
    pub fn new(code: ErrorCode, message: impl Into<String>) -> Self {
        Self(Box::new(Body { code, message: message.into(), component: None, context: Vec::new(), causes: Vec::new() }))
    }

    /// A configuration value that cannot work.
    pub fn config(message: impl Into<String>) -> Self {
        Self::new(ErrorCode::Config, message)
    }

    /// A plugin that misbehaved or lacks what was asked of it.
    pub fn plugin(message: impl Into<String>) -> Self {
        Self::new(ErrorCode::Plugin, message)
    }

    /// Model files or data rows that cannot be used.
    pub fn input(message: impl Into<String>) -> Self {
        Self::new(ErrorCode::Input, message)
    }

    /// Anything else.
    pub fn other(message: impl Into<String>) -> Self {
        Self::new(ErrorCode::Other, message)
    }

    /// Adds where it happened: `("file", "train.jsonl")`, `("line", "812")`, `("help", "…")`.
    #[must_use]
    pub fn with(mut self, key: impl Into<String>, value: impl fmt::Display) -> Self {
        self.0.context.push((key.into(), value.to_string()));
        self
    }

    /// Adds what the user can do about it.
    #[must_use]
    pub fn help(self, advice: impl fmt::Display) -> Self {
        self.with("help", advice)
    }

    /// Adds an underlying error, outermost first.
    #[must_use]
    pub fn caused_by(mut self, cause: impl fmt::Display) -> Self {
        self.0.causes.push(cause.to_string());
        self
    }

    /// Names the component that failed (`optimizer lion 0.1.0`), unless one is named already.
    #[must_use]
    pub fn in_component(mut self, component: impl Into<String>) -> Self {
        self.0.component.get_or_insert_with(|| component.into());
        self
    }

    /// Names the component whose code made the call that failed, where that was a call to another one: what a trainer asks of
    /// compute fails there.
    #[must_use]
    pub fn called_by(self, caller: &str) -> Self {
        match self.component() {
            Some(failed) if failed != caller => self.with("called by", caller),
            _ => self,
        }
    }

    /// Marks the error of a call that was refused because of this panic in an earlier one.
    pub(crate) fn after_a_panic(self) -> Self {
        self.with(AFTER, "an earlier panic of the component")
    }

    /// Whether the call was only refused because the component had panicked in another one. Where several threads call
    /// one component, the error of the call that panicked says more.
    pub fn is_after_a_panic(&self) -> bool {
        self.0.context.iter().any(|(key, _)| key == AFTER)
    }

    /// What kind of error this is.
    pub fn code(&self) -> ErrorCode {
        self.0.code
    }

    /// What was wrong, in one sentence.
    pub fn message(&self) -> &str {
        &self.0.message
    }

    /// The component that failed, as `kind id version`.
    pub fn component(&self) -> Option<&str> {
        self.0.component.as_deref()
    }

    /// Where it happened, in the order in which it was added.
    pub fn context(&self) -> &[(String, String)] {
        &self.0.context
    }

    /// The underlying errors, outermost first.
    pub fn causes(&self) -> &[String] {
        &self.0.causes
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0.message)?;
        for cause in &self.0.causes {
            write!(f, ": {cause}")?;
        }
        Ok(())
    }
}

impl fmt::Debug for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?}: {self}", self.0.code)?;
        if let Some(component) = &self.0.component {
            write!(f, " [{component}]")?;
        }
        for (key, value) in &self.0.context {
            write!(f, "\n  {key}: {value}")?;
        }
        Ok(())
    }
}

impl std::error::Error for Error {}

impl From<std::io::Error> for Error {
    fn from(error: std::io::Error) -> Self {
        Self::other(error.to_string())
    }
}
