//! What a communication backend may not give back is an error that names it, and memory is nobody else's while it has it.

use std::sync::{Arc, Mutex};
use std::time::Duration;

use super::across;
use crate::register::{Backend, Connected, Connects};
use crate::{
    Bootstrap, Buffer, Capabilities, CommBackend, CommRegions, Communicator, Dtype, ErrorCode, Finished, Outcome,
    ReduceOp, ReduceScatter, Region, Result, Work,
};

/// The second of two ranks, whose peer has the same elements. `tricks` says what it does wrong.
#[derive(Clone, Default)]
struct Mirror {
    tricks: Arc<Mutex<Vec<&'static str>>>,
    kept: Arc<Mutex<Vec<Buffer>>>,
    own: Arc<Mutex<Option<Region>>>,
}

impl Mirror {
    fn does(&self, trick: &str) -> bool {
        self.tricks.lock().unwrap().contains(&trick)
    }

    fn work(&self, mut buffers: Vec<Buffer>) -> Result<Box<dyn Work>> {
        if self.does("give another buffer") {
            buffers[0] = buffers[0].clone();
        }
        if self.does("give one less") {
            buffers.pop();
        }
        if self.does("keep what it was given") {
            self.kept.lock().unwrap().append(&mut buffers);
        }
        Ok(Box::new(Finished(Some(buffers))))
    }
}

impl CommBackend for Mirror {
    fn capabilities(&self) -> Result<Capabilities> {
        Ok(Capabilities { dtypes: vec![Dtype::F32], max_world_size: 2, deterministic: true, ..Capabilities::default() })
    }

    type Communicator = Self;

    fn open(&self, _bootstrap: &Bootstrap) -> Result<Self> {
        Ok(self.clone())
    }
}

impl Communicator for Mirror {
    fn rank(&self) -> u32 {
        1
    }

    fn world_size(&self) -> u32 {
        if self.does("say another size") { 3 } else { 2 }
    }

    fn all_reduce(&self, mut buffers: Vec<Buffer>, _op: ReduceOp) -> Result<Box<dyn Work>> {
        for buffer in &mut buffers {
            buffer.as_mut_slice::<f32>()?.iter_mut().for_each(|element| *element *= 2.0);
        }
        self.work(buffers)
    }

    fn all_gather(&self, buffer: Buffer) -> Result<Box<dyn Work>> {
        let other = match self.does("gather another type") {
            true => Buffer::from(vec![0u8]),
            false => buffer.clone(),
        };
        let own = if self.does("give one less") { Buffer::from(vec![0f32]) } else { buffer };
        Ok(Box::new(Finished(Some(vec![other, own]))))
    }

    fn broadcast(&self, buffers: Vec<Buffer>, _root: u32) -> Result<Box<dyn Work>> {
        self.work(buffers)
    }

    fn barrier(&self) -> Result<Box<dyn Work>> {
        self.work(Vec::new())
    }

    fn abort(&self, _reason: &str) {}
}

impl CommRegions for Mirror {
    fn region(&self, bytes: usize) -> Result<Region> {
        let words = if self.does("give too little") { 1 } else { bytes.div_ceil(8) };
        let region = Region::of(vec![0u64; words]);
        *self.own.lock().unwrap() = Some(region.clone());
        Ok(region)
    }
}

impl ReduceScatter for Mirror {
    fn reduce_scatter(&self, buffer: Buffer, op: ReduceOp) -> Result<Box<dyn Work>> {
        self.all_reduce(vec![buffer], op)
    }
}

fn bootstrap() -> Bootstrap {
    Bootstrap { rank: 1, world_size: 2, ..Bootstrap::default() }
}

/// A backend that has all abilities, but for those that its tricks take away.
fn able(mirror: &Mirror) -> Box<dyn Connects> {
    Box::new(Backend(mirror.clone(), |made: Arc<Mirror>| Connected {
        reduce_scatter: (!made.does("reduce in one piece only")).then(|| made.clone() as _),
        point_to_point: None,
        regions: (!made.does("have no memory")).then(|| made.clone() as _),
        collectives: made,
    }))
}

