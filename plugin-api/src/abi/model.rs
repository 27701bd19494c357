//! Models, and the weights that they ask the host for, across the boundary.

use std::rc::Rc;
use std::sync::Arc;

use abi_stable::std_types::{RArc, RBox, ROption, RResult, RStr, RString, RVec, Tuple2};
use abi_stable::{StableAbi, sabi_trait, sabi_trait::TD_Opaque};

use super::compute::{self, ComputeObject};
use super::guard::{Guard, Guarded, Owner};
use super::types::{RawError, plain};
use crate::{Cache, Compute, Error, Init, Model, ModelContext, ModelInput, ParameterSpec, Result, Tensor, Weights};

/// [`ParameterSpec`].
#[repr(C)]
#[derive(StableAbi)]
pub struct RawParameterSpec {
    name: RString,
    shape: RVec<usize>,
    /// 1 normal, 2 ones, 3 zeros.
    init: u32,
    std: f64,
}

/// [`Weights`] with a stable layout; handles go in borrowed and come out owned.
#[sabi_trait]
pub trait RawWeights {
    /// [`Weights::linear`].
    fn linear(&self, name: RStr<'_>, x: u64) -> RResult<u64, RawError>;
    /// [`Weights::embedding`].
    fn embedding(&self, name: RStr<'_>, ids: u64) -> RResult<u64, RawError>;
    /// [`Weights::rms_norm`].
    fn rms_norm(&self, name: RStr<'_>, x: u64, eps: f64) -> RResult<u64, RawError>;
    /// [`Weights::parameter`].
    #[sabi(last_prefix_field)]
    fn parameter(&self, name: RStr<'_>) -> RResult<u64, RawError>;
}

/// [`ModelContext`].
#[repr(C)]
#[derive(StableAbi)]
pub struct RawModelContext {
    weights: RawWeights_TO<'static, RArc<()>>,
    compute: ComputeObject,
}

/// [`ModelInput`] and the cache, whose handles are owned.
#[repr(C)]
#[derive(StableAbi)]
pub struct RawModelInput {
    tokens: u64,
    positions: ROption<u64>,
    segments: ROption<u64>,
    cache: ROption<RawCache>,
}

/// [`Cache`].
#[repr(C)]
#[derive(StableAbi)]
pub struct RawCache {
    length: usize,
    layers: RVec<Tuple2<u64, u64>>,
}

/// What [`Model::hidden`] gives: hidden states and the cache with the new tokens.
#[repr(C)]
#[derive(StableAbi)]
pub struct RawHidden {
    hidden: u64,
    cache: ROption<RawCache>,
}

/// [`Model`] with a stable layout.
#[sabi_trait]
pub trait RawModel {
    /// [`Model::parameters`].
    fn parameters(&self) -> RResult<RVec<RawParameterSpec>, RawError>;
    /// [`Model::vocabulary_size`].
    fn vocabulary_size(&self) -> usize;
    /// [`Model::hidden`].
    fn hidden(&self, ctx: RawModelContext, input: RawModelInput) -> RResult<RawHidden, RawError>;
    /// [`Model::head`].
    #[sabi(last_prefix_field)]
    fn head(&self, ctx: RawModelContext, hidden: u64) -> RResult<u64, RawError>;
}

pub(crate) type ModelObject = RawModel_TO<'static, RBox<()>>;

struct ExportedWeights {
    weights: Rc<dyn Weights>,
    compute: Rc<dyn Compute>,
    guard: Guard,
}

impl ExportedWeights {
    fn call(&self, x: u64, body: impl FnOnce(&Tensor) -> Result<Tensor>) -> RResult<u64, RawError> {
        self.guard.call(|| body(&Tensor::borrowed(&self.compute, x))?.into_handle())
    }
}

impl RawWeights for ExportedWeights {
    fn linear(&self, name: RStr<'_>, x: u64) -> RResult<u64, RawError> {
        self.call(x, |x| self.weights.linear(name.as_str(), x))
    }

    fn embedding(&self, name: RStr<'_>, ids: u64) -> RResult<u64, RawError> {
        self.call(ids, |ids| self.weights.embedding(name.as_str(), ids))
    }

    fn rms_norm(&self, name: RStr<'_>, x: u64, eps: f64) -> RResult<u64, RawError> {
        self.call(x, |x| self.weights.rms_norm(name.as_str(), x, eps))
    }

    fn parameter(&self, name: RStr<'_>) -> RResult<u64, RawError> {
        self.guard.call(|| self.weights.parameter(name.as_str())?.into_handle())
    }
}

struct LoadedWeights {
    object: RawWeights_TO<'static, RArc<()>>,
    compute: Rc<dyn Compute>,
}

impl LoadedWeights {
    fn tensor(&self, raw: RResult<u64, RawError>) -> Result<Tensor> {
        Ok(Tensor::from_handle(&self.compute, plain(raw)?))
    }
}

impl Weights for LoadedWeights {
    fn linear(&self, name: &str, x: &Tensor) -> Result<Tensor> {
        self.tensor(self.object.linear(name.into(), x.handle()))
    }

    fn embedding(&self, name: &str, ids: &Tensor) -> Result<Tensor> {
        self.tensor(self.object.embedding(name.into(), ids.handle()))
    }

    fn rms_norm(&self, name: &str, x: &Tensor, eps: f64) -> Result<Tensor> {
        self.tensor(self.object.rms_norm(name.into(), x.handle(), eps))
    }

    fn parameter(&self, name: &str) -> Result<Tensor> {
        self.tensor(self.object.parameter(name.into()))
    }
}

impl RawModelContext {
    fn export(ctx: &ModelContext) -> Self {
        let weights = ExportedWeights {
            weights: Rc::clone(ctx.weights()),
            compute: Rc::clone(ctx.compute()),
            guard: Guard::for_this_thread(Owner::named("host weights")),
        };
        Self {
            weights: RawWeights_TO::from_ptr(RArc::new(weights), TD_Opaque),
            compute: compute::export(ctx.compute(), || Owner::named("host compute")),
        }
    }

    fn import(self) -> ModelContext {
        let compute = compute::import(self.compute);
        let weights = LoadedWeights { object: self.weights, compute: Rc::clone(&compute) };
        ModelContext::new(Rc::new(weights), compute)
    }
}

impl RawCache {
    fn export(cache: Cache) -> Result<Self> {
        let (length, layers) = cache.into_parts();
        let handles = |(keys, values): (Tensor, Tensor)| Ok(Tuple2(keys.into_handle()?, values.into_handle()?));
        Ok(Self { length, layers: layers.into_iter().map(handles).collect::<Result<_>>()? })
    }

    fn import(self, compute: &Rc<dyn Compute>) -> Cache {
        let tensors = |Tuple2(keys, values)| (Tensor::from_handle(compute, keys), Tensor::from_handle(compute, values));
        Cache::from_parts(self.length, self.layers.into_iter().map(tensors).collect())
    }
}

struct Exported(Guarded<Box<dyn Model>>);

/// Makes an object of a plain model.
pub(crate) fn export(model: Box<dyn Model>, owner: Arc<Owner>) -> ModelObject {
    RawModel_TO::from_value(Exported(Guarded::for_this_thread(model, owner)), TD_Opaque)
}

impl RawModel for Exported {
    fn parameters(&self) -> RResult<RVec<RawParameterSpec>, RawError> {
        self.0.call(|model| {
            let raw = |spec: ParameterSpec| {
                let (init, std) = match spec.init {
                    Init::Normal { std } => (1, std),
                    Init::Ones => (2, 0.0),
                    Init::Zeros => (3, 0.0),
                };
                RawParameterSpec { name: spec.name.into(), shape: spec.shape.into(), init, std }
            };
            Ok(model.parameters().into_iter().map(raw).collect())
        })
    }

    fn vocabulary_size(&self) -> usize {
        self.0.call_or(0, |model| model.vocabulary_size())
    }

    fn hidden(&self, ctx: RawModelContext, input: RawModelInput) -> RResult<RawHidden, RawError> {
        self.0.call(|model| {
            let ctx = ctx.import();
            let compute = ctx.compute();
            let tokens = Tensor::borrowed(compute, input.tokens);
            let borrowed = |handle: u64| Tensor::borrowed(compute, handle);
            let positions = input.positions.into_option().map(borrowed);
            let segments = input.segments.into_option().map(borrowed);
            let mut cache = input.cache.into_option().map(|cache| cache.import(compute));
            let plain_input =
                ModelInput { tokens: &tokens, positions: positions.as_ref(), segments: segments.as_ref() };
            let hidden = model.hidden(&ctx, &plain_input, cache.as_mut())?;
            Ok(RawHidden { hidden: hidden.into_handle()?, cache: cache.map(RawCache::export).transpose()?.into() })
        })
    }

    fn head(&self, ctx: RawModelContext, hidden: u64) -> RResult<u64, RawError> {
        self.0.call(|model| {
            let ctx = ctx.import();
            let hidden = Tensor::borrowed(ctx.compute(), hidden);
            model.head(&ctx, &hidden)?.into_handle()
        })
    }
}

struct Loaded {
    object: ModelObject,
    parameters: Vec<ParameterSpec>,
}

/// Makes a plain model of an object.
pub(crate) fn import(object: ModelObject) -> Result<Box<dyn Model>> {
    let parameters = plain(object.parameters())?
        .into_iter()
        .map(|raw| {
            let init = match raw.init {
                1 => Init::Normal { std: raw.std },
                2 => Init::Ones,
                3 => Init::Zeros,
                number => {
                    return Err(Error::plugin(format!(
                        "parameter {} starts in a way that is unknown here ({number})",
                        raw.name
                    )));
                }
            };
            Ok(ParameterSpec { name: raw.name.into(), shape: raw.shape.into(), init })
        })
        .collect::<Result<_>>()?;
    Ok(Box::new(Loaded { object, parameters }))
}

impl Model for Loaded {
    fn parameters(&self) -> Vec<ParameterSpec> {
        self.parameters.clone()
    }

    fn vocabulary_size(&self) -> usize {
        self.object.vocabulary_size()
    }

    fn hidden(&self, ctx: &ModelContext, input: &ModelInput<'_>, cache: Option<&mut Cache>) -> Result<Tensor> {
        let (raw_cache, cache) = match cache {
            None => (None, None),
            Some(cache) => (Some(RawCache::export(std::mem::take(cache))?), Some(cache)),
        };
        let raw = RawModelInput {
            tokens: input.tokens.handle(),
            positions: input.positions.map(Tensor::handle).into(),
            segments: input.segments.map(Tensor::handle).into(),
            cache: raw_cache.into(),
        };
        let raw = plain(self.object.hidden(RawModelContext::export(ctx), raw))?;
        if let (Some(cache), Some(raw_cache)) = (cache, raw.cache.into_option()) {
            *cache = raw_cache.import(ctx.compute());
        }
        Ok(Tensor::from_handle(ctx.compute(), raw.hidden))
    }

    fn head(&self, ctx: &ModelContext, hidden: &Tensor) -> Result<Tensor> {
        let handle = plain(self.object.head(RawModelContext::export(ctx), hidden.handle()))?;
        Ok(Tensor::from_handle(ctx.compute(), handle))
    }
}
