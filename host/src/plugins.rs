//! Plugins: where they are searched, what a file says of itself, which are refused, how one is loaded.
//!
//! ```text
//! search tiers ──scan──▶ Catalog (records of every file, nothing run) ──component(kind, id)──▶ checks ──▶ dlopen ──▶ Component
//! ```

mod catalog;
mod load;
mod lock;
mod manifest;
mod tiers;

pub use catalog::{Catalog, Found, Listed, Searched, Shadow};
pub use load::Component;
pub use manifest::{Manifest, Record};
pub use tiers::{Tier, tiers};
