//! Messages of the stream between two ranks, as gRPC frames them: five bytes with the length, then the message.
//!
//! This is what tonic's codec does, without its two copies of every payload: a chunk is framed when it is cut out of its
//! buffer, and what has come is handed on as it came.

use std::future::poll_fn;
use std::pin::Pin;
use std::task::{Context, Poll};

use bytes::{Buf, BufMut, Bytes, BytesMut};
use http_body::{Body as _, Frame};
use prost::Message;
use prost::encoding::{WireType, encode_key, encode_varint, encoded_len_varint};
use tokio_stream::Stream;
use tonic::body::Body;
use tonic::codegen::http::{HeaderMap, HeaderValue};
use tonic::{Code, Status};

use crate::link::Outgoing;
use crate::wire::{Chunk, Envelope, MAX_MESSAGE};

/// A byte that says that the message is not compressed, and four with its length.
const PREFIX: usize = 5;

/// Numbers of the contract's fields that are written here.
const ENVELOPE_CHUNK: u32 = 2;
const CHUNK_PAYLOAD: u32 = 4;
const CHUNK_CHECKSUM: u32 = 8;

/// A message as it is sent.
pub(crate) fn framed(envelope: impl Into<Envelope>) -> Bytes {
    let envelope = envelope.into();
    let length = envelope.encoded_len();
    let mut bytes = BytesMut::with_capacity(PREFIX + length);
    put_prefix(&mut bytes, length);
    bytes.put_slice(&envelope.encode_to_vec());
    bytes.freeze()
}

/// A chunk as it is sent, with its checksum. It has everything but the payload, `length` bytes that `write` adds.
pub(crate) fn framed_chunk(chunk: &Chunk, length: usize, write: impl FnOnce(&mut BytesMut)) -> Bytes {
    let described = chunk.encode_to_vec();
    // Key and four bytes; key, length and bytes. All keys here are one byte.
    let payload = if length > 0 { 1 + encoded_len_varint(length as u64) + length } else { 0 };
    let inner = described.len() + 1 + size_of::<u32>() + payload;
    let message = 1 + encoded_len_varint(inner as u64) + inner;

    let mut bytes = BytesMut::with_capacity(PREFIX + message);
    put_prefix(&mut bytes, message);
    encode_key(ENVELOPE_CHUNK, WireType::LengthDelimited, &mut bytes);
    encode_varint(inner as u64, &mut bytes);
    bytes.put_slice(&described);
    encode_key(CHUNK_CHECKSUM, WireType::ThirtyTwoBit, &mut bytes);
    let checksum = bytes.len();
    bytes.put_u32_le(0);
    if length > 0 {
        encode_key(CHUNK_PAYLOAD, WireType::LengthDelimited, &mut bytes);
        encode_varint(length as u64, &mut bytes);
        write(&mut bytes);
    }
    let sum = crc32c::crc32c_append(crc32c::crc32c(&described), &bytes[PREFIX + message - length..]);
    bytes[checksum..checksum + size_of::<u32>()].copy_from_slice(&sum.to_le_bytes());
    bytes.freeze()
}

fn put_prefix(bytes: &mut BytesMut, length: usize) {
    bytes.put_u8(0);
    bytes.put_u32(length as u32);
}

/// What a rank sends, as the body of a request or an answer.
pub(crate) struct Sent {
    messages: Outgoing,
    /// What an answer ends with.
    trailers: Option<HeaderMap>,
}

impl Sent {
    pub(crate) fn request(messages: Outgoing) -> Body {
        Body::new(Self { messages, trailers: None })
    }

    pub(crate) fn answer(messages: Outgoing) -> Body {
        let trailers = HeaderMap::from_iter([(
            tonic::codegen::http::HeaderName::from_static("grpc-status"),
            HeaderValue::from(0),
        )]);
        Body::new(Self { messages, trailers: Some(trailers) })
    }
}

impl http_body::Body for Sent {
    type Data = Bytes;
    type Error = Status;

    fn poll_frame(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Status>>> {
        let this = self.get_mut();
        Pin::new(&mut this.messages).poll_next(context).map(|message| match message {
            Some(message) => Some(Ok(Frame::data(message))),
            None => this.trailers.take().map(|trailers| Ok(Frame::trailers(trailers))),
        })
    }
}

/// What another rank sends.
pub(crate) struct Received {
    body: Body,
    /// What has come and was not read: one frame as it came, or several in one.
    frame: Bytes,
    joined: BytesMut,
}

impl Received {
    pub(crate) fn new(body: Body) -> Self {
        Self { body, frame: Bytes::new(), joined: BytesMut::new() }
    }

