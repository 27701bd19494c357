//! A device for f32 in host memory, with three operations.

use std::cell::{Cell, RefCell};
use std::collections::BTreeMap;
use std::rc::Rc;

use mdt_plugin_api::op::attribute;
use mdt_plugin_api::prelude::*;
use mdt_plugin_api::{
    Attribute, DeviceInfo, Handle, HostArrayRef, MemoryInfo, PlannedMemory, RawHostView, RecomputedFunction,
    TensorFunction, TensorType, Value, ValueAndGrad,
};

use super::faults::Faults;
use super::recorder::Recorder;
use super::source::Source;

/// Tensors by their handles.
pub struct Slab {
    faults: Faults,
    tensors: RefCell<BTreeMap<Handle, Rc<Stored>>>,
    last: Cell<Handle>,
}

struct Stored {
    shape: Vec<usize>,
    elements: RefCell<Vec<f32>>,
}

impl Component for Slab {
    type Config = Faults;

    fn create(faults: Faults, setup: &Setup) -> Result<Self> {
        faults.at("create")?;
        // All that a component is given.
        let Setup { services, seed, threads, model_path, model_config, source, tokenizer, max_seq_len } = setup;
        let tokenizer = tokenizer.is_some();
        services.log(
            LogLevel::Debug,
            &format!("{seed} {threads} {model_path:?} {model_config} {source} {tokenizer} {max_seq_len}"),
        );
        services.log(LogLevel::Warn, "ä");
        services.metric("created", 0.1);
        services.log(LogLevel::Info, if services.cancelled() { "cancelled" } else { "not cancelled" });
        Ok(Self { faults, tensors: RefCell::default(), last: Cell::new(0) })
    }
}

impl Drop for Slab {
    fn drop(&mut self) {
        self.faults.panic_at("drop");
    }
}

impl Slab {
    fn get(&self, tensor: Handle) -> Result<Rc<Stored>> {
        let found = self.tensors.borrow().get(&tensor).cloned();
        found.ok_or_else(|| Error::plugin(format!("there is no tensor {tensor}")))
    }

    fn add(&self, tensor: Rc<Stored>) -> Handle {
        self.last.set(self.last.get() + 1);
        self.tensors.borrow_mut().insert(self.last.get(), tensor);
        self.last.get()
    }

    fn add_new(&self, shape: &[usize], elements: Vec<f32>) -> Handle {
        self.add(Rc::new(Stored { shape: shape.to_vec(), elements: RefCell::new(elements) }))
    }

    fn view(&self, tensor: &Stored) -> RawHostView {
        let data = tensor.elements.borrow_mut().as_mut_ptr().cast();
        let mut stride = 1;
        let mut strides: Vec<isize> = tensor
            .shape
            .iter()
            .rev()
            .map(|&length| {
                let stride_of_axis = stride;
                stride *= length as isize;
                stride_of_axis
            })
            .collect();
        strides.reverse();
        RawHostView { data, dtype: Dtype::F32, shape: tensor.shape.clone(), strides }
    }
}

fn elements_of(array: HostArrayRef<'_>) -> Result<Vec<f32>> {
    if array.dtype != Dtype::F32 {
        return Err(Error::plugin(format!("there are no tensors of {} here", array.dtype)));
    }
    let element = |bytes: &[u8]| f32::from_ne_bytes([bytes[0], bytes[1], bytes[2], bytes[3]]);
    Ok(array.bytes.chunks_exact(4).map(element).collect())
}

impl Compute for Slab {
    fn device(&self) -> DeviceInfo {
        self.faults.panic_at("device");
        let [kind, name, library] = ["cpu", "slab", "none"].map(str::to_owned);
        DeviceInfo { kind, name, library, unified_memory: true, threads: 1, ..DeviceInfo::default() }
    }

