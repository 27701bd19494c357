//! A device and its tensors, for the tests in the library and in `tests/`; whoever includes this names the component.

use std::rc::Rc;

use mdt_plugin_api::abi::across;
use mdt_plugin_api::{Component, Compute, Element, HostArray, Setup, Tensor};

use super::{Config, DeviceChoice, Mlx};

/// The component on the CPU, as a host gets it.
pub fn cpu() -> Rc<dyn Compute> {
    with_config(Config { device: DeviceChoice::Cpu, threads: 1, shared_memory: true })
}

/// The component with this configuration, as a host gets it.
pub fn with_config(config: Config) -> Rc<dyn Compute> {
    let native = Mlx::create(config, &Setup::default()).unwrap();
    across::compute(&(Rc::new(native) as Rc<dyn Compute>)).unwrap()
}

/// A tensor of these elements.
pub fn tensor<T: Element>(compute: &Rc<dyn Compute>, shape: &[usize], elements: &[T]) -> Tensor {
    Tensor::from_host(compute, &HostArray::new(shape, elements).unwrap()).unwrap()
}

/// A tensor's elements, row-major.
pub fn elements<T: Element + Default>(tensor: &Tensor) -> Vec<T> {
    let view = tensor.host_view().unwrap();
    let mut elements = vec![T::default(); view.shape().iter().product()];
    view.copy_to(&mut elements).unwrap();
    elements
}
