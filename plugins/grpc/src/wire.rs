//! The wire contract of `proto/mdt/collectives/v1`, compiled, and the sizes that both sides keep to.

#![allow(missing_docs, reason = "the contract is documented where it is written")]

use prost::Message;

use crate::checksum;

tonic::include_proto!("mdt.collectives.v1");

/// The version of the contract: the handshake's and that of all messages.
pub(crate) const PROTOCOL: u8 = 5;

/// The largest description of a chunk: with the types and lengths of many buffers.
pub(crate) const MAX_MESSAGE: usize = 2 << 20;

/// The largest request to join: a job's identity, which is its configuration, and what belongs to it.
pub(crate) const MAX_JOIN: usize = 4 << 20;

/// The largest number of buffers in one call: their lengths fit into one message.
pub(crate) const MAX_BUFFERS: usize = 1 << 16;

impl From<envelope::Body> for Envelope {
    fn from(body: envelope::Body) -> Self {
        Self { body: Some(body) }
    }
}

impl Chunk {
    /// The chunk with the checksum of its description.
    pub(crate) fn sealed(self) -> Self {
        Self { checksum: self.description_checksum(), ..self }
    }

    /// Whether the description has arrived as it was sent.
    pub(crate) fn is_intact(&self) -> bool {
        self.checksum == self.description_checksum()
    }

    /// CRC32C of all other fields, encoded as a message.
    fn description_checksum(&self) -> u32 {
        checksum::append(0, &Self { checksum: 0, ..self.clone() }.encode_to_vec())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_description_with_a_flipped_bit_is_not_intact() {
        let call = Some(Call { session: 7, sequence: 300, root: 5, ..Call::default() });
        let (element_types, lengths) = (vec![2], vec![7]);
        let chunk = Chunk {
            call,
            offset: 64,
            last: true,
            element_types,
            lengths,
            length: 7,
            payload_checksum: 9,
            ..Chunk::default()
        };
        let chunk = chunk.sealed();
        assert!(chunk.is_intact());
        let encoded = chunk.encode_to_vec();
        for bit in 0..8 * encoded.len() {
            let mut damaged = encoded.clone();
            damaged[bit / 8] ^= 1 << (bit % 8);
            // Some bits mean nothing, as that which makes the number of a true value 3.
            let is_harmless = |damaged: Chunk| damaged == chunk || !damaged.is_intact();
            assert!(Chunk::decode(damaged.as_slice()).map_or(true, is_harmless), "bit {bit}");
        }
    }
}
