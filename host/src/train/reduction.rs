//! The sum of an update's gradient over ranks: bucket by bucket, while further buckets are computed.

use mdt_plugin_api::half::slice::HalfFloatSliceExt;
use mdt_plugin_api::{Buffer, Dtype, Region, bf16};
use rayon::prelude::*;

use super::accumulate::{Accumulator, Gradient, Partial, Sums};
use super::clip;
use super::layout::{Bucket, CHUNK, GradientLayout, Piece};
use crate::config::GradientDtype;
use crate::exit::{Failure, Status};
use crate::peers::{Peers, UnderWay};

/// Elements that one task rounds.
const ROUNDED: usize = 1 << 16;

/// A sum under way. All ranks add the same buckets in the same order.
pub(super) struct Reduction<'a> {
    peers: &'a Peers,
    layout: &'a GradientLayout,
    memory: &'a Region,
    dtype: GradientDtype,
    /// What is summed, for errors.
    what: String,
    buckets: Vec<Begun>,
    /// Numbers that go beside the buckets where they cannot go with the last one.
    numbers: Option<UnderWay>,
    /// Bytes that were given to collectives.
    bytes: usize,
}

/// A bucket whose sum is under way.
enum Begun {
    /// In its own memory.
    Whole(UnderWay),
    /// As a sum of elements of half precision; the memory that the sum goes to.
    Halves(Buffer, UnderWay),
    /// As every rank's elements of half precision, to be added here; the memory that their sum goes to.
    Gathered(Buffer, UnderWay),
}

impl<'a> Reduction<'a> {
    /// The sum of gradients that lie in `memory` as `layout` says, and move as elements of `dtype`.
    pub(super) fn new(
        peers: &'a Peers,
        layout: &'a GradientLayout,
        memory: &'a Region,
        dtype: GradientDtype,
        what: String,
    ) -> Self {
        Self { peers, layout, memory, dtype, what, buckets: Vec::new(), numbers: None, bytes: 0 }
    }

    pub(super) fn layout(&self) -> &'a GradientLayout {
        self.layout
    }

    /// Whether there is no other rank.
    pub(super) fn is_of_one_rank(&self) -> bool {
        self.peers.world_size() == 1
    }

    /// The memory of a bucket, to be written and then added.
    pub(super) fn memory_of(&self, bucket: &Bucket) -> Result<Buffer, Failure> {
        Ok(self.memory.buffer::<f32>(bucket.places.clone())?)
    }

    /// Begins to sum the next bucket. The last one takes the numbers of the update with it.
    pub(super) fn add<const N: usize>(
        &mut self,
        bucket: &Bucket,
        gradient: Buffer,
        numbers: Option<[f64; N]>,
    ) -> Result<(), Failure> {
        let Self { peers, dtype, what, .. } = self;
        let mut beside = numbers.map(|numbers| Buffer::from(numbers.to_vec()));
        let mut all = |buffer: Buffer| {
            let buffers = [buffer].into_iter().chain(beside.take()).collect();
            peers.begin_all_reduce(what, buffers)
        };
        let halves = *dtype == GradientDtype::Bfloat16 && peers.world_size() > 1;
        self.bytes += gradient.bytes().len() / if halves { 2 } else { 1 };
        let begun = match (halves, bucket.has_parts) {
            (false, false) => Begun::Whole(all(gradient)?),
            (false, true) => Begun::Whole(peers.begin_reduce_scatter(what, gradient)?),
            (true, has_parts) => {
                let rounded = Buffer::from(rounded(gradient.as_slice()?));
                match (peers.sums(Dtype::BF16), has_parts) {
                    (true, false) => Begun::Halves(gradient, all(rounded)?),
                    (true, true) => Begun::Halves(gradient, peers.begin_reduce_scatter(what, rounded)?),
                    (false, _) => Begun::Gathered(gradient, peers.begin_all_gather(what, rounded)?),
                }
            }
        };
        self.buckets.push(begun);
        beside.map_or(Ok(()), |numbers| self.add_beside(numbers))
    }

    /// Begins to sum numbers alone.
    pub(super) fn add_numbers<const N: usize>(&mut self, numbers: [f64; N]) -> Result<(), Failure> {
        self.add_beside(Buffer::from(numbers.to_vec()))
    }

    fn add_beside(&mut self, numbers: Buffer) -> Result<(), Failure> {
        self.numbers = Some(self.peers.begin_all_reduce(&self.what, vec![numbers])?);
        Ok(())
    }

    /// Bytes of the buckets so far, as they were given to collectives.
    pub(super) fn bytes(&self) -> usize {
        self.bytes
    }

    /// Waits for the sums, of the buckets and of the numbers.
    pub(super) fn finish<const N: usize>(self) -> Result<(Summed<'a>, [f64; N]), Failure> {
        let Self { peers, layout, what, buckets: begun, numbers, .. } = self;
        let (mut buckets, mut beside) = (Vec::with_capacity(begun.len()), None);
        for begun in begun {
            let (memory, under_way, is_gathered) = match begun {
                Begun::Whole(under_way) => (None, under_way, false),
                Begun::Halves(memory, under_way) => (Some(memory), under_way, false),
                Begun::Gathered(memory, under_way) => (Some(memory), under_way, true),
            };
            let mut buffers = peers.wait(&what, under_way)?.into_iter();
            buckets.push(match memory {
                None => buffers.next().ok_or_else(|| lost(&what))?,
                Some(mut memory) if is_gathered => {
                    add_halves(buffers.as_slice(), memory.as_mut_slice()?)?;
                    memory
                }
                Some(mut memory) => {
                    let sum = buffers.next().ok_or_else(|| lost(&what))?;
                    widen(sum.as_slice()?, memory.as_mut_slice()?);
                    memory
                }
            });
            beside = if is_gathered { None } else { buffers.next() };
        }
        let numbers = match numbers {
            Some(numbers) => peers.wait(&what, numbers)?.into_iter().next(),
            None => beside,
        };
        let numbers = numbers.ok_or_else(|| lost(&what))?;
        let numbers = numbers.as_slice::<f64>()?.try_into().map_err(|_| lost(&what))?;
        Ok((Summed { layout, buckets }, numbers))
    }
}

