//! Communication backends across the boundary.

use std::sync::Arc;
use std::time::Duration;

use abi_stable::std_types::{RBox, ROption, RResult, RStr, RString, RVec};
use abi_stable::{StableAbi, sabi_trait, sabi_trait::TD_Opaque};

use super::guard::{Guarded, Owner};
use super::types::{RawError, plain, same_fields};
use crate::{
    Bootstrap, Buffer, Capabilities, CommBackend, Communicator, Dtype, Error, Outcome, ReduceOp, Result, Work,
};

/// [`Capabilities`].
#[repr(C)]
#[derive(StableAbi)]
pub struct RawCapabilities {
    dtypes: RVec<u32>,
    max_world_size: u32,
    deterministic: bool,
    abort: bool,
}

/// [`Bootstrap`].
#[repr(C)]
#[derive(StableAbi)]
pub struct RawBootstrap {
    rank: u32,
    world_size: u32,
    address: RString,
    port: u16,
    job: RString,
}

same_fields! {
    RawBootstrap, Bootstrap { rank, world_size, address, port, job }
}

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

fn raw_buffers(buffers: Vec<Buffer>) -> RVec<RawBuffer> {
    buffers.into_iter().map(RawBuffer::from).collect()
}

fn plain_buffers(buffers: RVec<RawBuffer>) -> Result<Vec<Buffer>> {
    buffers.into_iter().map(RawBuffer::plain).collect()
}

/// [`Work`] with a stable layout.
#[sabi_trait]
pub trait RawWork: Send {
    /// [`Work::poll`].
    fn poll(&mut self) -> bool;
    /// [`Work::wait`]; nothing when the time was up.
    #[sabi(last_prefix_field)]
    fn wait(&mut self, nanoseconds: u64) -> RResult<ROption<RVec<RawBuffer>>, RawError>;
}

type WorkObject = RawWork_TO<'static, RBox<()>>;

/// [`Communicator`] with a stable layout.
#[sabi_trait]
pub trait RawCommunicator: Send + Sync {
    /// [`Communicator::rank`].
    fn rank(&self) -> u32;
    /// [`Communicator::world_size`].
    fn world_size(&self) -> u32;
    /// [`Communicator::all_reduce`].
    fn all_reduce(&self, buffers: RVec<RawBuffer>, op: u32) -> RResult<WorkObject, RawError>;
    /// [`Communicator::all_gather`].
    fn all_gather(&self, buffer: RawBuffer) -> RResult<WorkObject, RawError>;
    /// [`Communicator::broadcast`].
    fn broadcast(&self, buffers: RVec<RawBuffer>, root: u32) -> RResult<WorkObject, RawError>;
    /// [`Communicator::barrier`].
    fn barrier(&self) -> RResult<WorkObject, RawError>;
    /// [`Communicator::abort`].
    #[sabi(last_prefix_field)]
    fn abort(&self, reason: RStr<'_>);
}

type CommunicatorObject = RawCommunicator_TO<'static, RBox<()>>;

/// [`CommBackend`] with a stable layout.
#[sabi_trait]
pub trait RawCommBackend: Send + Sync {
    /// [`CommBackend::capabilities`].
    fn capabilities(&self) -> RResult<RawCapabilities, RawError>;
    /// [`CommBackend::open`].
    #[sabi(last_prefix_field)]
    fn open(&self, bootstrap: RawBootstrap) -> RResult<CommunicatorObject, RawError>;
}

pub(crate) type CommObject = RawCommBackend_TO<'static, RBox<()>>;

struct ExportedWork(Guarded<Box<dyn Work>>);

impl RawWork for ExportedWork {
    fn poll(&mut self) -> bool {
        self.0.call_mut_or(true, |work| work.poll())
    }

    fn wait(&mut self, nanoseconds: u64) -> RResult<ROption<RVec<RawBuffer>>, RawError> {
        self.0.call_mut(|work| {
            Ok(match work.wait(Duration::from_nanos(nanoseconds))? {
                Outcome::Done(buffers) => ROption::RSome(raw_buffers(buffers)),
                Outcome::TimedOut => ROption::RNone,
            })
        })
    }
}

struct ExportedCommunicator(Guarded<Box<dyn Communicator>>);

impl ExportedCommunicator {
    fn work(&self, start: impl FnOnce(&dyn Communicator) -> Result<Box<dyn Work>>) -> RResult<WorkObject, RawError> {
        self.0.call(|communicator| {
            let work = Guarded::new(start(&**communicator)?, self.0.owner());
            Ok(RawWork_TO::from_value(ExportedWork(work), TD_Opaque))
        })
    }
}

impl RawCommunicator for ExportedCommunicator {
    fn rank(&self) -> u32 {
        self.0.call_or(u32::MAX, |communicator| communicator.rank())
    }

    fn world_size(&self) -> u32 {
        self.0.call_or(0, |communicator| communicator.world_size())
    }

