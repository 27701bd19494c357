//! Micro-batches made ahead of their use, on a thread of their own.

use std::sync::Arc;
use std::sync::mpsc::{Receiver, sync_channel};
use std::thread;

use mdt_plugin_api::{Error, HostBatch, Item, Trainer};

use crate::data::{Dataset, Plan};

/// How many micro-batches wait at most.
const AHEAD: usize = 4;

/// One micro-batch of this rank.
pub struct MicroBatch {
    /// The rows in it, as numbers of the data set.
    pub rows: Vec<usize>,
    /// The result of the trainer's `collate`.
    pub batch: Result<HostBatch, Error>,
}

/// Starts making the micro-batches of `rank` from update `first` on, in the order of their use: for each update as many
/// as [`Plan::micro_batches`] has. The thread ends when the receiver is dropped or the last update's are made.
pub fn start(
    plan: &Plan,
    rank: usize,
    first: u64,
    dataset: &Arc<Dataset>,
    trainer: &Arc<dyn Trainer>,
) -> std::io::Result<Receiver<MicroBatch>> {
    let (plan, dataset, trainer) = (plan.clone(), Arc::clone(dataset), Arc::clone(trainer));
    let (sender, receiver) = sync_channel(AHEAD);
    thread::Builder::new().name("collate".to_owned()).spawn(move || {
        let mut order = (u64::MAX, Vec::new());
        for update in first..=plan.total_updates() {
            let epoch = plan.epoch_of(update);
            if order.0 != epoch {
                order = (epoch, plan.order(epoch));
            }
            for places in plan.micro_batches(update, rank) {
                let rows = order.1[places].to_vec();
                let items: Vec<&Item> = rows.iter().map(|&row| &dataset.rows()[row]).collect();
                let batch = trainer.collate(&items);
                if sender.send(MicroBatch { rows, batch }).is_err() {
                    return;
                }
            }
        }
    })?;
    Ok(receiver)
}
