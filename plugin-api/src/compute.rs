//! What a compute plugin provides: tensors behind handles, operations, gradients, host memory.

use std::any::Any;

use serde::{Deserialize, Serialize};

use crate::{Attribute, Dtype, Error, HostArrayRef, OpKind, Result};

/// Names a tensor of one compute instance. Meaningless to any other; 0 names none.
pub type Handle = u64;

/// Shape and element type of a tensor.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TensorType {
    /// Length of each axis; empty for a scalar.
    pub shape: Vec<usize>,
    /// Element type.
    pub dtype: Dtype,
}

/// A description of the device.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct DeviceInfo {
    /// `cpu`, `gpu`.
    pub kind: String,
    /// Its name, as the manufacturer gives it.
    pub name: String,
    /// The library and its version: `MLX 0.32.2`.
    pub library: String,
    /// Whether [`Compute::host_view`] gives the device's own memory.
    pub unified_memory: bool,
    /// Threads that the operations use on a CPU; results are bit-identical only at an equal number.
    pub threads: usize,
}

/// Bytes of tensor memory.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct MemoryInfo {
    /// Bytes held by live tensors.
    pub active_bytes: u64,
    /// The highest number so far.
    pub peak_bytes: u64,
    /// Bytes of freed buffers that are kept for reuse.
    pub cached_bytes: u64,
}

/// Borrowed memory of an evaluated tensor, shaped as DLPack shapes it.
///
/// Valid until its handle is released or the tensor is written to. The holder must ensure that;
/// [`crate::Tensor::host_view`] does so with lifetimes.
#[derive(Clone, Debug)]
pub struct RawHostView {
    /// The first element.
    pub data: *mut u8,
    /// Element type.
    pub dtype: Dtype,
    /// Length of each axis.
    pub shape: Vec<usize>,
    /// Distance between neighbours along each axis, in elements.
    pub strides: Vec<isize>,
}

/// Values and gradients of one [`Compute::value_and_grad`]. The caller owns all handles and must release them.
#[derive(Clone, Debug, Default)]
pub struct ValueAndGrad {
    /// What the function returned, in its order; the first one was differentiated.
    pub values: Vec<Handle>,
    /// The gradient of the first value by each parameter, of the parameter's shape and type.
    pub gradients: Vec<Handle>,
}

/// A function of tensors: parameters, inputs → outputs. The given handles are borrowed and valid during the call only;
/// the compute plugin takes over the returned ones.
pub type TensorFunction<'f> = dyn FnMut(&[Handle], &[Handle]) -> Result<Vec<Handle>> + 'f;

/// A device with tensors.
///
/// Every method is called on one thread, the one on which the component was created: lazy tensors belong to it. Calls
/// may nest (an operation inside the function of `value_and_grad`), so an implementation holds no lock or `RefCell`
/// borrow while it calls back.
pub trait Compute {
    /// A description of the device.
    fn device(&self) -> DeviceInfo;

    /// Whether [`Compute::op`] knows this operation.
    fn supports(&self, op: OpKind) -> bool;

