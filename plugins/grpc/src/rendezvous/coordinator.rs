//! Rank 0's side of the rendezvous: it waits for the others, checks that they belong to the job, and gives all of them
//! the same answer.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::{Semaphore, mpsc, watch};
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Request, Response, Status};

use super::{REJOIN, difference};
use crate::connection::Proved;
use crate::fault::subject;
use crate::job::Job;
use crate::wire::join_reply::Outcome;
use crate::wire::rendezvous_server::Rendezvous;
use crate::wire::{Cause, JoinReply, JoinRequest, Roster, Waiting};

/// How long ranks that come late are still told what went wrong.
const LATECOMERS: Duration = Duration::from_secs(2);

/// The outcome of the rendezvous, the same for all ranks.
type Verdict = Result<Roster, Cause>;

/// The rendezvous as rank 0 runs it.
pub(crate) struct Coordinator {
    job: Arc<Job>,
    session: u64,
    meeting: watch::Sender<Meeting>,
    /// A permit for every rank that was told the verdict.
    told: Semaphore,
}

/// Who has come, and the verdict once there is one.
#[derive(Default)]
struct Meeting {
    members: BTreeMap<u32, Member>,
    verdict: Option<Verdict>,
    /// The number of calls so far.
    calls: u64,
}

/// A rank that has come.
struct Member {
    process: u64,
    /// Where it is reached.
    address: String,
    /// The call that it waits in.
    call: u64,
    /// Whether it still waits there.
    waits: bool,
}

impl Coordinator {
    /// A rendezvous to which no rank has come. `session` is a random number.
    pub(crate) fn new(job: Arc<Job>, session: u64) -> Self {
        Self { job, session, meeting: watch::Sender::default(), told: Semaphore::new(0) }
    }

    /// Waits until all ranks have come, at most `limit`.
    pub(crate) async fn wait(&self, limit: Duration) -> Verdict {
        let mut meeting = self.meeting.subscribe();
        let decided = async {
            loop {
                {
                    let meeting = meeting.borrow_and_update();
                    if let Some(verdict) = &meeting.verdict {
                        return verdict.clone();
                    }
                    self.job.waits_for(self.absent(&meeting));
                }
                // The sender is `self`, so the wait ends only with a change.
                let _ = meeting.changed().await;
            }
        };
        tokio::select! {
            verdict = decided => verdict,
            cause = self.job.fault.raised() => self.end(cause),
            () = tokio::time::sleep(limit) => {
                let cause = self.overdue(&self.absent(&self.meeting.borrow()), limit);
                self.decide(Err(cause))
            }
        }
    }

    /// After a refusal: waits until every rank has come and has been told, two seconds at most.
    pub(crate) async fn tell(&self) {
        let _ = tokio::time::timeout(LATECOMERS, self.told.acquire_many(self.job.world_size - 1)).await;
    }

    /// Sets the verdict if there is none yet; gives the one that stands.
    fn decide(&self, verdict: Verdict) -> Verdict {
        let mut first = verdict.clone();
        self.meeting.send_modify(|meeting| first = meeting.verdict.get_or_insert(verdict).clone());
        first
    }

    /// Ends the rendezvous with an error, without waiting for ranks that have not come yet to tell them.
    fn end(&self, cause: Cause) -> Verdict {
        self.told.close();
        self.decide(Err(cause))
    }

    fn absent(&self, meeting: &Meeting) -> Vec<u32> {
        self.job.peers().filter(|rank| !meeting.members.get(rank).is_some_and(|member| member.waits)).collect()
    }

    fn overdue(&self, absent: &[u32], limit: Duration) -> Cause {
        let message = format!("{} not come within {} s", subject(absent, ("has", "have")), limit.as_secs_f64());
        Cause { rank: absent.first().copied(), ..Cause::new(message) }.help(
            "start every rank with the same comm.address, comm.port and job token; `comm.connect_timeout_s` is how \
             long ranks wait",
        )
    }

