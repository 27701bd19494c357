//! The wire contract of `proto/mdt/collectives/v1`, compiled, and the sizes that both sides keep to.

#![allow(missing_docs, reason = "the contract is documented where it is written")]

tonic::include_proto!("mdt.collectives.v1");

/// The version of the contract: the handshake's and that of all messages.
pub(crate) const PROTOCOL: u8 = 2;

/// Payload of one chunk.
pub(crate) const CHUNK: usize = 1 << 20;

/// The largest message between ranks: a chunk and what describes it.
pub(crate) const MAX_MESSAGE: usize = 2 * CHUNK;

/// The largest request to join: a job identity and what belongs to it.
pub(crate) const MAX_JOIN: usize = 512 << 10;

/// The largest job identity that is sent whole.
pub(crate) const MAX_JOB: usize = 256 << 10;

/// The largest number of buffers in one call: their lengths fit into one message.
pub(crate) const MAX_BUFFERS: usize = 1 << 16;

impl From<envelope::Body> for Envelope {
    fn from(body: envelope::Body) -> Self {
        Self { body: Some(body) }
    }
}
