//! Weights and states of which each rank updates its own: weights that are shared after an update, states that are put
//! together for a checkpoint.

use std::fs::{File, OpenOptions};
use std::io;
use std::ops::Range;
use std::os::unix::fs::FileExt;
use std::path::Path;

use mdt_plugin_api::Buffer;
use memmap2::Mmap;

use super::layout::{Bucket, GradientLayout, Piece};
use super::optimizer::{OwnState, StatefulOptimizer};
use crate::exit::Failure;
use crate::model::Parameters;
use crate::peers::{Peers, UnderWay};
use crate::staging;
use crate::storage::{TypedArray, unwritable};

/// Bytes of states that each rank sends at once.
const ROUND: usize = 4 << 20;

/// Gives every rank the weights that the others have updated. All ranks call it.
pub(super) fn share_weights(
    peers: &Peers,
    layout: &GradientLayout,
    parameters: &mut Parameters,
    what: &str,
) -> Result<(), Failure> {
    if !layout.is_sharded() {
        return Ok(());
    }
    let mut outcome = Ok(());
    staging::with_slices_mut(parameters.tensors_mut(), |slices| {
        outcome = share_elements(peers, layout, slices, what);
        Ok(())
    })?;
    outcome
}

/// The same for slices with the elements of all parameters. While one bucket is under way, the one before is received.
pub(super) fn share_elements(
    peers: &Peers,
    layout: &GradientLayout,
    parameters: &mut [&mut [f32]],
    what: &str,
) -> Result<(), Failure> {
    if !layout.is_sharded() {
        return Ok(());
    }
    let mut before = None;
    for bucket in layout.buckets() {
        let own = layout.pieces_of(bucket).iter().filter(|piece| layout.is_own(piece));
        let own: Vec<&[f32]> = own.map(|piece| &parameters[piece.parameter][piece.elements.clone()]).collect();
        let sent = (bucket, peers.begin_all_gather(what, Buffer::from(own.concat()))?);
        if let Some(before) = before.replace(sent) {
            receive(peers, layout, parameters, what, before)?;
        }
    }
    before.map_or(Ok(()), |last| receive(peers, layout, parameters, what, last))
}

fn receive(
    peers: &Peers,
    layout: &GradientLayout,
    parameters: &mut [&mut [f32]],
    what: &str,
    (bucket, sent): (&Bucket, UnderWay),
) -> Result<(), Failure> {
    let ranks = peers.wait(what, sent)?;
    let mut rests = ranks.iter().map(|rank| rank.as_slice::<f32>()).collect::<mdt_plugin_api::Result<Vec<_>>>()?;
    for piece @ Piece { parameter, elements, shard, .. } in layout.pieces_of(bucket) {
        let from = rests[*shard].split_off(..elements.len()).ok_or_else(|| short(what, *shard))?;
        if !layout.is_own(piece) {
            parameters[*parameter][elements.clone()].copy_from_slice(from);
        }
    }
    Ok(())
}

fn short(what: &str, rank: usize) -> Failure {
    Failure::new(crate::exit::Status::Peer, format!("rank {rank} sent fewer elements than it updates")).at(what)
}

