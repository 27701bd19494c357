//! SHA-256 of files and values, in hexadecimal.

use std::fmt::Write;
use std::fs::File;
use std::io::{self, Read, Seek, SeekFrom};
use std::path::Path;

use sha2::{Digest, Sha256};

pub fn of_file(path: &Path) -> io::Result<String> {
    of_open_file(&File::open(path)?)
}

/// The checksum of an open file, from its beginning.
pub fn of_open_file(mut file: &File) -> io::Result<String> {
    file.seek(SeekFrom::Start(0))?;
    let mut digest = Sha256::new();
    let mut block = vec![0; 1 << 20];
    loop {
        match file.read(&mut block)? {
            0 => return Ok(hexadecimal(&digest.finalize())),
            count => digest.update(&block[..count]),
        }
    }
}

/// A checksum of all elements in order.
pub fn of_arrays<'a>(arrays: impl Iterator<Item = &'a [u8]>) -> String {
    use rayon::prelude::*;
    const CHUNK: usize = 1 << 20;
    let chunks: Vec<&[u8]> = arrays.flat_map(|array| array.chunks(CHUNK)).collect();
    let leaves: Vec<_> = chunks
        .into_par_iter()
        .map(|chunk| {
            let mut digest = Sha256::new();
            digest.update(chunk);
            digest.finalize()
        })
        .collect();
    let mut digest = Sha256::new();
    leaves.iter().for_each(|leaf| digest.update(leaf));
    hexadecimal(&digest.finalize())
}

pub fn of_bytes(bytes: &[u8]) -> String {
    hexadecimal(&Sha256::digest(bytes))
}

pub fn hexadecimal(bytes: &[u8]) -> String {
    bytes.iter().fold(String::with_capacity(2 * bytes.len()), |mut text, byte| {
        // Writing to a string cannot fail.
        let _ = write!(text, "{byte:02x}");
        text
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_digest_sees_every_bit_and_not_where_arrays_end_up_in_memory() {
        let values: Vec<f32> = (0..600_000).map(|n| n as f32).collect();
        let digest = |values: &[f32]| of_arrays(std::iter::once(bytemuck::cast_slice(values)));
        let whole = digest(&values);
        assert_eq!(whole, digest(&values.clone()));
        let mut other = values;
        other[599_999] = -other[599_999];
        assert_ne!(whole, digest(&other));
    }
}
