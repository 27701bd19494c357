//! What a comm plugin provides: collectives between the processes of a job.

use std::time::Duration;

use crate::{Dtype, Result};

/// What a backend can do; the host refuses a configuration that needs more, and names it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Capabilities {
    /// Element types that it reduces.
    pub dtypes: Vec<Dtype>,
    /// The largest number of ranks; 0 for no limit.
    pub max_world_size: u32,
    /// Whether a fold gives the bits of the pairwise tree over ranks, whatever the timing.
    pub deterministic: bool,
    /// Whether [`Communicator::abort`] ends collectives under way.
    pub abort: bool,
}

/// Who this process is.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Bootstrap {
    /// This process, from 0.
    pub rank: u32,
    /// How many there are.
    pub world_size: u32,
    /// Where they meet, in the backend's terms.
    pub address: String,
    /// The port there, where the backend has ports.
    pub port: u16,
    /// The same for all processes of a job and for no others.
    pub job: String,
}

/// How elements are combined.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u32)]
pub enum ReduceOp {
    /// Sum, folded by the pairwise tree over ranks where the backend is deterministic.
    Sum = 1,
    /// Maximum.
    Max = 2,
    /// Minimum.
    Min = 3,
}

/// A buffer that a collective works on. It is given away while the collective runs and comes back with the result,
/// so nobody can touch it in between.
#[derive(Clone, Debug, PartialEq)]
pub enum Buffer {
    /// Single precision: gradients.
    F32(Vec<f32>),
    /// Double precision: losses, weights, norms.
    F64(Vec<f64>),
    /// Counts.
    U64(Vec<u64>),
    /// Bytes, for broadcast and gather only.
    Bytes(Vec<u8>),
}

/// What became of a collective.
#[derive(Debug)]
pub enum Outcome {
    /// Done: the buffers with the result.
    Done(Vec<Buffer>),
    /// Not done within the time; the work goes on and can be waited for again.
    TimedOut,
}

/// A collective under way. Any thread, one at a time. Dropping it cancels it.
pub trait Work: Send {
    /// Whether [`Work::wait`] would return at once.
    fn poll(&mut self) -> bool;

    /// Waits for the result, at most `deadline`.
    ///
    /// # Errors
    /// A lost peer or a failed transfer; the error's context has `rank` where one is to blame. After it the work is
    /// over and the buffers are gone.
    fn wait(&mut self, deadline: Duration) -> Result<Outcome>;
}

/// The processes of a job, connected.
///
/// All ranks call the same collectives in the same order, from one thread at a time. `abort` may come from any thread.
pub trait Communicator: Send + Sync {
    /// This process, from 0.
    fn rank(&self) -> u32;

    /// How many there are.
    fn world_size(&self) -> u32;

    /// Combines every rank's buffers element by element; all ranks get the result.
    fn all_reduce(&self, buffers: Vec<Buffer>, op: ReduceOp) -> Result<Box<dyn Work>>;

    /// Every rank gets every rank's buffer, in order of ranks.
    fn all_gather(&self, buffer: Buffer) -> Result<Box<dyn Work>>;

    /// Every rank gets the root's buffers.
    fn broadcast(&self, buffers: Vec<Buffer>, root: u32) -> Result<Box<dyn Work>>;

    /// Done when every rank has called it.
    fn barrier(&self) -> Result<Box<dyn Work>>;

    /// Ends all collectives under way with an error, here and at the peers, without waiting. Any thread.
    fn abort(&self, reason: &str);
}

/// A way for processes to talk.
pub trait CommBackend: Send + Sync {
    /// What it can do.
    fn capabilities(&self) -> Capabilities;

    /// Connects this process with the others of the job.
    fn open(&self, bootstrap: &Bootstrap) -> Result<Box<dyn Communicator>>;
}

/// A collective that was done when it was begun.
#[derive(Debug)]
pub struct Finished(pub Option<Vec<Buffer>>);

impl Work for Finished {
    fn poll(&mut self) -> bool {
        true
    }

    fn wait(&mut self, _deadline: Duration) -> Result<Outcome> {
        Ok(Outcome::Done(self.0.take().unwrap_or_default()))
    }
}
