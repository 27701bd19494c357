//! The boundary between host and plugins: the one module that uses `abi_stable`.
//!
//! The file of each kind has three parts: the raw trait, whose types have a stable layout; an exporter in the plugin,
//! which turns the plain trait into the raw one and catches panics; an importer in the host, which turns it back. So the
//! host has a `Box<dyn Optimizer>` whether the optimizer is loaded or linked, and tests can use both.
//!
//! [`Entry`] is the one symbol of a plugin. Layouts are compared when it is loaded, so that a library built against
//! another version of the traits is refused before any of its functions is called.

#![allow(non_local_definitions, reason = "the sabi_trait macro of abi_stable 0.11 expands to such")]

mod comm;
mod component;
mod compute;
mod data;
mod guard;
mod model;
mod optimizer;
mod root;
mod services;
#[cfg(test)]
mod tests;
mod trainer;
mod types;
mod version;

pub use component::LoadedComponent;
pub use root::{Entry, OnLoad, Root, entry, load};
pub use version::ABI_VERSION;

/// The name of the entry symbol.
pub const ENTRY_SYMBOL: &str = "MDT_PLUGIN_ENTRY";
