//! Micro-batches made ahead of their use, on a thread of their own.

use std::sync::Arc;
use std::sync::mpsc::{Receiver, sync_channel};
use std::thread;

use mdt_plugin_api::{Encoded, Error, HostBatch, Trainer};

use super::{Dataset, Plan};

/// How many micro-batches wait at most.
const AHEAD: usize = 4;

/// One micro-batch of this rank.
pub struct MicroBatch {
    /// The rows in it, as numbers of the data set; empty where the epoch's rows have run out.
    pub rows: Vec<usize>,
    /// What the trainer made of them.
    pub batch: Result<HostBatch, Error>,
}

/// Starts making the micro-batches of `rank` from update `first` on, in the order of their use. The thread ends when
/// the receiver is dropped or the plan is done.
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
            for micro in rank * plan.accumulation..(rank + 1) * plan.accumulation {
                let rows = order.1[plan.micro_batch(update, micro)].to_vec();
                let encoded: Vec<&Encoded> = rows.iter().map(|&row| &dataset.rows()[row]).collect();
                let batch = if rows.is_empty() { Ok(HostBatch::default()) } else { trainer.collate(&encoded) };
                if sender.send(MicroBatch { rows, batch }).is_err() {
                    return;
                }
            }
        }
    })?;
    Ok(receiver)
}
