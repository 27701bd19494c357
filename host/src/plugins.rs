//! Plugins: where they are searched, the records in their files, which are refused, how one is loaded.
//!
//! ```text
//! search tiers ──scan──▶ Catalog (records of every file, nothing run) ──component(kind, id)──▶ checks ──▶ dlopen ──▶ LoadedComponent
//! ```

mod catalog;
mod checked_file;
#[cfg(test)]
mod damaged_files_tests;
mod load;
mod lock;
mod manifest;
mod native;
mod permissions;
mod tiers;

pub use catalog::{Catalog, Listed, Searched};
pub use load::Found;
pub use manifest::{Manifest, Record};
pub use tiers::{Tier, tiers};
