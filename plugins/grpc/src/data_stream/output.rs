//! The sending side of a data connection: a chunk is one DATA frame, written together with payload from where that lies.

use std::io::{self, IoSlice};
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use bytes::BufMut;
use prost::Message;
use prost::encoding::{encode_varint, encoded_len_varint};
use tokio::io::AsyncWrite;

use super::PAYLOAD_KEY;
use crate::http2::{DEFAULT_FRAME, DEFAULT_WINDOW, FrameHeader, Limits, STREAM, kind};
use crate::wire::{Chunk, Piece, piece};

/// Pieces of memory that are written at once.
const PIECES: usize = 64;

/// What is being sent.
pub(super) struct Output {
    /// The header of the current frame, after frames about the connection, and how much of that was sent.
    header: Vec<u8>,
    header_sent: usize,
    /// Bytes of the current DATA frame that were not sent, without its header.
    frame_left: usize,
    /// What goes before the payload of the current chunk, and how much of it was sent.
    head: Vec<u8>,
    head_sent: usize,
    /// Payload of the current chunk that was not sent.
    payload_left: usize,
    /// Frames about the connection, which go before the next frame.
    control: Vec<u8>,
    /// Whether the connection may hold back what was written.
    unflushed: bool,
    limits: Limits,
    /// What may still be sent: on the connection and on the stream. The current frame has been taken off.
    windows: [i64; 2],
}

impl Output {
    pub(super) fn new() -> Self {
        Self {
            header: Vec::new(),
            header_sent: 0,
            frame_left: 0,
            head: Vec::new(),
            head_sent: 0,
            payload_left: 0,
            control: Vec::new(),
            unflushed: false,
            limits: Limits { frame: DEFAULT_FRAME, window: DEFAULT_WINDOW },
            windows: [DEFAULT_WINDOW.into(); 2],
        }
    }

    /// Where frames about the connection are put.
    pub(super) fn control(&mut self) -> &mut Vec<u8> {
        &mut self.control
    }

    /// Takes the settings of the other side.
    pub(super) fn limit(&mut self, settings: &[u8]) {
        let before = self.limits.window;
        self.limits.update(settings);
        self.windows[1] += i64::from(self.limits.window) - i64::from(before);
    }

    /// Takes the permission to send more.
    pub(super) fn credit(&mut self, stream: u32, bytes: u32) {
        self.windows[usize::from(stream == STREAM)] += i64::from(bytes);
    }

    /// Whether something of the current chunk fits into the windows, or nothing is left of it.
    pub(super) fn may_send(&self) -> bool {
        self.frame_left > 0 || self.unframed() == 0 || self.windows.iter().all(|window| *window > 0)
    }

    pub(super) fn is_flushed(&self) -> bool {
        self.is_written() && self.control.is_empty() && !self.unflushed
    }

    /// Whether the current chunk was written whole.
    fn is_written(&self) -> bool {
        self.header_sent == self.header.len() && self.head_sent == self.head.len() && self.payload_left == 0
    }

    /// Bytes of the current chunk that no frame has yet.
    fn unframed(&self) -> usize {
        self.head.len() - self.head_sent + self.payload_left - self.frame_left
    }

    pub(super) fn begin(&mut self, chunk: Chunk) {
        debug_assert!(self.is_written());
        let length = chunk.length as usize;
        let piece = Piece { body: Some(piece::Body::Chunk(chunk)) };
        self.head.clear();
        self.head_sent = 0;
        put_prefix(&mut self.head, piece.encoded_len());
        self.head.put_slice(&piece.encode_to_vec());
        if length > 0 {
            put_prefix(&mut self.head, 1 + encoded_len_varint(length as u64) + length);
            self.head.put_u8(PAYLOAD_KEY);
            encode_varint(length as u64, &mut self.head);
        }
        self.payload_left = length;
    }

    /// Begins the next frame where the current one was sent: usually all of a chunk.
    fn next_frame(&mut self) {
        if self.header_sent < self.header.len() || self.frame_left > 0 {
            return;
        }
        std::mem::swap(&mut self.header, &mut self.control);
        self.control.clear();
        self.header_sent = 0;
        let window = self.windows.iter().copied().min().unwrap_or_default().max(0) as usize;
        let length = self.unframed().min(self.limits.frame).min(window);
        if length > 0 {
            FrameHeader { length, kind: kind::DATA, flags: 0, stream: STREAM }.write(&mut self.header);
            self.frame_left = length;
            self.windows.iter_mut().for_each(|window| *window -= length as i64);
        }
    }

    /// Writes once: what comes first of the current frame. Gives the bytes of the payload.
    pub(super) fn poll_send<'a, C: AsyncWrite + Unpin>(
        &mut self,
        context: &mut Context<'_>,
        connection: &mut C,
        payload: impl Iterator<Item = &'a [u8]>,
    ) -> Poll<io::Result<usize>> {
        self.next_frame();
        let mut sent = 0;
        if !self.is_written() {
            let header = &self.header[self.header_sent..];
            let head = &self.head[self.head_sent..];
            let head = &head[..head.len().min(self.frame_left)];
            let mut room = self.frame_left - head.len();
            let mut slices = [IoSlice::new(&[]); PIECES];
            (slices[0], slices[1]) = (IoSlice::new(header), IoSlice::new(head));
            let mut count = 2;
            for (slice, piece) in slices[2..].iter_mut().zip(payload) {
                let piece = &piece[..piece.len().min(room)];
                room -= piece.len();
                *slice = IoSlice::new(piece);
                count += 1;
                if room == 0 {
                    break;
                }
            }
            let written = ready!(Pin::new(&mut *connection).poll_write_vectored(context, &slices[..count]))?;
            if written == 0 {
                return Poll::Ready(Err(io::ErrorKind::WriteZero.into()));
            }
            let of_header = written.min(header.len());
            let of_head = (written - of_header).min(head.len());
            sent = written - of_header - of_head;
            self.header_sent += of_header;
            self.head_sent += of_head;
            self.payload_left -= sent;
            self.frame_left -= of_head + sent;
            self.unflushed = true;
        }
        if self.is_written() {
            match Pin::new(connection).poll_flush(context)? {
                Poll::Ready(()) => self.unflushed = false,
                Poll::Pending if sent > 0 => {} // the next call flushes
                Poll::Pending => return Poll::Pending,
            }
        }
        Poll::Ready(Ok(sent))
    }
}

fn put_prefix(bytes: &mut Vec<u8>, length: usize) {
    bytes.put_u8(0);
    bytes.put_u32(length as u32);
}
