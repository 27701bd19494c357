//! A communicator over a library whose calls block and belong to one thread, such as MPI or the collectives of a framework.
//!
//! [`Engine`] is what such a library can do; [`EngineThread`] makes a [`Communicator`] of it, with
//! collectives that can be waited for with a deadline although the library's own calls cannot.

mod called;
mod fold;
mod gathered;
mod slot;

use std::any::Any;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender, channel};
use std::sync::{Arc, Mutex, OnceLock, PoisonError, Weak};
use std::thread;
use std::time::{Duration, Instant};

use crate::{
    Bootstrap, Buffer, Communicator, Error, ErrorCode, Outcome, ReduceOp, ReduceScatter, Result, Services, Work,
};
use called::Called;
pub use fold::{FOLDED, Leaf, divide, fold, partials_are_elements};
pub use gathered::fold_gathered;
use slot::Slot;

/// How often a thread that waits for the other ranks at the start looks whether it should go on.
const ASK: Duration = Duration::from_millis(50);

/// How long dropping the communicator waits for the engine to close.
const CLOSING: Duration = Duration::from_secs(10);

/// The collectives of a library. It is made, called and dropped on one thread, with one call at a time, in the order in which
/// the host began them; a call may block. After an error it is not called again, but for [`Engine::abort`].
///
/// Before each collective [`EngineThread`] gathers what every rank has called, and refuses what differs. So in the calls of
/// the other methods all ranks have equal arguments. Buffers that a call has been given to work in are not freed after an error,
/// as the library may still use them.
pub trait Engine {
    /// Gathers every rank's bytes, which are equally many, in order of ranks.
    fn gather(&mut self, own: &[u8], all: &mut [u8], course: &Course) -> Result<()>;

    /// Combines every rank's buffers element by element, in place. Without an implementation of its own it gathers all ranks'
    /// elements and folds them by the pairwise tree.
    fn all_reduce(&mut self, buffers: &mut [Buffer], op: ReduceOp, course: &Course) -> Result<()> {
        buffers.iter_mut().try_for_each(|buffer| fold_gathered(self, buffer, op, course))
    }

    /// Every rank's buffer, in order of ranks. `bytes` has their lengths.
    fn all_gather(&mut self, own: &Buffer, bytes: &[usize], course: &Course) -> Result<Vec<Buffer>> {
        gathered::all_gather(self, own, bytes, course)
    }

    /// Copies the root's buffers to every rank.
    fn broadcast(&mut self, buffers: &mut [Buffer], root: u32, course: &Course) -> Result<()>;

    /// Combines as `all_reduce` does. The number of elements is a multiple of that of ranks; this rank's part must be right,
    /// what the rest of the buffer holds does not matter.
    fn reduce_scatter(&mut self, buffer: &mut Buffer, op: ReduceOp, course: &Course) -> Result<()> {
        self.all_reduce(std::slice::from_mut(buffer), op, course)
    }

    /// Tells the other ranks that the job ends, and why, where the library can. Must not wait for them.
    fn abort(&mut self, _reason: &str) {}
}

/// The course of one collective: what its engine reports, and is asked.
pub struct Course {
    world_size: u32,
    moved: Arc<AtomicU64>,
    fault: Arc<OnceLock<Error>>,
}

impl Course {
    /// The number of ranks.
    pub fn world_size(&self) -> usize {
        self.world_size as usize
    }

    /// Counts bytes as moved: while this number grows, the host goes on waiting.
    pub fn moved(&self, bytes: usize) {
        self.moved.fetch_add(bytes as u64, Ordering::Relaxed);
    }

    /// # Errors
    /// The job was aborted: a call that can end early should return this error.
    pub fn check(&self) -> Result<()> {
        self.fault.get().map_or(Ok(()), |fault| Err(fault.clone()))
    }
}

/// A collective and its buffers.
enum Task {
    AllReduce(Vec<Buffer>, ReduceOp),
    AllGather(Buffer),
    Broadcast(Vec<Buffer>, u32),
    Barrier,
    ReduceScatter(Buffer, ReduceOp),
}

/// What the thread of an engine is sent. The end of the channel is the end of the job.
enum Message {
    Run(Task, Arc<Slot>),
    Abort(String),
}

/// A communicator that calls an [`Engine`] on a thread of its own.
pub struct EngineThread {
    rank: u32,
    world_size: u32,
    /// Empty once the communicator is being dropped.
    messages: Option<Sender<Message>>,
    ended: Mutex<Receiver<()>>,
    begun: Mutex<Vec<Weak<Slot>>>,
    fault: Arc<OnceLock<Error>>,
}

