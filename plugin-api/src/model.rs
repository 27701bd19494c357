//! What a model plugin provides: its parameters and its forward pass.

use std::rc::Rc;

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value as Json};

use crate::op::attribute;
use crate::{Compute, Error, OpKind, Result, Tensor, Value};

/// One parameter of a model.
///
/// `ParameterSpec::new("h.0.mlp.c_fc.weight", [64, 256], Role::Linear, init).in_out()`
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct ParameterSpec {
    /// Its name in checkpoints: `model.layers.0.self_attn.q_proj.weight`.
    pub name: String,
    /// Length of each axis.
    pub shape: Vec<usize>,
    /// Its initial values where no weights are loaded.
    pub init: Init,
    /// What it does; optimizers may treat roles differently.
    #[serde(default)]
    pub role: Role,
    /// The order of a linear layer's axes.
    #[serde(default)]
    pub layout: Layout,
    /// The parameter that this one is: both names stand for the same values, which are kept, trained and saved once, under
    /// the other name. A file may hold a copy under this one.
    #[serde(default)]
    pub tied_to: Option<String>,
    /// Other names that files have for it, tried in this order where its name is absent. It is saved under its name.
    #[serde(default)]
    pub aliases: Vec<String>,
    /// Whether it is trained. One that is not has no gradient and no optimizer state; it is saved with the model.
    #[serde(default = "trainable")]
    pub trainable: bool,
}

fn trainable() -> bool {
    true
}

impl ParameterSpec {
    /// A parameter that is trained, `[out, in]` where it is a linear layer's weight.
    pub fn new(name: impl Into<String>, shape: impl Into<Vec<usize>>, role: Role, init: Init) -> Self {
        Self {
            name: name.into(),
            shape: shape.into(),
            init,
            role,
            layout: Layout::OutIn,
            tied_to: None,
            aliases: Vec::new(),
            trainable: true,
        }
    }

    /// A linear layer's weight that is `[in, out]`.
    pub fn in_out(self) -> Self {
        Self { layout: Layout::InOut, ..self }
    }

    /// A second name for the parameter `name`.
    pub fn tied_to(self, name: impl Into<String>) -> Self {
        Self { tied_to: Some(name.into()), ..self }
    }

    /// Another name that files have for it.
    pub fn alias(mut self, name: impl Into<String>) -> Self {
        self.aliases.push(name.into());
        self
    }

    /// Not trained.
    pub fn frozen(self) -> Self {
        Self { trainable: false, ..self }
    }

    /// Number of elements.
    pub fn elements(&self) -> usize {
        self.shape.iter().product()
    }
}

/// What a parameter does.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub enum Role {
    /// The weight of a linear layer, the head's too unless it is tied to an embedding.
    Linear,
    /// A table whose rows are looked up.
    Embedding,
    /// The weight or bias of a norm.
    Norm,
    /// A bias, or anything else; a role of a later version counts as this one.
    #[default]
    #[serde(other)]
    Other,
}

/// The order of the axes of a linear layer's weight.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub enum Layout {
    /// `[out, in]`, as PyTorch's `Linear` has it.
    #[default]
    OutIn,
    /// `[in, out]`, as GPT-2's `Conv1D` has it.
    InOut,
}

/// The initial values of a parameter with `model.init = "random"`.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub enum Init {
    /// Normal with mean 0.
    Normal {
        /// Standard deviation.
        std: f64,
    },
    /// All ones (norms).
    Ones,
    /// All zeros (biases).
    Zeros,
}

/// The linear layer that makes logits of hidden states: `soft_cap · tanh(scale · W x / soft_cap)`, or `scale · W x` without
/// a cap.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Head {
    /// Its name: `lm_head`, whose weight is `lm_head.weight`.
    pub name: String,
    /// What logits are multiplied by.
    #[serde(default = "one")]
    pub scale: f64,
    /// What logits stay below.
    #[serde(default)]
    pub soft_cap: Option<f64>,
}

fn one() -> f64 {
    1.0
}

impl Head {
    /// A head of this name without scale and cap.
    pub fn new(name: impl Into<String>) -> Self {
        Self { name: name.into(), scale: 1.0, soft_cap: None }
    }
}

/// What a model says of itself, once.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct ModelSpec {
    /// Every parameter, in the order of the forward pass.
    pub parameters: Vec<ParameterSpec>,
    /// Size of the vocabulary: logits have this many columns, token ids are below it.
    pub vocabulary_size: usize,
    /// What makes logits of its hidden states.
    pub head: Head,
    /// Keys that the trained model's `config.json` gets, in the place of those that it began with: for readers that have
    /// other defaults for absent keys than this model.
    #[serde(default)]
    pub config: Map<String, Json>,
}

impl ModelSpec {
    /// A model without further keys for its `config.json`.
    pub fn new(parameters: Vec<ParameterSpec>, vocabulary_size: usize, head: Head) -> Self {
        Self { parameters, vocabulary_size, head, config: Map::new() }
    }
}

/// The input of [`Model::hidden`].
#[derive(Debug)]
pub struct ModelInput<'a> {
    /// Token ids `[B, T]`, int32, padded at the right.
    pub tokens: &'a Tensor,
    /// Position of each token in its own document `[B, T]`, int32; 0..T from the cache's length when absent.
    pub positions: Option<&'a Tensor>,
    /// Document number of each token `[B, T]`, int32, where several are packed into a row; one each when absent.
    pub segments: Option<&'a Tensor>,
}

/// Keys and values of the tokens so far, for generation.
///
/// The host owns it, and makes an empty one for a new sequence.
#[derive(Debug, Default)]
pub struct Cache {
    length: usize,
    layers: Vec<(Tensor, Tensor)>,
}

