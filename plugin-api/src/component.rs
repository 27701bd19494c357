//! Components: what a plugin registers.

use std::fmt;

use crate::config::Configurable;
use crate::{Result, Setup};

/// The kinds of components.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Kind {
    /// A device with tensors.
    Compute,
    /// A model architecture.
    Model,
    /// Text to tokens and back.
    Tokenizer,
    /// A training objective.
    Trainer,
    /// An optimizer.
    Optimizer,
    /// A source of examples.
    Data,
    /// Collectives between processes.
    Comm,
    /// What is told of a run.
    Observer,
}

impl Kind {
    /// All kinds.
    pub const ALL: [Self; 8] = [
        Self::Compute,
        Self::Model,
        Self::Tokenizer,
        Self::Trainer,
        Self::Optimizer,
        Self::Data,
        Self::Comm,
        Self::Observer,
    ];

    /// Its name, by which `plugin!` and the configuration know it.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Compute => "compute",
            Self::Model => "model",
            Self::Tokenizer => "tokenizer",
            Self::Trainer => "trainer",
            Self::Optimizer => "optimizer",
            Self::Data => "data",
            Self::Comm => "comm",
            Self::Observer => "observer",
        }
    }

    /// The interfaces that this version of the crate uses, of which a component has at least one.
    pub const fn interfaces(self) -> &'static [&'static str] {
        match self {
            Self::Compute => &[crate::__interface!(compute)],
            Self::Model => &[crate::__interface!(model)],
            Self::Tokenizer => &[crate::__interface!(tokenizer)],
            Self::Trainer => &[crate::__interface!(trainer)],
            Self::Optimizer => &[
                crate::__interface!(optimizer slices),
                crate::__interface!(optimizer typed_slices),
                crate::__interface!(optimizer device),
            ],
            Self::Data => &[crate::__interface!(data)],
            Self::Comm => &[crate::__interface!(comm)],
            Self::Observer => &[crate::__interface!(observer)],
        }
    }

    /// The kind of this name.
    pub fn from_name(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|kind| kind.name() == name)
    }
}

impl fmt::Display for Kind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// A type that a plugin can register: it is created from its configuration.
pub trait Component: Sized + 'static {
    /// Its own configuration keys; [`config!`](macro@crate::config) declares one.
    type Config: Configurable + Default;

    /// Creates one.
    ///
    /// # Errors
    /// Values that cannot work ([`Error::config`](crate::Error::config)), files that cannot be used.
    fn create(config: Self::Config, setup: &Setup) -> Result<Self>;
}
