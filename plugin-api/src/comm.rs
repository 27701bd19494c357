//! What a comm plugin provides: collectives between the processes of a job.

use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::{Dtype, Result};

/// What a backend supports. The host refuses a configuration that needs more, and names it.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Capabilities {
    /// Element types that it reduces.
    pub dtypes: Vec<Dtype>,
    /// The largest number of ranks; 0 for no limit.
    pub max_world_size: u32,
    /// Whether a reduction has the bits of the pairwise tree over ranks, whatever the timing.
    pub deterministic: bool,
    /// Whether [`Communicator::abort`] ends collectives under way.
    pub abort: bool,
}

/// The place of this process in the job, and how the processes find each other.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Bootstrap {
    /// The number of this process, from 0.
    pub rank: u32,
    /// The number of processes.
    pub world_size: u32,
    /// The address of rank 0, in the form that the backend reads.
    pub address: String,
    /// The port of rank 0, where the backend uses ports.
    pub port: u16,
    /// An identifier that all processes of one job share and no other job has.
    pub job: String,
}

/// How elements are combined.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u32)]
pub enum ReduceOp {
    /// Sum; by the pairwise tree over ranks where the backend is deterministic.
    Sum = 1,
    /// Maximum.
    Max = 2,
    /// Minimum.
    Min = 3,
}

/// A buffer that a collective works on. The collective owns it while it runs and returns it with the result, so nothing
/// else can change it in between.
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

/// The outcome of waiting for a collective.
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
    /// A lost peer or a failed transfer; the error's context has `rank` where one rank is the cause. After an error the
    /// work has ended and the buffers are lost.
    fn wait(&mut self, deadline: Duration) -> Result<Outcome>;
}

/// The processes of a job, connected.
///
/// All ranks call the same collectives in the same order, from one thread at a time. `abort` may come from any thread.
pub trait Communicator: Send + Sync {
    /// The number of this process, from 0.
    fn rank(&self) -> u32;

    /// The number of processes.
    fn world_size(&self) -> u32;

    /// Combines every rank's buffers element by element; all ranks get the result.
    fn all_reduce(&self, buffers: Vec<Buffer>, op: ReduceOp) -> Result<Box<dyn Work>>;

    /// Every rank gets every rank's buffer, in order of ranks.
    fn all_gather(&self, buffer: Buffer) -> Result<Box<dyn Work>>;

    /// Every rank gets the root's buffers.
    fn broadcast(&self, buffers: Vec<Buffer>, root: u32) -> Result<Box<dyn Work>>;

    /// Completes when every rank has called it.
    fn barrier(&self) -> Result<Box<dyn Work>>;

    /// Ends all collectives under way with an error, here and at the peers, without waiting. Any thread.
    fn abort(&self, reason: &str);
}

/// A communication backend: it connects the processes of a job.
pub trait CommBackend: Send + Sync {
    /// What the backend supports.
    fn capabilities(&self) -> Capabilities;

    /// Connects this process with the others of the job.
    fn open(&self, bootstrap: &Bootstrap) -> Result<Box<dyn Communicator>>;
}

/// A collective that is complete as soon as it starts.
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
