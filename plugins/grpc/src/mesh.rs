//! A stream between every two ranks, opened by the higher one.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::{mpsc, watch};
use tokio::time::{Instant, timeout_at};
use tokio_stream::StreamExt;
use tokio_stream::adapters::Map;
use tonic::transport::Channel;
use tonic::{Request, Response, Status, Streaming};

use crate::address;
use crate::connection::Proved;
use crate::fault::subject;
use crate::job::Job;
use crate::link::{Link, Outgoing, Speaker, reason};
use crate::transport::{self, Failed};
use crate::wire::collectives_client::CollectivesClient;
use crate::wire::collectives_server::Collectives;
use crate::wire::envelope::Body;
use crate::wire::{Cause, Envelope, MAX_MESSAGE, Roster};

/// How long a rank may take to say hello.
const INTRODUCTION: Duration = Duration::from_secs(5);

/// The pause between attempts to reach a rank.
const PAUSE: Duration = Duration::from_millis(50);

/// The session, a random number of the roster's, once it is known.
pub(crate) type SessionWatch = watch::Receiver<Option<u64>>;

/// What a server sends on a stream, which can fail by its type.
type Answers = Map<Outgoing, fn(Envelope) -> Result<Envelope, Status>>;

/// The service by which higher ranks open their streams to this one.
pub(crate) struct ExchangeService {
    job: Arc<Job>,
    session: SessionWatch,
    links: mpsc::UnboundedSender<Link>,
}

impl ExchangeService {
    /// The service, and the links that are opened through it.
    pub(crate) fn new(job: Arc<Job>, session: SessionWatch) -> (Self, mpsc::UnboundedReceiver<Link>) {
        let (links, arrived) = mpsc::unbounded_channel();
        (Self { job, session, links }, arrived)
    }
}

#[tonic::async_trait]
impl Collectives for ExchangeService {
    type ExchangeStream = Answers;

    async fn exchange(&self, request: Request<Streaming<Envelope>>) -> Result<Response<Answers>, Status> {
        let rank = Proved::rank_of(&request)?;
        if rank <= self.job.rank || rank >= self.job.world_size {
            return Err(Status::permission_denied("not a rank that is expected here"));
        }
        // A rank's own handshake waits for the session, and rank 0 has it from the beginning.
        let session = self.session.borrow().ok_or_else(|| Status::unavailable("no session"))?;
        let (speaker, outgoing) = Speaker::new(&self.job);
        speaker.say_hello(session);
        // The stream counts when the other side has answered: an attempt that fails before is made again.
        let (job, links) = (Arc::clone(&self.job), self.links.clone());
        tokio::spawn(async move {
            let mut stream = request.into_inner();
            let introduction = tokio::time::timeout(INTRODUCTION, introduction(&mut stream, session)).await;
            if matches!(introduction, Ok(Ok(()))) {
                let _ = links.send(speaker.link(&job, rank, stream, ())); // all ranks may be connected already
            }
        });
        Ok(Response::new(outgoing.map(Ok)))
    }
}

/// Connects with all ranks of the roster. `met` is how this rank has met rank 0.
///
/// # Errors
/// A rank that is not reached by `deadline`, or does not come: named.
pub(crate) async fn connect(
    job: &Arc<Job>,
    roster: &Roster,
    met: Option<(Channel, SocketAddr)>,
    mut arrived: mpsc::UnboundedReceiver<Link>,
    deadline: Instant,
) -> Result<Vec<Link>, Cause> {
    let mut links: Vec<Link> = Vec::new();
    if let Some((channel, rank_0)) = met {
        let mut known = Some(channel);
        for (rank, text) in (0..job.rank).zip(&roster.data_addresses) {
            job.waits_for(vec![rank]);
            let address = match rank {
                0 => rank_0,
                _ => address::from_text(text, rank_0)
                    .ok_or_else(|| Cause::of(rank, format!("rank {rank} gave {text:?} as its address")))?,
            };
            links.push(reach(job, roster.session, rank, known.take(), address, deadline).await?);
        }
    }
    loop {
        let absent: Vec<u32> = job.peers().filter(|rank| !links.iter().any(|link| link.rank == *rank)).collect();
        if absent.is_empty() {
            break;
        }
        job.waits_for(absent.clone());
        match timeout_at(deadline, arrived.recv()).await {
            Ok(Some(link)) => {
                links.retain(|earlier| earlier.rank != link.rank);
                links.push(link);
            }
            Ok(None) | Err(_) => {
                let message = format!("{} not connected to rank {}", subject(&absent, ("has", "have")), job.rank);
                return Err(Cause { rank: absent.first().copied(), ..Cause::new(message) });
            }
        }
    }
    links.sort_by_key(|link| link.rank);
    Ok(links)
}

/// Opens the stream to a lower rank, over the connection that is known or a new one.
async fn reach(
    job: &Arc<Job>,
    session: u64,
    rank: u32,
    mut known: Option<Channel>,
    address: SocketAddr,
    deadline: Instant,
) -> Result<Link, Cause> {
    loop {
        let known = known.take();
        let attempt = async {
            let channel = match known {
                Some(channel) => channel,
                None => transport::dial(job, address, rank, if rank == 0 { 0 } else { session }).await?,
            };
            open(job, session, rank, channel).await.map_err(|status| Failed::Again(reason(&status)))
        };
        let failure = match timeout_at(deadline, attempt).await {
            Ok(Ok(link)) => return Ok(link),
            Ok(Err(Failed::Refused(cause))) => return Err(cause),
            Ok(Err(Failed::Again(failure))) => failure,
            Err(_) => "it gives no answer".to_owned(),
        };
        if Instant::now() + PAUSE > deadline {
            return Err(Cause::of(rank, format!("rank {rank} was not reached at {address}: {failure}")));
        }
        tokio::time::sleep(PAUSE).await;
    }
}

async fn open(job: &Arc<Job>, session: u64, rank: u32, channel: Channel) -> Result<Link, Status> {
    let (speaker, outgoing) = Speaker::new(job);
    let mut client = CollectivesClient::new(channel).max_decoding_message_size(MAX_MESSAGE);
    let mut stream = client.exchange(outgoing).await?.into_inner();
    introduction(&mut stream, session).await?;
    speaker.say_hello(session);
    Ok(speaker.link(job, rank, stream, client))
}

/// Reads the first message of a stream, which is a hello of this session.
async fn introduction(stream: &mut Streaming<Envelope>, session: u64) -> Result<(), Status> {
    match stream.message().await?.and_then(|envelope| envelope.body) {
        Some(Body::Hello(theirs)) if theirs.session == session => Ok(()),
        _ => Err(Status::failed_precondition("it is in another session")),
    }
}
