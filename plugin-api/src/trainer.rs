//! What a trainer plugin provides: from examples to items, to batches, to a loss.

use std::ops::Deref;
use std::rc::Rc;

use crate::{Batch, BatchRows, Compute, Dtype, Error, Example, HostBatch, Item, Result, Tensor};

/// The loss of one micro-batch. The host divides the sum of all sums by the sum of all weights.
#[derive(Debug)]
pub struct Loss {
    /// Sum of the losses of all supervised tokens, or of all items, a scalar; it is what is differentiated.
    pub sum: Tensor,
    /// The divisor: the number of supervised tokens, or of items, a scalar f32. It is never negative, and the sum over all
    /// micro-batches is above 0; the host refuses other updates.
    pub weight: Tensor,
    /// Further numbers for the log.
    pub metrics: Vec<Metric>,
}

/// A mean for the log: over micro-batches and ranks, the host divides the sum of all sums by the sum of all weights.
/// Micro-batches may differ in the names of their metrics, and one may be NaN.
#[derive(Debug)]
pub struct Metric {
    /// Its name in metrics.jsonl; `eval_` stands before it in evaluations.
    pub name: String,
    /// What is summed, a scalar.
    pub sum: Tensor,
    /// What the sum is divided by, a scalar.
    pub weight: Tensor,
}

impl Metric {
    /// The mean of all elements of a tensor; over several micro-batches each element counts as much as any other.
    pub fn mean(name: &str, values: &Tensor) -> Result<Self> {
        let count: usize = values.shape()?.iter().product();
        let weight = Tensor::full(values.compute(), &[], count as f64, Dtype::F32)?;
        Ok(Self { name: name.to_owned(), sum: values.cast(Dtype::F32)?.sum()?, weight })
    }
}

/// A model with its weights, as the host lends it to a trainer. Compute thread.
pub trait ModelCalls {
    /// Hidden states `[B, T, D]` of tokens `[B, T]`; positions `[B, T]` count from 0 for each row when
    /// absent, and segments `[B, T]`, the number of each token's document, are one for each row.
    fn hidden(&self, tokens: &Tensor, positions: Option<&Tensor>, segments: Option<&Tensor>) -> Result<Tensor>;
    /// Logits `[.., V]` of hidden states `[.., D]`.
    fn head(&self, hidden: &Tensor) -> Result<Tensor>;
    /// [`LanguageModel::token_losses`].
    fn token_losses(&self, hidden: &Tensor, targets: &Tensor) -> Result<Tensor>;
    /// The frozen model of this name.
    fn frozen(&self, name: &str) -> Result<Rc<dyn ModelCalls>>;
    /// A parameter of the trainer's own; none where it declares none of this name.
    fn own_parameter(&self, name: &str) -> Result<Option<Tensor>>;
}

/// A model with its weights. Compute thread.
#[derive(Clone)]
pub struct LanguageModel(Rc<dyn ModelCalls>);

impl LanguageModel {
    /// Hidden states `[B, T, D]` of tokens `[B, T]`; positions `[B, T]` count from 0 for each row when
    /// absent, and segments `[B, T]`, the number of each token's document, are one for each row.
    pub fn hidden(&self, tokens: &Tensor, positions: Option<&Tensor>, segments: Option<&Tensor>) -> Result<Tensor> {
        self.0.hidden(tokens, positions, segments)
    }

    /// Logits `[.., V]` of hidden states `[.., D]`.
    pub fn head(&self, hidden: &Tensor) -> Result<Tensor> {
        self.0.head(hidden)
    }

    /// `-log p(target)` in nats, f32 `[N]`, of the next tokens `[N]` (int32) after hidden states `[N, D]`. A negative target
    /// costs nothing.
    pub fn token_losses(&self, hidden: &Tensor, targets: &Tensor) -> Result<Tensor> {
        self.0.token_losses(hidden, targets)
    }

    /// Hidden states `[N, D]` that predict the trained tokens of the sequences that [`HostBatch::add_sequences`] put into a
    /// batch under this name. Items of one row do not see each other.
    pub fn predicting(&self, batch: &Batch, name: &str) -> Result<Tensor> {
        let part = |part: &str| format!("{name}.{part}");
        let (positions, segments) = (batch.find(&part("positions")), batch.find(&part("segments")));
        let hidden = self.hidden(batch.get(name)?, positions, segments)?;
        let width = hidden.shape()?.last().copied().unwrap_or(1) as i64;
        hidden.reshape(&[-1, width])?.take(batch.get(&part("places"))?, 0)
    }

