//! What a rank has called, so that ranks find out that they do not call the same.

use super::Task;
use crate::{Error, ErrorCode, Result};

/// One rank's call, as all ranks gather it.
#[derive(Debug)]
pub(super) struct Called {
    /// The number of the collective, from 1.
    number: u64,
    /// The digest of everything that must be the same on all ranks.
    digest: u64,
    /// Bytes that the rank brings.
    pub(super) bytes: u64,
    /// The call in words, as much as there is room for.
    words: String,
}

impl Called {
    /// The length of [`Called::to_bytes`].
    pub(super) const BYTES: usize = 128;

    pub(super) fn new(number: u64, task: &Task) -> Self {
        let (name, buffers) = match task {
            Task::AllReduce(buffers, op) => (format!("all_reduce({}) of ", op.name()), buffers.as_slice()),
            Task::AllGather(buffer) => {
                let words = format!("all_gather of {}", buffer.dtype());
                return Self { number, digest: digest(&words), bytes: buffer.bytes().len() as u64, words };
            }
            Task::Broadcast(buffers, root) => (format!("broadcast from rank {root} of "), buffers.as_slice()),
            Task::Barrier => ("barrier".to_owned(), [].as_slice()),
            Task::ReduceScatter(buffer, op) => {
                (format!("reduce_scatter({}) of ", op.name()), std::slice::from_ref(buffer))
            }
        };
        let words = name + &buffers.iter().map(|buffer| format!("{buffer:?}")).collect::<Vec<_>>().join(", ");
        let bytes = buffers.iter().map(|buffer| buffer.bytes().len() as u64).sum();
        Self { number, digest: digest(&words), bytes, words }
    }

    pub(super) fn to_bytes(&self) -> [u8; Self::BYTES] {
        let mut bytes = [0; Self::BYTES];
        for (place, number) in bytes.chunks_exact_mut(8).zip([self.number, self.digest, self.bytes]) {
            place.copy_from_slice(&number.to_le_bytes());
        }
        let words = &self.words.as_bytes()[..self.words.floor_char_boundary(Self::BYTES - 24)];
        bytes[24..24 + words.len()].copy_from_slice(words);
        bytes
    }

    pub(super) fn from_bytes(bytes: &[u8]) -> Self {
        let (numbers, words) = bytes.split_at(24);
        let number = |place: usize| numbers.as_chunks().0.get(place).map_or(0, |bytes| u64::from_le_bytes(*bytes));
        let words = String::from_utf8_lossy(words).trim_end_matches('\0').to_owned();
        Self { number: number(0), digest: number(1), bytes: number(2), words }
    }
}

/// # Errors
/// A rank has called something else than rank 0. All ranks get the same error.
pub(super) fn require_same(ranks: &[Called]) -> Result<()> {
    let Some(first) = ranks.first() else { return Ok(()) };
    match ranks.iter().position(|rank| (rank.number, rank.digest) != (first.number, first.digest)) {
        None => Ok(()),
        Some(place) => {
            let message = format!(
                "collective number {} differs between ranks: rank 0 called {}, rank {place} called {}",
                first.number, first.words, ranks[place].words
            );
            Err(Error::new(ErrorCode::Peer, message).with("rank", place))
        }
    }
}

/// FNV-1a, the same in every build.
fn digest(words: &str) -> u64 {
    words.bytes().fold(0xcbf2_9ce4_8422_2325, |hash, byte| (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3))
}
