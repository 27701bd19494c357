//! `Tensor`: a handle with operators, so that a plugin's code reads like array code.

use std::marker::PhantomData;
use std::ops;
use std::rc::Rc;

use crate::abi::with_few;
use crate::host_array::bytes_mut;
use crate::op::attribute;
use crate::{
    Attribute, Compute, Dtype, Element, Error, Handle, HostArray, HostArrayRef, OpKind, RawHostView, Result,
    TensorType, Value,
};

/// A tensor on a device; it releases its handle when it is dropped.
///
/// It belongs to the compute thread (it is neither `Send` nor `Sync`). Operations are lazy: errors in shapes are returned
/// by the call, results and other errors by [`Tensor::item`], [`Tensor::host_view`] or [`Tensor::eval`].
pub struct Tensor {
    handle: Handle,
    compute: Rc<dyn Compute>,
    owned: bool,
}

impl Tensor {
    /// Takes over a handle.
    pub fn from_handle(compute: &Rc<dyn Compute>, handle: Handle) -> Self {
        Self { handle, compute: Rc::clone(compute), owned: true }
    }

    /// Borrows a handle that its owner releases later.
    pub fn borrowed(compute: &Rc<dyn Compute>, handle: Handle) -> Self {
        Self { handle, compute: Rc::clone(compute), owned: false }
    }

    /// A tensor with a copy of these elements.
    pub fn from_host(compute: &Rc<dyn Compute>, array: &HostArray) -> Result<Self> {
        Ok(Self::from_handle(compute, compute.from_host(array.borrow())?))
    }

    /// Applies an operation with one result.
    pub fn op(op: OpKind, inputs: &[&Tensor], attributes: &[Attribute<'_>]) -> Result<Tensor> {
        let first = inputs.first().ok_or_else(|| Error::plugin("an operation on tensors needs at least one"))?;
        Self::op_on(&first.compute, op, inputs, attributes)
    }

    /// Applies an operation with one result, on this device even when there are no inputs.
    pub fn op_on(
        compute: &Rc<dyn Compute>,
        op: OpKind,
        inputs: &[&Tensor],
        attributes: &[Attribute<'_>],
    ) -> Result<Tensor> {
        let mut result = [0];
        with_few(inputs.iter().map(|tensor| tensor.handle), |handles| {
            compute.op(op, handles, attributes, &mut result)
        })?;
        Ok(Self::from_handle(compute, result[0]))
    }

    /// Its handle, still owned by this tensor.
    pub fn handle(&self) -> Handle {
        self.handle
    }

    /// Turns it into its handle, which the caller then owns.
    pub fn into_handle(mut self) -> Result<Handle> {
        if self.owned {
            self.owned = false;
            Ok(self.handle)
        } else {
            self.compute.retain(self.handle)
        }
    }

    /// A second reference to the same tensor.
    pub fn try_clone(&self) -> Result<Tensor> {
        Ok(Self::from_handle(&self.compute, self.compute.retain(self.handle)?))
    }

    /// The device that holds it.
    pub fn compute(&self) -> &Rc<dyn Compute> {
        &self.compute
    }

    /// Shape and element type.
    pub fn tensor_type(&self) -> Result<TensorType> {
        self.compute.tensor_type(self.handle)
    }

    /// Length of each axis.
    pub fn shape(&self) -> Result<Vec<usize>> {
        Ok(self.tensor_type()?.shape)
    }

    /// Computes it now.
    pub fn eval(&self) -> Result<()> {
        self.compute.eval(&[self.handle])
    }

    /// The value of a tensor with one element, computed now. A 64-bit integer is rounded to a real number.
    pub fn item(&self) -> Result<f64> {
        let shape = self.shape()?;
        if shape.iter().product::<usize>() != 1 {
            return Err(Error::plugin(format!("item() needs one element, the shape is {shape:?}")));
        }
        let mut value = [0f64];
        self.read(&mut value)?;
        Ok(value[0])
    }

    /// Copies its elements in row-major order, converted to `T`; the tensor is computed now. It works on every device.
    ///
    /// # Errors
    /// Another number of elements.
    pub fn read<T: Element>(&self, out: &mut [T]) -> Result<()> {
        self.compute.read(self.handle, T::DTYPE, bytes_mut(out))
    }

    /// The same in a vector.
    pub fn to_vec<T: Element + Default>(&self) -> Result<Vec<T>> {
        let mut elements = vec![T::default(); self.shape()?.iter().product()];
        self.read(&mut elements)?;
        Ok(elements)
    }

    /// Gives it new elements of its own shape and type; see [`Compute::write`]. It works on every device.
    pub fn write(&mut self, array: HostArrayRef<'_>) -> Result<()> {
        self.compute.write(self.handle, array)
    }

    /// Its memory, borrowed, on devices that share theirs with the host; the tensor is computed now.
    pub fn host_view(&self) -> Result<HostView<'_>> {
        let raw = self.compute.host_view(self.handle)?;
        Ok(HostView { raw, _memory: self.try_clone()?, tensor: PhantomData })
    }

    /// Its memory for writing; [`Compute::host_view_mut`] says when that is an error.
    pub fn host_view_mut(&mut self) -> Result<HostViewMut<'_>> {
        let raw = self.compute.host_view_mut(self.handle)?;
        Ok(HostViewMut { raw, _memory: self.try_clone()?, tensor: PhantomData })
    }

