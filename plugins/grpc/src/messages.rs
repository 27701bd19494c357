//! Messages of the stream between two ranks, as gRPC frames them: five bytes with the length, then the message.
//!
//! This is what tonic's codec does. Here a message is in the queue as it is sent, so that the last one ends the stream.

use std::future::poll_fn;
use std::pin::Pin;
use std::task::{Context, Poll};

use bytes::{Buf, BufMut, Bytes, BytesMut};
use http_body::{Body as _, Frame};
use prost::Message;
use tokio_stream::Stream;
use tonic::body::Body;
use tonic::codegen::http::{HeaderMap, HeaderValue};
use tonic::{Code, Status};

use crate::link::Outgoing;
use crate::wire::{Envelope, MAX_MESSAGE};

/// A byte that says that the message is not compressed, and four with its length.
const PREFIX: usize = 5;

/// A message as it is sent.
pub(crate) fn framed(envelope: impl Into<Envelope>) -> Bytes {
    let envelope = envelope.into();
    let length = envelope.encoded_len();
    let mut bytes = BytesMut::with_capacity(PREFIX + length);
    put_prefix(&mut bytes, length);
    bytes.put_slice(&envelope.encode_to_vec());
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
    use crate::wire::{Cause, Goodbye, Heartbeat};

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
        let sent = [
            framed(Kind::Heartbeat(Heartbeat { progress: 3 })),
            framed(Kind::Abort(Cause::new("text ".repeat(1000)))),
            framed(Kind::Goodbye(Goodbye {})),
        ];
        let all = Bytes::from(sent.concat());
        let whole = received(sent.clone()).unwrap();
        assert_eq!(whole.len(), 3);
        assert_eq!(whole[1].body, Some(Kind::Abort(Cause::new("text ".repeat(1000)))));
        for size in [1, 3, 5, 7, 60, 4000, all.len()] {
            let pieces = (0..all.len()).step_by(size).map(|at| all.slice(at..all.len().min(at + size)));
            assert_eq!(received(pieces).unwrap(), whole, "in pieces of {size} bytes");
        }
        assert!(received([all.slice(..all.len() - 1)]).is_err(), "cut");
        assert!(received([Bytes::from_static(&[1, 0, 0, 0, 0])]).is_err(), "compressed");
        assert!(received([Bytes::from_static(&[0, 255, 0, 0, 0])]).is_err(), "too long");
    }
}
