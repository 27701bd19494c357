//! `mdt-host bench load`: how long the weights of a model take to load.

use std::fmt;

use serde::Serialize;

use super::Spread;
use crate::exit::Failure;
use crate::job::Job;
use crate::memory::size;
use crate::metrics;

/// The figures of [`load`].
#[derive(Debug, Serialize)]
pub struct LoadFigures {
    #[serde(flatten)]
    pub time: Spread,
    /// Bytes of the weights as the device holds them.
    pub bytes: u64,
    pub gb_per_s: f64,
    pub peak_memory_bytes: Option<u64>,
}

/// Loads the weights of a job's model so many times, after once for the system to have its files in memory.
///
/// # Errors
/// What a run of the job would say.
pub fn load(job: &Job, times: u32) -> Result<LoadFigures, Failure> {
    let opened = job.open_model(job.compute()?)?.to_be_used_only();
    opened.check_files()?;
    let mut bytes = 0;
    let time = Spread::measure(times, || {
        bytes = opened.weights()?.bytes()?;
        Ok::<_, Failure>(())
    })?;
    let gb_per_s = bytes as f64 / time.s_median / 1e9;
    Ok(LoadFigures { time, bytes, gb_per_s, peak_memory_bytes: metrics::peak_memory_bytes() })
}

impl fmt::Display for LoadFigures {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { time, bytes, gb_per_s, peak_memory_bytes } = self;
        write!(f, "{} of weights in {time}; {gb_per_s:.2} GB/s", size(*bytes))?;
        write!(f, "; peak memory {} MiB", peak_memory_bytes.unwrap_or_default() >> 20)
    }
}
