//! Compute across the boundary.

use std::any::Any;
use std::ffi::c_void;
use std::rc::Rc;
use std::sync::Arc;

use abi_stable::std_types::{RArc, RResult, RSlice, RString, RVec};
use abi_stable::{StableAbi, sabi_trait, sabi_trait::TD_Opaque};

use super::guard::{Guarded, Owner, caught};
use super::types::{RawArrayRef, RawAttribute, RawError, RawView, plain, same_fields};
use crate::{
    Attribute, Compute, DeviceInfo, Handle, HostArrayRef, MemoryInfo, OpKind, RawHostView, Result, TensorFunction,
    TensorType, ValueAndGrad,
};

/// [`DeviceInfo`].
#[repr(C)]
#[derive(StableAbi)]
pub struct RawDevice {
    kind: RString,
    name: RString,
    library: RString,
    unified_memory: bool,
    threads: usize,
}

/// [`TensorType`].
#[repr(C)]
#[derive(StableAbi)]
pub struct RawTensorType {
    shape: RVec<usize>,
    dtype: u32,
}

/// [`ValueAndGrad`].
#[repr(C)]
#[derive(StableAbi)]
pub struct RawValueAndGrad {
    values: RVec<u64>,
    gradients: RVec<u64>,
}

/// [`MemoryInfo`].
#[repr(C)]
#[derive(StableAbi)]
pub struct RawMemory {
    active: u64,
    peak: u64,
    cached: u64,
}

same_fields! {
    RawDevice, DeviceInfo { kind, name, library, unified_memory, threads }
    RawTensorType, TensorType { shape, dtype }
    RawValueAndGrad, ValueAndGrad { values, gradients }
}

/// A [`TensorFunction`], borrowed for one call.
#[repr(C)]
#[derive(StableAbi)]
pub struct RawFunction {
    data: *mut c_void,
    call: unsafe extern "C" fn(*mut c_void, RSlice<'_, u64>, RSlice<'_, u64>) -> RResult<RVec<u64>, RawError>,
}

