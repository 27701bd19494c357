//! Arrays of safetensors files, and how far two of them are apart.

use std::path::Path;

use safetensors::{Dtype, SafeTensors};

/// ‖a − b‖ / ‖b‖.
pub fn relative_difference(a: &[f32], b: &[f32]) -> f64 {
    assert_eq!(a.len(), b.len());
    let norm = |squares: f64, value: f64| squares + value * value;
    let apart = a.iter().zip(b).map(|(&a, &b)| f64::from(a) - f64::from(b)).fold(0.0, norm);
    (apart / b.iter().map(|&b| f64::from(b)).fold(0.0, norm)).sqrt()
}

/// The f32 arrays of a safetensors file, by name.
pub fn arrays(path: &Path) -> Vec<(String, Vec<f32>)> {
    let bytes = std::fs::read(path).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
    let tensors = SafeTensors::deserialize(&bytes).expect("a safetensors file").tensors();
    let floats = tensors.into_iter().filter(|(_, view)| view.dtype() == Dtype::F32);
    let numbers = |bytes: &[u8]| bytes.as_chunks().0.iter().map(|&chunk| f32::from_le_bytes(chunk)).collect();
    let mut arrays: Vec<_> = floats.map(|(name, view)| (name, numbers(view.data()))).collect();
    arrays.sort_by(|(a, _), (b, _)| a.cmp(b));
    arrays
}

/// One i32 array of a safetensors file.
pub fn integers(path: &Path, name: &str) -> Vec<i32> {
    let bytes = std::fs::read(path).expect("a safetensors file");
    let tensors = SafeTensors::deserialize(&bytes).expect("a safetensors file");
    let view = tensors.tensor(name).expect("the array");
    assert_eq!(view.dtype(), Dtype::I32);
    view.data().as_chunks().0.iter().map(|&chunk| i32::from_le_bytes(chunk)).collect()
}
