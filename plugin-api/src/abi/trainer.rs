//! Trainers, and the model that they ask the host for, across the boundary.

use std::rc::Rc;
use std::sync::Arc;

use abi_stable::std_types::{RArc, RBox, ROption, RResult, RSlice, RString, RVec, Tuple2};
use abi_stable::{StableAbi, sabi_trait, sabi_trait::TD_Opaque};

use super::compute::{self, ComputeObject};
use super::data::RawExample;
use super::guard::{Guard, Guarded, Owner};
use super::types::{RawArray, RawError, plain, same_fields};
use crate::{
    Batch, Compute, Encoded, Error, Example, HostBatch, Loss, ModelCalls, Result, Tensor, Trainer, TrainerContext,
    Vocabulary,
};

/// [`Encoded`].
#[repr(C)]
#[derive(StableAbi)]
pub struct RawEncoded {
    tokens: RVec<u32>,
    supervised: RVec<bool>,
    truncated: u64,
}

/// [`Encoded`], borrowed.
#[repr(C)]
#[derive(StableAbi)]
pub struct RawEncodedRef<'a> {
    tokens: RSlice<'a, u32>,
    supervised: RSlice<'a, bool>,
    truncated: u64,
}

/// [`HostBatch`].
#[repr(C)]
#[derive(StableAbi)]
pub struct RawHostBatch {
    arrays: RVec<Tuple2<RString, RawArray>>,
    tokens: u64,
    supervised_tokens: u64,
}

/// [`Batch`], whose handles are borrowed.
#[repr(C)]
#[derive(StableAbi)]
pub struct RawBatch {
    arrays: RVec<Tuple2<RString, u64>>,
}

/// [`Loss`], whose handles are owned by the receiver.
#[repr(C)]
#[derive(StableAbi)]
pub struct RawLoss {
    sum: u64,
    weight: u64,
    metrics: RVec<Tuple2<RString, u64>>,
}

/// [`Vocabulary`].
#[repr(C)]
#[derive(StableAbi)]
pub struct RawVocabulary {
    size: usize,
    stop: RVec<u32>,
}

same_fields! {
    RawEncoded, Encoded { tokens, supervised, truncated }
    RawVocabulary, Vocabulary { size, stop }
}

/// [`ModelCalls`] with a stable layout; handles go in borrowed and come out owned.
#[sabi_trait]
pub trait RawModelCalls {
    /// [`ModelCalls::hidden`].
    fn hidden(&self, tokens: u64, positions: ROption<u64>, segments: ROption<u64>) -> RResult<u64, RawError>;
    /// [`ModelCalls::head`].
    #[sabi(last_prefix_field)]
    fn head(&self, hidden: u64) -> RResult<u64, RawError>;
}

/// [`TrainerContext`].
#[repr(C)]
#[derive(StableAbi)]
pub struct RawTrainerContext {
    model: RawModelCalls_TO<'static, RArc<()>>,
    compute: ComputeObject,
}

/// [`Trainer`] with a stable layout.
#[sabi_trait]
pub trait RawTrainer: Send + Sync {
    /// [`Trainer::vocabulary`].
    fn vocabulary(&self) -> RResult<RawVocabulary, RawError>;
    /// [`Trainer::encode`].
    fn encode(&self, example: RawExample) -> RResult<RawEncoded, RawError>;
    /// [`Trainer::encode_prompt`].
    fn encode_prompt(&self, example: RawExample) -> RResult<RVec<u32>, RawError>;
    /// [`Trainer::decode`].
    fn decode(&self, tokens: RSlice<'_, u32>) -> RResult<RString, RawError>;
    /// [`Trainer::collate`].
    fn collate(&self, rows: RSlice<'_, RawEncodedRef<'_>>) -> RResult<RawHostBatch, RawError>;
    /// [`Trainer::loss`].
    #[sabi(last_prefix_field)]
    fn loss(&self, ctx: RawTrainerContext, batch: RawBatch) -> RResult<RawLoss, RawError>;
}

pub(crate) type TrainerObject = RawTrainer_TO<'static, RBox<()>>;

struct ExportedModel {
    model: Rc<dyn ModelCalls>,
    compute: Rc<dyn Compute>,
    guard: Guard,
}

impl RawModelCalls for ExportedModel {
    fn hidden(&self, tokens: u64, positions: ROption<u64>, segments: ROption<u64>) -> RResult<u64, RawError> {
        self.guard.call(|| {
            let borrowed = |handle| Tensor::borrowed(&self.compute, handle);
            let positions = positions.into_option().map(borrowed);
            let segments = segments.into_option().map(borrowed);
            self.model.hidden(&borrowed(tokens), positions.as_ref(), segments.as_ref())?.into_handle()
        })
    }

