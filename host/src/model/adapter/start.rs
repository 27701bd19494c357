//! The values that an adapter begins with.

use std::rc::Rc;

use mdt_plugin_api::{Compute, HostArray, ParameterSpec, Tensor};

use super::layer::weight_norm;
use super::{AdaptedLayer, Adapter, name};
use crate::exit::Failure;
use crate::model::load::Loaded;
use crate::model::{Parameters, random};
use crate::random::Stream;
use crate::staging;

impl Adapter {
    /// The adapter's parameters as they are before the first update: those of its directory, or new ones. A linear layer's A is
    /// uniform between ±1/√in and its B is 0, an embedding's A is 0 and its B is normal, as in peft; a magnitude is the norm of
    /// the weights beside it.
    pub fn start(&self, compute: &Rc<dyn Compute>, base: &Parameters, seed: u64) -> Result<Parameters, Failure> {
        let specs = self.specs();
        if let Some(directory) = &self.directory {
            return Parameters::build(specs, |_, spec| Ok(Loaded::Whole(directory.parameter(compute, spec)?)));
        }
        let layers: Vec<&AdaptedLayer> = self
            .layers
            .iter()
            .flat_map(|layer| layer.specs(self.rank, self.kind).into_iter().map(move |_| layer))
            .collect();
        let weights = base.bind();
        Parameters::build(specs, |place, spec| {
            let layer = layers[place];
            if spec.name.ends_with(name::MAGNITUDE) {
                let norm = weight_norm(&weights.layer(&layer.name)?.weight, layer.orientation(), None)?;
                // A result of operations: the update writes to memory of its own.
                return Ok(Loaded::Whole(staging::upload_f32(compute, &spec.shape, &staging::copy(&norm)?)?));
            }
            let array = match spec.name.ends_with(name::A) {
                true => uniform(spec, seed, place)?,
                false => random::initial(spec, Stream::new(seed, "adapter", 0).bits(), place)?,
            };
            Ok(Loaded::Whole(Tensor::from_host(compute, &array)?))
        })
    }

    /// The model's parameters with the values of `modules_to_save` that the adapter's directory has.
    pub fn with_saved_modules(&self, compute: &Rc<dyn Compute>, mut base: Parameters) -> Result<Parameters, Failure> {
        let Some(directory) = &self.directory else { return Ok(base) };
        let specs = base.specs().to_vec();
        for (spec, tensor) in specs.iter().zip(base.tensors_mut()) {
            *tensor = directory.parameter(compute, spec)?;
        }
        Ok(base)
    }
}

/// Values between ±1/√in, each as likely as any other: a function of the seed and the place alone.
fn uniform(spec: &ParameterSpec, seed: u64, place: usize) -> Result<HostArray, Failure> {
    let bound = 1.0 / (spec.shape[1] as f64).sqrt();
    let mut stream = Stream::new(seed, "adapter", place as u64);
    let values: Vec<f32> = (0..spec.elements()).map(|_| ((2.0 * stream.uniform() - 1.0) * bound) as f32).collect();
    Ok(HostArray::new(&spec.shape, &values)?)
}
