//! Sends the state of the first rank's checkpoint to all other ranks, which may not see its directory.

use super::optimizer::StatefulOptimizer;
use crate::exit::Failure;
use crate::model::Parameters;
use crate::peers::{Broadcast, Peers};

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

/// Sends an array piece by piece; the next piece is under way while one is copied to its place.
fn share(peers: &Peers, name: &str, elements: &mut [f32]) -> Result<(), Failure> {
    let receive = |(piece, sent): (&mut [f32], Broadcast)| {
        piece.copy_from_slice(&peers.finish_broadcast(name, sent)?);
        Ok::<_, Failure>(())
    };
    let mut before = None;
    for piece in elements.chunks_mut(PIECE) {
        let sent = peers.begin_broadcast(name, piece.to_vec())?;
        before.replace((piece, sent)).map_or(Ok(()), receive)?;
    }
    before.map_or(Ok(()), receive)
}
