//! Checkpoints: everything that a run needs to continue as if it had never stopped.
//!
//! ```text
//! <output_dir>/checkpoints/
//!     best.json                   the checkpoint with the lowest held-out loss, if it is kept
//!     step-000100/
//!         model.safetensors       parameters, f32
//!         optimizer.safetensors   optimizer state, `<parameter>.<state>`
//!         state.json              update number, configuration and how it changed, data, components
//!         manifest.json           size and sha256 of the three; written last
//! ```
//!
//! A checkpoint is written under a temporary name, synced and renamed, so a directory with the final name is whole. A
//! process that is killed at any moment leaves the earlier checkpoints as they were.

mod arrays;
mod best;
mod directory;
mod earlier;
mod state;
mod store;
#[cfg(test)]
mod tests;

pub use arrays::{Tensors, copy_elements};
pub use best::Evaluated;
pub use directory::{Checkpoint, MANIFEST, MODEL, STATE};
pub use state::{Changed, State};
pub use store::{Saving, Store, place, written};
