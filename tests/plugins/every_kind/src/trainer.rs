//! A trainer that calls all that a host does for trainers.

use std::rc::Rc;

use mdt_plugin_api::prelude::*;
use mdt_plugin_api::{Generation, ModelCalls};

use super::compute::tensor;
use super::faults::Faults;
use super::recorder::Recorder;
use super::source::Source;

/// The trainer.
pub struct Counts {
    faults: Faults,
    tokenizer: SharedTokenizer,
    services: Services,
}

impl Component for Counts {
    type Config = Faults;

    fn create(faults: Faults, setup: &Setup) -> Result<Self> {
        faults.at("create")?;
        Ok(Self { faults, tokenizer: setup.tokenizer()?.clone(), services: setup.services.clone() })
    }
}

impl Drop for Counts {
    fn drop(&mut self) {
        self.faults.panic_at("drop");
    }
}

impl Trainer for Counts {
    fn encode(&self, example: &Example) -> Result<Vec<Item>> {
        self.faults.at("encode")?;
        let tokens = self.tokenizer.encode_prompt(example)?;
        let supervised = tokens.iter().map(|token| token % 2 == 0).collect();
        let item = Item::of(tokens, supervised).with("rejected", vec![70_000], vec![true]);
        Ok(vec![item.with_numbers("weight", [0.5, f64::INFINITY]), Item::default()])
    }

    fn collate(&self, rows: &BatchRows<'_>) -> Result<HostBatch> {
        self.faults.at("collate")?;
        let items = rows.items();
        let mut batch = HostBatch { tokens: 3, supervised_tokens: 1, ..HostBatch::default() };
        let numbers: Vec<f32> = items.iter().map(|item| item.tokens() as f32).collect();
        batch.add("tokens", &[items.len()], &numbers)?;
        batch.add("weights", &[1], &[items[0].number("weight")?])?;
        let per_row: Vec<u64> = rows.items_per_row().iter().map(|&count| count as u64).collect();
        batch.add("items_per_row", &[per_row.len()], &per_row)?;
        Ok(batch)
    }

    fn loss(&self, ctx: &TrainerContext, batch: &Batch) -> Result<Loss> {
        self.faults.at("loss")?;
        let tokens = batch.get("tokens")?;
        let hidden = ctx.hidden(tokens, Some(batch.get("positions")?), None)?;
        let frozen = ctx.reference()?.hidden(tokens, None, Some(batch.get("positions")?))?;
        let hidden = (&hidden * &ctx.parameter("scale")?)?;
        let absent = ctx.parameter("absent").map(drop);
        self.services.log(LogLevel::Info, &format!("{:?}", absent.map_err(|error| error.message().to_owned())));
        let losses = ctx.token_losses(&(&hidden + &frozen)?, &ctx.head(&hidden)?)?;
        let metrics = vec![Metric { name: "seen".to_owned(), sum: losses.sum()?, weight: frozen.sum()? }];
        ctx.model("absent").map(drop).or_else(|error| {
            self.services.log(LogLevel::Info, error.message());
            Ok::<(), Error>(())
        })?;
        Ok(Loss { sum: losses.sum()?, weight: hidden.sum()?, metrics })
    }
}

impl Prepare for Counts {
    fn prepare(&self, ctx: &PrepareContext, items: &[&Item]) -> Result<Vec<Item>> {
        self.faults.at("prepare")?;
        let sampling = Sampling { count: 2, max_tokens: 3, temperature: 0.5, seed: ctx.key(1), stop: vec![2, 3] };
        let mut prepared = Vec::new();
        for item in items {
            for answer in ctx.generate(&item.sequence(Item::TOKENS)?.tokens, &sampling)? {
                let supervised = vec![true; answer.tokens.len()];
                let log_probs: Vec<f64> = answer.log_probs.into_iter().map(f64::from).collect();
                prepared.push(Item::of(answer.tokens, supervised).with_numbers("log_probs", log_probs));
            }
        }
        Ok(prepared)
    }
}

impl Reference for Counts {
    fn needs_reference(&self) -> bool {
        self.faults.panic_at("needs_reference");
        false
    }
}

impl Evaluation for Counts {
    fn evaluate(&self, ctx: &PrepareContext, items: &[&Item]) -> Result<Vec<(String, f64, f64)>> {
        self.faults.at("evaluate")?;
        let hidden = ctx.hidden(&tensor(ctx.compute(), &[1.0, 2.0])?, None, None)?;
        Ok(vec![("hidden".to_owned(), hidden.sum()?.item()?, 2.0), ("rows".to_owned(), items.len() as f64, f64::NAN)])
    }
}

impl TrainerParameters for Counts {
    fn parameters(&self, model: &ModelSpec) -> Result<Vec<ParameterSpec>> {
        self.faults.at("parameters")?;
        Ok(vec![ParameterSpec::new("scale", [model.hidden_size()?], Role::Other, Init::Ones).frozen()])
    }
}

