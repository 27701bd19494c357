//! What a trainer plugin provides: from examples to token batches to a loss.

use std::rc::Rc;

use serde::{Deserialize, Serialize};

use crate::{Compute, Error, Example, HostArray, Result, Tensor};

/// An example as tokens.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Encoded {
    /// Token ids.
    pub tokens: Vec<u32>,
    /// For each token, whether predicting it is trained. The first one never is: nothing comes before it.
    pub supervised: Vec<bool>,
    /// How many tokens were cut off because the row was longer than `max_seq_len`.
    pub truncated: u64,
}

impl Encoded {
    /// Number of tokens that are trained.
    pub fn supervised_tokens(&self) -> usize {
        self.supervised.iter().filter(|&&trained| trained).count()
    }
}

/// A micro-batch in host memory.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct HostBatch {
    /// Named arrays, as [`Trainer::loss`] gets them back.
    pub arrays: Vec<(String, HostArray)>,
    /// Tokens without padding.
    pub tokens: u64,
    /// Tokens that are trained.
    pub supervised_tokens: u64,
}

/// The same micro-batch on the device.
#[derive(Debug, Default)]
pub struct Batch {
    arrays: Vec<(String, Tensor)>,
}

impl Batch {
    /// A batch of these named tensors.
    pub fn new(arrays: Vec<(String, Tensor)>) -> Self {
        Self { arrays }
    }

    /// The array of this name.
    pub fn get(&self, name: &str) -> Result<&Tensor> {
        self.arrays
            .iter()
            .find_map(|(key, tensor)| (key == name).then_some(tensor))
            .ok_or_else(|| Error::plugin(format!("the batch has no array named {name:?}")))
    }

    /// All of them.
    pub fn arrays(&self) -> &[(String, Tensor)] {
        &self.arrays
    }
}

/// The loss of one micro-batch. The host divides the sum of all sums by the sum of all weights.
#[derive(Debug)]
pub struct Loss {
    /// Sum of the losses of all supervised tokens, a scalar; it is what is differentiated.
    pub sum: Tensor,
    /// The divisor: the number of supervised tokens, a scalar f32. It is never negative, and the sum over all micro-batches is
    /// above 0; the host refuses other updates.
    pub weight: Tensor,
    /// Further scalars for the log, summed by name over micro-batches and ranks. Batches may differ in their names, and a
    /// metric may be NaN.
    pub metrics: Vec<(String, Tensor)>,
}

/// The model, as a trainer sees it.
///
/// Called on the compute thread.
pub trait ModelCalls {
    /// Hidden states `[B, T, D]` of tokens `[B, T]`; positions and segments as in [`crate::ModelInput`].
    fn hidden(&self, tokens: &Tensor, positions: Option<&Tensor>, segments: Option<&Tensor>) -> Result<Tensor>;
    /// Logits `[.., V]` of hidden states `[.., D]`.
    fn head(&self, hidden: &Tensor) -> Result<Tensor>;
}

/// The model and the device, for computing a loss.
#[derive(Clone)]
pub struct TrainerContext {
    model: Rc<dyn ModelCalls>,
    compute: Rc<dyn Compute>,
}

impl TrainerContext {
    /// A context over this model and this device.
    pub fn new(model: Rc<dyn ModelCalls>, compute: Rc<dyn Compute>) -> Self {
        Self { model, compute }
    }

    /// Hidden states `[B, T, D]` of tokens `[B, T]`.
    pub fn hidden(&self, tokens: &Tensor, positions: Option<&Tensor>, segments: Option<&Tensor>) -> Result<Tensor> {
        self.model.hidden(tokens, positions, segments)
    }

    /// Logits `[.., V]` of hidden states `[.., D]`.
    pub fn head(&self, hidden: &Tensor) -> Result<Tensor> {
        self.model.head(hidden)
    }

    /// The device.
    pub fn compute(&self) -> &Rc<dyn Compute> {
        &self.compute
    }

    /// The model behind it.
    pub fn model(&self) -> &Rc<dyn ModelCalls> {
        &self.model
    }
}

/// The vocabulary of the trainer's tokenizer.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Vocabulary {
    /// The largest token id plus one.
    pub size: usize,
    /// The tokens that end an answer.
    pub stop: Vec<u32>,
}

/// A training objective.
///
/// `encode` and `collate` work on host memory, on several threads at once; `loss` runs on the compute thread.
pub trait Trainer: Send + Sync {
    /// The vocabulary of its tokenizer.
    fn vocabulary(&self) -> Result<Vocabulary>;

    /// An example as tokens, cut at the right to `max_seq_len`. Any thread.
    ///
    /// A row in which nothing would be trained has no supervised token; the host drops, counts and names it.
    ///
    /// # Errors
    /// A row that cannot be rendered or tokenised: the error names what is wrong with it.
    fn encode(&self, example: &Example) -> Result<Encoded>;

    /// The prompt of an example as tokens, ready for the model to continue: everything before the last answer. Any
    /// thread.
    fn encode_prompt(&self, example: &Example) -> Result<Vec<u32>>;

    /// Tokens as text, without special tokens. Any thread.
    fn decode(&self, tokens: &[u32]) -> Result<String>;

    /// Rows as one micro-batch. Any thread.
    fn collate(&self, rows: &[&Encoded]) -> Result<HostBatch>;

    /// The loss of a micro-batch. Compute thread, inside [`Compute::value_and_grad`]: pure, may be called more than
    /// once, reads no values.
    fn loss(&self, ctx: &TrainerContext, batch: &Batch) -> Result<Loss>;
}
