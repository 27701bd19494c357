//! What a comm plugin provides: collectives between the processes of a job.

use std::collections::BTreeMap;
use std::fmt;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::{Buffer, Dtype, Error, Region, Result};

/// What a backend supports. The host refuses a configuration that needs more, and names it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Capabilities {
    /// Element types that it reduces: the host needs f32 for gradients and f64 for numbers. All backends broadcast and gather
    /// every type.
    pub dtypes: Vec<Dtype>,
    /// How it combines elements of these types. A backend that does not say has sums, maxima and minima.
    #[serde(default = "first_ops")]
    pub ops: Vec<ReduceOp>,
    /// The largest number of ranks; 0 for no limit.
    pub max_world_size: u32,
    /// Whether a reduction has the bits of the pairwise tree over ranks ([`Communicator`]), whatever the timing.
    pub deterministic: bool,
    /// The ways that data takes between ranks on this machine, for users: `through shared memory where all ranks run on one
    /// host, else over TCP`. Empty where the backend does not say.
    #[serde(default)]
    pub data_path: String,
}

/// Sums, maxima and minima of no type, any number of ranks, in no fixed order.
impl Default for Capabilities {
    fn default() -> Self {
        Self { dtypes: Vec::new(), ops: first_ops(), max_world_size: 0, deterministic: false, data_path: String::new() }
    }
}

/// What backends combined elements by before they could say so.
fn first_ops() -> Vec<ReduceOp> {
    vec![ReduceOp::Sum, ReduceOp::Max, ReduceOp::Min]
}

/// The place of this process in the job, and what the processes need to find and trust each other.
#[derive(Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Bootstrap {
    /// The number of this process, from 0.
    pub rank: u32,
    /// The number of processes.
    pub world_size: u32,
    /// A short name of this start of the job: the same on all ranks, new at every start. At most 64 letters, digits and
    /// `-`, so that files and segments can have it in their names. Empty where ranks are started one by one and nobody
    /// has set `MDT_JOB_ID`.
    pub job: String,
    /// What all ranks must agree on, as text. The host compares it in its first collective; a backend that compares it while
    /// ranks meet can refuse a wrong one sooner.
    pub identity: String,
    /// Addresses and credentials, by name: `address` and `port` of rank 0 (`comm.address`, `comm.port`), and `token`, the
    /// secret that the ranks share (`MDT_JOB_TOKEN`), where there is one.
    pub values: BTreeMap<String, String>,
}

impl Bootstrap {
    /// One of the [`values`](Self::values).
    ///
    /// # Errors
    /// It is not there.
    pub fn value(&self, name: &str) -> Result<&str> {
        let missing =
            || Error::config(format!("the ranks need the value `{name}` to find each other, and it is not set"));
        self.values.get(name).map(String::as_str).ok_or_else(missing)
    }
}

/// Without what the values are: some are secrets.
impl fmt::Debug for Bootstrap {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { rank, world_size, job, values, .. } = self;
        let names: Vec<_> = values.keys().collect();
        write!(f, "rank {rank} of {world_size}, job {job:?}, with values for {names:?}")
    }
}

/// How elements are combined.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(into = "u32", try_from = "u32")]
#[non_exhaustive]
#[repr(u32)]
pub enum ReduceOp {
    /// Sum; integers wrap around.
    Sum = 1,
    /// Maximum. NaN where one rank has it.
    Max = 2,
    /// Minimum. NaN where one rank has it.
    Min = 3,
    /// The sum, divided once by the number of ranks; of integers rounded towards zero. A backend that does not know it
    /// refuses it.
    Mean = 4,
}

impl ReduceOp {
    /// Its name in messages: `sum`, `max`.
    pub fn name(self) -> &'static str {
        match self {
            Self::Sum => "sum",
            Self::Max => "max",
            Self::Min => "min",
            Self::Mean => "mean",
        }
    }
}

impl From<ReduceOp> for u32 {
    fn from(op: ReduceOp) -> Self {
        op as Self
    }
}

impl TryFrom<u32> for ReduceOp {
    type Error = Error;

    fn try_from(number: u32) -> Result<Self> {
        let all = [Self::Sum, Self::Max, Self::Min, Self::Mean];
        let found = all.into_iter().find(|op| *op as u32 == number);
        found.ok_or_else(|| Error::plugin(format!("reduction {number} is unknown here")))
    }
}

/// The outcome of waiting for a collective.
#[derive(Debug)]
pub enum Outcome {
    /// Done: the buffers with the result.
    Done(Vec<Buffer>),
    /// Not done within the time; the work goes on and can be waited for again.
    TimedOut,
}

/// A collective under way. Any thread, one at a time.
///
/// Dropping it ends the waiting, not the collective: other ranks may need what this rank sends. Its buffers stay with the
/// backend until it is done with them. [`Communicator::abort`] ends collectives.
pub trait Work: Send {
    /// Waits for the result, at most `deadline`; with [`Duration::ZERO`] it only looks.
    ///
    /// # Errors
    /// A lost peer or a failed transfer; the error's context has `rank` where one rank is the cause. After an error the
    /// work has ended; what its buffers hold is undefined.
    fn wait(&mut self, deadline: Duration) -> Result<Outcome>;

