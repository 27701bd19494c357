//! A stack of layers between an embedding and a head, as a family's file describes it.

use std::iter;
use std::rc::Rc;

use mdt_plugin_api::{Error, Head, Init, Layout, ModelContext, ParameterSpec, Result, Role, Tensor};

use crate::attention::Attention;
use crate::feed_forward::FeedForward;
use crate::norm::Norm;
use crate::parameters::Parameters;
use crate::rope::{Rope, Rotation};

/// The whole model. Each part of it declares its parameters and computes with them.
#[derive(Clone, Debug, PartialEq)]
pub struct Decoder {
    /// The names of its parts.
    pub names: Names,
    /// Rows of the embedding.
    pub vocabulary_size: usize,
    /// Width of the hidden states.
    pub hidden_size: usize,
    /// Standard deviation of fresh weights.
    pub initializer_range: f64,
    /// Whether the head is the embedding.
    pub tied: bool,
    /// Number of learnt positions, which are added to embeddings.
    pub positions: Option<usize>,
    /// What embeddings are multiplied by.
    pub embedding_multiplier: f64,
    /// The part of them that is set to 0 in training.
    pub embedding_dropout: f64,
    /// Its kinds of rotary positions, of which layers have one or none.
    pub ropes: Vec<Rope>,
    /// One after the other.
    pub layers: Vec<Layer>,
    /// All norms.
    pub norm: Norm,
    /// What logits are multiplied by.
    pub logits_multiplier: f64,
    /// What they stay below.
    pub logits_soft_cap: Option<f64>,
    /// The coefficient of the loss that balances experts.
    pub router_loss: Option<f64>,
}

/// The names of a decoder's parts in checkpoints.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Names {
    /// The embedding.
    pub embedding: &'static str,
    /// Its layers, before their number.
    pub layers: &'static str,
    /// The last norm.
    pub norm: &'static str,
    /// What some checkpoints leave out at the beginning of names.
    pub optional: &'static str,
    /// The order of the axes of linear layers.
    pub layout: Layout,
}

impl Names {
    /// Those that most families have.
    pub const LLAMA: Self = Self {
        embedding: "model.embed_tokens",
        layers: "model.layers",
        norm: "model.norm",
        optional: "",
        layout: Layout::OutIn,
    };
}

/// One layer.
#[derive(Clone, Debug, PartialEq)]
pub struct Layer {
    /// What looks at other tokens.
    pub attention: Attention,
    /// How it is added to the hidden states.
    pub around_attention: Residual,
    /// What looks at each token on its own.
    pub feed_forward: FeedForward,
    /// How it is added then.
    pub around_feed_forward: Residual,
}

/// How a part f of a layer is added to the hidden states: `x + multiplier · dropout(after(f(before(x))))`.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Residual {
    /// The name of the norm before it.
    pub before: Option<&'static str>,
    /// The name of the norm after it.
    pub after: Option<&'static str>,
    /// What it is multiplied by.
    pub multiplier: f64,
    /// The part of it that is set to 0 in training.
    pub dropout: f64,
}

impl Residual {
    /// A norm before it.
    pub const fn before(name: &'static str) -> Self {
        Self { before: Some(name), after: None, multiplier: 1.0, dropout: 0.0 }
    }

    /// A norm after it.
    pub const fn after(name: &'static str) -> Self {
        Self { before: None, after: Some(name), multiplier: 1.0, dropout: 0.0 }
    }

    fn add(
        &self,
        ctx: &ModelContext,
        [layer, part]: [&str; 2],
        norm: Norm,
        x: &Tensor,
        f: impl FnOnce(&Tensor) -> Result<Tensor>,
    ) -> Result<Tensor> {
        let mut y = match self.before {
            Some(name) => f(&norm.of(ctx, &format!("{layer}.{name}"), x)?)?,
            None => f(x)?,
        };
        if let Some(name) = self.after {
            y = norm.of(ctx, &format!("{layer}.{name}"), &y)?;
        }
        if self.dropout > 0.0 {
            y = ctx.dropout(&format!("{layer}.{part}.dropout"), &y, self.dropout)?;
        }
        if self.multiplier != 1.0 {
            y = y.multiply(self.multiplier)?;
        }
        x + &y
    }
}

impl Layer {
    /// Llama's order: a norm before either part.
    pub fn new(attention: Attention, feed_forward: FeedForward) -> Self {
        Self {
            attention,
            around_attention: Residual::before("input_layernorm"),
            feed_forward,
            around_feed_forward: Residual::before("post_attention_layernorm"),
        }
    }

    /// A norm before either part and one after it.
    pub fn between_norms(attention: Attention, feed_forward: FeedForward) -> Self {
        let around = |before, after| Residual { after: Some(after), ..Residual::before(before) };
        Self {
            attention,
            around_attention: around("input_layernorm", "post_attention_layernorm"),
            feed_forward,
            around_feed_forward: around("pre_feedforward_layernorm", "post_feedforward_layernorm"),
        }
    }

    fn declare(&self, parameters: &mut Parameters, layer: &str, norm: Norm) {
        self.attention.declare(parameters, layer);
        self.feed_forward.declare(parameters, layer);
        self.attention.declare_norms(parameters, layer, norm);
        let hidden = parameters.hidden;
        for around in [self.around_attention, self.around_feed_forward] {
            for name in [around.before, around.after].into_iter().flatten() {
                norm.declare(parameters, &format!("{layer}.{name}"), hidden);
            }
        }
    }

