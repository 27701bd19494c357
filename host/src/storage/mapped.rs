//! A safetensors file, memory-mapped: its header is read once, its tensors are slices of the file.

use memmap2::Mmap;
use safetensors::SafeTensors;
use safetensors::tensor::{Metadata, TensorInfo};
use std::fs::File;
use std::io;
use std::path::{Path, PathBuf};

#[derive(Debug)]
pub(crate) struct MappedTensors {
    path: PathBuf,
    bytes: Mmap,
    /// The offset of the tensors' bytes.
    start: usize,
    metadata: Metadata,
}

impl MappedTensors {
    /// Maps a file and reads its header.
    ///
    /// # Errors
    /// It cannot be read. [`io::ErrorKind::InvalidData`] if it is truncated or not a safetensors file.
    pub(crate) fn open(path: &Path) -> io::Result<Self> {
        let file = File::open(path)?;
        // SAFETY: the bytes are only read, and the header is checked against the mapped length. A file that somebody
        // truncates while it is mapped ends the process, as it would any reader of mapped files.
        let bytes = unsafe { Mmap::map(&file) }?;
        let (header, metadata) =
            SafeTensors::read_metadata(&bytes).map_err(|error| io::Error::new(io::ErrorKind::InvalidData, error))?;
        Ok(Self { path: path.to_owned(), start: header + size_of::<u64>(), metadata, bytes })
    }

    pub(crate) fn path(&self) -> &Path {
        &self.path
    }

    /// The size of the file.
    pub(crate) fn bytes(&self) -> u64 {
        self.bytes.len() as u64
    }

    /// Names, types, shapes and offsets of its tensors.
    pub(crate) fn metadata(&self) -> &Metadata {
        &self.metadata
    }

    /// The bytes of one of them.
    pub(crate) fn bytes_of(&self, tensor: &TensorInfo) -> &[u8] {
        let (begin, end) = tensor.data_offsets;
        &self.bytes[self.start + begin..self.start + end]
    }
}

#[cfg(test)]
mod tests {
    use super::super::{Array, write_tensors};
    use super::*;

    #[test]
    fn what_was_written_is_found_by_its_name() {
        let root = tempfile::tempdir().unwrap();
        let path = root.path().join("a.safetensors");
        let arrays = [("b", [1.0f32, 2.0]), ("a", [3.0, 4.0])];
        let arrays: Vec<_> = arrays.iter().map(|(name, data)| Array { name, shape: &[2], data }).collect();
        write_tensors(&path, &arrays, &[], &|| Ok(())).unwrap();
        let mapped = MappedTensors::open(&path).unwrap();
        for Array { name, shape, data } in arrays {
            let info = mapped.metadata().info(name).unwrap();
            assert_eq!(info.shape, shape);
            let bytes: Vec<u8> = data.iter().flat_map(|value| value.to_le_bytes()).collect();
            assert_eq!(mapped.bytes_of(info), bytes);
        }
    }

    #[test]
    fn a_file_that_is_cut_anywhere_is_damaged_and_one_that_is_missing_is_not_there() {
        let root = tempfile::tempdir().unwrap();
        let path = root.path().join("a.safetensors");
        write_tensors(&path, &[Array { name: "a", shape: &[2], data: &[1.0, 2.0] }], &[], &|| Ok(())).unwrap();
        let whole = std::fs::read(&path).unwrap();
        for length in 0..whole.len() {
            std::fs::write(&path, &whole[..length]).unwrap();
            assert_eq!(MappedTensors::open(&path).unwrap_err().kind(), io::ErrorKind::InvalidData, "{length} bytes");
        }
        let error = MappedTensors::open(&root.path().join("none")).unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::NotFound);
    }
}
