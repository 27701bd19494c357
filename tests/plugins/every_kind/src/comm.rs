//! The second of two ranks, whose peer has the same elements.

use std::cell::RefCell;
use std::time::Duration;

use mdt_plugin_api::Finished;
use mdt_plugin_api::prelude::*;
use mdt_plugin_api::register::Connected;

use super::faults::Faults;
use super::recorder::Recorder;
use super::source::Source;

/// The backend.
pub struct Mirror {
    faults: Faults,
    services: Services,
}

/// Its communicator.
pub struct Second {
    faults: Faults,
    services: Services,
}

impl Component for Mirror {
    type Config = Faults;

    fn create(faults: Faults, setup: &Setup) -> Result<Self> {
        faults.at("create")?;
        Ok(Self { faults, services: setup.services.clone() })
    }
}

impl Drop for Mirror {
    fn drop(&mut self) {
        self.faults.panic_at("drop");
    }
}

impl Drop for Second {
    fn drop(&mut self) {
        self.faults.panic_at("drop of the communicator");
    }
}

impl Second {
    fn work(&self, buffers: Vec<Buffer>) -> Result<Box<dyn Work>> {
        Ok(Box::new(Slow { faults: self.faults.clone(), waits: 2, buffers: Finished(Some(buffers)) }))
    }
}

impl CommBackend for Mirror {
    type Communicator = Second;

    fn capabilities(&self) -> Result<Capabilities> {
        self.faults.at("capabilities")?;
        let (dtypes, ops) = (vec![Dtype::F32, Dtype::U64], vec![ReduceOp::Sum, ReduceOp::Max, ReduceOp::Min]);
        Ok(Capabilities { dtypes, ops, max_world_size: 2, deterministic: true, ..Capabilities::default() })
    }

    fn open(&self, bootstrap: &Bootstrap) -> Result<Second> {
        self.faults.at("open")?;
        let Bootstrap { rank, world_size, job, identity, .. } = bootstrap;
        let address = bootstrap.value("address")?;
        self.services.log(LogLevel::Info, &format!("{rank} of {world_size}, {job}, {identity}, {address}"));
        Ok(Second { faults: self.faults.clone(), services: self.services.clone() })
    }
}

impl Communicator for Second {
    fn rank(&self) -> u32 {
        self.faults.panic_at("rank");
        1
    }

    fn world_size(&self) -> u32 {
        self.faults.panic_at("world_size");
        2
    }

    fn all_reduce(&self, mut buffers: Vec<Buffer>, op: ReduceOp) -> Result<Box<dyn Work>> {
        self.faults.at("all_reduce")?;
        for buffer in buffers.iter_mut().filter(|_| op == ReduceOp::Sum) {
            buffer.as_mut_slice::<f32>()?.iter_mut().for_each(|element| *element *= 2.0);
        }
        self.work(buffers)
    }

    fn all_gather(&self, buffer: Buffer) -> Result<Box<dyn Work>> {
        self.faults.at("all_gather")?;
        self.work(vec![buffer.clone(), buffer])
    }

    fn broadcast(&self, buffers: Vec<Buffer>, root: u32) -> Result<Box<dyn Work>> {
        self.faults.at("broadcast")?;
        if root > 1 {
            return Err(Error::new(ErrorCode::Peer, format!("there is no rank {root}")).with("rank", root));
        }
        self.work(buffers)
    }

    fn barrier(&self) -> Result<Box<dyn Work>> {
        self.faults.at("barrier")?;
        self.work(Vec::new())
    }

    fn abort(&self, reason: &str) {
        self.faults.panic_at("abort");
        self.services.log(LogLevel::Info, &format!("aborted: {reason}"));
    }
}

impl ReduceScatter for Second {
    fn reduce_scatter(&self, buffer: Buffer, op: ReduceOp) -> Result<Box<dyn Work>> {
        self.faults.at("reduce_scatter")?;
        self.all_reduce(vec![buffer], op)
    }
}

impl PointToPoint for Second {
    fn send(&self, buffer: Buffer, to: u32) -> Result<Box<dyn Work>> {
        self.faults.at("send")?;
        match to {
            0 => self.work(vec![buffer]),
            _ => Err(Error::plugin(format!("nothing can be sent to rank {to}"))),
        }
    }

    fn receive(&self, mut buffer: Buffer, from: u32) -> Result<Box<dyn Work>> {
        self.faults.at("receive")?;
        buffer.bytes_mut().fill(from as u8 + 1);
        self.work(vec![buffer])
    }
}

impl CommRegions for Second {
    fn region(&self, bytes: usize) -> Result<Region> {
        self.faults.at("region")?;
        Ok(Region::of(vec![7u64; bytes.div_ceil(8)]))
    }
}