/// [`Compute`] with a stable layout.
#[sabi_trait]
pub trait RawCompute {
    /// [`Compute::device`].
    fn device(&self) -> RResult<RawDevice, RawError>;
    /// [`Compute::supports`].
    fn supports(&self, op: u32) -> bool;
    /// [`Compute::op`].
    fn op(
        &self,
        op: u32,
        inputs: RSlice<'_, u64>,
        attributes: RSlice<'_, RawAttribute<'_>>,
    ) -> RResult<RVec<u64>, RawError>;
    /// [`Compute::from_host`].
    fn copy_in(&self, array: RawArrayRef<'_>) -> RResult<u64, RawError>;
    /// [`Compute::retain`].
    fn retain(&self, tensor: u64) -> RResult<u64, RawError>;
    /// [`Compute::release`].
    fn release(&self, tensor: u64);
    /// [`Compute::tensor_type`].
    fn tensor_type(&self, tensor: u64) -> RResult<RawTensorType, RawError>;
    /// [`Compute::eval`].
    fn eval(&self, tensors: RSlice<'_, u64>) -> RResult<(), RawError>;
    /// [`Compute::host_view`] and [`Compute::host_view_mut`].
    fn host_view(&self, tensor: u64, writable: bool) -> RResult<RawView, RawError>;
    /// [`Compute::value_and_grad`].
    fn value_and_grad(
        &self,
        function: RawFunction,
        parameters: RSlice<'_, u64>,
        inputs: RSlice<'_, u64>,
    ) -> RResult<RawValueAndGrad, RawError>;
    /// [`Compute::memory`].
    #[sabi(last_prefix_field)]
    fn memory(&self) -> RawMemory;
}

/// A compute component as it crosses; clones share the instance.
pub(crate) type ComputeObject = RawCompute_TO<'static, RArc<()>>;

struct Exported(Guarded<Rc<dyn Compute>>);

/// Makes an object of a plain compute; one that came across already is handed on as it is.
pub(crate) fn export(compute: &Rc<dyn Compute>, owner: impl FnOnce() -> Arc<Owner>) -> ComputeObject {
    if let Some(loaded) = compute.as_loaded().and_then(|any| any.downcast_ref::<Loaded>()) {
        return RawCompute_TO::from_sabi(loaded.0.obj.shallow_clone());
    }
    let exported = Exported(Guarded::for_this_thread(Rc::clone(compute), owner()));
    RawCompute_TO::from_ptr(RArc::new(exported), TD_Opaque)
}

impl RawCompute for Exported {
    fn device(&self) -> RResult<RawDevice, RawError> {
        self.0.call(|compute| Ok(compute.device().into()))
    }

    fn supports(&self, op: u32) -> bool {
        self.0.call_or(false, |compute| compute.supports(OpKind(op)))
    }

    fn op(
        &self,
        op: u32,
        inputs: RSlice<'_, u64>,
        attributes: RSlice<'_, RawAttribute<'_>>,
    ) -> RResult<RVec<u64>, RawError> {
        self.0.call(|compute| {
            let attributes = attributes.iter().map(RawAttribute::plain).collect::<Result<Vec<_>>>()?;
            Ok(compute.op(OpKind(op), inputs.as_slice(), &attributes)?.into())
        })
    }

    fn copy_in(&self, array: RawArrayRef<'_>) -> RResult<u64, RawError> {
        self.0.call(|compute| compute.from_host(array.plain()))
    }

    fn retain(&self, tensor: u64) -> RResult<u64, RawError> {
        self.0.call(|compute| compute.retain(tensor))
    }

    fn release(&self, tensor: u64) {
        self.0.call_or((), |compute| compute.release(tensor));
    }

    fn tensor_type(&self, tensor: u64) -> RResult<RawTensorType, RawError> {
        self.0.call(|compute| Ok(compute.tensor_type(tensor)?.into()))
    }

    fn eval(&self, tensors: RSlice<'_, u64>) -> RResult<(), RawError> {
        self.0.call(|compute| compute.eval(tensors.as_slice()))
    }

    fn host_view(&self, tensor: u64, writable: bool) -> RResult<RawView, RawError> {
        self.0.call(|compute| {
            let view = if writable { compute.host_view_mut(tensor)? } else { compute.host_view(tensor)? };
            Ok(view.into())
        })
    }

    fn value_and_grad(
        &self,
        function: RawFunction,
        parameters: RSlice<'_, u64>,
        inputs: RSlice<'_, u64>,
    ) -> RResult<RawValueAndGrad, RawError> {
        self.0.call(|compute| {
            let mut function = |parameters: &[Handle], inputs: &[Handle]| {
                // SAFETY: `Loaded::value_and_grad` made the pair, and it lives until this call returns.
                plain(unsafe { (function.call)(function.data, parameters.into(), inputs.into()) }).map(Vec::from)
            };
            Ok(compute.value_and_grad(&mut function, parameters.as_slice(), inputs.as_slice())?.into())
        })
    }

    fn memory(&self) -> RawMemory {
        let memory = self.0.call_or(MemoryInfo::default(), |compute| compute.memory());
        RawMemory { active: memory.active_bytes, peak: memory.peak_bytes, cached: memory.cached_bytes }
    }
}

/// A compute from the other side.
pub(crate) struct Loaded(ComputeObject);

/// Makes a plain compute of an object.
pub(crate) fn import(object: ComputeObject) -> Rc<dyn Compute> {
    Rc::new(Loaded(object))
}

impl Compute for Loaded {
    fn device(&self) -> DeviceInfo {
        // After an error, the next call that can report one will.
        plain(self.0.device()).map_or_else(|_| DeviceInfo { threads: 1, ..DeviceInfo::default() }, DeviceInfo::from)
    }

    fn supports(&self, op: OpKind) -> bool {
        self.0.supports(op.0)
    }

    fn op(&self, op: OpKind, inputs: &[Handle], attributes: &[Attribute<'_>]) -> Result<Vec<Handle>> {
        let attributes: Vec<RawAttribute<'_>> = attributes.iter().map(RawAttribute::from).collect();
        plain(self.0.op(op.0, inputs.into(), attributes.as_slice().into())).map(Vec::from)
    }

    fn from_host(&self, array: HostArrayRef<'_>) -> Result<Handle> {
        plain(self.0.copy_in(array.into()))
    }

    fn retain(&self, tensor: Handle) -> Result<Handle> {
        plain(self.0.retain(tensor))
    }

    fn release(&self, tensor: Handle) {
        self.0.release(tensor);
    }

    fn tensor_type(&self, tensor: Handle) -> Result<TensorType> {
        plain(self.0.tensor_type(tensor)).map(TensorType::from)
    }

    fn eval(&self, tensors: &[Handle]) -> Result<()> {
        plain(self.0.eval(tensors.into()))
    }

    fn host_view(&self, tensor: Handle) -> Result<RawHostView> {
        plain(self.0.host_view(tensor, false)).map(RawHostView::from)
    }

    fn host_view_mut(&self, tensor: Handle) -> Result<RawHostView> {
        plain(self.0.host_view(tensor, true)).map(RawHostView::from)
    }

    fn value_and_grad(
        &self,
        function: &mut TensorFunction<'_>,
        parameters: &[Handle],
        inputs: &[Handle],
    ) -> Result<ValueAndGrad> {
        let mut function = function;
        let raw = RawFunction { data: (&raw mut function).cast(), call: call_function };
        plain(self.0.value_and_grad(raw, parameters.into(), inputs.into())).map(ValueAndGrad::from)
    }

    fn memory(&self) -> MemoryInfo {
        let raw = self.0.memory();
        MemoryInfo { active_bytes: raw.active, peak_bytes: raw.peak, cached_bytes: raw.cached }
    }

    fn as_loaded(&self) -> Option<&dyn Any> {
        Some(self)
    }
}

/// Calls back to this side.
unsafe extern "C" fn call_function(
    data: *mut c_void,
    parameters: RSlice<'_, u64>,
    inputs: RSlice<'_, u64>,
) -> RResult<RVec<u64>, RawError> {
    let outcome = caught(|| {
        // SAFETY: `data` is the address of the `&mut TensorFunction` on the stack of `Loaded::value_and_grad`, which
        // is waiting for the compute plugin, and nothing else uses it meanwhile.
        let function = unsafe { &mut *data.cast::<&mut TensorFunction<'_>>() };
        function(parameters.as_slice(), inputs.as_slice())
    });
    match outcome.unwrap_or_else(Err) {
        Ok(handles) => RResult::ROk(handles.into()),
        Err(error) => RResult::RErr(error.into()),
    }
}
