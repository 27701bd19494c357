//! `mdt-host bench all-reduce` and `reduce-scatter`: how long the ranks of a job take to sum a buffer, through the plugin
//! boundary as in training.

use std::fmt;
use std::ops::Range;
use std::time::Instant;

use mdt_plugin_api::Region;
use serde::Serialize;

use super::connect::{backend, connect};
use crate::exit::{Failure, Status};
use crate::job::Job;

/// Bytes that are reduced for each size, at least [`FEWEST`] and at most [`MOST`] times, where no number is given.
const WORK: usize = 1 << 30;
const FEWEST: usize = 5;
const MOST: usize = 1000;

/// The figures of one size.
#[derive(Debug, Serialize)]
pub struct Figure {
    pub bytes: usize,
    pub times: usize,
    pub s_median: f64,
    pub s_min: f64,
    /// The bytes that each rank sends in the best algorithm by the median time: 2(n−1)/n of the buffer in `all_reduce`,
    /// half of that in `reduce_scatter`.
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
}

/// Sums buffers of float32 over all ranks. Every rank of the job calls it. A fifth of the times goes first, unmeasured.
pub fn measure(job: &Job, collective: Collective, sizes: &[usize], times: Option<usize>) -> Result<Figures, Failure> {
    let peers = connect(job, &*backend(job)?)?;
    let (ranks, mut figures) = (peers.world_size(), Vec::new());
    for &bytes in sizes {
        let times = times.unwrap_or((WORK / bytes).clamp(FEWEST, MOST));
        let part = bytes / 4 / ranks;
        let (elements, own): (usize, Range<usize>) = match collective {
            Collective::AllReduce => (bytes / 4, 0..bytes / 4),
            Collective::ReduceScatter => (part * ranks, part * peers.rank()..part * (peers.rank() + 1)),
        };
        let region = peers.memory(bytes)?.unwrap_or_else(|| Region::of(vec![1.0f32; elements]));
        let mut taken = Vec::new();
        for _ in 0..times + times / 5 {
            let mut buffer = region.buffer::<f32>(0..elements)?;
            // Sums grow, and other sums would be numbers that processors are slow with.
            buffer.as_mut_slice::<f32>()?.fill(1.0);
            let begin = Instant::now();
            let what = "the buffers of a benchmark";
            let sums = match collective {
                Collective::AllReduce => peers.all_reduce(what, vec![buffer])?,
                Collective::ReduceScatter => peers.reduce_scatter(what, buffer)?,
            };
            taken.push(begin.elapsed().as_secs_f64());
            let sums = &sums[0].as_slice::<f32>()?[own.clone()];
            if sums.iter().any(|sum| *sum != ranks as f32) {
                return Err(Failure::new(Status::Plugin, "the comm plugin gave a wrong sum"));
            }
        }
        let measured = &mut taken[times / 5..];
        measured.sort_by(f64::total_cmp);
        let (s_median, n) = (measured[measured.len() / 2], ranks as f64);
        let passes = if collective == Collective::AllReduce { 2.0 } else { 1.0 };
        let bus_gb_per_s = bytes as f64 * passes * (n - 1.0) / n / s_median / 1e9;
        figures.push(Figure { bytes, times, s_median, s_min: measured[0], bus_gb_per_s });
    }
    Ok(Figures { collective, backend: job.resolved.settings.comm.id.clone(), ranks, sizes: figures })
}

impl fmt::Display for Figures {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let collective = match self.collective {
            Collective::AllReduce => "all_reduce",
            Collective::ReduceScatter => "reduce_scatter",
        };
        write!(f, "{collective} of float32 between {} ranks over {}", self.ranks, self.backend)?;
        for Figure { bytes, s_median, s_min, bus_gb_per_s, .. } in &self.sizes {
            let [median, shortest] = [s_median, s_min].map(|seconds| seconds * 1e3);
            write!(f, "\n{bytes:>10} bytes {median:>9.3} ms ({shortest:.3} shortest) {bus_gb_per_s:>7.2} GB/s")?;
        }
        Ok(())
    }
}
