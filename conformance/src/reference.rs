//! A device that computes in f64 what the table says, as simply as possible: what others are compared with.

use std::cell::{Cell, RefCell};
use std::collections::HashMap;
use std::rc::Rc;

use mdt_plugin_api::op::{Attributes, compose};
use mdt_plugin_api::{
    Attribute, Compute, DeviceInfo, Dtype, Error, Handle, HostArrayRef, MemoryInfo, OpKind, RawHostView,
    RecomputedFunction, Result, TensorFunction, TensorType, ValueAndGrad,
};

use crate::array::{Array, Number, rounded};
use crate::primitives;

/// The primitives, on arrays in host memory. Results of a floating-point type are kept unrounded, so that an error is measured
/// against the true value; a composition is what [`compose`] makes of the primitives.
#[derive(Default)]
pub struct Reference {
    arrays: RefCell<HashMap<Handle, Rc<Array>>>,
    last: Cell<Handle>,
    /// Whether results are rounded to their types and calls are checked, as a device does it.
    is_device: bool,
}

impl Reference {
    /// A device without gradients, to try the kit on.
    #[cfg(test)]
    pub fn device() -> Self {
        Self { is_device: true, ..Self::default() }
    }

    /// The results of an operation.
    ///
    /// # Errors
    /// Inputs or attributes that the table does not allow.
    pub fn evaluate(
        self: &Rc<Self>,
        op: OpKind,
        inputs: &[Option<&Array>],
        attributes: &[Attribute<'_>],
    ) -> Result<Vec<Array>> {
        if let Some(operands) = Attributes::new(attributes).optional("operands")? {
            return self.of_rounded(operands, op, inputs, attributes);
        }
        let results = op.definition().map_or(1, |definition| definition.results);
        if let Some(result) = primitives::directly(op, inputs, attributes) {
            return Ok(vec![result?]);
        }
        let handles: Vec<_> = inputs.iter().map(|input| input.map_or(0, |array| self.insert(array.clone()))).collect();
        let mut slots = vec![0; results];
        let outcome = if op.definition().is_some_and(|definition| definition.is_primitive) {
            self.op(op, &handles, attributes, &mut slots)
        } else {
            compose(&(Rc::clone(self) as Rc<dyn Compute>), op, &handles, attributes, &mut slots)
        };
        let arrays = outcome.and_then(|()| slots.iter().map(|&slot| Ok((*self.get(slot)?).clone())).collect());
        self.arrays.borrow_mut().clear();
        arrays
    }

    /// A product whose operands, the first two inputs, are rounded to a type. The result has the type of the first one.
    fn of_rounded(
        self: &Rc<Self>,
        operands: Dtype,
        op: OpKind,
        inputs: &[Option<&Array>],
        attributes: &[Attribute<'_>],
    ) -> Result<Vec<Array>> {
        if op == OpKind::QUANTIZED_LINEAR {
            let packing: Vec<_> = attributes.iter().filter(|attribute| attribute.name != "operands").copied().collect();
            let weight = self.evaluate(OpKind::DEQUANTIZE, &inputs[1..4], &packing)?.remove(0);
            let inputs: Vec<_> = [inputs[0], Some(&weight)].into_iter().chain(inputs.get(4).copied()).collect();
            return self.of_rounded(operands, OpKind::LINEAR, &inputs, &[]);
        }
        let round = |array: &Array| array.map(array.dtype, |x| Number::Real(rounded(operands, x.real())));
        let operands: Vec<_> = inputs.iter().take(2).map(|input| input.map(round)).collect();
        let inputs: Vec<_> = operands.iter().map(Option::as_ref).chain(inputs.iter().skip(2).copied()).collect();
        let others: Vec<_> = attributes.iter().filter(|attribute| attribute.name != "operands").copied().collect();
        let mut results = self.evaluate(op, &inputs, &others)?;
        if let (Some(first), true) = (inputs[0], op != OpKind::TOKEN_LOSSES) {
            results.iter_mut().for_each(|result| result.dtype = first.dtype);
        }
        Ok(results)
    }

    fn get(&self, tensor: Handle) -> Result<Rc<Array>> {
        let found = self.arrays.borrow().get(&tensor).cloned();
        found.ok_or_else(|| Error::plugin(format!("there is no tensor {tensor}")))
    }

    fn insert(&self, array: Array) -> Handle {
        self.last.set(self.last.get() + 1);
        self.arrays.borrow_mut().insert(self.last.get(), Rc::new(array));
        self.last.get()
    }
}

impl Compute for Reference {
    fn device(&self) -> DeviceInfo {
        let [kind, name, library] = ["cpu", "reference", "none"].map(str::to_owned);
        DeviceInfo { kind, name, library, threads: 1, ..DeviceInfo::default() }
    }

    fn supports(&self, op: OpKind, attributes: &[&str], _dtype: Dtype) -> bool {
        op.definition().is_some_and(|definition| definition.is_primitive) && !attributes.contains(&"operands")
    }

    fn op(&self, op: OpKind, inputs: &[Handle], attributes: &[Attribute<'_>], results: &mut [Handle]) -> Result<()> {
        // An attribute that is passed over would give other numbers; the operation is composed without it.
        if let Some(attribute) = attributes.iter().find(|attribute| attribute.name == "operands") {
            return Err(Error::plugin(format!("{} has no attribute `{}` here", op.name(), attribute.name)));
        }
        let inputs = inputs.iter().map(|&tensor| self.get(tensor)).collect::<Result<Vec<_>>>()?;
        let inputs: Vec<&Array> = inputs.iter().map(|array| &**array).collect();
        if let Some(definition) = op.definition().filter(|_| self.is_device) {
            let types: Vec<_> = inputs.iter().map(|array| array.tensor_type()).collect();
            definition.infer(&types.iter().map(Some).collect::<Vec<_>>(), attributes)?;
        }
        let result = primitives::apply(op, &inputs, &Attributes::new(attributes))?;
        let [slot] = results else { return Err(Error::plugin(format!("{} gives 1 result", op.name()))) };
        *slot =
            self.insert(if self.is_device { Array::from_bytes(result.tensor_type(), &result.bytes()) } else { result });
        Ok(())
    }

    fn from_host(&self, array: HostArrayRef<'_>) -> Result<Handle> {
        let tensor_type = TensorType { shape: array.shape.to_vec(), dtype: array.dtype };
        Ok(self.insert(Array::from_bytes(tensor_type, array.bytes)))
    }

    fn retain(&self, tensor: Handle) -> Result<Handle> {
        Ok(self.insert((*self.get(tensor)?).clone()))
    }

    fn release(&self, tensor: Handle) {
        self.arrays.borrow_mut().remove(&tensor);
    }

    fn tensor_type(&self, tensor: Handle) -> Result<TensorType> {
        Ok(self.get(tensor)?.tensor_type())
    }

    fn eval(&self, tensors: &[Handle]) -> Result<()> {
        tensors.iter().try_for_each(|&tensor| self.get(tensor).map(drop))
    }

    fn host_view(&self, _tensor: Handle) -> Result<RawHostView> {
        Err(Error::plugin("the reference shares no memory"))
    }

    fn host_view_mut(&self, tensor: Handle) -> Result<RawHostView> {
        self.host_view(tensor)
    }

    fn read(&self, tensor: Handle, dtype: Dtype, out: &mut [u8]) -> Result<()> {
        let array = self.get(tensor)?;
        let bytes = array.map(dtype, |element| element.cast(dtype)).bytes();
        if bytes.len() != out.len() {
            return Err(Error::plugin(format!("{} bytes are not read into {}", bytes.len(), out.len())));
        }
        out.copy_from_slice(&bytes);
        Ok(())
    }

    fn write(&self, tensor: Handle, array: HostArrayRef<'_>) -> Result<()> {
        let tensor_type = self.tensor_type(tensor)?;
        self.arrays.borrow_mut().insert(tensor, Rc::new(Array::from_bytes(tensor_type, array.bytes)));
        Ok(())
    }

    fn value_and_grad(&self, _: &mut TensorFunction<'_>, _: &[Handle], _: &[Handle]) -> Result<ValueAndGrad> {
        Err(Error::plugin("the reference has no gradients: they are compared with differences of its values"))
    }

    fn checkpoint(&self, function: Rc<RecomputedFunction>, inputs: &[Handle]) -> Result<Vec<Handle>> {
        function(inputs)
    }

    fn memory(&self) -> MemoryInfo {
        MemoryInfo::default()
    }
}
