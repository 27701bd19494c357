//! The server of the status: who is let in, and what is answered.

use std::io;
use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::Duration;

use mdt_plugin_api::{Error, Result};
use tokio::net::TcpListener;
use tokio::sync::{mpsc, oneshot};
use tokio_stream::wrappers::ReceiverStream;
use tonic::service::interceptor::InterceptorLayer;
use tonic::transport::Server;
use tonic::{Request, Response, Status};

use super::contract::job_status_server::{JobStatus, JobStatusServer};
use super::contract::{DESCRIPTORS, Fault, GetStatusRequest, State, Status as Answer};
use super::training;
use super::visit::{Admission, Visit, Visitor};
use crate::address::require_private;
use crate::candidates::{Candidates, Vouched};
use crate::handshake;
use crate::job::Job;
use crate::listener::Origin;
use crate::stream::Stream;
use crate::token::Token;

/// The most clients at a time.
const VISITORS: usize = 32;

/// Requests that a client may have under way, and the largest headers and messages.
const REQUESTS: u32 = 8;
const LARGEST: u32 = 16 << 10;

/// Time between two looks at what moves.
const LOOK: Duration = Duration::from_millis(200);

/// Streams that a client may give up before it is told to go: there is no reason to give up many.
const RESETS: usize = 16;

/// The server, in a thread of its own. It ends when it is dropped.
pub(crate) struct StatusServer {
    stop: Option<oneshot::Sender<()>>,
    thread: Option<JoinHandle<()>>,
}

impl StatusServer {
    /// Begins to answer, where rank 0 is configured to.
    ///
    /// # Errors
    /// The address or the port cannot be used, or others could reach it without encryption.
    pub(crate) fn start(job: &Arc<Job>) -> Result<Option<Self>> {
        let Some(port) = job.config.status_port.filter(|_| job.rank == 0) else { return Ok(None) };
        let host = &job.config.status_address;
        let failed = |error: io::Error| {
            Error::config(format!("the job's status cannot be given at {host}:{port}"))
                .with("key", "comm.status_port")
                .help("choose another comm.status_port; comm.status_address must be an address of this machine")
                .caused_by(error)
        };
        let listener = std::net::TcpListener::bind((host.as_str(), port)).map_err(failed)?;
        let address = listener.local_addr().map_err(failed)?;
        require_private(job, [address.ip()].into_iter())?;
        listener.set_nonblocking(true).map_err(failed)?;
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().map_err(failed)?;
        let (stop, stopped) = oneshot::channel();
        let job = Arc::clone(job);
        let thread = std::thread::Builder::new().name("mdt-status".into());
        let thread = thread.spawn(move || {
            runtime.block_on(async {
                tokio::select! {
                    () = serve(job, listener) => {}
                    _ = stopped => {}
                }
            });
        });
        Ok(Some(Self { stop: Some(stop), thread: Some(thread.map_err(failed)?) }))
    }
}

impl Drop for StatusServer {
    fn drop(&mut self) {
        drop(self.stop.take());
        if let Some(thread) = self.thread.take() {
            let _ = thread.join(); // it answers or not, the job ends
        }
    }
}

async fn serve(job: Arc<Job>, listener: std::net::TcpListener) {
    let Ok(listener) = TcpListener::from_std(listener) else { return };
    let (health, health_service) = tonic_health::server::health_reporter();
    health.set_serving::<JobStatusServer<Board>>().await;
    let reflection = || {
        tonic_reflection::server::Builder::configure()
            .register_encoded_file_descriptor_set(DESCRIPTORS)
            .register_encoded_file_descriptor_set(tonic_health::pb::FILE_DESCRIPTOR_SET)
    };
    // Many clients know the earlier version only.
    let (Ok(reflection), Ok(earlier)) = (reflection().build_v1(), reflection().build_v1alpha()) else { return };
    let token = job.token.clone();
    let router = Server::builder()
        .max_concurrent_streams(REQUESTS)
        .initial_stream_window_size(LARGEST)
        .initial_connection_window_size(LARGEST)
        .http2_max_header_list_size(LARGEST)
        .http2_max_pending_accept_reset_streams(Some(RESETS))
        .http2_max_local_error_reset_streams(Some(RESETS))
        .timeout(Duration::from_secs(5))
        .layer(InterceptorLayer::new(move |request| admit(&token, request)))
        .add_service(health_service)
        .add_service(reflection)
        .add_service(earlier)
        .add_service(JobStatusServer::new(Board(Arc::clone(&job))).max_decoding_message_size(LARGEST as usize));
    let (visits, incoming) = mpsc::channel(VISITORS);
    tokio::select! {
        () = accept(Arc::clone(&job), listener, visits) => {}
        () = follow(&job) => {}
        // An error of a connection is that client's.
        _ = router.serve_with_incoming(ReceiverStream::new(incoming)) => {}
    }
}