    /// Same elements in another shape; one entry may be -1.
    pub fn reshape(&self, shape: &[i64]) -> Result<Tensor> {
        Self::op(OpKind::RESHAPE, &[self], &[attribute("shape", Value::Ints(shape))])
    }

    /// Axes in another order.
    pub fn transpose(&self, axes: &[i64]) -> Result<Tensor> {
        Self::op(OpKind::TRANSPOSE, &[self], &[attribute("axes", Value::Ints(axes))])
    }

    /// To another element type.
    pub fn cast(&self, dtype: Dtype) -> Result<Tensor> {
        Self::op(OpKind::CAST, &[self], &[attribute("dtype", Value::Dtype(dtype))])
    }

    /// Elements from `start` (inclusive) to `stop` (exclusive), an entry for every axis.
    pub fn slice(&self, start: &[i64], stop: &[i64]) -> Result<Tensor> {
        let attributes = [attribute("start", Value::Ints(start)), attribute("stop", Value::Ints(stop))];
        Self::op(OpKind::SLICE, &[self], &attributes)
    }

    /// Rows at these integer indices along an axis.
    pub fn take(&self, indices: &Tensor, axis: i64) -> Result<Tensor> {
        Self::op(OpKind::TAKE, &[self, indices], &[attribute("axis", Value::Int(axis))])
    }

    /// Elements at integer indices of the same rank along an axis.
    pub fn take_along_axis(&self, indices: &Tensor, axis: i64) -> Result<Tensor> {
        Self::op(OpKind::TAKE_ALONG_AXIS, &[self, indices], &[attribute("axis", Value::Int(axis))])
    }

    /// Tensors one after another along an axis.
    pub fn concatenate(tensors: &[&Tensor], axis: i64) -> Result<Tensor> {
        Self::op(OpKind::CONCATENATE, tensors, &[attribute("axis", Value::Int(axis))])
    }

    /// Matrix product of the last two axes.
    pub fn matmul(&self, other: &Tensor) -> Result<Tensor> {
        Self::op(OpKind::MATMUL, &[self, other], &[])
    }

    /// Sum of all elements, a scalar.
    pub fn sum(&self) -> Result<Tensor> {
        Self::op(OpKind::SUM, &[self], &[])
    }

    /// Sum over one axis, which is gone then.
    pub fn sum_axis(&self, axis: i64) -> Result<Tensor> {
        Self::op(OpKind::SUM, &[self], &[attribute("axes", Value::Ints(&[axis]))])
    }

