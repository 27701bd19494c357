//! Whether training rows are read whole or stream, how many there are, and what identifies those that stream.

use std::fs::File;
use std::io::{self, Read as _, Seek as _, SeekFrom};

use mdt_plugin_api::Length;
use sha2::{Digest, Sha256};

use super::chain::Opened;
use crate::checksum;
use crate::config::Settings;
use crate::exit::{Failure, Status};

/// How training rows are read.
pub(super) enum Reading {
    /// All of them before the first update.
    Whole,
    /// While training goes on; with the rows of a pass, where they are known.
    Streamed(Option<u64>),
}

/// Decides how rows are read. Sources are asked for their number of rows only where it matters.
///
/// # Errors
/// A source cannot count its rows; the number of updates, or the end of reading, would not be known.
pub(super) fn reading(settings: &Settings, sources: &mut [Opened]) -> Result<Reading, Failure> {
    let (data, steps) = (&settings.data, settings.trainer.max_steps);
    let names = data.train_names();
    if data.is_weighted() {
        if data.streaming == Some(false) {
            return Err(Failure::configuration("`data.train` has weights, and `data.streaming` is false")
                .help("remove one of the two: sources that are mixed by weight are read while training goes on"));
        }
        return match steps {
            Some(_) => Ok(Reading::Streamed(None)),
            None => Err(no_end("sources that are mixed by weight begin again where they end")),
        };
    }
    if data.streaming == Some(true) && steps.is_some() && sources.len() == 1 {
        return Ok(Reading::Streamed(None));
    }
    let mut total = Some(0u64);
    let mut endless = None;
    for Opened { number, source, .. } in sources.iter_mut() {
        let name = &names[*number as usize];
        if let Some(before) = endless {
            return Err(Failure::configuration(format!("{name} would never be read: {before} has no end"))
                .help("give both weights: data.train = [{ path = \"…\", weight = 1 }, …]"));
        }
        match source.length()? {
            Length::Rows(rows) => total = total.map(|total| total.saturating_add(rows)),
            Length::Unknown => total = None,
            Length::Endless => (total, endless) = (None, Some(name)),
        }
    }
    if let Some(limit) = data.limit {
        total = total.map(|total| total.min(limit)).or(endless.and(Some(limit)));
    }
    match (data.streaming, total, steps) {
        (Some(true), _, Some(_)) | (Some(true), Some(_), None) => Ok(Reading::Streamed(total)),
        (None | Some(false), Some(_), _) => Ok(Reading::Whole),
        (None, None, Some(_)) => Ok(Reading::Streamed(None)),
        (Some(false), None, Some(_)) if endless.is_some() => {
            Err(Failure::configuration("`data.streaming` is false, and the data has no end")
                .at(names.join(", "))
                .help("remove the key, or set `data.limit`"))
        }
        (_, None, None) if endless.is_some() => {
            Err(no_end(&format!("{} has no end", endless.map_or("", String::as_str))))
        }
        (None | Some(false), None, _) => Ok(Reading::Whole),
        (Some(true), None, None) => {
            let failure = no_end("the source does not say how many rows it has");
            Err(failure.at(names.join(", ")))
        }
    }
}

fn no_end(why: &str) -> Failure {
    Failure::configuration("`trainer.num_epochs` counts passes over the data, and here nobody knows where one ends")
        .because(why)
        .help("set `trainer.max_steps` to the number of updates")
}

/// The bytes at each end of a file that identify it, beside its size: a whole file may take longer to read than a run.
const SAMPLE: u64 = 1 << 20;

/// Identifies sources that stream, and what turns their rows into tokens: for files by their size and the bytes at their
/// ends, for others by their names; and by their weights.
pub(super) fn fingerprint(settings: &Settings, tokenizer: &str) -> Result<String, Failure> {
    let mut digest = Sha256::new();
    digest.update(tokenizer);
    for source in &settings.data.train {
        let sampled = sample(&source.path).map_err(|error| {
            Failure::new(Status::Input, "the data source cannot be read").at(&source.path).because(error)
        })?;
        digest.update(sampled);
        digest.update(source.weight.unwrap_or(1.0).to_le_bytes());
    }
    Ok(checksum::hexadecimal(&digest.finalize()))
}

fn sample(path: &str) -> io::Result<Vec<u8>> {
    let is_file = std::fs::metadata(path).is_ok_and(|kind| kind.is_file());
    if !is_file {
        return Ok(path.as_bytes().to_vec());
    }
    let mut file = File::open(path)?;
    let size = file.metadata()?.len();
    let mut sample = size.to_le_bytes().to_vec();
    file.by_ref().take(SAMPLE).read_to_end(&mut sample)?;
    file.seek(SeekFrom::Start(size.saturating_sub(SAMPLE)))?;
    file.take(SAMPLE).read_to_end(&mut sample)?;
    Ok(sample)
}
