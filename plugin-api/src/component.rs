//! Components: what a plugin registers, and how their configuration is declared.

use std::fmt;

use schemars::JsonSchema;
use serde::{Serialize, de::DeserializeOwned};

use crate::{Result, Setup};

/// The six kinds of components.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Kind {
    /// A device with tensors.
    Compute,
    /// A model architecture.
    Model,
    /// A training objective.
    Trainer,
    /// An optimizer.
    Optimizer,
    /// A source of examples.
    Data,
    /// Collectives between processes.
    Comm,
}

impl Kind {
    /// All kinds.
    pub const ALL: [Self; 6] = [Self::Compute, Self::Model, Self::Trainer, Self::Optimizer, Self::Data, Self::Comm];

    /// Its name, which is also its table in the configuration.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Compute => "compute",
            Self::Model => "model",
            Self::Trainer => "trainer",
            Self::Optimizer => "optimizer",
            Self::Data => "data",
            Self::Comm => "comm",
        }
    }

    /// The interfaces that this version of the crate uses, of which a component has at least one.
    pub const fn interfaces(self) -> &'static [&'static str] {
        match self {
            Self::Compute => &[crate::__interface!(compute)],
            Self::Model => &[crate::__interface!(model)],
            Self::Trainer => &[crate::__interface!(trainer)],
            Self::Optimizer => &[
                crate::__interface!(optimizer slices),
                crate::__interface!(optimizer typed_slices),
                crate::__interface!(optimizer device),
            ],
            Self::Data => &[crate::__interface!(data)],
            Self::Comm => &[crate::__interface!(comm)],
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
    /// Its own configuration keys; [`config!`](crate::config) declares one.
    type Config: DeserializeOwned + Serialize + JsonSchema + Default;

    /// Creates one.
    ///
    /// # Errors
    /// Values that cannot work ([`Error::config`](crate::Error::config)), files that cannot be used.
    fn create(config: Self::Config, setup: &Setup) -> Result<Self>;
}

/// Declares a component's configuration: documented keys with types and defaults.
///
/// The doc comments become descriptions in the JSON Schema. A key that a job does not set has its default, and an unknown
/// key is an error.
///
/// ```
/// mdt_plugin_api::config! {
///     /// Keys of the optimizer `lion`.
///     pub struct LionConfig {
///         /// Weight of the momentum in the direction of an update.
///         beta1: f64 = 0.9,
///         /// Decay of the momentum.
///         beta2: f64 = 0.99,
///     }
/// }
/// assert_eq!(LionConfig::default().beta2, 0.99);
/// ```
#[macro_export]
macro_rules! config {
    (
        $(#[$attribute:meta])*
        $visibility:vis struct $name:ident {
            $($(#[$field_attribute:meta])* $field:ident : $type:ty = $default:expr),* $(,)?
        }
    ) => {
        $(#[$attribute])*
        #[derive(Clone, Debug, $crate::serde::Serialize, $crate::serde::Deserialize, $crate::schemars::JsonSchema)]
        #[serde(crate = "mdt_plugin_api::serde", deny_unknown_fields, default)]
        #[schemars(crate = "mdt_plugin_api::schemars")]
        $visibility struct $name {
            $($(#[$field_attribute])* pub $field: $type,)*
        }

        impl ::std::default::Default for $name {
            fn default() -> Self {
                Self { $($field: $default,)* }
            }
        }
    };
}