    fn head(&self, hidden: u64) -> RResult<u64, RawError> {
        self.guard.call(|| self.model.head(&Tensor::borrowed(&self.compute, hidden))?.into_handle())
    }
}

struct LoadedModel {
    object: RawModelCalls_TO<'static, RArc<()>>,
    compute: Rc<dyn Compute>,
}

impl ModelCalls for LoadedModel {
    fn hidden(&self, tokens: &Tensor, positions: Option<&Tensor>, segments: Option<&Tensor>) -> Result<Tensor> {
        let (positions, segments) = (positions.map(Tensor::handle), segments.map(Tensor::handle));
        let handle = plain(self.object.hidden(tokens.handle(), positions.into(), segments.into()))?;
        Ok(Tensor::from_handle(&self.compute, handle))
    }

    fn head(&self, hidden: &Tensor) -> Result<Tensor> {
        Ok(Tensor::from_handle(&self.compute, plain(self.object.head(hidden.handle()))?))
    }
}

impl RawTrainerContext {
    fn export(ctx: &TrainerContext) -> Self {
        let model = ExportedModel {
            model: Rc::clone(ctx.model()),
            compute: Rc::clone(ctx.compute()),
            guard: Guard::for_this_thread(Owner::named("host model")),
        };
        Self {
            model: RawModelCalls_TO::from_ptr(RArc::new(model), TD_Opaque),
            compute: compute::export(ctx.compute(), || Owner::named("host compute")),
        }
    }

    fn import(self) -> TrainerContext {
        let compute = compute::import(self.compute);
        let model = LoadedModel { object: self.model, compute: Rc::clone(&compute) };
        TrainerContext::new(Rc::new(model), compute)
    }
}

impl RawEncoded {
    fn plain(self) -> Result<Encoded> {
        if self.tokens.len() != self.supervised.len() {
            return Err(Error::plugin(format!(
                "an encoded row has {} tokens and {} marks for training",
                self.tokens.len(),
                self.supervised.len()
            )));
        }
        Ok(self.into())
    }
}

struct Exported(Guarded<Box<dyn Trainer>>);

/// Makes an object of a plain trainer.
pub(crate) fn export(trainer: Box<dyn Trainer>, owner: Arc<Owner>) -> TrainerObject {
    RawTrainer_TO::from_value(Exported(Guarded::new(trainer, owner)), TD_Opaque)
}

impl RawTrainer for Exported {
    fn vocabulary(&self) -> RResult<RawVocabulary, RawError> {
        self.0.call(|trainer| Ok(trainer.vocabulary()?.into()))
    }

    fn encode(&self, example: RawExample) -> RResult<RawEncoded, RawError> {
        self.0.call(|trainer| Ok(trainer.encode(&example.plain()?)?.into()))
    }

    fn encode_prompt(&self, example: RawExample) -> RResult<RVec<u32>, RawError> {
        self.0.call(|trainer| Ok(trainer.encode_prompt(&example.plain()?)?.into()))
    }

    fn decode(&self, tokens: RSlice<'_, u32>) -> RResult<RString, RawError> {
        self.0.call(|trainer| Ok(trainer.decode(tokens.as_slice())?.into()))
    }