impl Cache {
    /// Rebuilds a cache of `length` tokens from its parts.
    pub fn from_parts(length: usize, layers: Vec<(Tensor, Tensor)>) -> Self {
        Self { length, layers }
    }

    /// Takes it apart: the number of tokens, and keys and values of each layer.
    pub fn into_parts(self) -> (usize, Vec<(Tensor, Tensor)>) {
        (self.length, self.layers)
    }

    /// Number of tokens in it, which is the position of the next one.
    pub fn length(&self) -> usize {
        self.length
    }

    /// Keys and values of each layer.
    pub fn layers(&self) -> &[(Tensor, Tensor)] {
        &self.layers
    }

    /// Appends keys and values `[B, H_kv, T, D]` of the new tokens to layer `layer`, in order of layers, and returns
    /// those of all tokens.
    pub fn append(&mut self, layer: usize, keys: Tensor, values: Tensor) -> Result<(&Tensor, &Tensor)> {
        if layer > self.layers.len() {
            return Err(Error::plugin(format!(
                "layer {layer} was appended to the cache before layer {}",
                self.layers.len()
            )));
        }
        match self.layers.get_mut(layer) {
            Some((earlier_keys, earlier_values)) => {
                let joined = Tensor::concatenate(&[earlier_keys, &keys], 2)?;
                *earlier_values = Tensor::concatenate(&[earlier_values, &values], 2)?;
                *earlier_keys = joined;
            }
            None => self.layers.push((keys, values)),
        }
        let (keys, values) = &self.layers[layer];
        Ok((keys, values))
    }

    /// Adds `tokens` to the length, once all layers have appended.
    pub fn advance(&mut self, tokens: usize) {
        self.length += tokens;
    }
}

/// The model's weights by name. The host decides what is behind a name: plain weights today, adapters or quantised
/// weights later, without a change of the model.
///
/// Called on the compute thread.
pub trait Weights {
    /// `x · Wᵀ (+ b)` with the parameters `<name>.weight` and, where the model has one, `<name>.bias`.
    fn linear(&self, name: &str, x: &Tensor) -> Result<Tensor>;
    /// Rows of `<name>.weight` at token ids of any shape.
    fn embedding(&self, name: &str, ids: &Tensor) -> Result<Tensor>;
    /// Root mean square norm with `<name>.weight`.
    fn rms_norm(&self, name: &str, x: &Tensor, eps: f64) -> Result<Tensor>;
    /// A parameter by its full name, for uses that the others do not cover.
    fn parameter(&self, name: &str) -> Result<Tensor>;
}

/// The weights and the device for one forward pass.
#[derive(Clone)]
pub struct ModelContext {
    weights: Rc<dyn Weights>,
    compute: Rc<dyn Compute>,
}

impl ModelContext {
    /// A context over these weights and this device.
    pub fn new(weights: Rc<dyn Weights>, compute: Rc<dyn Compute>) -> Self {
        Self { weights, compute }
    }

    /// `x · Wᵀ (+ b)` with `<name>.weight` and `<name>.bias`; x `[.., in]`, result `[.., out]`.
    pub fn linear(&self, name: &str, x: &Tensor) -> Result<Tensor> {
        self.weights.linear(name, x)
    }

    /// Rows of `<name>.weight` at these ids; ids `[..]`, result `[.., D]`.
    pub fn embedding(&self, name: &str, ids: &Tensor) -> Result<Tensor> {
        self.weights.embedding(name, ids)
    }

    /// Root mean square norm over the last axis with `<name>.weight`.
    pub fn rms_norm(&self, name: &str, x: &Tensor, eps: f64) -> Result<Tensor> {
        self.weights.rms_norm(name, x, eps)
    }

    /// A parameter by its full name.
    pub fn parameter(&self, name: &str) -> Result<Tensor> {
        self.weights.parameter(name)
    }

    /// Rotary positions on x `[B, H, T, D]`; see [`OpKind::ROPE`].
    pub fn rope(
        &self,
        x: &Tensor,
        inverse_frequencies: &Tensor,
        positions: Option<&Tensor>,
        offset: usize,
        scale: f64,
    ) -> Result<Tensor> {
        let attributes = [attribute("offset", Value::Int(offset as i64)), attribute("scale", Value::Float(scale))];
        match positions {
            Some(positions) => Tensor::op(OpKind::ROPE, &[x, inverse_frequencies, positions], &attributes),
            None => Tensor::op(OpKind::ROPE, &[x, inverse_frequencies], &attributes),
        }
    }

    /// Causal attention; see [`OpKind::ATTENTION`].
    pub fn attention(&self, queries: &Tensor, keys: &Tensor, values: &Tensor, scale: f64) -> Result<Tensor> {
        let attributes = [attribute("scale", Value::Float(scale)), attribute("causal", Value::Bool(true))];
        Tensor::op(OpKind::ATTENTION, &[queries, keys, values], &attributes)
    }

    /// The device, for operations without inputs.
    pub fn compute(&self) -> &Rc<dyn Compute> {
        &self.compute
    }

    /// The weights behind the names.
    pub fn weights(&self) -> &Rc<dyn Weights> {
        &self.weights
    }
}

/// A model architecture, made from a `config.json` ([`crate::Setup::model_config`]).
///
/// The component's id is the `model_type` of the `config.json` files that it reads. Called on the compute thread.
pub trait Model {
    /// Its parameters, vocabulary and head.
    fn spec(&self) -> ModelSpec;

    /// Hidden states `[B, T, D]` before the head. Pure except for the cache, to which it appends keys and values.
    fn hidden(&self, ctx: &ModelContext, input: &ModelInput<'_>, cache: Option<&mut Cache>) -> Result<Tensor>;
}
