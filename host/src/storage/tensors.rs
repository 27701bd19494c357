//! Arrays as safetensors files, written in one pass without a second copy in memory.
//!
//! The format: the header's length in 8 bytes, little-endian; the header, JSON padded with spaces to a multiple of 8;
//! the elements, little-endian. The crate's own writer is not used because it takes no digest, does not sync, and
//! makes files that only their owner can read.

use super::file::{self, Written};
use safetensors::tensor::{Metadata, TensorInfo};
use std::collections::{HashMap, HashSet};
use std::error::Error;
use std::io;
use std::path::Path;

/// A borrowed row-major f32 array with a name.
#[derive(Debug, Clone, Copy)]
pub struct Array<'a> {
    /// Its name in the file; unique there.
    pub name: &'a str,
    /// Length of each axis; empty for a scalar.
    pub shape: &'a [usize],
    pub data: &'a [f32],
}

impl Array<'_> {
    pub(crate) fn bytes(&self) -> u64 {
        size_of_val(self.data) as u64
    }
}

/// Writes a safetensors file and waits until it is on the disk. `proceed` is called before each array and may end it.
///
/// # Errors
/// The file cannot be written, an array's data does not have the size of its shape, or `proceed` fails.
pub(crate) fn write_tensors(
    path: &Path,
    arrays: &[Array<'_>],
    metadata: &[(&str, &str)],
    proceed: &dyn Fn() -> io::Result<()>,
) -> io::Result<Written> {
    let header = header(arrays, metadata).map_err(io::Error::other)?;
    file::write_with(path, |file| {
        file.write_all(&(header.len() as u64).to_le_bytes())?;
        file.write_all(&header)?;
        arrays.iter().try_for_each(|array| {
            proceed()?;
            as_bytes(array.data, |bytes| file.write_all(bytes))
        })
    })
}

fn header(arrays: &[Array<'_>], metadata: &[(&str, &str)]) -> Result<Vec<u8>, Box<dyn Error + Send + Sync>> {
    let mut names = HashSet::new();
    if let Some(twice) = arrays.iter().find(|array| !names.insert(array.name)) {
        return Err(format!("two arrays are named `{}`", twice.name).into());
    }
    let mut start = 0;
    let tensors = arrays.iter().map(|array| {
        let end = start + size_of_val(array.data);
        let data_offsets = (std::mem::replace(&mut start, end), end);
        let info = TensorInfo { dtype: safetensors::Dtype::F32, shape: array.shape.to_vec(), data_offsets };
        (array.name.to_owned(), info)
    });
    let metadata: HashMap<_, _> = metadata.iter().map(|&(key, value)| (key.to_owned(), value.to_owned())).collect();
    let checked = Metadata::new((!metadata.is_empty()).then_some(metadata), tensors.collect())
        .map_err(|error| error.to_string())?;
    let mut header = serde_json::to_vec(&checked)?;
    header.resize(header.len().next_multiple_of(8), b' ');
    Ok(header)
}

/// Passes the elements to `take` as little-endian bytes, block by block.
pub(crate) fn as_bytes<E>(elements: &[f32], mut take: impl FnMut(&[u8]) -> Result<(), E>) -> Result<(), E> {
    let mut bytes = [0; 16 * 1024];
    for chunk in elements.chunks(bytes.len() / size_of::<f32>()) {
        let bytes = &mut bytes[..size_of_val(chunk)];
        for (to, from) in bytes.chunks_exact_mut(size_of::<f32>()).zip(chunk) {
            to.copy_from_slice(&from.to_le_bytes());
        }
        take(bytes)?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use safetensors::SafeTensors;

    proptest! {
        #[test]
        fn the_safetensors_crate_reads_back_what_is_written(
            shapes in proptest::collection::vec(proptest::collection::vec(0usize..40, 0..4), 0..6),
            tagged: bool,
        ) {
            let root = tempfile::tempdir().unwrap();
            let path = root.path().join("a.safetensors");
            let data: Vec<Vec<f32>> = shapes
                .iter()
                .map(|shape| (0..shape.iter().product()).map(|i: usize| i as f32 / 7.0 - 3.0).collect())
                .collect();
            let names: Vec<String> = (0..shapes.len()).map(|i| format!("layer \"{i}\".weight")).collect();
            let arrays: Vec<_> = names
                .iter()
                .zip(&shapes)
                .zip(&data)
                .map(|((name, shape), data)| Array { name, shape, data })
                .collect();
            let metadata: &[_] = if tagged { &[("format", "pt")] } else { &[] };
            let written = write_tensors(&path, &arrays, metadata, &|| Ok(())).unwrap();
            let bytes = std::fs::read(&path).unwrap();
            prop_assert_eq!(bytes.len() as u64, written.bytes);
            let (start, header) = SafeTensors::read_metadata(&bytes).unwrap();
            prop_assert_eq!(start % 8, 0);
            prop_assert_eq!(header.metadata().is_some(), tagged);
            let read = SafeTensors::deserialize(&bytes).unwrap();
            prop_assert_eq!(read.len(), arrays.len());
            for array in arrays {
                let found = read.tensor(array.name).unwrap();
                prop_assert_eq!(found.shape(), array.shape);
                let expected: Vec<u8> = array.data.iter().flat_map(|x| x.to_le_bytes()).collect();
                prop_assert_eq!(found.data(), expected);
            }
        }
    }

    #[test]
    fn arrays_that_contradict_themselves_are_refused() {
        let root = tempfile::tempdir().unwrap();
        let path = root.path().join("a.safetensors");
        let array = Array { name: "a", shape: &[3], data: &[1.0, 2.0] };
        assert!(write_tensors(&path, &[array], &[], &|| Ok(())).is_err());
        let array = Array { name: "a", shape: &[2], data: &[1.0, 2.0] };
        let error = write_tensors(&path, &[array, array], &[], &|| Ok(())).unwrap_err();
        assert!(error.to_string().contains("`a`"), "{error}");
        assert!(!path.exists());
    }
}
