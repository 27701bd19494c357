//! The part of a layer that looks at each token on its own.

use mdt_plugin_api::{ModelContext, Result, Tensor};

use crate::attention::features;
use crate::experts::Experts;
use crate::json::Object;
use crate::parameters::Parameters;

/// What it is made of.
#[derive(Clone, Debug, PartialEq)]
pub enum FeedForward {
    /// `down(f(gate(x)) · up(x))` (Shazeer 2020, <https://arxiv.org/abs/2002.05202>).
    Gated(Inner),
    /// The same, with gate and up in one matrix.
    FusedGated(Inner),
    /// `c_proj(f(c_fc(x)))`.
    Plain(Inner),
    /// Some of many for each token.
    Experts(Experts),
}

/// What lies between two linear layers.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Inner {
    /// Its width.
    pub width: usize,
    /// f.
    pub activation: Activation,
    /// Whether the linear layers have biases.
    pub bias: bool,
}

/// A function of each feature.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Activation {
    /// `x · sigmoid(x)`.
    Silu,
    /// Gaussian error linear unit, exact.
    Gelu,
    /// The same by way of tanh.
    GeluTanh,
    /// `max(x, 0)`.
    Relu,
}

impl Activation {
    /// Reads a key, as transformers names activations.
    ///
    /// # Errors
    /// It is another one.
    pub fn read(config: &Object<'_>, key: &str, absent: Self) -> Result<Self> {
        match config.text(key)? {
            None => Ok(absent),
            Some("silu" | "swish") => Ok(Self::Silu),
            Some("gelu") => Ok(Self::Gelu),
            Some("gelu_pytorch_tanh" | "gelu_new" | "gelu_fast") => Ok(Self::GeluTanh),
            Some("relu") => Ok(Self::Relu),
            Some(other) => {
                let why =
                    format!("is {other:?}; \"silu\", \"gelu\", \"gelu_pytorch_tanh\" and \"relu\" are implemented");
                Err(config.refuse(key, why))
            }
        }
    }

    fn of(self, x: &Tensor) -> Result<Tensor> {
        match self {
            Self::Silu => x.silu(),
            Self::Gelu => x.gelu(),
            Self::GeluTanh => x.gelu_tanh(),
            Self::Relu => x.maximum(0.0),
        }
    }

    /// `f(gate) · up`.
    pub fn gated(self, gate: &Tensor, up: &Tensor) -> Result<Tensor> {
        match self {
            Self::Silu => gate.swiglu(up),
            other => &other.of(gate)? * up,
        }
    }
}

impl FeedForward {
    /// Declares its parameters, those of the layer `layer`.
    pub fn declare(&self, parameters: &mut Parameters, layer: &str) {
        let hidden = parameters.hidden;
        let mut linears = |inner: &Inner, shapes: &[(&str, [usize; 2])]| {
            for &(name, shape) in shapes {
                parameters.linear(&format!("{layer}.mlp.{name}"), shape, inner.bias);
            }
        };
        match self {
            Self::Gated(inner) => {
                let [to, from] = [[inner.width, hidden], [hidden, inner.width]];
                linears(inner, &[("gate_proj", to), ("up_proj", to), ("down_proj", from)]);
            }
            Self::FusedGated(inner) => {
                linears(inner, &[("gate_up_proj", [2 * inner.width, hidden]), ("down_proj", [hidden, inner.width])]);
            }
            Self::Plain(inner) => {
                linears(inner, &[("c_fc", [inner.width, hidden]), ("c_proj", [hidden, inner.width])]);
            }
            Self::Experts(experts) => experts.declare(parameters, layer),
        }
    }

    /// Of x `[B, T, hidden]`; with it, where there are experts, the probabilities `[B · T, E]` that they are chosen by.
    pub fn of(&self, ctx: &ModelContext, layer: &str, x: &Tensor) -> Result<(Tensor, Option<Tensor>)> {
        let named = |name: &str| format!("{layer}.mlp.{name}");
        let result = match self {
            Self::Gated(inner) => {
                let [gate, up] = ctx.linears([&named("gate_proj"), &named("up_proj")], x)?;
                ctx.linear(&named("down_proj"), &inner.activation.gated(&gate, &up)?)?
            }
            Self::FusedGated(inner) => {
                let joined = ctx.linear(&named("gate_up_proj"), x)?;
                let (gate, up) = (features(&joined, 0..inner.width)?, features(&joined, inner.width..2 * inner.width)?);
                ctx.linear(&named("down_proj"), &inner.activation.gated(&gate, &up)?)?
            }
            Self::Plain(inner) => {
                ctx.linear(&named("c_proj"), &inner.activation.of(&ctx.linear(&named("c_fc"), x)?)?)?
            }
            Self::Experts(experts) => {
                let (mixed, probabilities) = experts.of(ctx, layer, x)?;
                return Ok((mixed, Some(probabilities)));
            }
        };
        Ok((result, None))
    }
}