    /// Mean of all elements, a scalar.
    pub fn mean(&self) -> Result<Tensor> {
        Self::op(OpKind::MEAN, &[self], &[])
    }

    /// Index of the largest element along an axis, int32.
    pub fn argmax(&self, axis: i64) -> Result<Tensor> {
        Self::op(OpKind::ARGMAX, &[self], &[attribute("axis", Value::Int(axis))])
    }

    /// Indices of the `count` largest elements along an axis, int32, the largest one first.
    pub fn top_k(&self, count: i64, axis: i64) -> Result<Tensor> {
        Self::op(OpKind::TOP_K, &[self], &[attribute("axis", Value::Int(axis)), attribute("count", Value::Int(count))])
    }

    /// Softmax along an axis.
    pub fn softmax(&self, axis: i64) -> Result<Tensor> {
        Self::op(OpKind::SOFTMAX, &[self], &[attribute("axis", Value::Int(axis))])
    }

    /// Every element times a number.
    pub fn multiply(&self, factor: f64) -> Result<Tensor> {
        self * &self.like(factor)?
    }

    /// Every element plus a number.
    pub fn plus(&self, number: f64) -> Result<Tensor> {
        self + &self.like(number)?
    }

    /// A scalar of the same element type.
    fn like(&self, value: f64) -> Result<Tensor> {
        Self::full(&self.compute, &[], value, self.tensor_type()?.dtype)
    }

    /// Hyperbolic tangent.
    pub fn tanh(&self) -> Result<Tensor> {
        Self::op(OpKind::TANH, &[self], &[])
    }

    /// Root mean square norm over the last axis (Zhang and Sennrich 2019): `x / √(mean(x²) + eps) · weight`, weight `[D]`.
    pub fn rms_norm(&self, weight: &Tensor, eps: f64) -> Result<Tensor> {
        Self::op(OpKind::RMS_NORM, &[self, weight], &[attribute("eps", Value::Float(eps))])
    }

    /// Gaussian error linear unit, exact.
    pub fn gelu(&self) -> Result<Tensor> {
        Self::op(OpKind::GELU, &[self], &[])
    }

    /// Gaussian error linear unit by a hyperbolic tangent, as GPT-2 and Gemma have it.
    pub fn gelu_tanh(&self) -> Result<Tensor> {
        Self::op(OpKind::GELU, &[self], &[attribute("approximate", Value::Text("tanh"))])
    }

    /// `x * sigmoid(x)`.
    pub fn silu(&self) -> Result<Tensor> {
        Self::op(OpKind::SILU, &[self], &[])
    }

    /// `silu(self) * up`.
    pub fn swiglu(&self, up: &Tensor) -> Result<Tensor> {
        Self::op(OpKind::SWIGLU, &[self, up], &[])
    }

    /// Per-row cross-entropy in nats: logits `[N, V]` against targets `[N]` int32, giving `[N]`.
    pub fn cross_entropy(&self, targets: &Tensor) -> Result<Tensor> {
        Self::op(OpKind::CROSS_ENTROPY, &[self, targets], &[])
    }

    /// Numbers from [0, 1) that are a function of a key alone; see [`crate::ModelContext::key`].
    pub fn random_uniform(compute: &Rc<dyn Compute>, key: u64, shape: &[i64], dtype: Dtype) -> Result<Tensor> {
        let attributes = [
            attribute("key", Value::Int(key.cast_signed())),
            attribute("shape", Value::Ints(shape)),
            attribute("dtype", Value::Dtype(dtype)),
        ];
        Self::op_on(compute, OpKind::RANDOM_UNIFORM, &[], &attributes)
    }

