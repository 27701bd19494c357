//! `Tensor`: a handle with operators, so that a plugin's code reads like array code.

mod operations;

use std::marker::PhantomData;
use std::rc::Rc;

use crate::abi::with_few;
use crate::host_array::bytes_mut;
use crate::op::apply;
use crate::{
    Attribute, Compute, Dtype, Element, Error, Handle, HostArray, HostArrayRef, OpKind, RawHostView, Result, TensorType,
};

pub use operations::Operand;

/// A tensor on a device; it releases its handle when it is dropped.
///
/// ```
/// use mdt_plugin_api::prelude::*;
///
/// /// The Huber loss of each row, `[N]`, of predictions and targets `[N, D]`.
/// fn huber(predictions: &Tensor, targets: &Tensor) -> Result<Tensor> {
///     let distance = (predictions - targets)?.abs()?;
///     let quadratic = distance.square()?.multiply(0.5)?;
///     let losses = distance.less(1.0)?.select(&quadratic, &(&distance - 0.5)?)?;
///     losses.mean_axes(&[1], false)
/// }
/// ```
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

    /// Applies an operation with one result; one that the device does not have is composed of others.
    ///
    /// # Errors
    /// Those of [`Compute::op`]; no inputs.
    pub fn op(op: OpKind, inputs: &[&Tensor], attributes: &[Attribute<'_>]) -> Result<Tensor> {
        Self::op_on(&first(inputs)?.compute, op, inputs, attributes)
    }

    /// Applies an operation with one result, on this device even when there are no inputs.
    ///
    /// # Errors
    /// Those of [`Compute::op`].
    pub fn op_on(
        compute: &Rc<dyn Compute>,
        op: OpKind,
        inputs: &[&Tensor],
        attributes: &[Attribute<'_>],
    ) -> Result<Tensor> {
        let mut result = [0];
        with_few(inputs, |tensor| tensor.handle, |handles| apply(compute, op, handles, attributes, &mut result))?;
        Ok(Self::from_handle(compute, result[0]))
    }

    /// Applies an operation with one result to inputs some of which are left out, such as the segments of `attention`.
    ///
    /// # Errors
    /// Those of [`Compute::op`].
    pub fn op_on_some(
        compute: &Rc<dyn Compute>,
        op: OpKind,
        inputs: &[Option<&Tensor>],
        attributes: &[Attribute<'_>],
    ) -> Result<Tensor> {
        let mut result = [0];
        with_few(
            inputs,
            |input| input.map_or(0, Tensor::handle),
            |handles| apply(compute, op, handles, attributes, &mut result),
        )?;
        Ok(Self::from_handle(compute, result[0]))
    }

    /// Applies an operation with several results.
    ///
    /// # Errors
    /// Those of [`Compute::op`]; no inputs; another number of results.
    pub fn op_with_results<const N: usize>(
        op: OpKind,
        inputs: &[&Tensor],
        attributes: &[Attribute<'_>],
    ) -> Result<[Tensor; N]> {
        let (compute, mut results) = (&first(inputs)?.compute, [0; N]);
        with_few(inputs, |tensor| tensor.handle, |handles| apply(compute, op, handles, attributes, &mut results))?;
        Ok(results.map(|handle| Self::from_handle(compute, handle)))
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
}

fn first<'a>(inputs: &[&'a Tensor]) -> Result<&'a Tensor> {
    inputs.first().copied().ok_or_else(|| Error::plugin("an operation on tensors needs at least one"))
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
