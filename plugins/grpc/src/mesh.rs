//! The connections between every two ranks, opened by the higher one: a control stream, and a data stream for each lane.

use std::convert::Infallible;
use std::future::{Ready, ready};
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use tokio::sync::{mpsc, watch};
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep_until, timeout_at};
use tonic::Status;
use tonic::body::Body;
use tonic::codegen::http::{Request, Response, Version};
use tonic::server::NamedService;
use tonic::transport::Channel;
use tower::{Service, ServiceExt};

use crate::connection::{CONTROL, Connection, Proved};
use crate::data_stream::DataStream;
use crate::fault::subject;
use crate::job::Job;
use crate::link::{Link, Speaker, reason};
use crate::messages::{Received, Sent};
use crate::place::{self, Place};
use crate::transport::{self, Failed};
use crate::wire::{Cause, Roster, envelope};

/// How long a rank may take to say hello.
const INTRODUCTION: Duration = Duration::from_secs(5);

/// The pause between attempts to reach a rank.
const PAUSE: Duration = Duration::from_millis(50);

/// The session, a random number of the roster's, once it is known.
pub(crate) type SessionWatch = watch::Receiver<Option<u64>>;

/// The method of the contract.
const EXCHANGE: &str = "/mdt.collectives.v1.Collectives/Exchange";
const GRPC: &str = "application/grpc";

/// The service by which higher ranks open their streams to this one.
#[derive(Clone)]
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

impl NamedService for ExchangeService {
    const NAME: &'static str = "mdt.collectives.v1.Collectives";
}

impl Service<Request<Body>> for ExchangeService {
    type Response = Response<Body>;
    type Error = Infallible;
    type Future = Ready<Result<Response<Body>, Infallible>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: Request<Body>) -> Self::Future {
        ready(Ok(self.exchange(request).unwrap_or_else(Status::into_http)))
    }
}

impl ExchangeService {
    fn exchange(&self, request: Request<Body>) -> Result<Response<Body>, Status> {
        if request.uri().path() != EXCHANGE {
            return Err(Status::unimplemented("no method of the contract"));
        }
        let rank = Proved::rank_of(request.extensions())?;
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
            let mut stream = Received::new(request.into_body());
            let introduction = tokio::time::timeout(INTRODUCTION, introduction(&mut stream, session)).await;
            if matches!(introduction, Ok(Ok(()))) {
                let _ = links.send(speaker.link(&job, rank, stream, ())); // all ranks may be connected already
            }
        });
        let answer = Response::builder().header("content-type", GRPC).body(Sent::answer(outgoing));
        answer.map_err(|error| Status::internal(error.to_string()))
    }
}

/// The streams between this rank and the others.
pub(crate) struct Mesh {
    /// In order of ranks.
    pub(crate) links: Vec<Link>,
    /// For each data lane, in order of ranks.
    pub(crate) lanes: Vec<Vec<DataStream>>,
}

/// What higher ranks open to this one.
pub(crate) struct Arrivals {
    pub(crate) links: mpsc::UnboundedReceiver<Link>,
    pub(crate) data: mpsc::UnboundedReceiver<Connection>,
}

