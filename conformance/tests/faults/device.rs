//! A device that conforms, with one fault.

use std::rc::Rc;

use mdt_conformance::Kind;
use mdt_plugin_api::op::compose;
use mdt_plugin_api::prelude::*;
use mdt_plugin_api::{
    Attribute, DeviceInfo, Handle, HostArrayRef, MemoryInfo, RawHostView, RecomputedFunction, TensorFunction,
    TensorType, ValueAndGrad,
};

/// Computes an operation wrongly on a device that computes it rightly.
pub type Spoil = fn(&Rc<dyn Compute>, &[Handle], &[Attribute<'_>]) -> Result<Tensor>;

/// A fault, and the kind of the cases that have to find it.
pub struct Fault {
    pub name: &'static str,
    /// The operation that is wrong; 0 for a method of the device.
    pub op: OpKind,
    pub found_by: Kind,
    pub spoil: Spoil,
}

/// `quantize` is composed of `round`, which is wrong then.
const ROUNDING_DOWN: Fault = Fault {
    name: "numbers are rounded down",
    op: OpKind::ROUND,
    found_by: Kind::Values,
    spoil: |device, inputs, attributes| call(device, OpKind::FLOOR, inputs, attributes),
};

/// A device with a fault, or without.
pub struct Faulty {
    pub device: Rc<dyn Compute>,
    pub fault: Option<&'static Fault>,
}

impl Faulty {
    fn has(&self, name: &str) -> bool {
        self.fault.is_some_and(|fault| fault.name == name)
    }
}

/// An operation done rightly, composed of others if need be.
pub fn call(device: &Rc<dyn Compute>, op: OpKind, inputs: &[Handle], attributes: &[Attribute<'_>]) -> Result<Tensor> {
    let mut result = [0];
    if device.op(op, inputs, attributes, &mut result).is_err() {
        compose(device, op, inputs, attributes, &mut result)?;
    }
    Ok(Tensor::from_handle(device, result[0]))
}

impl Compute for Faulty {
    fn op(&self, op: OpKind, inputs: &[Handle], attributes: &[Attribute<'_>], results: &mut [Handle]) -> Result<()> {
        let Some(fault) = self.fault.filter(|fault| fault.op == op && op.0 != 0) else {
            return self.device.op(op, inputs, attributes, results);
        };
        // What is refused is refused here too.
        let types: Vec<_> = inputs.iter().map(|&handle| self.device.tensor_type(handle).ok()).collect();
        let types: Vec<_> = types.iter().map(Option::as_ref).collect();
        let inferred = op.definition().expect("a known operation").infer(&types, attributes)?;
        if inferred.len() != results.len() {
            return Err(Error::plugin("another number of results"));
        }
        if op == OpKind::QUANTIZE {
            let rounding_down = Rc::new(Self { device: Rc::clone(&self.device), fault: Some(&ROUNDING_DOWN) });
            return compose(&(rounding_down as Rc<dyn Compute>), op, inputs, attributes, results);
        }
        results[0] = (fault.spoil)(&self.device, inputs, attributes)?.into_handle()?;
        Ok(())
    }

    fn read(&self, tensor: Handle, dtype: Dtype, out: &mut [u8]) -> Result<()> {
        if !self.has("reading truncates") || dtype != Dtype::BF16 || self.tensor_type(tensor)?.dtype != Dtype::F32 {
            return self.device.read(tensor, dtype, out);
        }
        let mut whole = vec![0; 2 * out.len()];
        self.device.read(tensor, Dtype::F32, &mut whole)?;
        for (half, bytes) in out.chunks_exact_mut(2).zip(whole.chunks_exact(4)) {
            let bits = u32::from_ne_bytes(bytes.try_into().expect("four bytes"));
            half.copy_from_slice(&((bits >> 16) as u16).to_ne_bytes());
        }
        Ok(())
    }

    fn write(&self, tensor: Handle, array: HostArrayRef<'_>) -> Result<()> {
        if self.has("writing another shape does nothing") && self.tensor_type(tensor)?.shape != array.shape {
            return Ok(());
        }
        self.device.write(tensor, array)
    }

    fn value_and_grad(
        &self,
        function: &mut TensorFunction<'_>,
        parameters: &[Handle],
        inputs: &[Handle],
    ) -> Result<ValueAndGrad> {
        let mut result = self.device.value_and_grad(function, parameters, inputs)?;
        if self.has("an unused parameter has no gradient") {
            let numbers = |gradient| Tensor::borrowed(&self.device, gradient).to_vec::<f64>();
            result
                .gradients
                .retain(|&gradient| numbers(gradient).is_ok_and(|numbers| numbers.iter().any(|&x| x != 0.0)));
        }
        Ok(result)
    }

    fn checkpoint(&self, function: Rc<RecomputedFunction>, inputs: &[Handle]) -> Result<Vec<Handle>> {
        let results = self.device.checkpoint(function, inputs)?;
        if !self.has("a checkpoint stops the gradient") {
            return Ok(results);
        }
        results
            .into_iter()
            .map(|handle| call(&self.device, OpKind::STOP_GRADIENT, &[handle], &[])?.into_handle())
            .collect()
    }

    fn device(&self) -> DeviceInfo {
        self.device.device()
    }

    fn supports(&self, op: OpKind, attributes: &[&str], dtype: Dtype) -> bool {
        self.device.supports(op, attributes, dtype)
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
        self.device.eval(tensors)
    }

    fn host_view(&self, tensor: Handle) -> Result<RawHostView> {
        self.device.host_view(tensor)
    }

    fn host_view_mut(&self, tensor: Handle) -> Result<RawHostView> {
        self.device.host_view_mut(tensor)
    }

    fn memory(&self) -> MemoryInfo {
        self.device.memory()
    }
}
