//! Checks that a communicator computes what [`Communicator`](mdt_plugin_api::Communicator) promises.

use std::time::Duration;

use mdt_plugin_api::engine::{Leaf, fold};
use mdt_plugin_api::register::Connected;
use mdt_plugin_api::{Buffer, Capabilities, Dtype, Outcome, ReduceOp, Work};

/// Lengths of buffers: none, one, odd ones below and above what backends treat as small.
const LENGTHS: [usize; 5] = [0, 1, 7, 1025, 40_003];

/// The length of a buffer of more than one chunk.
const LONG: usize = 1_300_001;

/// How long one collective may take, also on a machine that does much else.
const PATIENCE: Duration = Duration::from_secs(60);

/// Runs every collective on this rank; all ranks of the job call it. It panics with what is wrong.
///
/// Every operation is checked for every element type that the backend reduces, every length and numbers of all kinds: to the
/// bit where the backend is deterministic or the result does not depend on an order, else within the rounding of one
/// reordered sum. All ranks must have the same bits in any case.
pub fn assert_collectives(ranks: &Connected, capabilities: &Capabilities) {
    let (rank, count) = (ranks.rank(), ranks.world_size());
    assert!(capabilities.dtypes.contains(&Dtype::F32) && capabilities.dtypes.contains(&Dtype::F64));
    for &dtype in &capabilities.dtypes {
        for &op in &capabilities.ops {
            let long = (dtype == Dtype::F32 && op == ReduceOp::Sum).then_some(LONG);
            let lengths = || LENGTHS.into_iter().chain(long);
            let brought = |rank| lengths().map(|length| elements(dtype, rank, length)).collect::<Vec<_>>();
            let reduced = done(ranks.all_reduce(brought(rank), op));
            let everyone: Vec<Vec<Buffer>> = (0..count).map(brought).collect();
            for (place, result) in reduced.iter().enumerate() {
                let leaves: Vec<Buffer> = everyone.iter().map(|rank| rank[place].clone()).collect();
                assert_reduced(result, &leaves, op, capabilities.deterministic);
            }
            assert_same_everywhere(ranks, &reduced);
            if let Some(able) = &ranks.reduce_scatter {
                let part = if dtype == Dtype::F32 { 30_001 } else { 3 };
                let length = part * count as usize;
                let result = done(able.reduce_scatter(elements(dtype, rank, length), op)).remove(0);
                let leaves: Vec<Buffer> = (0..count).map(|rank| elements(dtype, rank, length)).collect();
                let own = part * rank as usize..part * (rank as usize + 1);
                let of = |buffer: &Buffer| {
                    let size = dtype.size();
                    Buffer::copy_of(dtype, &buffer.bytes()[own.start * size..own.end * size]).expect("whole elements")
                };
                let leaves: Vec<Buffer> = leaves.iter().map(of).collect();
                assert_reduced(&of(&result), &leaves, op, capabilities.deterministic);
            }
        }
    }
    special_numbers(ranks, capabilities);
    copies(ranks);
    several_under_way(ranks);
    assert!(done(ranks.barrier()).is_empty());
}

/// Infinities, zeros of both signs, the smallest numbers, and what is no number on one rank only.
fn special_numbers(ranks: &Connected, capabilities: &Capabilities) {
    let (rank, count) = (ranks.rank(), ranks.world_size());
    const NUMBERS: [f32; 8] = [f32::INFINITY, f32::NEG_INFINITY, 0.0, -0.0, 1e-45, -1e-45, f32::MAX, 1.0];
    let all: Vec<f32> = NUMBERS.iter().flat_map(|_| NUMBERS).collect();
    let brought = |rank: u32| -> Buffer {
        match rank {
            0 => NUMBERS.iter().flat_map(|number| [*number; NUMBERS.len()]).collect::<Vec<_>>().into(),
            1 => all.clone().into(),
            _ => vec![1.0f32; all.len()].into(),
        }
    };
    for &op in &capabilities.ops {
        let result = done(ranks.all_reduce(vec![brought(rank)], op)).remove(0);
        let leaves: Vec<Buffer> = (0..count).map(brought).collect();
        assert_reduced(&result, &leaves, op, capabilities.deterministic || count == 2);
        for place in 0..count {
            let own = if rank == place { f32::NAN } else { 1.0 };
            let result = done(ranks.all_reduce(vec![vec![own; 3].into(), vec![1.0f32; 3].into()], op));
            let is_nan = |buffer: &Buffer| buffer.as_slice::<f32>().expect("f32").iter().all(|value| value.is_nan());
            assert!(is_nan(&result[0]) && !is_nan(&result[1]), "{op:?} with NaN on rank {place}: {result:?}");
        }
    }
}

/// Broadcasts and gathers move every pattern of bits.
fn copies(ranks: &Connected) {
    let (rank, count) = (ranks.rank(), ranks.world_size());
    let patterns = |rank: u32, length: usize| {
        Buffer::from((0..length).map(|place| (place as u32).wrapping_mul(0x9e37_79b9) ^ rank).collect::<Vec<u32>>())
    };
    for root in 0..count {
        let brought = |rank| {
            let floats = Buffer::copy_of(Dtype::F32, patterns(rank, 3001).bytes()).expect("whole elements");
            vec![patterns(rank, LONG), Buffer::from(Vec::<f64>::new()), floats, vec![rank as u8 + 1].into()]
        };
        assert_eq!(done(ranks.broadcast(brought(rank), root)), brought(root), "broadcast from rank {root}");
    }
    let length = |rank: u32| [5, 0, LONG, 1][rank as usize % 4];
    let gathered = done(ranks.all_gather(patterns(rank, length(rank))));
    assert!(gathered == (0..count).map(|rank| patterns(rank, length(rank))).collect::<Vec<_>>(), "all_gather");
    let nothing = done(ranks.all_gather(Vec::<u8>::new().into()));
    assert_eq!(nothing, vec![Vec::<u8>::new().into(); count as usize]);
}

