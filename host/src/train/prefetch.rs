//! Micro-batches made ahead of their use, on a thread of their own.

use std::ops::ControlFlow::{self, Break, Continue};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{Receiver, RecvTimeoutError, SyncSender, sync_channel};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use mdt_plugin_api::register::TrainerComponent;
use mdt_plugin_api::{BatchRows, Error, HostBatch, Item};
use rayon::prelude::*;

use crate::config::OnBadRow;
use crate::data::{
    BadRow, BatchOnDemand, Cursor, Dataset, EncodedRow, Encoder, LongRows, Notes, OnDemand, Part, Plan, ReadRow,
    RowLocation, Rows, is_of_a_row,
};
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
    /// What the trainer says of rows that were read while training went on.
    pub notes: Notes,
    /// Rows that cannot be used and are passed over.
    pub bad: Vec<BadRow>,
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
    /// All of them, none of which is read yet.
    OnDemand(Box<OnDemand>),
    /// From the first row on that is not trained yet.
    Streamed(Rows),
}

impl Source {
    /// What the trainer says of the rows, where all are known before training.
    pub fn notes(&self) -> Option<Notes> {
        match self {
            Self::Whole(dataset) => Some(dataset.notes()),
            Self::OnDemand(rows) => rows.notes().cloned(),
            Self::Streamed(_) => None,
        }
    }

    /// The rows that cannot be used, where that is known before training.
    pub fn bad(&self) -> &[BadRow] {
        match self {
            Self::Whole(dataset) => dataset.bad(),
            Self::OnDemand(rows) => rows.bad(),
            Self::Streamed(_) => &[],
        }
    }
}

/// The micro-batches of this rank, update after update.
pub struct Batches {
    made: Option<Receiver<Made>>,
    end: UpdateEnd,
    /// The thread that makes them, where it has something to write at its end.
    thread: Option<JoinHandle<()>>,
}

impl Drop for Batches {
    fn drop(&mut self) {
        // Then nobody takes them, and it ends.
        self.made = None;
        self.thread.take().map(JoinHandle::join);
    }
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
    on_bad_row: OnBadRow,
) -> Result<Batches, Failure> {
    let (plan, trainer) = (plan.clone(), trainer.clone());
    let (sender, made) = sync_channel(AHEAD);
    let maker = Maker { plan, rank, encoder, trainer, on_bad_row, sender };
    let keeps_rows = matches!(source, Source::OnDemand(_));
    let work = move || match source {
        Source::Whole(dataset) => maker.whole(&dataset, first),
        Source::OnDemand(rows) => maker.on_demand(*rows, first),
        Source::Streamed(rows) => maker.streamed(rows, first),
    };
    let started = thread::Builder::new().name("collate".to_owned()).spawn(move || {
        // It ends when all are made or nobody takes them.
        let _ = work();
    });
    let thread = started.map_err(|error| Failure::new(Status::Other, "no thread can be started").because(error))?;
    Ok(Batches { made: Some(made), end: UpdateEnd::default(), thread: keeps_rows.then_some(thread) })
}

impl Batches {
    /// The next micro-batch of the update; none after its last one, or once the job is cancelled.
    pub fn next(&mut self, cancelled: &AtomicBool) -> Option<Result<MicroBatch, Failure>> {
        loop {
            let received =
                self.made.as_ref().map_or(Err(RecvTimeoutError::Disconnected), |made| made.recv_timeout(WAITING));
            match received {
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
    on_bad_row: OnBadRow,
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

    /// Each rank reads its own rows.
    fn on_demand(&self, mut rows: OnDemand, first: u64) -> ControlFlow<()> {
        let (places, size) = (rows.places(), self.plan.rows_per_update());
        let updates = places.div_ceil(size) as u64;
        let mut order = (0, Vec::new());
        for update in first..=self.plan.total_updates() {
            let (epoch, window) = ((update - 1) / updates, ((update - 1) % updates) as usize);
            if order.0 != epoch || order.1.is_empty() {
                order = (epoch, rows.order(&self.plan, epoch));
            }
            let start = window.saturating_mul(size);
            let of_update = &order.1[start..start.saturating_add(size).min(places)];
            let mut end = UpdateEnd::default();
            for own in self.plan.micro_batches(of_update.len(), self.rank) {
                let number = own.start / self.plan.batch_size;
                match rows.batch(&self.encoder, &of_update[own]) {
                    Ok(BatchOnDemand::Rows(encoded)) => self.make_batch(number, encoded, &mut end)?,
                    Ok(BatchOnDemand::Items { locations, items, items_per_row }) => {
                        self.send_batch(number, locations, &items.iter().collect::<Vec<_>>(), &items_per_row)?;
                    }
                    Err(failure) => return self.send(Made::Failed(failure)),
                }
            }
            self.send(Made::End(end))?;
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
                        if let (location, Err(error)) = &row {
                            end.bad.push(BadRow::new(*location, error));
                        }
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

    fn encode(&self, number: usize, rows: Vec<ReadRow>, end: &mut UpdateEnd) -> ControlFlow<()> {
        let encode = |(location, example): &ReadRow| (*location, self.encoder.encode_read(example));
        self.make_batch(number, rows.par_iter().map(encode).collect(), end)
    }

    fn make_batch(&self, number: usize, rows: Vec<EncodedRow>, end: &mut UpdateEnd) -> ControlFlow<()> {
        // The error of a call that panicked says more than those of calls refused after it.
        let is_skipped = |error: &Error| self.on_bad_row == OnBadRow::Skip && is_of_a_row(error);
        let first = |of: &dyn Fn(&Error) -> bool| rows.iter().position(|(_, encoded)| encoded.as_ref().is_err_and(of));
        let fault =
            first(&|error| !is_skipped(error) && !error.is_after_a_panic()).or(first(&|error| !is_skipped(error)));
        let (mut locations, mut items, mut has_pieces) = (Vec::new(), Vec::new(), false);
        for (place, (location, encoded)) in rows.into_iter().enumerate() {
            match encoded {
                Err(error) if fault == Some(place) => {
                    return self.send(Made::MicroBatch(MicroBatch { rows: vec![location], batch: Err(error) }));
                }
                Ok(own) => {
                    end.long.count(location, &own);
                    end.notes.add(Notes::of(own.items.iter().map(|item| (location, item))));
                    if own.items.is_empty() && own.left_out.is_none() {
                        end.dropped.push(location);
                    }
                    locations.extend(own.items.iter().map(|_| location));
                    has_pieces |= own.parts.contains(&Part::LaterPiece);
                    items.extend(own.items);
                }
                Err(error) if is_skipped(&error) => end.bad.push(BadRow::new(location, &error)),
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
