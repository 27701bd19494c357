//! The component `compute mlx`: handles, operations, memory, over MLX.

use std::cell::RefCell;
use std::rc::Rc;

use mdt_plugin_api::{
    Attribute, Component, Compute, DeviceInfo, Dtype, Error, Handle, HostArrayRef, MemoryInfo, OpKind, PlannedMemory,
    RawHostView, RecomputedFunction, Result, Setup, TensorFunction, TensorType, ValueAndGrad,
};
use mlx_rs::{Array, memory, transforms};

use crate::device::{self, DeviceChoice};
use crate::fault::Fault;
use crate::handles::Handles;
#[cfg(mdt_native)]
use crate::plan::{self, Planner};
use crate::{checkpoint, dtype, fused, gradient, host_view, ops};

mdt_plugin_api::config! {
    /// Keys of the compute component `mlx`.
    pub struct Config {
        /// Where tensors live: `gpu`, `cpu`, or `auto` for a GPU where MLX sees one.
        device: DeviceChoice = DeviceChoice::Auto,
        /// Threads that operations use on a CPU; 0 leaves the number to the host. Results are bit-identical only at an
        /// equal number.
        threads: usize = 0,
        /// Whether the host may use the memory of tensors. Without, it has to copy, as it does with a GPU that has memory of
        /// its own: for tests on machines without one.
        shared_memory: bool = true,
    }
}

/// MLX on one device.
pub struct Mlx {
    pub(crate) handles: Rc<RefCell<Handles>>,
    info: DeviceInfo,
    #[cfg(mdt_native)]
    planner: Planner,
}

impl Component for Mlx {
    type Config = Config;

    fn create(config: Config, setup: &Setup) -> Result<Self> {
        let threads = if config.threads == 0 { setup.threads } else { config.threads };
        let info = device::select(config.device, threads)?;
        let info = DeviceInfo { unified_memory: info.unified_memory && config.shared_memory, ..info };
        fused::start(threads).map_err(|exception| Error::plugin(format!("MLX: {}", Fault::from(exception))))?;
        Ok(Self {
            handles: Rc::default(),
            info,
            #[cfg(mdt_native)]
            planner: Planner::default(),
        })
    }
}

impl Mlx {
    fn insert(&self, array: Array) -> Handle {
        self.handles.borrow_mut().insert(array)
    }

    fn shares_memory(&self) -> Result<()> {
        if self.info.unified_memory {
            return Ok(());
        }
        Err(Error::plugin(format!("{} does not share its memory with the host", self.info.name))
            .help("copy elements with `read` and `write`"))
    }

    /// A view of a tensor's elements, which are computed now.
    fn evaluated_view(&self, tensor: Handle) -> Result<RawHostView> {
        // Out of the table: evaluation may drop what has tensors of its own.
        let array = self.handles.borrow().get(tensor)?.clone();
        let view = host_view::read(&array)?;
        fused::bound_buffers().map_err(host_view::failed_evaluation)?;
        Ok(view)
    }

    /// Refuses to read values while a function is recorded: they do not exist yet.
    fn outside_of_tracing(&self, call: &str) -> Result<()> {
        if self.handles.borrow().in_scope() {
            return Err(Error::plugin(format!("{call} is not possible inside value_and_grad"))
                .help("the function is only being recorded there: return the tensor, and read it afterwards"));
        }
        Ok(())
    }
}

impl Compute for Mlx {
    fn device(&self) -> DeviceInfo {
        self.info.clone()
    }

    fn supports(&self, op: OpKind, attributes: &[&str], dtype: Dtype) -> bool {
        ops::supports(op, attributes, dtype)
    }

