//! The receiving side of a data connection: takes HTTP/2 apart, and leaves payload where its reader wants it.

use std::io;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use tokio::io::{AsyncRead, ReadBuf};

use super::invalid;
use super::output::Output;
use crate::http2::{FRAME_HEADER, FrameHeader, LARGEST_WINDOW, PREFACE, STREAM, flag, frame, kind, window_update};

/// Bytes that are read at once where what comes is not known. Payload behind them is read to its place.
const BUFFER: usize = 8 << 10;

/// Bytes after which the sender is told that it may send as many more.
const CREDIT: u32 = LARGEST_WINDOW / 2;

/// What has come and was not read.
pub(super) struct Input {
    buffer: Box<[u8; BUFFER]>,
    start: usize,
    end: usize,
    /// Bytes of the current DATA frame that were not read.
    frame_left: usize,
    /// Bytes of DATA frames since the sender was last told that it may send more.
    received: u32,
    has_settings: bool,
    has_headers: bool,
    has_ended: bool,
}

impl Input {
    pub(super) fn new() -> Self {
        Self {
            buffer: Box::new([0; BUFFER]),
            start: 0,
            end: 0,
            frame_left: 0,
            received: 0,
            has_settings: false,
            has_headers: false,
            has_ended: false,
        }
    }

    /// Reads what a client begins with.
    pub(super) fn poll_preface<C: AsyncRead + Unpin>(
        &mut self,
        context: &mut Context<'_>,
        connection: &mut C,
    ) -> Poll<io::Result<()>> {
        ready!(self.poll_whole(context, connection, PREFACE.len()))?;
        let is_preface = self.buffer[self.start..self.end].starts_with(PREFACE);
        self.start += PREFACE.len();
        Poll::Ready(if is_preface { Ok(()) } else { Err(invalid("no preface of HTTP/2")) })
    }

    /// Reads the settings and the headers of the other side.
    pub(super) fn poll_opened<C: AsyncRead + Unpin>(
        &mut self,
        context: &mut Context<'_>,
        connection: &mut C,
        output: &mut Output,
    ) -> Poll<io::Result<()>> {
        while !(self.has_settings && self.has_headers) {
            ready!(self.poll_frame(context, connection, output))?;
        }
        Poll::Ready(Ok(()))
    }

    /// Reads up to data that is not read yet; `false` where the stream has ended instead.
    pub(super) fn poll_data<C: AsyncRead + Unpin>(
        &mut self,
        context: &mut Context<'_>,
        connection: &mut C,
        output: &mut Output,
    ) -> Poll<io::Result<bool>> {
        while self.frame_left == 0 {
            if self.has_ended {
                return Poll::Ready(Ok(false));
            }
            ready!(self.poll_frame(context, connection, output))?;
        }
        Poll::Ready(Ok(true))
    }

    /// Reads a frame that is about the connection and not data. Waits where data comes first.
    pub(super) fn poll_control<C: AsyncRead + Unpin>(
        &mut self,
        context: &mut Context<'_>,
        connection: &mut C,
        output: &mut Output,
    ) -> Poll<io::Result<()>> {
        if self.frame_left > 0 {
            return Poll::Pending;
        }
        self.poll_frame(context, connection, output)
    }

    /// Data of the current frame that has been read into the buffer: none where it must be filled.
    pub(super) fn buffered(&self) -> &[u8] {
        &self.buffer[self.start..self.end.min(self.start + self.frame_left)]
    }

    /// Takes data of the current frame out of the buffer.
    pub(super) fn consume(&mut self, bytes: usize) {
        self.start += bytes;
        self.frame_left -= bytes;
    }

    /// Reads data of the current frame to its place, which is not empty; gives how many bytes.
    pub(super) fn poll_read<C: AsyncRead + Unpin>(
        &mut self,
        context: &mut Context<'_>,
        connection: &mut C,
        place: &mut [u8],
    ) -> Poll<io::Result<usize>> {
        let most = place.len().min(self.frame_left);
        if self.start == self.end && most < BUFFER / 2 {
            ready!(self.poll_fill(context, connection))?;
        }
        let buffered = self.buffered();
        if !buffered.is_empty() {
            let taken = buffered.len().min(most);
            place[..taken].copy_from_slice(&buffered[..taken]);
            self.consume(taken);
            return Poll::Ready(Ok(taken));
        }
        let read = ready!(poll_read(context, connection, &mut place[..most]))?;
        self.frame_left -= read;
        Poll::Ready(Ok(read))
    }

