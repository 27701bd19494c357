//! Communication backends across the boundary.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use abi_stable::StableAbi;
use abi_stable::std_types::{RSlice, RStr, RVec};

use super::guard::{Guarded, Owner};
use super::object::{AnyThread, Imported, RawObject, exports};
use super::record::{decode, encode, replies};
use super::table::{CType, Declarations, interfaces};
use super::types::filled;
use crate::{Bootstrap, Buffer, Capabilities, CommBackend, Communicator, Error, Outcome, ReduceOp, Result, Work};

/// [`Buffer`]: the vector that the tag names, the others empty. Vectors change hands without a copy.
#[repr(C)]
#[derive(StableAbi)]
pub struct RawBuffer {
    tag: u32,
    f32s: RVec<f32>,
    f64s: RVec<f64>,
    u64s: RVec<u64>,
    bytes: RVec<u8>,
}

impl From<Buffer> for RawBuffer {
    fn from(buffer: Buffer) -> Self {
        let mut raw = Self { tag: 0, f32s: RVec::new(), f64s: RVec::new(), u64s: RVec::new(), bytes: RVec::new() };
        match buffer {
            Buffer::F32(values) => (raw.tag, raw.f32s) = (1, values.into()),
            Buffer::F64(values) => (raw.tag, raw.f64s) = (2, values.into()),
            Buffer::U64(values) => (raw.tag, raw.u64s) = (3, values.into()),
            Buffer::Bytes(values) => (raw.tag, raw.bytes) = (4, values.into()),
        }
        raw
    }
}

impl RawBuffer {
    fn plain(self) -> Result<Buffer> {
        match self.tag {
            1 => Ok(Buffer::F32(self.f32s.into())),
            2 => Ok(Buffer::F64(self.f64s.into())),
            3 => Ok(Buffer::U64(self.u64s.into())),
            4 => Ok(Buffer::Bytes(self.bytes.into())),
            tag => Err(Error::plugin(format!("a buffer of kind {tag} is unknown here"))),
        }
    }
}

/// Buffers that change hands in a slot of the caller.
type RawBuffers = RVec<RawBuffer>;

impl CType for RawBuffers {
    fn name() -> String {
        "MdtBuffers".to_owned()
    }

    fn declare(declarations: &mut Declarations) {
        let words = [
            ("data", "void *data"),
            ("length", "size_t length"),
            ("capacity", "size_t capacity"),
            ("functions", "const void *functions"),
        ];
        declarations.add_words(Self::name(), &words.map(|(name, text)| (name, text.to_owned())));
    }
}

fn raw_buffers(buffers: Vec<Buffer>) -> RawBuffers {
    buffers.into_iter().map(RawBuffer::from).collect()
}

fn plain_buffers(buffers: &mut RawBuffers) -> Result<Vec<Buffer>> {
    std::mem::take(buffers).into_iter().map(RawBuffer::plain).collect()
}