fn lost(what: &str) -> Failure {
    Failure::new(Status::Plugin, "the comm plugin gave back fewer numbers than it was given").at(what)
}

/// A gradient that was summed over ranks. Where ranks update different elements, this one has its own.
pub(super) struct Summed<'a> {
    layout: &'a GradientLayout,
    /// In the order of the layout's.
    buckets: Vec<Buffer>,
}

impl Summed<'_> {
    /// The pieces that this rank updates, in the order of the parameters.
    pub(super) fn own(&self) -> Result<Vec<(&Piece, &[f32])>, Failure> {
        let mut own = Vec::new();
        for (bucket, buffer) in self.layout.buckets().iter().zip(&self.buckets).rev() {
            let elements = buffer.as_slice::<f32>()?;
            let start = bucket.places.start;
            let pieces = self.layout.pieces_of(bucket).iter().filter(|piece| self.layout.is_own(piece));
            own.extend(pieces.map(|piece| (piece, &elements[piece.place - start..][..piece.elements.len()])));
        }
        Ok(own)
    }

    /// All elements of each parameter, where this rank has them.
    pub(super) fn parameters(&self) -> Result<Vec<&[f32]>, Failure> {
        Ok(self.own()?.into_iter().map(|(_, elements)| elements).collect())
    }

    /// The norm of the gradient of all ranks, divided by `weight`: the same bits for any number of ranks.
    pub(super) fn norm_of_mean(&self, peers: &Peers, weight: f64) -> Result<f64, Failure> {
        let own: Vec<f64> = self.own()?.into_iter().flat_map(|(_, elements)| clip::squares(elements)).collect();
        if !self.layout.is_sharded() {
            return Ok(clip::norm_of_mean(&own, weight));
        }
        let what = "the norm of the gradient";
        let ranks = peers.gather_numbers(what, own)?;
        let mut ranks: Vec<_> = ranks.into_iter().map(Vec::into_iter).collect();
        let mut squares = Vec::new();
        for Piece { elements, shard, .. } in self.layout.pieces() {
            squares.extend(ranks[*shard].by_ref().take(elements.len().div_ceil(CHUNK)));
        }
        Ok(clip::norm_of_mean(&squares, weight))
    }

    /// The same, to be changed.
    pub(super) fn own_mut(&mut self) -> Result<Vec<(&Piece, &mut [f32])>, Failure> {
        let mut all = Vec::new();
        for (bucket, buffer) in self.layout.buckets().iter().zip(&mut self.buckets).rev() {
            let mut rest = buffer.as_mut_slice::<f32>()?;
            let mut place = bucket.places.start;
            for piece in self.layout.pieces_of(bucket).iter().filter(|piece| self.layout.is_own(piece)) {
                let (own, behind) = std::mem::take(&mut rest)[piece.place - place..].split_at_mut(piece.elements.len());
                all.push((piece, own));
                (rest, place) = (behind, piece.places().end);
            }
        }
        Ok(all)
    }
}

/// Elements rounded to half precision: the nearest, ties to even.
fn rounded(elements: &[f32]) -> Vec<bf16> {
    let mut halves = vec![bf16::ZERO; elements.len()];
    let chunks = halves.par_chunks_mut(ROUNDED).zip(elements.par_chunks(ROUNDED));
    chunks.for_each(|(halves, elements)| halves.convert_from_f32_slice(elements));
    halves
}

fn widen(halves: &[bf16], elements: &mut [f32]) {
    let chunks = elements.par_chunks_mut(ROUNDED).zip(halves.par_chunks(ROUNDED));
    chunks.for_each(|(elements, halves)| halves.convert_to_f32_slice(elements));
}

/// Adds the elements of all ranks by the tree in which sums over ranks are made.
fn add_halves(ranks: &[Buffer], sum: &mut [f32]) -> Result<(), Failure> {
    let mut tree = Accumulator::default();
    for rank in ranks {
        let mut elements = tree.buffer(sum.len());
        widen(rank.as_slice()?, &mut elements);
        tree.push(Partial { gradient: Gradient::Host(elements), sums: Sums::NONE })?;
    }
    if let Some(Partial { gradient: Gradient::Host(elements), .. }) = tree.finish()? {
        sum.copy_from_slice(&elements);
    }
    Ok(())
}
