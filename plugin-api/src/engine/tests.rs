//! What a backend over a blocking library may rely on.

use std::sync::atomic::AtomicBool;
use std::time::Instant;

use proptest::prelude::*;

use super::*;
use crate::{Dtype, Setup, bf16, f16};

/// The tree as its definition has it.
fn tree(leaves: &[f32]) -> f32 {
    match leaves {
        [leaf] => *leaf,
        leaves => {
            let (left, right) = leaves.split_at(leaves.len().next_power_of_two() / 2);
            tree(left) + tree(right)
        }
    }
}

/// Folds elements of one type, one vector per rank: the same bits, whichever rank folds, also one that has none of them.
fn folded<T: crate::Element>(op: ReduceOp, ranks: &[Vec<T>]) -> Vec<T> {
    let ranks: Vec<Buffer> = ranks.iter().map(|rank| Buffer::from(rank.clone())).collect();
    let by = |own: Option<usize>| {
        let leaves: Vec<Leaf<'_>> =
            ranks.iter().enumerate().map(|(rank, leaf)| (own != Some(rank)).then_some(leaf.bytes())).collect();
        let mut result = ranks[own.unwrap_or(0)].clone();
        fold(T::DTYPE, op, result.bytes_mut(), &leaves).unwrap();
        result
    };
    let result = by(None);
    for own in 0..ranks.len() {
        assert_eq!(by(Some(own)).bytes(), result.bytes(), "{op:?} by rank {own}");
    }
    result.as_slice::<T>().unwrap().to_vec()
}

proptest! {
    #[test]
    fn any_number_of_ranks_is_folded_by_the_tree(
        ranks in (1usize..=20).prop_flat_map(|count| {
            prop::collection::vec(prop::collection::vec(-1e3f32..1e3, BLOCK_AND_MORE), count)
        }),
    ) {
        for (index, sum) in folded(ReduceOp::Sum, &ranks).into_iter().enumerate() {
            let leaves: Vec<f32> = ranks.iter().map(|rank| rank[index]).collect();
            prop_assert_eq!(sum.to_bits(), tree(&leaves).to_bits());
        }
    }
}

/// Elements of one and a bit of the blocks that are folded at once.
const BLOCK_AND_MORE: usize = 521;

#[test]
fn every_type_and_reduction_has_its_result() {
    use ReduceOp::{Max, Mean, Min, Sum};
    assert_eq!(folded(Sum, &[vec![u64::MAX, 1], vec![2, 1]]), [1, 2], "integers wrap around");
    assert_eq!(folded(Sum, &[vec![i32::MAX], vec![1]]), [i32::MIN]);
    assert_eq!(folded(Min, &[vec![-3i64], vec![5]]), [-3]);
    assert_eq!(folded(Max, &[vec![-3i32], vec![5]]), [5]);
    assert_eq!(folded(Max, &[vec![u32::MAX], vec![2], vec![3]]), [u32::MAX]);
    assert_eq!(folded(Mean, &[vec![1.0f32], vec![2.0], vec![4.5]]), [2.5]);
    assert_eq!(folded(Mean, &[vec![-7i64], vec![2]]), [-2], "rounded towards zero");
    assert_eq!(folded(Sum, &[vec![f64::MAX], vec![f64::MAX]]), [f64::INFINITY]);
    assert_eq!(folded(Sum, &[vec![-0.0f32], vec![-0.0]])[0].to_bits(), (-0.0f32).to_bits());
    let denormal = f32::from_bits(1);
    assert_eq!(folded(Sum, &[vec![denormal], vec![denormal]]), [f32::from_bits(2)]);
    for op in [Sum, Max, Min, Mean] {
        for place in 0..3 {
            let mut ranks = vec![vec![1.0f32]; 3];
            ranks[place][0] = f32::NAN;
            assert!(folded(op, &ranks)[0].is_nan(), "{op:?} with NaN on rank {place}");
        }
    }
    let mut sums = [9i32, -9].map(i32::to_ne_bytes).concat();
    divide(Dtype::I32, &mut sums, 2).unwrap();
    assert_eq!(sums, [4i32, -4].map(i32::to_ne_bytes).concat());
}

