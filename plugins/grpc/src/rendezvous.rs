//! How the ranks of a job find each other: all ranks come to rank 0, and each leaves with the roster.

pub(crate) mod coordinator;
pub(crate) mod difference;
pub(crate) mod join;

use std::time::Duration;

use sha2::{Digest, Sha256};

use crate::job::Job;
use crate::link::Session;
use crate::token::random;
use crate::wire::{JoinRequest, MAX_JOB, Roster};

/// How long a rank whose connection breaks may take to come back before it is lost.
const REJOIN: Duration = Duration::from_millis(500);

/// This rank's request to join.
fn request(job: &Job, data_address: String) -> std::io::Result<JoinRequest> {
    let whole = job.identity.len() <= MAX_JOB;
    Ok(JoinRequest {
        world_size: job.world_size,
        job_digest: digest(&job.identity),
        job: if whole { job.identity.clone() } else { String::new() },
        data_address,
        process: u64::from_le_bytes(random()?),
    })
}

fn digest(identity: &str) -> bytes::Bytes {
    bytes::Bytes::copy_from_slice(&Sha256::digest(identity))
}

impl Roster {
    pub(crate) fn session(&self) -> Session {
        Session { session: self.session, generation: self.generation }
    }
}
