//! Where the gradient of each parameter lies in the memory that ranks sum: in buckets, each of which is summed by one
//! collective; and which rank updates which elements, where the states of the optimizer are divided among ranks.
//!
//! Buckets are summed from the last parameter to the first, because gradients are computed in that order. An embedding is
//! the first parameter, tied or not, so its bucket comes last.

use std::ops::Range;

use mdt_plugin_api::Granularity;

use super::optimizer::OptimizerPlan;
use crate::config::Comm;
use crate::exit::Failure;

/// Elements of one term of the gradient's norm, counted from the beginning of a parameter. A parameter is cut at multiples
/// of it, so that every term is taken by one rank and has the same bits for any number of them.
pub const CHUNK: usize = 1 << 16;

/// The parts of a bucket that ranks get have lengths that are multiples of this: of 64 bytes.
const ALIGNMENT: usize = 16;

/// The places of a job's gradients.
#[derive(Clone, Debug, PartialEq)]
pub struct GradientLayout {
    /// In the order of the parameters, and of the elements of each.
    pieces: Vec<Piece>,
    /// In the order in which they are summed.
    buckets: Vec<Bucket>,
    /// Elements of the memory, with what lies between pieces.
    length: usize,
    parameters: Vec<(usize, Granularity)>,
    sharing: Sharing,
}

/// Elements of a parameter that lie together and belong to one shard.
#[derive(Clone, Debug, PartialEq)]
pub struct Piece {
    /// The number of the parameter.
    pub parameter: usize,
    /// Which of its elements.
    pub elements: Range<usize>,
    /// Where the first of them lies in the memory.
    pub place: usize,
    /// Which rank updates them, where the optimizer's states are divided among ranks; else 0.
    pub shard: usize,
}

impl Piece {
    /// Where it lies in the memory.
    pub fn places(&self) -> Range<usize> {
        self.place..self.place + self.elements.len()
    }
}

/// Gradients that are summed together.
#[derive(Clone, Debug, PartialEq)]
pub struct Bucket {
    /// The parameters that it has whole.
    pub parameters: Range<usize>,
    /// Their pieces.
    pub pieces: Range<usize>,
    /// Where it lies in the memory.
    pub places: Range<usize>,
    /// Whether it is made of equal parts, one for each shard, so that ranks can get just theirs.
    pub has_parts: bool,
}

/// How the gradients of a job are summed.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Sharing {
    /// Elements of a bucket. A larger parameter is a bucket of its own.
    pub bucket: usize,
    /// The number of ranks that the states are divided among; 1 where each has all.
    pub shards: usize,
    /// The shard of this rank.
    pub own: usize,
    /// Whether ranks can be given a part of a sum.
    pub scatters: bool,
}

impl GradientLayout {
    /// The places of a job's gradients. `scatters` says whether ranks can be given a part of a sum.
    ///
    /// # Errors
    /// Status 2: states are to be divided among ranks that an optimizer keeps on the device.
    pub fn of(optimizer: &OptimizerPlan, comm: &Comm, scatters: bool) -> Result<Self, Failure> {
        let is_sharded = comm.shard_optimizer && comm.world_size > 1;
        if is_sharded && optimizer.is_on_device() {
            let message = "`comm.shard_optimizer` divides states in host memory among ranks";
            return Err(Failure::configuration(message)
                .at(optimizer.name())
                .because("this optimizer keeps its states on the device")
                .help("train with `--set comm.shard_optimizer=false`, or with an optimizer that updates slices"));
        }
        let bucket = match comm.world_size {
            1 => usize::MAX,
            _ => comm.bucket_mb as usize * 1_000_000 / size_of::<f32>(),
        };
        let (shards, own) = if is_sharded { (comm.world_size, comm.rank) } else { (1, 0) };
        let sharing = Sharing { bucket, shards: shards as usize, own: own as usize, scatters };
        Ok(Self::new(&optimizer.granularities(), sharing))
    }

    /// The places of parameters with so many elements each, which are updated in such parts.
    pub fn new(parameters: &[(usize, Granularity)], sharing: Sharing) -> Self {
        let Sharing { bucket, shards, scatters, .. } = sharing;
        let mut groups = groups(parameters, bucket);
        groups.reverse();
        let mut loads = vec![0; shards];
        let (mut pieces, mut buckets, mut length) = (Vec::new(), Vec::new(), 0);
        for group in groups {
            let (first, start) = (pieces.len(), length);
            for parameter in group.clone() {
                let (elements, granularity) = parameters[parameter];
                for (shard, elements) in cut(elements, unit(granularity), &loads) {
                    loads[shard] += elements.len();
                    let place = length;
                    length += elements.len();
                    pieces.push(Piece { parameter, elements, place, shard });
                }
            }
            let own_pieces: &mut [Piece] = &mut pieces[first..];
            let part = part(own_pieces, shards);
            // Parts are as long as the longest of them. Where that is more than a sum for all ranks moves, that is made.
            let has_parts = scatters && shards > 1 && part * shards <= 2 * (length - start);
            if has_parts {
                length = start + part * shards;
                let mut ends: Vec<usize> = (0..shards).map(|shard| start + part * shard).collect();
                for piece in own_pieces {
                    piece.place = ends[piece.shard];
                    ends[piece.shard] += piece.elements.len();
                }
            }
            buckets.push(Bucket { parameters: group, pieces: first..pieces.len(), places: start..length, has_parts });
        }
        buckets.reverse();
        Self { pieces, buckets, length, parameters: parameters.to_vec(), sharing }
    }