    /// Reads what has come into the free part of the buffer.
    pub(super) fn poll_fill<C: AsyncRead + Unpin>(
        &mut self,
        context: &mut Context<'_>,
        connection: &mut C,
    ) -> Poll<io::Result<()>> {
        if self.start > 0 {
            self.buffer.copy_within(self.start..self.end, 0);
            (self.start, self.end) = (0, self.end - self.start);
        }
        self.end += ready!(poll_read(context, connection, &mut self.buffer[self.end..]))?;
        Poll::Ready(Ok(()))
    }

    /// Reads until so many bytes are in the buffer.
    fn poll_whole<C: AsyncRead + Unpin>(
        &mut self,
        context: &mut Context<'_>,
        connection: &mut C,
        bytes: usize,
    ) -> Poll<io::Result<()>> {
        if bytes > BUFFER {
            return Poll::Ready(Err(invalid(format!("a frame of {bytes} bytes that is no data"))));
        }
        while self.end - self.start < bytes {
            ready!(self.poll_fill(context, connection))?;
        }
        Poll::Ready(Ok(()))
    }

    /// Reads the next frame: of DATA only the header.
    fn poll_frame<C: AsyncRead + Unpin>(
        &mut self,
        context: &mut Context<'_>,
        connection: &mut C,
        output: &mut Output,
    ) -> Poll<io::Result<()>> {
        ready!(self.poll_whole(context, connection, FRAME_HEADER))?;
        let Some(header) = self.buffer[self.start..self.end].first_chunk() else { return Poll::Pending };
        let header = FrameHeader::read(*header);
        if header.kind == kind::DATA {
            self.start += FRAME_HEADER;
            return Poll::Ready(self.data(header, output));
        }
        ready!(self.poll_whole(context, connection, FRAME_HEADER + header.length))?;
        let begin = self.start + FRAME_HEADER;
        self.start = begin + header.length;
        let payload = &self.buffer[begin..self.start];
        match header.kind {
            kind::SETTINGS if header.flags & flag::ACK == 0 => {
                output.limit(payload);
                frame(kind::SETTINGS, flag::ACK, 0, &[], output.control());
                self.has_settings = true;
            }
            kind::PING if header.flags & flag::ACK == 0 => {
                frame(kind::PING, flag::ACK, 0, payload, output.control());
            }
            kind::WINDOW_UPDATE => {
                let bytes = payload.try_into().map_err(|_| invalid("a window update of another length"))?;
                output.credit(header.stream, u32::from_be_bytes(bytes));
            }
            kind::HEADERS => {
                self.has_headers = true;
                self.has_ended |= header.flags & flag::END_STREAM != 0;
            }
            kind::RST_STREAM | kind::GOAWAY => return Poll::Ready(Err(io::ErrorKind::ConnectionReset.into())),
            _ => {}
        }
        Poll::Ready(Ok(()))
    }

    fn data(&mut self, header: FrameHeader, output: &mut Output) -> io::Result<()> {
        if header.flags & flag::PADDED != 0 || header.stream != STREAM {
            return Err(invalid("padded data, or data of another stream"));
        }
        self.frame_left = header.length;
        self.has_ended |= header.flags & flag::END_STREAM != 0;
        self.received += header.length as u32;
        if self.received >= CREDIT {
            for stream in [0, STREAM] {
                window_update(stream, self.received, output.control());
            }
            self.received = 0;
        }
        Ok(())
    }
}

/// Reads what has come; the connection must not have ended.
fn poll_read<C: AsyncRead + Unpin>(
    context: &mut Context<'_>,
    connection: &mut C,
    place: &mut [u8],
) -> Poll<io::Result<usize>> {
    let mut read = ReadBuf::new(place);
    ready!(Pin::new(connection).poll_read(context, &mut read))?;
    Poll::Ready(match read.filled().len() {
        0 => Err(io::ErrorKind::UnexpectedEof.into()),
        bytes => Ok(bytes),
    })
}
