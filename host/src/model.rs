//! Models: their directory, their weights in device memory, and the weights as a model plugin asks for them.

mod bound;
mod cache;
mod directory;
mod files;
mod forward;
mod parameters;
mod random;
mod specs;
mod trained;

pub use bound::BoundWeights;
pub use cache::Cache;
pub use directory::{Directory, model_type, not_downloaded};
pub use forward::{Randomness, Training};
pub use parameters::{Names, Parameters, Start};
pub use specs::{OWN, check_own, check_parameters, trained};
pub use trained::{FrozenModels, TrainedModel, check_vocabulary};