fn several_under_way(ranks: &Connected) {
    let length = |place: usize| [5, 100_000, 0, 300_001][place % 4];
    let begin = |place: usize| ranks.all_reduce(vec![vec![place as f64; length(place)].into()], ReduceOp::Sum);
    let works: Vec<_> = (0..8).map(begin).collect();
    for (place, work) in works.into_iter().enumerate().rev() {
        let expected = vec![f64::from(ranks.world_size()) * place as f64; length(place)];
        assert_eq!(done(work), [expected.into()], "collective {place} of several");
    }
}

/// All ranks must have these bits.
fn assert_same_everywhere(ranks: &Connected, buffers: &[Buffer]) {
    let bytes = buffers.iter().flat_map(Buffer::bytes);
    let digest =
        bytes.fold(0xcbf2_9ce4_8422_2325u64, |hash, byte| (hash ^ u64::from(*byte)).wrapping_mul(0x0100_0000_01b3));
    let digests = done(ranks.all_gather(vec![digest].into()));
    assert!(digests.iter().all(|other| *other == digests[0]), "ranks have different bits: {digests:?}");
}

fn assert_reduced(result: &Buffer, leaves: &[Buffer], op: ReduceOp, exact: bool) {
    let mut folded = leaves[0].clone();
    let bytes: Vec<Leaf<'_>> = leaves.iter().map(|leaf| Some(leaf.bytes())).collect();
    fold(result.dtype(), op, folded.bytes_mut(), &bytes).expect("equal lengths");
    let (expected, what) = (&folded, format!("{op:?} of {result:?} over {} ranks", leaves.len()));
    assert_eq!((result.dtype(), result.len()), (expected.dtype(), expected.len()), "{what}");
    let tolerance = match result.dtype() {
        Dtype::F32 => f64::from(f32::EPSILON),
        Dtype::F64 => f64::EPSILON,
        Dtype::BF16 => 1.0 / 128.0,
        Dtype::F16 => 1.0 / 1024.0,
        _ => 0.0,
    };
    if tolerance == 0.0 {
        return assert!(result == expected, "{what}");
    }
    let exact = exact || op != ReduceOp::Sum;
    let (found, wanted) = (values(result), values(expected));
    for place in 0..found.len() {
        let (found, wanted) = (found[place], wanted[place]);
        // What is not a number has no bits to compare, and a maximum may be a zero of either sign.
        let same = match op {
            ReduceOp::Sum => found.to_bits() == wanted.to_bits(),
            _ => found == wanted,
        };
        let magnitude: f64 = leaves.iter().map(|leaf| values_at(leaf, place).abs()).sum();
        let near = !exact && (found - wanted).abs() <= tolerance * magnitude * leaves.len() as f64;
        assert!(same || near || found.is_nan() && wanted.is_nan(), "{what}: element {place} is {found}, not {wanted}");
    }
}

/// Its elements as f64.
fn values(buffer: &Buffer) -> Vec<f64> {
    (0..buffer.len()).map(|place| values_at(buffer, place)).collect()
}

fn values_at(buffer: &Buffer, place: usize) -> f64 {
    let size = buffer.dtype().size();
    let bytes = &buffer.bytes()[place * size..(place + 1) * size];
    let word = |bytes: &[u8]| {
        let mut word = [0; 8];
        word[..bytes.len()].copy_from_slice(bytes);
        u64::from_le_bytes(word)
    };
    let word = word(bytes);
    match buffer.dtype() {
        Dtype::F32 => f32::from_bits(word as u32).into(),
        Dtype::F64 => f64::from_bits(word),
        Dtype::BF16 => half::bf16::from_bits(word as u16).into(),
        Dtype::F16 => half::f16::from_bits(word as u16).into(),
        other => unreachable!("{other} is compared by its bits"),
    }
}

/// What a rank brings: numbers of very different sizes, so that every order of additions has other bits.
fn elements(dtype: Dtype, rank: u32, length: usize) -> Buffer {
    let mut state = u64::from(rank).wrapping_mul(0x9e37_79b9_7f4a_7c15) + length as u64 + 1;
    let mut next = || {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        state
    };
    let mut number = || {
        let bits = next();
        ((bits >> 40) as f64 / f64::from(1 << 24) - 0.5) * 2f64.powi((bits >> 34 & 15) as i32 - 4)
    };
    match dtype {
        Dtype::F32 => (0..length).map(|_| number() as f32).collect::<Vec<_>>().into(),
        Dtype::F64 => (0..length).map(|_| number()).collect::<Vec<_>>().into(),
        Dtype::BF16 => (0..length).map(|_| half::bf16::from_f64(number())).collect::<Vec<_>>().into(),
        Dtype::F16 => (0..length).map(|_| half::f16::from_f64(number())).collect::<Vec<_>>().into(),
        _ => {
            let bytes: Vec<u8> = (0..length * dtype.size()).map(|_| (next() >> 56) as u8).collect();
            Buffer::copy_of(dtype, &bytes).expect("whole elements")
        }
    }
}

fn done(work: mdt_plugin_api::Result<Box<dyn Work>>) -> Vec<Buffer> {
    let outcome = work.and_then(|mut work| work.wait(PATIENCE));
    match outcome {
        Ok(Outcome::Done(buffers)) => buffers,
        Ok(Outcome::TimedOut) => panic!("a collective takes longer than {PATIENCE:?}"),
        Err(error) => panic!("a collective failed: {error}"),
    }
}
