//! Parameters in device memory.

use std::collections::{HashMap, VecDeque};
use std::rc::Rc;

use mdt_plugin_api::{
    Compute, Dtype, Error, Handle, HostArrayRef, Layout, ParameterSpec, Result, Role, Tensor, TensorType,
};
use rayon::prelude::*;

use super::adapter::Rule;
use super::bound::BoundWeights;
use super::files::Files;
use super::holding::Holding;
use super::load::{Loaded, drawn, loaded};
use super::packing::Packing;
use super::precision::Precision;
use super::quantised::QuantisedWeight;
use super::{Directory, OWN, random};
use crate::checksum;
use crate::exit::{Failure, Status};
use crate::memory::{Memory, gibibytes, memory};
use crate::progress;
use crate::staging;
use crate::storage::{Array, TypedArray};

/// All parameters of a model: owned f32 tensors, made once and updated in place, and quantised weights, which are not trained.
///
/// What is not said to be about all parameters is about those that are trained.
pub struct Parameters {
    specs: Vec<ParameterSpec>,
    tensors: Vec<Tensor>,
    frozen_specs: Vec<ParameterSpec>,
    frozen: Vec<Tensor>,
    quantised: Vec<QuantisedWeight>,
    names: Rc<Names>,
}

/// Where weights come from.
pub enum Start<'a> {
    /// The model's files.
    Files(&'a Directory),
    /// A seed.
    Seed(u64),
}

/// What the parameters of a job are called, and how layers use them.
#[derive(Clone, Default)]
pub struct Names {
    /// Where the values of each name are, among trained, then frozen, then quantised tensors.
    pub(super) places: HashMap<String, Place>,
    /// How layers use their adapters, where some have one.
    pub(super) adapter: Option<Rule>,
}

/// The values of a name.
#[derive(Clone, Copy)]
pub struct Place {
    pub(super) tensor: usize,
    pub(super) layout: Layout,
    /// Of a quantised weight: `tensor` is that of its words, and those of its scales and biases follow.
    pub(super) packing: Option<Packing>,
}

impl Place {
    /// The places of all its tensors.
    pub(super) fn tensors(self) -> std::ops::Range<usize> {
        self.tensor..self.tensor + if self.packing.is_some() { 3 } else { 1 }
    }
}

impl Parameters {
    /// Reads every parameter from the model's weight files, converted to f32; those that are quantised there stay so, and frozen
    /// weights are held as `holding` says. Tensors that no parameter takes are noted.
    ///
    /// # Errors
    /// Damaged files, a missing tensor, a wrong shape, a number that is not finite, a tied tensor that would be dropped;
    /// each names its tensor.
    pub fn read(
        compute: &Rc<dyn Compute>,
        specs: Vec<ParameterSpec>,
        directory: &Directory,
        holding: Holding,
    ) -> Result<Self, Failure> {
        let files = Files::open(directory)?;
        // Everything is looked at before any memory is spent.
        let mut stored = files.read_all(&specs)?.into_iter();
        if let Some(note) = files.unused(&specs) {
            progress::note(&note);
        }
        Self::build(specs, |place, spec| {
            match (stored.next().ok_or_else(|| Error::other("an array is missing"))?, directory.drawn()) {
                (Some(stored), _) => loaded(compute, &files, spec, &stored, holding),
                (None, seed) => drawn(compute, spec, &random::initial(spec, seed.unwrap_or_default(), place)?, holding),
            }
        })
    }

    /// Checks that the model's weight files have every parameter, without loading any.
    ///
    /// # Errors
    /// As [`Parameters::read`].
    pub fn check(specs: &[ParameterSpec], directory: &Directory) -> Result<(), Failure> {
        Files::open(directory)?.read_all(specs).map(drop)
    }

    /// Checks that no weight which the job trains is quantised in the model's weight files.
    ///
    /// # Errors
    /// One is.
    pub fn check_trained(specs: &[ParameterSpec], directory: &Directory) -> Result<(), Failure> {
        Files::open(directory)?.check_trained(specs)
    }