interfaces! {
    /// A collective under way. Any thread, one at a time.
    "comm.work/1" CommWork WorkFunctions {
        /// [`Work::poll`].
        fn poll_done(done: &mut bool);
        /// [`Work::wait`]; not done when the time was up.
        fn wait_for(nanoseconds: u64, done: &mut bool, buffers: &mut RawBuffers);
    }

    /// The processes of a job, connected. Any thread.
    "comm.collectives/1" CommCollectives CollectiveFunctions {
        /// [`Communicator::rank`] and [`Communicator::world_size`].
        fn place(rank: &mut u32, world_size: &mut u32);
        /// [`Communicator::all_reduce`].
        fn start_all_reduce(buffers: &mut RawBuffers, op: u32, work: &mut RawObject);
        /// [`Communicator::all_gather`] of one buffer.
        fn start_all_gather(buffer: &mut RawBuffers, work: &mut RawObject);
        /// [`Communicator::broadcast`].
        fn start_broadcast(buffers: &mut RawBuffers, root: u32, work: &mut RawObject);
        /// [`Communicator::barrier`].
        fn start_barrier(work: &mut RawObject);
        /// [`Communicator::abort`].
        fn abort_all(reason: RStr<'_>);
    }

    /// A communication backend. Any thread.
    "comm.backend/1" CommBackends BackendFunctions {
        /// [`CommBackend::capabilities`].
        fn describe() -> Capabilities;
        /// [`CommBackend::open`] with a [`Bootstrap`].
        fn connect(bootstrap: RSlice<'_, u8>, communicator: &mut RawObject);
    }
}

/// Work for which calls wait for each other, so that it is only used by one thread at a time.
type SharedWork = Mutex<Box<dyn Work>>;
/// A communicator, and who is blamed for the work that it makes.
type OwnedCommunicator = (Box<dyn Communicator>, Arc<Owner>);
/// The same for a backend.
type OwnedBackend = (Box<dyn CommBackend>, Arc<Owner>);

replies! { Capabilities }
exports! { SharedWork: CommWork; OwnedCommunicator: CommCollectives; OwnedBackend: CommBackends; }
// SAFETY: `Work` is `Send`, and its mutex makes it `Sync`.
unsafe impl AnyThread for CommWork {}
// SAFETY: `Communicator` is `Send + Sync`.
unsafe impl AnyThread for CommCollectives {}
// SAFETY: `CommBackend` is `Send + Sync`.
unsafe impl AnyThread for CommBackends {}

/// Makes an object of a plain backend.
pub(super) fn export(backend: Box<dyn CommBackend>, owner: Arc<Owner>) -> RawObject {
    RawObject::new(Guarded::new((backend, Arc::clone(&owner)), owner))
}

/// Makes a plain backend of an object.
pub(super) fn import(object: RawObject, name: &'static str) -> Result<Box<dyn CommBackend>> {
    Ok(Box::new(Imported::<CommBackends>::of(object, name)?))
}

impl WorkFunctions for SharedWork {
    fn poll_done(&self, done: &mut bool) -> Result<()> {
        *done = self.lock().unwrap_or_else(PoisonError::into_inner).poll();
        Ok(())
    }

    fn wait_for(&self, nanoseconds: u64, done: &mut bool, buffers: &mut RawBuffers) -> Result<()> {
        let mut work = self.lock().unwrap_or_else(PoisonError::into_inner);
        *done = false;
        if let Outcome::Done(result) = work.wait(Duration::from_nanos(nanoseconds))? {
            *done = true;
            *buffers = raw_buffers(result);
        }
        Ok(())
    }
}

impl Work for Imported<CommWork> {
    fn poll(&mut self) -> bool {
        let mut done = true;
        // A failure is done as well: `wait` reports it.
        self.poll_done(&mut done).is_err() || done
    }

    fn wait(&mut self, deadline: Duration) -> Result<Outcome> {
        let nanoseconds = u64::try_from(deadline.as_nanos()).unwrap_or(u64::MAX);
        let (mut done, mut buffers) = (false, RVec::new());
        self.wait_for(nanoseconds, &mut done, &mut buffers)?;
        Ok(if done { Outcome::Done(plain_buffers(&mut buffers)?) } else { Outcome::TimedOut })
    }
}

/// Puts started work into its slot.
fn put_work(communicator: &OwnedCommunicator, work: Box<dyn Work>, slot: &mut RawObject) -> Result<()> {
    *slot = RawObject::new(Guarded::new(Mutex::new(work), Arc::clone(&communicator.1)));
    Ok(())
}

impl CollectiveFunctions for OwnedCommunicator {
    fn place(&self, rank: &mut u32, world_size: &mut u32) -> Result<()> {
        (*rank, *world_size) = (self.0.rank(), self.0.world_size());
        Ok(())
    }

    fn start_all_reduce(&self, buffers: &mut RawBuffers, op: u32, work: &mut RawObject) -> Result<()> {
        let op = match op {
            1 => ReduceOp::Sum,
            2 => ReduceOp::Max,
            3 => ReduceOp::Min,
            number => return Err(Error::plugin(format!("reduction {number} is unknown here"))),
        };
        put_work(self, self.0.all_reduce(plain_buffers(buffers)?, op)?, work)
    }

    fn start_all_gather(&self, buffer: &mut RawBuffers, work: &mut RawObject) -> Result<()> {
        let [buffer] = <[Buffer; 1]>::try_from(plain_buffers(buffer)?)
            .map_err(|buffers| Error::plugin(format!("all_gather takes one buffer, not {}", buffers.len())))?;
        put_work(self, self.0.all_gather(buffer)?, work)
    }

    fn start_broadcast(&self, buffers: &mut RawBuffers, root: u32, work: &mut RawObject) -> Result<()> {
        put_work(self, self.0.broadcast(plain_buffers(buffers)?, root)?, work)
    }

    fn start_barrier(&self, work: &mut RawObject) -> Result<()> {
        put_work(self, self.0.barrier()?, work)
    }

    fn abort_all(&self, reason: RStr<'_>) -> Result<()> {
        self.0.abort(reason.as_str());
        Ok(())
    }
}

/// The work that a call starts.
fn started(name: &'static str, call: impl FnOnce(&mut RawObject) -> Result<()>) -> Result<Box<dyn Work>> {
    Ok(Box::new(Imported::<CommWork>::of(filled(call)?, name)?))
}

impl Imported<CommCollectives> {
    /// Rank and world size; no rank of an empty world where the call fails.
    fn own_place(&self) -> (u32, u32) {
        let (mut rank, mut world_size) = (u32::MAX, 0);
        let _ = self.place(&mut rank, &mut world_size);
        (rank, world_size)
    }
}

impl Communicator for Imported<CommCollectives> {
    fn rank(&self) -> u32 {
        self.own_place().0
    }

    fn world_size(&self) -> u32 {
        self.own_place().1
    }

    fn all_reduce(&self, buffers: Vec<Buffer>, op: ReduceOp) -> Result<Box<dyn Work>> {
        started(self.name(), |work| self.start_all_reduce(&mut raw_buffers(buffers), op as u32, work))
    }

    fn all_gather(&self, buffer: Buffer) -> Result<Box<dyn Work>> {
        started(self.name(), |work| self.start_all_gather(&mut raw_buffers(vec![buffer]), work))
    }

    fn broadcast(&self, buffers: Vec<Buffer>, root: u32) -> Result<Box<dyn Work>> {
        started(self.name(), |work| self.start_broadcast(&mut raw_buffers(buffers), root, work))
    }

    fn barrier(&self) -> Result<Box<dyn Work>> {
        started(self.name(), |work| self.start_barrier(work))
    }

    fn abort(&self, reason: &str) {
        let _ = self.abort_all(reason.into());
    }
}

impl BackendFunctions for OwnedBackend {
    fn describe(&self) -> Result<Capabilities> {
        Ok(self.0.capabilities())
    }

    fn connect(&self, bootstrap: RSlice<'_, u8>, communicator: &mut RawObject) -> Result<()> {
        let opened = self.0.open(&decode::<Bootstrap>(bootstrap.as_slice())?)?;
        *communicator = RawObject::new(Guarded::new((opened, Arc::clone(&self.1)), Arc::clone(&self.1)));
        Ok(())
    }
}

impl CommBackend for Imported<CommBackends> {
    fn capabilities(&self) -> Capabilities {
        // A backend that panics here is poisoned: opening it reports that.
        self.describe().unwrap_or_default()
    }

    fn open(&self, bootstrap: &Bootstrap) -> Result<Box<dyn Communicator>> {
        let bootstrap = encode(bootstrap)?;
        let communicator = filled(|slot| self.connect(bootstrap.as_slice().into(), slot))?;
        Ok(Box::new(Imported::<CommCollectives>::of(communicator, self.name())?))
    }
}
