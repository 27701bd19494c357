//! Collectives over a directory that all ranks share: `Files`, by the name `files`.
//!
//! In collective number n, rank r writes the bytes of its buffers to the file `n-r` and reads those of the others, so
//! ranks need nothing but a file system to train together. The files of a job stay until somebody removes them.

use std::fs;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::thread::sleep;
use std::time::{Duration, Instant};

use mdt_plugin_api::prelude::*;

mdt_plugin_api::config! {
    /// Keys of the backend `files`.
    pub struct Config {
        /// The directory that all ranks share.
        directory: String = ".".to_owned(),
    }
}

struct Files(Config);

impl Component for Files {
    type Config = Config;

    fn create(config: Config, _setup: &Setup) -> Result<Self> {
        Ok(Self(config))
    }
}

/// How elements are combined here.
const OPS: [ReduceOp; 3] = [ReduceOp::Sum, ReduceOp::Max, ReduceOp::Min];

impl CommBackend for Files {
    type Communicator = Ranks;

    fn capabilities(&self) -> Result<Capabilities> {
        let dtypes = vec![Dtype::F32, Dtype::F64];
        Ok(Capabilities { dtypes, ops: OPS.to_vec(), deterministic: true, ..Capabilities::default() })
    }

    fn open(&self, bootstrap: &Bootstrap) -> Result<Ranks> {
        if bootstrap.job.is_empty() {
            return Err(Error::config("the files of this job need a name").help("set MDT_JOB_ID, new at every start"));
        }
        let directory = PathBuf::from(&self.0.directory).join(&bootstrap.job);
        fs::create_dir_all(&directory).map_err(|error| failed("the shared directory cannot be made", error))?;
        let &Bootstrap { rank, world_size, .. } = bootstrap;
        Ok(Ranks { place: Arc::new(Place { directory, rank, world_size }), begun: AtomicU64::new(0) })
    }
}

struct Place {
    directory: PathBuf,
    rank: u32,
    world_size: u32,
}

struct Ranks {
    place: Arc<Place>,
    begun: AtomicU64,
}

#[derive(Clone, Copy)]
enum Kind {
    Reduce(ReduceOp),
    Gather,
    Broadcast { root: u32 },
}

impl Ranks {
    fn begin(&self, kind: Kind, buffers: Vec<Buffer>) -> Result<Box<dyn Work>> {
        let number = self.begun.fetch_add(1, Ordering::Relaxed);
        let bytes: Vec<u8> = buffers.iter().flat_map(Buffer::bytes).copied().collect();
        self.place.write(&format!("{number}-{}", self.place.rank), &bytes)?;
        Ok(Box::new(Exchange { place: Arc::clone(&self.place), number, kind, buffers: Some(buffers) }))
    }
}

impl Communicator for Ranks {
    fn rank(&self) -> u32 {
        self.place.rank
    }

    fn world_size(&self) -> u32 {
        self.place.world_size
    }

    fn all_reduce(&self, buffers: Vec<Buffer>, op: ReduceOp) -> Result<Box<dyn Work>> {
        match OPS.contains(&op) {
            true => self.begin(Kind::Reduce(op), buffers),
            false => Err(Error::plugin(format!("a {} of elements is not made here", op.name()))),
        }
    }

    fn all_gather(&self, buffer: Buffer) -> Result<Box<dyn Work>> {
        self.begin(Kind::Gather, vec![buffer])
    }

    fn broadcast(&self, buffers: Vec<Buffer>, root: u32) -> Result<Box<dyn Work>> {
        self.begin(Kind::Broadcast { root }, buffers)
    }

    fn barrier(&self) -> Result<Box<dyn Work>> {
        self.begin(Kind::Broadcast { root: 0 }, Vec::new())
    }

    fn abort(&self, reason: &str) {
        let reason = format!("rank {} aborted: {reason}", self.place.rank);
        // The first reason stays; if it cannot be written, the others wait until their time is up.
        if !self.place.directory.join("abort").exists() {
            let _ = self.place.write("abort", reason.as_bytes());
        }
    }
}

impl Place {
    /// Writes a file that others see whole or not at all.
    fn write(&self, name: &str, bytes: &[u8]) -> Result<()> {
        let whole = self.directory.join(name);
        let part = self.directory.join(format!("{name}.part-{}", self.rank));
        let written = fs::write(&part, bytes).and_then(|()| fs::rename(&part, &whole));
        written.map_err(|error| failed("a file for the other ranks cannot be written", error))
    }