    fn op(&self, op: OpKind, inputs: &[Handle], attributes: &[Attribute<'_>], results: &mut [Handle]) -> Result<()> {
        let expected = op.definition().map_or(1, |definition| definition.results);
        if results.len() != expected {
            return Err(Error::plugin(format!(
                "operation {} gives {expected} results, not {}",
                op.name(),
                results.len()
            )));
        }
        let computed = {
            let table = self.handles.borrow();
            let recording = table.in_scope();
            let get = |&handle: &Handle| match handle {
                0 => Ok(None),
                handle => table.get(handle).map(Some).map_err(|error| error.with("operation", op.name())),
            };
            match *inputs {
                // Without an allocation, for most operations.
                [ref one] => ops::apply(op, &[get(one)?], attributes, recording)?,
                [ref one, ref two] => ops::apply(op, &[get(one)?, get(two)?], attributes, recording)?,
                [ref one, ref two, ref three] => {
                    ops::apply(op, &[get(one)?, get(two)?, get(three)?], attributes, recording)?
                }
                _ => ops::apply(op, &inputs.iter().map(get).collect::<Result<Vec<_>>>()?, attributes, recording)?,
            }
        };
        for (slot, array) in results.iter_mut().zip(computed) {
            *slot = self.insert(array);
        }
        Ok(())
    }

    fn from_host(&self, array: HostArrayRef<'_>) -> Result<Handle> {
        Ok(self.insert(host_view::copy_in(array)?))
    }

    fn retain(&self, tensor: Handle) -> Result<Handle> {
        let array = self.handles.borrow().get(tensor)?.clone();
        Ok(self.insert(array))
    }

    fn release(&self, tensor: Handle) {
        // Two statements: the tensor is dropped after the borrow has ended.
        let array = self.handles.borrow_mut().remove(tensor);
        drop(array);
    }

    fn tensor_type(&self, tensor: Handle) -> Result<TensorType> {
        let table = self.handles.borrow();
        let array = table.get(tensor)?;
        Ok(TensorType { shape: host_view::shape(array), dtype: dtype::from_mlx(array.dtype())? })
    }

    fn eval(&self, tensors: &[Handle]) -> Result<()> {
        self.outside_of_tracing("eval")?;
        let arrays = self.handles.borrow().clones(tensors)?;
        transforms::eval(&arrays).and_then(|()| fused::bound_buffers()).map_err(host_view::failed_evaluation)
    }

    fn host_view(&self, tensor: Handle) -> Result<RawHostView> {
        self.outside_of_tracing("reading a tensor's values")?;
        self.shares_memory()?;
        self.evaluated_view(tensor)
    }

    fn host_view_mut(&self, tensor: Handle) -> Result<RawHostView> {
        self.outside_of_tracing("writing a tensor's values")?;
        self.shares_memory()?;
        let table = self.handles.borrow();
        host_view::write(table.get(tensor)?, table.others(tensor))
    }

    fn read(&self, tensor: Handle, dtype: Dtype, out: &mut [u8]) -> Result<()> {
        self.outside_of_tracing("reading a tensor's values")?;
        let view = self.evaluated_view(tensor)?;
        // SAFETY: the view is of an evaluated array, which its handle keeps alive.
        unsafe { view.copy_to(dtype, out) }
    }

    fn write(&self, tensor: Handle, array: HostArrayRef<'_>) -> Result<()> {
        self.outside_of_tracing("writing a tensor's values")?;
        let TensorType { shape, dtype } = self.tensor_type(tensor)?;
        if (shape.as_slice(), dtype) != (array.shape, array.dtype) {
            return Err(Error::plugin(format!(
                "a tensor of {dtype} and shape {shape:?} cannot take elements of {} and shape {:?}",
                array.dtype, array.shape
            )));
        }
        let new = host_view::copy_in(array)?;
        // Two statements: the tensor is dropped after the borrow has ended.
        let old = self.handles.borrow_mut().replace(tensor, new)?;
        drop(old);
        Ok(())
    }

    fn checkpoint(&self, function: Rc<RecomputedFunction>, inputs: &[Handle]) -> Result<Vec<Handle>> {
        checkpoint::checkpoint(&self.handles, function, inputs)
    }

    fn value_and_grad(
        &self,
        function: &mut TensorFunction<'_>,
        parameters: &[Handle],
        inputs: &[Handle],
    ) -> Result<ValueAndGrad> {
        gradient::value_and_grad(&self.handles, function, parameters, inputs)
    }

    fn memory(&self) -> MemoryInfo {
        // MLX counts for the whole process; these calls only read counters and do not fail.
        let bytes = |read: fn() -> mlx_rs::error::Result<usize>| read().map_or(0, |bytes| bytes as u64);
        MemoryInfo {
            active_bytes: bytes(memory::active_memory),
            peak_bytes: bytes(memory::peak_memory),
            cached_bytes: bytes(memory::cache_memory),
        }
    }
    #[cfg(mdt_native)]
    fn placeholder(&self, TensorType { shape, dtype }: &TensorType) -> Result<Option<Handle>> {
        if !fused::on_cpu() {
            return Ok(None);
        }
        Ok(Some(self.insert(plan::placeholder(shape, *dtype)?)))
    }

    #[cfg(mdt_native)]
    fn plan(&self, tensors: &[Handle]) -> Result<Option<PlannedMemory>> {
        if !fused::on_cpu() {
            return Ok(None);
        }
        let table = self.handles.borrow();
        let live = table.all().map(fused::native::id).collect();
        let memory = self.planner.plan(&table.clones(tensors)?, live)?;
        Ok(Some(memory))
    }
}
