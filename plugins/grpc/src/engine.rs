//! Collectives, run one after the other in the order in which they were called.

use std::sync::Arc;
use std::sync::atomic::AtomicU64;
use std::sync::atomic::Ordering::Relaxed;
use std::sync::mpsc::SyncSender;

use mdt_plugin_api::{Buffer, Result};
use tokio::sync::{mpsc, watch};
use tokio::task::JoinHandle;

use crate::call::{Kind, Request};
use crate::job::Job;
use crate::lanes::Lanes;
use crate::link::Link;
use crate::mesh::Mesh;
use crate::point_to_point::PointToPoint;
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
    job: Arc<Job>,
    pub(crate) session: u64,
    /// In order of ranks.
    links: Vec<Link>,
    lanes: Lanes,
    point_to_point: PointToPoint,
    /// What the higher ranks are connected to, where there are any.
    server: Option<Server>,
}

impl Engine {
    pub(crate) fn new(job: &Arc<Job>, session: u64, mesh: Mesh, server: Option<Server>) -> Self {
        let Mesh { links, mut lanes } = mesh;
        let pairs = lanes.split_off(lanes.len().saturating_sub(2));
        let point_to_point = PointToPoint::new(job, session, pairs);
        Self { job: Arc::clone(job), session, links, lanes: Lanes::new(job, lanes), point_to_point, server }
    }

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
            let turn = tokio::select! {
                biased;
                _ = closed.wait_for(|&closed| closed) => break,
                turn = turns.recv() => match turn {
                    Some(turn) => turn,
                    None => break,
                },
            };
            if let Kind::Send { .. } | Kind::Receive { .. } = turn.request.kind {
                self.point_to_point.begin(turn);
                continue;
            }
            let Turn { request, done, moved } = turn;
            sequence += 1;
            let result = tokio::select! {
                biased;
                _ = closed.wait_for(|&closed| closed) => break,
                result = self.collective(request, sequence, moved) => result,
            };
            if result.is_ok() {
                self.job.board.collectives.fetch_add(1, Relaxed);
            }
            // The host may have stopped waiting.
            let _ = done.send(result);
        }
        // The goodbye goes before the data connections end. The server ends once its streams have.
        let readers = self.links.into_iter().map(|link| link.reader).collect();
        self.point_to_point.close().await;
        self.lanes.close();
        drop(self.server);
        readers
    }

    /// Runs one collective. The first one that a host calls is number 1.
    pub(crate) async fn collective(
        &mut self,
        request: Request,
        sequence: u64,
        moved: Arc<AtomicU64>,
    ) -> Result<Vec<Buffer>> {
        self.lanes.run(request.begin(self.job.rank, self.session, sequence, moved)).await
    }
}
