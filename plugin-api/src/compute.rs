//! What a compute plugin provides: tensors behind handles, operations, gradients, host memory.

use std::any::Any;
use std::rc::Rc;

use serde::{Deserialize, Serialize};

use crate::{Attribute, Dtype, HostArrayRef, OpKind, RawHostView, Result};

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
    /// Threads that the operations use on a CPU. Results have the same bits for any number of them.
    pub threads: usize,
    /// Types of half precision whose products it computes faster than those of float32.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub fast_products: Vec<Dtype>,
    /// What the bits of its results depend on beside the numbers: two devices of which this text is the same compute the same bits,
    /// in types of half precision if `fast_products` is the same, too. Empty where bits depend on the processor's instruction set
    /// and on the library.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub arithmetic: String,
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

/// What evaluations need of memory, told beforehand.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct PlannedMemory {
    /// The most bytes that all evaluations planned so far have at a time, one after another: results, what is computed on the way,
    /// and buffers that the device keeps for reuse. Without tensors that had memory before, and without placeholders.
    pub peak_bytes: u64,
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

/// A function of tensors that a device may call again later, until the gradient that it is part of has been computed. It is
/// pure, captures no tensor, and the rules for handles are those of [`TensorFunction`].
pub type RecomputedFunction = dyn Fn(&[Handle]) -> Result<Vec<Handle>>;

/// A device with tensors.
///
/// Every method is called on one thread, the one on which the component was created: lazy tensors belong to it. Calls
/// may nest (an operation inside the function of `value_and_grad`), so an implementation holds no lock or `RefCell`
/// borrow while it calls back.
pub trait Compute {
    /// A description of the device.
    fn device(&self) -> DeviceInfo;

    /// Whether [`Compute::op`] knows this operation with these attributes, where the first input (or, without inputs, the result)
    /// is of this type. Where it does not, and the operation is no primitive, it is composed of others, see [`crate::op::compose`].
    fn supports(&self, op: OpKind, attributes: &[&str], dtype: Dtype) -> bool;

    /// Applies an operation, lazily where the device is lazy. The caller keeps the inputs, and gives a slot for each result,
    /// which it owns. An optional input that is left out before others is handle 0. `OPERATIONS.md` beside this crate says what
    /// each operation computes, and [`crate::op::Definition::infer`] checks inputs and attributes.
    ///
    /// # Errors
    /// An unknown operation or attribute, shapes or types that do not fit, another number of results; the message names
    /// them. The slots are then as they were.
    fn op(&self, op: OpKind, inputs: &[Handle], attributes: &[Attribute<'_>], results: &mut [Handle]) -> Result<()>;

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

    /// Copies a tensor's elements to host memory in row-major order, as elements of `dtype`; the tensor is computed first
    /// if need be. It works on every device, in one pass, also where the tensor is of another type or strided. `out` has as
    /// many bytes as that takes, and need not be aligned.
    ///
    /// # Errors
    /// Another number of bytes, a type that cannot be converted; a call inside `value_and_grad`.
    fn read(&self, tensor: Handle, dtype: Dtype, out: &mut [u8]) -> Result<()>;

    /// Gives a tensor new elements of its own shape and type. It works on every device. Other handles of the tensor and
    /// what was computed of it keep the old elements.
    ///
    /// # Errors
    /// Another shape or type; a call inside `value_and_grad`.
    fn write(&self, tensor: Handle, array: HostArrayRef<'_>) -> Result<()>;

    /// Calls `function(parameters, inputs)` and differentiates its first result, a scalar, by every parameter.
    ///
    /// The function is pure, may be called more than once, and captures no tensor.
    fn value_and_grad(
        &self,
        function: &mut TensorFunction<'_>,
        parameters: &[Handle],
        inputs: &[Handle],
    ) -> Result<ValueAndGrad>;

    /// Calls `function(inputs)`. Inside `value_and_grad`, a device that can calls it again when gradients need what it
    /// computed on the way, and keeps only the inputs until then (Chen et al. 2016, <https://arxiv.org/abs/1604.06174>); any
    /// other just calls it. A gradient reaches the inputs, and nothing else that the function uses.
    fn checkpoint(&self, function: Rc<RecomputedFunction>, inputs: &[Handle]) -> Result<Vec<Handle>>;

    /// Bytes held.
    fn memory(&self) -> MemoryInfo;

    /// A tensor without memory, in the place of one of this type that will be there: operations take it as any other, and only
    /// [`Compute::plan`] looks at what they give. None where the device cannot plan; see there.
    ///
    /// # Errors
    /// A type that the device does not have.
    fn placeholder(&self, _tensor_type: &TensorType) -> Result<Option<Handle>> {
        Ok(None)
    }

    /// What [`Compute::eval`] of these tensors would need of memory, after all that was planned before. From then on they are
    /// placeholders. It computes nothing and takes no memory worth mention. None where the device cannot tell: a job is then
    /// estimated without what it computes.
    fn plan(&self, _tensors: &[Handle]) -> Result<Option<PlannedMemory>> {
        Ok(None)
    }

    /// The loaded object behind this one, so that it is passed on and not wrapped again.
    #[doc(hidden)]
    fn as_loaded(&self) -> Option<&dyn Any> {
        None
    }
}
