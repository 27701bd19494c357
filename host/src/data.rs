//! The rows of a job: read from their sources and turned into tokens.

mod dataset;
mod items;
mod limits;
mod read;
mod row_location;
mod row_order;
pub mod split;

use std::sync::Arc;

use indicatif::HumanCount;
use mdt_plugin_api::Trainer;

use crate::exit::{Failure, Status};
use crate::job::Job;
use crate::progress;
pub use dataset::Dataset;
pub use items::ItemLimits;
use limits::Limits;
use read::Reader;
pub use row_order::Plan;

/// Reads the rows that a job trains on, and those that it holds out for evaluation. Token ids are below `vocabulary`.
///
/// # Errors
/// A source or row cannot be used; there is nothing to train or nothing to evaluate; the rows do not fit in memory.
pub fn read(job: &Job, trainer: &Arc<dyn Trainer>, vocabulary: usize) -> Result<(Dataset, Option<Dataset>), Failure> {
    let settings = &job.resolved.settings;
    let data = &settings.data;
    let max_seq_len = settings.trainer.max_seq_len as usize;
    let mut reader = Reader::new(job, &**trainer, ItemLimits { max_seq_len, vocabulary });
    let train = read_sources(job, &mut reader, &data.train, Limits::of(settings)?)?;
    if let Some(split) = data.split()? {
        let count = split::count(split, train.rows().len())?;
        let (train, held_out) = train.split(count, settings.seed);
        return Ok((train, Some(held_out)));
    }
    let held_out = match data.eval.as_slice() {
        [] => None,
        sources => Some(read_sources(job, &mut reader, sources, Limits::default())?),
    };
    Ok((train, held_out))
}

/// Reads these sources, one after the other.
///
/// # Errors
/// A source or row cannot be used; no row has anything to train; the rows do not fit in memory.
fn read_sources(job: &Job, reader: &mut Reader<'_>, sources: &[String], limits: Limits) -> Result<Dataset, Failure> {
    let mut dataset = Dataset::empty(sources);
    for (number, name) in sources.iter().enumerate() {
        let mut source = job.data(name)?;
        let (most, reason) = limits.of_source(source.len());
        if reader.read(&mut dataset, number, &mut *source, most)? {
            let rows = HumanCount(most as u64);
            progress::note(&format!("data     reading ends in {name} after {rows} rows, all that {reason}"));
            break;
        }
    }
    if dataset.rows.is_empty() {
        let message = match dataset.dropped.len() {
            0 => "the data has no rows".to_owned(),
            count => format!("none of the {count} rows has anything to train"),
        };
        let failure = Failure::new(Status::Input, message).at(sources.join(", "));
        return Err(match dataset.dropped.len() {
            0 => failure,
            _ => failure
                .at(dataset.name_locations(&dataset.dropped))
                .help("the prompts fill `trainer.max_seq_len`, or the answers are empty"),
        });
    }
    Ok(dataset)
}
