//! The parts of HTTP/2 that a data connection needs (RFC 9113): frames, settings, and the headers of one gRPC call.
//!
//! A data connection carries one stream, so its windows are as large as HTTP/2 allows and TCP alone slows a sender down.

use bytes::BufMut;

/// What a client begins with.
pub(crate) const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";

/// The length of a frame's header.
pub(crate) const FRAME_HEADER: usize = 9;

/// The only stream of a data connection.
pub(crate) const STREAM: u32 = 1;

/// The largest frame and the largest window of HTTP/2.
pub(crate) const LARGEST_FRAME: usize = (1 << 24) - 1;
pub(crate) const LARGEST_WINDOW: u32 = (1 << 31) - 1;

/// What frames and windows may be before there are settings.
pub(crate) const DEFAULT_FRAME: usize = 1 << 14;
pub(crate) const DEFAULT_WINDOW: u32 = (1 << 16) - 1;

const MAX_FRAME_SIZE: u16 = 5;
const INITIAL_WINDOW_SIZE: u16 = 4;

/// Types of frames.
pub(crate) mod kind {
    pub(crate) const DATA: u8 = 0;
    pub(crate) const HEADERS: u8 = 1;
    pub(crate) const RST_STREAM: u8 = 3;
    pub(crate) const SETTINGS: u8 = 4;
    pub(crate) const PING: u8 = 6;
    pub(crate) const GOAWAY: u8 = 7;
    pub(crate) const WINDOW_UPDATE: u8 = 8;
}

/// Flags of frames.
pub(crate) mod flag {
    /// Of DATA and HEADERS.
    pub(crate) const END_STREAM: u8 = 1;
    /// Of SETTINGS and PING.
    pub(crate) const ACK: u8 = 1;
    pub(crate) const END_HEADERS: u8 = 4;
    /// Of DATA.
    pub(crate) const PADDED: u8 = 8;
}

/// The header of a frame.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct FrameHeader {
    pub(crate) length: usize,
    pub(crate) kind: u8,
    pub(crate) flags: u8,
    pub(crate) stream: u32,
}

impl FrameHeader {
    pub(crate) fn read(bytes: [u8; FRAME_HEADER]) -> Self {
        let [a, b, c, kind, flags, stream @ ..] = bytes;
        let length = u32::from_be_bytes([0, a, b, c]) as usize;
        Self { length, kind, flags, stream: u32::from_be_bytes(stream) & LARGEST_WINDOW }
    }

    pub(crate) fn write(self, out: &mut Vec<u8>) {
        out.put_uint(self.length as u64, 3);
        out.put_slice(&[self.kind, self.flags]);
        out.put_u32(self.stream);
    }
}

/// A whole frame.
pub(crate) fn frame(kind: u8, flags: u8, stream: u32, payload: &[u8], out: &mut Vec<u8>) {
    FrameHeader { length: payload.len(), kind, flags, stream }.write(out);
    out.put_slice(payload);
}

/// What both sides say first: the largest frames and windows.
pub(crate) fn settings(out: &mut Vec<u8>) {
    let mut payload = Vec::new();
    for (setting, value) in [(INITIAL_WINDOW_SIZE, LARGEST_WINDOW), (MAX_FRAME_SIZE, LARGEST_FRAME as u32)] {
        payload.put_u16(setting);
        payload.put_u32(value);
    }
    frame(kind::SETTINGS, 0, 0, &payload, out);
    window_update(0, LARGEST_WINDOW - DEFAULT_WINDOW, out);
}

/// Lets the other side send so many bytes more: on a stream, or on the connection, which is 0.
pub(crate) fn window_update(stream: u32, bytes: u32, out: &mut Vec<u8>) {
    frame(kind::WINDOW_UPDATE, 0, stream, &bytes.to_be_bytes(), out);
}

/// The limits that a side has set for frames that are sent to it.
#[derive(Clone, Copy)]
pub(crate) struct Limits {
    pub(crate) frame: usize,
    pub(crate) window: u32,
}

impl Limits {
    /// Takes the payload of a SETTINGS frame.
    pub(crate) fn update(&mut self, payload: &[u8]) {
        for setting in payload.chunks_exact(6) {
            let value = u32::from_be_bytes([setting[2], setting[3], setting[4], setting[5]]);
            match u16::from_be_bytes([setting[0], setting[1]]) {
                MAX_FRAME_SIZE => self.frame = value as usize,
                INITIAL_WINDOW_SIZE => self.window = value,
                _ => {}
            }
        }
    }
}

/// The headers of a gRPC request to this method.
pub(crate) fn request_headers(path: &str, out: &mut Vec<u8>) {
    let mut block = vec![0x83, 0x86]; // `:method: POST` and `:scheme: http` of the static table
    field(4, path, &mut block);
    field(1, "rank", &mut block);
    content_type(&mut block);
    named_field("te", "trailers", &mut block);
    frame(kind::HEADERS, flag::END_HEADERS, STREAM, &block, out);
}

/// The headers of an answer.
pub(crate) fn answer_headers(out: &mut Vec<u8>) {
    let mut block = vec![0x88]; // `:status: 200`
    content_type(&mut block);
    frame(kind::HEADERS, flag::END_HEADERS, STREAM, &block, out);
}

/// What an answer ends with.
pub(crate) fn answer_trailers(out: &mut Vec<u8>) {
    let mut block = Vec::new();
    named_field("grpc-status", "0", &mut block);
    frame(kind::HEADERS, flag::END_HEADERS | flag::END_STREAM, STREAM, &block, out);
}

fn content_type(block: &mut Vec<u8>) {
    field(31, "application/grpc", block);
}

/// A field whose name is in the static table of HPACK (RFC 7541), as a literal that no table remembers.
fn field(name: u8, value: &str, block: &mut Vec<u8>) {
    match name {
        ..15 => block.put_u8(name),
        _ => block.put_slice(&[15, name - 15]),
    }
    string(value, block);
}

/// The same with a name of its own.
fn named_field(name: &str, value: &str, block: &mut Vec<u8>) {
    block.put_u8(0);
    string(name, block);
    string(value, block);
}

/// A string of less than 127 bytes.
fn string(text: &str, block: &mut Vec<u8>) {
    debug_assert!(text.len() < 127);
    block.put_u8(text.len() as u8);
    block.put_slice(text.as_bytes());
}