/// Connects with all ranks of the roster. `met` is how this rank has met rank 0.
///
/// # Errors
/// A rank that is not reached by `deadline`, or does not come: named.
pub(crate) async fn connect(
    job: &Arc<Job>,
    roster: &Roster,
    met: Option<(Channel, Place)>,
    mut arrivals: Arrivals,
    deadline: Instant,
) -> Result<Mesh, Cause> {
    let mut links: Vec<Link> = Vec::new();
    let mut streams: Vec<DataStream> = Vec::new();
    if let Some((channel, rank_0)) = met {
        let mut known = Some(channel);
        for (rank, text) in (0..job.rank).zip(&roster.data_addresses) {
            job.waits_for(vec![rank]);
            let places = match rank {
                0 => vec![rank_0.clone()],
                _ => place::from_text(text, &rank_0).await.map_err(|error| {
                    Cause::of(rank, format!("rank {rank} is not found at {text:?}, the address that it gave: {error}"))
                })?,
            };
            let target = Target { job, session: roster.session, rank, places };
            links.push(
                target
                    .reach(deadline, async |place| {
                        let channel = match known.take() {
                            Some(channel) => channel,
                            None => transport::channel(target.connect(place, CONTROL).await?).await?,
                        };
                        open(job, roster.session, rank, channel).await.map_err(|status| Failed::Again(reason(&status)))
                    })
                    .await?,
            );
            for lane in 1..=job.lanes() {
                let open = async |place: &Place| {
                    let connection = target.connect(place, lane).await?;
                    DataStream::call(connection).await.map_err(|error| Failed::Again(error.to_string()))
                };
                streams.push(target.reach(deadline, open).await?);
            }
        }
    }
    let mut answers = JoinSet::new();
    loop {
        let is_missing = |rank: &u32| {
            let lanes = streams.iter().filter(|stream| stream.rank() == *rank).count();
            !links.iter().any(|link| link.rank == *rank) || lanes < job.lanes() as usize
        };
        let absent: Vec<u32> = job.peers().filter(is_missing).collect();
        if absent.is_empty() {
            break;
        }
        job.waits_for(absent.clone());
        tokio::select! {
            Some(link) = arrivals.links.recv() => {
                links.retain(|earlier| earlier.rank != link.rank);
                links.push(link);
            }
            Some(connection) = arrivals.data.recv() => {
                let is_expected = connection.rank > job.rank && connection.rank < job.world_size;
                if is_expected && connection.lane <= job.lanes() {
                    answers.spawn(tokio::time::timeout(INTRODUCTION, DataStream::answer(connection)));
                }
            }
            // An attempt that has failed is made again.
            Some(answer) = answers.join_next() => if let Ok(Ok(Ok(stream))) = answer {
                let place = |stream: &DataStream| (stream.rank(), stream.lane());
                streams.retain(|earlier| place(earlier) != place(&stream));
                streams.push(stream);
            },
            () = sleep_until(deadline) => {
                let message = format!("{} not connected to rank {}", subject(&absent, ("has", "have")), job.rank);
                return Err(Cause { rank: absent.first().copied(), ..Cause::new(message) });
            }
        }
    }
    links.sort_by_key(|link| link.rank);
    streams.sort_by_key(|stream| stream.rank());
    let mut lanes: Vec<Vec<DataStream>> = (0..job.lanes()).map(|_| Vec::new()).collect();
    for stream in streams {
        let lane = stream.lane() as usize - 1;
        lanes[lane].push(stream);
    }
    Ok(Mesh { links, lanes })
}

/// A lower rank.
struct Target<'a> {
    job: &'a Job,
    session: u64,
    rank: u32,
    places: Vec<Place>,
}

impl Target<'_> {
    /// Opens a connection of this lane.
    async fn connect(&self, place: &Place, lane: u32) -> Result<Connection, Failed> {
        // Ranks come to rank 0 before they know the session.
        let session = if self.rank == 0 { 0 } else { self.session };
        transport::connect(self.job, place, self.rank, session, lane).await
    }

    /// Opens something, in several attempts.
    async fn reach<T>(
        &self,
        deadline: Instant,
        mut open: impl AsyncFnMut(&Place) -> Result<T, Failed>,
    ) -> Result<T, Cause> {
        let mut failure = "its name has no address".to_owned();
        for place in self.places.iter().cycle() {
            failure = match timeout_at(deadline, open(place)).await {
                Ok(Ok(opened)) => return Ok(opened),
                Ok(Err(Failed::Refused(cause))) => return Err(cause),
                Ok(Err(Failed::Again(failure))) => format!("at {place}: {failure}"),
                Err(_) => format!("at {place}: it gives no answer"),
            };
            if Instant::now() + PAUSE > deadline {
                break;
            }
            tokio::time::sleep(PAUSE).await;
        }
        let rank = self.rank;
        Err(Cause::of(rank, format!("rank {rank} was not reached {failure}")))
    }
}

async fn open(job: &Arc<Job>, session: u64, rank: u32, mut channel: Channel) -> Result<Link, Status> {
    let (speaker, outgoing) = Speaker::new(job);
    let request = Request::post(EXCHANGE).version(Version::HTTP_2).header("te", "trailers");
    let request = request.header("content-type", GRPC).body(Sent::request(outgoing));
    let request = request.map_err(|error| Status::internal(error.to_string()))?;
    let failed = |error| Status::from_error(Box::new(error));
    let answer = channel.ready().await.map_err(failed)?.call(request).await.map_err(failed)?;
    if let Some(refusal) = Status::from_header_map(answer.headers()) {
        return Err(refusal);
    }
    let mut stream = Received::new(answer.into_body());
    introduction(&mut stream, session).await?;
    speaker.say_hello(session);
    Ok(speaker.link(job, rank, stream, channel))
}

/// Reads the first message of a stream, which is a hello of this session.
async fn introduction(stream: &mut Received, session: u64) -> Result<(), Status> {
    match stream.message().await?.and_then(|envelope| envelope.body) {
        Some(envelope::Body::Hello(theirs)) if theirs.session == session => Ok(()),
        _ => Err(Status::failed_precondition("it is in another session")),
    }
}
