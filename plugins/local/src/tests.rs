//! What a job of one process may rely on.

use std::sync::Arc;
use std::time::Duration;

use mdt_plugin_api::abi::across;
use mdt_plugin_api::register::{Backend, Connected, Connects};

use super::*;

fn alone() -> Bootstrap {
    Bootstrap { world_size: 1, ..Bootstrap::default() }
}

fn backend() -> Box<dyn Connects> {
    let abilities = |ranks: Arc<OneProcess>| Connected { reduce_scatter: Some(ranks.clone()), ..Connected::new(ranks) };
    across::comm(Box::new(Backend(Local, abilities))).unwrap()
}

fn communicator() -> Connected {
    backend().open(&alone()).unwrap()
}

/// The buffers of a collective that must be done already.
fn done(work: Result<Box<dyn Work>>) -> Vec<Buffer> {
    match work.unwrap().wait(Duration::ZERO).unwrap() {
        Outcome::Done(buffers) => buffers,
        Outcome::TimedOut => panic!("not done at once"),
    }
}

#[test]
fn collectives_of_one_rank_are_done_at_once_and_give_back_what_they_got() {
    let communicator = communicator();
    assert_eq!((communicator.rank(), communicator.world_size()), (0, 1));

    let buffers = || vec![vec![1.5f32, -0.0].into(), vec![f64::MAX].into(), Buffer::from(vec![u64::MAX])];
    for op in [ReduceOp::Sum, ReduceOp::Max, ReduceOp::Min, ReduceOp::Mean] {
        assert_eq!(done(communicator.all_reduce(buffers(), op)), buffers());
    }
    assert_eq!(done(communicator.broadcast(buffers(), 0)), buffers());
    assert_eq!(done(communicator.all_gather(vec![7u8].into())), [vec![7u8].into()]);
    let able = communicator.reduce_scatter.as_ref().unwrap();
    assert_eq!(done(able.reduce_scatter(vec![1.5f32].into(), ReduceOp::Sum)), [vec![1.5f32].into()]);
    assert_eq!(done(communicator.barrier()), []);
}

#[test]
fn gradients_are_given_back_without_a_copy() {
    let gradients = vec![1.0f32; 1000];
    let address = gradients.as_ptr();
    let region = Region::of(gradients);
    let reduced = done(communicator().all_reduce(vec![region.buffer::<f32>(0..1000).unwrap()], ReduceOp::Sum));
    assert_eq!(reduced[0].as_slice::<f32>().unwrap().as_ptr(), address);
    drop(reduced);
    let gradients = region.into_vec::<f32>().unwrap();
    assert_eq!(gradients.as_ptr(), address);
}

#[test]
fn more_than_one_process_is_refused_with_advice() {
    let error = Local.open(&Bootstrap { world_size: 4, ..alone() }).err().unwrap();
    assert_eq!(error.code(), ErrorCode::Config);
    assert_eq!(error.message(), "the backend `local` is for one process: world_size must be 1, not 4");
    assert!(error.context().iter().any(|(key, value)| key == "help" && value.contains("comm = \"grpc\"")));

    let error = Local.open(&Bootstrap { rank: 2, ..alone() }).err().unwrap();
    assert_eq!(error.message(), "the only rank of one process is 0, not 2");
}

#[test]
fn what_would_be_wrong_among_many_ranks_is_wrong_alone_too() {
    let error = communicator().broadcast(Vec::new(), 1).err().unwrap();
    assert_eq!(error.message(), "the root of a broadcast among 1 rank must be 0, not 1");
    let error = communicator().all_reduce(vec![vec![1u8].into()], ReduceOp::Sum).err().unwrap();
    assert_eq!(error.message(), "uint8 cannot be reduced, only broadcast and gathered");
}
