//! A device that computes nothing: it has the types of tensors, and asks the real one what evaluating them would need.

use std::cell::Cell;
use std::rc::Rc;

use mdt_plugin_api::{
    Attribute, Compute, DeviceInfo, Dtype, Error, Handle, HostArrayRef, MemoryInfo, OpKind, PlannedMemory, RawHostView,
    RecomputedFunction, Result, TensorFunction, TensorType, ValueAndGrad,
};

use crate::progress;

/// A device in the place of another one, whose evaluations are planned instead of made. Every number that is read is 0.
pub(super) struct Planning {
    device: Rc<dyn Compute>,
    planned: Cell<Option<PlannedMemory>>,
}

impl Planning {
    pub(super) fn new(device: Rc<dyn Compute>) -> Rc<Self> {
        Rc::new(Self { device, planned: Cell::new(None) })
    }

    /// What all evaluations so far need; none where there was none, or the device cannot tell.
    pub(super) fn planned(&self) -> Option<PlannedMemory> {
        self.planned.get()
    }

    fn add(&self, tensors: &[Handle]) -> Result<()> {
        let planned = self.device.plan(tensors)?;
        if let Some(PlannedMemory { peak_bytes }) = planned {
            progress::debug(&format!("planned: tensors have {peak_bytes} bytes at most, with those that are kept"));
        }
        self.planned.set(planned);
        Ok(())
    }
}

fn no_memory() -> Error {
    Error::other("a planned tensor has no memory that could be looked at")
}

impl Compute for Planning {
    fn device(&self) -> DeviceInfo {
        DeviceInfo { unified_memory: false, ..self.device.device() }
    }

    fn supports(&self, op: OpKind, attributes: &[&str], dtype: Dtype) -> bool {
        self.device.supports(op, attributes, dtype)
    }

    fn op(&self, op: OpKind, inputs: &[Handle], attributes: &[Attribute<'_>], results: &mut [Handle]) -> Result<()> {
        self.device.op(op, inputs, attributes, results)
    }

    fn from_host(&self, array: HostArrayRef<'_>) -> Result<Handle> {
        self.device.from_host(array)
    }

    fn retain(&self, tensor: Handle) -> Result<Handle> {
        self.device.retain(tensor)
    }

    fn release(&self, tensor: Handle) {
        self.device.release(tensor);
    }

    fn tensor_type(&self, tensor: Handle) -> Result<TensorType> {
        self.device.tensor_type(tensor)
    }

    fn eval(&self, tensors: &[Handle]) -> Result<()> {
        self.add(tensors)
    }

    fn host_view(&self, _: Handle) -> Result<RawHostView> {
        Err(no_memory())
    }

    fn host_view_mut(&self, _: Handle) -> Result<RawHostView> {
        Err(no_memory())
    }

    fn read(&self, tensor: Handle, _: Dtype, out: &mut [u8]) -> Result<()> {
        self.add(&[tensor])?;
        out.fill(0);
        Ok(())
    }

    fn write(&self, _: Handle, _: HostArrayRef<'_>) -> Result<()> {
        Ok(())
    }

    fn value_and_grad(
        &self,
        function: &mut TensorFunction<'_>,
        parameters: &[Handle],
        inputs: &[Handle],
    ) -> Result<ValueAndGrad> {
        self.device.value_and_grad(function, parameters, inputs)
    }

    fn checkpoint(&self, function: Rc<RecomputedFunction>, inputs: &[Handle]) -> Result<Vec<Handle>> {
        self.device.checkpoint(function, inputs)
    }

    fn memory(&self) -> MemoryInfo {
        self.device.memory()
    }

    fn placeholder(&self, tensor_type: &TensorType) -> Result<Option<Handle>> {
        self.device.placeholder(tensor_type)
    }

    fn plan(&self, tensors: &[Handle]) -> Result<Option<PlannedMemory>> {
        self.device.plan(tensors)
    }
}
