//! Micro-batches made ahead of their use, on a thread of their own.

use std::ops::ControlFlow::{self, Break, Continue};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{Receiver, RecvTimeoutError, SyncSender, sync_channel};
use std::thread;
use std::time::Duration;

use mdt_plugin_api::register::TrainerComponent;
use mdt_plugin_api::{BatchRows, Error, Example, HostBatch, Item};
use rayon::prelude::*;

use crate::data::{Cursor, Dataset, Encoded, Encoder, LongRows, Part, Plan, RowLocation, Rows};
use crate::exit::{Failure, Status};

/// How many micro-batches wait at most.
const AHEAD: usize = 4;

/// How often a thread that waits for rows looks whether the job was cancelled.
const WAITING: Duration = Duration::from_millis(50);

/// One micro-batch of this rank.
pub struct MicroBatch {
    /// The rows in it.
    pub rows: Vec<RowLocation>,
    /// What is made of it ahead; none where nothing of its rows is trained.
    pub batch: Result<Option<Ahead>, Error>,
}

/// What is made of a micro-batch ahead of its use.
pub enum Ahead {
    /// The batch: the result of the trainer's `collate`. Several, whose gradients are added, where it has the pieces of long
    /// rows: none of them has more rows than a micro-batch.
    Batches(Vec<HostBatch>),
    /// The items, where the trainer prepares them with the weights of their update; and the number of the micro-batch in the
    /// update, over all ranks.
    Items(Vec<Item>, u64),
}

/// What is known when all rows of an update were read.
#[derive(Default)]
pub struct UpdateEnd {
    /// Where the next update's rows begin, where they stream.
    pub cursor: Option<Cursor>,
    /// Rows of this rank that were read while training went on and have nothing to train.
    pub dropped: Vec<RowLocation>,
    /// Those of them that were too long.
    pub long: LongRows,
}

enum Made {
    MicroBatch(MicroBatch),
    End(UpdateEnd),
    Failed(Failure),
}

/// The training rows, to be made into micro-batches.
pub enum Source {
    /// All of them.
    Whole(Arc<Dataset>),
    /// From the first row on that is not trained yet.
    Streamed(Rows),
}

/// The micro-batches of this rank, update after update.
pub struct Batches {
    made: Receiver<Made>,
    end: UpdateEnd,
}

/// Starts making the micro-batches of `rank` from update `first` on, in the order of their use. The thread ends when the
/// result is dropped or the last update's are made.
pub fn start(
    plan: &Plan,
    rank: usize,
    first: u64,
    source: Source,
    trainer: &TrainerComponent,
    encoder: Encoder,
) -> Result<Batches, Failure> {
    let (plan, trainer) = (plan.clone(), trainer.clone());
    let (sender, made) = sync_channel(AHEAD);
    let maker = Maker { plan, rank, encoder, trainer, sender };
    let work = move || match source {
        Source::Whole(dataset) => maker.whole(&dataset, first),
        Source::Streamed(rows) => maker.streamed(rows, first),
    };
    let started = thread::Builder::new().name("collate".to_owned()).spawn(move || {
        // It ends when all are made or nobody takes them.
        let _ = work();
    });
    started.map_err(|error| Failure::new(Status::Other, "no thread can be started").because(error))?;
    Ok(Batches { made, end: UpdateEnd::default() })
}

impl Batches {
    /// The next micro-batch of the update; none after its last one, or once the job is cancelled.
    pub fn next(&mut self, cancelled: &AtomicBool) -> Option<Result<MicroBatch, Failure>> {
        loop {
            match self.made.recv_timeout(WAITING) {
                Ok(Made::MicroBatch(micro_batch)) => return Some(Ok(micro_batch)),
                // Reading ends with an error when the job is cancelled, which is no failure.
                Ok(Made::Failed(_)) if cancelled.load(Ordering::Relaxed) => return None,
                Ok(Made::Failed(failure)) => return Some(Err(failure)),
                Ok(Made::End(end)) => {
                    self.end = end;
                    return None;
                }
                Err(RecvTimeoutError::Timeout) if cancelled.load(Ordering::Relaxed) => return None,
                Err(RecvTimeoutError::Timeout) => {}
                Err(RecvTimeoutError::Disconnected) => {
                    return Some(Err(Failure::new(Status::Other, "the thread that makes batches has ended")));
                }
            }
        }
    }

    /// What was known after the last micro-batch of an update.
    pub fn take_end(&mut self) -> UpdateEnd {
        std::mem::take(&mut self.end)
    }
}

/// Makes micro-batches, until nobody takes them.
struct Maker {
    plan: Plan,
    rank: usize,
    encoder: Encoder,
    trainer: TrainerComponent,
    sender: SyncSender<Made>,
}

