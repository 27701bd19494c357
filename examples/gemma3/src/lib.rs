//! Gemma 3 (Gemma Team 2025, <https://arxiv.org/abs/2503.19786>), text only, as a plugin for `mdt-host`.

mod config;

use std::rc::Rc;

use mdt_plugin_api::prelude::*;

use crate::config::{Architecture, Layer};

mdt_plugin_api::config! {
    /// Gemma 3 has no keys of its own: its `config.json` has all values.
    pub struct Config {}
}

/// The model.
struct Gemma3(Rc<Architecture>);

impl Component for Gemma3 {
    type Config = Config;

    fn create(_config: Config, setup: &Setup) -> Result<Self> {
        Ok(Self(Rc::new(Architecture::read(&setup.model_config)?)))
    }
}

const EMBEDDING: &str = "model.embed_tokens";

impl Model for Gemma3 {
    fn spec(&self) -> ModelSpec {
        let Architecture { vocab_size, hidden_size: hidden, intermediate_size: inner, head_dim, .. } = *self.0;
        let (queries, keys) = (self.0.num_attention_heads * head_dim, self.0.num_key_value_heads * head_dim);
        let normal = Init::Normal { std: self.0.initializer_range };
        let norm = |name: String, width: usize| {
            // The norm multiplies by 1 + w.
            ParameterSpec::new(format!("{name}.weight"), [width], Role::Norm, Init::Zeros)
        };
        let embedding = format!("{EMBEDDING}.weight");
        let mut specs = vec![ParameterSpec::new(&*embedding, [vocab_size, hidden], Role::Embedding, normal)];
        for layer in 0..self.0.layers.len() {
            let prefix = format!("model.layers.{layer}");
            for (name, shape) in [
                ("self_attn.q_proj", [queries, hidden]),
                ("self_attn.k_proj", [keys, hidden]),
                ("self_attn.v_proj", [keys, hidden]),
                ("self_attn.o_proj", [hidden, queries]),
                ("mlp.gate_proj", [inner, hidden]),
                ("mlp.up_proj", [inner, hidden]),
                ("mlp.down_proj", [hidden, inner]),
            ] {
                specs.push(ParameterSpec::new(format!("{prefix}.{name}.weight"), shape, Role::Linear, normal));
            }
            specs.extend(["q_norm", "k_norm"].map(|name| norm(format!("{prefix}.self_attn.{name}"), head_dim)));
            let norms = ["input", "post_attention", "pre_feedforward", "post_feedforward"];
            specs.extend(norms.map(|name| norm(format!("{prefix}.{name}_layernorm"), hidden)));
        }
        specs.push(norm("model.norm".to_owned(), hidden));
        let head = ParameterSpec::new("lm_head.weight", [vocab_size, hidden], Role::Linear, normal);
        specs.push(if self.0.tie_word_embeddings { head.tied_to(embedding) } else { head });
        let head = Head { soft_cap: self.0.final_logit_softcapping, ..Head::new("lm_head") };
        ModelSpec::new(specs, vocab_size, head)
    }

    fn hidden(&self, ctx: &ModelContext, tokens: &Tensor) -> Result<Tensor> {
        let mut hidden = ctx.embedding(EMBEDDING, tokens)?.multiply((self.0.hidden_size as f64).sqrt())?;
        for (number, layer) in self.0.layers.iter().enumerate() {
            let frequencies = HostArray::new(&[layer.inverse_frequencies.len()], &layer.inverse_frequencies)?;
            let frequencies = Tensor::from_host(ctx.compute(), &frequencies)?;
            let architecture = Rc::clone(&self.0);
            let block = move |ctx: &ModelContext, [hidden, frequencies]: [&Tensor; 2]| {
                decoder_layer(&architecture, ctx, number, hidden, frequencies)
            };
            hidden = ctx.block(&format!("model.layers.{number}"), [&hidden, &frequencies], block)?;
        }
        self.0.norm(ctx, "model.norm", &hidden)
    }
}

impl Architecture {
    /// Root mean square norm with 1 + w.
    fn norm(&self, ctx: &ModelContext, name: &str, x: &Tensor) -> Result<Tensor> {
        x.rms_norm(&ctx.parameter(&format!("{name}.weight"))?.plus(1.0)?, self.rms_norm_eps)
    }
}

fn decoder_layer(
    architecture: &Architecture,
    ctx: &ModelContext,
    number: usize,
    hidden: &Tensor,
    frequencies: &Tensor,
) -> Result<Tensor> {
    let prefix = format!("model.layers.{number}");
    let norm = |name: &str, x: &Tensor| architecture.norm(ctx, &format!("{prefix}.{name}_layernorm"), x);
    let layer = &architecture.layers[number];
    let attended = attention(architecture, layer, ctx, &prefix, &norm("input", hidden)?, frequencies)?;
    let hidden = (hidden + &norm("post_attention", &attended)?)?;

    let normed = norm("pre_feedforward", &hidden)?;
    let [gate, up] = ["gate", "up"].map(|name| format!("{prefix}.mlp.{name}_proj"));
    let [gate, up] = ctx.linears([&gate, &up], &normed)?;
    let down = ctx.linear(&format!("{prefix}.mlp.down_proj"), &(&gate.gelu_tanh()? * &up)?)?;
    &hidden + &norm("post_feedforward", &down)?
}

fn attention(
    architecture: &Architecture,
    layer: &Layer,
    ctx: &ModelContext,
    prefix: &str,
    x: &Tensor,
    frequencies: &Tensor,
) -> Result<Tensor> {
    let Architecture { num_attention_heads: heads, num_key_value_heads: groups, head_dim, .. } = *architecture;
    let name = format!("{prefix}.self_attn");
    let [q_proj, k_proj, v_proj] = ["q", "k", "v"].map(|part| format!("{name}.{part}_proj"));
    let [queries, keys, values] = ctx.linears([&q_proj, &k_proj, &v_proj], x)?;
    // [B, T, heads · D] → [B, heads, T, D]; -1 is T.
    let batch = x.shape()?[0] as i64;
    let split = |x: &Tensor, heads: usize| x.reshape(&[batch, -1, heads as i64, head_dim as i64]);
    let rotated = |x: &Tensor, norm: &str, heads: usize| {
        let normed = architecture.norm(ctx, &format!("{name}.{norm}"), &split(x, heads)?)?;
        ctx.rope(&normed.transpose(&[0, 2, 1, 3])?, frequencies, 1.0)
    };
    let (queries, keys) = (rotated(&queries, "q_norm", heads)?, rotated(&keys, "k_norm", groups)?);
    let values = split(&values, groups)?.transpose(&[0, 2, 1, 3])?;
    let scale = architecture.query_pre_attn_scalar.powf(-0.5);
    let options = Attention { window: layer.window, ..Attention::new(scale) };
    let attended = ctx.attention(&name, &queries, &keys, &values, &options)?;
    let attended = attended.transpose(&[0, 2, 1, 3])?.reshape(&[batch, -1, (heads * head_dim) as i64])?;
    ctx.linear(&format!("{name}.o_proj"), &attended)
}

mdt_plugin_api::plugin! { model "gemma3_text" => Gemma3; }