    fn supports(&self, op: OpKind, attributes: &[&str], dtype: Dtype) -> bool {
        self.faults.panic_at("supports");
        matches!(op, OpKind::ADD | OpKind::MULTIPLY | OpKind::SUM | OpKind::FULL)
            && (attributes.is_empty() || op == OpKind::FULL && attributes == ["shape", "value", "dtype"])
            && dtype == Dtype::F32
    }

    fn op(&self, op: OpKind, inputs: &[Handle], attributes: &[Attribute<'_>], results: &mut [Handle]) -> Result<()> {
        self.faults.at("op")?;
        if let (OpKind::FULL, [shape, value, _]) = (op, attributes) {
            let (Value::Ints(shape), Value::Float(value)) = (shape.value, value.value) else {
                return Err(Error::plugin(format!("full of {attributes:?}")));
            };
            let shape: Vec<usize> = shape.iter().map(|&length| length as usize).collect();
            results[0] = self.add_new(&shape, vec![value as f32; shape.iter().product()]);
            return Ok(());
        }
        if !attributes.is_empty() {
            return Err(Error::plugin(format!("{op:?} does not have {attributes:?}")));
        }
        let inputs = inputs.iter().map(|&tensor| self.get(tensor)).collect::<Result<Vec<_>>>()?;
        results[0] = match (op, &inputs[..]) {
            (OpKind::SUM, [x]) => self.add_new(&[], vec![x.elements.borrow().iter().sum()]),
            (OpKind::ADD | OpKind::MULTIPLY, [x, y]) => {
                let (left, right) = (x.elements.borrow(), y.elements.borrow());
                // The second may be one number.
                let pairs = left.iter().zip(right.iter().cycle());
                let elements = pairs.map(|(a, b)| if op == OpKind::ADD { a + b } else { a * b }).collect();
                self.add_new(&x.shape, elements)
            }
            _ => return Err(Error::plugin(format!("there is no {op:?} of {} tensors", inputs.len()))),
        };
        Ok(())
    }

    fn from_host(&self, array: HostArrayRef<'_>) -> Result<Handle> {
        self.faults.at("from_host")?;
        Ok(self.add_new(array.shape, elements_of(array)?))
    }

    fn retain(&self, tensor: Handle) -> Result<Handle> {
        self.faults.at("retain")?;
        Ok(self.add(self.get(tensor)?))
    }

    fn release(&self, tensor: Handle) {
        self.faults.panic_at("release");
        self.tensors.borrow_mut().remove(&tensor);
    }

    fn tensor_type(&self, tensor: Handle) -> Result<TensorType> {
        self.faults.at("tensor_type")?;
        Ok(TensorType { shape: self.get(tensor)?.shape.clone(), dtype: Dtype::F32 })
    }

    fn eval(&self, tensors: &[Handle]) -> Result<()> {
        self.faults.at("eval")?;
        tensors.iter().try_for_each(|&tensor| self.get(tensor).map(drop))
    }

    fn host_view(&self, tensor: Handle) -> Result<RawHostView> {
        self.faults.at("host_view")?;
        Ok(self.view(&*self.get(tensor)?))
    }

    fn host_view_mut(&self, tensor: Handle) -> Result<RawHostView> {
        self.faults.at("host_view_mut")?;
        let found = self.get(tensor)?;
        match Rc::strong_count(&found) {
            2 => Ok(self.view(&found)),
            _ => Err(Error::plugin("another tensor has the same memory")),
        }
    }

    fn read(&self, tensor: Handle, dtype: Dtype, out: &mut [u8]) -> Result<()> {
        self.faults.at("read")?;
        // SAFETY: the view is of a tensor that lives until the end of the function.
        unsafe { self.view(&*self.get(tensor)?).copy_to(dtype, out) }
    }

    fn write(&self, tensor: Handle, array: HostArrayRef<'_>) -> Result<()> {
        self.faults.at("write")?;
        let (found, elements) = (self.get(tensor)?, elements_of(array)?);
        if array.shape != found.shape {
            return Err(Error::plugin(format!("{:?} cannot be written to {:?}", array.shape, found.shape)));
        }
        *found.elements.borrow_mut() = elements;
        Ok(())
    }

    /// Gradients as if the value were the sum of the parameters' squares.
    fn value_and_grad(
        &self,
        function: &mut TensorFunction<'_>,
        parameters: &[Handle],
        inputs: &[Handle],
    ) -> Result<ValueAndGrad> {
        self.faults.at("value_and_grad")?;
        let values = function(parameters, inputs)?;
        let double = |&parameter: &Handle| {
            let found = self.get(parameter)?;
            let elements = found.elements.borrow().iter().map(|element| 2.0 * element).collect();
            Ok(self.add_new(&found.shape, elements))
        };
        Ok(ValueAndGrad { values, gradients: parameters.iter().map(double).collect::<Result<_>>()? })
    }

    fn checkpoint(&self, function: Rc<RecomputedFunction>, inputs: &[Handle]) -> Result<Vec<Handle>> {
        self.faults.at("checkpoint")?;
        function(inputs)?.into_iter().for_each(|tensor| self.release(tensor));
        function(inputs)
    }

    fn memory(&self) -> MemoryInfo {
        self.faults.panic_at("memory");
        MemoryInfo { active_bytes: self.tensors.borrow().len() as u64, peak_bytes: 1 << 40, cached_bytes: 0 }
    }

    fn placeholder(&self, TensorType { shape, dtype }: &TensorType) -> Result<Option<Handle>> {
        self.faults.at("placeholder")?;
        if *dtype != Dtype::F32 {
            return Ok(None);
        }
        self.from_host(HostArrayRef::of(shape, &vec![0.0f32; shape.iter().product()])).map(Some)
    }

    fn plan(&self, tensors: &[Handle]) -> Result<Option<PlannedMemory>> {
        self.faults.at("plan")?;
        Ok(tensors.first().map(|&first| PlannedMemory { peak_bytes: first }))
    }
}

/// Numbers as a tensor.
pub fn tensor(compute: &Rc<dyn Compute>, numbers: &[f32]) -> Result<Tensor> {
    Tensor::from_host(compute, &HostArray::new(&[numbers.len()], numbers)?)
}

/// The methods that may fail.
pub const METHODS: &[&str] = &[
    "device",
    "supports",
    "from_host",
    "op",
    "retain",
    "tensor_type",
    "eval",
    "host_view",
    "host_view_mut",
    "read",
    "write",
    "value_and_grad",
    "checkpoint",
    "placeholder",
    "plan",
    "memory",
    "release",
];

/// Those of `compute.plan/1`.
pub const PLANNING: &[&str] = &["placeholder", "plan"];

/// Calls each method.
pub fn exercise(recorder: &mut Recorder, source: &Source) {
    let (config, setup) = (recorder.config(), recorder.setup());
    let Some(compute) = recorder.make("create", |_| String::new(), || source.compute(&config, &setup)) else { return };
    calls(recorder, &compute);
    recorder.drop("drop", compute);
}

fn calls(recorder: &mut Recorder, compute: &Rc<dyn Compute>) -> Option<()> {
    let next = || compute.eval(&[]);
    recorder.call_infallible("device", || compute.device(), next);
    for (op, attributes) in [(OpKind::ADD, &[][..]), (OpKind::ADD, &["axis"]), (OpKind(9_999), &[])] {
        recorder.call_infallible("supports", || compute.supports(op, attributes, Dtype::F32), next);
    }
    let x = recorder.call("from_host", || compute.from_host(HostArrayRef::of(&[2, 2], &[1.0f32, 2.0, 3.0, 4.0])))?;
    recorder.call("from_host", || compute.from_host(HostArrayRef::of(&[1], &[1u8])));
    let mut sum = [0];
    recorder.call("op", || {
        compute.op(OpKind::ADD, &[x, x], &[], &mut sum)?;
        Ok(sum)
    })?;
    let every_value = [
        attribute("truth", Value::Bool(true)),
        attribute("integer", Value::Int(-1)),
        attribute("real", Value::Float(0.1)),
        attribute("integers", Value::Ints(&[1, -2])),
        attribute("dtype", Value::Dtype(Dtype::BF16)),
        attribute("text", Value::Text("ä")),
        attribute("reals", Value::Floats(&[0.5, f64::INFINITY])),
    ];
    let doubled: Vec<_> = every_value.iter().chain(&every_value).copied().collect();
    for attributes in [&every_value[..], &doubled] {
        recorder.call("op", || compute.op(OpKind::ADD, &[x, x], attributes, &mut [0]));
    }
    recorder.call("op", || compute.op(OpKind(9_999), &[x], &[], &mut [0]));
    let second = recorder.call("retain", || compute.retain(x))?;
    recorder.call("tensor_type", || compute.tensor_type(second));
    recorder.call("tensor_type", || compute.tensor_type(9_999));
    recorder.call("eval", || compute.eval(&[x, second, sum[0]]));
    // Before any view: what releases a handle when it is dropped can report no panic.
    let third = recorder.call("retain", || compute.retain(x))?;
    recorder.call_infallible("release", || compute.release(third), next);
    let [mut first, of_sum] = [x, sum[0]].map(|handle| Tensor::borrowed(compute, handle));
    recorder.call("host_view", || {
        let view = of_sum.host_view()?;
        Ok((view.shape().to_vec(), view.dtype(), view.as_slice::<f32>()?.to_vec()))
    });
    recorder.call("host_view_mut", || first.host_view_mut().map(drop));
    recorder.call_infallible("release", || compute.release(second), next);
    recorder.call("host_view_mut", || {
        first.host_view_mut()?.as_mut_slice::<f32>()?[3] = -4.0;
        Ok(())
    });
    recorder.call("read", || first.to_vec::<f64>());
    recorder.call("write", || compute.write(x, HostArrayRef::of(&[2, 2], &[0.5f32; 4])));
    recorder.call("write", || compute.write(x, HostArrayRef::of(&[1], &[0.5f32])));
    recorder.call("read", || first.to_vec::<f32>());
    for outcome in ["value", "error", "panic"] {
        recorder.call("value_and_grad", || {
            let mut function = |parameters: &[Handle], inputs: &[Handle]| match outcome {
                "error" => Err(Error::input("no value").with("parameters", parameters.len())),
                "panic" => panic!("the function of the host panics"),
                _ => Ok(vec![compute.retain(parameters[0])?, compute.retain(inputs[0])?]),
            };
            let ValueAndGrad { values, gradients } = compute.value_and_grad(&mut function, &[x], &[sum[0]])?;
            let numbers = |handle| Tensor::from_handle(compute, handle).to_vec::<f32>();
            values.into_iter().chain(gradients).map(numbers).collect::<Result<Vec<_>>>()
        });
    }
    for fails in [false, true] {
        recorder.call("checkpoint", || {
            let on = Rc::clone(compute);
            let function = move |inputs: &[Handle]| match fails {
                true => Err(Error::input("no value")),
                false => Ok(vec![on.retain(inputs[0])?]),
            };
            let results = compute.checkpoint(Rc::new(function), &[x])?;
            results
                .into_iter()
                .map(|handle| Tensor::from_handle(compute, handle).to_vec::<f32>())
                .collect::<Result<Vec<_>>>()
        });
    }
    for dtype in [Dtype::F32, Dtype::BF16] {
        let tensor_type = TensorType { shape: vec![2, 1], dtype };
        recorder.call("placeholder", || {
            let placeholder = compute.placeholder(&tensor_type)?.map(|handle| Tensor::from_handle(compute, handle));
            placeholder.map(|tensor| tensor.shape()).transpose()
        });
    }
    for tensors in [&[x][..], &[]] {
        recorder.call("plan", || compute.plan(tensors));
    }
    recorder.call_infallible("memory", || compute.memory(), next);
    Some(())
}
