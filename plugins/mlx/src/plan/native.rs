//! The graph from C++. One of the plugin's few places with `unsafe`.

use std::ffi::{CStr, c_char, c_int, c_void};

use mlx_rs::Array;
use mlx_rs::error::Result;

use super::operation::{Step, Value};
use crate::fused::native;

/// An array of the graph; the same as `MdtPlanned` in `native/primitives/plan.h`.
#[repr(C)]
struct Planned {
    id: usize,
    item_size: usize,
    rank: usize,
    shape: *const c_int,
    is_leaf: bool,
}

/// The operations that evaluating these arrays takes, in their order.
pub fn steps(arrays: &[Array]) -> Result<Vec<Step>> {
    let mut steps: Vec<Step> = Vec::new();
    // SAFETY: `visit` gets the address of `steps`, which is used by nothing else during the call.
    unsafe { native::plan(arrays, (&raw mut steps).cast(), visit) }?;
    Ok(steps)
}

/// # Safety
/// `context` is that of [`steps`]; the other pointers are valid for their counts during the call.
unsafe extern "C" fn visit(
    context: *mut c_void,
    name: *const c_char,
    inputs: *const c_void,
    inputs_count: usize,
    outputs: *const c_void,
    outputs_count: usize,
    axes: *const c_int,
    axes_count: usize,
    held: *const usize,
    held_count: usize,
    scratch: usize,
    kernels: usize,
    is_own: bool,
) {
    // SAFETY: the caller's promise.
    let (steps, name) = unsafe { (&mut *context.cast::<Vec<Step>>(), CStr::from_ptr(name)) };
    // SAFETY: the caller's promise.
    let values = |planned, count| unsafe { elements::<Planned>(planned, count) }.iter().map(value).collect();
    // SAFETY: the caller's promise.
    let (axes, held) =
        unsafe { (elements::<c_int>(axes.cast(), axes_count), elements::<usize>(held.cast(), held_count)) };
    steps.push(Step {
        name: name.to_string_lossy().into_owned(),
        inputs: values(inputs, inputs_count),
        outputs: values(outputs, outputs_count),
        axes: axes.iter().map(|&axis| axis as usize).collect(),
        held: held.iter().map(|&bytes| bytes as u64).collect(),
        scratch: scratch as u64,
        kernels,
        is_own,
    });
}

fn value(planned: &Planned) -> Value {
    // SAFETY: C++ gives the shape of an array that is alive.
    let shape = unsafe { elements::<c_int>(planned.shape.cast(), planned.rank) };
    Value {
        id: planned.id,
        item_size: planned.item_size,
        shape: shape.iter().map(|&length| length as usize).collect(),
        is_leaf: planned.is_leaf,
    }
}

/// # Safety
/// There are so many elements at the pointer, which may be null where there are none.
unsafe fn elements<'a, T>(pointer: *const c_void, count: usize) -> &'a [T] {
    if count == 0 {
        return &[];
    }
    // SAFETY: the caller's promise.
    unsafe { std::slice::from_raw_parts(pointer.cast(), count) }
}
