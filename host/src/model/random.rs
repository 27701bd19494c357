//! Starting weights for `model.init = "random"`.

use mdt_plugin_api::{Dtype, HostArray, HostArrayRef, Init, ParameterSpec};

use crate::exit::Failure;
use crate::random::Stream;

/// A parameter's starting value, a function of the seed and its place alone.
pub(super) fn initial(spec: &ParameterSpec, seed: u64, place: usize) -> Result<HostArray, Failure> {
    const SIZE: usize = size_of::<f32>();
    let count: usize = spec.shape.iter().product();
    // As bytes from the start: there is no second copy of a large one.
    let bytes = match spec.init {
        Init::Ones => 1f32.to_ne_bytes().repeat(count),
        Init::Zeros => vec![0; count * SIZE],
        Init::Normal { std } => {
            let mut stream = Stream::new(seed, "init", place as u64);
            let mut bytes = vec![0; count * SIZE];
            for pair in bytes.chunks_mut(2 * SIZE) {
                let (a, b) = stream.normals();
                let numbers = [(a * std) as f32, (b * std) as f32];
                pair.copy_from_slice(&HostArrayRef::of(&[2], &numbers).bytes[..pair.len()]);
            }
            bytes
        }
    };
    Ok(HostArray::from_bytes(Dtype::F32, &spec.shape, bytes)?)
}