    /// Checks that random weights would fit into memory.
    ///
    /// # Errors
    /// They would not.
    pub fn check_random(specs: &[ParameterSpec], directory: &Directory, holding: Holding) -> Result<(), Failure> {
        let bytes = specs.iter().map(|spec| holding.bytes(spec).0).fold(0_u64, u64::saturating_add);
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

    /// The tensors that the model's files have of its parameters; those that are quantised are left out.
    ///
    /// # Errors
    /// As [`Parameters::read`].
    pub fn stored_form(specs: &[ParameterSpec], directory: &Directory) -> Result<StoredForm, Failure> {
        // Checkpoints are float32 whatever the model is.
        let files = Files::open(&directory.without_checkpoints())?;
        let (mut form, mut aliases) = (StoredForm::default(), Vec::new());
        for spec in specs.iter().filter(|spec| spec.tied_to.is_none()) {
            let stored = files.read_one(spec, specs)?;
            if stored.packing.is_some() {
                continue;
            }
            let Some(&(first, _)) = stored.tensors.first() else { continue };
            let is_stacked = !spec.stacked_from.is_empty();
            if is_stacked && !spec.stacked_from.iter().any(|part| part == first) {
                form.joined.insert(spec.name.clone(), first.to_owned());
            } else if !is_stacked && *first != spec.name {
                aliases.push((spec.name.clone(), first.to_owned()));
            }
            let of_files = |(name, array): &(&str, HostArrayRef<'_>)| {
                // A tensor that files have under another name is written under the parameter's own.
                let name = if is_stacked { *name } else { spec.name.as_str() };
                (name.to_owned(), array.dtype, array.shape.iter().product())
            };
            form.types.extend(stored.tensors.iter().map(of_files));
        }
        // Names of one scheme belong together.
        if !form.joined.is_empty() {
            form.joined.extend(aliases);
        }
        Ok(form)
    }

    /// For so many parameters starting values are drawn at a time.
    pub fn drawn_at_a_time() -> usize {
        rayon::current_num_threads()
    }

    /// Starting values from a seed; frozen weights are held as `holding` says.
    pub fn random(
        compute: &Rc<dyn Compute>,
        specs: Vec<ParameterSpec>,
        seed: u64,
        holding: Holding,
    ) -> Result<Self, Failure> {
        // Some at a time by all threads: each is a function of its place alone.
        let own: Vec<_> = specs.iter().cloned().enumerate().filter(|(_, spec)| spec.tied_to.is_none()).collect();
        let mut batches = own.chunks(Self::drawn_at_a_time());
        let mut ahead = VecDeque::new();
        Self::build(specs, |_, spec| {
            if ahead.is_empty() {
                let batch = batches.next().unwrap_or_default();
                let numbers = batch.par_iter().map(|(place, spec)| random::initial(spec, seed, *place));
                ahead = numbers.collect::<Result<_, Failure>>()?;
            }
            let numbers = ahead.pop_front().ok_or_else(|| Error::other("an array is missing"))?;
            drawn(compute, spec, &numbers, holding)
        })
    }

    /// These values of those that are trained, in their order; `start` gives all others, the values that training began
    /// with.
    pub fn resumed(
        compute: &Rc<dyn Compute>,
        specs: Vec<ParameterSpec>,
        arrays: &[HostArrayRef<'_>],
        start: Start<'_>,
        holding: Holding,
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
                Ok(Loaded::Whole(Tensor::from_handle(compute, compute.from_host(array)?)))
            }
            (false, Some(files), _) if !files.is_drawn(spec, &all) => {
                loaded(compute, files, spec, &files.read_one(spec, &all)?, holding)
            }
            (false, Some(_), Start::Files(directory)) => {
                let seed = directory.drawn().unwrap_or_default();
                drawn(compute, spec, &random::initial(spec, seed, place)?, holding)
            }
            (false, _, Start::Seed(seed)) => drawn(compute, spec, &random::initial(spec, *seed, place)?, holding),
            (false, None, Start::Files(_)) => Err(Error::other("the files are not open").into()),
        })
    }

    /// These and a trainer's own, all of which are trained.
    #[must_use]
    pub fn with_own(mut self, own: Self) -> Self {
        let (before, more) = (self.tensors.len(), own.tensors.len());
        let names = &mut Rc::make_mut(&mut self.names).places;
        // What is not trained comes behind all that is.
        names.values_mut().filter(|place| place.tensor >= before).for_each(|place| place.tensor += more);
        let own_names = own.names.places.iter();
        names.extend(own_names.map(|(name, place)| (name.clone(), Place { tensor: before + place.tensor, ..*place })));
        self.specs.extend(own.specs);
        self.tensors.extend(own.tensors);
        self
    }

    /// The model's own weights without an adapter, where none of them is trained: the same tensors, not a copy.
    pub fn without_adapter(&self, specs: &[ParameterSpec]) -> Result<Option<Self>, Failure> {
        if specs.iter().any(|spec| spec.trainable && spec.tied_to.is_none()) {
            return Ok(None);
        }
        let weights = self.bind();
        Self::build(specs.to_vec(), |_, spec| Ok(Loaded::shared(weights.require(&spec.name)?)?)).map(Some)
    }

    /// The same of which none is quantised.
    pub fn made_whole(self, specs: &[ParameterSpec]) -> Result<Self, Failure> {
        if self.quantised.is_empty() {
            return Ok(self);
        }
        let weights = self.bind();
        let specs = specs.iter().cloned().map(ParameterSpec::frozen).collect();
        Self::build(specs, |_, spec| {
            let whole = weights.require(&spec.name)?.whole()?;
            whole.eval()?;
            Ok(Loaded::Whole(whole))
        })
    }

    /// The same, whose layers use their adapters by this rule.
    #[must_use]
    pub fn adapted(mut self, rule: Rule) -> Self {
        Rc::make_mut(&mut self.names).adapter = Some(rule);
        self
    }

    /// Parameters that `make` makes, of their place among all and their spec. One that comes out quantised is not trained.
    pub(super) fn build(
        specs: Vec<ParameterSpec>,
        mut make: impl FnMut(usize, &ParameterSpec) -> Result<Loaded, Failure>,
    ) -> Result<Self, Failure> {
        let ties: Vec<ParameterSpec> = specs.iter().filter(|spec| spec.tied_to.is_some()).cloned().collect();
        let (mut trained, mut frozen, mut quantised) = (Vec::new(), Vec::new(), Vec::new());
        for (place, spec) in specs.into_iter().enumerate().filter(|(_, spec)| spec.tied_to.is_none()) {
            match make(place, &spec)? {
                Loaded::Whole(tensor) if spec.trainable => trained.push((spec, tensor)),
                Loaded::Whole(tensor) => frozen.push((spec, tensor)),
                Loaded::Quantised(parts, packing) => quantised.push(QuantisedWeight::new(spec, parts, packing)),
            }
        }
        let place = |tensor, spec: &ParameterSpec, packing| Place { tensor, layout: spec.layout, packing };
        let whole = trained.iter().chain(&frozen).enumerate();
        let mut names: HashMap<_, _> = whole.map(|(i, (spec, _))| (spec.name.clone(), place(i, spec, None))).collect();
        let first = names.len();
        names.extend(quantised.iter().enumerate().map(|(i, QuantisedWeight { spec, packing, .. })| {
            (spec.name.clone(), place(first + 3 * i, spec, Some(*packing)))
        }));
        for spec in &ties {
            if let Some(&other) = spec.tied_to.as_ref().and_then(|name| names.get(name)) {
                names.insert(spec.name.clone(), Place { layout: spec.layout, ..other });
            }
        }
        let (specs, tensors) = trained.into_iter().unzip();
        let (frozen_specs, frozen) = frozen.into_iter().unzip();
        Ok(Self {
            specs,
            tensors,
            frozen_specs,
            frozen,
            quantised,
            names: Rc::new(Names { places: names, adapter: None }),
        })
    }

    /// Names, shapes and starting values, in the model's order.
    pub fn specs(&self) -> &[ParameterSpec] {
        &self.specs
    }

    /// Number of elements in all.
    pub fn elements(&self) -> usize {
        self.specs.iter().map(ParameterSpec::elements).sum()
    }

    /// Number of elements of those that are not trained.
    pub fn frozen_elements(&self) -> usize {
        self.frozen_specs.iter().map(ParameterSpec::elements).sum()
    }

    /// The tensors, in the order of the specs.
    pub fn tensors(&self) -> &[Tensor] {
        &self.tensors
    }

    /// The bytes of all parameters.
    pub fn bytes(&self) -> Result<u64> {
        self.tensors.iter().chain(self.not_trained()).try_fold(0, |sum, tensor| {
            let TensorType { shape, dtype } = tensor.tensor_type()?;
            Ok(sum + shape.iter().product::<usize>() as u64 * dtype.size() as u64)
        })
    }

    /// The tensors, for writing.
    pub fn tensors_mut(&mut self) -> &mut [Tensor] {
        &mut self.tensors
    }

    /// The parameters as arrays in host memory, for as long as `body` runs.
    pub fn with_arrays<T>(&self, body: impl FnOnce(&[Array<'_>]) -> Result<T, Failure>) -> Result<T, Failure> {
        with_arrays_of(&self.specs, &self.tensors, body)
    }

    /// The parameters that are neither trained nor quantised, as arrays in host memory.
    pub fn with_frozen_arrays<T>(&self, body: impl FnOnce(&[Array<'_>]) -> Result<T, Failure>) -> Result<T, Failure> {
        with_arrays_of(&self.frozen_specs, &self.frozen, body)
    }

    /// The elements of the same in the type that they are held in.
    pub fn with_frozen_bytes<T>(&self, body: impl FnOnce(&[&[u8]]) -> Result<T, Failure>) -> Result<T, Failure> {
        staging::with_bytes(&self.frozen, body)
    }

    /// A checksum of the same and of those that are quantised.
    pub fn frozen_checksum(&self) -> Result<String, Failure> {
        self.with_frozen_bytes(|frozen| {
            self.with_quantised_arrays(|quantised| {
                Ok(checksum::of_arrays(frozen.iter().copied().chain(quantised.iter().map(|array| array.bytes))))
            })
        })
    }

    /// The words, scales and biases of quantised parameters, under the names that files have for them, as arrays in host memory.
    pub fn with_quantised_arrays<T>(
        &self,
        body: impl FnOnce(&[TypedArray<'_>]) -> Result<T, Failure>,
    ) -> Result<T, Failure> {
        QuantisedWeight::with_arrays(&self.quantised, body)
    }

    /// Their handles.
    pub fn handles(&self) -> Vec<Handle> {
        self.tensors.iter().map(Tensor::handle).collect()
    }

    /// The handles of the parameters that are not trained, quantised ones last.
    pub fn frozen_handles(&self) -> Vec<Handle> {
        self.not_trained().map(Tensor::handle).collect()
    }

    fn not_trained(&self) -> impl Iterator<Item = &Tensor> {
        self.frozen.iter().chain(self.quantised.iter().flat_map(|weight| &weight.parts))
    }

    /// All elements of a parameter, f32, whether it is quantised or not; none where there is none of this name.
    pub fn whole(&self, name: &str) -> Result<Option<Tensor>> {
        self.bind().weight(name)?.map(|(weight, _)| weight.whole()).transpose()
    }

    /// The same as [`Parameters::bind`] for many passes between which no weight changes: those that layers multiply by are rounded
    /// once, not in every pass.
    pub fn bind_for_generation(&self, precision: Precision) -> Result<Rc<BoundWeights>> {
        // Beside an adapter the model's own weights are not float32 anyway.
        let Some(operands) = precision.operands.filter(|_| self.names.adapter.is_none()) else {
            return Ok(self.bind());
        };
        // Rows of a table are not rounded where only products are.
        let is_rounded = |spec: &ParameterSpec| {
            let is_product = precision.dtype == operands || spec.role != Role::Embedding;
            is_product && spec.shape.len() > 1 && !spec.name.starts_with(OWN)
        };
        let borrowed = |tensor: &Tensor| Tensor::borrowed(tensor.compute(), tensor.handle());
        let trained = self.specs.iter().zip(&self.tensors).map(|(spec, tensor)| {
            // Computed by the first pass that uses it, and kept.
            if is_rounded(spec) { tensor.cast(operands) } else { Ok(borrowed(tensor)) }
        });
        let trained = trained.collect::<Result<Vec<_>>>()?;
        Ok(BoundWeights::new(&self.names, trained.into_iter().chain(self.not_trained().map(borrowed))))
    }

    /// All parameters as weights for a forward pass outside of a gradient.
    pub fn bind(&self) -> Rc<BoundWeights> {
        let tensors = self.tensors.iter().chain(self.not_trained());
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

/// How files have the parameters of a model.
#[derive(Debug, Default)]
pub struct StoredForm {
    /// Name, type and number of elements of each tensor; that of a half is one for each entry of the first axis.
    pub types: Vec<(String, Dtype, usize)>,
    /// Where experts stand in one tensor: the parameters that files have under other names than their own or of their parts, and
    /// these names. Two halves have the same.
    pub joined: HashMap<String, String>,
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
