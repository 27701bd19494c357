//! Collectives that any engine has which can gather equally many bytes of every rank.

use super::{Course, Engine, Leaf, fold};
use crate::{Buffer, ReduceOp, Result};

/// Bytes of every rank that are gathered at once: this bounds what is held besides the buffers.
const CHUNK: usize = 4 << 20;

/// Combines every rank's elements by gathering all of them and folding them by the pairwise tree, in pieces.
///
/// # Errors
/// Those of [`Engine::gather`] and [`fold`].
pub fn fold_gathered<E: Engine + ?Sized>(
    engine: &mut E,
    buffer: &mut Buffer,
    op: ReduceOp,
    course: &Course,
) -> Result<()> {
    let (dtype, ranks) = (buffer.dtype(), course.world_size());
    let mut all = vec![0; ranks * buffer.bytes().len().min(CHUNK)];
    for chunk in buffer.bytes_mut().chunks_mut(CHUNK) {
        let all = &mut all[..ranks * chunk.len()];
        engine.gather(chunk, all, course)?;
        let leaves: Vec<Leaf<'_>> = all.chunks_exact(chunk.len()).map(Some).collect();
        fold(dtype, op, chunk, &leaves)?;
        course.moved(chunk.len());
    }
    Ok(())
}

pub(super) fn all_gather<E: Engine + ?Sized>(
    engine: &mut E,
    own: &Buffer,
    bytes: &[usize],
    course: &Course,
) -> Result<Vec<Buffer>> {
    let mut gathered: Vec<Vec<u8>> = bytes.iter().map(|&bytes| Vec::with_capacity(bytes)).collect();
    let longest = bytes.iter().copied().max().unwrap_or(0);
    let mut padded = Vec::new();
    for start in (0..longest).step_by(CHUNK) {
        let length = CHUNK.min(longest - start);
        let own = own.bytes();
        padded.clear();
        padded.extend_from_slice(&own[start.min(own.len())..(start + length).min(own.len())]);
        padded.resize(length, 0);
        let mut all = vec![0; length * bytes.len()];
        engine.gather(&padded, &mut all, course)?;
        for ((rank, part), bytes) in gathered.iter_mut().zip(all.chunks_exact(length)).zip(bytes) {
            let missing = (bytes - rank.len()).min(length);
            rank.extend_from_slice(&part[..missing]);
        }
        course.moved(length);
    }
    gathered.iter().map(|bytes| Buffer::copy_of(own.dtype(), bytes)).collect()
}
