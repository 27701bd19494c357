//! Models: their directory, their weights in device memory, and the weights as a model plugin asks for them.

mod directory;
mod files;
mod random;
mod specs;
mod tied;
mod weights;

pub use directory::{Directory, model_type, not_downloaded};
pub use specs::check_parameters;
pub use weights::{BoundWeights, FrozenModels, Parameters, TrainedModel, check_vocabulary};