/// A model that multiplies.
struct Calls {
    compute: Rc<dyn Compute>,
    factor: f64,
}

impl ModelCalls for Calls {
    fn hidden(&self, tokens: &Tensor, positions: Option<&Tensor>, segments: Option<&Tensor>) -> Result<Tensor> {
        let hidden = tokens.multiply(self.factor)?;
        [(positions, 10.0), (segments, 100.0)].into_iter().try_fold(hidden, |hidden, (given, factor)| match given {
            Some(given) => &hidden + &given.multiply(factor)?,
            None => Ok(hidden),
        })
    }

    fn head(&self, hidden: &Tensor) -> Result<Tensor> {
        hidden.plus(1.0)
    }

    fn token_losses(&self, hidden: &Tensor, targets: &Tensor) -> Result<Tensor> {
        hidden * targets
    }

    fn frozen(&self, name: &str) -> Result<Rc<dyn ModelCalls>> {
        match name {
            TrainerContext::REFERENCE => Ok(Rc::new(Calls { compute: Rc::clone(&self.compute), factor: 0.5 })),
            _ => Err(Error::config(format!("there is no model `{name}`"))),
        }
    }

    fn own_parameter(&self, name: &str) -> Result<Option<Tensor>> {
        (name != "absent").then(|| tensor(&self.compute, &[self.factor as f32])).transpose()
    }
}

/// Answers that repeat their prompt.
struct Echo;

impl Generation for Echo {
    fn generate(&self, prompt: &[u32], sampling: &Sampling) -> Result<Vec<Generated>> {
        if prompt.is_empty() {
            return Err(Error::input(format!("nothing to answer with {sampling:?}")));
        }
        let answer = |length| Generated { tokens: prompt[..length].to_vec(), log_probs: vec![-0.5; length] };
        Ok((0..sampling.count).map(|index| answer(index.min(prompt.len()))).collect())
    }
}

/// The methods that may fail.
pub const METHODS: &[&str] = &["encode", "collate", "loss", "prepare", "needs_reference", "evaluate", "parameters"];

/// Calls each method.
pub fn exercise(recorder: &mut Recorder, source: &Source) {
    let config = recorder.config();
    let setup = Setup { tokenizer: Some(source.plain_tokenizer()), ..recorder.setup() };
    let Some(trainer) = recorder.make("create", |_| String::new(), || source.trainer(&config, &setup)) else { return };
    let compute = source.plain_compute();
    for example in [Example::new(1).with("prompt", "2 + 2").with("completion", "4"), Example::new(2).with("prompt", 3)]
    {
        recorder.call_shared("encode", || trainer.encode(&example));
    }
    let item = Item::of(vec![5, 6, 7], vec![false, true, true]).with_numbers("weight", [0.5]);
    let empty = Item::of(Vec::new(), Vec::new());
    for (items, per_row) in [(&[&item, &empty][..], &[2][..]), (&[&empty], &[1])] {
        let rows = BatchRows::new(items, per_row).expect("rows");
        recorder.call_shared("collate", || trainer.collate(&rows));
    }
    for parameters in [vec![ParameterSpec::new("head.weight", [5, 3], Role::Linear, Init::Zeros)], Vec::new()] {
        let model = ModelSpec::new(parameters, 5, Head::new("head"));
        recorder.call_shared("parameters", || trainer.parameters.as_ref().expect("the ability").parameters(&model));
    }
    let calls = Rc::new(Calls { compute: Rc::clone(&compute), factor: 2.0 });
    let ctx = TrainerContext::new(calls, Rc::clone(&compute));
    for names in [&["tokens", "positions"][..], &["tokens"]] {
        recorder.call("loss", || {
            let array = |name: &&str| Ok(((*name).to_owned(), tensor(&compute, &[1.0, name.len() as f32])?));
            let batch = Batch::new(names.iter().map(array).collect::<Result<_>>()?);
            let Loss { sum, weight, metrics } = trainer.loss(&ctx, &batch)?;
            let of_metric = |Metric { name, sum, weight }: Metric| Ok((name, sum.item()?, weight.item()?));
            Ok((sum.item()?, weight.item()?, metrics.into_iter().map(of_metric).collect::<Result<Vec<_>>>()?))
        });
    }
    let ctx = PrepareContext::new(ctx, Rc::new(Echo), 7);
    for items in [&[&item][..], &[&item, &empty]] {
        recorder.call("prepare", || trainer.prepare.as_ref().expect("the ability").prepare(&ctx, items));
        recorder.call("evaluate", || trainer.evaluation.as_ref().expect("the ability").evaluate(&ctx, items));
    }
    let reference = trainer.reference.as_ref().expect("the ability");
    recorder.call_infallible(
        "needs_reference",
        || reference.needs_reference(),
        || trainer.encode(&Example::new(1)).map(drop),
    );
    recorder.drop("drop", trainer);
}
