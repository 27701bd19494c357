//! Sends the state of the first rank's checkpoint to all other ranks, which may not see its directory.

use std::rc::Rc;

use mdt_plugin_api::{Compute, HostArray};

use super::optimizer::StatefulOptimizer;
use crate::exit::Failure;
use crate::model::Parameters;
use crate::peers::Peers;

/// Copies the first rank's parameters and optimizer states to all other ranks. All ranks call it.
pub(super) fn share_state(
    peers: &Peers,
    compute: &Rc<dyn Compute>,
    parameters: &mut Parameters,
    updater: &mut StatefulOptimizer,
) -> Result<(), Failure> {
    if peers.world_size() == 1 {
        return Ok(());
    }
    let mut received = Vec::with_capacity(parameters.specs().len());
    for (spec, tensor) in parameters.specs().iter().zip(parameters.tensors()) {
        let values = tensor.host_view()?.as_slice::<f32>()?.to_vec();
        received.push(peers.broadcast(&spec.name, values)?);
    }
    if !peers.is_first() {
        let arrays = parameters.specs().iter().zip(&received);
        let arrays = arrays.map(|(spec, values)| HostArray::new(&spec.shape, values));
        let arrays = arrays.collect::<Result<Vec<_>, _>>()?;
        let borrowed: Vec<_> = arrays.iter().map(HostArray::borrow).collect();
        *parameters = Parameters::from_arrays(compute, parameters.specs().to_vec(), &borrowed)?;
    }
    for state in updater.arrays_mut(parameters) {
        let values = peers.broadcast(&state.name, state.data.to_vec())?;
        state.data.copy_from_slice(&values);
    }
    Ok(())
}
