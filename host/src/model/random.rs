//! Starting weights for `model.init = "random"`.

use mdt_plugin_api::{HostArray, Init, ParameterSpec};

use crate::exit::Failure;
use crate::random::Stream;

/// A parameter's starting value, a function of the seed and its place alone.
pub(super) fn initial(spec: &ParameterSpec, seed: u64, place: usize) -> Result<HostArray, Failure> {
    let count = spec.shape.iter().product();
    let values: Vec<f32> = match spec.init {
        Init::Ones => vec![1.0; count],
        Init::Zeros => vec![0.0; count],
        Init::Normal { std } => {
            let mut stream = Stream::new(seed, "init", place as u64);
            let mut values = Vec::with_capacity(count + 1);
            while values.len() < count {
                let (a, b) = stream.normals();
                values.extend([(a * std) as f32, (b * std) as f32]);
            }
            values.truncate(count);
            values
        }
    };
    Ok(HostArray::new(&spec.shape, &values)?)
}