    fn all_reduce(&self, buffers: RVec<RawBuffer>, op: u32) -> RResult<WorkObject, RawError> {
        self.work(|communicator| {
            let op = match op {
                1 => ReduceOp::Sum,
                2 => ReduceOp::Max,
                3 => ReduceOp::Min,
                number => return Err(Error::plugin(format!("reduction {number} is unknown here"))),
            };
            communicator.all_reduce(plain_buffers(buffers)?, op)
        })
    }

    fn all_gather(&self, buffer: RawBuffer) -> RResult<WorkObject, RawError> {
        self.work(|communicator| communicator.all_gather(buffer.plain()?))
    }

    fn broadcast(&self, buffers: RVec<RawBuffer>, root: u32) -> RResult<WorkObject, RawError> {
        self.work(|communicator| communicator.broadcast(plain_buffers(buffers)?, root))
    }

    fn barrier(&self) -> RResult<WorkObject, RawError> {
        self.work(|communicator| communicator.barrier())
    }

    fn abort(&self, reason: RStr<'_>) {
        self.0.call_or((), |communicator| communicator.abort(reason.as_str()));
    }
}

struct Exported(Guarded<Box<dyn CommBackend>>);

/// Makes an object of a plain backend.
pub(crate) fn export(backend: Box<dyn CommBackend>, owner: Arc<Owner>) -> CommObject {
    RawCommBackend_TO::from_value(Exported(Guarded::new(backend, owner)), TD_Opaque)
}

impl RawCommBackend for Exported {
    fn capabilities(&self) -> RResult<RawCapabilities, RawError> {
        self.0.call(|backend| {
            let capabilities = backend.capabilities();
            Ok(RawCapabilities {
                dtypes: capabilities.dtypes.iter().map(|dtype| dtype.0).collect(),
                max_world_size: capabilities.max_world_size,
                deterministic: capabilities.deterministic,
                abort: capabilities.abort,
            })
        })
    }

    fn open(&self, bootstrap: RawBootstrap) -> RResult<CommunicatorObject, RawError> {
        self.0.call(|backend| {
            let communicator = Guarded::new(backend.open(&bootstrap.into())?, self.0.owner());
            Ok(RawCommunicator_TO::from_value(ExportedCommunicator(communicator), TD_Opaque))
        })
    }
}

struct LoadedWork(WorkObject);

impl Work for LoadedWork {
    fn poll(&mut self) -> bool {
        self.0.poll()
    }

    fn wait(&mut self, deadline: Duration) -> Result<Outcome> {
        let nanoseconds = u64::try_from(deadline.as_nanos()).unwrap_or(u64::MAX);
        match plain(self.0.wait(nanoseconds))?.into_option() {
            Some(buffers) => Ok(Outcome::Done(plain_buffers(buffers)?)),
            None => Ok(Outcome::TimedOut),
        }
    }
}

struct LoadedCommunicator(CommunicatorObject);

fn plain_work(raw: RResult<WorkObject, RawError>) -> Result<Box<dyn Work>> {
    Ok(Box::new(LoadedWork(plain(raw)?)))
}

impl Communicator for LoadedCommunicator {
    fn rank(&self) -> u32 {
        self.0.rank()
    }

    fn world_size(&self) -> u32 {
        self.0.world_size()
    }

    fn all_reduce(&self, buffers: Vec<Buffer>, op: ReduceOp) -> Result<Box<dyn Work>> {
        plain_work(self.0.all_reduce(raw_buffers(buffers), op as u32))
    }

    fn all_gather(&self, buffer: Buffer) -> Result<Box<dyn Work>> {
        plain_work(self.0.all_gather(buffer.into()))
    }

    fn broadcast(&self, buffers: Vec<Buffer>, root: u32) -> Result<Box<dyn Work>> {
        plain_work(self.0.broadcast(raw_buffers(buffers), root))
    }

    fn barrier(&self) -> Result<Box<dyn Work>> {
        plain_work(self.0.barrier())
    }

    fn abort(&self, reason: &str) {
        self.0.abort(reason.into());
    }
}

struct Loaded(CommObject);

/// Makes a plain backend of an object.
pub(crate) fn import(object: CommObject) -> Box<dyn CommBackend> {
    Box::new(Loaded(object))
}

impl CommBackend for Loaded {
    fn capabilities(&self) -> Capabilities {
        // A backend that panics here is poisoned: opening it reports that.
        match plain(self.0.capabilities()) {
            Ok(raw) => Capabilities {
                dtypes: raw.dtypes.into_iter().map(Dtype).collect(),
                max_world_size: raw.max_world_size,
                deterministic: raw.deterministic,
                abort: raw.abort,
            },
            Err(_) => Capabilities::default(),
        }
    }

    fn open(&self, bootstrap: &Bootstrap) -> Result<Box<dyn Communicator>> {
        Ok(Box::new(LoadedCommunicator(plain(self.0.open(bootstrap.clone().into()))?)))
    }
}
