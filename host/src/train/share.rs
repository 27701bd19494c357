//! Sends the state of the first rank's checkpoint to all other ranks, which may not see its directory.

use super::optimizer::StatefulOptimizer;
use crate::exit::Failure;
use crate::model::Parameters;
use crate::peers::Peers;
use crate::staging;

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
    let mut failure = None;
    staging::with_slices_mut(parameters.tensors_mut(), |slices| {
        let mut all = names.iter().zip(slices);
        failure = all.find_map(|(name, elements)| share(peers, name, elements).err());
        Ok(())
    })?;
    failure.map_or(Ok(()), Err)?;
    optimizer.write_states(|name, bytes| share_bytes(peers, name, bytes))
}

fn share(peers: &Peers, name: &str, elements: &mut [f32]) -> Result<(), Failure> {
    elements.chunks_mut(PIECE).try_for_each(|piece| {
        piece.copy_from_slice(&peers.broadcast(name, piece.to_vec())?);
        Ok(())
    })
}

/// Shares bytes in the bits of numbers, which a broadcast only copies.
fn share_bytes(peers: &Peers, name: &str, bytes: &mut [u8]) -> Result<(), Failure> {
    bytes.chunks_mut(PIECE * size_of::<f32>()).try_for_each(|piece| {
        let mut words = vec![0.0f32; piece.len().div_ceil(size_of::<f32>())];
        bytemuck::cast_slice_mut::<f32, u8>(&mut words)[..piece.len()].copy_from_slice(piece);
        let words = peers.broadcast(name, words)?;
        piece.copy_from_slice(&bytemuck::cast_slice::<f32, u8>(&words)[..piece.len()]);
        Ok(())
    })
}
