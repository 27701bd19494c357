//! The data lanes of a communicator: collectives are divided among them, and each moves and folds its part by itself.

use std::future::poll_fn;
use std::sync::Arc;
use std::time::Duration;

use mdt_plugin_api::{Buffer, Result};
use tokio::task::JoinSet;

use crate::call::{Collective, Kind};
use crate::data_stream::DataStream;
use crate::job::Job;
use crate::operation::{Failure, Operation, Standings};
use crate::progress::Stalls;
use crate::wire::Cause;

/// How long the control stream has to say why a data stream has ended.
const EXPLANATION: Duration = Duration::from_millis(500);

/// The data lanes of a communicator.
pub(crate) struct Lanes {
    job: Arc<Job>,
    lanes: Vec<Lane>,
}

/// A data stream with every peer, in order of ranks.
#[derive(Default)]
pub(crate) struct Lane {
    pub(crate) streams: Vec<DataStream>,
    /// Memory of chunks, kept from one collective to the next.
    spare: Vec<Vec<u8>>,
}

impl Lane {
    pub(crate) fn new(streams: Vec<DataStream>) -> Self {
        Self { streams, spare: Vec::new() }
    }

    async fn run(&mut self, operation: &mut Operation) -> Result<(), Failure> {
        operation.swap_spare(&mut self.spare);
        let outcome = poll_fn(|context| operation.poll(context, &mut self.streams)).await;
        operation.swap_spare(&mut self.spare);
        outcome
    }

    pub(crate) fn close(self) {
        self.streams.into_iter().for_each(DataStream::end);
    }
}

impl Lanes {
    pub(crate) fn new(job: &Arc<Job>, lanes: Vec<Vec<DataStream>>) -> Self {
        Self { job: Arc::clone(job), lanes: lanes.into_iter().map(Lane::new).collect() }
    }

    /// Runs a collective. What fails is reported to all ranks.
    pub(crate) async fn run(&mut self, collective: Collective) -> Result<Vec<Buffer>> {
        let Self { job, lanes } = self;
        let peers: Vec<u32> = job.peers().collect();
        run(job, lanes, &peers, collective).await
    }

    pub(crate) fn close(self) {
        self.lanes.into_iter().for_each(Lane::close);
    }
}

/// Runs a collective between this rank and these peers over lanes with them. What fails is reported to all ranks.
pub(crate) async fn run(
    job: &Arc<Job>,
    lanes: &mut [Lane],
    peers: &[u32],
    collective: Collective,
) -> Result<Vec<Buffer>> {
    // After a failure some lanes may have ended within a chunk.
    if let Some(cause) = job.fault.cause() {
        return Err(cause.error());
    }
    let name = collective.name();
    // Who has left before this rank has joined does not wait for it. What it has sent before it left may be received.
    let has_left = |rank: &&u32| job.departed.borrow().contains(*rank);
    if !matches!(collective.kind, Kind::Receive { .. })
        && let Some(&rank) = peers.iter().find(has_left)
    {
        return Err(job.fault.raise(Cause::left(rank, &name)).error());
    }
    let parts = Operation::divide(collective, job, peers, lanes.len().max(1));
    let standings: Vec<Arc<Standings>> = parts.iter().map(Operation::standings).collect();
    let limit = Duration::from_secs_f64(job.config.timeout_s);
    let mut stalls = Stalls::new(&job.progress);
    let outcome = {
        let parts = in_lanes(lanes, parts);
        tokio::pin!(parts);
        loop {
            tokio::select! {
                // What has arrived counts, even if its sender has failed since.
                biased;
                outcome = &mut parts => break outcome,
                cause = job.fault.raised() => break Err(cause.into()),
                () = stalls.look(&job.progress) => {
                    let (awaited, not_joined) = Standings::awaited(&standings);
                    let late: Vec<u32> = awaited.into_iter().filter(|&rank| stalls.of(rank) >= limit).collect();
                    if !late.is_empty() {
                        break Err(Cause::overdue(&late, &name, not_joined, limit).into());
                    }
                },
            }
        }
    };
    let cause = match outcome {
        Ok(parts) => return Operation::finish(parts),
        Err(Failure::Cause(cause)) => cause,
        Err(Failure::Ended(rank, error)) => explained(job, rank, &error, &name).await,
    };
    Err(job.fault.raise(cause).error())
}

/// Runs each part in a lane of its own: the first one here, the others in tasks that end with this.
async fn in_lanes(lanes: &mut [Lane], parts: Vec<Operation>) -> Result<Vec<Operation>, Failure> {
    let mut parts = parts.into_iter();
    let Some(mut first) = parts.next() else { return Ok(Vec::new()) };
    let Some((here, elsewhere)) = lanes.split_first_mut() else {
        Lane::default().run(&mut first).await?; // a job of one rank
        return Ok(vec![first]);
    };
    let mut tasks = JoinSet::new();
    for (place, (lane, mut part)) in elsewhere.iter_mut().zip(parts).enumerate() {
        let mut lane = std::mem::take(lane);
        tasks.spawn(async move {
            let outcome = lane.run(&mut part).await;
            (place, lane, part, outcome)
        });
    }
    let mut done: Vec<Operation> = Vec::new();
    let rest = async {
        while let Some(task) = tasks.join_next().await {
            let Ok((place, lane, part, outcome)) = task else { return Err(panicked()) };
            elsewhere[place] = lane;
            done.push(part);
            outcome?;
        }
        Ok(())
    };
    let first_part = here.run(&mut first);
    tokio::try_join!(first_part, rest)?;
    done.push(first);
    Ok(done)
}

fn panicked() -> Failure {
    Failure::Cause(Cause::new("a data lane has panicked, which is an error of the plugin `grpc`"))
}

/// Why the data stream from a rank has ended.
async fn explained(job: &Job, rank: u32, error: &std::io::Error, collective: &str) -> Cause {
    if error.kind() == std::io::ErrorKind::InvalidData {
        return Cause::of(rank, format!("what came from rank {rank} is no message of the contract: {error}"))
            .help("look for errors of the network between the two machines, then start all ranks again");
    }
    tokio::select! {
        biased;
        cause = job.fault.raised() => cause,
        () = job.departure(rank) => Cause::left(rank, collective),
        () = tokio::time::sleep(EXPLANATION) => Cause::lost(rank, &error.to_string()),
    }
}
