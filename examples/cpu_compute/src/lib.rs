//! A compute plugin in plain Rust for `mdt-host`, small enough to read in an evening: tensors in the memory of the host, each
//! operation computed at once by loops.
//!
//! `array` has the elements, `walk` the loops over shapes and what only moves elements, `kernels` and `matmul` the arithmetic.
//! `ops` is one function, from an operation of the table (`mdt_plugin_api::op`) to its kernel: of primitives only, whose inputs
//! `Definition::infer` has checked. The plugin API composes all other operations of these, because `supports` says that they are
//! missing here. `gradient` records operations inside of `value_and_grad` and goes through them backwards, with the gradients of
//! primitives that the plugin API has (`mdt_plugin_api::op::Recorded`). This file has what the host holds: handles.

mod array;
mod gradient;
mod kernels;
mod matmul;
mod ops;
mod walk;

use std::cell::{Cell, RefCell};
use std::collections::BTreeMap;
use std::rc::Rc;

use mdt_plugin_api::prelude::*;
use mdt_plugin_api::{
    Attribute, DeviceInfo, Handle, HostArrayRef, MemoryInfo, RawHostView, RecomputedFunction, TensorFunction,
    TensorType, ValueAndGrad,
};

use array::Array;
use gradient::{Tape, Variable};

mdt_plugin_api::config! {
    /// Keys of the compute component `cpu`.
    pub struct Config {
        /// Where tensors live: `cpu`, or `auto`, which is the same here.
        device: String = "auto".to_owned(),
        /// Threads for matrix products; 0 leaves the number to the host. It changes no bit of the results.
        threads: usize = 0,
    }
}

/// The processor as a device. A clone is the same device.
#[derive(Clone)]
pub struct Cpu {
    threads: usize,
    state: Rc<State>,
}

#[derive(Default)]
struct State {
    /// Live tensors. A handle is never used again, so one that was given back never names a later tensor.
    tensors: RefCell<BTreeMap<Handle, Variable>>,
    /// The handle that was given last.
    last: Cell<Handle>,
    /// How many of the host's functions are being called.
    depth: Cell<usize>,
    tape: Tape,
}

impl Component for Cpu {
    type Config = Config;

    fn create(config: Config, setup: &Setup) -> Result<Self> {
        if !matches!(config.device.as_str(), "auto" | "cpu") {
            return Err(Error::config(format!("compute.device = {:?}: this component has `cpu` only", config.device)));
        }
        let threads = if config.threads == 0 { setup.threads } else { config.threads };
        Ok(Self { threads: threads.max(1), state: Rc::default() })
    }
}

impl Cpu {
    fn insert(&self, mut variable: Variable) -> Handle {
        variable.number = variable.number.filter(|_| self.state.tape.is_recording.get());
        let handle = self.state.last.get() + 1;
        self.state.last.set(handle);
        self.state.tensors.borrow_mut().insert(handle, variable);
        handle
    }

    fn get(&self, handle: Handle) -> Result<Variable> {
        self.state.tensors.borrow().get(&handle).cloned().ok_or_else(|| {
            Error::plugin(format!("tensor handle {handle} is not alive")).help(
                "a tensor is valid until it is released, and one made inside value_and_grad until that call returns",
            )
        })
    }

    fn all(&self, handles: &[Handle]) -> Result<Vec<Variable>> {
        handles.iter().map(|&handle| self.get(handle)).collect()
    }

    /// Refuses to read values while a function is recorded: other devices do not have them yet.
    fn outside_of_recording(&self, call: &str) -> Result<()> {
        if self.state.depth.get() > 0 {
            return Err(Error::plugin(format!("{call} is not possible inside value_and_grad"))
                .help("the function is only being recorded there: return the tensor, and read it afterwards"));
        }
        Ok(())
    }

    /// Calls a function of the host's on handles of its own; all that are made meanwhile are released after it.
    fn call(
        &self,
        inputs: &[Variable],
        is_recorded: bool,
        function: impl FnOnce(&[Handle]) -> Result<Vec<Handle>>,
    ) -> Result<Vec<Variable>> {
        let state = &self.state;
        let (first, was_recording) = (state.last.get() + 1, state.tape.is_recording.replace(is_recorded));
        state.depth.update(|depth| depth + 1);
        let handles: Vec<Handle> = inputs.iter().map(|input| self.insert(input.clone())).collect();
        let results = function(&handles).and_then(|results| self.all(&results));
        let released = state.tensors.borrow_mut().split_off(&first);
        drop(released);
        state.depth.update(|depth| depth - 1);
        state.tape.is_recording.set(was_recording);
        results
    }
}

