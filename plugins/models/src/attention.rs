//! Self-attention of one layer.

use std::ops::Range;

use mdt_plugin_api::{Attention as Scores, ModelContext, Result, Tensor};

use crate::norm::Norm;
use crate::parameters::Parameters;
use crate::rope::Rotation;

/// What it is made of.
#[derive(Clone, Debug, PartialEq)]
pub struct Attention {
    /// What it is called in its layer.
    pub name: &'static str,
    /// Its linear layers.
    pub projections: Projections,
    /// Number of query heads.
    pub heads: usize,
    /// Number of key and value heads; divides `heads`.
    pub key_value_heads: usize,
    /// Width of a head; not always `hidden / heads`.
    pub head_dim: usize,
    /// Whether queries, keys and values have biases.
    pub input_bias: bool,
    /// Whether the result has a bias.
    pub output_bias: bool,
    /// Whether queries and keys are normed before they are rotated.
    pub query_key_norm: QueryKeyNorm,
    /// Which of the decoder's rotations turns queries and keys; none where that is `None`.
    pub rope: Option<usize>,
    /// How many tokens a query sees, its own included; all earlier ones where that is `None`.
    pub window: Option<usize>,
    /// What scores are multiplied by.
    pub scale: f64,
    /// What scores stay below.
    pub soft_cap: Option<f64>,
    /// The part of the weights that is set to 0 in training.
    pub dropout: f64,
}

/// How queries, keys and values are made.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Projections {
    /// By `q_proj`, `k_proj` and `v_proj`.
    Separate,
    /// By one layer, one after the other.
    Fused {
        /// Its name.
        inputs: &'static str,
        /// The name of the layer that makes the result.
        output: &'static str,
    },
}

/// Norms of queries and keys, `q_norm` and `k_norm`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum QueryKeyNorm {
    /// None.
    No,
    /// Of each head on its own.
    EachHead,
    /// Of all heads together.
    AllHeads,
}

impl Attention {
    fn output(&self) -> &'static str {
        match self.projections {
            Projections::Separate => "o_proj",
            Projections::Fused { output, .. } => output,
        }
    }

    /// Declares its linear layers.
    pub fn declare(&self, parameters: &mut Parameters, layer: &str) {
        let (hidden, prefix) = (parameters.hidden, format!("{layer}.{}", self.name));
        let [queries, keys] = [self.heads, self.key_value_heads].map(|heads| heads * self.head_dim);
        let inputs = match self.projections {
            Projections::Separate => vec![("q_proj", queries), ("k_proj", keys), ("v_proj", keys)],
            Projections::Fused { inputs, .. } => vec![(inputs, queries + 2 * keys)],
        };
        for (name, width) in inputs {
            parameters.linear(&format!("{prefix}.{name}"), [width, hidden], self.input_bias);
        }
        parameters.linear(&format!("{prefix}.{}", self.output()), [hidden, queries], self.output_bias);
    }

    /// Declares its norms.
    pub fn declare_norms(&self, parameters: &mut Parameters, layer: &str, norm: Norm) {
        for (name, heads) in [("q_norm", self.heads), ("k_norm", self.key_value_heads)] {
            let width = match self.query_key_norm {
                QueryKeyNorm::No => continue,
                QueryKeyNorm::EachHead => self.head_dim,
                QueryKeyNorm::AllHeads => heads * self.head_dim,
            };
            norm.declare(parameters, &format!("{layer}.{}.{name}", self.name), width);
        }
    }

    /// Causal attention of `x` `[B, T, hidden]` to itself and what came before it.
    pub fn of(
        &self,
        ctx: &ModelContext,
        layer: &str,
        x: &Tensor,
        rotation: Option<Rotation<'_>>,
        norm: Norm,
    ) -> Result<Tensor> {
        let (prefix, batch) = (format!("{layer}.{}", self.name), x.shape()?[0] as i64);
        let [queries, keys, values] = self.projected(ctx, &prefix, x)?;
        // [B, T, heads · D] → [B, T, heads, D]; -1 is T.
        let split = |x: &Tensor, heads: usize| x.reshape(&[batch, -1, heads as i64, self.head_dim as i64]);
        let prepared = |x: &Tensor, name: &str, heads: usize| -> Result<Tensor> {
            let name = format!("{prefix}.{name}");
            let x = match self.query_key_norm {
                QueryKeyNorm::No => split(x, heads)?,
                QueryKeyNorm::EachHead => norm.of(ctx, &name, &split(x, heads)?)?,
                QueryKeyNorm::AllHeads => split(&norm.of(ctx, &name, x)?, heads)?,
            };
            let x = x.transpose(&[0, 2, 1, 3])?;
            match &rotation {
                Some(rotation) => rotation.of(ctx, &x),
                None => Ok(x),
            }
        };
        let queries = prepared(&queries, "q_norm", self.heads)?;
        let keys = prepared(&keys, "k_norm", self.key_value_heads)?;
        let values = split(&values, self.key_value_heads)?.transpose(&[0, 2, 1, 3])?;

        let Self { scale, window, soft_cap, dropout, .. } = *self;
        let attended =
            ctx.attention(&prefix, &queries, &keys, &values, &Scores { scale, window, soft_cap, dropout })?;
        let width = (self.heads * self.head_dim) as i64;
        let joined = attended.transpose(&[0, 2, 1, 3])?.reshape(&[batch, -1, width])?;
        ctx.linear(&format!("{prefix}.{}", self.output()), &joined)
    }

    fn projected(&self, ctx: &ModelContext, prefix: &str, x: &Tensor) -> Result<[Tensor; 3]> {
        match self.projections {
            Projections::Separate => {
                let [q_proj, k_proj, v_proj] = ["q_proj", "k_proj", "v_proj"].map(|name| format!("{prefix}.{name}"));
                ctx.linears([&q_proj, &k_proj, &v_proj], x)
            }
            Projections::Fused { inputs, .. } => {
                let joined = ctx.linear(&format!("{prefix}.{inputs}"), x)?;
                let [queries, keys] = [self.heads, self.key_value_heads].map(|heads| heads * self.head_dim);
                Ok([
                    features(&joined, 0..queries)?,
                    features(&joined, queries..queries + keys)?,
                    features(&joined, queries + keys..queries + 2 * keys)?,
                ])
            }
        }
    }
}

/// A part of the last axis.
pub fn features(x: &Tensor, range: Range<usize>) -> Result<Tensor> {
    let mut stop: Vec<i64> = x.shape()?.iter().map(|&axis| axis as i64).collect();
    let (mut start, last) = (vec![0; stop.len()], stop.len() - 1);
    (start[last], stop[last]) = (range.start as i64, range.end as i64);
    x.slice(&start, &stop)
}
