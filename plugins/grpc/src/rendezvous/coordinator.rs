//! Rank 0's side: it waits for the others, checks that they belong to the job, and answers all of them at once.

use std::collections::BTreeMap;
use std::collections::hash_map::RandomState;
use std::hash::BuildHasher;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::sync::{Semaphore, watch};
use tonic::{Request, Response, Status};

use super::{difference, digest};
use crate::fault::subject;
use crate::job::Job;
use crate::wire::join_reply::Outcome;
use crate::wire::rendezvous_server::Rendezvous;
use crate::wire::{Cause, JoinReply, JoinRequest, PROTOCOL, Roster};

/// How long ranks that come late are still told what went wrong before.
const LATECOMERS: Duration = Duration::from_secs(2);

/// What all ranks are told.
type Verdict = Result<Roster, Cause>;

/// Who has come, and what became of it.
pub(crate) struct Coordinator {
    job: Arc<Job>,
    /// Where each rank that has come is reached.
    joined: Mutex<BTreeMap<u32, String>>,
    verdict: watch::Sender<Option<Verdict>>,
    /// A permit for every rank that was told.
    told: Semaphore,
}

impl Coordinator {
    pub(crate) fn new(job: Arc<Job>) -> Self {
        let verdict = watch::Sender::new(None);
        let coordinator = Self { job, joined: Mutex::default(), verdict, told: Semaphore::new(0) };
        coordinator.close_when_all_have_come(&coordinator.joined());
        coordinator
    }

    /// Waits until all have come, at most `limit`.
    pub(crate) async fn wait(&self, limit: Duration) -> Verdict {
        let mut verdict = self.verdict.subscribe();
        if tokio::time::timeout(limit, verdict.wait_for(Option::is_some)).await.is_err() {
            self.decide(Err(self.absent(limit)));
        }
        let verdict = self.verdict.borrow().clone();
        verdict.unwrap_or_else(|| Err(Cause::new("the rendezvous came to no end")))
    }

    /// After a refusal: waits until every rank has heard it, two seconds at most.
    pub(crate) async fn tell(&self) {
        let _ = tokio::time::timeout(LATECOMERS, self.told.acquire_many(self.job.world_size - 1)).await;
    }

    fn absent(&self, limit: Duration) -> Cause {
        let joined = self.joined();
        let absent: Vec<u32> = self.job.peers().filter(|rank| !joined.contains_key(rank)).collect();
        let message = format!("{} not come within {} s", subject(&absent, ("has", "have")), limit.as_secs_f64());
        Cause { rank: absent.first().copied(), ..Cause::new(message) }.help(
            "start every rank with the same comm.address and comm.port; `comm.connect_timeout_s` is how long ranks wait",
        )
    }

    /// The first verdict stands.
    fn decide(&self, verdict: Verdict) {
        self.verdict.send_if_modified(|decided| {
            let first = decided.is_none();
            if first {
                *decided = Some(verdict);
            }
            first
        });
    }

    fn close_when_all_have_come(&self, joined: &BTreeMap<u32, String>) {
        if joined.len() as u32 + 1 < self.job.world_size {
            return;
        }
        let rank_0 = std::iter::once(String::new());
        self.decide(Ok(Roster {
            session: RandomState::new().hash_one(&self.job.identity),
            generation: 1,
            data_addresses: rank_0.chain(joined.values().cloned()).collect(),
        }));
    }

    /// What keeps a rank out of this job; `None` where nothing does.
    fn objection(&self, request: &JoinRequest, joined: &BTreeMap<u32, String>) -> Option<Cause> {
        let &JoinRequest { protocol, rank, world_size, .. } = request;
        let own = &self.job;
        if protocol != PROTOCOL {
            let message =
                format!("rank {rank} speaks version {protocol} of the protocol, and rank 0 version {PROTOCOL}");
            return Some(Cause::of(rank, message).help("install the same version of the plugin on all ranks"));
        }
        if world_size != own.world_size {
            let message = format!("comm.world_size is {} on rank 0 and {world_size} on rank {rank}", own.world_size);
            return Some(Cause::of(rank, message).help("give all ranks the same comm.world_size"));
        }
        if rank == 0 || rank >= own.world_size {
            let last = own.world_size - 1;
            let message = format!("a process came to rank 0 as rank {rank}, where ranks 1 to {last} are expected");
            return Some(Cause::of(rank, message).help("give each process a comm.rank of its own"));
        }
        if request.job_digest != digest(&own.identity) {
            let message = difference::between(&own.identity, &request.job, rank);
            return Some(Cause::of(rank, message).help("start all ranks with the same configuration"));
        }
        joined.contains_key(&rank).then(|| {
            Cause::of(rank, format!("two processes came as rank {rank}"))
                .help("give each process a comm.rank of its own")
        })
    }

    /// Nothing panics while the lock is held, and what it guards is whole at any time.
    fn joined(&self) -> MutexGuard<'_, BTreeMap<u32, String>> {
        self.joined.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Takes a rank off the list when it goes before all have come.
struct Place<'a> {
    coordinator: &'a Coordinator,
    rank: u32,
}

impl Drop for Place<'_> {
    fn drop(&mut self) {
        if self.coordinator.verdict.borrow().is_none() {
            self.coordinator.joined().remove(&self.rank);
        }
    }
}

/// The service of a coordinator.
pub(crate) struct Desk(pub(crate) Arc<Coordinator>);

#[tonic::async_trait]
impl Rendezvous for Desk {
    async fn join(&self, request: Request<JoinRequest>) -> Result<Response<JoinReply>, Status> {
        let coordinator = &*self.0;
        let mut verdict = coordinator.verdict.subscribe();
        let request = request.into_inner();
        let place = {
            let mut joined = coordinator.joined();
            match coordinator.objection(&request, &joined) {
                // A roster that is complete stays: whoever comes too many is sent away alone.
                Some(objection) if matches!(&*verdict.borrow(), Some(Ok(_))) => {
                    return Ok(Response::new(JoinReply { outcome: Some(Outcome::Refusal(objection)) }));
                }
                Some(objection) => {
                    coordinator.decide(Err(objection));
                    None
                }
                None => {
                    joined.insert(request.rank, request.data_address);
                    coordinator.close_when_all_have_come(&joined);
                    Some(Place { coordinator, rank: request.rank })
                }
            }
        };
        let decided = verdict.wait_for(Option::is_some).await.ok().and_then(|verdict| verdict.clone());
        drop(place);
        coordinator.told.add_permits(1);
        let outcome = decided.map(|verdict| verdict.map_or_else(Outcome::Refusal, Outcome::Roster));
        Ok(Response::new(JoinReply { outcome }))
    }
}
