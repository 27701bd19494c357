//! What is sent from one rank to another: in each direction between two ranks one after the other, beside collectives.

use std::collections::BTreeMap;
use std::sync::Arc;

use tokio::sync::mpsc;
use tokio::task::JoinSet;

use crate::call::Kind;
use crate::data_stream::DataStream;
use crate::engine::Turn;
use crate::job::Job;
use crate::lanes::{Lane, run};

/// The queues of all directions. Each has a data connection and a task of its own, so none waits for another.
pub(crate) struct PointToPoint {
    sends: BTreeMap<u32, mpsc::UnboundedSender<Turn>>,
    receives: BTreeMap<u32, mpsc::UnboundedSender<Turn>>,
    tasks: JoinSet<()>,
}

impl PointToPoint {
    /// `lanes` are two: what goes from lower to higher ranks, and what goes from higher to lower ones.
    pub(crate) fn new(job: &Arc<Job>, session: u64, lanes: Vec<Vec<DataStream>>) -> Self {
        let (mut sends, mut receives, mut tasks) = (BTreeMap::new(), BTreeMap::new(), JoinSet::new());
        for (lane, goes_up) in lanes.into_iter().zip([true, false]) {
            for stream in lane {
                let (rank, (turns, queue)) = (stream.rank(), mpsc::unbounded_channel());
                let is_sender = (rank > job.rank) == goes_up;
                if is_sender { &mut sends } else { &mut receives }.insert(rank, turns);
                tasks.spawn(serve(Arc::clone(job), session, stream, queue));
            }
        }
        Self { sends, receives, tasks }
    }

    /// Puts a call into its queue.
    pub(crate) fn begin(&self, turn: Turn) {
        let queue = match turn.request.kind {
            Kind::Send { to } => self.sends.get(&to),
            Kind::Receive { from } => self.receives.get(&from),
            _ => None,
        };
        // Ranks are checked when a call is made. If the task has ended, the channel of the result is closed.
        let _ = queue.map(|queue| queue.send(turn));
    }

    /// Ends what is under way.
    pub(crate) async fn close(mut self) {
        self.tasks.shutdown().await;
    }
}

/// Runs what goes in one direction between this rank and another.
async fn serve(job: Arc<Job>, session: u64, stream: DataStream, mut queue: mpsc::UnboundedReceiver<Turn>) {
    let peer = [stream.rank()];
    let mut lane = [Lane::new(vec![stream])];
    let mut sequence = 0;
    while let Some(Turn { request, done, moved }) = queue.recv().await {
        sequence += 1;
        let result = run(&job, &mut lane, &peer, request.begin(job.rank, session, sequence, moved)).await;
        // The host may have stopped waiting.
        let _ = done.send(result);
    }
}
