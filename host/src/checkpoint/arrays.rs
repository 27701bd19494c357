//! The arrays of a checkpoint, memory-mapped.

use crate::exit::Failure;
use crate::storage::{MappedTensors, stored, unreadable};
use mdt_plugin_api::{Dtype, HostArrayRef};
use std::collections::BTreeMap;
use std::path::Path;

/// A memory-mapped safetensors file.
#[derive(Debug)]
pub struct Tensors(MappedTensors);

impl Tensors {
    pub(super) fn open(path: &Path) -> Result<Self, Failure> {
        let mapped = MappedTensors::open(path);
        mapped.map(Self).map_err(|error| unreadable("a file of the checkpoint is damaged", path, error))
    }

    /// The arrays of f32 with these names and shapes, in this order.
    ///
    /// # Errors
    /// As [`Tensors::typed_arrays`].
    pub fn arrays<'a>(&'a self, expected: &[(&str, &[usize])]) -> Result<Vec<HostArrayRef<'a>>, Failure> {
        let expected: Vec<_> = expected.iter().map(|&(name, shape)| (name, shape, Dtype::F32)).collect();
        self.typed_arrays(&expected)
    }

    /// An array of f32; none where there is none of this name and shape.
    pub fn array<'a>(&'a self, name: &str, shape: &[usize]) -> Option<HostArrayRef<'a>> {
        let info = self
            .0
            .metadata()
            .info(name)
            .filter(|info| info.shape == shape && Some(info.dtype) == stored(Dtype::F32))?;
        Some(HostArrayRef { dtype: Dtype::F32, shape: &info.shape, bytes: self.0.bytes_of(info) })
    }

    /// The arrays with these names, shapes and element types, in this order.
    ///
    /// # Errors
    /// Names the arrays that are missing, not expected, or have another shape or element type.
    pub fn typed_arrays<'a>(&'a self, expected: &[(&str, &[usize], Dtype)]) -> Result<Vec<HostArrayRef<'a>>, Failure> {
        let mut found: BTreeMap<_, _> = self.0.metadata().tensors().into_iter().collect();
        let mut wrong = Vec::new();
        let mut arrays = Vec::with_capacity(expected.len());
        for &(name, shape, dtype) in expected {
            let stored = stored(dtype);
            match found.remove(name) {
                None => wrong.push(format!("`{name}` is missing")),
                Some(info) if info.shape != shape => {
                    wrong.push(format!("`{name}` has shape {:?}, expected {shape:?}", info.shape));
                }
                Some(info) if Some(info.dtype) != stored => {
                    let expected = stored.map_or(format!("{dtype}"), |stored| format!("{stored:?}"));
                    wrong.push(format!("`{name}` has type {:?}, expected {expected}", info.dtype));
                }
                Some(info) => {
                    arrays.push(HostArrayRef { dtype, shape: &info.shape, bytes: self.0.bytes_of(info) });
                }
            }
        }
        wrong.extend(found.keys().map(|name| format!("`{name}` is not expected")));
        if wrong.is_empty() {
            return Ok(arrays);
        }
        // All names of a large model would make the message unreadable.
        let all = wrong.len();
        wrong.truncate(5);
        if all > wrong.len() {
            wrong.push(format!("and {} more", all - wrong.len()));
        }
        let what = "the checkpoint does not belong to this model and optimizer";
        Err(unreadable(what, self.0.path(), wrong.join("; "))
            .help("resume with the model and the optimizer that wrote it, or `checkpoint.resume = \"never\"`"))
    }
}

/// Copies the bytes of an f32 array to elements, up to the shorter length.
pub fn copy_elements(from: HostArrayRef<'_>, to: &mut [f32]) {
    for (to, from) in to.iter_mut().zip(from.bytes.chunks_exact(size_of::<f32>())) {
        *to = f32::from_le_bytes([from[0], from[1], from[2], from[3]]);
    }
}