    /// Applies an operation, lazily where the device is lazy. The caller keeps the inputs and owns the results.
    ///
    /// # Errors
    /// An unknown operation or attribute, shapes or types that do not fit; the message names them.
    fn op(&self, op: OpKind, inputs: &[Handle], attributes: &[Attribute<'_>]) -> Result<Vec<Handle>>;

    /// A tensor with a copy of these elements, owned by the device and never shared.
    #[allow(clippy::wrong_self_convention, reason = "it makes a tensor of this device, not of this object")]
    fn from_host(&self, array: HostArrayRef<'_>) -> Result<Handle>;

    /// A second handle to the same tensor.
    fn retain(&self, tensor: Handle) -> Result<Handle>;

    /// Releases a handle. Unknown handles are ignored, so that a destructor may always call it.
    fn release(&self, tensor: Handle);

    /// Shape and element type.
    fn tensor_type(&self, tensor: Handle) -> Result<TensorType>;

    /// Computes these tensors now.
    fn eval(&self, tensors: &[Handle]) -> Result<()>;

    /// The memory of an evaluated tensor (it is evaluated first if need be); an error inside `value_and_grad`.
    fn host_view(&self, tensor: Handle) -> Result<RawHostView>;

    /// The same for writing.
    ///
    /// # Errors
    /// The tensor is not evaluated and row-contiguous, something else still refers to its memory (a reshape, a
    /// pending computation), or the device does not share memory with the host.
    fn host_view_mut(&self, tensor: Handle) -> Result<RawHostView>;

    /// Copies the elements of a tensor, computed now, to `bytes` in row-major order: on every device, also where it does
    /// not share its memory.
    ///
    /// # Errors
    /// `bytes` has another length; the call is inside `value_and_grad`.
    fn read(&self, tensor: Handle, bytes: &mut [u8]) -> Result<()>;

    /// Calls `function(parameters, inputs)` and differentiates its first result, a scalar, by every parameter.
    ///
    /// The function is pure, may be called more than once, and captures no tensor.
    fn value_and_grad(
        &self,
        function: &mut TensorFunction<'_>,
        parameters: &[Handle],
        inputs: &[Handle],
    ) -> Result<ValueAndGrad>;

    /// Bytes held.
    fn memory(&self) -> MemoryInfo;

    /// The loaded object behind this one, so that it is passed on and not wrapped again.
    #[doc(hidden)]
    fn as_loaded(&self) -> Option<&dyn Any> {
        None
    }
}

impl RawHostView {
    /// Whether the elements lie one after another in row-major order.
    pub fn is_contiguous(&self) -> bool {
        let mut expected = 1isize;
        self.shape.iter().zip(&self.strides).rev().all(|(&length, &stride)| {
            let fits = length <= 1 || stride == expected;
            expected *= length as isize;
            fits
        })
    }

    /// Copies the elements to `out` in row-major order, whatever their strides.
    ///
    /// # Errors
    /// `out` has another length.
    ///
    /// # Safety
    /// The view is valid: there are elements of its type at all places of its shape.
    pub unsafe fn copy_to(&self, out: &mut [u8]) -> Result<()> {
        let (size, shape) = (self.dtype.size(), &self.shape);
        if out.len() != self.len() * size {
            let message = format!("a tensor of shape {shape:?} and {} has not {} bytes", self.dtype, out.len());
            return Err(Error::plugin(message));
        }
        if self.is_contiguous() {
            if !out.is_empty() {
                // SAFETY: a contiguous view has all its elements from `data` on, and `out` is memory of another owner.
                unsafe { std::ptr::copy_nonoverlapping(self.data.cast_const(), out.as_mut_ptr(), out.len()) };
            }
            return Ok(());
        }
        let mut position = vec![0usize; shape.len()];
        for slot in out.chunks_exact_mut(size) {
            let offset: isize = position.iter().zip(&self.strides).map(|(&at, &stride)| at as isize * stride).sum();
            // SAFETY: `position` stays within the shape, and the caller promises an element at every such place.
            unsafe {
                let element = self.data.cast_const().offset(offset * size as isize);
                std::ptr::copy_nonoverlapping(element, slot.as_mut_ptr(), size);
            }
            for (at, &length) in position.iter_mut().zip(shape).rev() {
                *at += 1;
                if *at < length {
                    break;
                }
                *at = 0;
            }
        }
        Ok(())
    }

    /// Number of elements.
    pub fn len(&self) -> usize {
        self.shape.iter().product()
    }

    /// Whether there are no elements.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    pub(crate) fn expect<T: crate::Element>(&self) -> Result<()> {
        if self.dtype != T::DTYPE {
            return Err(Error::plugin(format!("the tensor holds {}, not {}", self.dtype, T::DTYPE)));
        }
        if !self.is_contiguous() {
            return Err(Error::plugin("the tensor's memory is not row-contiguous"));
        }
        Ok(())
    }
}