    /// The same where ranks can be given a part of a sum, or cannot: who updates what is the same.
    pub fn scattered(&self, scatters: bool) -> Self {
        Self::new(&self.parameters, Sharing { scatters, ..self.sharing })
    }

    /// The same for a rank that has all states.
    pub fn unsharded(&self) -> Self {
        Self::new(&self.parameters, Sharing { shards: 1, own: 0, ..self.sharing })
    }

    /// In the order in which they are summed.
    pub fn buckets(&self) -> &[Bucket] {
        &self.buckets
    }

    /// Elements of the memory.
    pub fn length(&self) -> usize {
        self.length
    }

    /// Whether ranks update different elements.
    pub fn is_sharded(&self) -> bool {
        self.sharing.shards > 1
    }

    /// The pieces of all shards, in the order of the parameters.
    pub fn pieces(&self) -> &[Piece] {
        &self.pieces
    }

    /// The pieces of a bucket.
    pub fn pieces_of(&self, bucket: &Bucket) -> &[Piece] {
        &self.pieces[bucket.pieces.clone()]
    }

    /// Where the pieces of a bucket lie in it, without what lies between them.
    pub fn places_in(&self, bucket: &Bucket) -> impl Iterator<Item = Range<usize>> {
        let start = bucket.places.start;
        let whole = (!bucket.has_parts).then_some(0..bucket.places.len());
        let pieces = if bucket.has_parts { self.pieces_of(bucket) } else { &[] };
        whole.into_iter().chain(pieces.iter().map(move |piece| piece.place - start..piece.places().end - start))
    }

    /// Whether this rank updates a piece.
    pub fn is_own(&self, piece: &Piece) -> bool {
        piece.shard == self.sharing.own
    }

    /// Which elements of each parameter this rank updates; none where it updates none of them.
    pub fn own(&self) -> Vec<Option<Range<usize>>> {
        self.of_shard(self.sharing.own)
    }

    /// The same for another shard.
    pub fn of_shard(&self, shard: usize) -> Vec<Option<Range<usize>>> {
        let mut ranges = vec![None; self.parameters.len()];
        for piece in self.pieces.iter().filter(|piece| piece.shard == shard) {
            ranges[piece.parameter] = Some(piece.elements.clone());
        }
        ranges
    }

    /// The number of shards.
    pub fn shards(&self) -> usize {
        self.sharing.shards
    }
}

/// The parameters of each bucket, the last ones first.
fn groups(parameters: &[(usize, Granularity)], bucket: usize) -> Vec<Range<usize>> {
    let mut groups = Vec::new();
    let (mut end, mut elements) = (parameters.len(), 0usize);
    for parameter in (0..parameters.len()).rev() {
        let own = parameters[parameter].0;
        if parameter + 1 < end && elements.saturating_add(own) > bucket {
            groups.push(parameter + 1..end);
            (end, elements) = (parameter + 1, 0);
        }
        elements = elements.saturating_add(own);
    }
    groups.push(0..end);
    groups
}

/// Elements at whose multiples a parameter may be cut; none where it may not.
fn unit(granularity: Granularity) -> Option<usize> {
    match granularity {
        Granularity::Element => Some(CHUNK),
        Granularity::Block(elements) => {
            let twos = elements.trailing_zeros().min(CHUNK.trailing_zeros());
            Some((elements >> twos).saturating_mul(CHUNK).max(1))
        }
        Granularity::Tensor => None,
    }
}

/// Cuts a parameter into a piece for each shard, or for fewer where it is too small: those with the least so far get the
/// larger pieces.
fn cut(elements: usize, unit: Option<usize>, loads: &[usize]) -> Vec<(usize, Range<usize>)> {
    let unit = unit.unwrap_or(usize::MAX);
    let units = elements.div_ceil(unit).max(1);
    let mut shards: Vec<usize> = (0..loads.len()).collect();
    shards.sort_by_key(|&shard| loads[shard]);
    let (each, more) = (units / shards.len(), units % shards.len());
    let mut start = 0;
    let piece = |(place, shard): (usize, usize)| {
        let units = each + usize::from(place < more);
        let end = start + units.saturating_mul(unit).min(elements - start);
        (units > 0).then(|| (shard, std::mem::replace(&mut start, end)..end))
    };
    shards.into_iter().enumerate().filter_map(piece).collect()
}