impl EngineThread {
    /// Makes an engine on a thread of the backend's name, where `connect` connects it with the other ranks.
    ///
    /// # Errors
    /// That of `connect`; or the job was cancelled meanwhile, or the ranks have not met within `limit`
    /// (`comm.connect_timeout_s`): then the thread is left alone with what it waits for.
    pub fn start<E: Engine + 'static>(
        name: &str,
        &Bootstrap { rank, world_size, .. }: &Bootstrap,
        services: &Services,
        limit: Duration,
        connect: impl FnOnce() -> Result<E> + Send + 'static,
    ) -> Result<Self> {
        let begin = Instant::now();
        let (messages, received) = channel();
        let (ready, connected) = channel();
        let (end, ended) = channel::<()>();
        let fault = Arc::<OnceLock<Error>>::default();
        let thread_fault = Arc::clone(&fault);
        let body = move || {
            let _end = end;
            match caught(connect) {
                Err(error) => drop(ready.send(Err(error))),
                // Nobody waits any longer where it cannot be sent.
                Ok(engine) => match ready.send(Ok(())) {
                    Ok(()) => serve(engine, world_size, received, &thread_fault),
                    Err(_) => keep(engine),
                },
            }
        };
        let spawned = thread::Builder::new().name(name.to_owned()).spawn(body);
        spawned.map_err(|error| Error::other("a thread cannot be started").caused_by(error))?;
        loop {
            match connected.recv_timeout(ASK) {
                Ok(outcome) => break outcome?,
                Err(RecvTimeoutError::Timeout) if services.cancelled() => {
                    return Err(Error::new(ErrorCode::Cancelled, "the job was cancelled before all ranks had come"));
                }
                Err(RecvTimeoutError::Timeout) if begin.elapsed() < limit => {}
                Err(RecvTimeoutError::Timeout) => {
                    let limit = limit.as_secs_f64();
                    let message = format!("rank {rank} has not met the other ranks over {name} within {limit} s");
                    return Err(Error::new(ErrorCode::Peer, message).help(
                        "start all ranks, with the same addresses; `comm.connect_timeout_s` is how long ranks wait",
                    ));
                }
                Err(RecvTimeoutError::Disconnected) => return Err(Error::plugin("the thread of the engine has ended")),
            }
        }
        Ok(Self {
            rank,
            world_size,
            messages: Some(messages),
            ended: Mutex::new(ended),
            begun: Mutex::default(),
            fault,
        })
    }

    fn begin(&self, task: Task) -> Result<Box<dyn Work>> {
        let slot = Arc::<Slot>::default();
        let mut begun = self.begun.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(fault) = self.fault.get() {
            return Err(fault.clone());
        }
        begun.retain(|slot| slot.strong_count() > 0);
        begun.push(Arc::downgrade(&slot));
        let sent = self.messages.as_ref().map(|messages| messages.send(Message::Run(task, Arc::clone(&slot))));
        match sent {
            Some(Ok(())) => Ok(Box::new(Waiting(slot))),
            _ => Err(Error::plugin("the thread of the engine has ended")),
        }
    }

    /// Refuses types that [`fold`] does not know.
    fn check(&self, buffer: &Buffer) -> Result<()> {
        match FOLDED.contains(&buffer.dtype()) {
            true => Ok(()),
            false => Err(Error::plugin(format!("{} cannot be reduced, only broadcast and gathered", buffer.dtype()))),
        }
    }
}

impl Communicator for EngineThread {
    fn rank(&self) -> u32 {
        self.rank
    }

    fn world_size(&self) -> u32 {
        self.world_size
    }

    fn all_reduce(&self, buffers: Vec<Buffer>, op: ReduceOp) -> Result<Box<dyn Work>> {
        buffers.iter().try_for_each(|buffer| self.check(buffer))?;
        self.begin(Task::AllReduce(buffers, op))
    }

    fn all_gather(&self, buffer: Buffer) -> Result<Box<dyn Work>> {
        self.begin(Task::AllGather(buffer))
    }

    fn broadcast(&self, buffers: Vec<Buffer>, root: u32) -> Result<Box<dyn Work>> {
        let ranks = self.world_size;
        if root >= ranks {
            let last = ranks - 1;
            let message = format!("the root of a broadcast among {ranks} ranks must be 0 to {last}, not {root}");
            return Err(Error::plugin(message));
        }
        self.begin(Task::Broadcast(buffers, root))
    }

    fn barrier(&self) -> Result<Box<dyn Work>> {
        self.begin(Task::Barrier)
    }

    /// What waits here gets the error at once. The engine's call may go on until the library returns from it.
    fn abort(&self, reason: &str) {
        let error =
            Error::new(ErrorCode::Peer, format!("rank {} aborted: {reason}", self.rank)).with("rank", self.rank);
        let begun = self.begun.lock().unwrap_or_else(PoisonError::into_inner);
        let fault = self.fault.get_or_init(|| error);
        begun.iter().filter_map(Weak::upgrade).for_each(|slot| slot.fill(Err(fault.clone())));
        if let Some(messages) = &self.messages {
            // Where the thread has ended, nobody can be told.
            let _ = messages.send(Message::Abort(reason.to_owned()));
        }
    }
}

