//! Parameters in device memory.

use std::collections::HashMap;
use std::rc::Rc;

use mdt_plugin_api::{Compute, Dtype, Error, Handle, HostArrayRef, Layout, ParameterSpec, Result, Tensor};

use super::bound::BoundWeights;
use super::files::{Files, Stored};
use super::{Directory, random};
use crate::exit::{Failure, Status};
use crate::finite::all_finite;
use crate::memory::{Memory, gibibytes, memory};
use crate::progress;
use crate::staging;
use crate::storage::Array;

/// All parameters of a model: owned f32 tensors, made once and updated in place.
///
/// What is not said to be about all parameters is about those that are trained.
pub struct Parameters {
    specs: Vec<ParameterSpec>,
    tensors: Vec<Tensor>,
    frozen_specs: Vec<ParameterSpec>,
    frozen: Vec<Tensor>,
    names: Rc<Names>,
}

/// Where weights come from.
pub enum Start<'a> {
    /// The model's files.
    Files(&'a Directory),
    /// A seed.
    Seed(u64),
}

/// Where the values of each name are, among trained and then frozen tensors.
pub type Names = HashMap<String, Place>;

/// The values of a name.
#[derive(Clone, Copy)]
pub struct Place {
    pub(super) tensor: usize,
    pub(super) layout: Layout,
}

impl Parameters {
    /// Reads every parameter from the model's weight files, converted to f32. Tensors that no parameter takes are noted.
    ///
    /// # Errors
    /// Damaged files, a missing tensor, a wrong shape, a number that is not finite, a tied tensor that would be dropped;
    /// each names its tensor.
    pub fn read(compute: &Rc<dyn Compute>, specs: Vec<ParameterSpec>, directory: &Directory) -> Result<Self, Failure> {
        let files = Files::open(directory)?;
        // Everything is looked at before any memory is spent.
        let mut stored = files.read_all(&specs)?.into_iter();
        if let Some(note) = files.unused(&specs) {
            progress::note(&note);
        }
        Self::build(specs, |_, spec| {
            let stored = stored.next().ok_or_else(|| Error::other("an array is missing"))?;
            loaded(compute, &files, spec, stored)
        })
    }

    /// Checks that the model's weight files have every parameter, without loading any.
    ///
    /// # Errors
    /// As [`Parameters::read`].
    pub fn check(specs: &[ParameterSpec], directory: &Directory) -> Result<(), Failure> {
        Files::open(directory)?.read_all(specs).map(drop)
    }

    /// Checks that random weights would fit into memory.
    ///
    /// # Errors
    /// They would not.
    pub fn check_random(specs: &[ParameterSpec], directory: &Directory) -> Result<(), Failure> {
        let elements = |spec: &ParameterSpec| spec.shape.iter().fold(1_u64, |size, &n| size.saturating_mul(n as u64));
        let bytes = specs.iter().map(elements).fold(0_u64, u64::saturating_add).saturating_mul(size_of::<f32>() as u64);
        match memory() {
            Some(Memory { total, .. }) if bytes > total => {
                let (needed, there) = (gibibytes(bytes), gibibytes(total));
                Err(Failure::new(Status::Input, format!("the weights take {needed}, and the machine has {there}"))
                    .at(directory.path().join("config.json").display())
                    .help("choose smaller sizes, or a machine with more memory"))
            }
            _ => Ok(()),
        }
    }

    /// Starting values from a seed.
    pub fn random(compute: &Rc<dyn Compute>, specs: Vec<ParameterSpec>, seed: u64) -> Result<Self, Failure> {
        Self::build(specs, |place, spec| Ok(Tensor::from_host(compute, &random::initial(spec, seed, place)?)?))
    }