    /// Admits a rank and gives the number of its call. A rank that has the token and does not fit the job ends the
    /// rendezvous for all, unless all ranks have come already: then the error is for that call alone.
    fn admit(&self, rank: u32, request: JoinRequest) -> Result<u64, Cause> {
        let mut outcome = Ok(0);
        self.meeting.send_modify(|meeting| {
            meeting.calls += 1;
            outcome = Ok(meeting.calls);
            if let Some(objection) = self.objection(rank, &request, &meeting.members) {
                match &meeting.verdict {
                    Some(Ok(_)) => outcome = Err(objection),
                    Some(Err(_)) => {}
                    None => meeting.verdict = Some(Err(objection)),
                }
                return;
            }
            let JoinRequest { process, data_address: address, host, device, .. } = request;
            self.job.board.came(rank, &host, &address, &device);
            meeting.members.insert(rank, Member { process, address, call: meeting.calls, waits: true });
            if meeting.verdict.is_none() && self.absent(meeting).is_empty() {
                let rank_0 = std::iter::once(String::new());
                meeting.verdict = Some(Ok(Roster {
                    session: self.session,
                    data_addresses: rank_0
                        .chain(meeting.members.values().map(|member| member.address.clone()))
                        .collect(),
                }));
            }
        });
        outcome
    }

    /// Why a rank does not fit this job; `None` where it does.
    fn objection(&self, rank: u32, request: &JoinRequest, members: &BTreeMap<u32, Member>) -> Option<Cause> {
        let (world_size, own) = (request.world_size, &self.job);
        if world_size != own.world_size {
            let message = format!("comm.world_size is {} on rank 0 and {world_size} on rank {rank}", own.world_size);
            return Some(Cause::misconfigured(rank, message).help("give all ranks the same comm.world_size"));
        }
        if rank == 0 || rank >= own.world_size {
            let last = own.world_size - 1;
            let message = format!("a process came to rank 0 as rank {rank}, where ranks 1 to {last} are expected");
            return Some(Cause::misconfigured(rank, message).help("give each process a comm.rank of its own"));
        }
        if request.job != own.identity {
            let message = difference::between(&own.identity, &request.job, rank);
            return Some(Cause::misconfigured(rank, message).help("start all ranks with the same configuration"));
        }
        members.get(&rank).is_some_and(|member| member.waits && member.process != request.process).then(|| {
            Cause::of(rank, format!("two processes came as rank {rank}"))
                .help("give each process a comm.rank of its own")
        })
    }

    /// What a waiting rank is told now.
    fn reply(&self, meeting: &Meeting) -> Outcome {
        match &meeting.verdict {
            None => Outcome::Waiting(Waiting { ranks: self.absent(meeting) }),
            Some(Ok(roster)) => Outcome::Roster(roster.clone()),
            Some(Err(cause)) => Outcome::Refusal(cause.clone()),
        }
    }

    /// Answers a call until there is a verdict or the call ends.
    async fn serve(&self, rank: u32, call: u64, replies: mpsc::Sender<Result<JoinReply, Status>>) {
        let mut meeting = self.meeting.subscribe();
        loop {
            let outcome = self.reply(&meeting.borrow_and_update());
            let is_last = !matches!(outcome, Outcome::Waiting(_));
            let sent = replies.send(Ok(JoinReply { outcome: Some(outcome) })).await.is_ok();
            if is_last {
                self.told.add_permits(1);
                return;
            }
            tokio::select! {
                // The sender is `self`, so the wait ends only with a change.
                _ = meeting.changed(), if sent => {}
                () = replies.closed() => break,
            }
        }
        // The call has ended early: the rank is lost, unless it calls again soon.
        let is_of_call = |meeting: &Meeting| meeting.members.get(&rank).is_some_and(|member| member.call == call);
        self.meeting.send_modify(|meeting| {
            if is_of_call(meeting)
                && let Some(member) = meeting.members.get_mut(&rank)
            {
                member.waits = false;
                self.job.board.left(rank);
            }
        });
        tokio::time::sleep(REJOIN).await;
        if is_of_call(&self.meeting.borrow()) {
            let _ = self.end(Cause::lost(rank, "while the ranks were meeting"));
        }
    }
}

/// The service of a coordinator.
pub(crate) struct RendezvousService(pub(crate) Arc<Coordinator>);

#[tonic::async_trait]
impl Rendezvous for RendezvousService {
    type JoinStream = ReceiverStream<Result<JoinReply, Status>>;

    async fn join(&self, request: Request<JoinRequest>) -> Result<Response<Self::JoinStream>, Status> {
        let rank = Proved::rank_of(request.extensions())?;
        let coordinator = Arc::clone(&self.0);
        let (replies, stream) = mpsc::channel(1);
        match coordinator.admit(rank, request.into_inner()) {
            Ok(call) => drop(tokio::spawn(async move { coordinator.serve(rank, call, replies).await })),
            Err(objection) => {
                let _ = replies.try_send(Ok(JoinReply { outcome: Some(Outcome::Refusal(objection)) }));
            }
        }
        Ok(Response::new(ReceiverStream::new(stream)))
    }
}
