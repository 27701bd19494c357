//! The first thing that went wrong. It wins over everything that follows from it, on this rank and, passed on as it is,
//! on all others, so that all of them name the rank that it began with.

use std::time::Duration;

use mdt_plugin_api::{Error, ErrorCode};
use tokio::sync::watch;

use crate::wire::Cause;

/// What to do when a rank is gone.
const START_AGAIN: &str =
    "its own output says why; start all ranks again, and the job goes on from its last checkpoint";

impl Cause {
    /// Something that began with no rank in particular.
    pub(crate) fn new(message: impl Into<String>) -> Self {
        Self { message: message.into(), ..Self::default() }
    }

    /// Something that began with this rank.
    pub(crate) fn of(rank: u32, message: impl Into<String>) -> Self {
        Self { rank: Some(rank), ..Self::new(message) }
    }

    /// A rank that was started with what does not fit the others, which starting again does not cure.
    pub(crate) fn misconfigured(rank: u32, message: impl Into<String>) -> Self {
        Self { misconfigured: true, ..Self::of(rank, message) }
    }

    /// Adds what a user can do about it.
    pub(crate) fn help(self, advice: impl Into<String>) -> Self {
        Self { help: advice.into(), ..self }
    }

    /// The stream to a rank ended without a goodbye.
    pub(crate) fn lost(rank: u32, detail: &str) -> Self {
        let message = format!("rank {rank} was lost: its process ended, stopped or is cut off ({detail})");
        Self::of(rank, message).help(START_AGAIN)
    }

    /// A chunk did not arrive as it was sent.
    pub(crate) fn damaged(rank: u32, receiver: u32, bytes: usize) -> Self {
        let message = format!(
            "{bytes} bytes from rank {rank} to rank {receiver} were damaged on the way: their checksum is wrong"
        );
        Self::of(rank, message).help(
            "look for errors of network cards, cables and memory between the two machines, then start all ranks again: the \
             job goes on from its last checkpoint",
        )
    }

    /// A rank has left, and a collective needs it.
    pub(crate) fn left(rank: u32, collective: &str) -> Self {
        let message = format!("rank {rank} has left the job, and {collective} needs it");
        Self::of(rank, message).help("all ranks must make the same number of updates: look at that rank's own output")
    }

    /// There was no progress with these ranks for so long; of a collective that they have not joined, or that they have.
    pub(crate) fn overdue(ranks: &[u32], collective: &str, not_joined: bool, limit: Duration) -> Self {
        let seconds = limit.as_secs_f64();
        let message = match not_joined {
            true => format!("{} not joined {collective} within {seconds} s", subject(ranks, ("has", "have"))),
            false => format!("{collective} has made no progress with {} for {seconds} s", named(ranks)),
        };
        Self { rank: ranks.first().copied(), ..Self::new(message) }.help(
            "look at the output of that rank and at the network; `comm.timeout_s` is how long ranks wait for each other \
             without progress",
        )
    }

    /// A rank's host gave up.
    pub(crate) fn aborted(rank: u32, reason: &str) -> Self {
        Self::of(rank, format!("rank {rank} aborted: {reason}"))
    }

    /// The error that a user sees.
    pub(crate) fn error(&self) -> Error {
        let code = if self.misconfigured { ErrorCode::Config } else { ErrorCode::Peer };
        let mut error = Error::new(code, &self.message);
        if let Some(rank) = self.rank {
            error = error.with("rank", rank);
        }
        match self.help.as_str() {
            "" => error,
            advice => error.help(advice),
        }
    }
}

/// Ranks as a sentence's subject, with the verb that goes with their number: `rank 2 has`, `ranks 1 and 3 have`.
pub(crate) fn subject(ranks: &[u32], verbs: (&str, &str)) -> String {
    format!("{} {}", named(ranks), if ranks.len() > 1 { verbs.1 } else { verbs.0 })
}

/// Ranks in words: `rank 2`, `ranks 1 and 3`.
pub(crate) fn named(ranks: &[u32]) -> String {
    match ranks {
        [] => "no rank".to_owned(),
        [rank] => format!("rank {rank}"),
        [first @ .., last] => {
            let first: Vec<String> = first.iter().map(u32::to_string).collect();
            format!("ranks {} and {last}", first.join(", "))
        }
    }
}

/// Where the first cause is kept.
pub(crate) struct Fault(watch::Sender<Option<Cause>>);

impl Default for Fault {
    fn default() -> Self {
        Self(watch::Sender::new(None))
    }
}

impl Fault {
    /// Reports something that went wrong; gives back what went wrong first.
    pub(crate) fn raise(&self, cause: Cause) -> Cause {
        let mut first = cause.clone();
        self.0.send_if_modified(|kept| match kept {
            Some(earlier) => {
                first = earlier.clone();
                false
            }
            None => {
                *kept = Some(cause);
                true
            }
        });
        first
    }

    /// What went wrong first, if anything has.
    pub(crate) fn cause(&self) -> Option<Cause> {
        self.0.borrow().clone()
    }

    /// Waits until something goes wrong.
    pub(crate) async fn raised(&self) -> Cause {
        let mut kept = self.0.subscribe();
        let cause = kept.wait_for(Option::is_some).await.ok().and_then(|cause| cause.clone());
        // The sender is `self`, so the wait ends only with a cause.
        cause.unwrap_or_default()
    }

    /// A view that changes once, when something goes wrong.
    pub(crate) fn watch(&self) -> watch::Receiver<Option<Cause>> {
        self.0.subscribe()
    }
}
