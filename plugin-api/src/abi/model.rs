//! Models, and the weights that they ask the host for, across the boundary.

use std::rc::Rc;
use std::sync::Arc;

use abi_stable::std_types::{RSlice, RStr};
use serde::{Deserialize, Serialize};

use super::compute;
use super::guard::{Guarded, Owner};
use super::object::{Imported, RawObject, RawSink, exports};
use super::record::replies;
use super::table::{c_struct, interfaces};
use super::types::{filled, handle_or_none, tensor_or_none};
use crate::register::ModelComponent;
use crate::{Cache, Compute, Model, ModelContext, ModelInput, ParameterSpec, Result, Tensor, Weights};

c_struct! {
    /// [`ModelInput`] and the cache. Handles of the cache are owned by the receiver: keys and values of each layer in turn.
    "MdtModelInput" RawModelInput<'a> {
        tokens: u64,
        /// 0 where there are none.
        positions: u64,
        /// 0 where there are none.
        segments: u64,
        cached: bool,
        cache_length: usize,
        cache: RSlice<'a, u64>,
    }
}

interfaces! {
    /// The model's weights, by name; handles go in borrowed and come out owned. The compute thread.
    "host.weights/1" HostWeights WeightFunctions {
        /// [`Weights::linear`].
        fn apply_linear(name: RStr<'_>, x: u64, result: &mut u64);
        /// [`Weights::embedding`].
        fn look_up(name: RStr<'_>, ids: u64, result: &mut u64);
        /// [`Weights::rms_norm`].
        fn normalise(name: RStr<'_>, x: u64, eps: f64, result: &mut u64);
        /// [`Weights::parameter`].
        fn parameter_named(name: RStr<'_>, result: &mut u64);
    }

    /// A model. The compute thread. The weights and the compute that it is given are its own from then on.
    "model.forward/1" ModelForward ForwardFunctions {
        /// [`Model::parameters`] and [`Model::vocabulary_size`].
        fn describe() -> ModelRecord;
        /// [`Model::hidden`].
        fn forward(
            weights: &mut RawObject, compute: &mut RawObject, input: &RawModelInput<'_>, hidden: &mut u64,
            cache_length: &mut usize, cache: &RawSink<'_, u64>
        );
        /// [`Model::head`].
        fn apply_head(weights: &mut RawObject, compute: &mut RawObject, hidden: u64, logits: &mut u64);
    }
}

/// What a model says of itself.
#[derive(Serialize, Deserialize)]
pub(super) struct ModelRecord {
    pub(super) parameters: Vec<ParameterSpec>,
    pub(super) vocabulary_size: usize,
}

type LocalWeights = (Rc<dyn Weights>, Rc<dyn Compute>);

replies! { ModelRecord }
exports! { LocalWeights: HostWeights; ModelComponent: ModelForward; }

impl WeightFunctions for LocalWeights {
    fn apply_linear(&self, name: RStr<'_>, x: u64, result: &mut u64) -> Result<()> {
        *result = self.0.linear(name.as_str(), &Tensor::borrowed(&self.1, x))?.into_handle()?;
        Ok(())
    }

    fn look_up(&self, name: RStr<'_>, ids: u64, result: &mut u64) -> Result<()> {
        *result = self.0.embedding(name.as_str(), &Tensor::borrowed(&self.1, ids))?.into_handle()?;
        Ok(())
    }

    fn normalise(&self, name: RStr<'_>, x: u64, eps: f64, result: &mut u64) -> Result<()> {
        *result = self.0.rms_norm(name.as_str(), &Tensor::borrowed(&self.1, x), eps)?.into_handle()?;
        Ok(())
    }

    fn parameter_named(&self, name: RStr<'_>, result: &mut u64) -> Result<()> {
        *result = self.0.parameter(name.as_str())?.into_handle()?;
        Ok(())
    }
}

struct LoadedWeights {
    functions: Imported<HostWeights>,
    compute: Rc<dyn Compute>,
}

impl LoadedWeights {
    fn tensor(&self, call: impl FnOnce(&Imported<HostWeights>, &mut u64) -> Result<()>) -> Result<Tensor> {
        Ok(Tensor::from_handle(&self.compute, filled(|result| call(&self.functions, result))?))
    }
}

impl Weights for LoadedWeights {
    fn linear(&self, name: &str, x: &Tensor) -> Result<Tensor> {
        self.tensor(|weights, result| weights.apply_linear(name.into(), x.handle(), result))
    }

    fn embedding(&self, name: &str, ids: &Tensor) -> Result<Tensor> {
        self.tensor(|weights, result| weights.look_up(name.into(), ids.handle(), result))
    }

    fn rms_norm(&self, name: &str, x: &Tensor, eps: f64) -> Result<Tensor> {
        self.tensor(|weights, result| weights.normalise(name.into(), x.handle(), eps, result))
    }

    fn parameter(&self, name: &str) -> Result<Tensor> {
        self.tensor(|weights, result| weights.parameter_named(name.into(), result))
    }
}

/// Weights and compute as objects.
fn export_context(ctx: &ModelContext) -> (RawObject, RawObject) {
    let weights = (Rc::clone(ctx.weights()), Rc::clone(ctx.compute()));
    (
        RawObject::new(Guarded::for_this_thread(weights, Owner::named("host weights"))),
        compute::export(ctx.compute(), || Owner::named("host compute")),
    )
}

/// Takes weights and compute out of their slots.
fn import_context(weights: &mut RawObject, compute: &mut RawObject) -> Result<ModelContext> {
    let compute = compute::import(std::mem::take(compute), "compute")?;
    let functions = Imported::of(std::mem::take(weights), "host weights")?;
    Ok(ModelContext::new(Rc::new(LoadedWeights { functions, compute: Rc::clone(&compute) }), compute))
}

/// The handles of a cache, owned, and its length.
fn cache_handles(cache: Cache) -> Result<(usize, Vec<u64>)> {
    let (length, layers) = cache.into_parts();
    let tensors = layers.into_iter().flat_map(|(keys, values)| [keys, values]);
    Ok((length, tensors.map(Tensor::into_handle).collect::<Result<_>>()?))
}

fn cache_of(length: usize, handles: &[u64], compute: &Rc<dyn Compute>) -> Cache {
    let mut tensors = handles.iter().map(|&handle| Tensor::from_handle(compute, handle));
    let pairs = std::iter::from_fn(|| Some((tensors.next()?, tensors.next()?)));
    Cache::from_parts(length, pairs.collect())
}

/// Makes an object of a plain model.
pub(super) fn export(model: ModelComponent, owner: Arc<Owner>) -> RawObject {
    RawObject::new(Guarded::for_this_thread(model, owner))
}

impl ForwardFunctions for ModelComponent {
    fn describe(&self) -> Result<ModelRecord> {
        Ok(ModelRecord { parameters: self.parameters(), vocabulary_size: self.vocabulary_size() })
    }

    fn forward(
        &self,
        weights: &mut RawObject,
        compute: &mut RawObject,
        input: &RawModelInput<'_>,
        hidden: &mut u64,
        cache_length: &mut usize,
        cache: &RawSink<'_, u64>,
    ) -> Result<()> {
        let ctx = import_context(weights, compute)?;
        let tokens = Tensor::borrowed(ctx.compute(), input.tokens);
        let [positions, segments] =
            [input.positions, input.segments].map(|handle| tensor_or_none(ctx.compute(), handle));
        let plain_input = ModelInput { tokens: &tokens, positions: positions.as_ref(), segments: segments.as_ref() };
        let mut kept = input.cached.then(|| cache_of(input.cache_length, input.cache.as_slice(), ctx.compute()));
        *hidden = self.hidden(&ctx, &plain_input, kept.as_mut())?.into_handle()?;
        if let Some(kept) = kept {
            let (length, handles) = cache_handles(kept)?;
            *cache_length = length;
            cache.write(&handles);
        }
        Ok(())
    }

    fn apply_head(
        &self,
        weights: &mut RawObject,
        compute: &mut RawObject,
        hidden: u64,
        logits: &mut u64,
    ) -> Result<()> {
        let ctx = import_context(weights, compute)?;
        *logits = self.head(&ctx, &Tensor::borrowed(ctx.compute(), hidden))?.into_handle()?;
        Ok(())
    }
}

struct Loaded {
    functions: Imported<ModelForward>,
    record: ModelRecord,
}

/// Makes a plain model of an object.
pub(super) fn import(object: RawObject, name: &'static str) -> Result<ModelComponent> {
    let functions = Imported::<ModelForward>::of(object, name)?;
    let record = functions.describe()?;
    Ok(ModelComponent::new(Rc::new(Loaded { functions, record })))
}

impl Model for Loaded {
    fn parameters(&self) -> Vec<ParameterSpec> {
        self.record.parameters.clone()
    }

    fn vocabulary_size(&self) -> usize {
        self.record.vocabulary_size
    }

    fn hidden(&self, ctx: &ModelContext, input: &ModelInput<'_>, mut cache: Option<&mut Cache>) -> Result<Tensor> {
        let before = cache.as_deref_mut().map(std::mem::take).unwrap_or_default();
        let (mut cache_length, handles) = cache_handles(before)?;
        let raw = RawModelInput {
            tokens: input.tokens.handle(),
            positions: handle_or_none(input.positions),
            segments: handle_or_none(input.segments),
            cached: cache.is_some(),
            cache_length,
            cache: handles.as_slice().into(),
        };
        let ((mut weights, mut compute), mut hidden, mut after) = (export_context(ctx), 0, Vec::new());
        let sink = RawSink::of(&mut after);
        self.functions.forward(&mut weights, &mut compute, &raw, &mut hidden, &mut cache_length, &sink)?;
        if let Some(cache) = cache {
            *cache = cache_of(cache_length, &after, ctx.compute());
        }
        Ok(Tensor::from_handle(ctx.compute(), hidden))
    }

    fn head(&self, ctx: &ModelContext, hidden: &Tensor) -> Result<Tensor> {
        let (mut weights, mut compute) = export_context(ctx);
        let logits = filled(|logits| self.functions.apply_head(&mut weights, &mut compute, hidden.handle(), logits))?;
        Ok(Tensor::from_handle(ctx.compute(), logits))
    }
}