    /// A number that grows whenever the collective comes nearer to its end: the bytes that this rank has sent and received
    /// for it, where the backend can count them. The host gives up when it has not changed for `comm.timeout_s` and some
    /// seconds.
    fn progress(&self) -> u64;
}

/// The processes of a job, connected.
///
/// - All ranks call the same collectives in the same order, with buffers of the same types and lengths (lengths may differ
///   in `all_gather`), from one thread at a time. Several may be under way; they are waited for in any order.
/// - A collective takes its buffers and works in place. [`Outcome::Done`] gives the same buffers back, in the same order.
/// - A deterministic backend folds element i of all ranks by the pairwise tree, in the precision of the element: rank r is
///   leaf r; neighbours are combined first, then neighbours of those, ((0+1)+(2+3))+((4+5)+…). A count that is no power of
///   two is split at the largest power of two below it: (((0+1)+(2+3))+4). So the bits depend on the inputs alone. f16 and
///   bf16 are folded in f32 and rounded once, at the end; a mean is divided before that.
/// - After a failure on any rank, all collectives of all ranks that are under way or begin later fail. The first cause is
///   reported everywhere.
pub trait Communicator: Send + Sync {
    /// The number of this process, from 0: that of the [`Bootstrap`].
    fn rank(&self) -> u32;

    /// The number of processes: that of the [`Bootstrap`].
    fn world_size(&self) -> u32;

    /// Combines every rank's buffers element by element; all ranks get the result.
    fn all_reduce(&self, buffers: Vec<Buffer>, op: ReduceOp) -> Result<Box<dyn Work>>;

    /// Every rank gets every rank's buffer, in order of ranks: as many buffers as there are
    /// ranks, the one at this rank's place with what was given.
    fn all_gather(&self, buffer: Buffer) -> Result<Box<dyn Work>>;

    /// Every rank gets the root's buffers.
    fn broadcast(&self, buffers: Vec<Buffer>, root: u32) -> Result<Box<dyn Work>>;

    /// Completes when every rank has called it; the result has no buffers.
    fn barrier(&self) -> Result<Box<dyn Work>>;

    /// Cancels: ends all collectives under way and to come with an error that has this reason, here and on the other
    /// ranks, without waiting. Any thread, also while another one waits. There is no cancelling of one collective alone:
    /// ranks would no longer agree on their order.
    fn abort(&self, reason: &str);
}

/// Ability `reduce_scatter` of a backend's communicators: sums of which every rank gets a part.
pub trait ReduceScatter: Send + Sync {
    /// Combines every rank's buffer element by element, to the same bits as `all_reduce`. Rank r of n gets the part r of n
    /// equal parts, at its place in the buffer; what the other parts hold is undefined. The result is the whole buffer.
    ///
    /// # Errors
    /// The number of elements is no multiple of the number of ranks.
    fn reduce_scatter(&self, buffer: Buffer, op: ReduceOp) -> Result<Box<dyn Work>>;
}

/// Ability `point_to_point` of a backend's communicators: buffers from one rank to another.
///
/// What one rank sends to another arrives in the order in which it was sent. Both directions, other pairs of ranks, and
/// collectives do not wait for it.
pub trait PointToPoint: Send + Sync {
    /// Sends a buffer to another rank, which receives one of the same type and length. The result is the buffer.
    ///
    /// # Errors
    /// No such rank, or this one.
    fn send(&self, buffer: Buffer, to: u32) -> Result<Box<dyn Work>>;

    /// Overwrites a buffer with what another rank sends. The result is the buffer.
    ///
    /// # Errors
    /// No such rank, or this one.
    fn receive(&self, buffer: Buffer, from: u32) -> Result<Box<dyn Work>>;
}

/// Ability `regions` of a backend's communicators: memory that their collectives are fastest with, such as memory that the
/// ranks share or that a network card can read.
pub trait CommRegions: Send + Sync {
    /// New memory of at least so many bytes, aligned for every element type. The host takes its large buffers from there;
    /// [`Region::offset_of`] finds them again.
    fn region(&self, bytes: usize) -> Result<Region>;
}

/// A communication backend: it connects the processes of a job. `tests/plugins/files` in the repository of `mdt-host` is a
/// complete one, over a directory that all ranks share. [`engine`](crate::engine) makes one of a library whose calls block.
pub trait CommBackend: Send + Sync {
    /// The processes of a job, as it connects them; it has the abilities that [`plugin!`](crate::plugin) names.
    type Communicator: Communicator + 'static;

    /// What the backend supports.
    fn capabilities(&self) -> Result<Capabilities>;

    /// Connects this process with the others of the job, and waits for them, as long as the backend thinks right and no longer
    /// than until [`HostServices::cancelled`](crate::HostServices::cancelled). The host opens a backend once. Whether a process
    /// that asks to join belongs to the job is the backend's to find out: all ranks of a job have the same token in
    /// [`Bootstrap::values`].
    fn open(&self, bootstrap: &Bootstrap) -> Result<Self::Communicator>;
}

/// A collective that is complete as soon as it starts.
#[derive(Debug)]
pub struct Finished(pub Option<Vec<Buffer>>);

impl Work for Finished {
    fn wait(&mut self, _deadline: Duration) -> Result<Outcome> {
        Ok(Outcome::Done(self.0.take().unwrap_or_default()))
    }

    fn progress(&self) -> u64 {
        0
    }
}