impl Maker {
    fn whole(&self, dataset: &Dataset, first: u64) -> ControlFlow<()> {
        let (places, size) = (dataset.places(), self.plan.rows_per_update());
        let updates = places.div_ceil(size) as u64;
        let mut order = (u64::MAX, Vec::new());
        for update in first..=self.plan.total_updates() {
            let (epoch, window) = ((update - 1) / updates, ((update - 1) % updates) as usize);
            if order.0 != epoch {
                order = (epoch, dataset.order(&self.plan, epoch));
            }
            let start = window.saturating_mul(size);
            let rows = &order.1[start..start.saturating_add(size).min(places)];
            for own in self.plan.micro_batches(rows.len(), self.rank) {
                let number = own.start / self.plan.batch_size;
                let (items, items_per_row) = dataset.batch_rows(&rows[own]);
                let encoded: Vec<&Item> = items.iter().map(|&item| &dataset.rows()[item]).collect();
                self.send_batch(number, dataset.locations_of(&items), &encoded, &items_per_row)?;
            }
            self.send(Made::End(UpdateEnd::default()))?;
        }
        Continue(())
    }

    /// All ranks read all rows, and encode their own.
    fn streamed(&self, mut rows: Rows, first: u64) -> ControlFlow<()> {
        let (size, own) = (self.plan.rows_per_update(), self.plan.own_rows(self.rank));
        for _ in first..=self.plan.total_updates() {
            let (mut place, mut waiting, mut end) = (0, Vec::new(), UpdateEnd::default());
            let mut number = own.start / self.plan.batch_size;
            while place < size {
                match rows.next() {
                    Err(failure) => return self.send(Made::Failed(failure)),
                    // An update ends with the pass that it is in.
                    Ok(None) if place > 0 => break,
                    Ok(None) => {}
                    Ok(Some(row)) => {
                        if own.contains(&place) {
                            waiting.push(row);
                        }
                        place += 1;
                    }
                }
                if waiting.len() == self.plan.batch_size {
                    self.encode(number, std::mem::take(&mut waiting), &mut end)?;
                    number += 1;
                }
            }
            if !waiting.is_empty() {
                self.encode(number, waiting, &mut end)?;
            }
            self.send(Made::End(UpdateEnd { cursor: Some(rows.cursor()), ..end }))?;
        }
        Continue(())
    }

    fn encode(&self, number: usize, rows: Vec<(RowLocation, Example)>, end: &mut UpdateEnd) -> ControlFlow<()> {
        let encoded: Vec<_> = rows.par_iter().map(|(_, example)| self.encoder.encode(example)).collect();
        // The error of a call that panicked says more than those of calls refused after it.
        let is_refused =
            |encoded: &Result<Encoded, Error>| encoded.as_ref().is_err_and(|error| !error.is_after_a_panic());
        let fault = encoded.iter().position(is_refused).or(encoded.iter().position(Result::is_err));
        let (mut locations, mut items, mut has_pieces) = (Vec::new(), Vec::new(), false);
        for (place, ((location, _), encoded)) in rows.into_iter().zip(encoded).enumerate() {
            match encoded {
                Err(error) if fault == Some(place) => {
                    return self.send(Made::MicroBatch(MicroBatch { rows: vec![location], batch: Err(error) }));
                }
                Ok(own) => {
                    end.long.count(location, &own);
                    if own.items.is_empty() && !own.is_too_long {
                        end.dropped.push(location);
                    }
                    locations.extend(own.items.iter().map(|_| location));
                    has_pieces |= own.parts.contains(&Part::LaterPiece);
                    items.extend(own.items);
                }
                Err(_) => {}
            }
        }
        let items: Vec<&Item> = items.iter().collect();
        if !has_pieces {
            return self.send_batch(number, locations, &items, &vec![1; items.len()]);
        }
        let collate = |items: &[&Item]| self.trainer.collate(&BatchRows::new(items, &vec![1; items.len()])?);
        let batches = items.chunks(self.plan.batch_size).map(collate).collect::<Result<Vec<_>, Error>>();
        let batch = batches.map(|batches| Some(Ahead::Batches(batches)));
        self.send(Made::MicroBatch(MicroBatch { rows: locations, batch }))
    }

    fn send_batch(
        &self,
        number: usize,
        rows: Vec<RowLocation>,
        items: &[&Item],
        items_per_row: &[usize],
    ) -> ControlFlow<()> {
        let batch = match items {
            [] => Ok(None),
            items if self.trainer.prepare.is_some() => {
                Ok(Some(Ahead::Items(items.iter().copied().cloned().collect(), number as u64)))
            }
            items => BatchRows::new(items, items_per_row)
                .and_then(|rows| self.trainer.collate(&rows))
                .map(|batch| Some(Ahead::Batches(vec![batch]))),
        };
        self.send(Made::MicroBatch(MicroBatch { rows, batch }))
    }

    fn send(&self, made: Made) -> ControlFlow<()> {
        match self.sender.send(made) {
            Ok(()) => Continue(()),
            Err(_) => Break(()),
        }
    }
}
