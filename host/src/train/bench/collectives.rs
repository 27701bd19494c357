//! `mdt-host bench all-reduce`, `reduce-scatter` and `all-gather`: how long collectives take the ranks of a job, through the
//! plugin boundary as in training.

use std::fmt;
use std::ops::Range;
use std::time::Instant;

use mdt_plugin_api::Region;
use serde::Serialize;

use crate::exit::{Failure, Status};
use crate::job::Job;
use crate::train::connect::{backend, connect};

/// Bytes that are reduced for each size, at least [`FEWEST`] and at most [`MOST`] times, where no number is given.
const WORK: usize = 1 << 30;
const FEWEST: usize = 5;
const MOST: usize = 1000;

/// The figures of one size.
#[derive(Debug, Serialize)]
pub struct Figure {
    /// Bytes of the whole buffer: of the parts of all ranks in `all_gather`.
    pub bytes: usize,
    pub times: usize,
    pub s_median: f64,
    pub s_min: f64,
    pub s_max: f64,
    /// The spread: what nine of ten took longer than, and what nine of ten took less than.
    pub s_p10: f64,
    pub s_p90: f64,
    /// The bytes that each rank sends in the best algorithm by the median time: 2(n−1)/n of the buffer in `all_reduce`,
    /// half of that in the others.
    pub bus_gb_per_s: f64,
}

/// The figures of [`measure`], of the first rank.
#[derive(Debug, Serialize)]
pub struct Figures {
    pub collective: Collective,
    pub backend: String,
    pub ranks: usize,
    pub sizes: Vec<Figure>,
}

/// What is measured.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Collective {
    AllReduce,
    ReduceScatter,
    AllGather,
}

impl Collective {
    /// Its name, as a communicator has it.
    pub fn name(self) -> &'static str {
        match self {
            Self::AllReduce => "all_reduce",
            Self::ReduceScatter => "reduce_scatter",
            Self::AllGather => "all_gather",
        }
    }
}

/// Measures a collective of float32 over all ranks. Every rank of the job calls it. A fifth of the times goes first,
/// unmeasured.
pub fn measure(job: &Job, collective: Collective, sizes: &[usize], times: Option<usize>) -> Result<Figures, Failure> {
    let peers = connect(job, &*backend(job)?, None)?;
    let (ranks, mut figures) = (peers.world_size(), Vec::new());
    for &bytes in sizes {
        let times = times.unwrap_or((WORK / bytes).clamp(FEWEST, MOST));
        let part = bytes / 4 / ranks;
        let (elements, own): (usize, Range<usize>) = match collective {
            Collective::AllReduce => (bytes / 4, 0..bytes / 4),
            Collective::ReduceScatter => (part * ranks, part * peers.rank()..part * (peers.rank() + 1)),
            Collective::AllGather => (part, 0..part),
        };
        let region = peers.memory(bytes)?.unwrap_or_else(|| Region::of(vec![1.0f32; elements]));
        let mut taken = Vec::new();
        for _ in 0..times + times / 5 {
            let mut buffer = region.buffer::<f32>(0..elements)?;
            // Sums grow, and other sums would be numbers that processors are slow with.
            buffer.as_mut_slice::<f32>()?.fill(1.0);
            let begin = Instant::now();
            let what = "the buffers of a benchmark";
            let results = match collective {
                Collective::AllReduce => peers.all_reduce(what, vec![buffer])?,
                Collective::ReduceScatter => peers.reduce_scatter(what, buffer)?,
                Collective::AllGather => peers.gather(what, buffer)?,
            };
            taken.push(begin.elapsed().as_secs_f64());
            let expected = if collective == Collective::AllGather { 1.0 } else { ranks as f32 };
            for result in &results {
                if result.as_slice::<f32>()?[own.clone()].iter().any(|value| *value != expected) {
                    return Err(Failure::new(Status::Plugin, "the comm plugin gave a wrong result"));
                }
            }
        }
        figures.push(figure(collective, bytes, ranks, &mut taken[times / 5..]));
    }
    Ok(Figures { collective, backend: job.resolved.settings.comm.id.clone(), ranks, sizes: figures })
}

fn figure(collective: Collective, bytes: usize, ranks: usize, taken: &mut [f64]) -> Figure {
    taken.sort_by(f64::total_cmp);
    let last = taken.len() - 1;
    let (s_median, n) = (taken[taken.len() / 2], ranks as f64);
    let passes = if collective == Collective::AllReduce { 2.0 } else { 1.0 };
    Figure {
        bytes,
        times: taken.len(),
        s_median,
        s_min: taken[0],
        s_max: taken[last],
        s_p10: taken[last / 10],
        s_p90: taken[last - last / 10],
        bus_gb_per_s: bytes as f64 * passes * (n - 1.0) / n / s_median / 1e9,
    }
}

impl fmt::Display for Figures {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let name = self.collective.name();
        write!(f, "{name} of float32 between {} ranks over {}", self.ranks, self.backend)?;
        for Figure { bytes, s_median, s_p10, s_p90, bus_gb_per_s, .. } in &self.sizes {
            let [median, low, high] = [s_median, s_p10, s_p90].map(|seconds| seconds * 1e3);
            write!(f, "\n{bytes:>10} bytes {median:>9.3} ms ({low:.3} to {high:.3}) {bus_gb_per_s:>7.2} GB/s")?;
        }
        Ok(())
    }
}