/// Work that is done when it is waited for a second time.
struct Slow {
    faults: Faults,
    waits: u64,
    buffers: Finished,
}

impl Drop for Slow {
    fn drop(&mut self) {
        self.faults.panic_at("drop of the work");
    }
}

impl Work for Slow {
    fn wait(&mut self, deadline: Duration) -> Result<Outcome> {
        self.faults.at("wait")?;
        self.waits -= 1;
        if self.waits == 0 { self.buffers.wait(deadline) } else { Ok(Outcome::TimedOut) }
    }

    fn progress(&self) -> u64 {
        self.faults.panic_at("progress");
        2 - self.waits
    }
}

/// The methods that may fail.
pub const METHODS: &[&str] = &[
    "capabilities",
    "open",
    "rank",
    "world_size",
    "all_reduce",
    "all_gather",
    "broadcast",
    "barrier",
    "reduce_scatter",
    "send",
    "receive",
    "region",
    "wait",
    "progress",
    "abort",
    "drop of the work",
    "drop of the communicator",
];

/// Those of `comm.point_to_point/1`.
pub const PAIRS: &[&str] = &["send", "receive"];

/// Calls each method.
pub fn exercise(recorder: &mut Recorder, source: &Source) {
    let (config, setup) = (recorder.config(), recorder.setup());
    let Some(backend) = recorder.make("create", |_| String::new(), || source.comm(&config, &setup)) else { return };
    recorder.call_shared("capabilities", || backend.capabilities());
    let values = [("address".to_owned(), "here".to_owned())].into();
    let bootstrap = Bootstrap { rank: 1, world_size: 2, job: "1f".to_owned(), identity: "{}".to_owned(), values };
    let nowhere = Bootstrap { values: Default::default(), ..bootstrap.clone() };
    recorder.call_shared("open", || backend.open(&nowhere).map(drop));
    // Behind the boundary a communicator is asked for its place once, when it is opened.
    let place = |opened: &(Connected, u32, u32)| format!("{} of {}", opened.1, opened.2);
    let opened = recorder.make("open", place, || {
        let communicator = backend.open(&bootstrap)?;
        let (rank, world_size) = (communicator.rank(), communicator.world_size());
        Ok((communicator, rank, world_size))
    });
    if let Some((communicator, ..)) = opened {
        collectives(recorder, &communicator);
        recorder.drop("drop of the communicator", communicator);
    }
    recorder.drop("drop", backend);
}

fn collectives(recorder: &mut Recorder, communicator: &Connected) {
    let scatter = communicator.reduce_scatter.as_ref().expect("the ability");
    // Not there where a version before it is exercised.
    let pairs = || communicator.point_to_point.as_ref().ok_or_else(|| Error::plugin("no ability `point_to_point`"));
    let regions = communicator.regions.as_ref().expect("the ability");
    let buffers = || vec![vec![1.5f32, -0.0].into(), Vec::<f32>::new().into()];
    type Start<'a> = &'a (dyn Fn() -> Result<Box<dyn Work>> + Sync);
    let starts: [(&str, Start<'_>); 11] = [
        ("all_reduce", &|| communicator.all_reduce(buffers(), ReduceOp::Sum)),
        ("all_reduce", &|| communicator.all_reduce(buffers(), ReduceOp::Max)),
        ("all_reduce", &|| communicator.all_reduce(vec![vec![1u64].into()], ReduceOp::Sum)),
        ("all_gather", &|| communicator.all_gather(vec![3u64, 4].into())),
        ("broadcast", &|| communicator.broadcast(buffers(), 1)),
        ("broadcast", &|| communicator.broadcast(buffers(), 2)),
        ("barrier", &|| communicator.barrier()),
        ("send", &|| pairs()?.send(vec![1.0f32, 3.0].into(), 0)),
        ("send", &|| pairs()?.send(vec![1.0f32].into(), 1)),
        ("receive", &|| pairs()?.receive(vec![0u64; 2].into(), 0)),
        ("reduce_scatter", &|| scatter.reduce_scatter(vec![1.0f32, 3.0].into(), ReduceOp::Min)),
    ];
    for (method, start) in starts {
        recorder.panic_on_threads(method, start);
        let Some(work) = recorder.call_for(method, |_| String::new(), start) else { continue };
        let work = RefCell::new(work);
        let wait = || work.borrow_mut().wait(Duration::from_secs(1));
        for _ in 0..2 {
            recorder.call_infallible("progress", || work.borrow().progress(), || wait().map(drop));
            recorder.call("wait", wait);
        }
        recorder.drop("drop of the work", work);
    }
    recorder.call_shared("region", || Ok(regions.region(12)?.buffer::<u64>(0..2)?.as_slice::<u64>()?.to_vec()));
    let next = || communicator.barrier().map(drop);
    recorder.call_infallible("abort", || communicator.abort("no more"), next);
}
