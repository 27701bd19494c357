//! The boundary between host and plugins: the one module that uses `abi_stable`.
//!
//! Every object that crosses is data, `drop` and `get`, which gives a table of functions by the name of an interface:
//! `optimizer.slices/1`. A table never changes; more abilities are other interfaces, and where one is missing, `get` says
//! so. Tables take scalars, handles and borrowed slices, and write to places of the caller. What crosses once per job, row
//! or checkpoint is a record: a self-describing value that serde maps from the plain structs of this crate.
//!
//! The file of each kind has its tables; an exporter in the plugin, which implements the tables' functions for the plain
//! trait; and an importer in the host, which implements the plain trait by the tables. So the host has a
//! `Box<dyn Optimizer>` whether the optimizer is loaded or linked, and tests can use both.
//!
//! [`Entry`] is the one symbol of a plugin.
#![allow(clippy::arc_with_non_send_sync, reason = "objects of one thread use the same code as those of any")]

pub mod across;
mod buffer;
mod comm;
#[cfg(test)]
mod comm_tests;
mod component;
mod compute;
mod data;
#[cfg(test)]
#[path = "../../tests/plugins/every_kind/src/lib.rs"]
mod every_kind;
#[cfg(test)]
mod every_kind_tests;
mod few;
mod guard;
mod header;
mod model;
mod object;
mod observer;
mod optimizer;
#[cfg(test)]
mod optimizer_tests;
mod prepare;
#[cfg(test)]
mod published_tests;
mod record;
mod root;
mod services;
mod table;
#[cfg(test)]
mod tests;
mod tokenizer;
mod trainer;
mod types;
mod under_way;
mod version;

pub use component::LoadedComponent;
pub(crate) use few::with_few;
pub use header::c_header;
pub use root::{Entry, OnLoad, entry, load};
pub use under_way::{Call, CallUnderWay, calls_under_way, current_call, leave_unwatched};
pub use version::{ABI_VERSION, HOST_INTERFACES};

/// The name of the entry symbol.
pub const ENTRY_SYMBOL: &str = "MDT_PLUGIN_ENTRY";
