//! Arrays as safetensors files, written in one pass without a second copy in memory.
//!
//! The format: the header's length in 8 bytes, little-endian; the header, JSON padded with spaces to a multiple of 8;
//! the elements, little-endian. The crate's own writer is not used because it takes no digest, does not sync, and
//! makes files that only their owner can read.

use super::file::{self, Written};
use mdt_plugin_api::Dtype;
use mdt_plugin_api::half::{bf16, f16};
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

/// A borrowed row-major array of any element type with a name.
#[derive(Debug, Clone, Copy)]
pub struct TypedArray<'a> {
    /// Its name in the file; unique there.
    pub name: &'a str,
    /// Length of each axis.
    pub shape: &'a [usize],
    /// The type of its elements.
    pub dtype: Dtype,
    /// Its elements, little-endian.
    pub bytes: &'a [u8],
}

/// An array, and the type that a file has it in: its own, or a type of half precision for elements of f32.
#[derive(Debug, Clone, Copy)]
pub(crate) struct StoredArray<'a> {
    pub(crate) array: TypedArray<'a>,
    pub(crate) dtype: Dtype,
    /// The elements of another array of the same shape, whose entries along the first axis follow those of `array` one by one: as
    /// one tensor of the file, the second axis of which is twice as long.
    pub(crate) second_halves: Option<&'a [u8]>,
}

impl StoredArray<'_> {
    /// How many bytes of a file it takes.
    pub(crate) fn bytes(&self) -> u64 {
        let bytes = self.array.bytes.len() + self.second_halves.map_or(0, <[u8]>::len);
        (bytes / self.array.dtype.size().max(1) * self.dtype.size()) as u64
    }

    /// Its shape in the file.
    fn shape(&self) -> Vec<usize> {
        let mut shape = self.array.shape.to_vec();
        if self.second_halves.is_some() {
            shape[1] *= 2;
        }
        shape
    }

    /// Writes its elements.
    fn write(&self, file: &mut dyn io::Write) -> io::Result<()> {
        let first = self.array.bytes;
        let Some(second) = self.second_halves else { return self.write_elements(first, file) };
        let half = (first.len() / self.array.shape[0].max(1)).max(1);
        first.chunks(half).zip(second.chunks(half)).try_for_each(|(first, second)| {
            self.write_elements(first, file)?;
            self.write_elements(second, file)
        })
    }

    /// Writes elements, rounded to the nearest of the file's type, ties to even.
    fn write_elements(&self, bytes: &[u8], file: &mut dyn io::Write) -> io::Result<()> {
        const BLOCK: usize = 16 * 1024;
        if self.array.dtype == self.dtype {
            return bytes.chunks(BLOCK).try_for_each(|block| file.write_all(block));
        }
        let mut halves = [0u16; BLOCK / 4];
        bytes.chunks(BLOCK).try_for_each(|block| {
            let halves = &mut halves[..block.len() / 4];
            let numbers = block.as_chunks().0.iter().map(|&bytes| f32::from_le_bytes(bytes));
            for (half, number) in halves.iter_mut().zip(numbers) {
                *half = match self.dtype {
                    Dtype::F16 => f16::from_f32(number).to_bits(),
                    _ => bf16::from_f32(number).to_bits(),
                };
            }
            file.write_all(bytemuck::cast_slice(halves))
        })
    }
}

impl<'a> From<TypedArray<'a>> for StoredArray<'a> {
    fn from(array: TypedArray<'a>) -> Self {
        Self { array, dtype: array.dtype, second_halves: None }
    }
}

impl<'a> From<Array<'a>> for StoredArray<'a> {
    fn from(array: Array<'a>) -> Self {
        TypedArray::from(array).into()
    }
}

/// Elements are written as they lie in memory.
const _: () = assert!(cfg!(target_endian = "little"), "files have little-endian numbers");

impl<'a> From<Array<'a>> for TypedArray<'a> {
    fn from(Array { name, shape, data }: Array<'a>) -> Self {
        Self { name, shape, dtype: Dtype::F32, bytes: bytemuck::cast_slice(data) }
    }
}

