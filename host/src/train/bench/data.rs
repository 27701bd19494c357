//! `mdt-host bench data`: how fast rows are read, rendered and tokenized.

use std::fmt;
use std::time::Instant;

use serde::Serialize;

use crate::data::{self, Encoder, Training};
use crate::exit::Failure;
use crate::job::Job;
use crate::metrics;

/// The figures of [`data`].
#[derive(Debug, Serialize)]
pub struct DataFigures {
    pub rows: usize,
    pub tokens: usize,
    pub s: f64,
    pub rows_per_s: f64,
    pub tokens_per_s: f64,
    pub peak_memory_bytes: Option<u64>,
}

/// Reads all training rows of a job and makes items of them, on all threads, as a run does before its first update. Nothing that was
/// kept of earlier runs is used.
///
/// # Errors
/// What a run of the job would say.
pub fn data(job: &Job) -> Result<DataFigures, Failure> {
    let mut job = job.clone();
    let settings = &mut job.resolved.settings.data;
    (settings.lazy, settings.streaming) = (Some(false), Some(false));
    let opened = job.open_model(job.compute()?)?;
    let encoder = Encoder::new(&job, &opened.trainer, Some(opened.model.spec()));
    let tokenizer = opened.tokenizer_files()?.checksum()?;
    let begin = Instant::now();
    let Training::Whole(rows) = data::read(&job, &encoder, &tokenizer)?.train else { return Err(Failure::internal()) };
    let s = begin.elapsed().as_secs_f64();
    let sequences = rows.rows().iter().flat_map(|item| &item.sequences);
    let (tokens, rows) = (sequences.map(|sequence| sequence.tokens.len()).sum(), rows.row_count());
    Ok(DataFigures {
        rows,
        tokens,
        s,
        rows_per_s: rows as f64 / s,
        tokens_per_s: tokens as f64 / s,
        peak_memory_bytes: metrics::peak_memory_bytes(),
    })
}

impl fmt::Display for DataFigures {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { rows, tokens, s, rows_per_s, tokens_per_s, peak_memory_bytes } = self;
        write!(f, "{rows_per_s:.0} rows/s, {tokens_per_s:.0} tokens/s: {rows} rows of {tokens} tokens in {s:.3} s")?;
        write!(f, "; peak memory {} MiB", peak_memory_bytes.unwrap_or_default() >> 20)
    }
}
