//! Compute across the boundary.

use std::any::Any;
use std::ffi::c_void;
use std::rc::Rc;
use std::sync::Arc;

use abi_stable::std_types::{RSlice, RSliceMut, RStr};

use super::few::with_few;
use super::guard::{Guarded, Owner, caught};
use super::object::{Imported, RawObject, RawSink, exports};
use super::record::{self, replies};
use super::table::{CType, Declarations, c_struct, interfaces};
use super::types::{RawArrayRef, RawAttribute, collected, filled, with_attributes};
use crate::op::{apply, is_available};
use crate::{
    Attribute, Compute, DeviceInfo, Dtype, Error, Handle, HostArrayRef, MemoryInfo, OpKind, PlannedMemory, RawHostView,
    RecomputedFunction, Result, TensorFunction, TensorType, ValueAndGrad,
};

/// A [`TensorFunction`], borrowed for one call.
#[repr(C)]
#[derive(abi_stable::StableAbi, Clone, Copy)]
pub struct RawFunction {
    data: *mut c_void,
    call:
        unsafe extern "C" fn(*mut c_void, RSlice<'_, u64>, RSlice<'_, u64>, &RawSink<'_, u64>, RawSink<'_, u8>) -> bool,
}

impl CType for RawFunction {
    fn name() -> String {
        "MdtFunction".to_owned()
    }

    fn declare(declarations: &mut Declarations) {
        RawSink::<'_, u64>::declare(declarations);
        let call = "bool (*call)(void *data, MdtSlice_uint64_t parameters, MdtSlice_uint64_t inputs, \
                    const MdtSink_uint64_t *results, MdtSink_uint8_t out)";
        declarations.add_words(Self::name(), &[("data", "void *data".to_owned()), ("call", call.to_owned())]);
    }
}

c_struct! {
    /// [`RawHostView`] without shape and strides.
    "MdtView" RawView {
        data: *mut u8,
        dtype: u32,
    }
}

