//! The communicator that the host holds: it hands calls to the engine, and waits on the host's thread.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::{Receiver, RecvTimeoutError, sync_channel};
use std::time::Duration;

use mdt_plugin_api::{
    Buffer, CommRegions, Communicator, Error, ErrorCode, Outcome, PointToPoint, ReduceOp, ReduceScatter, Region,
    Result, Work,
};
use tokio::runtime::Runtime;
use tokio::sync::{mpsc, watch};
use tokio::task::JoinHandle;

use crate::call::{Kind, Request};
use crate::engine::{Engine, Turn};
use crate::job::Job;
use crate::progress::Progress;
use crate::shared_memory::SharedMemory;
use crate::status::StatusServer;
use crate::wire::Cause;

/// How long closing waits for peers to read the goodbye, counted from when data last moved.
const FAREWELL: Duration = Duration::from_secs(1);

/// How long it then waits for the runtime's threads.
const SHUTDOWN: Duration = Duration::from_millis(300);

/// The ranks of a job, connected.
pub struct Ranks {
    job: Arc<Job>,
    turns: mpsc::UnboundedSender<Turn>,
    closed: watch::Sender<bool>,
    /// What runs collectives in place of the engine, where all ranks share memory.
    shared_memory: Option<SharedMemory>,
    /// Returns the readers of all streams when it ends. Both are taken when the communicator is dropped.
    engine: Option<JoinHandle<Vec<JoinHandle<()>>>>,
    runtime: Option<Runtime>,
    /// What tells others of the job, where it does.
    _status: Option<StatusServer>,
}

impl Ranks {
    pub(crate) fn new(
        runtime: Runtime,
        job: Arc<Job>,
        engine: Engine,
        shared_memory: Option<SharedMemory>,
        status: Option<StatusServer>,
    ) -> Self {
        let (turns, calls) = mpsc::unbounded_channel();
        let (closed, is_closed) = watch::channel(false);
        let engine = runtime.spawn(engine.run(calls, is_closed));
        Self { job, turns, closed, shared_memory, engine: Some(engine), runtime: Some(runtime), _status: status }
    }

    fn begin(&self, buffers: Vec<Buffer>, kind: Kind) -> Result<Box<dyn Work>> {
        let request = Request { buffers, kind };
        request.check(self.job.rank, self.job.world_size)?;
        let is_collective = !matches!(kind, Kind::Send { .. } | Kind::Receive { .. });
        if let Some(shared_memory) = self.shared_memory.as_ref().filter(|_| is_collective) {
            return Ok(shared_memory.begin(request));
        }
        let (done, result) = sync_channel(1);
        let moved = Arc::<AtomicU64>::default();
        // If the engine has ended, the channel of the result is closed.
        let _ = self.turns.send(Turn { request, done, moved: Arc::clone(&moved) });
        Ok(Box::new(Waiting { result, moved, progress: Arc::clone(&self.job.progress) }))
    }
}

impl Communicator for Ranks {
    fn rank(&self) -> u32 {
        self.job.rank
    }

    fn world_size(&self) -> u32 {
        self.job.world_size
    }

    fn all_reduce(&self, buffers: Vec<Buffer>, op: ReduceOp) -> Result<Box<dyn Work>> {
        self.begin(buffers, Kind::AllReduce(op))
    }

    fn all_gather(&self, buffer: Buffer) -> Result<Box<dyn Work>> {
        self.begin(vec![buffer], Kind::AllGather)
    }

    fn broadcast(&self, buffers: Vec<Buffer>, root: u32) -> Result<Box<dyn Work>> {
        self.begin(buffers, Kind::Broadcast { root })
    }

    fn barrier(&self) -> Result<Box<dyn Work>> {
        self.begin(Vec::new(), Kind::Barrier)
    }

    fn abort(&self, reason: &str) {
        self.job.fault.raise(Cause::aborted(self.job.rank, reason));
    }
}

impl ReduceScatter for Ranks {
    fn reduce_scatter(&self, buffer: Buffer, op: ReduceOp) -> Result<Box<dyn Work>> {
        self.begin(vec![buffer], Kind::ReduceScatter(op))
    }
}

impl PointToPoint for Ranks {
    fn send(&self, buffer: Buffer, to: u32) -> Result<Box<dyn Work>> {
        self.begin(vec![buffer], Kind::Send { to })
    }

    fn receive(&self, buffer: Buffer, from: u32) -> Result<Box<dyn Work>> {
        self.begin(vec![buffer], Kind::Receive { from })
    }
}

impl CommRegions for Ranks {
    /// Memory that all ranks of this host can use, where they exchange data through shared memory; ordinary memory
    /// otherwise.
    fn region(&self, bytes: usize) -> Result<Region> {
        let shared = self.shared_memory.as_ref().and_then(|shared_memory| shared_memory.region(bytes));
        Ok(shared.unwrap_or_else(|| Region::of(vec![0u64; bytes.div_ceil(size_of::<u64>())])))
    }
}

impl Drop for Ranks {
    /// Sends a goodbye behind everything that was sent before, and waits until the peers have read it: about a round
    /// trip, and longer only as long as data moves.
    fn drop(&mut self) {
        self.job.closing.store(true, Ordering::Release);
        // Before the goodbye: what it still does for others counts.
        self.shared_memory = None;
        self.closed.send_replace(true);
        let (Some(runtime), Some(engine)) = (self.runtime.take(), self.engine.take()) else { return };
        let (ended, all_ended) = sync_channel::<()>(1);
        runtime.spawn(async move {
            for reader in engine.await.unwrap_or_default() {
                let _ = reader.await;
            }
            drop(ended);
        });
        let mut moved = self.job.progress.own();
        while all_ended.recv_timeout(FAREWELL) == Err(RecvTimeoutError::Timeout) {
            let before = std::mem::replace(&mut moved, self.job.progress.own());
            if before == moved {
                break;
            }
        }
        runtime.shutdown_timeout(SHUTDOWN);
    }
}

/// A collective that the engine has been given.
struct Waiting {
    result: Receiver<Result<Vec<Buffer>>>,
    moved: Arc<AtomicU64>,
    progress: Arc<Progress>,
}

impl Work for Waiting {
    fn wait(&mut self, deadline: Duration) -> Result<Outcome> {
        match self.result.recv_timeout(deadline) {
            Ok(result) => result.map(Outcome::Done),
            Err(RecvTimeoutError::Timeout) => Ok(Outcome::TimedOut),
            Err(RecvTimeoutError::Disconnected) => Err(over()),
        }
    }

    /// Bytes here, and what is known of other ranks that exchange data with each other.
    fn progress(&self) -> u64 {
        self.moved.load(Ordering::Relaxed) + self.progress.of_all()
    }
}

/// The error of a collective whose result will not come, or comes once only.
pub(crate) fn over() -> Error {
    Error::new(ErrorCode::Peer, "the collective is over: its result was taken, or the communicator was closed")
}
