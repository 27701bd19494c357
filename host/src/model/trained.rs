//! A model with its weights, as trainers and generation call it.

use std::borrow::Cow;
use std::cell::RefCell;
use std::collections::BTreeMap;
use std::rc::Rc;

use mdt_plugin_api::{
    Compute, Error, Head, HostArray, ModelCalls, ModelContext, ModelSpec, ParameterSpec, Result, Tensor, TrainerContext,
};

use super::auxiliary::{AuxiliaryLosses, OfPass};
use super::bound::BoundWeights;
use super::forward::{Forward, Training};
use super::layer::Layer;
use super::precision::Precision;
use super::right_tokens::RightTokens;
use super::{Cache, DescribedModel, Directory, OWN};
use crate::exit::{Failure, Status};

/// Logits of more rows than fit into so many bytes are computed in pieces, and again for gradients, where head and loss are not
/// one operation.
const LOGITS_BYTES: usize = 128 << 20;

/// The most tokens, of all rows together, that one pass before a generated token has: so many bound its memory.
const PASS: usize = 2048;

/// The most products of a weight and a number that such a pass has, about a second's work of a few cores: an interruption is noticed
/// between passes.
const PRODUCTS_OF_PASS: usize = 1 << 37;

/// A pass with fewer tokens would take hardly less time: it reads all weights.
const LEAST_PASS: usize = 64;

/// A model with its weights.
pub struct TrainedModel {
    model: DescribedModel,
    weights: Rc<BoundWeights>,
    compute: Rc<dyn Compute>,
    training: Option<Training>,
    logits_bytes: Option<usize>,
    frozen: FrozenModels,
    auxiliary: Option<AuxiliaryLosses>,
    right: Option<RightTokens>,
}

/// Models that are not trained, by name.
pub type FrozenModels = BTreeMap<String, Rc<dyn ModelCalls>>;

impl TrainedModel {
    /// A model over these weights, for evaluation.
    pub fn new(model: &DescribedModel, weights: Rc<BoundWeights>, compute: &Rc<dyn Compute>) -> Self {
        Self {
            model: model.clone(),
            weights,
            compute: Rc::clone(compute),
            training: None,
            logits_bytes: None,
            frozen: FrozenModels::new(),
            auxiliary: None,
            right: None,
        }
    }

    /// The same for training.
    pub fn in_training(self, training: Training) -> Self {
        Self { training: Some(training), ..self }
    }

    /// The same with these beside it.
    pub fn with_frozen(self, frozen: FrozenModels) -> Self {
        Self { frozen, ..self }
    }

    /// The same, which adds its auxiliary losses to these.
    pub fn with_auxiliary(self, losses: &AuxiliaryLosses) -> Self {
        Self { auxiliary: Some(losses.clone()), ..self }
    }

    /// The same, which counts here the tokens with the largest logits among those whose losses are asked for. Their logits are
    /// computed for that, in pieces.
    pub fn counting(self, right: &RightTokens) -> Self {
        Self { right: Some(right.clone()), ..self }
    }

    /// The same with a limit of its own for the bytes of logits that are there at a time.
    pub fn with_logits_bytes(self, logits_bytes: usize) -> Self {
        Self { logits_bytes: Some(logits_bytes), ..self }
    }

    /// The number of positions that the model has learnt, where it has learnt some.
    pub fn max_positions(&self) -> Option<usize> {
        self.model.spec().max_positions
    }

    /// The length beyond which sequences have other keys; see [`ModelSpec::other_keys_beyond`].
    pub fn other_keys_beyond(&self) -> Option<usize> {
        self.model.spec().other_keys_beyond
    }

    /// Whether a sequence that grows, or shrinks, from the cached tokens to this length has other keys then.
    pub fn keys_change(&self, cached: usize, length: usize) -> bool {
        self.other_keys_beyond().is_some_and(|limit| cached > 0 && (cached > limit) != (length > limit))
    }

    /// Logits `[rows, 1, V]` after these tokens `[rows, T]`, which follow what is in the cache. Many tokens are computed in
    /// several passes.
    pub fn next_logits(&self, tokens: &[i32], rows: usize, cache: &mut Cache) -> Result<Tensor> {
        let logits = self.next_logits_unless(&|| false, tokens, rows, cache)?;
        logits.ok_or_else(|| Error::other("logits are missing, and nothing was interrupted"))
    }

