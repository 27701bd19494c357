//! Trainers, and the models that they ask the host for, across the boundary.

use std::rc::Rc;
use std::sync::Arc;

use abi_stable::std_types::{RSlice, RStr};

use super::compute;
use super::guard::{Guarded, Owner};
use super::object::{AnyThread, Imported, RawObject, RawSink, ability, exports};
use super::prepare::{TrainerEvaluation, TrainerOwnParameters, TrainerPrepare, TrainerReference};
use super::record::{decode, encode, replies};
use super::table::{c_struct, interfaces};
use super::types::{RawNamed, filled, handle_or_none, owned_or_none, tensor_or_none};
use crate::register::TrainerComponent;
use crate::{
    Batch, BatchRows, Compute, Error, Example, HostBatch, Item, Loss, Metric, ModelCalls, Result, Sequence, Tensor,
    Trainer, TrainerContext,
};

c_struct! {
    /// [`Loss`] without its metrics; the handles are owned by the receiver.
    "MdtLoss" RawLoss {
        sum: u64,
        weight: u64,
    }

    /// [`Sequence`], borrowed.
    "MdtSequence" RawSequence<'a> {
        name: RStr<'a>,
        tokens: RSlice<'a, u32>,
        supervised: RSlice<'a, bool>,
        truncated: u64,
    }

    /// Numbers of an item, borrowed.
    "MdtNumbers" RawNumbers<'a> {
        name: RStr<'a>,
        values: RSlice<'a, f64>,
    }

    /// [`Item`], borrowed.
    "MdtItem" RawItem<'a> {
        sequences: RSlice<'a, RawSequence<'a>>,
        numbers: RSlice<'a, RawNumbers<'a>>,
    }
}

