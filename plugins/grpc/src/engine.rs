//! Collectives, run one after the other in the order in which they were called.

use std::future::poll_fn;
use std::sync::Arc;
use std::sync::atomic::AtomicU64;
use std::sync::mpsc::SyncSender;
use std::time::Duration;

use mdt_plugin_api::{Buffer, Result};
use tokio::sync::{mpsc, watch};
use tokio::task::JoinHandle;

use crate::call::{Kind, Request};
use crate::job::Job;
use crate::link::Link;
use crate::operation::Operation;
use crate::progress::Stalls;
use crate::server::Server;

/// A call in the queue, and where its result goes.
pub(crate) struct Turn {
    pub(crate) request: Request,
    pub(crate) done: SyncSender<Result<Vec<Buffer>>>,
    /// Bytes that were sent and received for it.
    pub(crate) moved: Arc<AtomicU64>,
}

/// What runs a communicator's collectives.
pub(crate) struct Engine {
    pub(crate) job: Arc<Job>,
    pub(crate) session: u64,
    /// In order of ranks.
    pub(crate) links: Vec<Link>,
    /// What the higher ranks are connected to, where there are any.
    pub(crate) server: Option<Server>,
}

impl Engine {
    /// Tells all ranks something of this one before the first collective of the host; gives what each has told, in order of
    /// ranks.
    ///
    /// # Errors
    /// A rank was lost, or has not come.
    pub(crate) async fn tell_all(&mut self, told: Vec<u8>) -> Result<Vec<Vec<u8>>> {
        let request = Request { buffers: vec![told.into()], kind: Kind::AllGather };
        let all = self.collective(request, 0, Arc::default()).await?;
        Ok(all.iter().map(|told| told.bytes().to_vec()).collect())
    }

    /// Runs until the communicator is closed. Then it sends a goodbye and returns tasks that end when the peers have read it.
    pub(crate) async fn run(
        mut self,
        mut turns: mpsc::UnboundedReceiver<Turn>,
        mut closed: watch::Receiver<bool>,
    ) -> Vec<JoinHandle<()>> {
        let mut sequence = 0;
        loop {
            let Turn { request, done, moved } = tokio::select! {
                biased;
                _ = closed.wait_for(|&closed| closed) => break,
                turn = turns.recv() => match turn {
                    Some(turn) => turn,
                    None => break,
                },
            };
            sequence += 1;
            let result = tokio::select! {
                biased;
                _ = closed.wait_for(|&closed| closed) => break,
                result = self.collective(request, sequence, moved) => result,
            };
            // The host may have stopped waiting.
            let _ = done.send(result);
        }
        // Dropping the queue of chunks sends the goodbye. The server ends once its streams have.
        drop(self.server);
        self.links.into_iter().map(|link| link.reader).collect()
    }

    async fn collective(&mut self, request: Request, sequence: u64, moved: Arc<AtomicU64>) -> Result<Vec<Buffer>> {
        let Self { job, session, links, .. } = self;
        let limit = Duration::from_secs_f64(job.config.timeout_s);
        if let Some(cause) = job.fault.cause() {
            return Err(cause.error());
        }
        let mut operation = Operation::new(job, request, *session, sequence, moved);
        let mut stalls = Stalls::new(&job.progress);
        let outcome = loop {
            tokio::select! {
                // What has arrived counts, even if its sender has failed since.
                biased;
                outcome = poll_fn(|context| operation.poll(context, links)) => break outcome,
                cause = job.fault.raised() => break Err(cause),
                () = stalls.look(&job.progress) => if let Some(cause) = operation.overdue(&stalls, limit) {
                    break Err(cause);
                },
            }
        };
        match outcome {
            Ok(()) => operation.finish(),
            Err(cause) => Err(job.fault.raise(cause).error()),
        }
    }
}
