//! The rows of a job: read from their sources and turned into tokens.

mod bad_rows;
mod cache;
mod chain;
mod content;
mod counts;
mod dataset;
mod hub_sources;
mod items;
mod lane;
mod length;
mod long_rows;
mod measured;
mod notes;
mod on_demand;
pub mod packing;
mod parts;
mod places;
mod read;
mod row_location;
mod row_order;
mod sources;
pub mod split;
mod streamed;

use std::collections::BTreeSet;

use indicatif::HumanCount;
use mdt_plugin_api::Example;

use crate::config::{EvalSplit, Packing, Settings};
use crate::exit::{Failure, Status};
use crate::job::Job;
use crate::progress;
use crate::random::Stream;
pub use bad_rows::{BadRow, BadRows, FILE as BAD_ROWS, is_of_a_row};
pub use chain::ReadRow;
use chain::{Chain, Opened};
use counts::Counts;
pub use dataset::Dataset;
use dataset::Known;
pub use items::{EncodedRow, Encoder, ItemLimits};
use length::Reading;
pub use long_rows::{LongRows, Part};
pub use notes::Notes;
pub use on_demand::{BatchOnDemand, OnDemand};
use read::Reader;
pub use row_location::{RowLocation, describe};
pub use row_order::Plan;
pub use sources::{component, expand};
pub use streamed::{Cursor, Rows, Streamed};

/// The rows that a job trains on.
pub enum Training {
    /// All of them, read before the first update.
    Whole(Box<Dataset>),
    /// Read when their turn comes, in the order of the former.
    OnDemand(Box<OnDemand>),
    /// Read while training goes on.
    Streamed(Box<Streamed>),
}

/// What a job trains on and evaluates.
pub struct Data {
    /// The training rows.
    pub train: Training,
    /// The rows held out for evaluation.
    pub held_out: Option<Dataset>,
    /// Rows of a pass over the training data; none where that is not known.
    pub rows: Option<usize>,
    /// Identifies the training data, and what turns it into tokens.
    pub fingerprint: String,
}

/// Reads the rows that a job trains on, or opens their sources where they stream, and reads those that it holds out for
/// evaluation. `tokenizer` identifies what turns them into tokens.
///
/// # Errors
/// A source or row cannot be used; there is nothing to train or nothing to evaluate; the rows do not fit in memory; the
/// number of updates is not known.
pub fn read(job: &Job, encoder: &Encoder, tokenizer: &str) -> Result<Data, Failure> {
    read_all(job, encoder, tokenizer, true)
}

/// The same; `measures` says whether rows that are read when their turn comes are measured where lengths matter.
fn read_all(job: &Job, encoder: &Encoder, tokenizer: &str, measures: bool) -> Result<Data, Failure> {
    let settings = &job.resolved.settings;
    let data = &settings.data;
    let mut reader = Reader::new(job, encoder);
    let mut sources = Vec::new();
    for (number, name) in data.train_names().iter().enumerate() {
        sources.push(Opened::new(number, job.data_unpacked(name, on_demand::unpacked(job, name).as_deref())?)?);
    }
    if let Reading::Streamed(rows) = length::reading(settings, &mut sources)? {
        let set = [("bucketing", settings.trainer.bucketing), ("packing", settings.trainer.packing != Packing::None)];
        if let Some((key, _)) = set.iter().find(|(_, is_set)| *is_set) {
            return Err(Failure::configuration(format!("`trainer.{key}` is set, and the training rows stream"))
                .help("remove it: lengths are known of rows that are read before training"));
        }
        if data.deduplicate {
            return Err(Failure::configuration("`data.deduplicate` is set, and the training rows stream").help(
                "remove it, or set `data.streaming` to false: rows that repeat others are found where all are read",
            ));
        }
        let fingerprint = length::fingerprint(settings, tokenizer)?;
        let mut streamed = Streamed::of(job, sources, rows);
        let held_out = match data.split()? {
            Some(split) => Some(hold_out(job, &mut reader, &mut streamed, split, rows, tokenizer)?),
            None => read_held_out(job, &mut reader, tokenizer)?,
        };
        let rows = rows.map(|rows| (rows - streamed.held_out()) as usize);
        return Ok(Data { train: Training::Streamed(Box::new(streamed)), held_out, rows, fingerprint });
    }
    let sources = match OnDemand::of(job, encoder, sources, tokenizer)? {
        Ok(mut train) => {
            if measures {
                train.measure(&mut reader, encoder, tokenizer)?;
            } else {
                train.do_not_measure();
            }
            let held_out = match data.split()? {
                Some(split) => Some(train.hold_out(&mut reader, split, tokenizer)?),
                None => read_held_out(job, &mut reader, tokenizer)?,
            };
            train.arrange(encoder);
            let (rows, fingerprint) = (Some(train.places()), length::fingerprint(settings, tokenizer)?);
            return Ok(Data { train: Training::OnDemand(Box::new(train)), held_out, rows, fingerprint });
        }
        Err(sources) => sources,
    };
    let train = read_sources(job, &mut reader, sources, &data.train_names(), data.limit, tokenizer)?;
    let train = if data.deduplicate { train.deduplicated(&mut Known::default()) } else { train };
    let (train, held_out) = match data.split()? {
        Some(split) => {
            let count = split::count(split, train.trainable())?;
            let (train, held_out) = train.split(count, settings.seed);
            (train, Some(held_out))
        }
        None => (train, read_held_out(job, &mut reader, tokenizer)?),
    };
    let train = arranged(train, settings, encoder);
    let (rows, fingerprint) = (Some(train.places()), train.fingerprint());
    Ok(Data { train: Training::Whole(Box::new(train)), held_out, rows, fingerprint })
}

