//! The other ranks' side: they try until rank 0 is there, and then wait for its answer.

use std::net::SocketAddr;
use std::time::Duration;

use tokio::time::Instant;
use tonic::transport::Channel;

use super::request;
use crate::job::Job;
use crate::link::reason;
use crate::transport;
use crate::wire::join_reply::Outcome;
use crate::wire::rendezvous_client::RendezvousClient;
use crate::wire::{Cause, Roster};

/// The time between two attempts, at first and at most.
const SOON: Duration = Duration::from_millis(20);
const LATER: Duration = Duration::from_millis(500);

/// How much longer than rank 0 itself a rank that has joined waits for the verdict.
const GRACE: Duration = Duration::from_secs(5);

/// Joins the job at rank 0. Gives the connection back too: it is also the one that collectives use.
///
/// # Errors
/// Rank 0 is not reached within `limit`, or it refuses: then with the reason that all ranks get.
pub(crate) async fn join(
    job: &Job,
    addresses: &[SocketAddr],
    data_address: String,
    limit: Duration,
) -> Result<(Roster, Channel), Cause> {
    let request = request(job, data_address);
    let deadline = Instant::now() + limit;
    let mut pause = SOON;
    loop {
        let mut failure = String::from("its name has no address");
        for &address in addresses {
            let attempt = async {
                let channel = transport::dial(address).await.map_err(|error| reason(&error))?;
                let mut client = RendezvousClient::new(channel.clone());
                let reply = tokio::time::timeout(limit + GRACE, client.join(request.clone())).await;
                let reply = reply.map_err(|_| "it gives no answer".to_owned())?.map_err(|status| reason(&status))?;
                Ok((reply.into_inner().outcome, channel))
            };
            match attempt.await {
                Ok((Some(Outcome::Roster(roster)), channel)) => return Ok((roster, channel)),
                Ok((Some(Outcome::Refusal(cause)), _)) => return Err(cause),
                Ok((None, _)) => failure = "it gives no answer that is known here".into(),
                Err(reason) => failure = reason,
            }
        }
        if Instant::now() + pause > deadline {
            let place = addresses.first().map_or_else(String::new, |address| format!(" at {address}"));
            let message = format!("rank 0 was not reached{place} within {} s: {failure}", limit.as_secs_f64());
            return Err(Cause::of(0, message).help(
                "start rank 0 with the same comm.address and comm.port, and look at its output; \
                 `comm.connect_timeout_s` is how long ranks wait",
            ));
        }
        tokio::time::sleep(pause).await;
        pause = LATER.min(2 * pause);
    }
}
