//! `mdt-host bench all-reduce`: how long the ranks of a job take to sum a buffer, through the plugin boundary as in
//! training.

use std::fmt;
use std::time::Instant;

use mdt_plugin_api::Region;
use serde::Serialize;

use super::connect::{backend, connect};
use crate::exit::{Failure, Status};
use crate::job::Job;

/// Bytes that are reduced for each size, at least [`FEWEST`] and at most [`MOST`] times.
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
    /// The bytes that each rank sends in the best algorithm, 2(n−1)/n of the buffer, by the median time.
    pub bus_gb_per_s: f64,
}

/// The figures of [`all_reduce`], of the first rank.
#[derive(Debug, Serialize)]
pub struct Figures {
    pub backend: String,
    pub ranks: usize,
    pub all_reduce: Vec<Figure>,
}

/// Sums buffers of float32 over all ranks. Every rank of the job calls it. A fifth of the times goes first, unmeasured.
pub fn all_reduce(job: &Job, sizes: &[usize]) -> Result<Figures, Failure> {
    let peers = connect(job, &*backend(job)?)?;
    let (ranks, mut figures) = (peers.world_size(), Vec::new());
    for &bytes in sizes {
        let times = (WORK / bytes).clamp(FEWEST, MOST);
        let region = Region::of(vec![1.0f32; bytes / 4]);
        let mut taken = Vec::new();
        for _ in 0..times + times / 5 {
            let mut buffer = region.buffer::<f32>(0..bytes / 4)?;
            // Sums grow, and other sums would be numbers that processors are slow with.
            buffer.as_mut_slice::<f32>()?.fill(1.0);
            let begin = Instant::now();
            let sums = peers.all_reduce("the buffers of a benchmark", vec![buffer])?;
            taken.push(begin.elapsed().as_secs_f64());
            if sums[0].as_slice::<f32>()?.last() != Some(&(ranks as f32)) {
                return Err(Failure::new(Status::Plugin, "the comm plugin gave a wrong sum"));
            }
        }
        let measured = &mut taken[times / 5..];
        measured.sort_by(f64::total_cmp);
        let (s_median, n) = (measured[measured.len() / 2], ranks as f64);
        let bus_gb_per_s = bytes as f64 * 2.0 * (n - 1.0) / n / s_median / 1e9;
        figures.push(Figure { bytes, times, s_median, s_min: measured[0], bus_gb_per_s });
    }
    Ok(Figures { backend: job.resolved.settings.comm.id.clone(), ranks, all_reduce: figures })
}

impl fmt::Display for Figures {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "all_reduce of float32 between {} ranks over {}", self.ranks, self.backend)?;
        for Figure { bytes, s_median, s_min, bus_gb_per_s, .. } in &self.all_reduce {
            let [median, shortest] = [s_median, s_min].map(|seconds| seconds * 1e3);
            write!(f, "\n{bytes:>10} bytes {median:>9.3} ms ({shortest:.3} shortest) {bus_gb_per_s:>7.2} GB/s")?;
        }
        Ok(())
    }
}
