//! A data connection with another rank: one gRPC call of `Collectives.Transfer` on an HTTP/2 connection of its own.
//!
//! Payload is sent from where it lies and received where it is needed: this is why the frames are written and read here
//! and not by an HTTP/2 library, which copies in between. Everything else about the job goes over the control stream.

mod input;
mod output;

use std::future::poll_fn;
use std::io;
use std::task::{Context, Poll, Waker, ready};

use bytes::Buf;
use prost::Message;
use prost::encoding::{decode_varint, encoded_len_varint};
use tokio::io::{AsyncRead, AsyncWrite};

use self::input::Input;
use self::output::Output;
use crate::connection::Connection;
use crate::http2::{PREFACE, STREAM, answer_headers, answer_trailers, flag, frame, kind, request_headers, settings};
use crate::wire::{Chunk, MAX_MESSAGE, Piece, piece};

/// The method of the contract.
const TRANSFER: &str = "/mdt.collectives.v1.Collectives/Transfer";

/// A byte that says that a message is not compressed, and four with its length.
const PREFIX: usize = 5;

/// The field of a piece that is payload, with the type of its value.
const PAYLOAD_KEY: u8 = 2 << 3 | 2;

/// What has come of a chunk's description.
enum Described {
    Whole(Chunk),
    /// So many bytes must have come to know more.
    Wants(usize),
}

/// A data connection with another rank.
pub(crate) struct DataStream<C = Connection> {
    connection: C,
    input: Input,
    output: Output,
    /// What has come of the next chunk's description.
    description: Vec<u8>,
    /// Payload of the current chunk that has not come yet.
    payload_left: usize,
    is_client: bool,
}

impl<C: AsyncRead + AsyncWrite + Unpin> DataStream<C> {
    /// Calls the method over a new connection, and waits for the beginning of the answer.
    ///
    /// # Errors
    /// The connection has ended, or the other side does not speak as this one.
    pub(crate) async fn call(connection: C) -> io::Result<Self> {
        let mut stream = Self::new(connection, true);
        let opening = stream.output.control();
        opening.extend_from_slice(PREFACE);
        settings(opening);
        request_headers(TRANSFER, opening);
        stream.open().await
    }

    /// Answers the call of the rank that has opened this connection.
    ///
    /// # Errors
    /// As [`DataStream::call`].
    pub(crate) async fn answer(connection: C) -> io::Result<Self> {
        let mut stream = Self::new(connection, false);
        settings(stream.output.control());
        poll_fn(|context| stream.input.poll_preface(context, &mut stream.connection)).await?;
        stream.open().await
    }

    fn new(connection: C, is_client: bool) -> Self {
        let (input, output) = (Input::new(), Output::new());
        Self { connection, input, output, description: Vec::new(), payload_left: 0, is_client }
    }

    /// Sends this side's opening, and reads that of the other.
    async fn open(mut self) -> io::Result<Self> {
        poll_fn(|context| {
            let sent = self.poll_flush(context)?;
            ready!(self.input.poll_opened(context, &mut self.connection, &mut self.output))?;
            sent.map(io::Result::Ok)
        })
        .await?;
        // The other side's settings are acknowledged. An answer begins when there is a request.
        if !self.is_client {
            answer_headers(self.output.control());
        }
        poll_fn(|context| self.poll_flush(context)).await?;
        Ok(self)
    }

    /// The description of the next chunk; none when the other rank has ended its side. The payload of the one before was
    /// read.
    pub(crate) fn poll_chunk(&mut self, context: &mut Context<'_>) -> Poll<io::Result<Option<Chunk>>> {
        debug_assert_eq!(self.payload_left, 0);
        loop {
            let wanted = match self.described()? {
                Described::Whole(chunk) => {
                    self.description.clear();
                    self.payload_left = chunk.length as usize;
                    return Poll::Ready(Ok(Some(chunk)));
                }
                Described::Wants(wanted) => wanted,
            };
            let missing = wanted - self.description.len();
            let Self { input, connection, output, description, .. } = self;
            if !ready!(input.poll_data(context, connection, output))? {
                return Poll::Ready(match description.is_empty() {
                    true => Ok(None),
                    false => Err(io::ErrorKind::UnexpectedEof.into()),
                });
            }
            if input.buffered().is_empty() {
                ready!(input.poll_fill(context, connection))?;
            }
            let taken = input.buffered().len().min(missing);
            description.extend_from_slice(&input.buffered()[..taken]);
            input.consume(taken);
        }
    }