    /// These values of those that are trained, in their order; `start` gives all others, the values that training began
    /// with.
    pub fn resumed(
        compute: &Rc<dyn Compute>,
        specs: Vec<ParameterSpec>,
        arrays: &[HostArrayRef<'_>],
        start: Start<'_>,
    ) -> Result<Self, Failure> {
        let mut arrays = arrays.iter();
        let files = match start {
            Start::Files(directory) if specs.iter().any(|spec| !spec.trainable) => Some(Files::open(directory)?),
            _ => None,
        };
        let all = specs.clone();
        Self::build(specs, |place, spec| match (spec.trainable, &files, &start) {
            (true, ..) => {
                let &array = arrays.next().ok_or_else(|| Error::other("an array is missing"))?;
                Ok(Tensor::from_handle(compute, compute.from_host(array)?))
            }
            (false, Some(files), _) => loaded(compute, files, spec, files.read_one(spec, &all)?),
            (false, None, Start::Seed(seed)) => Ok(Tensor::from_host(compute, &random::initial(spec, *seed, place)?)?),
            (false, None, Start::Files(_)) => Err(Error::other("the files are not open").into()),
        })
    }

    /// These and a trainer's own, all of which are trained.
    #[must_use]
    pub fn with_own(mut self, own: Self) -> Self {
        let (before, more) = (self.tensors.len(), own.tensors.len());
        let names = Rc::make_mut(&mut self.names);
        // What is not trained comes behind all that is.
        names.values_mut().filter(|place| place.tensor >= before).for_each(|place| place.tensor += more);
        let own_names = own.names.iter();
        names.extend(own_names.map(|(name, place)| (name.clone(), Place { tensor: before + place.tensor, ..*place })));
        self.specs.extend(own.specs);
        self.tensors.extend(own.tensors);
        self
    }

    /// Parameters that `make` makes, of their place among all and their spec.
    fn build(
        specs: Vec<ParameterSpec>,
        mut make: impl FnMut(usize, &ParameterSpec) -> Result<Tensor, Failure>,
    ) -> Result<Self, Failure> {
        let is_kept = |spec: &&ParameterSpec| spec.tied_to.is_none();
        let trained = specs.iter().filter(is_kept).filter(|spec| spec.trainable).count();
        let (mut next, mut next_frozen) = (0..trained, trained..);
        let mut names = Names::new();
        for spec in specs.iter().filter(is_kept) {
            let tensor = if spec.trainable { next.next() } else { next_frozen.next() };
            names.insert(spec.name.clone(), Place { tensor: tensor.unwrap_or_default(), layout: spec.layout });
        }
        for spec in &specs {
            if let Some(&Place { tensor, .. }) = spec.tied_to.as_ref().and_then(|name| names.get(name)) {
                names.insert(spec.name.clone(), Place { tensor, layout: spec.layout });
            }
        }
        let mut parameters = Self {
            specs: Vec::new(),
            tensors: Vec::new(),
            frozen_specs: Vec::new(),
            frozen: Vec::new(),
            names: Rc::new(names),
        };
        for (place, spec) in specs.into_iter().enumerate().filter(|(_, spec)| spec.tied_to.is_none()) {
            let tensor = make(place, &spec)?;
            let (specs, tensors) = match spec.trainable {
                true => (&mut parameters.specs, &mut parameters.tensors),
                false => (&mut parameters.frozen_specs, &mut parameters.frozen),
            };
            specs.push(spec);
            tensors.push(tensor);
        }
        Ok(parameters)
    }

    /// Names, shapes and starting values, in the model's order.
    pub fn specs(&self) -> &[ParameterSpec] {
        &self.specs
    }

    /// Number of elements in all.
    pub fn elements(&self) -> usize {
        self.specs.iter().map(ParameterSpec::elements).sum()
    }

    /// The tensors, in the order of the specs.
    pub fn tensors(&self) -> &[Tensor] {
        &self.tensors
    }

    /// The tensors, for writing.
    pub fn tensors_mut(&mut self) -> &mut [Tensor] {
        &mut self.tensors
    }

    /// The parameters as arrays in host memory, for as long as `body` runs.
    pub fn with_arrays<T>(&self, body: impl FnOnce(&[Array<'_>]) -> Result<T, Failure>) -> Result<T, Failure> {
        with_arrays_of(&self.specs, &self.tensors, body)
    }

    /// The parameters that are not trained, as arrays in host memory.
    pub fn with_frozen_arrays<T>(&self, body: impl FnOnce(&[Array<'_>]) -> Result<T, Failure>) -> Result<T, Failure> {
        with_arrays_of(&self.frozen_specs, &self.frozen, body)
    }

    /// Their handles.
    pub fn handles(&self) -> Vec<Handle> {
        self.tensors.iter().map(Tensor::handle).collect()
    }

    /// The handles of the parameters that are not trained.
    pub fn frozen_handles(&self) -> Vec<Handle> {
        self.frozen.iter().map(Tensor::handle).collect()
    }

    /// All parameters as weights for a forward pass outside of a gradient.
    pub fn bind(&self) -> Rc<BoundWeights> {
        let tensors = self.tensors.iter().chain(&self.frozen);
        BoundWeights::new(&self.names, tensors.map(|tensor| Tensor::borrowed(tensor.compute(), tensor.handle())))
    }

    /// The same names with other tensors of the same order, trained ones and then frozen ones: those that a gradient
    /// function was given.
    pub fn bind_handles(
        names: &Rc<Names>,
        compute: &Rc<dyn Compute>,
        handles: impl Iterator<Item = Handle>,
    ) -> Rc<BoundWeights> {
        BoundWeights::new(names, handles.map(|handle| Tensor::borrowed(compute, handle)))
    }

    /// Where the values of each name are.
    pub fn names(&self) -> &Rc<Names> {
        &self.names
    }
}

/// Parameters as the tensors that files have: each that is stacked is taken apart.
pub fn as_stored<'a>(specs: &'a [ParameterSpec], arrays: &[Array<'a>]) -> Vec<Array<'a>> {
    let stacked = specs.iter().filter(|spec| !spec.stacked_from.is_empty());
    let stacked: HashMap<&str, &ParameterSpec> = stacked.map(|spec| (spec.name.as_str(), spec)).collect();
    let mut stored = Vec::with_capacity(arrays.len());
    for array in arrays {
        let Some(ParameterSpec { shape, stacked_from, .. }) = stacked.get(array.name) else {
            stored.push(*array);
            continue;
        };
        let parts = array.data.chunks_exact((array.data.len() / stacked_from.len()).max(1));
        let part = |(name, data): (&'a String, &'a [f32])| Array { name, shape: &shape[1..], data };
        stored.extend(stacked_from.iter().zip(parts).map(part));
    }
    stored
}

/// A parameter on the device, of what files have of it.
fn loaded(
    compute: &Rc<dyn Compute>,
    files: &Files,
    spec: &ParameterSpec,
    stored: Stored<'_>,
) -> Result<Tensor, Failure> {
    let load = |(name, array): (&str, HostArrayRef<'_>)| -> Result<Tensor, Failure> {
        let tensor = Tensor::from_handle(compute, compute.from_host(array)?);
        let tensor = if array.dtype == Dtype::F32 { tensor } else { tensor.cast(Dtype::F32)? };
        tensor.eval()?;
        match staging::with_slices(std::slice::from_ref(&tensor), |slices| Ok(all_finite(slices[0])))? {
            true => Ok(tensor),
            false => Err(files.not_finite(name)),
        }
    };
    let mut tensors = stored.into_iter().map(load).collect::<Result<Vec<_>, _>>()?;
    if let [_] = tensors.as_slice() {
        return Ok(tensors.remove(0));
    }
    let shape: Vec<i64> = spec.shape.iter().map(|&length| length as i64).collect();
    let stacked = Tensor::concatenate(&tensors.iter().collect::<Vec<_>>(), 0)?.reshape(&shape)?;
    stacked.eval()?;
    Ok(stacked)
}

fn with_arrays_of<T>(
    specs: &[ParameterSpec],
    tensors: &[Tensor],
    body: impl FnOnce(&[Array<'_>]) -> Result<T, Failure>,
) -> Result<T, Failure> {
    staging::with_slices(tensors, |slices| {
        let arrays = specs.iter().zip(slices);
        let arrays = arrays.map(|(spec, data)| Array { name: &spec.name, shape: &spec.shape, data });
        body(&arrays.collect::<Vec<_>>())
    })
}