#[test]
fn halves_are_folded_in_single_precision_and_rounded_once() {
    let bf16s = |values: [f32; 4]| values.map(|value| vec![bf16::from_f32(value)]);
    assert_eq!(folded(ReduceOp::Sum, &bf16s([256.0, 1.0, 0.0, 0.0]))[0].to_f32(), 256.0, "rounded to 8 bits");
    assert_eq!(folded(ReduceOp::Sum, &bf16s([256.0, 1.0, 1.0, 1.0]))[0].to_f32(), 260.0, "each step would give 256");
    assert_eq!(folded(ReduceOp::Mean, &bf16s([1.0, 2.0, 1.0, 2.0]))[0].to_f32(), 1.5);
    let f16s = |values: [f32; 4]| values.map(|value| vec![f16::from_f32(value)]);
    assert_eq!(folded(ReduceOp::Sum, &f16s([2048.0, 1.0, 1.0, 1.0]))[0].to_f32(), 2052.0);
    assert_eq!(folded(ReduceOp::Sum, &[vec![f16::MAX], vec![f16::MAX]]), [f16::INFINITY]);
}

#[test]
fn memory_that_is_not_aligned_and_ranks_of_other_lengths() {
    let (mut own, theirs) = ([0; 9], [0, 0, 0, 128, 63, 0, 0, 0, 64]);
    own[1..5].copy_from_slice(&2f32.to_ne_bytes());
    fold(Dtype::F32, ReduceOp::Sum, &mut own[1..5], &[None, Some(&theirs[1..5])]).unwrap();
    assert_eq!(own[1..5], 3f32.to_ne_bytes());
    for (own, theirs) in [(4..8, 0..8), (0..3, 0..3)] {
        let theirs = &[0; 9][theirs];
        assert!(fold(Dtype::F32, ReduceOp::Sum, &mut [0; 9][own], &[None, Some(theirs)]).is_err());
    }
    assert!(fold(Dtype::BOOL, ReduceOp::Sum, &mut [1], &[None]).is_err());
}

/// An engine of one rank, which panics when it is to broadcast, and hangs when it is to reduce many elements.
struct Alone(Arc<AtomicBool>);

impl Engine for Alone {
    fn gather(&mut self, own: &[u8], all: &mut [u8], course: &Course) -> Result<()> {
        if own.len() > 1000 {
            thread::sleep(Duration::from_secs(60));
        }
        all.copy_from_slice(own);
        course.moved(own.len());
        Ok(())
    }

    fn broadcast(&mut self, _: &mut [Buffer], _: u32, _: &Course) -> Result<()> {
        panic!("out of luck")
    }

    fn abort(&mut self, _: &str) {
        self.0.store(true, Ordering::SeqCst);
    }
}

fn start<E: Engine + 'static>(
    rank: u32,
    world_size: u32,
    connect: impl FnOnce() -> Result<E> + Send + 'static,
) -> Result<EngineThread> {
    let bootstrap = Bootstrap { rank, world_size, ..Bootstrap::default() };
    EngineThread::start("test", &bootstrap, &Setup::default().services, Duration::from_millis(200), connect)
}

fn alone(told: &Arc<AtomicBool>) -> EngineThread {
    let told = Arc::clone(told);
    start(0, 1, move || Ok(Alone(told))).unwrap()
}

#[test]
fn a_call_that_hangs_is_waited_for_with_a_deadline_and_an_abort_ends_the_waiting_at_once() {
    let communicator = alone(&Arc::default());
    let mut hangs = communicator.all_reduce(vec![vec![1u64; 1000].into()], ReduceOp::Sum).unwrap();
    assert!(matches!(hangs.wait(Duration::from_millis(20)).unwrap(), Outcome::TimedOut));
    let begin = Instant::now();
    thread::scope(|scope| {
        scope.spawn(|| communicator.abort("enough"));
        let error = hangs.wait(Duration::from_secs(60)).unwrap_err();
        assert_eq!(error.message(), "rank 0 aborted: enough");
    });
    assert_eq!(communicator.barrier().err().unwrap().message(), "rank 0 aborted: enough");
    drop(communicator);
    assert!(begin.elapsed() < Duration::from_secs(30));
}

#[test]
fn a_panic_of_the_engine_is_the_error_of_this_and_all_later_collectives_and_others_can_be_told() {
    let told = Arc::default();
    let communicator = alone(&told);
    let mut done = communicator.all_reduce(vec![vec![1.0f32].into()], ReduceOp::Sum).unwrap();
    assert!(matches!(done.wait(Duration::from_secs(60)).unwrap(), Outcome::Done(buffers) if buffers.len() == 1));
    assert!(done.progress() > 4);
    let mut panics = communicator.broadcast(Vec::new(), 0).unwrap();
    let error = panics.wait(Duration::from_secs(60)).unwrap_err();
    assert_eq!(error.message(), "the engine panicked: out of luck");
    assert_eq!(communicator.barrier().err().unwrap().message(), error.message());
    communicator.abort("enough");
    drop(communicator);
    assert!(told.load(Ordering::SeqCst));
}