    /// The same; none where it is interrupted between two passes.
    pub fn next_logits_unless(
        &self,
        is_interrupted: &dyn Fn() -> bool,
        tokens: &[i32],
        rows: usize,
        cache: &mut Cache,
    ) -> Result<Option<Tensor>> {
        let mut tokens = Cow::Borrowed(tokens);
        if self.other_keys_beyond().is_some() {
            cache.remember(&tokens, rows);
            if self.keys_change(cache.length(), cache.length() + tokens.len() / rows) {
                tokens = Cow::Owned(cache.begin_again());
            }
        }
        let (count, step) = (tokens.len() / rows, (self.tokens_of_pass() / rows).max(1));
        let length = cache.length() + count;
        for start in (0..count).step_by(step) {
            let end = (start + step).min(count);
            let of_pass: Vec<i32> = tokens.chunks_exact(count).flat_map(|row| &row[start..end]).copied().collect();
            let ids = Tensor::from_host(&self.compute, &HostArray::new(&[rows, end - start], &of_pass)?)?;
            let hidden = self.continue_towards(length, &ids, cache)?;
            if end < count {
                cache.eval()?;
                if is_interrupted() {
                    return Ok(None);
                }
                continue;
            }
            let [rows, length, width] = <[usize; 3]>::try_from(hidden.shape()?)
                .map_err(|shape| Error::plugin(format!("hidden states have shape {shape:?}")))?
                .map(|length| length as i64);
            return self.head(&hidden.slice(&[0, length - 1, 0], &[rows, length, width])?).map(Some);
        }
        Err(Error::other("logits are asked for after no token"))
    }

    fn tokens_of_pass(&self) -> usize {
        let elements = |spec: &ParameterSpec| spec.shape.iter().product::<usize>();
        let weights = self.model.spec().parameters.iter().map(elements).sum::<usize>();
        (PRODUCTS_OF_PASS / weights.max(1)).clamp(LEAST_PASS, PASS)
    }

    /// Hidden states of the next tokens of a sequence whose earlier ones are in the cache.
    pub fn continue_hidden(&self, tokens: &Tensor, cache: &mut Cache) -> Result<Tensor> {
        self.continue_towards(0, tokens, cache)
    }

    /// The same of a sequence of which at least `length` tokens are known.
    fn continue_towards(&self, length: usize, tokens: &Tensor, cache: &mut Cache) -> Result<Tensor> {
        let pass = self.forward(tokens)?;
        let (offset, end) = (cache.length(), cache.length() + pass.tokens);
        let padding = cache.padding();
        let positions = padding.map(|padding| padding.positions(&self.compute, offset..end)).transpose()?;
        let segments = padding.map(|padding| padding.segments(&self.compute, end)).transpose()?;
        let shared = Rc::new(RefCell::new(std::mem::take(cache)));
        let forward = Forward {
            offset,
            length: length.max(end),
            positions: positions.map(Rc::new),
            segments: segments.map(Rc::new),
            cache: Some(Rc::clone(&shared)),
            ..pass
        };
        let count = forward.tokens;
        let hidden = self.model.hidden(&self.context(forward), tokens)?;
        shared.borrow_mut().advance(count)?;
        *cache = shared.take();
        Ok(hidden)
    }

    fn forward(&self, tokens: &Tensor) -> Result<Forward> {
        let &[_, length] = tokens.shape()?.as_slice() else {
            return Err(Error::plugin("token ids must have the shape [batch, length]"));
        };
        Ok(self.forward_of(length))
    }

    fn forward_of(&self, tokens: usize) -> Forward {
        Forward {
            compute: Rc::clone(&self.compute),
            weights: Rc::clone(&self.weights),
            precision: self.model.precision(),
            tokens,
            offset: 0,
            length: tokens,
            positions: None,
            segments: None,
            cache: None,
            part: 0,
            auxiliary: None,
            training: self.training,
        }
    }

    fn context(&self, forward: Forward) -> ModelContext {
        ModelContext::new(Rc::new(forward), Rc::clone(&self.compute))
    }
}

impl ModelCalls for TrainedModel {
    fn hidden(&self, tokens: &Tensor, positions: Option<&Tensor>, segments: Option<&Tensor>) -> Result<Tensor> {
        let borrowed = |tensor: &Tensor| Rc::new(Tensor::borrowed(&self.compute, tensor.handle()));
        let (positions, segments) = (positions.map(borrowed), segments.map(borrowed));
        let auxiliary = self.auxiliary.as_ref().map(|losses| (losses, OfPass::default()));
        let of_pass = auxiliary.as_ref().map(|(_, of_pass)| of_pass.clone());
        let forward = Forward { positions, segments, auxiliary: of_pass, ..self.forward(tokens)? };
        let hidden = self.model.hidden(&self.context(forward), tokens)?;
        if let Some((losses, of_pass)) = auxiliary {
            losses.add(of_pass);
        }
        Ok(hidden)
    }