/// Rows packed, or with a place for each piece of those that were split.
fn arranged(rows: Dataset, settings: &Settings, encoder: &Encoder) -> Dataset {
    match on_demand::packs(settings, encoder) {
        true => rows.packed(settings.trainer.max_seq_len as usize, settings.data.shuffle.then_some(settings.seed)),
        false => rows.in_pieces(),
    }
}

/// The rows that a job holds out for evaluation. Training rows are read only where these are drawn from them.
///
/// # Errors
/// As for [`read`]; there are none.
pub fn held_out(job: &Job, encoder: &Encoder, tokenizer: &str) -> Result<Dataset, Failure> {
    let held_out = match read_held_out(job, &mut Reader::new(job, encoder), tokenizer)? {
        Some(rows) => Some(rows),
        None => read(job, encoder, tokenizer)?.held_out,
    };
    held_out.ok_or_else(|| Failure::configuration("there are no rows for evaluation"))
}

/// The first training rows, as many as a preview takes where they stream, and the rows held out.
///
/// # Errors
/// As for [`read`].
pub fn preview(job: &Job, encoder: &Encoder, tokenizer: &str) -> Result<(Dataset, Option<Dataset>, bool), Failure> {
    let data = read_all(job, encoder, tokenizer, false)?;
    let settings = &job.resolved.settings;
    let is_arranged = matches!(data.train, Training::OnDemand(_));
    let sources = match data.train {
        Training::Whole(dataset) => return Ok((*dataset, data.held_out, true)),
        Training::OnDemand(rows) => rows.into_sources(),
        Training::Streamed(streamed) => streamed.lanes.into_iter().flat_map(|(sources, _)| sources).collect(),
    };
    let names = settings.data.train_names();
    let buffer = settings.data.shuffle_buffer;
    let limit = Some(settings.data.limit.map_or(buffer, |limit| limit.min(buffer)));
    let first = read_sources(job, &mut Reader::new(job, encoder), sources, &names, limit, tokenizer)?;
    let first = if settings.data.deduplicate { first.deduplicated(&mut Known::default()) } else { first };
    let first = if is_arranged { arranged(first, settings, encoder) } else { first };
    Ok((first, data.held_out, false))
}

/// The rows of one source in their order. Those that cannot be used end it, or are counted where they are skipped.
pub struct Examples {
    chain: Chain,
    /// How many were skipped.
    pub skipped: usize,
}

impl Examples {
    /// Those of the source of this name.
    ///
    /// # Errors
    /// It cannot be opened.
    pub fn open(job: &Job, name: &str) -> Result<Self, Failure> {
        Ok(Self { chain: Chain::new(open(job, &[name.to_owned()])?, job), skipped: 0 })
    }

    /// The next row.
    ///
    /// # Errors
    /// It cannot be used, or the job was cancelled.
    pub fn next(&mut self) -> Result<Option<Example>, Failure> {
        loop {
            match self.chain.next()? {
                Some((_, Err(_))) => self.skipped += 1,
                Some((_, Ok(example))) => return Ok(Some(example)),
                None => return Ok(None),
            }
        }
    }
}

fn open(job: &Job, names: &[String]) -> Result<Vec<Opened>, Failure> {
    names.iter().enumerate().map(|(number, name)| Opened::new(number, job.data(name)?)).collect()
}

fn read_held_out(job: &Job, reader: &mut Reader<'_>, tokenizer: &str) -> Result<Option<Dataset>, Failure> {
    match job.resolved.settings.data.eval.as_slice() {
        [] => Ok(None),
        names => read_sources(job, reader, open(job, names)?, names, None, tokenizer).map(Some),
    }
}

