//! Sends the state of the first rank's checkpoint to all other ranks, which may not see its directory.

use std::ops::Range;

use super::optimizer::{StatePlace, StatefulOptimizer};
use crate::checkpoint::Checkpoint;
use crate::exit::Failure;
use crate::model::Parameters;
use crate::peers::{Broadcast, Peers};
use crate::staging;

/// Bytes that are sent at once. Larger pieces would need copies of large arrays beside the arrays themselves.
const PIECE: usize = 2 << 20;

/// Copies the parameters and optimizer states of the first rank's checkpoint to all other ranks: of the states those that each
/// has. All ranks call it; the first one has restored the checkpoint.
pub(super) fn share_state(
    peers: &Peers,
    parameters: &mut Parameters,
    optimizer: &mut StatefulOptimizer,
    checkpoint: Option<&Checkpoint>,
) -> Result<(), Failure> {
    if peers.world_size() == 1 {
        return Ok(());
    }
    let names: Vec<String> = parameters.specs().iter().map(|spec| spec.name.clone()).collect();
    let mut failure = None;
    staging::with_slices_mut(parameters.tensors_mut(), |slices| {
        let mut all = names.iter().zip(slices);
        failure = all.find_map(|(name, elements)| {
            let bytes: &mut [u8] = bytemuck::cast_slice_mut(elements);
            let whole = bytes.len();
            let place = StatePlace { name: name.clone(), whole, range: 0..whole };
            // The first rank's weights are those of the checkpoint already.
            share(peers, &place, None, bytes).err()
        });
        Ok(())
    })?;
    failure.map_or(Ok(()), Err)?;
    let stored = checkpoint.map(Checkpoint::optimizer).transpose()?;
    let mut stored = match &stored {
        Some(stored) => optimizer.arrays_of(stored)?,
        None => Vec::new(),
    }
    .into_iter();
    optimizer.write_states(|place, bytes| share(peers, place, stored.next().map(|array| array.bytes), bytes))
}

/// Sends an array piece by piece; the next piece is under way while one is copied to its place. The first rank has all of it
/// in `stored`, or in its own memory; others want a part.
fn share(peers: &Peers, place: &StatePlace, stored: Option<&[u8]>, own: &mut [u8]) -> Result<(), Failure> {
    let mut before = None;
    for start in (0..place.whole).step_by(PIECE) {
        let piece = start..(start + PIECE).min(place.whole);
        let bytes = match stored.or((place.range == (0..place.whole)).then_some(&*own)) {
            Some(whole) => whole[piece.clone()].to_vec(),
            // What other ranks than the first bring is passed over.
            None => vec![0; piece.len()],
        };
        let sent = peers.begin_broadcast(&place.name, bytes)?;
        before.replace((piece, sent)).map_or(Ok(()), |before| receive(peers, place, before, own))?;
    }
    before.map_or(Ok(()), |last| receive(peers, place, last, own))
}

/// Copies what is wanted of a piece.
fn receive(
    peers: &Peers,
    StatePlace { name, range, .. }: &StatePlace,
    (piece, sent): (Range<usize>, Broadcast),
    own: &mut [u8],
) -> Result<(), Failure> {
    let bytes = peers.finish_broadcast::<u8>(name, sent)?;
    let (start, end) = (piece.start.max(range.start), piece.end.min(range.end));
    if start < end {
        own[start - range.start..end - range.start].copy_from_slice(&bytes[start - piece.start..end - piece.start]);
    }
    Ok(())
}
