//! CRC32C (Castagnoli), by which a bit that is flipped on the way is noticed.

use crc_fast::{CrcAlgorithm, Digest};

/// The checksum of what `checksum` is of, followed by `bytes`; that of nothing is 0.
pub(crate) fn append(checksum: u32, bytes: &[u8]) -> u32 {
    let mut digest = Digest::new_with_init_state(CrcAlgorithm::Crc32Iscsi, u64::from(!checksum));
    digest.update(bytes);
    digest.finalize() as u32
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parts_have_the_checksum_of_the_whole_that_the_standard_gives() {
        // RFC 3720, appendix B.4.
        let ascending: Vec<u8> = (0..32).collect();
        assert_eq!(append(0, &ascending), 0x46dd_794e);
        assert_eq!(append(0, &[0xff; 32]), 0x62a8_ab43);
        let long: Vec<u8> = (0..100_003u32).map(|byte| byte as u8).collect();
        for at in [0, 1, 8, 255, 4096, 100_002] {
            assert_eq!(append(append(0, &long[..at]), &long[at..]), append(0, &long), "cut at {at}");
        }
    }
}