    /// What is known of the next chunk by what has come of its description.
    fn described(&self) -> io::Result<Described> {
        let message = match message(&self.description)? {
            Ok(message) => message,
            Err(wanted) => return Ok(Described::Wants(wanted)),
        };
        let Some(piece::Body::Chunk(chunk)) = Piece::decode(message).map_err(invalid)?.body else {
            return Err(invalid("a payload without a description"));
        };
        if chunk.length == 0 {
            return Ok(Described::Whole(chunk));
        }
        // The message with the payload begins with the key and the length of its only field.
        let described = PREFIX + message.len();
        let length = encoded_len_varint(chunk.length.into());
        let wanted = described + PREFIX + 1 + length;
        if self.description.len() < wanted {
            return Ok(Described::Wants(wanted));
        }
        let mut begin = &self.description[described..];
        let (compressed, announced, key) = (begin.get_u8(), begin.get_u32() as usize, begin.get_u8());
        let same = decode_varint(&mut begin).is_ok_and(|length| length == u64::from(chunk.length));
        match compressed == 0 && announced == 1 + length + chunk.length as usize && key == PAYLOAD_KEY && same {
            true => Ok(Described::Whole(chunk)),
            false => Err(invalid("a payload that is not as it was described")),
        }
    }

    /// Reads payload of the current chunk; gives how many bytes. There is some left.
    pub(crate) fn poll_payload(&mut self, context: &mut Context<'_>, place: &mut [u8]) -> Poll<io::Result<usize>> {
        let Self { input, connection, output, .. } = self;
        let most = place.len().min(self.payload_left);
        if !ready!(input.poll_data(context, connection, output))? {
            return Poll::Ready(Err(io::ErrorKind::UnexpectedEof.into()));
        }
        let read = ready!(input.poll_read(context, connection, &mut place[..most]))?;
        self.payload_left -= read;
        Poll::Ready(Ok(read))
    }

    /// Whether everything was sent.
    pub(crate) fn is_flushed(&self) -> bool {
        self.output.is_flushed()
    }

    /// Begins to send a chunk. Everything before was sent. Its payload goes to [`DataStream::poll_send`].
    pub(crate) fn begin(&mut self, chunk: Chunk) {
        self.output.begin(chunk);
    }

    /// Sends what the system takes; `payload` is what was not sent yet of the current chunk's. Gives how many bytes of it
    /// were sent now.
    pub(crate) fn poll_send<'a>(
        &mut self,
        context: &mut Context<'_>,
        payload: impl Iterator<Item = &'a [u8]>,
    ) -> Poll<io::Result<usize>> {
        // A window that is used up is opened by a frame that has to be read.
        while !self.output.may_send() {
            let Self { input, connection, output, .. } = self;
            ready!(input.poll_control(context, connection, output))?;
        }
        self.output.poll_send(context, &mut self.connection, payload)
    }

    /// Sends answers to what the other side has said about the connection.
    pub(crate) fn poll_flush(&mut self, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        while !self.output.is_flushed() {
            ready!(self.output.poll_send(context, &mut self.connection, std::iter::empty()))?;
        }
        Poll::Ready(Ok(()))
    }

    /// Ends this side, as far as the system takes it at once: that this rank leaves is said on the control stream.
    pub(crate) fn end(mut self) {
        let last = self.output.control();
        match self.is_client {
            true => frame(kind::DATA, flag::END_STREAM, STREAM, &[], last),
            false => answer_trailers(last),
        }
        let _ = self.poll_flush(&mut Context::from_waker(Waker::noop()));
    }
}

impl DataStream {
    /// The rank at the other end.
    pub(crate) fn rank(&self) -> u32 {
        self.connection.rank
    }

    /// The lane of the connection.
    pub(crate) fn lane(&self) -> u32 {
        self.connection.lane
    }
}

/// The message at the beginning, or how many bytes there must be to know more.
fn message(bytes: &[u8]) -> io::Result<Result<&[u8], usize>> {
    let Some((&[compressed, a, b, c, d], rest)) = bytes.split_first_chunk::<PREFIX>() else { return Ok(Err(PREFIX)) };
    let length = u32::from_be_bytes([a, b, c, d]) as usize;
    if compressed != 0 || length > MAX_MESSAGE {
        return Err(invalid(format!("a message of {length} bytes is none of the contract")));
    }
    Ok(rest.get(..length).ok_or(PREFIX + length))
}

/// What is none of the contract.
fn invalid(error: impl Into<Box<dyn std::error::Error + Send + Sync>>) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, error)
}

#[cfg(test)]
mod tests {
    use std::future::ready;

    use bytes::Bytes;
    use hyper_util::rt::TokioIo;
    use tokio::io::{DuplexStream, duplex};
    use tokio::sync::mpsc;
    use tokio_stream::StreamExt;
    use tokio_stream::wrappers::ReceiverStream;
    use tonic::transport::{Endpoint, Server};
    use tonic::{Request, Response, Status, Streaming};

