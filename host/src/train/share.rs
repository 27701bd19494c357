//! Sends the state of the first rank's checkpoint to all other ranks, which may not see its directory.

use mdt_plugin_api::Element;

use super::optimizer::StatefulOptimizer;
use crate::exit::Failure;
use crate::model::Parameters;
use crate::peers::{Broadcast, Peers};
use crate::staging;

/// Bytes that are sent at once. Larger pieces would need copies of large arrays beside the arrays themselves.
const PIECE: usize = 2 << 20;

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
    let mut failure = None;
    staging::with_slices_mut(parameters.tensors_mut(), |slices| {
        let mut all = names.iter().zip(slices);
        failure = all.find_map(|(name, elements)| share::<f32>(peers, name, elements).err());
        Ok(())
    })?;
    failure.map_or(Ok(()), Err)?;
    optimizer.write_states(|name, bytes| share::<u8>(peers, name, bytes))
}

/// Sends an array piece by piece; the next piece is under way while one is copied to its place.
fn share<T: Element>(peers: &Peers, name: &str, elements: &mut [T]) -> Result<(), Failure> {
    let receive = |(piece, sent): (&mut [T], Broadcast)| {
        piece.copy_from_slice(&peers.finish_broadcast(name, sent)?);
        Ok::<_, Failure>(())
    };
    let mut before = None;
    for piece in elements.chunks_mut(PIECE / size_of::<T>()) {
        let sent = peers.begin_broadcast(name, piece.to_vec())?;
        before.replace((piece, sent)).map_or(Ok(()), receive)?;
    }
    before.map_or(Ok(()), receive)
}
