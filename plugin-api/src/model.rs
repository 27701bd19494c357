//! What a model plugin provides: its parameters and its forward pass.

use std::rc::Rc;

use serde::{Deserialize, Serialize};

use crate::op::attribute;
use crate::{Compute, Error, OpKind, Result, Tensor, Value};

/// One parameter of a model.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct ParameterSpec {
    /// Its name in the checkpoint: `model.layers.0.self_attn.q_proj.weight`.
    pub name: String,
    /// Length of each axis; a linear layer's weight is `[out, in]`.
    pub shape: Vec<usize>,
    /// Its initial values where no weights are loaded.
    pub init: Init,
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
    /// Every parameter, in the order of the forward pass.
    fn parameters(&self) -> Vec<ParameterSpec>;

    /// Size of the vocabulary: logits have this many columns, token ids are below it.
    fn vocabulary_size(&self) -> usize;

    /// Hidden states `[B, T, D]` before the head. Pure except for the cache, to which it appends keys and values.
    fn hidden(&self, ctx: &ModelContext, input: &ModelInput<'_>, cache: Option<&mut Cache>) -> Result<Tensor>;

    /// Logits `[.., V]` of hidden states `[.., D]`.
    fn head(&self, ctx: &ModelContext, hidden: &Tensor) -> Result<Tensor>;
}