    /// Hidden states after the layer, and the probabilities of its experts where it has some.
    fn of(
        &self,
        ctx: &ModelContext,
        layer: &str,
        hidden: &Tensor,
        rotation: Option<Rotation<'_>>,
        norm: Norm,
    ) -> Result<Vec<Tensor>> {
        let part = [layer, self.attention.name];
        let hidden =
            self.around_attention.add(ctx, part, norm, hidden, |x| self.attention.of(ctx, layer, x, rotation, norm))?;
        let mut routing = None;
        let hidden = self.around_feed_forward.add(ctx, [layer, "mlp"], norm, &hidden, |x| {
            let (result, probabilities) = self.feed_forward.of(ctx, layer, x)?;
            routing = probabilities;
            Ok(result)
        })?;
        Ok(iter::once(hidden).chain(routing).collect())
    }
}

impl Decoder {
    /// Every parameter, in the order of the forward pass.
    pub fn parameters(&self) -> Vec<ParameterSpec> {
        let normal = Init::Normal { std: self.initializer_range };
        let table = |name: &str, rows: usize| {
            ParameterSpec::new(format!("{name}.weight"), [rows, self.hidden_size], Role::Embedding, normal)
        };
        let embedding = table(self.names.embedding, self.vocabulary_size);
        let head = table("lm_head", self.vocabulary_size);
        let head = if self.tied { head.tied_to(&*embedding.name) } else { head };
        let positions = self.positions.map(|count| table(POSITIONS, count));

        let specs = iter::once(embedding).chain(positions).collect();
        let mut parameters = Parameters { specs, hidden: self.hidden_size, normal, layout: self.names.layout };
        for (number, layer) in self.layers.iter().enumerate() {
            layer.declare(&mut parameters, &format!("{}.{number}", self.names.layers), self.norm);
        }
        self.norm.declare(&mut parameters, self.names.norm, self.hidden_size);
        if !self.names.optional.is_empty() {
            for spec in &mut parameters.specs {
                spec.aliases.extend(spec.name.strip_prefix(self.names.optional).map(str::to_owned));
            }
        }
        parameters.specs.push(ParameterSpec { role: Role::Linear, ..head });
        parameters.specs
    }

    /// Its head.
    pub fn head(&self) -> Head {
        Head { scale: self.logits_multiplier, soft_cap: self.logits_soft_cap, ..Head::new("lm_head") }
    }

    /// Hidden states `[B, T, D]` before the head, of token ids `[B, T]`.
    pub fn hidden(self: &Rc<Self>, ctx: &ModelContext, tokens: &Tensor) -> Result<Tensor> {
        let frequencies = self.ropes.iter().map(|rope| rope.frequencies(ctx)).collect::<Result<Vec<_>>>()?;
        let (mut hidden, mut routing) = (self.embedded(ctx, tokens)?, Vec::new());
        for (number, layer) in self.layers.iter().enumerate() {
            let rope = layer.attention.rope.map(|rope| &frequencies[rope]);
            let inputs: Vec<&Tensor> = iter::once(&hidden).chain(rope.map(|(inverse, _)| inverse)).collect();
            let (decoder, name) = (Rc::clone(self), format!("{}.{number}", self.names.layers));
            let (prefix, scale) = (name.clone(), rope.map_or(1.0, |(_, scale)| *scale));
            let block = move |ctx: &ModelContext, inputs: &[Tensor]| {
                let rotation = inputs.get(1).map(|inverse_frequencies| Rotation { inverse_frequencies, scale });
                decoder.layers[number].of(ctx, &prefix, &inputs[0], rotation, decoder.norm)
            };
            let mut results = ctx.host().block(&name, &inputs, Rc::new(block))?.into_iter();
            hidden = results.next().ok_or_else(|| Error::plugin("a block has no result"))?;
            routing.extend(results);
        }
        self.balance(ctx, &routing)?;
        self.norm.of(ctx, self.names.norm, &hidden)
    }

    fn embedded(&self, ctx: &ModelContext, tokens: &Tensor) -> Result<Tensor> {
        let mut embedded = ctx.embedding(self.names.embedding, tokens)?;
        if self.embedding_multiplier != 1.0 {
            embedded = embedded.multiply(self.embedding_multiplier)?;
        }
        if self.positions.is_some() {
            embedded = (&embedded + &ctx.embedding(POSITIONS, &ctx.positions()?)?)?;
        }
        ctx.dropout("embedding.dropout", &embedded, self.embedding_dropout)
    }

    /// Trains the loss that balances experts: one of all layers together, as in transformers.
    fn balance(&self, ctx: &ModelContext, routing: &[Tensor]) -> Result<()> {
        let experts = self.layers.iter().find_map(|layer| match &layer.feed_forward {
            FeedForward::Experts(experts) => Some(experts),
            _ => None,
        });
        let (Some(coefficient), Some(experts)) = (self.router_loss, experts) else { return Ok(()) };
        let all = Tensor::concatenate(&routing.iter().collect::<Vec<_>>(), 0)?;
        ctx.auxiliary_loss("router_loss", &experts.imbalance(&all)?, coefficient)
    }
}

/// Learnt positions, which GPT-2 alone has.
const POSITIONS: &str = "transformer.wpe";

#[cfg(test)]
mod tests;