    /// A constant of this shape on the same device.
    pub fn full(compute: &Rc<dyn Compute>, shape: &[i64], value: f64, dtype: Dtype) -> Result<Tensor> {
        let attributes = [
            attribute("shape", Value::Ints(shape)),
            attribute("value", Value::Float(value)),
            attribute("dtype", Value::Dtype(dtype)),
        ];
        Self::op_on(compute, OpKind::FULL, &[], &attributes)
    }
}

impl Drop for Tensor {
    fn drop(&mut self) {
        if self.owned {
            self.compute.release(self.handle);
        }
    }
}

impl std::fmt::Debug for Tensor {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self.tensor_type() {
            Ok(TensorType { shape, dtype }) => write!(f, "Tensor({dtype}, {shape:?})"),
            Err(error) => write!(f, "Tensor({error})"),
        }
    }
}

macro_rules! operators {
    ($($operator:ident, $method:ident => $op:ident;)*) => { $(
        impl ops::$operator<&Tensor> for &Tensor {
            type Output = Result<Tensor>;
            fn $method(self, right: &Tensor) -> Result<Tensor> {
                Tensor::op(OpKind::$op, &[self, right], &[])
            }
        }
    )* };
}
operators! {
    Add, add => ADD;
    Sub, sub => SUBTRACT;
    Mul, mul => MULTIPLY;
    Div, div => DIVIDE;
}

/// The memory of an evaluated tensor.
#[derive(Debug)]
pub struct HostView<'a> {
    raw: RawHostView,
    /// Keeps the memory, whatever happens to the handle of the tensor.
    _memory: Tensor,
    tensor: PhantomData<&'a Tensor>,
}

impl HostView<'_> {
    /// The elements, where they are contiguous and of this type.
    pub fn as_slice<T: Element>(&self) -> Result<&[T]> {
        self.raw.expect::<T>()?;
        if self.raw.is_empty() {
            return Ok(&[]);
        }
        // SAFETY: the compute plugin promises `len` elements of this type at `data` for as long as a handle of the tensor is
        // alive, and the view has one; `expect` has checked type, contiguity and alignment.
        Ok(unsafe { std::slice::from_raw_parts(self.raw.data.cast::<T>(), self.raw.len()) })
    }

    /// Copies the elements in row-major order, whatever their strides.
    ///
    /// # Errors
    /// They are of another type, or `out` has another length.
    pub fn copy_to<T: Element>(&self, out: &mut [T]) -> Result<()> {
        if out.len() != self.raw.len() || self.raw.dtype != T::DTYPE {
            return Err(Error::plugin(format!(
                "cannot copy a tensor of shape {:?} and type {} into {} elements of {}",
                self.raw.shape,
                self.raw.dtype,
                out.len(),
                T::DTYPE
            )));
        }
        // SAFETY: the compute plugin promises elements of this type at every place of the view for as long as the tensor
        // lives, which the lifetime ensures.
        unsafe { self.raw.copy_to(T::DTYPE, bytes_mut(out)) }
    }

    /// Length of each axis.
    pub fn shape(&self) -> &[usize] {
        &self.raw.shape
    }

    /// Element type.
    pub fn dtype(&self) -> Dtype {
        self.raw.dtype
    }
}

/// The memory of an evaluated tensor that nothing else refers to, for writing.
#[derive(Debug)]
pub struct HostViewMut<'a> {
    raw: RawHostView,
    /// Keeps the memory, and keeps others from a second view for writing.
    _memory: Tensor,
    tensor: PhantomData<&'a mut Tensor>,
}

impl HostViewMut<'_> {
    /// The elements, where they are of this type.
    pub fn as_mut_slice<T: Element>(&mut self) -> Result<&mut [T]> {
        self.raw.expect::<T>()?;
        if self.raw.is_empty() {
            return Ok(&mut []);
        }
        // SAFETY: as in `HostView::as_slice`; the compute plugin has checked that nothing else refers to the memory.
        Ok(unsafe { std::slice::from_raw_parts_mut(self.raw.data.cast::<T>(), self.raw.len()) })
    }
}