/// Reads these sources, one after the other, up to `limit` rows.
///
/// # Errors
/// A source or row cannot be used; no row has anything to train; the rows do not fit in memory.
fn read_sources(
    job: &Job,
    reader: &mut Reader<'_>,
    sources: Vec<Opened>,
    names: &[String],
    limit: Option<u64>,
    tokenizer: &str,
) -> Result<Dataset, Failure> {
    let mut dataset = Dataset::empty(names, tokenizer);
    let most = limit.map_or(usize::MAX, |limit| usize::try_from(limit).unwrap_or(usize::MAX));
    let mut chain = Chain::new(sources, job);
    if reader.read(&mut dataset, &mut chain, most)? && limit == job.resolved.settings.data.limit {
        let name = &names[chain.source_number()];
        let rows = HumanCount(most as u64);
        progress::note(&format!("data     reading ends in {name} after {rows} rows, all that `data.limit` allows"));
    }
    if dataset.rows.is_empty() {
        return Err(nothing_to_train(names, &dataset.counts(), dataset.places(), dataset.bad()));
    }
    Ok(dataset)
}

/// Why none of so many rows has anything to train.
fn nothing_to_train(names: &[String], counts: &Counts, places: usize, bad: &[BadRow]) -> Failure {
    let failure = |message: String| Failure::new(Status::Input, message).at(names.join(", "));
    let (dropped, too_long) = (&counts.dropped, &counts.long.dropped);
    match (dropped.len(), too_long.len()) {
        (0, 0) if places == 0 => failure("the data has no rows".to_owned()),
        (0, 0) => match bad.first() {
            Some(BadRow { location, reason }) => failure(format!("none of the {places} rows can be used"))
                .at(describe(names, &[*location]))
                .because(reason)
                .help("set `data.on_bad_row` to \"error\" to see what to do about the first one"),
            None => failure(format!("`data.max_tokens` leaves none of the {places} rows")).help("raise it"),
        },
        (_, 0) => failure(format!("none of the {places} rows has anything to train"))
            .at(describe(names, dropped))
            .help("the prompts fill `trainer.max_seq_len`, or the answers are empty"),
        (_, count) => failure(format!("none of the {places} rows can be trained"))
            .at(describe(names, too_long))
            .because(format!(
                "{count} of them are longer than `trainer.max_seq_len`, and `trainer.long_rows` is \"drop\""
            ))
            .help("raise `trainer.max_seq_len`, or set `trainer.long_rows` to \"cut\" or \"split\""),
    }
}

/// Draws the rows that are held out of data that streams: by the seed, from its first rows. If these are all, they are
/// the rows that would be held out of data that is read whole.
///
/// # Errors
/// A share of a number of rows that is not known; a row cannot be used; nothing would be left to train on.
fn hold_out(
    job: &Job,
    reader: &mut Reader<'_>,
    streamed: &mut Streamed,
    split: EvalSplit,
    rows: Option<u64>,
    tokenizer: &str,
) -> Result<Dataset, Failure> {
    let settings = &job.resolved.settings;
    let unknown = |what: &str| Failure::configuration(format!("`data.eval_split` {what}"));
    let [(sources, _)] = streamed.lanes.as_mut_slice() else {
        return Err(unknown("cannot hold rows out of sources that are mixed by weight")
            .help("evaluate on a file of its own: `data.eval`"));
    };
    let count = match (split, rows) {
        (EvalSplit::Rows(count), _) => count,
        (split, Some(rows)) => split.of(usize::try_from(rows).unwrap_or(usize::MAX)),
        (_, None) => {
            return Err(unknown("is a share of the rows, and their number is not known")
                .help("give the number of rows to hold out, such as 200"));
        }
    };
    let pool = settings.data.shuffle_buffer.max(count.saturating_mul(2)).min(settings.data.limit.unwrap_or(u64::MAX));
    let mut chain = Chain::new(std::mem::take(sources), job);
    let mut first = Vec::new();
    while (first.len() as u64) < pool
        && let Some(row) = chain.next()?
    {
        first.push(Some(row));
    }
    *sources = chain.into_sources()?;
    split::check(count, first.len())?;
    let mut order: Vec<usize> = (0..first.len()).collect();
    Stream::new(settings.seed, "split", 0).shuffle(&mut order);
    let (mut drawn, mut dataset) = (BTreeSet::new(), Dataset::empty(&settings.data.train_names(), tokenizer));
    for place in order {
        if drawn.len() as u64 == count {
            break;
        }
        if let Some(row) = first[place].as_ref()
            && reader.is_trained(row, &dataset)?
        {
            drawn.insert(place as u64);
        }
    }
    if (drawn.len() as u64) < count {
        split::check(count, drawn.len())?;
    }
    let rows = drawn.iter().filter_map(|&place| first[place as usize].take()).collect::<Vec<_>>();
    reader.encode(&mut dataset, &rows)?;
    streamed.leave_out(drawn);
    Ok(dataset)
}
