//! What an evaluation needs of memory, without making it: MLX's graph is walked in the order in which MLX would compute it, and
//! its allocator is simulated with the sizes.
//!
//! The order, the operations that share or take over the memory of an input, the number of operations that are prepared ahead
//! and the buffers that are kept for reuse are those of MLX 0.32.2 on a CPU.

mod allocator;
mod layout;
mod native;
mod operation;
mod simulation;

use std::cell::RefCell;
use std::collections::HashSet;

use mdt_plugin_api::{Dtype, Error, PlannedMemory, Result};
use mlx_rs::Array;
use mlx_rs::error::Exception;

use self::simulation::Simulation;
use crate::fault::Fault;
use crate::{dtype, fused};

/// The evaluations that were planned so far.
#[derive(Default)]
pub struct Planner(RefCell<Simulation>);

impl Planner {
    /// Plans the evaluation of these arrays, after those that were planned before. `live` has the numbers of all arrays that
    /// somebody has a handle of.
    ///
    /// # Errors
    /// What MLX says about its graph.
    pub fn plan(&self, arrays: &[Array], live: HashSet<usize>) -> Result<PlannedMemory> {
        let steps = native::steps(arrays).map_err(failed)?;
        Ok(PlannedMemory { peak_bytes: self.0.borrow_mut().run(&steps, live) })
    }
}

/// An array without memory.
///
/// # Errors
/// An axis too long for MLX, an element type that it does not have.
pub fn placeholder(shape: &[usize], dtype: Dtype) -> Result<Array> {
    let lengths = shape.iter().map(|&length| i32::try_from(length)).collect::<Result<Vec<_>, _>>();
    let lengths = lengths.map_err(|_| Error::input(format!("shape {shape:?} has an axis beyond MLX's 32 bits")))?;
    fused::native::placeholder(&lengths, dtype::to_mlx(dtype)?).map_err(failed)
}

fn failed(exception: Exception) -> Error {
    Error::plugin(format!("MLX: {}", Fault::from(exception)))
}
