//! The other ranks' side of the rendezvous: they try until rank 0 is there, and then wait for its answer.

use std::time::Duration;

use tokio::time::{Instant, timeout, timeout_at};
use tonic::Status;
use tonic::transport::Channel;

use super::REJOIN;
use crate::connection::CONTROL;
use crate::job::Job;
use crate::link::reason;
use crate::place::Place;
use crate::token::random;
use crate::transport::{self, Failed};
use crate::wire::join_reply::Outcome;
use crate::wire::rendezvous_client::RendezvousClient;
use crate::wire::{Cause, JoinRequest, Roster};

/// The time between two attempts, at first and at most.
const SOON: Duration = Duration::from_millis(20);
const LATER: Duration = Duration::from_millis(500);

/// How much longer than rank 0 itself a rank that has joined waits for the verdict.
const GRACE: Duration = Duration::from_secs(5);

/// The result of the rendezvous for a rank other than 0.
pub(crate) struct Joined {
    pub(crate) roster: Roster,
    /// The connection with rank 0, which collectives use too, and where that rank was met.
    pub(crate) channel: Channel,
    pub(crate) place: Place,
}

/// Joins the job at rank 0.
///
/// # Errors
/// Rank 0 is not reached within `limit`, it is lost, or it refuses: then with the reason that all ranks get.
pub(crate) async fn join(job: &Job, places: &[Place], data_address: String, limit: Duration) -> Result<Joined, Cause> {
    let process = random().map_err(|error| Cause::of(job.rank, error.to_string()))?;
    let request = JoinRequest {
        world_size: job.world_size,
        job: job.identity.clone(),
        data_address,
        process: u64::from_le_bytes(process),
        host: job.host.clone(),
        device: job.device.clone(),
    };
    let mut deadline = Instant::now() + limit;
    let mut pause = SOON;
    let mut was_lost = false;
    loop {
        job.waits_for(vec![0]);
        let mut failure = String::from("its name has no address");
        let mut has_joined = false;
        for place in places {
            let attempt = async {
                let channel = transport::channel(transport::connect(job, place, 0, 0, CONTROL).await?).await?;
                let roster = wait(job, channel.clone(), request.clone(), &mut has_joined);
                let late = |_| Failed::Again("it gives no answer".to_owned());
                let roster = timeout(limit + GRACE, roster).await.map_err(late)??;
                Ok(Joined { roster, channel, place: place.clone() })
            };
            // A rank 0 that was lost may still take connections: one that is stopped has a system that does.
            let outcome = match was_lost {
                true => timeout_at(deadline, attempt)
                    .await
                    .unwrap_or_else(|_| Err(Failed::Again("it does not answer".to_owned()))),
                false => attempt.await,
            };
            match outcome {
                Ok(joined) => return Ok(joined),
                Err(Failed::Refused(cause)) => return Err(cause),
                Err(Failed::Again(reason)) => failure = reason,
            }
        }
        if has_joined {
            // Rank 0 gives a rank that it has lost the same time to come back.
            (was_lost, deadline, pause) = (true, Instant::now() + REJOIN, SOON);
        }
        if Instant::now() + pause > deadline {
            return Err(match was_lost {
                true => Cause::lost(0, &failure),
                false => unreached(places, limit, &failure),
            });
        }
        tokio::time::sleep(pause).await;
        pause = LATER.min(2 * pause);
    }
}

/// Joins over this connection and waits until all ranks have come.
async fn wait(job: &Job, channel: Channel, request: JoinRequest, has_joined: &mut bool) -> Result<Roster, Failed> {
    let again = |status: Status| Failed::Again(reason(&status));
    let mut replies = RendezvousClient::new(channel).join(request).await.map_err(again)?.into_inner();
    loop {
        match replies.message().await.map_err(again)?.and_then(|reply| reply.outcome) {
            Some(Outcome::Waiting(waiting)) => job.waits_for(waiting.ranks),
            Some(Outcome::Roster(roster)) => return Ok(roster),
            Some(Outcome::Refusal(cause)) => return Err(Failed::Refused(cause)),
            None => return Err(Failed::Again("it gave no answer".to_owned())),
        }
        *has_joined = true;
    }
}

fn unreached(places: &[Place], limit: Duration, failure: &str) -> Cause {
    let place = places.first().map_or_else(String::new, |place| format!(" at {place}"));
    let message = format!("rank 0 was not reached{place} within {} s: {failure}", limit.as_secs_f64());
    Cause::of(0, message).help(
        "start rank 0 with the same comm.address and comm.port, and look at its output; `comm.connect_timeout_s` is how \
         long ranks wait",
    )
}
