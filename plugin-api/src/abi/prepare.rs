//! The optional abilities of trainers across the boundary.

use std::rc::Rc;

use abi_stable::std_types::RSlice;

use super::compute;
use super::guard::{Guarded, Owner};
use super::object::{AnyThread, Imported, RawObject, RawSink, exports};
use super::record::{decode, encode, replies};
use super::table::{c_struct, interfaces};
use super::trainer::{LoadedModel, RawItem, export_model, with_raw_items};
use super::types::{filled, having};
use crate::register::TrainerComponent;
use crate::{
    Error, Evaluation, Generated, Generation, Item, ModelSpec, ParameterSpec, Prepare, PrepareContext, Reference,
    Result, Sampling, TrainerContext, TrainerParameters,
};

c_struct! {
    /// [`Sampling`].
    "MdtSampling" RawSampling<'a> {
        count: usize,
        max_tokens: usize,
        temperature: f64,
        seed: u64,
        stop: RSlice<'a, u32>,
    }
}

interfaces! {
    /// Answers of the trained model. The compute thread.
    "host.generation/1" HostGeneration GenerationFunctions {
        /// [`Generation::generate`]: the tokens of all answers in turn, their log-probabilities, the length of each answer.
        fn draw_answers(
            prompt: RSlice<'_, u32>, sampling: &RawSampling<'_>, tokens: &RawSink<'_, u32>,
            log_probs: &RawSink<'_, f32>, lengths: &RawSink<'_, usize>
        );
    }

    /// Work before a batch is made. The compute thread. The objects are the trainer's from then on.
    "trainer.prepare/1" TrainerPrepare PrepareFunctions {
        /// [`Prepare::prepare`].
        fn prepare_items(
            seed: u64, model: &mut RawObject, generation: &mut RawObject, compute: &mut RawObject,
            items: RSlice<'_, RawItem<'_>>
        ) -> Vec<Item>;
    }

    /// A frozen copy of the first weights. Any thread.
    "trainer.reference/1" TrainerReference ReferenceFunctions {
        /// [`Reference::needs_reference`].
        fn needs_a_reference(needed: &mut bool);
    }

    /// Numbers for evaluations. The compute thread. The objects are the trainer's from then on.
    "trainer.evaluation/1" TrainerEvaluation EvaluationFunctions {
        /// [`Evaluation::evaluate`]: the names, and sum and weight of each in turn.
        fn evaluate_items(
            seed: u64, model: &mut RawObject, generation: &mut RawObject, compute: &mut RawObject,
            items: RSlice<'_, RawItem<'_>>, numbers: &RawSink<'_, f64>
        ) -> Vec<String>;
    }

    /// Parameters of its own. Any thread.
    "trainer.parameters/1" TrainerOwnParameters OwnParametersFunctions {
        /// [`TrainerParameters::parameters`] beside a [`ModelSpec`].
        fn own_parameters(model: RSlice<'_, u8>) -> Vec<ParameterSpec>;
    }
}

replies! { Vec<ParameterSpec> }

type LocalGeneration = Rc<dyn Generation>;

exports! { LocalGeneration: HostGeneration; }
// SAFETY: `Trainer` is `Send + Sync`.
unsafe impl AnyThread for TrainerPrepare {}
// SAFETY: as above.
unsafe impl AnyThread for TrainerReference {}
// SAFETY: as above.
unsafe impl AnyThread for TrainerEvaluation {}
// SAFETY: as above.
unsafe impl AnyThread for TrainerOwnParameters {}

impl GenerationFunctions for LocalGeneration {
    fn draw_answers(
        &self,
        prompt: RSlice<'_, u32>,
        sampling: &RawSampling<'_>,
        tokens: &RawSink<'_, u32>,
        log_probs: &RawSink<'_, f32>,
        lengths: &RawSink<'_, usize>,
    ) -> Result<()> {
        let RawSampling { count, max_tokens, temperature, seed, stop } = *sampling;
        let sampling = Sampling { count, max_tokens, temperature, seed, stop: stop.to_vec() };
        for answer in self.generate(prompt.as_slice(), &sampling)? {
            tokens.write(&answer.tokens);
            log_probs.write(&answer.log_probs);
            lengths.write(&[answer.tokens.len()]);
        }
        Ok(())
    }
}

impl Generation for Imported<HostGeneration> {
    fn generate(&self, prompt: &[u32], sampling: &Sampling) -> Result<Vec<Generated>> {
        let raw = RawSampling {
            count: sampling.count,
            max_tokens: sampling.max_tokens,
            temperature: sampling.temperature,
            seed: sampling.seed,
            stop: sampling.stop.as_slice().into(),
        };
        let (mut tokens, mut log_probs, mut lengths) = (Vec::new(), Vec::new(), Vec::new());
        self.draw_answers(
            prompt.into(),
            &raw,
            &RawSink::of(&mut tokens),
            &RawSink::of(&mut log_probs),
            &RawSink::of(&mut lengths),
        )?;
        let (mut tokens, mut log_probs) = (tokens.as_slice(), log_probs.as_slice());
        let answer = |length: usize| {
            let tokens = tokens.split_off(..length)?.to_vec();
            Some(Generated { tokens, log_probs: log_probs.split_off(..length)?.to_vec() })
        };
        let answers: Option<Vec<_>> = lengths.into_iter().map(answer).collect();
        answers.ok_or_else(|| Error::plugin("answers came with fewer tokens than their lengths say"))
    }
}

/// The objects of a context: its model, its generation, its compute.
fn export_context(ctx: &PrepareContext) -> [RawObject; 3] {
    let generation: LocalGeneration = Rc::clone(ctx.generation());
    [
        export_model(ctx.calls(), ctx.compute()),
        RawObject::new(Guarded::for_this_thread(generation, Owner::named("host generation"))),
        compute::export(ctx.compute(), || Owner::named("host compute")),
    ]
}

fn import_context(
    seed: u64,
    model: &mut RawObject,
    generation: &mut RawObject,
    compute: &mut RawObject,
) -> Result<PrepareContext> {
    let compute = compute::import(std::mem::take(compute), "compute")?;
    let model = LoadedModel::import(std::mem::take(model), &compute)?;
    let generation = Imported::<HostGeneration>::of(std::mem::take(generation), "host generation")?;
    Ok(PrepareContext::new(TrainerContext::new(model, compute), Rc::new(generation), seed))
}

impl PrepareFunctions for TrainerComponent {
    fn prepare_items(
        &self,
        seed: u64,
        model: &mut RawObject,
        generation: &mut RawObject,
        compute: &mut RawObject,
        items: RSlice<'_, RawItem<'_>>,
    ) -> Result<Vec<Item>> {
        let ctx = import_context(seed, model, generation, compute)?;
        let items: Vec<Item> = items.iter().map(RawItem::plain).collect();
        having(&self.prepare)?.prepare(&ctx, &items.iter().collect::<Vec<_>>())
    }
}

impl ReferenceFunctions for TrainerComponent {
    fn needs_a_reference(&self, needed: &mut bool) -> Result<()> {
        *needed = having(&self.reference)?.needs_reference();
        Ok(())
    }
}

impl EvaluationFunctions for TrainerComponent {
    fn evaluate_items(
        &self,
        seed: u64,
        model: &mut RawObject,
        generation: &mut RawObject,
        compute: &mut RawObject,
        items: RSlice<'_, RawItem<'_>>,
        numbers: &RawSink<'_, f64>,
    ) -> Result<Vec<String>> {
        let ctx = import_context(seed, model, generation, compute)?;
        let items: Vec<Item> = items.iter().map(RawItem::plain).collect();
        let mut names = Vec::new();
        for (name, sum, weight) in having(&self.evaluation)?.evaluate(&ctx, &items.iter().collect::<Vec<_>>())? {
            numbers.write(&[sum, weight]);
            names.push(name);
        }
        Ok(names)
    }
}

impl OwnParametersFunctions for TrainerComponent {
    fn own_parameters(&self, model: RSlice<'_, u8>) -> Result<Vec<ParameterSpec>> {
        having(&self.parameters)?.parameters(&decode(model.as_slice())?)
    }
}

impl TrainerParameters for Imported<TrainerOwnParameters> {
    fn parameters(&self, model: &ModelSpec) -> Result<Vec<ParameterSpec>> {
        self.own_parameters(encode(model)?.as_slice().into())
    }
}

impl Prepare for Imported<TrainerPrepare> {
    fn prepare(&self, ctx: &PrepareContext, items: &[&Item]) -> Result<Vec<Item>> {
        let [mut model, mut generation, mut compute] = export_context(ctx);
        with_raw_items(items, |items| self.prepare_items(ctx.seed(), &mut model, &mut generation, &mut compute, items))
    }
}

impl Reference for Imported<TrainerReference> {
    fn needs_reference(&self) -> bool {
        // A trainer that panics here is poisoned: the first row reports it.
        filled(|needed| self.needs_a_reference(needed)).unwrap_or(true)
    }
}

impl Evaluation for Imported<TrainerEvaluation> {
    fn evaluate(&self, ctx: &PrepareContext, items: &[&Item]) -> Result<Vec<(String, f64, f64)>> {
        let [mut model, mut generation, mut compute] = export_context(ctx);
        let mut numbers = Vec::new();
        let names = with_raw_items(items, |items| {
            let numbers = RawSink::of(&mut numbers);
            self.evaluate_items(ctx.seed(), &mut model, &mut generation, &mut compute, items, &numbers)
        })?;
        let (pairs, rest) = numbers.as_chunks::<2>();
        if pairs.len() != names.len() || !rest.is_empty() {
            let (count, names) = (numbers.len(), names.len());
            return Err(
                Error::plugin(format!("an evaluation has {count} numbers for {names} names")).in_component(self.name())
            );
        }
        Ok(names.into_iter().zip(pairs).map(|(name, &[sum, weight])| (name, sum, weight)).collect())
    }
}
