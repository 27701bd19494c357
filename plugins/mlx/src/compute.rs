//! The component `compute mlx`: handles, operations, memory, over MLX.

use std::cell::RefCell;

use mdt_plugin_api::{
    Attribute, Component, Compute, DeviceInfo, Error, Handle, HostArrayRef, MemoryInfo, OpKind, RawHostView, Result,
    Setup, TensorFunction, TensorType, ValueAndGrad,
};
use mlx_rs::{Array, memory, transforms};

use crate::device::{self, DeviceChoice};
use crate::fault::Fault;
use crate::handles::Handles;
use crate::{dtype, fused, gradient, host_view, ops};

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
    pub(crate) handles: RefCell<Handles>,
    info: DeviceInfo,
}

impl Component for Mlx {
    type Config = Config;

    fn create(config: Config, setup: &Setup) -> Result<Self> {
        let threads = if config.threads == 0 { setup.threads } else { config.threads };
        let info = device::select(config.device, threads)?;
        let info = DeviceInfo { unified_memory: info.unified_memory && config.shared_memory, ..info };
        fused::start(threads).map_err(|exception| Error::plugin(format!("MLX: {}", Fault::from(exception))))?;
        Ok(Self { handles: RefCell::default(), info })
    }
}

impl Mlx {
    fn insert(&self, array: Array) -> Handle {
        self.handles.borrow_mut().insert(array)
    }

    fn evaluated_view(&self, tensor: Handle) -> Result<RawHostView> {
        let view = host_view::read(self.handles.borrow().get(tensor)?)?;
        // Reading evaluates too.
        fused::trim_buffers().map_err(failed_evaluation)?;
        Ok(view)
    }

    fn sharing_memory(&self, instead: &str) -> Result<()> {
        if self.info.unified_memory {
            return Ok(());
        }
        Err(Error::plugin(format!("{} does not share its memory with the host", self.info.name)).help(instead))
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

    fn supports(&self, op: OpKind) -> bool {
        ops::supports(op)
    }

    fn op(&self, op: OpKind, inputs: &[Handle], attributes: &[Attribute<'_>]) -> Result<Vec<Handle>> {
        let result = {
            let table = self.handles.borrow();
            let inputs = inputs
                .iter()
                .map(|&handle| table.get(handle))
                .collect::<Result<Vec<_>>>()
                .map_err(|error| error.with("operation", op.name()))?;
            ops::apply(op, &inputs, attributes)?
        };
        Ok(vec![self.insert(result)])
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
        transforms::eval(&arrays).and_then(|()| fused::trim_buffers()).map_err(failed_evaluation)
    }

    fn host_view(&self, tensor: Handle) -> Result<RawHostView> {
        self.outside_of_tracing("reading a tensor's values")?;
        self.sharing_memory("read a copy of the tensor")?;
        self.evaluated_view(tensor)
    }

    fn host_view_mut(&self, tensor: Handle) -> Result<RawHostView> {
        self.outside_of_tracing("writing a tensor's values")?;
        self.sharing_memory("write to a copy in host memory, and make a new tensor of it")?;
        let table = self.handles.borrow();
        host_view::write(table.get(tensor)?, table.others(tensor))
    }

    fn read(&self, tensor: Handle, bytes: &mut [u8]) -> Result<()> {
        self.outside_of_tracing("reading a tensor's values")?;
        let view = self.evaluated_view(tensor)?;
        // SAFETY: MLX has the elements of an evaluated array where shape and strides say, and the caller's handle keeps it.
        unsafe { view.copy_to(bytes) }
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
}

fn failed_evaluation(exception: mlx_rs::error::Exception) -> Error {
    Error::plugin(format!("evaluation: {}", Fault::from(exception)))
}
