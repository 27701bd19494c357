//! Communication backends across the boundary.

use std::ops::Deref;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use abi_stable::std_types::{RSlice, RSliceMut, RStr};

use super::buffer::{RawBuffer, lent, lent_region, put, taken, taken_region};
use super::guard::{Guarded, Owner};
use super::object::{AnyThread, Imported, RawObject, ability, exports};
use super::record::{decode, encode, replies};
use super::table::interfaces;
use super::types::{filled, having};
use crate::register::{Connected, Connects};
use crate::{
    Bootstrap, Buffer, Capabilities, CommRegions, Communicator, Dtype, Error, Outcome, PointToPoint, ReduceOp,
    ReduceScatter, Region, Result, Work,
};

interfaces! {
    /// A collective under way. Any thread, one at a time.
    "comm.work/1" CommWork WorkFunctions {
        /// [`Work::wait`]; not done when the time was up. It puts the result into the slots, as many as the collective
        /// was given buffers; all_gather: as there are ranks.
        fn wait_for(nanoseconds: u64, done: &mut bool, slots: RSliceMut<'_, RawBuffer>);
        /// [`Work::progress`].
        fn read_progress(progress: &mut u64);
    }

    /// The processes of a job, connected. Any thread. Whoever is called takes the buffers out of their slots, also when it
    /// fails.
    "comm.collectives/1" CommCollectives CollectiveFunctions {
        /// [`Communicator::rank`] and [`Communicator::world_size`].
        fn place(rank: &mut u32, world_size: &mut u32);
        /// [`Communicator::all_reduce`].
        fn start_all_reduce(buffers: RSliceMut<'_, RawBuffer>, op: u32, work: &mut RawObject);
        /// [`Communicator::all_gather`].
        fn start_all_gather(buffer: &mut RawBuffer, work: &mut RawObject);
        /// [`Communicator::broadcast`].
        fn start_broadcast(buffers: RSliceMut<'_, RawBuffer>, root: u32, work: &mut RawObject);
        /// [`Communicator::barrier`].
        fn start_barrier(work: &mut RawObject);
        /// [`Communicator::abort`].
        fn abort_all(reason: RStr<'_>);
    }

    /// An ability that an object with `comm.collectives/1` may have. Any thread.
    "comm.reduce_scatter/1" CommReduceScatter ReduceScatterFunctions {
        /// [`ReduceScatter::reduce_scatter`].
        fn start_reduce_scatter(buffer: &mut RawBuffer, op: u32, work: &mut RawObject);
    }

    /// An ability that an object with `comm.collectives/1` may have. Any thread.
    "comm.point_to_point/1" CommPointToPoint PointToPointFunctions {
        /// [`PointToPoint::send`].
        fn start_send(buffer: &mut RawBuffer, to: u32, work: &mut RawObject);
        /// [`PointToPoint::receive`].
        fn start_receive(buffer: &mut RawBuffer, from: u32, work: &mut RawObject);
    }

    /// An ability that an object with `comm.collectives/1` may have. Any thread.
    "comm.regions/1" CommMemory MemoryFunctions {
        /// [`CommRegions::region`], as a buffer of all its bytes, which lives until it is released.
        fn make_region(bytes: usize, region: &mut RawBuffer);
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
/// A backend, and who is blamed for the communicators that it makes.
type OwnedBackend = (Box<dyn Connects>, Arc<Owner>);

/// A communicator, and who is blamed for the work that it makes.
struct OwnedCommunicator {
    connected: Connected,
    owner: Arc<Owner>,
}

impl Deref for OwnedCommunicator {
    type Target = Connected;

    fn deref(&self) -> &Connected {
        &self.connected
    }
}

replies! { Capabilities }
exports! {
    SharedWork: CommWork;
    OwnedCommunicator: CommCollectives, CommReduceScatter if reduce_scatter, CommPointToPoint if point_to_point,
        CommMemory if regions;
    OwnedBackend: CommBackends;
}

// SAFETY: `Work` is `Send`, and its mutex makes it `Sync`.
unsafe impl AnyThread for CommWork {}
// SAFETY: `Communicator` is `Send + Sync`.
unsafe impl AnyThread for CommCollectives {}
// SAFETY: as above.
unsafe impl AnyThread for CommReduceScatter {}
// SAFETY: as above.
unsafe impl AnyThread for CommPointToPoint {}
// SAFETY: as above.
unsafe impl AnyThread for CommMemory {}
// SAFETY: `CommBackend` is `Send + Sync`.
unsafe impl AnyThread for CommBackends {}

/// Makes an object of a plain backend.
pub(super) fn export(backend: Box<dyn Connects>, owner: Arc<Owner>) -> RawObject {
    RawObject::new(Guarded::new((backend, Arc::clone(&owner)), owner))
}

/// Makes a plain backend of an object.
pub(super) fn import(object: RawObject, name: &'static str) -> Result<Box<dyn Connects>> {
    Ok(Box::new(Imported::<CommBackends>::of(object, name)?))
}

impl WorkFunctions for SharedWork {
    fn wait_for(&self, nanoseconds: u64, done: &mut bool, slots: RSliceMut<'_, RawBuffer>) -> Result<()> {
        let mut work = self.lock().unwrap_or_else(PoisonError::into_inner);
        *done = false;
        if let Outcome::Done(result) = work.wait(Duration::from_nanos(nanoseconds))? {
            put(result, slots)?;
            *done = true;
        }
        Ok(())
    }

    fn read_progress(&self, progress: &mut u64) -> Result<()> {
        *progress = self.lock().unwrap_or_else(PoisonError::into_inner).progress();
        Ok(())
    }
}

/// Where a buffer is, in how many bytes, of which type.
type Place = (std::ptr::NonNull<u8>, usize, Dtype);

/// What a collective must give back.
enum Expected {
    /// The buffers that it was given.
    Same(Vec<Place>),
    /// One buffer of this type from each of so many ranks; at this rank's place so many bytes.
    Gathered { world_size: u32, rank: u32, bytes: usize, dtype: Dtype },
}

// SAFETY: places are compared, never read.
unsafe impl Send for Expected {}

impl Expected {
    fn same(buffers: &[Buffer]) -> Self {
        Self::Same(buffers.iter().map(Buffer::place).collect())
    }

    fn count(&self) -> usize {
        match self {
            Self::Same(places) => places.len(),
            Self::Gathered { world_size, .. } => *world_size as usize,
        }
    }

    /// Checks what came back.
    fn check(&self, buffers: &[Buffer]) -> Result<()> {
        match self {
            Self::Same(places) => {
                let differs = |(buffer, place): (&Buffer, &Place)| buffer.place() != *place;
                match buffers.iter().zip(places).position(differs) {
                    None => Ok(()),
                    Some(index) => Err(Error::plugin(format!(
                        "the collective gave another buffer back than it was given: number {index}, {:?}",
                        buffers[index]
                    ))),
                }
            }
            &Self::Gathered { rank, bytes, dtype, .. } => {
                if let Some(other) = buffers.iter().position(|buffer| buffer.dtype() != dtype) {
                    let found = &buffers[other];
                    return Err(Error::plugin(format!("all_gather of {dtype} gave {found:?} for rank {other}")));
                }
                match buffers[rank as usize].bytes().len() {
                    given if given == bytes => Ok(()),
                    given => Err(Error::plugin(format!(
                        "all_gather gave {given} bytes for this rank, which has given {bytes}"
                    ))),
                }
            }
        }
    }
}

/// Work of a backend, and what it must give back.
struct ImportedWork {
    work: Imported<CommWork>,
    expected: Expected,
}

impl Work for ImportedWork {
    fn wait(&mut self, deadline: Duration) -> Result<Outcome> {
        let nanoseconds = u64::try_from(deadline.as_nanos()).unwrap_or(u64::MAX);
        let mut slots: Vec<RawBuffer> = (0..self.expected.count()).map(|_| RawBuffer::default()).collect();
        let mut done = false;
        self.work.wait_for(nanoseconds, &mut done, slots.as_mut_slice().into())?;
        if !done {
            return Ok(Outcome::TimedOut);
        }
        let named = |error: Error| error.in_component(self.work.name());
        let buffers = taken(&mut slots).map_err(named)?;
        self.expected.check(&buffers).map_err(named)?;
        Ok(Outcome::Done(buffers))
    }

    fn progress(&self) -> u64 {
        let mut progress = 0;
        // Waiting reports the failure.
        let _ = self.work.read_progress(&mut progress);
        progress
    }
}

/// Puts started work into its slot.
fn put_work(communicator: &OwnedCommunicator, work: Box<dyn Work>, slot: &mut RawObject) -> Result<()> {
    *slot = RawObject::new(Guarded::new(Mutex::new(work), Arc::clone(&communicator.owner)));
    Ok(())
}

impl ReduceScatterFunctions for OwnedCommunicator {
    fn start_reduce_scatter(&self, buffer: &mut RawBuffer, op: u32, work: &mut RawObject) -> Result<()> {
        let (buffers, op) = (taken(std::slice::from_mut(buffer))?, ReduceOp::try_from(op)?);
        let able = having(&self.reduce_scatter)?;
        buffers.into_iter().try_for_each(|buffer| put_work(self, able.reduce_scatter(buffer, op)?, work))
    }
}

impl PointToPointFunctions for OwnedCommunicator {
    fn start_send(&self, buffer: &mut RawBuffer, to: u32, work: &mut RawObject) -> Result<()> {
        let buffers = taken(std::slice::from_mut(buffer))?;
        let able = having(&self.point_to_point)?;
        buffers.into_iter().try_for_each(|buffer| put_work(self, able.send(buffer, to)?, work))
    }

    fn start_receive(&self, buffer: &mut RawBuffer, from: u32, work: &mut RawObject) -> Result<()> {
        let buffers = taken(std::slice::from_mut(buffer))?;
        let able = having(&self.point_to_point)?;
        buffers.into_iter().try_for_each(|buffer| put_work(self, able.receive(buffer, from)?, work))
    }
}

impl MemoryFunctions for OwnedCommunicator {
    fn make_region(&self, bytes: usize, region: &mut RawBuffer) -> Result<()> {
        *region = lent_region(&having(&self.regions)?.region(bytes)?)?;
        Ok(())
    }
}

impl CollectiveFunctions for OwnedCommunicator {
    fn place(&self, rank: &mut u32, world_size: &mut u32) -> Result<()> {
        (*rank, *world_size) = (self.rank(), self.world_size());
        Ok(())
    }

    fn start_all_reduce(&self, mut buffers: RSliceMut<'_, RawBuffer>, op: u32, work: &mut RawObject) -> Result<()> {
        let buffers = taken(buffers.as_mut_slice())?;
        put_work(self, self.all_reduce(buffers, op.try_into()?)?, work)
    }

    fn start_all_gather(&self, buffer: &mut RawBuffer, work: &mut RawObject) -> Result<()> {
        let buffers = taken(std::slice::from_mut(buffer))?;
        buffers.into_iter().try_for_each(|buffer| put_work(self, self.all_gather(buffer)?, work))
    }

    fn start_broadcast(&self, mut buffers: RSliceMut<'_, RawBuffer>, root: u32, work: &mut RawObject) -> Result<()> {
        put_work(self, self.broadcast(taken(buffers.as_mut_slice())?, root)?, work)
    }

    fn start_barrier(&self, work: &mut RawObject) -> Result<()> {
        put_work(self, self.barrier()?, work)
    }

    fn abort_all(&self, reason: RStr<'_>) -> Result<()> {
        self.abort(reason.as_str());
        Ok(())
    }
}

/// A communicator of a backend. It has the place that it was opened for.
struct ImportedCommunicator {
    functions: Imported<CommCollectives>,
    rank: u32,
    world_size: u32,
}

impl ImportedCommunicator {
    /// The communicator of an object with its abilities, which is at the place that it was opened for.
    fn of(object: RawObject, name: &'static str, bootstrap: &Bootstrap) -> Result<Connected> {
        let functions = Imported::<CommCollectives>::of(object, name)?;
        let &Bootstrap { rank, world_size, .. } = bootstrap;
        let (mut own_rank, mut own_size) = (u32::MAX, 0);
        functions.place(&mut own_rank, &mut own_size)?;
        if (own_rank, own_size) != (rank, world_size) {
            return Err(Error::plugin(format!(
                "opened for rank {rank} of {world_size}, the communicator says that it is rank {own_rank} of {own_size}"
            ))
            .in_component(name));
        }
        let object = functions.share().into_shared();
        Ok(Connected {
            reduce_scatter: ability!(CommReduceScatter of object, name),
            point_to_point: ability!(CommPointToPoint of object, name),
            regions: ability!(CommMemory of object, name),
            collectives: Arc::new(Self { functions, rank, world_size }),
        })
    }

    /// The work that a call starts.
    fn started(
        &self,
        expected: Expected,
        call: impl FnOnce(&Imported<CommCollectives>, &mut RawObject) -> Result<()>,
    ) -> Result<Box<dyn Work>> {
        import_work(filled(|slot| call(&self.functions, slot))?, self.functions.name(), expected)
    }
}

fn import_work(object: RawObject, name: &'static str, expected: Expected) -> Result<Box<dyn Work>> {
    Ok(Box::new(ImportedWork { work: Imported::of(object, name)?, expected }))
}

impl CommRegions for Imported<CommMemory> {
    fn region(&self, bytes: usize) -> Result<Region> {
        let region = filled(|slot| self.make_region(bytes, slot)).and_then(taken_region)?;
        match region.bytes() >= bytes && region.is_aligned() {
            true => Ok(region),
            false => Err(Error::plugin(format!("asked for memory of {bytes} aligned bytes, it gave {region:?}"))
                .in_component(self.name())),
        }
    }
}

impl ReduceScatter for Imported<CommReduceScatter> {
    fn reduce_scatter(&self, buffer: Buffer, op: ReduceOp) -> Result<Box<dyn Work>> {
        let expected = Expected::same(std::slice::from_ref(&buffer));
        let object = filled(|slot| self.start_reduce_scatter(&mut buffer.into(), op as u32, slot))?;
        import_work(object, self.name(), expected)
    }
}

impl PointToPoint for Imported<CommPointToPoint> {
    fn send(&self, buffer: Buffer, to: u32) -> Result<Box<dyn Work>> {
        let expected = Expected::same(std::slice::from_ref(&buffer));
        let object = filled(|slot| self.start_send(&mut buffer.into(), to, slot))?;
        import_work(object, self.name(), expected)
    }

    fn receive(&self, buffer: Buffer, from: u32) -> Result<Box<dyn Work>> {
        let expected = Expected::same(std::slice::from_ref(&buffer));
        let object = filled(|slot| self.start_receive(&mut buffer.into(), from, slot))?;
        import_work(object, self.name(), expected)
    }
}

impl Communicator for ImportedCommunicator {
    fn rank(&self) -> u32 {
        self.rank
    }

    fn world_size(&self) -> u32 {
        self.world_size
    }

    fn all_reduce(&self, buffers: Vec<Buffer>, op: ReduceOp) -> Result<Box<dyn Work>> {
        let expected = Expected::same(&buffers);
        self.started(expected, |functions, work| {
            functions.start_all_reduce(lent(buffers).as_mut_slice().into(), op as u32, work)
        })
    }

    fn all_gather(&self, buffer: Buffer) -> Result<Box<dyn Work>> {
        let &Self { rank, world_size, .. } = self;
        let (bytes, dtype) = (buffer.bytes().len(), buffer.dtype());
        let expected = Expected::Gathered { world_size, rank, bytes, dtype };
        self.started(expected, |functions, work| functions.start_all_gather(&mut buffer.into(), work))
    }

    fn broadcast(&self, buffers: Vec<Buffer>, root: u32) -> Result<Box<dyn Work>> {
        let expected = Expected::same(&buffers);
        self.started(expected, |functions, work| {
            functions.start_broadcast(lent(buffers).as_mut_slice().into(), root, work)
        })
    }

    fn barrier(&self) -> Result<Box<dyn Work>> {
        self.started(Expected::Same(Vec::new()), |functions, work| functions.start_barrier(work))
    }

    fn abort(&self, reason: &str) {
        // A communicator that panics here is poisoned: the next collective reports that.
        let _ = self.functions.abort_all(reason.into());
    }
}

impl BackendFunctions for OwnedBackend {
    fn describe(&self) -> Result<Capabilities> {
        self.0.capabilities()
    }

    fn connect(&self, bootstrap: RSlice<'_, u8>, communicator: &mut RawObject) -> Result<()> {
        let (backend, owner) = self;
        let connected = backend.open(&decode(bootstrap.as_slice())?)?;
        let connected = OwnedCommunicator { connected, owner: Arc::clone(owner) };
        *communicator = RawObject::new(Guarded::new(connected, Arc::clone(owner)));
        Ok(())
    }
}

impl Connects for Imported<CommBackends> {
    fn capabilities(&self) -> Result<Capabilities> {
        self.describe()
    }

    fn open(&self, bootstrap: &Bootstrap) -> Result<Connected> {
        let record = encode(bootstrap)?;
        let communicator = filled(|slot| self.connect(record.as_slice().into(), slot))?;
        ImportedCommunicator::of(communicator, self.name(), bootstrap)
    }
}
