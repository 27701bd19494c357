//! Trainers, and the model that they ask the host for, across the boundary.

use std::rc::Rc;
use std::sync::Arc;

use abi_stable::std_types::RSlice;

use super::compute;
use super::guard::{Guarded, Owner};
use super::object::{AnyThread, Imported, RawObject, RawSink, exports};
use super::record::{decode, encode, replies};
use super::table::{c_struct, interfaces};
use super::types::{RawNamed, filled, handle_or_none, tensor_or_none};
use crate::register::TrainerComponent;
use crate::{
    Batch, Compute, Encoded, Error, Example, HostBatch, Loss, ModelCalls, Result, Tensor, Trainer, TrainerContext,
    Vocabulary,
};

c_struct! {
    /// [`Loss`] without its metrics; the handles are owned by the receiver.
    "MdtLoss" RawLoss {
        sum: u64,
        weight: u64,
    }

    /// [`Encoded`], borrowed.
    "MdtEncoded" RawEncoded<'a> {
        tokens: RSlice<'a, u32>,
        supervised: RSlice<'a, bool>,
        truncated: u64,
    }
}

interfaces! {
    /// The model, for a trainer; handles go in borrowed and come out owned. The compute thread.
    "host.model/1" HostModel ModelFunctions {
        /// [`ModelCalls::hidden`]; positions and segments are 0 where there are none.
        fn hidden_states(tokens: u64, positions: u64, segments: u64, result: &mut u64);
        /// [`ModelCalls::head`].
        fn logits(hidden: u64, result: &mut u64);
    }

    /// A training objective. Any thread, but for `compute_loss`, which is called on the compute thread.
    "trainer.objective/1" TrainerObjective ObjectiveFunctions {
        /// [`Trainer::vocabulary`].
        fn describe_vocabulary() -> Vocabulary;
        /// [`Trainer::encode`] of an [`Example`].
        fn encode_example(example: RSlice<'_, u8>) -> Encoded;
        /// [`Trainer::encode_prompt`] of an [`Example`].
        fn encode_prompt_of(example: RSlice<'_, u8>) -> Vec<u32>;
        /// [`Trainer::decode`].
        fn decode_tokens(tokens: RSlice<'_, u32>) -> String;
        /// [`Trainer::collate`].
        fn collate_rows(rows: RSlice<'_, RawEncoded<'_>>) -> HostBatch;
        /// [`Trainer::loss`]. Model and compute are the trainer's from then on; metrics have owned handles.
        fn compute_loss(
            model: &mut RawObject, compute: &mut RawObject, batch: RSlice<'_, RawNamed<'_>>, loss: &mut RawLoss,
            metric_handles: &RawSink<'_, u64>
        ) -> Vec<String>;
    }
}

type LocalModel = (Rc<dyn ModelCalls>, Rc<dyn Compute>);

replies! { Vocabulary, Encoded, Vec<u32>, HostBatch, Vec<String> }
exports! { LocalModel: HostModel; TrainerComponent: TrainerObjective; }
// SAFETY: `Trainer` is `Send + Sync`.
unsafe impl AnyThread for TrainerObjective {}

impl ModelFunctions for LocalModel {
    fn hidden_states(&self, tokens: u64, positions: u64, segments: u64, result: &mut u64) -> Result<()> {
        let [positions, segments] = [positions, segments].map(|handle| tensor_or_none(&self.1, handle));
        let tokens = Tensor::borrowed(&self.1, tokens);
        *result = self.0.hidden(&tokens, positions.as_ref(), segments.as_ref())?.into_handle()?;
        Ok(())
    }

    fn logits(&self, hidden: u64, result: &mut u64) -> Result<()> {
        *result = self.0.head(&Tensor::borrowed(&self.1, hidden))?.into_handle()?;
        Ok(())
    }
}

struct LoadedModel {
    functions: Imported<HostModel>,
    compute: Rc<dyn Compute>,
}

impl ModelCalls for LoadedModel {
    fn hidden(&self, tokens: &Tensor, positions: Option<&Tensor>, segments: Option<&Tensor>) -> Result<Tensor> {
        let [positions, segments] = [positions, segments].map(handle_or_none);
        let call = |result: &mut u64| self.functions.hidden_states(tokens.handle(), positions, segments, result);
        Ok(Tensor::from_handle(&self.compute, filled(call)?))
    }

    fn head(&self, hidden: &Tensor) -> Result<Tensor> {
        let logits = filled(|logits| self.functions.logits(hidden.handle(), logits))?;
        Ok(Tensor::from_handle(&self.compute, logits))
    }
}

/// Makes an object of a plain trainer.
pub(super) fn export(trainer: TrainerComponent, owner: Arc<Owner>) -> RawObject {
    RawObject::new(Guarded::new(trainer, owner))
}

/// Makes a plain trainer of an object.
pub(super) fn import(object: RawObject, name: &'static str) -> Result<TrainerComponent> {
    Ok(TrainerComponent::new(Arc::new(Imported::<TrainerObjective>::of(object, name)?)))
}

impl ObjectiveFunctions for TrainerComponent {
    fn describe_vocabulary(&self) -> Result<Vocabulary> {
        self.vocabulary()
    }

    fn encode_example(&self, example: RSlice<'_, u8>) -> Result<Encoded> {
        (**self).encode(&decode::<Example>(example.as_slice())?)
    }

    fn encode_prompt_of(&self, example: RSlice<'_, u8>) -> Result<Vec<u32>> {
        self.encode_prompt(&decode::<Example>(example.as_slice())?)
    }

    fn decode_tokens(&self, tokens: RSlice<'_, u32>) -> Result<String> {
        (**self).decode(tokens.as_slice())
    }

    fn collate_rows(&self, rows: RSlice<'_, RawEncoded<'_>>) -> Result<HostBatch> {
        let plain = |row: &RawEncoded<'_>| Encoded {
            tokens: row.tokens.to_vec(),
            supervised: row.supervised.to_vec(),
            truncated: row.truncated,
        };
        let rows: Vec<Encoded> = rows.iter().map(plain).collect();
        self.collate(&rows.iter().collect::<Vec<_>>())
    }

    fn compute_loss(
        &self,
        model: &mut RawObject,
        compute: &mut RawObject,
        batch: RSlice<'_, RawNamed<'_>>,
        loss: &mut RawLoss,
        metric_handles: &RawSink<'_, u64>,
    ) -> Result<Vec<String>> {
        let compute = compute::import(std::mem::take(compute), "compute")?;
        let model =
            LoadedModel { functions: Imported::of(std::mem::take(model), "host model")?, compute: Rc::clone(&compute) };
        let tensor = |named: &RawNamed<'_>| (named.name.into(), Tensor::borrowed(&compute, named.tensor));
        let batch = Batch::new(batch.iter().map(tensor).collect());
        let Loss { sum, weight, metrics } = self.loss(&TrainerContext::new(Rc::new(model), compute), &batch)?;
        *loss = RawLoss { sum: sum.into_handle()?, weight: weight.into_handle()? };
        let mut names = Vec::with_capacity(metrics.len());
        for (name, tensor) in metrics {
            metric_handles.write(&[tensor.into_handle()?]);
            names.push(name);
        }
        Ok(names)
    }
}

impl Trainer for Imported<TrainerObjective> {
    fn vocabulary(&self) -> Result<Vocabulary> {
        self.describe_vocabulary()
    }

    fn encode(&self, example: &Example) -> Result<Encoded> {
        let encoded = self.encode_example(encode(example)?.as_slice().into())?;
        if encoded.tokens.len() != encoded.supervised.len() {
            return Err(Error::plugin(format!(
                "an encoded row has {} tokens and {} marks for training",
                encoded.tokens.len(),
                encoded.supervised.len()
            )));
        }
        Ok(encoded)
    }

    fn encode_prompt(&self, example: &Example) -> Result<Vec<u32>> {
        self.encode_prompt_of(encode(example)?.as_slice().into())
    }

    fn decode(&self, tokens: &[u32]) -> Result<String> {
        self.decode_tokens(tokens.into())
    }

    fn collate(&self, rows: &[&Encoded]) -> Result<HostBatch> {
        let raw = rows.iter().map(|row| RawEncoded {
            tokens: RSlice::from_slice(&row.tokens),
            supervised: RSlice::from_slice(&row.supervised),
            truncated: row.truncated,
        });
        self.collate_rows(raw.collect::<Vec<_>>().as_slice().into())
    }

    fn loss(&self, ctx: &TrainerContext, batch: &Batch) -> Result<Loss> {
        let local = (Rc::clone(ctx.model()), Rc::clone(ctx.compute()));
        let mut model = RawObject::new(Guarded::for_this_thread(local, Owner::named("host model")));
        let mut compute = compute::export(ctx.compute(), || Owner::named("host compute"));
        let arrays = batch.arrays().iter();
        let arrays = arrays.map(|(name, tensor)| RawNamed { name: name.as_str().into(), tensor: tensor.handle() });
        let arrays: Vec<RawNamed<'_>> = arrays.collect();
        let (mut raw, mut handles) = (RawLoss { sum: 0, weight: 0 }, Vec::new());
        let sink = RawSink::of(&mut handles);
        let names = self.compute_loss(&mut model, &mut compute, arrays.as_slice().into(), &mut raw, &sink)?;
        let owned = |handle| Tensor::from_handle(ctx.compute(), handle);
        let (count, metrics) = (handles.len(), handles.into_iter().map(owned));
        if count != names.len() {
            return Err(Error::plugin(format!("a loss has {count} metrics and {} names for them", names.len())));
        }
        Ok(Loss { sum: owned(raw.sum), weight: owned(raw.weight), metrics: names.into_iter().zip(metrics).collect() })
    }
}