    use super::*;
    use crate::wire::collectives_client::CollectivesClient;
    use crate::wire::collectives_server::{Collectives, CollectivesServer};
    use crate::wire::{Call, Envelope};

    /// A chunk with this payload, as pieces.
    fn pieces(payload: &[u8], last: bool) -> [Piece; 2] {
        let call = Some(Call { session: 7, sequence: 1, ..Call::default() });
        let chunk = Chunk { call, last, length: payload.len() as u32, ..Chunk::default() }.sealed();
        let payload = piece::Body::Payload(Bytes::copy_from_slice(payload));
        [piece::Body::Chunk(chunk), payload].map(|body| Piece { body: Some(body) })
    }

    /// Reads the next chunk with its payload.
    async fn read(stream: &mut DataStream<DuplexStream>) -> Option<Vec<u8>> {
        let chunk = poll_fn(|context| stream.poll_chunk(context)).await.unwrap()?;
        assert!(chunk.is_intact());
        let (mut payload, mut at) = (vec![0; chunk.length as usize], 0);
        while at < payload.len() {
            at += poll_fn(|context| stream.poll_payload(context, &mut payload[at..])).await.unwrap();
        }
        Some(payload)
    }

    async fn send(stream: &mut DataStream<DuplexStream>, payload: &[u8]) {
        let [Piece { body: Some(piece::Body::Chunk(chunk)) }, _] = pieces(payload, false) else { return };
        stream.begin(chunk);
        let mut at = 0;
        while !stream.is_flushed() {
            at += poll_fn(|context| stream.poll_send(context, payload[at..].chunks(700))).await.unwrap();
        }
    }

    /// Payloads that fit into a frame of HTTP/2 as it is without settings, and that do not, nor into a window.
    fn payloads() -> Vec<Vec<u8>> {
        [1, 5000, 70_000, 300_000, 3].map(|length| (0..length).map(|byte| byte as u8).collect()).to_vec()
    }

    #[tokio::test]
    async fn any_grpc_client_can_talk_to_it() {
        let (near, far) = duplex(1 << 16);
        let ours = tokio::spawn(async move {
            let mut stream = DataStream::answer(far).await.unwrap();
            for expected in payloads() {
                assert_eq!(read(&mut stream).await, Some(expected));
            }
            for payload in payloads() {
                send(&mut stream, &payload).await;
            }
            assert_eq!(read(&mut stream).await, None);
            stream.end();
        });
        let mut near = Some(TokioIo::new(near));
        let connector =
            tower::service_fn(move |_| ready(near.take().ok_or(io::Error::from(io::ErrorKind::NotConnected))));
        let channel = Endpoint::from_static("http://rank").connect_with_connector(connector).await.unwrap();
        let sent: Vec<Piece> = payloads().iter().flat_map(|payload| pieces(payload, false)).collect();
        let answer = CollectivesClient::new(channel).transfer(tokio_stream::iter(sent)).await.unwrap();
        let heard: Vec<Piece> = answer.into_inner().take(10).map(Result::unwrap).collect().await;
        let expected: Vec<Piece> = payloads().iter().flat_map(|payload| pieces(payload, false)).collect();
        assert_eq!(heard, expected);
        ours.await.unwrap();
    }

    /// Answers with what it hears, each chunk when it has come whole.
    struct Echo;

    #[tonic::async_trait]
    impl Collectives for Echo {
        type ExchangeStream = tokio_stream::Empty<Result<Envelope, Status>>;
        type TransferStream = ReceiverStream<Result<Piece, Status>>;

        async fn exchange(&self, _: Request<Streaming<Envelope>>) -> Result<Response<Self::ExchangeStream>, Status> {
            Err(Status::unimplemented("not here"))
        }

        async fn transfer(&self, request: Request<Streaming<Piece>>) -> Result<Response<Self::TransferStream>, Status> {
            let (echo, answer) = mpsc::channel(2);
            let mut heard = request.into_inner();
            tokio::spawn(async move {
                while let (Some(chunk), Some(payload)) = (heard.next().await, heard.next().await) {
                    let _ = (echo.send(chunk).await, echo.send(payload).await);
                }
            });
            Ok(Response::new(ReceiverStream::new(answer)))
        }
    }

    #[tokio::test]
    async fn it_can_talk_to_any_grpc_server() {
        let (near, far) = duplex(1 << 16);
        let incoming = tokio_stream::once(Ok::<_, io::Error>(far));
        let server = Server::builder().add_service(CollectivesServer::new(Echo));
        tokio::spawn(server.serve_with_incoming(incoming));
        let mut stream = DataStream::call(near).await.unwrap();
        for payload in payloads() {
            send(&mut stream, &payload).await;
            assert_eq!(read(&mut stream).await, Some(payload));
        }
    }
}