fn view(array: &Array) -> RawHostView {
    let TensorType { shape, dtype } = (**array).clone();
    let strides = walk::row_major(&shape).into_iter().map(|stride| stride as isize).collect();
    RawHostView { data: array.pointer(), dtype, shape, strides }
}

fn copied(array: HostArrayRef<'_>) -> Result<Array> {
    array.check()?;
    Ok(Array::from_bytes(&TensorType { shape: array.shape.to_vec(), dtype: array.dtype }, array.bytes))
}

impl Compute for Cpu {
    fn device(&self) -> DeviceInfo {
        DeviceInfo {
            kind: "cpu".to_owned(),
            name: std::env::consts::ARCH.to_owned(),
            library: format!("cpu_compute {}", env!("CARGO_PKG_VERSION")),
            unified_memory: true,
            threads: self.threads,
            ..DeviceInfo::default()
        }
    }

    fn supports(&self, op: OpKind, attributes: &[&str], dtype: Dtype) -> bool {
        ops::supports(op, attributes.iter().copied(), dtype)
    }

    fn op(&self, op: OpKind, inputs: &[Handle], attributes: &[Attribute<'_>], results: &mut [Handle]) -> Result<()> {
        let inputs = self.all(inputs).map_err(|error| error.with("operation", op.name()))?;
        let result = self.apply(op, inputs, attributes)?;
        let [slot] = results else {
            return Err(Error::plugin(format!("operation {} gives 1 result, not {}", op.name(), results.len())));
        };
        *slot = self.insert(result);
        Ok(())
    }

    fn from_host(&self, array: HostArrayRef<'_>) -> Result<Handle> {
        Ok(self.insert(copied(array)?.into()))
    }

    fn retain(&self, tensor: Handle) -> Result<Handle> {
        Ok(self.insert(self.get(tensor)?))
    }

    fn release(&self, tensor: Handle) {
        let released = self.state.tensors.borrow_mut().remove(&tensor);
        drop(released);
    }

    fn tensor_type(&self, tensor: Handle) -> Result<TensorType> {
        Ok((*self.get(tensor)?.array).clone())
    }

    fn eval(&self, tensors: &[Handle]) -> Result<()> {
        self.outside_of_recording("eval")?;
        self.all(tensors).map(drop)
    }

    fn host_view(&self, tensor: Handle) -> Result<RawHostView> {
        self.outside_of_recording("reading a tensor's values")?;
        Ok(view(&self.get(tensor)?.array))
    }

    fn host_view_mut(&self, tensor: Handle) -> Result<RawHostView> {
        self.outside_of_recording("writing a tensor's values")?;
        let array = self.get(tensor)?.array;
        // In the table and here.
        if array.owners() > 2 {
            return Err(Error::plugin(
                "a tensor cannot be written to in place: another handle or a reshape has its memory",
            )
            .with("shape", format!("{:?}", array.shape)));
        }
        Ok(view(&array))
    }

    fn read(&self, tensor: Handle, dtype: Dtype, out: &mut [u8]) -> Result<()> {
        self.outside_of_recording("reading a tensor's values")?;
        let array = self.get(tensor)?.array;
        // SAFETY: the view is of this array, which is alive.
        unsafe { view(&array).copy_to(dtype, out) }
    }

    fn write(&self, tensor: Handle, array: HostArrayRef<'_>) -> Result<()> {
        self.outside_of_recording("writing a tensor's values")?;
        let (of, new) = (self.tensor_type(tensor)?, copied(array)?);
        if of != *new {
            return Err(Error::plugin(format!("a tensor of {of:?} cannot take elements of {:?}", *new)));
        }
        self.state.tensors.borrow_mut().insert(tensor, new.into());
        Ok(())
    }

    fn checkpoint(&self, function: Rc<RecomputedFunction>, inputs: &[Handle]) -> Result<Vec<Handle>> {
        let results = self.recomputed(function, self.all(inputs)?)?;
        Ok(results.into_iter().map(|variable| self.insert(variable)).collect())
    }

    fn value_and_grad(
        &self,
        function: &mut TensorFunction<'_>,
        parameters: &[Handle],
        inputs: &[Handle],
    ) -> Result<ValueAndGrad> {
        let start = self.state.tape.length();
        let result = self.differentiate(function, &self.all(parameters)?, &self.all(inputs)?);
        self.state.tape.shorten(start);
        result
    }

    fn memory(&self) -> MemoryInfo {
        array::memory()
    }
}

mdt_plugin_api::plugin! { compute "cpu" => Cpu; }