    fn collate(&self, rows: RSlice<'_, RawEncodedRef<'_>>) -> RResult<RawHostBatch, RawError> {
        self.0.call(|trainer| {
            let rows: Vec<Encoded> = rows
                .iter()
                .map(|row| Encoded {
                    tokens: row.tokens.to_vec(),
                    supervised: row.supervised.to_vec(),
                    truncated: row.truncated,
                })
                .collect();
            let batch = trainer.collate(&rows.iter().collect::<Vec<_>>())?;
            Ok(RawHostBatch {
                arrays: batch.arrays.into_iter().map(|(name, array)| Tuple2(name.into(), array.into())).collect(),
                tokens: batch.tokens,
                supervised_tokens: batch.supervised_tokens,
            })
        })
    }

    fn loss(&self, ctx: RawTrainerContext, batch: RawBatch) -> RResult<RawLoss, RawError> {
        self.0.call(|trainer| {
            let ctx = ctx.import();
            let tensor =
                |Tuple2(name, handle): Tuple2<RString, u64>| (name.into(), Tensor::borrowed(ctx.compute(), handle));
            let batch = Batch::new(batch.arrays.into_iter().map(tensor).collect());
            let loss = trainer.loss(&ctx, &batch)?;
            let metric = |(name, tensor): (String, Tensor)| Ok(Tuple2(name.into(), tensor.into_handle()?));
            Ok(RawLoss {
                sum: loss.sum.into_handle()?,
                weight: loss.weight.into_handle()?,
                metrics: loss.metrics.into_iter().map(metric).collect::<Result<_>>()?,
            })
        })
    }
}

struct Loaded(TrainerObject);

/// Makes a plain trainer of an object.
pub(crate) fn import(object: TrainerObject) -> Box<dyn Trainer> {
    Box::new(Loaded(object))
}

impl Trainer for Loaded {
    fn vocabulary(&self) -> Result<Vocabulary> {
        plain(self.0.vocabulary()).map(Vocabulary::from)
    }

    fn encode(&self, example: &Example) -> Result<Encoded> {
        plain(self.0.encode(example.clone().into()))?.plain()
    }

    fn encode_prompt(&self, example: &Example) -> Result<Vec<u32>> {
        plain(self.0.encode_prompt(example.clone().into())).map(Vec::from)
    }

    fn decode(&self, tokens: &[u32]) -> Result<String> {
        plain(self.0.decode(tokens.into())).map(String::from)
    }

    fn collate(&self, rows: &[&Encoded]) -> Result<HostBatch> {
        let rows: Vec<RawEncodedRef<'_>> = rows
            .iter()
            .map(|row| RawEncodedRef {
                tokens: row.tokens.as_slice().into(),
                supervised: row.supervised.as_slice().into(),
                truncated: row.truncated,
            })
            .collect();
        let raw = plain(self.0.collate(rows.as_slice().into()))?;
        let array = |Tuple2(name, array): Tuple2<RString, RawArray>| Ok((name.into(), array.plain()?));
        Ok(HostBatch {
            arrays: raw.arrays.into_iter().map(array).collect::<Result<_>>()?,
            tokens: raw.tokens,
            supervised_tokens: raw.supervised_tokens,
        })
    }

    fn loss(&self, ctx: &TrainerContext, batch: &Batch) -> Result<Loss> {
        let handle = |(name, tensor): &(String, Tensor)| Tuple2(name.as_str().into(), tensor.handle());
        let raw = RawBatch { arrays: batch.arrays().iter().map(handle).collect() };
        let raw = plain(self.0.loss(RawTrainerContext::export(ctx), raw))?;
        let owned = |handle| Tensor::from_handle(ctx.compute(), handle);
        Ok(Loss {
            sum: owned(raw.sum),
            weight: owned(raw.weight),
            metrics: raw.metrics.into_iter().map(|Tuple2(name, handle)| (name.into(), owned(handle))).collect(),
        })
    }
}
