//! Functions that are called again when gradients need what they computed on the way. One of the plugin's few places with
//! `unsafe`: mlx-rs has no `checkpoint`.

use std::cell::RefCell;
use std::ffi::c_void;
use std::rc::Rc;
use std::thread::{self, ThreadId};

use mdt_plugin_api::{Error, Handle, RecomputedFunction, Result};
use mlx_rs::Array;
use mlx_sys::{mlx_closure, mlx_vector_array};

use crate::gradient;
use crate::handles::Handles;
use crate::vectors::{elements, vector};

/// A function, and what it needs to be called by MLX later.
struct Recorded {
    handles: Rc<RefCell<Handles>>,
    function: Rc<RecomputedFunction>,
    /// The only thread that may drop it.
    thread: ThreadId,
}

/// See [`mdt_plugin_api::Compute::checkpoint`]. Outside of a recording nothing would be called again, so nothing is kept for
/// that.
pub fn checkpoint(
    handles: &Rc<RefCell<Handles>>,
    function: Rc<RecomputedFunction>,
    inputs: &[Handle],
) -> Result<Vec<Handle>> {
    let arrays = handles.borrow().clones(inputs)?;
    let results = if handles.borrow().in_scope() {
        recomputed(handles, function, &arrays)?
    } else {
        gradient::record(handles, &arrays, |inputs| function(inputs))?
    };
    Ok(results.into_iter().map(|array| handles.borrow_mut().insert(array)).collect())
}

fn recomputed(
    handles: &Rc<RefCell<Handles>>,
    function: Rc<RecomputedFunction>,
    arrays: &[Array],
) -> Result<Vec<Array>> {
    let recorded = Recorded { handles: Rc::clone(handles), function, thread: thread::current().id() };
    let payload = Box::into_raw(Box::new(recorded)).cast::<c_void>();
    // SAFETY: `call` and `release` belong to this payload, which MLX releases once, when no graph needs the closure any more. Every
    // handle is made and freed here; MLX counts references to what it keeps.
    let (status, results) = unsafe {
        let plain = mlx_sys::mlx_closure_new_func_payload(Some(call), payload, Some(release));
        let mut checkpointed = mlx_closure { ctx: std::ptr::null_mut() };
        let mut results = mlx_sys::mlx_vector_array_new();
        let inputs = vector(arrays);
        let mut status = mlx_sys::mlx_checkpoint(&raw mut checkpointed, plain);
        if status == 0 {
            status = mlx_sys::mlx_closure_apply(&raw mut results, checkpointed, inputs);
            mlx_sys::mlx_closure_free(checkpointed);
        }
        let arrays = elements(results);
        mlx_sys::mlx_vector_array_free(results);
        mlx_sys::mlx_vector_array_free(inputs);
        mlx_sys::mlx_closure_free(plain);
        (status, arrays)
    };
    let failure = handles.borrow_mut().take_failure();
    match (failure, status) {
        (Some(error), _) => Err(error),
        (None, 0) => Ok(results),
        (None, status) => Err(Error::plugin(format!("MLX gave status {status} for a function that it computes again"))),
    }
}

/// Calls the function for MLX, on the thread that records.
///
/// # Safety
/// `payload` is that of [`recomputed`], and `inputs` is alive during the call.
unsafe extern "C" fn call(results: *mut mlx_vector_array, inputs: mlx_vector_array, payload: *mut c_void) -> i32 {
    // SAFETY: the caller's promise.
    let (recorded, arrays) = unsafe { (&*payload.cast::<Recorded>(), elements(inputs)) };
    match gradient::record(&recorded.handles, &arrays, |inputs| (recorded.function)(inputs)) {
        Ok(values) => {
            // SAFETY: `results` is a place for a vector, which MLX frees.
            unsafe { *results = vector(&values) };
            0
        }
        Err(error) => {
            // MLX knows a status only.
            recorded.handles.borrow_mut().set_failure(error);
            1
        }
    }
}

/// # Safety
/// `payload` is that of [`recomputed`], and is released once.
unsafe extern "C" fn release(payload: *mut c_void) {
    // SAFETY: the caller's promise.
    let recorded = unsafe { Box::from_raw(payload.cast::<Recorded>()) };
    if recorded.thread != thread::current().id() {
        // MLX drops its graphs on the thread that evaluates; on any other, the counts inside would be raced on.
        std::mem::forget(recorded);
    }
}
