//! Parameters in device memory, and a model with its parameters.

use std::collections::{BTreeMap, HashMap};
use std::rc::Rc;

use mdt_plugin_api::op::attribute;
use mdt_plugin_api::{
    Cache, Compute, Dtype, Error, Handle, HostArrayRef, Model, ModelCalls, ModelContext, ModelInput, OpKind,
    ParameterSpec, Result, Tensor, TrainerContext, Value, Weights,
};

use super::files::Files;
use super::{Directory, random, tied};
use crate::exit::{Failure, Status};
use crate::finite::all_finite;
use crate::memory::{Memory, gibibytes, memory};
use crate::staging;
use crate::storage::Array;

/// All parameters of a model: owned f32 tensors, made once and updated in place.
pub struct Parameters {
    specs: Vec<ParameterSpec>,
    tensors: Vec<Tensor>,
    index: Rc<HashMap<String, usize>>,
}

impl Parameters {
    /// Reads every parameter from the model's weight files, converted to f32.
    ///
    /// # Errors
    /// Damaged files, a missing tensor, a wrong shape, a number that is not finite, an output layer that would be dropped;
    /// each names its tensor.
    pub fn read(compute: &Rc<dyn Compute>, specs: Vec<ParameterSpec>, directory: &Directory) -> Result<Self, Failure> {
        let files = Files::open(directory)?;
        tied::check(&files, &specs)?;
        // Everything is looked at before any memory is spent.
        let arrays = specs.iter().map(|spec| files.read(spec)).collect::<Result<Vec<_>, _>>()?;
        let tensors = specs.iter().zip(arrays).map(|(spec, array)| {
            let tensor = Tensor::from_handle(compute, compute.from_host(array)?);
            let tensor = if array.dtype == Dtype::F32 { tensor } else { tensor.cast(Dtype::F32)? };
            tensor.eval()?;
            match staging::with_slices(std::slice::from_ref(&tensor), |slices| Ok(all_finite(slices[0])))? {
                true => Ok(tensor),
                false => Err(files.not_finite(&spec.name)),
            }
        });
        let tensors = tensors.collect::<Result<Vec<_>, Failure>>()?;
        Ok(Self::new(specs, tensors))
    }

    /// Checks that the model's weight files have every parameter, without loading any.
    ///
    /// # Errors
    /// As [`Parameters::read`].
    pub fn check(specs: &[ParameterSpec], directory: &Directory) -> Result<(), Failure> {
        let files = Files::open(directory)?;
        tied::check(&files, specs)?;
        specs.iter().try_for_each(|spec| files.read(spec).map(drop))
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
        let arrays = specs.iter().enumerate().map(|(place, spec)| random::initial(spec, seed, place));
        let tensors = arrays.map(|array| Ok(Tensor::from_host(compute, &array?)?)).collect::<Result<_, Failure>>()?;
        Ok(Self::new(specs, tensors))
    }

    /// These values.
    pub fn from_arrays(
        compute: &Rc<dyn Compute>,
        specs: Vec<ParameterSpec>,
        arrays: &[HostArrayRef<'_>],
    ) -> Result<Self, Failure> {
        let tensor = |&array: &HostArrayRef<'_>| Ok(Tensor::from_handle(compute, compute.from_host(array)?));
        let tensors = arrays.iter().map(tensor).collect::<Result<_>>()?;
        Ok(Self::new(specs, tensors))
    }

    fn new(specs: Vec<ParameterSpec>, tensors: Vec<Tensor>) -> Self {
        let index = specs.iter().enumerate().map(|(place, spec)| (spec.name.clone(), place)).collect();
        Self { specs, tensors, index: Rc::new(index) }
    }

    /// Names, shapes and starting values, in the model's order.
    pub fn specs(&self) -> &[ParameterSpec] {
        &self.specs
    }

    /// Number of elements in all.
    pub fn elements(&self) -> usize {
        self.specs.iter().map(|spec| spec.shape.iter().product::<usize>()).sum()
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
        staging::with_slices(&self.tensors, |slices| {
            let arrays = self.specs.iter().zip(slices);
            let arrays = arrays.map(|(spec, data)| Array { name: &spec.name, shape: &spec.shape, data });
            body(&arrays.collect::<Vec<_>>())
        })
    }

    /// Their handles.
    pub fn handles(&self) -> Vec<Handle> {
        self.tensors.iter().map(Tensor::handle).collect()
    }

    /// The parameters as weights for a forward pass outside of a gradient.
    pub fn bind(&self) -> Rc<BoundWeights> {
        BoundWeights::new(&self.index, self.tensors.iter())
    }

    /// The same names with other tensors of the same order: those that a gradient function was given.
    pub fn bind_handles(
        index: &Rc<HashMap<String, usize>>,
        compute: &Rc<dyn Compute>,
        handles: &[Handle],
    ) -> Rc<BoundWeights> {
        let tensors = handles.iter().map(|&handle| Tensor::borrowed(compute, handle)).collect();
        Rc::new(BoundWeights { index: Rc::clone(index), tensors })
    }

    /// The index of each name.
    pub fn index(&self) -> &Rc<HashMap<String, usize>> {
        &self.index
    }
}

/// Weights by name. The tensors are borrowed.
pub struct BoundWeights {
    index: Rc<HashMap<String, usize>>,
    tensors: Vec<Tensor>,
}

impl BoundWeights {
    fn new<'a>(index: &Rc<HashMap<String, usize>>, tensors: impl Iterator<Item = &'a Tensor>) -> Rc<Self> {
        let tensors = tensors.map(|tensor| Tensor::borrowed(tensor.compute(), tensor.handle())).collect();
        Rc::new(Self { index: Rc::clone(index), tensors })
    }