    /// What the ranks have written that have begun this collective.
    fn arrived(&self, number: u64) -> Vec<PathBuf> {
        let files = (0..self.world_size).map(|rank| self.directory.join(format!("{number}-{rank}")));
        files.filter(|file| file.exists()).collect()
    }
}

struct Exchange {
    place: Arc<Place>,
    number: u64,
    kind: Kind,
    buffers: Option<Vec<Buffer>>,
}

impl Work for Exchange {
    fn wait(&mut self, deadline: Duration) -> Result<Outcome> {
        let begin = Instant::now();
        loop {
            if let Ok(reason) = fs::read_to_string(self.place.directory.join("abort")) {
                return Err(Error::new(ErrorCode::Peer, reason));
            }
            let files = self.place.arrived(self.number);
            if files.len() == self.place.world_size as usize {
                let ranks: std::io::Result<Vec<_>> = files.into_iter().map(fs::read).collect();
                return self.finish(&ranks.map_err(|error| failed("a rank's file cannot be read", error))?);
            }
            if begin.elapsed() >= deadline {
                return Ok(Outcome::TimedOut);
            }
            sleep(Duration::from_millis(1));
        }
    }

    fn progress(&self) -> u64 {
        self.place.arrived(self.number).len() as u64
    }
}

impl Exchange {
    /// Takes the buffers and what all ranks have written.
    fn finish(&mut self, ranks: &[Vec<u8>]) -> Result<Outcome> {
        let mut buffers = self.buffers.take().ok_or_else(|| Error::plugin("the result was taken"))?;
        if let Kind::Gather = self.kind {
            let dtype = buffers[0].dtype();
            return Ok(Outcome::Done(ranks.iter().map(|bytes| Buffer::copy_of(dtype, bytes)).collect::<Result<_>>()?));
        }
        let length: usize = buffers.iter().map(|buffer| buffer.bytes().len()).sum();
        if let Some(rank) = ranks.iter().position(|bytes| bytes.len() != length) {
            return Err(
                Error::new(ErrorCode::Peer, format!("rank {rank} has called something else")).with("rank", rank)
            );
        }
        let mut begin = 0;
        for buffer in &mut buffers {
            let range = begin..begin + buffer.bytes().len();
            begin = range.end;
            let part = |bytes: &Vec<u8>| Buffer::copy_of(buffer.dtype(), &bytes[range.clone()]);
            let ranks: Vec<Buffer> = ranks.iter().map(part).collect::<Result<_>>()?;
            let result = match (self.kind, buffer.dtype()) {
                (Kind::Reduce(op), Dtype::F32) => fold::<f32>(ranks, |a, b| combine(a, b, op))?,
                (Kind::Reduce(op), Dtype::F64) => fold::<f64>(ranks, |a, b| combine(a, b, op))?,
                (Kind::Broadcast { root }, _) => ranks[root as usize].clone(),
                (_, dtype) => return Err(Error::plugin(format!("{dtype} is not reduced here"))),
            };
            buffer.bytes_mut().copy_from_slice(result.bytes());
        }
        Ok(Outcome::Done(buffers))
    }
}

fn combine<T: std::ops::Add<Output = T> + PartialOrd>(a: T, b: T, op: ReduceOp) -> T {
    let first = match op {
        ReduceOp::Sum => return a + b,
        ReduceOp::Max => a >= b,
        _ => a <= b,
    };
    // A comparison with NaN is false, and only NaN differs from itself.
    #[allow(clippy::eq_op)]
    if first || a != a { a } else { b }
}

/// Folds all ranks by the pairwise tree: neighbours, then neighbours of those.
fn fold<T: Element>(mut ranks: Vec<Buffer>, combine: impl Fn(T, T) -> T) -> Result<Buffer> {
    while ranks.len() > 1 {
        for pair in ranks.chunks_exact_mut(2) {
            let [left, right] = pair else { continue };
            let pairs = left.as_mut_slice::<T>()?.iter_mut().zip(right.as_slice::<T>()?);
            pairs.for_each(|(left, &right)| *left = combine(*left, right));
        }
        ranks = ranks.into_iter().step_by(2).collect();
    }
    ranks.pop().ok_or_else(|| Error::plugin("a job has a rank at least"))
}

fn failed(what: &str, error: std::io::Error) -> Error {
    Error::new(ErrorCode::Peer, what).caused_by(error)
}

mdt_plugin_api::plugin! { comm "files" => Files; }