    /// The next message; none when the other rank has ended its side.
    ///
    /// # Errors
    /// The stream has failed, or what has come is no message of the contract.
    pub(crate) async fn message(&mut self) -> Result<Option<Envelope>, Status> {
        loop {
            if let Some(message) = self.whole_message()? {
                let message = Envelope::decode(message);
                return message.map(Some).map_err(|error| Status::internal(error.to_string()));
            }
            let frame = poll_fn(|context| Pin::new(&mut self.body).poll_frame(context)).await;
            let data = match frame.transpose()?.map(Frame::into_data) {
                Some(Ok(data)) => data,
                Some(Err(trailers)) => {
                    let status = trailers.into_trailers().ok().and_then(|trailers| Status::from_header_map(&trailers));
                    match status {
                        Some(status) if status.code() != Code::Ok => return Err(status),
                        _ => continue,
                    }
                }
                None if self.frame.is_empty() && self.joined.is_empty() => return Ok(None),
                None => return Err(Status::internal("the stream ended within a message")),
            };
            if self.frame.is_empty() && self.joined.is_empty() {
                self.frame = data;
            } else {
                self.joined.extend_from_slice(&std::mem::take(&mut self.frame));
                self.joined.extend_from_slice(&data);
            }
        }
    }

    /// Takes a message that has come whole. Usually a frame has one message, which is not copied.
    fn whole_message(&mut self) -> Result<Option<Bytes>, Status> {
        let come: &[u8] = if self.frame.is_empty() { &self.joined } else { &self.frame };
        let Some((&[compressed, a, b, c, d], rest)) = come.split_first_chunk::<PREFIX>() else { return Ok(None) };
        let length = u32::from_be_bytes([a, b, c, d]) as usize;
        if compressed != 0 || length > MAX_MESSAGE {
            return Err(Status::internal(format!("a message of {length} bytes is none of the contract")));
        }
        if rest.len() < length {
            // The rest is known to come: no growing in steps.
            self.joined.reserve(if self.frame.is_empty() { length - rest.len() } else { PREFIX + length });
            return Ok(None);
        }
        let mut message = match self.frame.is_empty() {
            true => self.joined.split_to(PREFIX + length).freeze(),
            false => self.frame.split_to(PREFIX + length),
        };
        message.advance(PREFIX);
        Ok(Some(message))
    }
}

#[cfg(test)]
mod tests {
    use std::collections::VecDeque;

    use super::*;
    use crate::wire::envelope::Body as Kind;
    use crate::wire::{Call, Heartbeat, Phase};

    /// A body of these pieces.
    struct Pieces(VecDeque<Bytes>);

    impl http_body::Body for Pieces {
        type Data = Bytes;
        type Error = Status;

        fn poll_frame(mut self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Status>>> {
            Poll::Ready(self.0.pop_front().map(|piece| Ok(Frame::data(piece))))
        }
    }

    fn received(pieces: impl IntoIterator<Item = Bytes>) -> Result<Vec<Envelope>, Status> {
        let mut received = Received::new(Body::new(Pieces(pieces.into_iter().collect())));
        let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
        runtime.block_on(async {
            let mut messages = Vec::new();
            while let Some(message) = received.message().await? {
                messages.push(message);
            }
            Ok(messages)
        })
    }

    #[test]
    fn messages_are_read_as_they_were_sent_however_they_are_cut() {
        let call = Some(Call { session: 7, sequence: 300, root: 5, ..Call::default() });
        let payload = Bytes::from((0..1000u32).flat_map(u32::to_le_bytes).collect::<Vec<_>>());
        let mut chunk = Chunk { call, offset: 64, last: true, lengths: vec![7], ..Chunk::default() };
        chunk.set_phase(Phase::Result);
        let sent = [
            framed(Kind::Heartbeat(Heartbeat { progress: 3 })),
            framed_chunk(&chunk, payload.len(), |bytes| bytes.put_slice(&payload)),
            framed_chunk(&chunk, 0, |_| {}),
        ];
        let all = Bytes::from(sent.concat());
        let whole = received(sent.clone()).unwrap();
        let kinds: Vec<_> = whole.iter().map(|envelope| envelope.body.clone().unwrap()).collect();
        let [Kind::Heartbeat(Heartbeat { progress: 3 }), Kind::Chunk(first), Kind::Chunk(second)] = &kinds[..] else {
            panic!("{kinds:?}");
        };
        assert!(first.is_intact() && second.is_intact());
        assert_eq!((&first.payload, second.payload.len()), (&payload, 0));
        assert_eq!((first.call, first.offset, first.last, &first.lengths), (call, 64, true, &vec![7]));
        for size in [1, 3, 5, 7, 60, 4000, all.len()] {
            let pieces = (0..all.len()).step_by(size).map(|at| all.slice(at..all.len().min(at + size)));
            assert_eq!(received(pieces).unwrap(), whole, "in pieces of {size} bytes");
        }
        assert!(received([all.slice(..all.len() - 1)]).is_err(), "cut");
        assert!(received([Bytes::from_static(&[1, 0, 0, 0, 0])]).is_err(), "compressed");
        assert!(received([Bytes::from_static(&[0, 255, 0, 0, 0])]).is_err(), "too long");
    }
}
