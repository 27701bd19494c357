//! Tensors in host memory: borrowed where the device shares its memory, else copies, which are counted.

use std::cell::Cell;
use std::rc::Rc;

use mdt_plugin_api::half::bf16;
use mdt_plugin_api::half::slice::HalfFloatSliceExt;
use mdt_plugin_api::{Compute, Dtype, HostArrayRef, HostView, HostViewMut, Result, Tensor, TensorType};

use crate::exit::Failure;

/// Bytes that were copied between host and device.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Staged {
    /// From the host to the device.
    pub to_device: u64,
    /// From the device to the host.
    pub to_host: u64,
}

thread_local! {
    /// The copies of the compute thread since [`take`].
    static STAGED: Cell<Staged> = const { Cell::new(Staged { to_device: 0, to_host: 0 }) };
}

/// The bytes that this thread has copied since the last call.
pub fn take() -> Staged {
    STAGED.take()
}

/// A tensor with a copy of these elements.
pub fn upload(compute: &Rc<dyn Compute>, array: HostArrayRef<'_>) -> Result<Tensor> {
    let staged = STAGED.get();
    STAGED.set(Staged { to_device: staged.to_device + array.bytes.len() as u64, ..staged });
    Ok(Tensor::from_handle(compute, compute.from_host(array)?))
}

/// Copies the elements of a tensor, converted to f32.
pub fn read(tensor: &Tensor, out: &mut [f32]) -> Result<()> {
    read_as(Dtype::F32, tensor, bytemuck::cast_slice_mut(out))
}

/// Copies the elements of a tensor as elements of a type.
pub fn read_as(dtype: Dtype, tensor: &Tensor, out: &mut [u8]) -> Result<()> {
    let staged = STAGED.get();
    STAGED.set(Staged { to_host: staged.to_host + out.len() as u64, ..staged });
    tensor.compute().read(tensor.handle(), dtype, out)
}

/// The value of a tensor with one element of f32.
pub fn read_number(tensor: &Tensor) -> Result<f64> {
    let mut number = [0.0];
    read(tensor, &mut number)?;
    Ok(f64::from(number[0]))
}

/// The elements of a tensor of f32.
enum OnHost<'a> {
    View(HostView<'a>),
    Copy(Vec<f32>),
}

impl OnHost<'_> {
    fn slice(&self) -> Result<&[f32]> {
        match self {
            Self::View(view) => view.as_slice(),
            Self::Copy(copy) => Ok(copy),
        }
    }
}

/// Tensors of f32 as slices, for as long as `body` runs.
pub fn with_slices<T>(tensors: &[Tensor], body: impl FnOnce(&[&[f32]]) -> Result<T, Failure>) -> Result<T, Failure> {
    let shared = shares_memory(tensors);
    let memory = tensors.iter().map(|tensor| on_host(tensor, shared)).collect::<Result<Vec<_>>>()?;
    body(&memory.iter().map(OnHost::slice).collect::<Result<Vec<_>>>()?)
}

/// A tensor of f32 as a slice, for as long as `body` runs.
pub fn with_slice<T>(tensor: &Tensor, body: impl FnOnce(&[f32]) -> Result<T>) -> Result<T> {
    body(on_host(tensor, shares_memory(std::slice::from_ref(tensor)))?.slice()?)
}

fn on_host(tensor: &Tensor, shared: bool) -> Result<OnHost<'_>> {
    if shared {
        let view = Tensor::host_view(tensor)?;
        // A result of operations may have its elements in another order than that of rows.
        if view.as_slice::<f32>().is_ok() {
            return Ok(OnHost::View(view));
        }
    }
    copy(tensor).map(OnHost::Copy)
}

/// The elements of tensors of any of the floating-point types of weights, as they are, for as long as `body` runs.
pub fn with_bytes<T>(tensors: &[Tensor], body: impl FnOnce(&[&[u8]]) -> Result<T, Failure>) -> Result<T, Failure> {
    fn bytes<'a>(view: &'a HostView<'_>) -> Option<&'a [u8]> {
        let halves = || Some(bytemuck::cast_slice(view.as_slice::<bf16>().ok()?.reinterpret_cast()));
        view.as_slice::<f32>().ok().map(bytemuck::cast_slice).or_else(halves)
    }
    enum Bytes<'a> {
        View(HostView<'a>),
        Copy(Vec<u8>),
    }
    let shared = shares_memory(tensors);
    let on_host = |tensor| {
        if shared {
            let view = Tensor::host_view(tensor)?;
            if bytes(&view).is_some() {
                return Ok(Bytes::View(view));
            }
        }
        let TensorType { shape, dtype } = tensor.tensor_type()?;
        let mut copy = vec![0; shape.iter().product::<usize>() * dtype.size()];
        read_as(dtype, tensor, &mut copy)?;
        Ok(Bytes::Copy(copy))
    };
    let memory = tensors.iter().map(on_host).collect::<Result<Vec<_>>>()?;
    let slices = memory.iter().map(|memory| match memory {
        Bytes::View(view) => bytes(view).unwrap_or_default(),
        Bytes::Copy(copy) => copy,
    });
    body(&slices.collect::<Vec<_>>())
}

/// Tensors of f32 as slices for writing, for as long as `body` runs. Where it fails, they may have been written to.
pub fn with_slices_mut<T>(tensors: &mut [Tensor], body: impl FnOnce(&mut [&mut [f32]]) -> Result<T>) -> Result<T> {
    if shares_memory(tensors) {
        let mut views = tensors.iter_mut().map(Tensor::host_view_mut).collect::<Result<Vec<_>>>()?;
        return body(&mut views.iter_mut().map(HostViewMut::as_mut_slice).collect::<Result<Vec<_>>>()?);
    }
    let mut copies = tensors.iter().map(copy).collect::<Result<Vec<_>>>()?;
    let result = body(&mut copies.iter_mut().map(Vec::as_mut_slice).collect::<Vec<_>>())?;
    for (tensor, copy) in tensors.iter_mut().zip(copies) {
        *tensor = upload_f32(tensor.compute(), &tensor.shape()?, &copy)?;
    }
    Ok(result)
}

/// A tensor with a copy of these elements.
pub fn upload_f32(compute: &Rc<dyn Compute>, shape: &[usize], elements: &[f32]) -> Result<Tensor> {
    upload(compute, HostArrayRef { dtype: Dtype::F32, shape, bytes: bytemuck::cast_slice(elements) })
}

/// A copy of the elements of a tensor of f32.
pub fn copy(tensor: &Tensor) -> Result<Vec<f32>> {
    let mut copy = vec![0.0; tensor.shape()?.iter().product()];
    read(tensor, &mut copy)?;
    Ok(copy)
}

fn shares_memory(tensors: &[Tensor]) -> bool {
    tensors.first().is_none_or(|tensor| tensor.compute().device().unified_memory)
}