    /// `-log p` in nats, f32 `[N]`, of the trained tokens of these sequences.
    pub fn trained_losses(&self, batch: &Batch, name: &str) -> Result<Tensor> {
        self.token_losses(&self.predicting(batch, name)?, batch.get(&format!("{name}.targets"))?)?.cast(Dtype::F32)
    }

    /// Log-probabilities `[I, M]` in nats of the trained tokens of each item in these sequences; 0 where an item has fewer
    /// than M.
    pub fn log_probs(&self, batch: &Batch, name: &str) -> Result<Tensor> {
        let (slots, mask) = (batch.get(&format!("{name}.slots"))?, batch.get(&format!("{name}.mask"))?);
        let losses = self.trained_losses(batch, name)?.take(&slots.reshape(&[-1])?, 0)?;
        let shape: Vec<i64> = slots.shape()?.iter().map(|&axis| axis as i64).collect();
        (&losses.reshape(&shape)? * mask)?.multiply(-1.0)
    }
}

/// The models and the device, for computing a loss; by itself it is the model that is trained. Compute thread.
#[derive(Clone)]
pub struct TrainerContext {
    trained: LanguageModel,
    compute: Rc<dyn Compute>,
}

impl TrainerContext {
    /// The name of the frozen model with the weights that training began with.
    pub const REFERENCE: &'static str = "reference";

    /// A context over this model and this device.
    pub fn new(model: Rc<dyn ModelCalls>, compute: Rc<dyn Compute>) -> Self {
        Self { trained: LanguageModel(model), compute }
    }

    /// The model with the weights that training began with, frozen. The host keeps them for trainers that ask for it with
    /// the ability `reference`.
    pub fn reference(&self) -> Result<LanguageModel> {
        self.model(Self::REFERENCE)
    }

    /// A frozen model that the configuration names: `trainer.models.teacher = { path = "…" }` is `model("teacher")`. No
    /// gradient reaches its weights.
    pub fn model(&self, name: &str) -> Result<LanguageModel> {
        self.trained.0.frozen(name).map(LanguageModel)
    }

    /// A parameter of the trainer's own, which it declares with the ability `parameters`.
    ///
    /// # Errors
    /// It declares none of this name.
    pub fn parameter(&self, name: &str) -> Result<Tensor> {
        let found = self.trained.0.own_parameter(name)?;
        found.ok_or_else(|| {
            Error::plugin(format!("the trainer asked for its parameter `{name}`, which it did not declare"))
        })
    }

    /// `W x (+ b)` with the trainer's own `<name>.weight`, `[out, in]`, and, where it declares one, `<name>.bias`; x
    /// `[.., in]`, result `[.., out]`.
    pub fn linear(&self, name: &str, x: &Tensor) -> Result<Tensor> {
        let weight = self.parameter(&format!("{name}.weight"))?;
        let bias = self.trained.0.own_parameter(&format!("{name}.bias"))?;
        x.linear(&weight, bias.as_ref())
    }

    /// The device.
    pub fn compute(&self) -> &Rc<dyn Compute> {
        &self.compute
    }

    /// What the trained model is called through.
    pub(crate) fn calls(&self) -> &Rc<dyn ModelCalls> {
        &self.trained.0
    }
}

impl Deref for TrainerContext {
    type Target = LanguageModel;

    fn deref(&self) -> &Self::Target {
        &self.trained
    }
}

/// A training objective.
///
/// `encode` and `collate` work on host memory, on several threads at once; `loss` runs on the compute thread.
pub trait Trainer: Send + Sync {
    /// What is trained of an example: one item, several, or none. Any thread.
    /// [`SharedTokenizer::complete`](crate::SharedTokenizer::complete) makes tokens of a prompt and its completion,
    /// [`Tokenizer::render`](crate::Tokenizer::render) of a conversation.
    ///
    /// The host cuts sequences at `trainer.max_seq_len`; where `trainer.long_rows` says so, it drops the row, or splits an item of
    /// one sequence without numbers. An item in which nothing would be trained has no supervised token; the host drops, counts
    /// and names its row.
    ///
    /// # Errors
    /// A row that cannot be used: the error names what is wrong with it.
    fn encode(&self, example: &Example) -> Result<Vec<Item>>;

    /// Rows of items as one micro-batch. Any thread.
    ///
    /// A row has several items where the host packs (`trainer.packing`). [`HostBatch::add_sequences`] lays sequences out by
    /// the rows; a trainer that lays every item out as a row of its own is right, too, and not packed.
    fn collate(&self, rows: &BatchRows<'_>) -> Result<HostBatch>;

    /// The loss of a micro-batch. Compute thread, inside [`Compute::value_and_grad`]: pure, may be called more than
    /// once, reads no values.
    fn loss(&self, ctx: &TrainerContext, batch: &Batch) -> Result<Loss>;
}