/// Elements of the parts that hold these pieces.
fn part(pieces: &[Piece], shards: usize) -> usize {
    let mut lengths = vec![0; shards];
    pieces.iter().for_each(|piece| lengths[piece.shard] += piece.elements.len());
    lengths.into_iter().max().unwrap_or(0).next_multiple_of(ALIGNMENT)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn parameters() -> impl Strategy<Value = Vec<(usize, Granularity)>> {
        let granularity =
            prop_oneof![Just(Granularity::Element), Just(Granularity::Tensor), Just(Granularity::Block(24))];
        let elements = prop_oneof![0usize..2000, 60_000usize..2_000_000];
        prop::collection::vec((elements, granularity), 1..20)
    }

    /// The part of a bucket that a shard gets.
    fn part_of(layout: &GradientLayout, bucket: &Bucket, shard: usize) -> Range<usize> {
        let part = bucket.places.len() / layout.shards();
        bucket.places.start + part * shard..bucket.places.start + part * (shard + 1)
    }

    proptest! {
        #[test]
        fn every_element_has_one_place_and_one_rank(
            parameters in parameters(), bucket in 1usize..3_000_000, shards in 1usize..6, scatters: bool,
        ) {
            let layout = GradientLayout::new(&parameters, Sharing { bucket, shards, own: shards - 1, scatters });
            let mut next = vec![0; parameters.len()];
            for piece in layout.pieces() {
                prop_assert_eq!(piece.elements.start, next[piece.parameter]);
                next[piece.parameter] = piece.elements.end;
                let (elements, granularity) = parameters[piece.parameter];
                match granularity {
                    Granularity::Tensor => prop_assert_eq!(piece.elements.clone(), 0..elements),
                    Granularity::Element => prop_assert!(piece.elements.start.is_multiple_of(CHUNK)),
                    Granularity::Block(block) => {
                        prop_assert!(piece.elements.start.is_multiple_of(CHUNK) && piece.elements.start.is_multiple_of(block));
                    }
                }
            }
            for (next, (elements, _)) in next.iter().zip(&parameters) {
                prop_assert_eq!(next, elements);
            }
            let mut places: Vec<_> = layout.pieces().iter().map(Piece::places).filter(|places| !places.is_empty()).collect();
            places.sort_by_key(|places| places.start);
            prop_assert!(places.windows(2).all(|pair| pair[0].end <= pair[1].start));
            prop_assert!(places.last().is_none_or(|last| last.end <= layout.length()));
            if shards == 1 {
                prop_assert_eq!(layout.length(), parameters.iter().map(|(elements, _)| elements).sum::<usize>());
            }
        }

        #[test]
        fn buckets_have_all_parameters_from_the_last_to_the_first_and_parts_have_the_pieces_of_their_rank(
            parameters in parameters(), bucket in 1usize..3_000_000, shards in 1usize..6,
        ) {
            let layout = GradientLayout::new(&parameters, Sharing { bucket, shards, own: 0, scatters: true });
            let mut end = parameters.len();
            for bucket in layout.buckets() {
                prop_assert_eq!(bucket.parameters.end, end);
                end = bucket.parameters.start;
                let inside = |outer: &Range<usize>, inner: Range<usize>| outer.start <= inner.start && inner.end <= outer.end;
                for piece in layout.pieces_of(bucket) {
                    prop_assert!(bucket.parameters.contains(&piece.parameter));
                    prop_assert!(inside(&bucket.places, piece.places()));
                    if bucket.has_parts {
                        prop_assert!(inside(&part_of(&layout, bucket, piece.shard), piece.places()));
                    }
                }
            }
            prop_assert_eq!(end, 0);
        }
    }

    #[test]
    fn ranks_update_like_numbers_of_elements_in_slices_and_in_whole_tensors() {
        for granularity in [Granularity::Element, Granularity::Tensor] {
            // Layers of a model, and an embedding.
            let mut parameters = vec![(4_000_000, granularity)];
            parameters.extend((0..96).map(|number| ([589_824, 589_824, 1_769_472, 768][number % 4], granularity)));
            let sharing = Sharing { bucket: 6_000_000, shards: 4, own: 0, scatters: true };
            let layout = GradientLayout::new(&parameters, sharing);
            let all: usize = parameters.iter().map(|(elements, _)| elements).sum();
            for shard in 0..4 {
                let own: usize = layout.of_shard(shard).iter().flatten().map(Range::len).sum();
                assert!((own as f64 * 4.0 / all as f64 - 1.0).abs() < 0.2, "{granularity:?}: {own} of {all}");
            }
        }
    }
}
