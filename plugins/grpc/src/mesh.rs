//! A stream between every two ranks, opened by the higher one.

use std::collections::BTreeSet;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use tokio::sync::mpsc;
use tokio::time::{Instant, timeout_at};
use tonic::transport::Channel;
use tonic::{Request, Response, Status, Streaming};

use crate::fault::subject;
use crate::job::Job;
use crate::link::{Answers, Link, Session, SessionWatch, Speaker, hello, reason};
use crate::transport;
use crate::wire::collectives_client::CollectivesClient;
use crate::wire::collectives_server::Collectives;
use crate::wire::envelope::Body;
use crate::wire::{Cause, Envelope, Hello, MAX_MESSAGE, Roster};

/// How long a stranger may take to say who it is.
const INTRODUCTION: Duration = Duration::from_secs(5);

/// The pause between attempts to reach a rank.
const PAUSE: Duration = Duration::from_millis(50);

/// Where higher ranks come in.
pub(crate) struct Door {
    job: Arc<Job>,
    session: SessionWatch,
    known: Mutex<BTreeSet<u32>>,
    links: mpsc::UnboundedSender<Link>,
}

impl Door {
    /// A door, and the links to those who have come in. It lets nobody in before there is a session.
    pub(crate) fn new(job: Arc<Job>, session: SessionWatch) -> (Self, mpsc::UnboundedReceiver<Link>) {
        let (links, arrived) = mpsc::unbounded_channel();
        (Self { job, session, known: Mutex::default(), links }, arrived)
    }

    /// Whether somebody who says this may come in.
    fn admits(&self, theirs: &Hello, own: &Hello) -> bool {
        let same_session = (theirs.session, theirs.generation) == (own.session, own.generation);
        let higher = theirs.rank > self.job.rank && theirs.rank < self.job.world_size;
        same_session && higher && self.known.lock().unwrap_or_else(PoisonError::into_inner).insert(theirs.rank)
    }
}

#[tonic::async_trait]
impl Collectives for Door {
    type ExchangeStream = Answers;

    async fn exchange(&self, request: Request<Streaming<Envelope>>) -> Result<Response<Answers>, Status> {
        let mut stream = request.into_inner();
        let mut session = self.session.clone();
        let introduction = async {
            let theirs = introduction(&mut stream).await?;
            let session = session.wait_for(Option::is_some).await.map_err(|_| Status::unavailable("closed"))?;
            Ok::<_, Status>((theirs, session.unwrap_or_default()))
        };
        let introduction = tokio::time::timeout(INTRODUCTION, introduction).await;
        let (theirs, session) = introduction.map_err(|_| Status::deadline_exceeded("no introduction"))??;
        let own = hello(&self.job, &session);
        if !self.admits(&theirs, &own) {
            return Err(Status::permission_denied("not a rank that is expected here"));
        }
        let (speaker, outgoing) = Speaker::new(&self.job, own);
        let link = speaker.link(&self.job, theirs.rank, stream, ());
        self.links.send(link).map_err(|_| Status::unavailable("closed"))?;
        Ok(Response::new(Answers(outgoing)))
    }
}

/// Connects with all ranks of the roster. `to_rank_0` is the connection that this rank has joined over.
///
/// # Errors
/// A rank that is not reached by `deadline`, or does not come: named.
pub(crate) async fn connect(
    job: &Arc<Job>,
    roster: &Roster,
    to_rank_0: Option<Channel>,
    mut arrived: mpsc::UnboundedReceiver<Link>,
    deadline: Instant,
) -> Result<Vec<Link>, Cause> {
    let session = roster.session();
    let mut links = Vec::new();
    for rank in 0..job.rank {
        let known = if rank == 0 { to_rank_0.clone() } else { None };
        let address = roster.data_addresses.get(rank as usize).map_or("", String::as_str);
        links.push(reach(job, session, rank, known, address, deadline).await?);
    }
    while links.len() as u32 + 1 < job.world_size {
        match timeout_at(deadline, arrived.recv()).await {
            Ok(Some(link)) => links.push(link),
            Ok(None) | Err(_) => {
                let absent = |rank: &u32| !links.iter().any(|link| link.rank == *rank);
                let absent: Vec<u32> = job.peers().filter(absent).collect();
                let message = format!("{} not connected to rank {}", subject(&absent, ("has", "have")), job.rank);
                return Err(Cause { rank: absent.first().copied(), ..Cause::new(message) });
            }
        }
    }
    links.sort_by_key(|link| link.rank);
    Ok(links)
}

/// Opens the stream to a lower rank.
async fn reach(
    job: &Arc<Job>,
    session: Session,
    rank: u32,
    known: Option<Channel>,
    address: &str,
    deadline: Instant,
) -> Result<Link, Cause> {
    loop {
        let attempt = async {
            let channel = match &known {
                Some(channel) => channel.clone(),
                None => {
                    let address: SocketAddr = address.parse().map_err(|_| format!("{address:?} is no address"))?;
                    transport::dial(address).await.map_err(|error| reason(&error))?
                }
            };
            open(job, session, rank, channel).await.map_err(|status| reason(&status))
        };
        let failure = match timeout_at(deadline, attempt).await {
            Ok(Ok(link)) => return Ok(link),
            Ok(Err(failure)) => failure,
            Err(_) => "it gives no answer".to_owned(),
        };
        if Instant::now() + PAUSE > deadline {
            let place = if known.is_some() { String::new() } else { format!(" at {address}") };
            return Err(Cause::of(rank, format!("rank {rank} was not reached{place}: {failure}")));
        }
        tokio::time::sleep(PAUSE).await;
    }
}

async fn open(job: &Arc<Job>, session: Session, rank: u32, channel: Channel) -> Result<Link, Status> {
    let (speaker, outgoing) = Speaker::new(job, hello(job, &session));
    let mut client = CollectivesClient::new(channel).max_decoding_message_size(MAX_MESSAGE);
    let mut stream = client.exchange(outgoing).await?.into_inner();
    let theirs = introduction(&mut stream).await?;
    if theirs.rank != rank {
        return Err(Status::failed_precondition(format!("rank {} answers in its place", theirs.rank)));
    }
    Ok(speaker.link(job, rank, stream, client))
}

/// The first message of a stream.
async fn introduction(stream: &mut Streaming<Envelope>) -> Result<Hello, Status> {
    match stream.message().await?.and_then(|envelope| envelope.body) {
        Some(Body::Hello(hello)) => Ok(hello),
        _ => Err(Status::invalid_argument("a stream begins with a hello")),
    }
}