#[test]
fn ranks_that_do_not_come_are_given_up_in_time() {
    let never = || -> Result<Alone> {
        thread::sleep(Duration::from_secs(60));
        Err(Error::other("too late"))
    };
    let error = start(0, 2, never).err().unwrap();
    assert_eq!(error.message(), "rank 0 has not met the other ranks over test within 0.2 s");
    assert_eq!(error.code(), ErrorCode::Peer);
}

/// Ranks that are threads, and gather through what they share.
struct Threads {
    rank: usize,
    shared: Arc<(std::sync::Barrier, Mutex<Vec<Vec<u8>>>)>,
}

impl Engine for Threads {
    fn gather(&mut self, own: &[u8], all: &mut [u8], _: &Course) -> Result<()> {
        let (barrier, ranks) = &*self.shared;
        ranks.lock().unwrap()[self.rank] = own.to_vec();
        barrier.wait();
        all.copy_from_slice(&ranks.lock().unwrap().concat());
        barrier.wait();
        Ok(())
    }

    fn broadcast(&mut self, buffers: &mut [Buffer], root: u32, course: &Course) -> Result<()> {
        for buffer in buffers {
            let mut all = vec![0; buffer.bytes().len() * course.world_size()];
            self.gather(buffer.bytes(), &mut all, course)?;
            let from = root as usize * buffer.bytes().len();
            let length = buffer.bytes().len();
            buffer.bytes_mut().copy_from_slice(&all[from..from + length]);
        }
        Ok(())
    }
}

/// What each of so many ranks gets.
fn on_ranks<T: Send>(count: usize, body: impl Fn(&EngineThread) -> T + Sync) -> Vec<T> {
    let shared = Arc::new((std::sync::Barrier::new(count), Mutex::new(vec![Vec::new(); count])));
    thread::scope(|scope| {
        let (shared, body) = (&shared, &body);
        let rank = move |rank| {
            let engine = Threads { rank, shared: Arc::clone(shared) };
            body(&start(rank as u32, count as u32, move || Ok(engine)).unwrap())
        };
        let ranks: Vec<_> = (0..count).map(|number| scope.spawn(move || rank(number))).collect();
        ranks.into_iter().map(|rank| rank.join().unwrap()).collect()
    })
}

fn done(work: Result<Box<dyn Work>>) -> Result<Vec<Buffer>> {
    match work?.wait(Duration::from_secs(60))? {
        Outcome::Done(buffers) => Ok(buffers),
        Outcome::TimedOut => panic!("it takes too long"),
    }
}

#[test]
fn whoever_can_gather_and_broadcast_has_all_collectives() {
    let numbers = |rank: u32| vec![rank as f32 + 0.1; 1_100_000];
    let expected = (0.1f32 + 1.1) + 2.1;
    let results = on_ranks(3, |ranks| {
        let rank = ranks.rank();
        let sums = done(ranks.all_reduce(vec![numbers(rank).into(), Vec::<f64>::new().into()], ReduceOp::Sum)).unwrap();
        assert_eq!(sums[0].as_slice::<f32>().unwrap(), vec![expected; 1_100_000]);
        let gathered = done(ranks.all_gather(vec![rank; [0, 1_500_000, 3][rank as usize]].into())).unwrap();
        let own = done(ranks.broadcast(vec![vec![u64::from(rank)].into()], 2)).unwrap();
        assert_eq!(own, [vec![2u64].into()]);
        assert!(done(ranks.barrier()).unwrap().is_empty());
        let part = done(ranks.reduce_scatter(vec![rank; 3].into(), ReduceOp::Max)).unwrap();
        assert_eq!(part[0].as_slice::<u32>().unwrap()[rank as usize], 2);
        gathered
    });
    let expected: Vec<Buffer> = (0..3u32).map(|rank| vec![rank; [0, 1_500_000, 3][rank as usize]].into()).collect();
    assert_eq!(results, vec![expected; 3]);
}

#[test]
fn ranks_that_call_different_collectives_are_all_told_what_each_called() {
    let messages = on_ranks(3, |ranks| {
        let floats = |length| vec![Buffer::from(vec![0f32; length])];
        let other = if ranks.rank() == 1 { ranks.barrier() } else { ranks.all_reduce(floats(8), ReduceOp::Sum) };
        done(other).unwrap_err().message().to_owned()
    });
    let said = "collective number 1 differs between ranks: rank 0 called all_reduce(sum) of float32 × 8, rank 1 called barrier";
    assert_eq!(messages, [said; 3]);
    let messages = on_ranks(2, |ranks| {
        let length = 5 + ranks.rank() as usize;
        done(ranks.all_reduce(vec![vec![0f32; length].into()], ReduceOp::Sum)).unwrap_err().message().to_owned()
    });
    assert!(messages[0].contains("float32 × 5, rank 1 called all_reduce(sum) of float32 × 6"), "{messages:?}");
}