/// Looks again and again whether data has moved.
async fn follow(job: &Job) {
    loop {
        job.board.saw(job.progress.of_all() + job.board.finished());
        tokio::time::sleep(LOOK).await;
    }
}

/// Lets a request in that has the job token.
fn admit(token: &Token, request: Request<()>) -> std::result::Result<Request<()>, Status> {
    let shown = request.metadata().get("authorization").and_then(|value| value.to_str().ok());
    match shown.and_then(|value| value.strip_prefix("Bearer ")) {
        Some(shown) if token.is(shown.trim()) => {
            if let Some(admission) = request.extensions().get::<Admission>() {
                admission.grant();
            }
            Ok(request)
        }
        _ => Err(Status::unauthenticated("")),
    }
}

/// Brings connections through TLS, where the job has it, to the server.
async fn accept(job: Arc<Job>, listener: TcpListener, visits: mpsc::Sender<io::Result<Visit>>) {
    let mut candidates = Candidates::default();
    let mut visitors: Vec<Visitor> = Vec::new();
    let (begun, mut arrived) = mpsc::channel(VISITORS);
    loop {
        let (stream, address) = tokio::select! {
            accepted = listener.accept() => match accepted {
                Ok(accepted) => accepted,
                Err(_) => {
                    tokio::time::sleep(Duration::from_millis(50)).await;
                    continue;
                }
            },
            Some(stream) = arrived.recv() => {
                visitors.retain(Visitor::is_open);
                if let Some((visit, visitor)) = visit(stream, &mut visitors) {
                    visitors.push(visitor);
                    let _ = visits.send(Ok(visit)).await; // the server has ended
                }
                continue;
            }
        };
        let (job, begun) = (Arc::clone(&job), begun.clone());
        let vouched = Vouched::default();
        candidates.admit(Origin::from(address).machine(), vouched.clone(), async move {
            let _ = stream.set_nodelay(true);
            let stream = match &job.tls {
                None => Stream::Tcp(stream),
                Some(tls) => match tokio::time::timeout(handshake::LIMIT, tls.accept_client(stream)).await {
                    Ok(Ok(stream)) => Stream::Tls(Box::new(stream)),
                    Ok(Err(_)) | Err(_) => {
                        job.refusals.note(&job.services, &format!("no status for {address}: TLS has failed"));
                        return;
                    }
                },
            };
            vouched.set();
            let _ = begun.send(stream).await;
        });
    }
}

/// Makes room for a client: who has not shown the token for the longest time has to go.
fn visit(stream: Stream, visitors: &mut Vec<Visitor>) -> Option<(Visit, Visitor)> {
    if visitors.len() >= VISITORS {
        let stranger = visitors.iter().position(|visitor| !visitor.is_admitted())?;
        visitors.remove(stranger).close();
    }
    Visit::begin(stream).ok()
}

/// Answers with what is known of the job.
struct Board(Arc<Job>);

#[tonic::async_trait]
impl JobStatus for Board {
    async fn get_status(&self, _: Request<GetStatusRequest>) -> std::result::Result<Response<Answer>, Status> {
        let job = &self.0;
        let fault = job.fault.cause().map(|cause| Fault { message: cause.message, rank: cause.rank });
        let state = if fault.is_some() { State::Failed } else { job.board.state() };
        Ok(Response::new(Answer {
            job: job.name.clone(),
            state: state.into(),
            world_size: job.world_size,
            ranks: job.board.ranks(job.world_size),
            collectives: job.board.finished(),
            seconds_since_progress: job.board.seconds_since_progress(),
            fault,
            training: training::so_far(),
        }))
    }
}
