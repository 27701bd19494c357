//! Models: their directory, their weights in device memory, and the weights as a model plugin asks for them.

mod adapter;
mod auxiliary;
mod bound;
mod cache;
mod described;
mod directory;
mod files;
mod forward;
mod freeze;
mod holding;
mod layer;
mod load;
mod packing;
mod padding;
mod parameters;
mod precision;
mod quantised;
mod random;
mod specs;
mod trained;
mod weight;

pub use adapter::{ADAPTER_CONFIG, AdaptedLayer, Adapter, AdapterDirectory, WrittenAdapter};
pub use auxiliary::{AuxiliaryLoss, AuxiliaryLosses};
pub use bound::BoundWeights;
pub use cache::Cache;
pub use described::DescribedModel;
pub use directory::{Directory, model_type, not_downloaded};
pub use forward::{Randomness, Training};
pub use freeze::freeze;
pub use holding::Holding;
pub use packing::Packing;
pub use parameters::{Names, Parameters, Start, as_stored};
pub use precision::Precision;
pub use specs::{OWN, check_own, check_parameters, trained};
pub use trained::{FrozenModels, TrainedModel, check_vocabulary};
