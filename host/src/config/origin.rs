//! Where a value came from.

use std::fmt;
use std::path::PathBuf;

/// The layer that a value came from, as messages name it.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum Origin {
    /// The host's built-in defaults.
    Default,
    /// The defaults of a chosen component, as `kind/id`.
    Component(String),
    /// The defaults of flat files.
    Flat,
    /// A `--config` file, and the line if it is known.
    File {
        /// The file, as it was given.
        path: PathBuf,
        /// Counted from 1.
        line: Option<usize>,
        /// The profile in that file, if the value is in one.
        profile: Option<String>,
        /// The flat key under which the value was given, if it was.
        flat_key: Option<&'static str>,
    },
    /// What a launcher has told this process.
    Launcher {
        /// The launcher's name.
        name: &'static str,
        /// The variable by which it has.
        variable: String,
    },
    /// An environment variable.
    Environment(String),
    /// The job that wrote the checkpoint which is used as a model.
    Checkpoint(PathBuf),
    /// The record of how the model, or its adapter, was trained.
    Record(PathBuf),
    /// The `config.json` of the model, which decides its component.
    Model,
    /// `--set`, with its key.
    Set(String),
    /// An option of the command line that stands for a key, such as `--model`.
    Flag(String),
}

impl fmt::Display for Origin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Origin::Default => f.write_str("default"),
            Origin::Component(name) => write!(f, "default of {name}"),
            Origin::Flat => f.write_str("default of flat files"),
            Origin::File { path, line, profile, flat_key } => {
                write!(f, "{}", path.display())?;
                if let Some(line) = line {
                    write!(f, ":{line}")?;
                }
                match (profile, flat_key) {
                    (Some(profile), _) => write!(f, " (profile {profile})"),
                    (None, Some(key)) => write!(f, " ({key})"),
                    (None, None) => Ok(()),
                }
            }
            Origin::Launcher { name, variable } => write!(f, "{name} ({variable})"),
            Origin::Environment(name) => write!(f, "environment variable {name}"),
            Origin::Checkpoint(path) => write!(f, "the job of {}", path.display()),
            Origin::Record(path) => write!(f, "{}", path.display()),
            Origin::Model => f.write_str("the model's config.json"),
            Origin::Set(key) => write!(f, "--set {key}"),
            Origin::Flag(name) => f.write_str(name),
        }
    }
}