impl ReduceScatter for EngineThread {
    fn reduce_scatter(&self, buffer: Buffer, op: ReduceOp) -> Result<Box<dyn Work>> {
        self.check(&buffer)?;
        let (elements, ranks) = (buffer.len(), self.world_size);
        if !elements.is_multiple_of(ranks as usize) {
            let message = format!("{elements} elements cannot be divided into equal parts for {ranks} ranks");
            return Err(Error::plugin(message));
        }
        self.begin(Task::ReduceScatter(buffer, op))
    }
}

impl Drop for EngineThread {
    /// Waits until the engine has done what was begun and is closed, some seconds at most: it may hang in a call.
    fn drop(&mut self) {
        self.messages = None;
        let ended = self.ended.get_mut().unwrap_or_else(PoisonError::into_inner);
        let patience = if self.fault.get().is_some() { Duration::from_millis(200) } else { CLOSING };
        let _ = ended.recv_timeout(patience);
    }
}

/// Does what comes, until the communicator is dropped. After a fault every task has its error.
fn serve(mut engine: impl Engine, world_size: u32, messages: Receiver<Message>, fault: &Arc<OnceLock<Error>>) {
    let mut number = 0;
    for message in messages {
        match message {
            Message::Run(task, slot) => {
                number += 1;
                let course = Course { world_size, moved: Arc::clone(&slot.moved), fault: Arc::clone(fault) };
                let result =
                    course.check().and_then(|()| caught(|| run(&mut engine, world_size, number, task, &course)));
                slot.fill(result.map_err(|error| fault.get_or_init(|| error).clone()));
            }
            // A panic of the engine must not keep the job from ending.
            Message::Abort(reason) => drop(caught(|| {
                engine.abort(&reason);
                Ok(())
            })),
        }
    }
    if fault.get().is_some() {
        // Closing might wait for ranks that are gone, and the process is about to end.
        keep(engine);
    }
}

/// Runs a collective, once all ranks have called the same one.
fn run(engine: &mut impl Engine, ranks: u32, number: u64, task: Task, course: &Course) -> Result<Vec<Buffer>> {
    let own = Called::new(number, &task);
    let mut all = vec![0; Called::BYTES * ranks as usize];
    engine.gather(&own.to_bytes(), &mut all, course)?;
    let all: Vec<Called> = all.chunks_exact(Called::BYTES).map(Called::from_bytes).collect();
    called::require_same(&all)?;
    let (result, buffers) = match task {
        Task::AllReduce(mut buffers, op) => (engine.all_reduce(&mut buffers, op, course), buffers),
        Task::AllGather(buffer) => {
            let bytes: Vec<usize> = all.iter().map(|called| called.bytes as usize).collect();
            return engine.all_gather(&buffer, &bytes, course);
        }
        Task::Broadcast(mut buffers, root) => (engine.broadcast(&mut buffers, root, course), buffers),
        Task::Barrier => (Ok(()), Vec::new()),
        Task::ReduceScatter(mut buffer, op) => (engine.reduce_scatter(&mut buffer, op, course), vec![buffer]),
    };
    match result {
        Ok(()) => Ok(buffers),
        Err(error) => {
            keep(buffers);
            Err(error)
        }
    }
}

/// Keeps a value as long as the process lives. It can still be reached, so it is no leak to a tool that looks for leaks.
fn keep<T>(value: T) {
    static KEPT: Mutex<Vec<usize>> = Mutex::new(Vec::new());
    let address = Box::into_raw(Box::new(value)).expose_provenance();
    KEPT.lock().unwrap_or_else(PoisonError::into_inner).push(address);
}

/// Turns a panic into an error.
fn caught<T>(body: impl FnOnce() -> Result<T>) -> Result<T> {
    let text = |panic: Box<dyn Any + Send>| match panic.downcast::<String>() {
        Ok(text) => *text,
        Err(panic) => panic.downcast_ref::<&str>().map_or("without a text", |text| *text).to_owned(),
    };
    catch_unwind(AssertUnwindSafe(body))
        .unwrap_or_else(|panic| Err(Error::plugin(format!("the engine panicked: {}", text(panic)))))
}

/// A collective that the thread has been given.
struct Waiting(Arc<Slot>);

impl Work for Waiting {
    fn wait(&mut self, deadline: Duration) -> Result<Outcome> {
        self.0.wait(deadline)
    }

    fn progress(&self) -> u64 {
        self.0.moved.load(Ordering::Relaxed)
    }
}

#[cfg(test)]
mod tests;