fn loaded(tricks: &[&'static str]) -> (Mirror, Result<Connected>) {
    let mirror = Mirror::default();
    mirror.tricks.lock().unwrap().extend(tricks);
    let opened = across::comm(able(&mirror)).unwrap().open(&bootstrap());
    (mirror, opened)
}

fn done(work: Result<Box<dyn Work>>) -> Result<Vec<Buffer>> {
    let mut work = work?;
    loop {
        if let Outcome::Done(buffers) = work.wait(Duration::ZERO)? {
            return Ok(buffers);
        }
    }
}

#[test]
fn what_a_backend_may_not_give_back_is_an_error_that_names_it() {
    let reduce = |trick| {
        let (_, communicator) = loaded(&[trick]);
        let buffers = vec![vec![1.0f32].into(), vec![2.0f32].into()];
        done(communicator.unwrap().all_reduce(buffers, ReduceOp::Sum)).unwrap_err()
    };
    let gather = |trick| done(loaded(&[trick]).1.unwrap().all_gather(vec![1.0f32, 2.0].into())).unwrap_err();
    for (error, part) in [
        (reduce("give another buffer"), "another buffer back than it was given: number 0, float32 × 1"),
        (reduce("give one less"), "gave 1 buffers back, not 2"),
        (reduce("keep what it was given"), "gave 0 buffers back, not 2"),
        (gather("gather another type"), "all_gather of float32 gave uint8 × 1 for rank 0"),
        (gather("give one less"), "gave 4 bytes for this rank, which has given 8"),
        (loaded(&["say another size"]).1.err().unwrap(), "rank 1 of 2, the communicator says that it is rank 1 of 3"),
    ] {
        assert!(error.message().contains(part), "{error}");
        assert_eq!((error.code(), error.component()), (ErrorCode::Plugin, Some("component under test")));
    }
}

#[test]
fn memory_of_the_communicator_is_lent_by_the_host_and_found_again() {
    let (mirror, communicator) = loaded(&["keep what it was given"]);
    let communicator = communicator.unwrap();
    let region = communicator.regions.as_ref().unwrap().region(40).unwrap();
    assert!(mirror.own.lock().unwrap().as_ref().unwrap().buffer::<u64>(0..1).is_err(), "the host has it");
    let lent = region.buffer::<u64>(2..4).unwrap();
    assert!(done(communicator.broadcast(vec![lent], 0)).is_err());
    let own = mirror.own.lock().unwrap().take().unwrap();
    let kept = mirror.kept.lock().unwrap().pop().unwrap();
    assert_eq!(own.offset_of(&kept), Some(16));
    assert_eq!(own.offset_of(&vec![0u64].into()), None);
    drop((kept, region));
    assert!(own.buffer::<u64>(0..5).is_ok(), "the host has given it back");

    let error = loaded(&["give too little"]).1.unwrap().regions.unwrap().region(40).unwrap_err();
    assert!(error.message().contains("asked for memory of 40 aligned bytes, it gave a region of 8 bytes"), "{error}");
    assert_eq!(error.component(), Some("component under test"));
}

#[test]
fn an_ability_is_there_only_where_the_communicator_has_it() {
    assert!(loaded(&[]).1.unwrap().reduce_scatter.is_some());
    assert!(loaded(&["reduce in one piece only"]).1.unwrap().reduce_scatter.is_none());
    assert!(loaded(&["have no memory"]).1.unwrap().regions.is_none());
}

#[test]
fn memory_stays_taken_for_as_long_as_a_backend_has_it_and_longer_when_the_work_is_forgotten() {
    let region = Region::of(vec![1.0f32; 6]);
    let (mirror, communicator) = loaded(&["keep what it was given"]);
    let communicator = communicator.unwrap();
    assert!(done(communicator.all_reduce(vec![region.buffer::<f32>(0..2).unwrap()], ReduceOp::Sum)).is_err());
    assert!(region.buffer::<f32>(1..2).is_err(), "the backend has it, whatever it says");
    mirror.kept.lock().unwrap().clear();
    assert_eq!(region.buffer::<f32>(0..2).unwrap().as_slice::<f32>().unwrap(), [2.0, 2.0]);

    mirror.tricks.lock().unwrap().clear();
    std::mem::forget(communicator.broadcast(vec![region.buffer::<f32>(2..4).unwrap()], 0).unwrap());
    drop(communicator.broadcast(vec![region.buffer::<f32>(4..6).unwrap()], 0).unwrap());
    drop(communicator);
    assert!(region.buffer::<f32>(2..4).is_err());
    assert_eq!(region.buffer::<f32>(4..6).unwrap().len(), 2);
    assert!(region.into_vec::<f32>().is_err(), "it stays alive");
}

#[test]
fn results_lie_in_the_memory_that_was_given_on_both_sides() {
    let (_, communicator) = loaded(&[]);
    let communicator = communicator.unwrap();
    let region = Region::of(vec![1.0f32; 4]);
    for round in 1..=3 {
        let buffer = region.buffer::<f32>(1..3).unwrap();
        let place = buffer.place();
        let reduced = done(communicator.all_reduce(vec![buffer], ReduceOp::Sum)).unwrap();
        assert_eq!(reduced[0].place(), place);
        // What was given back can be given again.
        let again = done(communicator.broadcast(reduced, 0)).unwrap();
        assert_eq!(again[0].as_slice::<f32>().unwrap(), [2f32.powi(round); 2]);
    }
    assert_eq!(region.into_vec::<f32>().unwrap(), [1.0, 8.0, 8.0, 1.0]);
}