interfaces! {
    /// A model, for a trainer; handles go in borrowed and come out owned. The compute thread.
    "host.model/1" HostModel ModelFunctions {
        /// [`ModelCalls::hidden`]; positions and segments are 0 where there are none.
        fn hidden_states(tokens: u64, positions: u64, segments: u64, result: &mut u64);
        /// [`ModelCalls::head`].
        fn logits(hidden: u64, result: &mut u64);
        /// [`ModelCalls::token_losses`].
        fn losses_of(hidden: u64, targets: u64, result: &mut u64);
        /// [`ModelCalls::frozen`].
        fn frozen_model(name: RStr<'_>, model: &mut RawObject);
        /// [`ModelCalls::own_parameter`]; 0 where there is none.
        fn trainers_parameter(name: RStr<'_>, result: &mut u64);
    }

    /// A training objective. Any thread, but for `compute_loss`, which is called on the compute thread.
    "trainer.objective/1" TrainerObjective ObjectiveFunctions {
        /// [`Trainer::encode`] of an [`Example`].
        fn encode_example(example: RSlice<'_, u8>) -> Vec<Item>;
        /// [`Trainer::collate`] of all items, and of their number in each row.
        fn collate_items(items: RSlice<'_, RawItem<'_>>, items_per_row: RSlice<'_, usize>) -> HostBatch;
        /// [`Trainer::loss`]. Model and compute are the trainer's from then on. Each metric has two owned handles: its sum
        /// and its weight.
        fn compute_loss(
            model: &mut RawObject, compute: &mut RawObject, batch: RSlice<'_, RawNamed<'_>>, loss: &mut RawLoss,
            metric_handles: &RawSink<'_, u64>
        ) -> Vec<String>;
    }
}

type LocalModel = (Rc<dyn ModelCalls>, Rc<dyn Compute>);

replies! { Vec<Item>, HostBatch, Vec<String> }
exports! {
    LocalModel: HostModel;
    TrainerComponent:
        TrainerObjective,
        TrainerPrepare if prepare,
        TrainerReference if reference,
        TrainerEvaluation if evaluation,
        TrainerOwnParameters if parameters;
}
// SAFETY: `Trainer` is `Send + Sync`.
unsafe impl AnyThread for TrainerObjective {}

/// Makes an object of a model of the host.
pub(super) fn export_model(model: &Rc<dyn ModelCalls>, compute: &Rc<dyn Compute>) -> RawObject {
    let local: LocalModel = (Rc::clone(model), Rc::clone(compute));
    RawObject::new(Guarded::for_this_thread(local, Owner::named("host model")))
}

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

    fn losses_of(&self, hidden: u64, targets: u64, result: &mut u64) -> Result<()> {
        let [hidden, targets] = [hidden, targets].map(|handle| Tensor::borrowed(&self.1, handle));
        *result = self.0.token_losses(&hidden, &targets)?.into_handle()?;
        Ok(())
    }

    fn frozen_model(&self, name: RStr<'_>, model: &mut RawObject) -> Result<()> {
        *model = export_model(&self.0.frozen(name.as_str())?, &self.1);
        Ok(())
    }

    fn trainers_parameter(&self, name: RStr<'_>, result: &mut u64) -> Result<()> {
        *result = self.0.own_parameter(name.as_str())?.map_or(Ok(0), Tensor::into_handle)?;
        Ok(())
    }
}

pub(super) struct LoadedModel {
    functions: Imported<HostModel>,
    compute: Rc<dyn Compute>,
}

impl LoadedModel {
    pub(super) fn import(object: RawObject, compute: &Rc<dyn Compute>) -> Result<Rc<dyn ModelCalls>> {
        Ok(Rc::new(Self { functions: Imported::of(object, "host model")?, compute: Rc::clone(compute) }))
    }
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

    fn token_losses(&self, hidden: &Tensor, targets: &Tensor) -> Result<Tensor> {
        let losses = filled(|losses| self.functions.losses_of(hidden.handle(), targets.handle(), losses))?;
        Ok(Tensor::from_handle(&self.compute, losses))
    }

    fn frozen(&self, name: &str) -> Result<Rc<dyn ModelCalls>> {
        Self::import(filled(|model| self.functions.frozen_model(name.into(), model))?, &self.compute)
    }

    fn own_parameter(&self, name: &str) -> Result<Option<Tensor>> {
        let handle = filled(|result| self.functions.trainers_parameter(name.into(), result))?;
        Ok(owned_or_none(&self.compute, handle))
    }
}

/// Makes an object of a plain trainer.
pub(super) fn export(trainer: TrainerComponent, owner: Arc<Owner>) -> RawObject {
    RawObject::new(Guarded::new(trainer, owner))
}

/// Makes a plain trainer of an object.
pub(super) fn import(object: RawObject, name: &'static str) -> Result<TrainerComponent> {
    let objective = Imported::<TrainerObjective>::of(object, name)?;
    let object = Arc::new(objective.share());
    Ok(TrainerComponent {
        prepare: ability!(TrainerPrepare of object, name),
        reference: ability!(TrainerReference of object, name),
        evaluation: ability!(TrainerEvaluation of object, name),
        parameters: ability!(TrainerOwnParameters of object, name),
        objective: Arc::new(objective),
    })
}

impl<'a> RawSequence<'a> {
    fn of(Sequence { name, tokens, supervised, truncated }: &'a Sequence) -> Self {
        Self {
            name: name.as_str().into(),
            tokens: tokens.as_slice().into(),
            supervised: supervised.as_slice().into(),
            truncated: *truncated,
        }
    }
}

impl<'a> RawNumbers<'a> {
    fn of((name, values): &'a (String, Vec<f64>)) -> Self {
        Self { name: name.as_str().into(), values: values.as_slice().into() }
    }
}

impl RawItem<'_> {
    pub(super) fn plain(&self) -> Item {
        let sequence = |raw: &RawSequence<'_>| Sequence {
            name: raw.name.into(),
            tokens: raw.tokens.to_vec(),
            supervised: raw.supervised.to_vec(),
            truncated: raw.truncated,
        };
        Item {
            sequences: self.sequences.iter().map(sequence).collect(),
            numbers: self.numbers.iter().map(|raw| (raw.name.into(), raw.values.to_vec())).collect(),
            notes: Vec::new(),
        }
    }
}

/// Lends items to a call.
pub(super) fn with_raw_items<T>(items: &[&Item], call: impl FnOnce(RSlice<'_, RawItem<'_>>) -> T) -> T {
    let sequences = items.iter().map(|item| item.sequences.iter().map(RawSequence::of).collect());
    let sequences: Vec<Vec<_>> = sequences.collect();
    let numbers: Vec<Vec<_>> = items.iter().map(|item| item.numbers.iter().map(RawNumbers::of).collect()).collect();
    let raw: Vec<_> = sequences
        .iter()
        .zip(&numbers)
        .map(|(sequences, numbers)| RawItem {
            sequences: sequences.as_slice().into(),
            numbers: numbers.as_slice().into(),
        })
        .collect();
    call(raw.as_slice().into())
}

impl ObjectiveFunctions for TrainerComponent {
    fn encode_example(&self, example: RSlice<'_, u8>) -> Result<Vec<Item>> {
        (**self).encode(&decode::<Example>(example.as_slice())?)
    }

    fn collate_items(&self, items: RSlice<'_, RawItem<'_>>, items_per_row: RSlice<'_, usize>) -> Result<HostBatch> {
        let items: Vec<Item> = items.iter().map(RawItem::plain).collect();
        self.collate(&BatchRows::new(&items.iter().collect::<Vec<_>>(), items_per_row.as_slice())?)
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
        let model = LoadedModel::import(std::mem::take(model), &compute)?;
        let tensor = |named: &RawNamed<'_>| (named.name.into(), Tensor::borrowed(&compute, named.tensor));
        let batch = Batch::new(batch.iter().map(tensor).collect());
        let Loss { sum, weight, metrics } = self.loss(&TrainerContext::new(model, compute), &batch)?;
        *loss = RawLoss { sum: sum.into_handle()?, weight: weight.into_handle()? };
        let mut names = Vec::with_capacity(metrics.len());
        for Metric { name, sum, weight } in metrics {
            metric_handles.write(&[sum.into_handle()?, weight.into_handle()?]);
            names.push(name);
        }
        Ok(names)
    }
}

impl Trainer for Imported<TrainerObjective> {
    fn encode(&self, example: &Example) -> Result<Vec<Item>> {
        self.encode_example(encode(example)?.as_slice().into())
    }

    fn collate(&self, rows: &BatchRows<'_>) -> Result<HostBatch> {
        with_raw_items(rows.items(), |items| self.collate_items(items, rows.items_per_row().into()))
    }

    fn loss(&self, ctx: &TrainerContext, batch: &Batch) -> Result<Loss> {
        let mut model = export_model(ctx.calls(), ctx.compute());
        let mut compute = compute::export(ctx.compute(), || Owner::named("host compute"));
        let arrays = batch.arrays().iter();
        let arrays = arrays.map(|(name, tensor)| RawNamed { name: name.as_str().into(), tensor: tensor.handle() });
        let arrays: Vec<RawNamed<'_>> = arrays.collect();
        let (mut raw, mut handles) = (RawLoss { sum: 0, weight: 0 }, Vec::new());
        let sink = RawSink::of(&mut handles);
        let names = self.compute_loss(&mut model, &mut compute, arrays.as_slice().into(), &mut raw, &sink)?;
        let owned = |handle| Tensor::from_handle(ctx.compute(), handle);
        let (pairs, rest) = handles.as_chunks::<2>();
        let of_metrics: Vec<[Tensor; 2]> = pairs.iter().map(|pair| pair.map(owned)).collect();
        let (sum, weight) = (owned(raw.sum), owned(raw.weight));
        if of_metrics.len() != names.len() || !rest.is_empty() {
            rest.iter().copied().map(owned).for_each(drop);
            return Err(Error::plugin(format!("a loss has {} tensors for {} metrics", handles.len(), names.len()))
                .in_component(self.name()));
        }
        let metrics = names.into_iter().zip(of_metrics);
        let metrics = metrics.map(|(name, [sum, weight])| Metric { name, sum, weight }).collect();
        Ok(Loss { sum, weight, metrics })
    }
}
