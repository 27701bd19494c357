//! How the ranks of a job find each other: all come to rank 0, and each leaves with the roster.

pub(crate) mod coordinator;
pub(crate) mod difference;
pub(crate) mod join;

use sha2::{Digest, Sha256};

use crate::job::Job;
use crate::link::Session;
use crate::wire::{JoinRequest, MAX_JOB, PROTOCOL, Roster};

/// This rank's request to join.
fn request(job: &Job, data_address: String) -> JoinRequest {
    let whole = job.identity.len() <= MAX_JOB;
    JoinRequest {
        protocol: PROTOCOL,
        rank: job.rank,
        world_size: job.world_size,
        job_digest: digest(&job.identity),
        job: if whole { job.identity.clone() } else { String::new() },
        data_address,
    }
}

fn digest(identity: &str) -> bytes::Bytes {
    bytes::Bytes::copy_from_slice(&Sha256::digest(identity))
}

impl Roster {
    pub(crate) fn session(&self) -> Session {
        Session { session: self.session, generation: self.generation }
    }
}