interfaces! {
    /// A function of tensors that a device calls when it likes to. The compute thread.
    "host.function/1" HostFunction RecomputedFunctions {
        /// Results are owned by the caller.
        fn call_with(inputs: RSlice<'_, u64>, results: &RawSink<'_, u64>);
    }

    /// A device with tensors. Its own thread.
    "compute.tensors/1" ComputeTensors TensorFunctions {
        /// [`Compute::device`].
        fn describe() -> DeviceInfo;
        /// [`Compute::supports`].
        fn has_op(op: u32, attributes: RSlice<'_, RStr<'_>>, dtype: u32, supported: &mut bool);
        /// [`Compute::op`].
        fn apply(
            op: u32, inputs: RSlice<'_, u64>, attributes: RSlice<'_, RawAttribute<'_>>, results: RSliceMut<'_, u64>
        );
        /// [`Compute::from_host`].
        fn copy_in(array: &RawArrayRef<'_>, tensor: &mut u64);
        /// [`Compute::retain`].
        fn retain_handle(tensor: u64, second: &mut u64);
        /// [`Compute::release`].
        fn release_handle(tensor: u64);
        /// [`Compute::tensor_type`].
        fn type_of(tensor: u64, dtype: &mut u32, shape: &RawSink<'_, usize>);
        /// [`Compute::eval`].
        fn evaluate(tensors: RSlice<'_, u64>);
        /// [`Compute::host_view`] and [`Compute::host_view_mut`].
        fn view(
            tensor: u64, writable: bool, view: &mut RawView, shape: &RawSink<'_, usize>, strides: &RawSink<'_, isize>
        );
        /// [`Compute::read`].
        fn copy_out(tensor: u64, dtype: u32, elements: RSliceMut<'_, u8>);
        /// [`Compute::write`].
        fn overwrite(tensor: u64, array: &RawArrayRef<'_>);
        /// [`Compute::value_and_grad`]; a slot for the gradient of each parameter.
        fn differentiate(
            function: RawFunction, parameters: RSlice<'_, u64>, inputs: RSlice<'_, u64>, values: &RawSink<'_, u64>,
            gradients: RSliceMut<'_, u64>
        );
        /// [`Compute::checkpoint`]; the function is an object with `host.function/1`, which is the device's from then on.
        fn recompute(function: &mut RawObject, inputs: RSlice<'_, u64>, results: &RawSink<'_, u64>);
        /// [`Compute::memory`].
        fn memory_in_use() -> MemoryInfo;
    }

    /// The memory of evaluations, told beforehand. The device's own thread.
    "compute.plan/1" ComputePlan PlanFunctions {
        /// [`Compute::placeholder`]; 0 where the device cannot plan.
        fn stand_in(dtype: u32, shape: RSlice<'_, usize>, tensor: &mut u64);
        /// [`Compute::plan`]; whether the device can.
        fn plan_evaluation(tensors: RSlice<'_, u64>, planned: &mut bool) -> PlannedMemory;
    }
}
replies! { DeviceInfo, MemoryInfo, PlannedMemory }
exports! { Rc<dyn Compute>: ComputeTensors, ComputePlan; Rc<RecomputedFunction>: HostFunction; }

impl RecomputedFunctions for Rc<RecomputedFunction> {
    fn call_with(&self, inputs: RSlice<'_, u64>, results: &RawSink<'_, u64>) -> Result<()> {
        results.write(&self(inputs.as_slice())?);
        Ok(())
    }
}

/// Makes an object of a plain compute; one that came across already is handed on as it is.
pub(super) fn export(compute: &Rc<dyn Compute>, owner: impl FnOnce() -> Arc<Owner>) -> RawObject {
    match compute.as_loaded().and_then(|any| any.downcast_ref::<Imported<ComputeTensors>>()) {
        Some(loaded) => loaded.share(),
        None => RawObject::new(Guarded::for_this_thread(Rc::clone(compute), owner())),
    }
}

/// Makes a plain compute of an object.
pub(super) fn import(object: RawObject, name: &'static str) -> Result<Rc<dyn Compute>> {
    Ok(Rc::new(Imported::<ComputeTensors>::of(object, name)?))
}

impl TensorFunctions for Rc<dyn Compute> {
    fn describe(&self) -> Result<DeviceInfo> {
        Ok(self.device())
    }

    fn has_op(&self, op: u32, attributes: RSlice<'_, RStr<'_>>, dtype: u32, supported: &mut bool) -> Result<()> {
        let attributes: Vec<&str> = attributes.iter().map(RStr::as_str).collect();
        *supported = is_available(&**self, OpKind(op), &attributes, Dtype(dtype));
        Ok(())
    }

    #[inline(always)]
    fn apply(
        &self,
        op: u32,
        inputs: RSlice<'_, u64>,
        attributes: RSlice<'_, RawAttribute<'_>>,
        mut results: RSliceMut<'_, u64>,
    ) -> Result<()> {
        with_attributes(attributes, move |attributes| {
            apply(self, OpKind(op), inputs.as_slice(), attributes, results.as_mut_slice())
        })
    }

    fn copy_in(&self, array: &RawArrayRef<'_>, tensor: &mut u64) -> Result<()> {
        *tensor = self.from_host(array.plain())?;
        Ok(())
    }

    fn retain_handle(&self, tensor: u64, second: &mut u64) -> Result<()> {
        *second = self.retain(tensor)?;
        Ok(())
    }

    fn release_handle(&self, tensor: u64) -> Result<()> {
        self.release(tensor);
        Ok(())
    }

    fn type_of(&self, tensor: u64, dtype: &mut u32, shape: &RawSink<'_, usize>) -> Result<()> {
        let tensor_type = self.tensor_type(tensor)?;
        *dtype = tensor_type.dtype.0;
        shape.write(&tensor_type.shape);
        Ok(())
    }

    fn evaluate(&self, tensors: RSlice<'_, u64>) -> Result<()> {
        self.eval(tensors.as_slice())
    }

    fn view(
        &self,
        tensor: u64,
        writable: bool,
        view: &mut RawView,
        shape: &RawSink<'_, usize>,
        strides: &RawSink<'_, isize>,
    ) -> Result<()> {
        let of = if writable { self.host_view_mut(tensor)? } else { self.host_view(tensor)? };
        *view = RawView { data: of.data, dtype: of.dtype.0 };
        shape.write(&of.shape);
        strides.write(&of.strides);
        Ok(())
    }

    fn copy_out(&self, tensor: u64, dtype: u32, mut elements: RSliceMut<'_, u8>) -> Result<()> {
        self.read(tensor, Dtype(dtype), elements.as_mut_slice())
    }

    fn overwrite(&self, tensor: u64, array: &RawArrayRef<'_>) -> Result<()> {
        self.write(tensor, array.plain())
    }

    fn recompute(&self, function: &mut RawObject, inputs: RSlice<'_, u64>, results: &RawSink<'_, u64>) -> Result<()> {
        let function = Imported::<HostFunction>::of(std::mem::take(function), "host function")?;
        let call = move |inputs: &[Handle]| collected(|results| function.call_with(inputs.into(), &results));
        results.write(&self.checkpoint(Rc::new(call), inputs.as_slice())?);
        Ok(())
    }

    fn differentiate(
        &self,
        function: RawFunction,
        parameters: RSlice<'_, u64>,
        inputs: RSlice<'_, u64>,
        values: &RawSink<'_, u64>,
        mut gradients: RSliceMut<'_, u64>,
    ) -> Result<()> {
        let mut function = |parameters: &[Handle], inputs: &[Handle]| {
            let (mut results, mut error) = (Vec::new(), Vec::new());
            let (results_sink, error_sink) = (RawSink::of(&mut results), RawSink::of(&mut error));
            // SAFETY: whoever passed the function made the pair, and it lives until this call returns.
            match unsafe { (function.call)(function.data, parameters.into(), inputs.into(), &results_sink, error_sink) }
            {
                true => Ok(results),
                false => Err(record::decode_error(&error)),
            }
        };
        let result = self.value_and_grad(&mut function, parameters.as_slice(), inputs.as_slice())?;
        let (slots, count) = (gradients.as_mut_slice(), result.gradients.len());
        if slots.len() != count {
            result.values.iter().chain(&result.gradients).for_each(|&handle| self.release(handle));
            return Err(Error::plugin(format!("it gave {count} gradients for {} parameters", slots.len())));
        }
        values.write(&result.values);
        slots.copy_from_slice(&result.gradients);
        Ok(())
    }

    fn memory_in_use(&self) -> Result<MemoryInfo> {
        Ok(self.memory())
    }
}

impl PlanFunctions for Rc<dyn Compute> {
    fn stand_in(&self, dtype: u32, shape: RSlice<'_, usize>, tensor: &mut u64) -> Result<()> {
        let tensor_type = TensorType { shape: shape.to_vec(), dtype: Dtype(dtype) };
        *tensor = self.placeholder(&tensor_type)?.unwrap_or(0);
        Ok(())
    }

    fn plan_evaluation(&self, tensors: RSlice<'_, u64>, planned: &mut bool) -> Result<PlannedMemory> {
        let memory = self.plan(tensors.as_slice())?;
        *planned = memory.is_some();
        Ok(memory.unwrap_or_default())
    }
}

impl Imported<ComputeTensors> {
    fn host_view_of(&self, tensor: Handle, writable: bool) -> Result<RawHostView> {
        let mut view = RawView { data: std::ptr::null_mut(), dtype: 0 };
        let (mut shape, mut strides) = (Vec::new(), Vec::new());
        self.view(tensor, writable, &mut view, &RawSink::of(&mut shape), &RawSink::of(&mut strides))?;
        Ok(RawHostView { data: view.data, dtype: Dtype(view.dtype), shape, strides })
    }
}

/// Calls that cannot report an error give an empty answer: the next one that can will.
impl Compute for Imported<ComputeTensors> {
    fn device(&self) -> DeviceInfo {
        self.describe().unwrap_or_default()
    }

    fn supports(&self, op: OpKind, attributes: &[&str], dtype: Dtype) -> bool {
        let attributes: Vec<RStr<'_>> = attributes.iter().map(|&name| name.into()).collect();
        filled(|supported| self.has_op(op.0, attributes.as_slice().into(), dtype.0, supported)).unwrap_or(false)
    }

    fn op(&self, op: OpKind, inputs: &[Handle], attributes: &[Attribute<'_>], results: &mut [Handle]) -> Result<()> {
        with_few(attributes, RawAttribute::from, move |attributes| {
            self.apply(op.0, inputs.into(), (&*attributes).into(), results.into())
        })
    }

    fn from_host(&self, array: HostArrayRef<'_>) -> Result<Handle> {
        filled(|tensor| self.copy_in(&array.into(), tensor))
    }

    fn retain(&self, tensor: Handle) -> Result<Handle> {
        filled(|second| self.retain_handle(tensor, second))
    }

    fn release(&self, tensor: Handle) {
        let _ = self.release_handle(tensor);
    }

    fn tensor_type(&self, tensor: Handle) -> Result<TensorType> {
        let mut dtype = 0;
        let shape = collected(|shape| self.type_of(tensor, &mut dtype, &shape))?;
        Ok(TensorType { shape, dtype: Dtype(dtype) })
    }

    fn eval(&self, tensors: &[Handle]) -> Result<()> {
        self.evaluate(tensors.into())
    }

    fn host_view(&self, tensor: Handle) -> Result<RawHostView> {
        self.host_view_of(tensor, false)
    }

    fn host_view_mut(&self, tensor: Handle) -> Result<RawHostView> {
        self.host_view_of(tensor, true)
    }

    fn read(&self, tensor: Handle, dtype: Dtype, out: &mut [u8]) -> Result<()> {
        self.copy_out(tensor, dtype.0, out.into())
    }

    fn write(&self, tensor: Handle, array: HostArrayRef<'_>) -> Result<()> {
        self.overwrite(tensor, &array.into())
    }

    fn checkpoint(&self, function: Rc<RecomputedFunction>, inputs: &[Handle]) -> Result<Vec<Handle>> {
        let mut function = RawObject::new(Guarded::for_this_thread(function, Owner::named("host function")));
        collected(|results| self.recompute(&mut function, inputs.into(), &results))
    }

    fn value_and_grad(
        &self,
        function: &mut TensorFunction<'_>,
        parameters: &[Handle],
        inputs: &[Handle],
    ) -> Result<ValueAndGrad> {
        let mut function = function;
        let raw = RawFunction { data: (&raw mut function).cast(), call: call_function };
        let mut result = ValueAndGrad { values: Vec::new(), gradients: vec![0; parameters.len()] };
        let (values, gradients) = (RawSink::of(&mut result.values), result.gradients.as_mut_slice().into());
        self.differentiate(raw, parameters.into(), inputs.into(), &values, gradients)?;
        Ok(result)
    }

    fn memory(&self) -> MemoryInfo {
        self.memory_in_use().unwrap_or_default()
    }

    fn placeholder(&self, TensorType { shape, dtype }: &TensorType) -> Result<Option<Handle>> {
        let Some(planner) = self.beside::<ComputePlan>()? else { return Ok(None) };
        let tensor = filled(|tensor| planner.stand_in(dtype.0, shape.as_slice().into(), tensor))?;
        Ok(Some(tensor).filter(|&tensor| tensor != 0))
    }

    fn plan(&self, tensors: &[Handle]) -> Result<Option<PlannedMemory>> {
        let Some(planner) = self.beside::<ComputePlan>()? else { return Ok(None) };
        let mut planned = false;
        let memory = planner.plan_evaluation(tensors.into(), &mut planned)?;
        Ok(planned.then_some(memory))
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
    results: &RawSink<'_, u64>,
    out: RawSink<'_, u8>,
) -> bool {
    let outcome = caught(|| {
        // SAFETY: `data` is the address of the `&mut TensorFunction` on the stack of `Compute::value_and_grad`, which
        // is waiting for the compute plugin, and nothing else uses it meanwhile.
        let function = unsafe { &mut *data.cast::<&mut TensorFunction<'_>>() };
        function(parameters.as_slice(), inputs.as_slice())
    });
    match outcome.unwrap_or_else(Err) {
        Ok(handles) => results.write(&handles),
        Err(error) => {
            out.write(&record::encode_error(&error));
            return false;
        }
    }
    true
}