    fn head(&self, hidden: &Tensor) -> Result<Tensor> {
        logits(&self.model.spec().head, &self.context(self.forward_of(0)), hidden)
    }

    /// Head and loss go together: where all logits would be large, no more than a piece of them is ever there, and gradients
    /// compute each piece again. A head that is not one operation with its loss is cut here.
    fn token_losses(&self, hidden: &Tensor, targets: &Tensor) -> Result<Tensor> {
        let [rows, width] = <[usize; 2]>::try_from(hidden.shape()?)
            .map_err(|shape| Error::plugin(format!("hidden states of rows have the shape [N, D], not {shape:?}")))?;
        let ModelSpec { head, vocabulary_size, .. } = self.model.spec();
        let rows_in = |bytes: usize| (bytes / ((*vocabulary_size).max(1) * size_of::<f32>())).max(1);
        let rows_at_a_time = self.logits_bytes.map(rows_in);
        if let Some(right) = &self.right {
            for start in (0..rows).step_by(rows_in(LOGITS_BYTES)) {
                let end = (start + rows_in(LOGITS_BYTES)).min(rows) as i64;
                let hidden = hidden.slice(&[start as i64, 0], &[end, width as i64])?;
                right.add(&self.head(&hidden)?, &targets.slice(&[start as i64], &[end])?)?;
            }
        }
        let layer = Layer { precision: self.model.precision(), ..self.weights.layer(&head.name)? };
        if let Some(losses) = layer.token_losses(head, hidden, targets, rows_at_a_time)? {
            return Ok(losses);
        }
        let piece = rows_at_a_time.unwrap_or(rows_in(LOGITS_BYTES));
        if rows <= piece {
            return self.head(hidden)?.cross_entropy(targets);
        }
        let forward = self.forward_of(0);
        let mut losses = Vec::new();
        for start in (0..rows).step_by(piece) {
            let end = (start + piece).min(rows) as i64;
            let hidden = hidden.slice(&[start as i64, 0], &[end, width as i64])?;
            let targets = targets.slice(&[start as i64], &[end])?;
            let model = self.model.clone();
            let function = move |ctx: &ModelContext, inputs: &[Tensor]| {
                let [hidden, targets] = inputs else { return Err(Error::other("a head takes two inputs")) };
                Ok(vec![logits(&model.spec().head, ctx, hidden)?.cross_entropy(targets)?])
            };
            let forward = Forward { part: start as u64, ..forward.clone() };
            losses.extend(forward.run_block(&head.name, &[&hidden, &targets], Rc::new(function), true)?);
        }
        Tensor::concatenate(&losses.iter().collect::<Vec<_>>(), 0)
    }

    fn own_parameter(&self, name: &str) -> Result<Option<Tensor>> {
        self.weights.find(&format!("{OWN}{name}"))?.map(Tensor::try_clone).transpose()
    }

    fn frozen(&self, name: &str) -> Result<Rc<dyn ModelCalls>> {
        self.frozen.get(name).cloned().ok_or_else(|| {
            let error = Error::plugin(format!("the trainer asked for the frozen model `{name}`, and there is none"));
            match name {
                TrainerContext::REFERENCE => error.help("its author declares the ability `reference` in `plugin!`"),
                _ => error.help(format!("name one: `trainer.models.{name} = {{ path = \"DIR\" }}`")),
            }
        })
    }
}

/// Logits of hidden states by a head, in float32 whatever the hidden states are: a loss is a small difference of large numbers.
fn logits(head: &Head, ctx: &ModelContext, hidden: &Tensor) -> Result<Tensor> {
    let mut logits = ctx.linear(&head.name, &Precision::F32.activation(hidden.try_clone()?)?)?;
    if head.scale != 1.0 {
        logits = logits.multiply(head.scale)?;
    }
    match head.soft_cap {
        Some(cap) => logits.multiply(1.0 / cap)?.tanh()?.multiply(cap),
        None => Ok(logits),
    }
}

/// Refuses a tokenizer that makes ids the model has no row for.
pub fn check_vocabulary(model: &ModelSpec, directory: &Directory, tokenizer: usize) -> Result<(), Failure> {
    let rows = model.vocabulary_size;
    if tokenizer <= rows {
        return Ok(());
    }
    Err(Failure::new(
        Status::Input,
        format!("the tokenizer has ids up to {}, the model's vocabulary has {rows}", tokenizer - 1),
    )
    .at(directory.path().display())
    .help("the tokenizer belongs to another model, or tokens were added without growing the embeddings"))
}
