//! The job's status for generic gRPC clients: `proto/mdt/job/v1/status.proto`, with health and reflection beside it.
//!
//! It has a port of its own (`comm.status_port`), because generic clients know nothing of the handshake between ranks, and a
//! thread of its own, so that nothing that happens there takes time from the ranks' connections. Whoever asks needs the job
//! token, and with `comm.tls` a certificate as well.

mod board;
mod server;
mod training;
mod visit;

pub(crate) use board::Board;
pub(crate) use server::StatusServer;
pub use training::JobStatusObserver;

/// The contract, compiled.
#[allow(missing_docs, reason = "the contract is documented where it is written")]
pub(crate) mod contract {
    tonic::include_proto!("mdt.job.v1");

    /// Its description, for reflection.
    pub(crate) const DESCRIPTORS: &[u8] = tonic::include_file_descriptor_set!("status");
}
