//! Values and gradients: MLX records a callback's operations and differentiates them.
//!
//! The callback belongs to the host, on the other side of C++. So its error is kept on this side and handed back as it
//! was, and a panic is caught before it would reach C++.

use std::any::Any;
use std::cell::RefCell;
use std::panic::{AssertUnwindSafe, catch_unwind};

use mdt_plugin_api::{Error, Handle, Result, TensorFunction, ValueAndGrad};
use mlx_rs::Array;
use mlx_rs::error::Exception;
use mlx_rs::transforms::value_and_grad_with_argnums;

use crate::fault::Fault;
use crate::fused;
use crate::handles::Handles;

/// See [`Compute::value_and_grad`]. The gradients are row-contiguous, so a host view of one is a plain slice.
pub fn value_and_grad(
    handles: &RefCell<Handles>,
    function: &mut TensorFunction<'_>,
    parameters: &[Handle],
    inputs: &[Handle],
) -> Result<ValueAndGrad> {
    if parameters.is_empty() {
        return Err(Error::plugin("value_and_grad needs at least one parameter to differentiate by"));
    }
    let mut arrays = handles.borrow().clones(parameters)?;
    if let Some(array) = arrays.iter().find(|array| !array.dtype().is_float()) {
        return Err(Error::plugin(format!(
            "value_and_grad differentiates by floating-point parameters, not by one of MLX's type {:?}",
            array.dtype()
        )));
    }
    arrays.extend(handles.borrow().clones(inputs)?);
    let places: Vec<i32> = (0..parameters.len() as i32).collect();
    let traced = |arrays: &[Array]| {
        trace(handles, function, arrays, parameters.len()).map_err(|error| {
            handles.borrow_mut().set_failure(error);
            Exception::custom("the function failed")
        })
    };
    let result = value_and_grad_with_argnums(traced, &places[..])(&arrays).and_then(|(values, gradients)| {
        let count = values.len();
        let gradients = gradients.iter().map(fused::with_look_ups_added_in_place);
        let all = values.into_iter().map(Ok).chain(gradients).collect::<Result<Vec<_>, _>>()?;
        let mut values = fused::with_joined_sums(all)?;
        let gradients = values.split_off(count);
        Ok((values, gradients.iter().map(Array::contiguous).collect::<Result<Vec<_>, _>>()?))
    });
    let failure = handles.borrow_mut().take_failure();
    match (result, failure) {
        (_, Some(error)) => Err(error),
        (Err(exception), None) => Err(Error::plugin(format!("value_and_grad: {}", Fault::from(exception)))),
        (Ok((values, gradients)), None) => {
            let insert = |array| handles.borrow_mut().insert(array);
            Ok(ValueAndGrad {
                values: values.into_iter().map(insert).collect(),
                gradients: gradients.into_iter().map(insert).collect(),
            })
        }
    }
}

/// One recording of a function that is to be differentiated.
fn trace(
    handles: &RefCell<Handles>,
    function: &mut TensorFunction<'_>,
    arrays: &[Array],
    parameters: usize,
) -> Result<Vec<Array>> {
    let values = record(handles, arrays, |given| {
        let (parameters, inputs) = given.split_at(parameters);
        function(parameters, inputs)
    })?;
    match values.first() {
        Some(value) if value.size() == 1 && value.ndim() == 0 && value.dtype().is_float() => Ok(values),
        Some(value) => Err(Error::plugin(format!(
            "value_and_grad differentiates a floating-point scalar; the function's first result is of MLX's type {:?} \
             and shape {:?}",
            value.dtype(),
            value.shape()
        ))),
        None => Err(Error::plugin("value_and_grad needs a function with at least one result")),
    }
}

/// Calls a function of the host's on handles of its own, which are released after it. A panic is caught: it may not reach
/// C++.
pub fn record(
    handles: &RefCell<Handles>,
    arrays: &[Array],
    function: impl FnOnce(&[Handle]) -> Result<Vec<Handle>>,
) -> Result<Vec<Array>> {
    let _scope = Scope::open(handles);
    let given: Vec<Handle> = arrays.iter().map(|array| handles.borrow_mut().insert(array.clone())).collect();
    let returned = catch_unwind(AssertUnwindSafe(|| function(&given)))
        .unwrap_or_else(|payload| Err(panicked(payload.as_ref())))?;
    let values = handles.borrow().clones(&returned)?;
    // Collected, so that the tensors are dropped after the borrows have ended.
    let released: Vec<_> = returned.into_iter().map(|handle| handles.borrow_mut().remove(handle)).collect();
    drop(released);
    Ok(values)
}

fn panicked(payload: &(dyn Any + Send)) -> Error {
    let message = payload
        .downcast_ref::<&str>()
        .copied()
        .or_else(|| payload.downcast_ref::<String>().map(String::as_str))
        .unwrap_or("no message");
    Error::plugin(format!("the function given to value_and_grad panicked: {message}"))
}

/// A scope of handles, closed also when the recording fails.
struct Scope<'a>(&'a RefCell<Handles>);

impl<'a> Scope<'a> {
    fn open(handles: &'a RefCell<Handles>) -> Self {
        handles.borrow_mut().open_scope();
        Self(handles)
    }
}

impl Drop for Scope<'_> {
    fn drop(&mut self) {
        // Two statements: the tensors are dropped after the borrow has ended.
        let dead = self.0.borrow_mut().close_scope();
        drop(dead);
    }
}
