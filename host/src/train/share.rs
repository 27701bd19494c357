//! Sends the state of the first rank's checkpoint to all other ranks, which may not see its directory.

use super::optimizer::StatefulOptimizer;
use crate::exit::Failure;
use crate::model::Parameters;
use crate::peers::Peers;

/// Elements that are sent at once. Larger pieces would need copies of large arrays beside the arrays themselves.
const PIECE: usize = 1 << 20;

/// Copies the first rank's parameters and optimizer states to all other ranks. All ranks call it.
pub(super) fn share_state(
    peers: &Peers,
    parameters: &mut Parameters,
    optimizer: &mut StatefulOptimizer,
) -> Result<(), Failure> {
    if peers.world_size() == 1 {
        return Ok(());
    }
    let names: Vec<String> = parameters.specs().iter().map(|spec| spec.name.clone()).collect();
    for (name, tensor) in names.iter().zip(parameters.tensors_mut()) {
        share(peers, name, tensor.host_view_mut()?.as_mut_slice::<f32>()?)?;
    }
    optimizer.arrays_mut(parameters).into_iter().try_for_each(|state| share(peers, &state.name, state.data))
}

fn share(peers: &Peers, name: &str, elements: &mut [f32]) -> Result<(), Failure> {
    elements.chunks_mut(PIECE).try_for_each(|piece| {
        piece.copy_from_slice(&peers.broadcast(name, piece.to_vec())?);
        Ok(())
    })
}