/// The name of an element type in safetensors files; none where they cannot hold it.
pub(crate) fn stored(dtype: Dtype) -> Option<safetensors::Dtype> {
    Some(match dtype {
        Dtype::BOOL => safetensors::Dtype::BOOL,
        Dtype::U8 => safetensors::Dtype::U8,
        Dtype::I8 => safetensors::Dtype::I8,
        Dtype::U16 => safetensors::Dtype::U16,
        Dtype::I16 => safetensors::Dtype::I16,
        Dtype::U32 => safetensors::Dtype::U32,
        Dtype::I32 => safetensors::Dtype::I32,
        Dtype::U64 => safetensors::Dtype::U64,
        Dtype::I64 => safetensors::Dtype::I64,
        Dtype::F16 => safetensors::Dtype::F16,
        Dtype::BF16 => safetensors::Dtype::BF16,
        Dtype::F32 => safetensors::Dtype::F32,
        Dtype::F64 => safetensors::Dtype::F64,
        _ => return None,
    })
}

/// Writes a safetensors file into a directory that is [`Staged`](super::Staged). `proceed` is called before each array and may end
/// it.
///
/// # Errors
/// The file cannot be written, an array's data does not have the size of its shape, or `proceed` fails.
pub(crate) fn write_tensors<'a, A: Copy + Into<StoredArray<'a>>>(
    path: &Path,
    arrays: &[A],
    metadata: &[(&str, &str)],
    proceed: &dyn Fn() -> io::Result<()>,
) -> io::Result<Written> {
    let arrays: Vec<StoredArray<'_>> = arrays.iter().map(|&array| array.into()).collect();
    let header = header(&arrays, metadata).map_err(io::Error::other)?;
    file::write_with(path, |file| {
        file.write_all(&(header.len() as u64).to_le_bytes())?;
        file.write_all(&header)?;
        arrays.iter().try_for_each(|array| {
            proceed()?;
            array.write(file)
        })
    })
}

fn header(arrays: &[StoredArray<'_>], metadata: &[(&str, &str)]) -> Result<Vec<u8>, Box<dyn Error + Send + Sync>> {
    let mut names = HashSet::new();
    if let Some(twice) = arrays.iter().find(|stored| !names.insert(stored.array.name)) {
        return Err(format!("two arrays are named `{}`", twice.array.name).into());
    }
    let mut start = 0;
    let tensors = arrays.iter().map(|stored_array @ &StoredArray { array, dtype, .. }| {
        let is_possible = dtype == array.dtype
            || array.dtype == Dtype::F32 && matches!(dtype, Dtype::F16 | Dtype::BF16) && array.bytes.len() % 4 == 0;
        if !is_possible {
            return Err(format!("`{}` is of {} and cannot be stored as {dtype}", array.name, array.dtype));
        }
        let end = start + stored_array.bytes() as usize;
        let data_offsets = (std::mem::replace(&mut start, end), end);
        let dtype = stored(dtype).ok_or_else(|| format!("safetensors cannot hold {dtype}"))?;
        Ok((array.name.to_owned(), TensorInfo { dtype, shape: stored_array.shape(), data_offsets }))
    });
    let tensors = tensors.collect::<Result<Vec<_>, String>>()?;
    let metadata: HashMap<_, _> = metadata.iter().map(|&(key, value)| (key.to_owned(), value.to_owned())).collect();
    let checked =
        Metadata::new((!metadata.is_empty()).then_some(metadata), tensors).map_err(|error| error.to_string())?;
    let mut header = serde_json::to_vec(&checked)?;
    header.resize(header.len().next_multiple_of(8), b' ');
    Ok(header)
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
    fn numbers_of_half_precision_are_the_nearest_ones_ties_to_even() {
        let root = tempfile::tempdir().unwrap();
        let path = root.path().join("a.safetensors");
        // Half of a step above 1, which goes to the even neighbour, and a little more than that.
        let data: Vec<f32> = [1.0, 1.0 + 1.0 / 256.0, 1.0 + 3.0 / 256.0, -0.3, 1e-3]
            .into_iter()
            .chain((0..20_000).map(|i| i as f32 / 7.0))
            .collect();
        let shape = [data.len()];
        let array = TypedArray::from(Array { name: "a", shape: &shape, data: &data });
        write_tensors(&path, &[StoredArray { array, dtype: Dtype::BF16, second_halves: None }], &[], &|| Ok(()))
            .unwrap();
        let bytes = std::fs::read(&path).unwrap();
        let file = SafeTensors::deserialize(&bytes).unwrap();
        let found: Vec<u16> =
            file.tensor("a").unwrap().data().as_chunks().0.iter().map(|&bytes| u16::from_le_bytes(bytes)).collect();
        assert_eq!(found[..3], [0x3f80, 0x3f80, 0x3f82]);
        let expected: Vec<u16> = data.iter().map(|&x| bf16::from_f32(x).to_bits()).collect();
        assert!(found == expected);
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
