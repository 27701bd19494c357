//! Optional abilities of trainers: work before a batch is made, a frozen reference, numbers for evaluations, parameters.

use std::ops::Deref;
use std::rc::Rc;

use crate::{Item, ModelSpec, ParameterSpec, Result, TrainerContext};

/// How answers are drawn from a model.
#[derive(Clone, Debug, PartialEq)]
pub struct Sampling {
    /// The number of answers.
    pub count: usize,
    /// Maximum length of an answer, in tokens.
    pub max_tokens: usize,
    /// What logits are divided by; 0 takes the most likely token each time.
    pub temperature: f64,
    /// The answers are a function of the weights, the prompt and this number alone.
    pub seed: u64,
    /// Tokens that end an answer.
    pub stop: Vec<u32>,
}

/// An answer that was drawn.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Generated {
    /// Its tokens, with the one that ended it.
    pub tokens: Vec<u32>,
    /// The log-probability of each in nats, as the model has it at a temperature of 1.
    pub log_probs: Vec<f32>,
}

/// Draws answers; the host implements it. Compute thread.
pub trait Generation {
    /// Answers to a prompt.
    fn generate(&self, prompt: &[u32], sampling: &Sampling) -> Result<Vec<Generated>>;
}

/// What a trainer can use outside of the gradient: its models, whose values may be read, and answers that they give.
/// Compute thread.
#[derive(Clone)]
pub struct PrepareContext {
    trainer: TrainerContext,
    generation: Rc<dyn Generation>,
    seed: u64,
}

impl PrepareContext {
    /// A context over these.
    pub fn new(trainer: TrainerContext, generation: Rc<dyn Generation>, seed: u64) -> Self {
        Self { trainer, generation, seed }
    }

    /// Answers of the trained model to a prompt.
    ///
    /// # Errors
    /// The prompt or the number of answers is empty; logits that are not finite.
    pub fn generate(&self, prompt: &[u32], sampling: &Sampling) -> Result<Vec<Generated>> {
        self.generation.generate(prompt, sampling)
    }

    /// A random number for a place in the micro-batch: a function of the job's seed, the update, the number of the
    /// micro-batch among those of all ranks, and this place.
    pub fn key(&self, place: u64) -> u64 {
        // SplitMix64 (Steele, Lea, Flood 2014).
        let mut bits = self.seed.wrapping_add((place + 1).wrapping_mul(0x9E37_79B9_7F4A_7C15));
        bits = (bits ^ (bits >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        bits = (bits ^ (bits >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        bits ^ (bits >> 31)
    }

    /// The seed behind [`PrepareContext::key`].
    pub(crate) fn seed(&self) -> u64 {
        self.seed
    }

    /// What draws answers.
    pub(crate) fn generation(&self) -> &Rc<dyn Generation> {
        &self.generation
    }
}

/// The models and the device.
impl Deref for PrepareContext {
    type Target = TrainerContext;

    fn deref(&self) -> &Self::Target {
        &self.trainer
    }
}

/// The ability `prepare`: work on the items of a micro-batch before they become a batch, outside of the gradient.
pub trait Prepare: Send + Sync {
    /// The items that the batch is made of. It may draw answers and read values. It gets the items of one micro-batch as
    /// [`Trainer::encode`](crate::Trainer::encode) made them; they need no supervised token. The host calls it again for each epoch, and for
    /// evaluations. Compute thread. Other ranks wait for it, however long it takes.
    ///
    /// The result must be a function of the weights, the items and [`PrepareContext::key`] alone: then resumed runs have
    /// the same bits, and so has every number of ranks.
    fn prepare(&self, ctx: &PrepareContext, items: &[&Item]) -> Result<Vec<Item>>;
}

/// The ability `reference`: a frozen copy of the weights that training began with, [`TrainerContext::reference`].
pub trait Reference: Send + Sync {
    /// Whether this configuration needs it. The host keeps one more copy of the weights then. Any thread.
    fn needs_reference(&self) -> bool;
}

/// The ability `evaluation`: numbers of its own for the held-out items.
pub trait Evaluation: Send + Sync {
    /// Numbers as (name, sum, weight), which the host adds up over all held-out items and divides. Compute thread.
    fn evaluate(&self, ctx: &PrepareContext, items: &[&Item]) -> Result<Vec<(String, f64, f64)>>;
}

/// The ability `parameters`: parameters of its own beside those of the model, such as a value head.
///
/// The host makes them from the job's seed, and trains, clips, saves and resumes them as it does the model's. Outside of
/// the trainer their names begin with `trainer.`, in patterns such as `optimizer.no_decay` and in checkpoints; `final/` has
/// them in a file of their own, `trainer.safetensors`, under the names that the trainer knows.
pub trait TrainerParameters: Send + Sync {
    /// What they are beside this model, which [`ModelSpec::hidden_size`] may be taken from. [`TrainerContext::parameter`] and
    /// [`TrainerContext::linear`] find them. Any thread.
    fn parameters(&self, model: &ModelSpec) -> Result<Vec<ParameterSpec>>;
}