/// The states of all ranks as whole arrays, for as long as `body` runs. Where they are divided among ranks, they are
/// collected in a file without a name in `directory`, not in memory: the first rank need not have room for all; the others,
/// which have no directory, get none. All ranks call it.
pub(super) fn with_all_states<T>(
    optimizer: &StatefulOptimizer,
    layout: &GradientLayout,
    peers: &Peers,
    directory: Option<&Path>,
    what: &str,
    body: impl FnOnce(&[TypedArray<'_>]) -> Result<T, Failure>,
) -> Result<T, Failure> {
    optimizer.with_own_states(|states| {
        if !layout.is_sharded() {
            return body(&states.iter().map(|state| state.array(state.bytes)).collect::<Vec<_>>());
        }
        let ranges = (0..layout.shards()).map(|shard| optimizer.state_ranges(&layout.of_shard(shard)));
        let ranges: Vec<Vec<Range<usize>>> = ranges.collect();
        let mut ends = Vec::new();
        for state in states {
            let length = state.shape.iter().product::<usize>() * state.dtype.size();
            ends.push(ends.last().copied().unwrap_or(0) + length);
        }
        let starts: Vec<usize> = [0].into_iter().chain(ends.iter().copied()).collect();
        let file = directory.map(|directory| {
            let failed = |error| unwritable("the states of all ranks cannot be collected", directory, &error);
            Ok::<_, Failure>((unnamed(directory).map_err(failed)?, failed))
        });
        let file = file.transpose()?;
        collect(peers, what, states, &ranges, |rank, array, offset, bytes| match &file {
            Some((file, failed)) => {
                let place = starts[array] + ranges[rank][array].start + offset;
                file.write_all_at(bytes, place as u64).map_err(failed)
            }
            None => Ok(()),
        })?;
        let Some((file, failed)) = file else { return body(&[]) };
        // Files without bytes cannot be mapped.
        let all = match ends.last() {
            // SAFETY: the file has no name any more, so nothing else changes it.
            Some(&bytes) if bytes > 0 => Some(unsafe { Mmap::map(&file) }.map_err(failed)?),
            _ => None,
        };
        let all = all.as_deref().unwrap_or_default();
        let arrays = states.iter().zip(&starts).zip(&ends);
        let arrays = arrays.map(|((state, start), end)| state.array(&all[*start..*end]));
        body(&arrays.collect::<Vec<_>>())
    })
}

/// Sends the states of every rank to all, round by round. `write` gets what has come: of which rank, of which of its arrays,
/// from which of its own bytes on.
fn collect(
    peers: &Peers,
    what: &str,
    states: &[OwnState<'_>],
    ranges: &[Vec<Range<usize>>],
    write: impl Fn(usize, usize, usize, &[u8]) -> Result<(), Failure>,
) -> Result<(), Failure> {
    let own: Vec<&[u8]> = states.iter().map(|state| state.bytes).collect();
    let total = |rank: &Vec<Range<usize>>| rank.iter().map(Range::len).sum::<usize>();
    let rounds = ranges.iter().map(total).max().unwrap_or(0).div_ceil(ROUND);
    let mut places = vec![(0, 0); ranges.len()];
    let mut next = (0, 0);
    for _ in 0..rounds {
        let mut bytes = Vec::with_capacity(ROUND);
        while let Some(array) = own.get(next.0).filter(|_| bytes.len() < ROUND) {
            let part = &array[next.1..array.len().min(next.1 + ROUND - bytes.len())];
            bytes.extend_from_slice(part);
            next = if next.1 + part.len() == array.len() { (next.0 + 1, 0) } else { (next.0, next.1 + part.len()) };
        }
        let sent = peers.begin_all_gather(what, Buffer::from(bytes))?;
        for (rank, buffer) in peers.wait(what, sent)?.iter().enumerate() {
            let (mut rest, (array, offset)) = (buffer.bytes(), &mut places[rank]);
            while let Some(range) = ranges[rank].get(*array) {
                let part = rest.split_off(..rest.len().min(range.len() - *offset)).unwrap_or_default();
                write(rank, *array, *offset, part)?;
                *offset += part.len();
                if *offset < range.len() {
                    break;
                }
                (*array, *offset) = (*array + 1, 0);
            }
        }
    }
    Ok(())
}

/// A file that is gone when it is closed.
fn unnamed(directory: &Path) -> io::Result<File> {
    let path = directory.join(format!(".states-{}", std::process::id()));
    let file = OpenOptions::new().read(true).write(true).create(true).truncate(true).open(&path)?;
    std::fs::remove_file(&path)?;
    Ok(file)
}
