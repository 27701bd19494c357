//! Compute and model.

use std::rc::Rc;

use mdt_plugin_api::prelude::*;
use mdt_plugin_api::{
    Attribute, DeviceInfo, Handle, HostArrayRef, MemoryInfo, RawHostView, RecomputedFunction, TensorFunction,
    TensorType, ValueAndGrad,
};

use super::Wrapped;

impl Compute for Wrapped<Rc<dyn Compute>> {
    fn device(&self) -> DeviceInfo {
        self.at("device").device()
    }

    fn supports(&self, op: OpKind, attributes: &[&str], dtype: Dtype) -> bool {
        self.at("supports").supports(op, attributes, dtype)
    }

    fn op(&self, op: OpKind, inputs: &[Handle], attributes: &[Attribute<'_>], results: &mut [Handle]) -> Result<()> {
        self.at("op").op(op, inputs, attributes, results)
    }

    fn from_host(&self, array: HostArrayRef<'_>) -> Result<Handle> {
        self.at("from_host").from_host(array)
    }

    fn retain(&self, tensor: Handle) -> Result<Handle> {
        self.at("retain").retain(tensor)
    }

    fn release(&self, tensor: Handle) {
        self.at("release").release(tensor);
    }

    fn tensor_type(&self, tensor: Handle) -> Result<TensorType> {
        self.at("tensor_type").tensor_type(tensor)
    }

    fn eval(&self, tensors: &[Handle]) -> Result<()> {
        self.at("eval").eval(tensors)
    }

    fn host_view(&self, tensor: Handle) -> Result<RawHostView> {
        self.at("host_view").host_view(tensor)
    }

    fn host_view_mut(&self, tensor: Handle) -> Result<RawHostView> {
        self.at("host_view_mut").host_view_mut(tensor)
    }

    fn read(&self, tensor: Handle, dtype: Dtype, out: &mut [u8]) -> Result<()> {
        self.at("read").read(tensor, dtype, out)
    }

    fn write(&self, tensor: Handle, array: HostArrayRef<'_>) -> Result<()> {
        self.at("write").write(tensor, array)
    }

    fn value_and_grad(
        &self,
        function: &mut TensorFunction<'_>,
        parameters: &[Handle],
        inputs: &[Handle],
    ) -> Result<ValueAndGrad> {
        self.at("value_and_grad").value_and_grad(function, parameters, inputs)
    }

    fn checkpoint(&self, function: Rc<RecomputedFunction>, inputs: &[Handle]) -> Result<Vec<Handle>> {
        self.at("checkpoint").checkpoint(function, inputs)
    }

    fn memory(&self) -> MemoryInfo {
        self.at("memory").memory()
    }
}

impl Model for Wrapped<Rc<dyn Model>> {
    fn spec(&self) -> ModelSpec {
        self.at("spec").spec()
    }

    fn hidden(&self, ctx: &ModelContext, tokens: &Tensor) -> Result<Tensor> {
        self.at("hidden").hidden(ctx, tokens)
    }
}