    fn find(&self, name: &str) -> Option<&Tensor> {
        self.index.get(name).map(|&place| &self.tensors[place])
    }

    fn weight(&self, name: &str) -> Result<&Tensor> {
        self.find(&format!("{name}.weight"))
            .ok_or_else(|| Error::plugin(format!("the model asked for `{name}.weight`, which it did not declare")))
    }
}

impl Weights for BoundWeights {
    fn linear(&self, name: &str, x: &Tensor) -> Result<Tensor> {
        let weight = self.weight(name)?;
        match self.find(&format!("{name}.bias")) {
            Some(bias) => Tensor::op(OpKind::LINEAR, &[x, weight, bias], &[]),
            None => Tensor::op(OpKind::LINEAR, &[x, weight], &[]),
        }
    }

    fn embedding(&self, name: &str, ids: &Tensor) -> Result<Tensor> {
        Tensor::op(OpKind::EMBEDDING, &[self.weight(name)?, ids], &[])
    }

    fn rms_norm(&self, name: &str, x: &Tensor, eps: f64) -> Result<Tensor> {
        Tensor::op(OpKind::RMS_NORM, &[x, self.weight(name)?], &[attribute("eps", Value::Float(eps))])
    }

    fn parameter(&self, name: &str) -> Result<Tensor> {
        self.find(name)
            .ok_or_else(|| Error::plugin(format!("the model asked for `{name}`, which it did not declare")))?
            .try_clone()
    }
}

/// A model with its weights, as a trainer calls it.
pub struct TrainedModel {
    model: Rc<dyn Model>,
    ctx: ModelContext,
    frozen: FrozenModels,
}

/// Models that are not trained, by name.
pub type FrozenModels = BTreeMap<String, Rc<dyn ModelCalls>>;

impl TrainedModel {
    /// A model over these weights.
    pub fn new(model: &Rc<dyn Model>, weights: Rc<BoundWeights>, compute: &Rc<dyn Compute>) -> Self {
        let ctx = ModelContext::new(weights, Rc::clone(compute));
        Self { model: Rc::clone(model), ctx, frozen: FrozenModels::new() }
    }

    /// The same with these beside it.
    pub fn with_frozen(self, frozen: FrozenModels) -> Self {
        Self { frozen, ..self }
    }

    /// Hidden states of the next tokens of a sequence whose earlier ones are in the cache.
    pub fn continue_hidden(&self, tokens: &Tensor, cache: &mut Cache) -> Result<Tensor> {
        self.model.hidden(&self.ctx, &ModelInput { tokens, positions: None, segments: None }, Some(cache))
    }
}

impl ModelCalls for TrainedModel {
    fn hidden(&self, tokens: &Tensor, positions: Option<&Tensor>, segments: Option<&Tensor>) -> Result<Tensor> {
        self.model.hidden(&self.ctx, &ModelInput { tokens, positions, segments }, None)
    }

    fn head(&self, hidden: &Tensor) -> Result<Tensor> {
        self.model.head(&self.ctx, hidden)
    }

    fn token_losses(&self, hidden: &Tensor, targets: &Tensor) -> Result<Tensor> {
        self.head(hidden)?.cross_entropy(targets)
    }

    fn frozen(&self, name: &str) -> Result<Rc<dyn ModelCalls>> {
        self.frozen.get(name).cloned().ok_or_else(|| {
            let error = Error::plugin(format!("the trainer asked for the frozen model `{name}`, and there is none"));
            match name {
                TrainerContext::REFERENCE => error.help("its author declares the ability `reference` in `plugin!`"),
                _ => error.help(format!("name one: `trainer.models.{name} = {{ path = \"DIR\" }}`")),
            }
        })
    }
}

/// Refuses a tokenizer that makes ids the model has no row for.
pub fn check_vocabulary(model: &dyn Model, directory: &Directory, tokenizer: usize) -> Result<(), Failure> {
    let rows = model.vocabulary_size();
    if tokenizer <= rows {
        return Ok(());
    }
    Err(Failure::new(
        Status::Input,
        format!("the tokenizer has ids up to {}, the model's vocabulary has {rows}", tokenizer - 1),
    )
    .at(directory.path().display())
    .help("the tokenizer belongs to another model, or tokens were added without growing the embeddings"))
}
