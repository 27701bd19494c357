//! Gradients of our own for what MLX computes, and the few of its functions that mlx-rs does not have. One of the plugin's few
//! places with `unsafe`.

use std::ffi::c_void;
use std::panic::{AssertUnwindSafe, catch_unwind};

use mlx_rs::error::{Exception, Result};
use mlx_rs::{Array, Dtype, Stream, ops, transforms};
use mlx_sys::{mlx_closure, mlx_vector_array};

use crate::vectors::{elements, vector};

/// The value with other gradients: `gradients(inputs, cotangent, value)` gives one for each input, of its shape and type. It may
/// be called on any thread, and what it captures has none.
pub fn with_gradients<G>(inputs: &[&Array], value: Array, gradients: G) -> Result<Array>
where
    G: Fn(&[Array], &Array, &Array) -> Result<Vec<Array>> + Send + 'static,
{
    let inputs: Vec<Array> = inputs.iter().copied().cloned().collect();
    // SAFETY: each payload goes with functions of its type, and MLX releases it once, when nothing needs its closure any more;
    // `Array` and `G` may be sent to the thread that does. Every handle is made and freed here.
    let (status, results) = unsafe {
        let value = Box::into_raw(Box::new(value)).cast::<c_void>();
        let plain = mlx_sys::mlx_closure_new_func_payload(Some(known), value, Some(release::<Array>));
        let gradients = Box::into_raw(Box::new(gradients)).cast::<c_void>();
        let backward =
            mlx_sys::mlx_closure_custom_new_func_payload(Some(differentiate::<G>), gradients, Some(release::<G>));
        let mut both = mlx_closure { ctx: std::ptr::null_mut() };
        let mut results = mlx_sys::mlx_vector_array_new();
        let inputs = vector(&inputs);
        let mut status = mlx_sys::mlx_custom_vjp(&raw mut both, plain, backward);
        if status == 0 {
            status = mlx_sys::mlx_closure_apply(&raw mut results, both, inputs);
            mlx_sys::mlx_closure_free(both);
        }
        let arrays = elements(results);
        mlx_sys::mlx_vector_array_free(results);
        mlx_sys::mlx_vector_array_free(inputs);
        mlx_sys::mlx_closure_custom_free(backward);
        mlx_sys::mlx_closure_free(plain);
        (status, arrays)
    };
    match results.into_iter().next() {
        Some(result) if status == 0 => Ok(result),
        _ => Err(Exception::custom(format!("MLX gave status {status} for a function with its own gradients"))),
    }
}

/// Gives MLX the value, which has been computed already.
///
/// # Safety
/// `payload` is an `Array`.
unsafe extern "C" fn known(results: *mut mlx_vector_array, _inputs: mlx_vector_array, payload: *mut c_void) -> i32 {
    // SAFETY: the caller's promise; `results` is a place for a vector, which MLX frees.
    unsafe { *results = vector(std::slice::from_ref(&*payload.cast::<Array>())) };
    0
}

/// # Safety
/// `payload` is a `G`, and the vectors are alive during the call.
unsafe extern "C" fn differentiate<G>(
    results: *mut mlx_vector_array,
    primals: mlx_vector_array,
    cotangents: mlx_vector_array,
    outputs: mlx_vector_array,
    payload: *mut c_void,
) -> i32
where
    G: Fn(&[Array], &Array, &Array) -> Result<Vec<Array>>,
{
    // SAFETY: the caller's promise.
    let (gradients, primals, cotangents, outputs) =
        unsafe { (&*payload.cast::<G>(), elements(primals), elements(cotangents), elements(outputs)) };
    // A panic may not reach C++.
    match catch_unwind(AssertUnwindSafe(|| gradients(&primals, &cotangents[0], &outputs[0]))) {
        Ok(Ok(gradients)) => {
            // SAFETY: `results` is a place for a vector, which MLX frees.
            unsafe { *results = vector(&gradients) };
            0
        }
        _ => 1,
    }
}

/// # Safety
/// `payload` is a boxed `T`, and is released once.
unsafe extern "C" fn release<T>(payload: *mut c_void) {
    // SAFETY: the caller's promise.
    drop(unsafe { Box::from_raw(payload.cast::<T>()) });
}

/// A function that moves the elements of `x`, some of them to several places. Its gradient adds there, which for half precision
/// is to be done in float32.
pub fn adding_in_f32<M>(recording: bool, x: &Array, moved: M) -> Result<Array>
where
    M: Fn(&Array) -> Result<Array> + Send + 'static,
{
    let value = moved(x)?;
    if !recording || !matches!(x.dtype(), Dtype::Float16 | Dtype::Bfloat16) {
        return Ok(value);
    }
    with_gradients(&[x], value, move |inputs, cotangent, _| {
        // The gradient does not depend on the elements.
        let like = ops::zeros_dtype(inputs[0].shape(), Dtype::Float32)?;
        let cotangent = cotangent.as_dtype(Dtype::Float32)?;
        let moved = |inputs: &[Array]| moved(&inputs[0]).map(|value| vec![value]);
        let (_, gradients) = transforms::fallible_vjp(moved, &[like], &[cotangent])?;
        Ok(vec![gradients[0].as_dtype(inputs[0].dtype())?])
    })
}

/// `x` with `updates` added at `indices` along an axis, in the order in which they stand.
pub fn scatter_add(x: &Array, indices: &Array, updates: &Array, axis: i32) -> Result<Array> {
    let stream = Stream::thread_local_or_default();
    // SAFETY: live handles; the result is owned by one `Array`.
    unsafe {
        let mut result = mlx_sys::mlx_array_new();
        let status = mlx_sys::mlx_scatter_add_axis(
            &raw mut result,
            x.as_ptr(),
            indices.as_ptr(),
            updates.as_ptr(),
            axis,
            stream.as_ptr(),
        );
        let result = Array::from_ptr(result);
        if status == 0 { Ok(result) } else { Err(Exception::custom("MLX cannot add to these elements")) }
    }
}
