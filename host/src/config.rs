//! The configuration: layers of files, environment variables and command-line options, merged and checked.
//!
//! ```text
//! Sources ──read──▶ Layers ──plugins()──▶ where plugins are ──▶ Components
//!                     └──────resolve(&Components)──▶ Resolved { settings, component configs, origins, dropped }
//! ```
//!
//! The order of the layers, lowest first: the host's defaults, the defaults of the chosen components, those of the job
//! whose checkpoint is used as a model (see `of_checkpoint`), the defaults of flat files if a file is flat (see `flat`), what a launcher has told this process (see `launcher`), each `--config`
//! file, the tables under `profile.NAME` in those files, `MDT_` variables, `--set`, and options that stand for a key.
//! `layers` reads them in this order; `merge` merges them and knows which layer each value came from.

mod check;
mod components;
mod errors;
mod files;
mod flat;
mod full_schema;
mod launcher;
mod layer;
mod layers;
mod merge;
mod normalise;
mod observers;
mod of_checkpoint;
mod origin;
mod overrides;
mod resolve;
mod resolved;
mod resume;
mod same_sums;
mod schema;
mod section_schema;
mod sections;
mod show;
mod value;
mod yaml;

pub use components::{Components, Kind};
pub use full_schema::schema;
pub use layers::{Layers, Sources, process_environment};
pub use origin::Origin;
pub use overrides::Flag;
pub use resolved::{Chosen, Dropped, Entry, Resolved};
pub use resume::{Difference, differing};
pub use sections::*;
pub(crate) use yaml::value_of as yaml_value;

#[cfg(test)]
mod tests;
