//! StableLM (Bellagente et al. 2024, <https://arxiv.org/abs/2402.17834>) as a plugin for `mdt-host`.

mod config;

use std::rc::Rc;

use mdt_plugin_api::prelude::*;

use crate::config::Architecture;

mdt_plugin_api::config! {
    /// StableLM has no keys of its own: its `config.json` has all values.
    pub struct Config {}
}

/// The model.
struct StableLm(Rc<Architecture>);

impl Component for StableLm {
    type Config = Config;

    fn create(_config: Config, setup: &Setup) -> Result<Self> {
        Ok(Self(Rc::new(Architecture::read(&setup.model_config)?)))
    }
}

const EMBEDDING: &str = "model.embed_tokens";

impl Model for StableLm {
    fn spec(&self) -> ModelSpec {
        let Architecture { vocab_size, hidden_size: hidden, intermediate_size: inner, .. } = *self.0;
        let keys = self.0.num_key_value_heads * self.0.head_dim();
        let normal = Init::Normal { std: self.0.initializer_range };
        let norm = |specs: &mut Vec<ParameterSpec>, name: String| {
            specs.push(ParameterSpec::new(format!("{name}.weight"), [hidden], Role::Norm, Init::Ones));
            specs.push(ParameterSpec::new(format!("{name}.bias"), [hidden], Role::Norm, Init::Zeros));
        };
        let embedding = format!("{EMBEDDING}.weight");
        let mut specs = vec![ParameterSpec::new(&*embedding, [vocab_size, hidden], Role::Embedding, normal)];
        for layer in 0..self.0.num_hidden_layers {
            let prefix = format!("model.layers.{layer}");
            for (name, shape, bias) in [
                ("self_attn.q_proj", [hidden, hidden], self.0.use_qkv_bias),
                ("self_attn.k_proj", [keys, hidden], self.0.use_qkv_bias),
                ("self_attn.v_proj", [keys, hidden], self.0.use_qkv_bias),
                ("self_attn.o_proj", [hidden, hidden], false),
                ("mlp.gate_proj", [inner, hidden], false),
                ("mlp.up_proj", [inner, hidden], false),
                ("mlp.down_proj", [hidden, inner], false),
            ] {
                specs.push(ParameterSpec::new(format!("{prefix}.{name}.weight"), shape, Role::Linear, normal));
                if bias {
                    let name = format!("{prefix}.{name}.bias");
                    specs.push(ParameterSpec::new(name, [shape[0]], Role::Other, Init::Zeros));
                }
            }
            norm(&mut specs, format!("{prefix}.input_layernorm"));
            if !self.0.use_parallel_residual {
                norm(&mut specs, format!("{prefix}.post_attention_layernorm"));
            }
        }
        norm(&mut specs, "model.norm".to_owned());
        let head = ParameterSpec::new("lm_head.weight", [vocab_size, hidden], Role::Linear, normal);
        specs.push(if self.0.tie_word_embeddings { head.tied_to(embedding) } else { head });
        ModelSpec::new(specs, vocab_size, Head::new("lm_head"))
    }

    fn hidden(&self, ctx: &ModelContext, tokens: &Tensor) -> Result<Tensor> {
        let frequencies = self.0.inverse_frequencies();
        let frequencies = Tensor::from_host(ctx.compute(), &HostArray::new(&[frequencies.len()], &frequencies)?)?;
        let mut hidden = ctx.embedding(EMBEDDING, tokens)?;
        for layer in 0..self.0.num_hidden_layers {
            let (architecture, name) = (Rc::clone(&self.0), format!("model.layers.{layer}"));
            let prefix = name.clone();
            let block = move |ctx: &ModelContext, [hidden, frequencies]: [&Tensor; 2]| {
                decoder_layer(&architecture, ctx, &prefix, hidden, frequencies)
            };
            hidden = ctx.block(&name, [&hidden, &frequencies], block)?;
        }
        ctx.layer_norm("model.norm", &hidden, self.0.layer_norm_eps)
    }
}

fn decoder_layer(
    architecture: &Architecture,
    ctx: &ModelContext,
    prefix: &str,
    hidden: &Tensor,
    frequencies: &Tensor,
) -> Result<Tensor> {
    let eps = architecture.layer_norm_eps;
    let normed = ctx.layer_norm(&format!("{prefix}.input_layernorm"), hidden, eps)?;
    let attended = attention(architecture, ctx, prefix, &normed, frequencies)?;
    let after_attention = (hidden + &attended)?;
    // Attention and MLP see the same, or one follows the other.
    let seen = match architecture.use_parallel_residual {
        true => normed,
        false => ctx.layer_norm(&format!("{prefix}.post_attention_layernorm"), &after_attention, eps)?,
    };
    let [gate, up] = ["gate", "up"].map(|name| format!("{prefix}.mlp.{name}_proj"));
    let [gate, up] = ctx.linears([&gate, &up], &seen)?;
    let down = ctx.linear(&format!("{prefix}.mlp.down_proj"), &gate.swiglu(&up)?)?;
    &after_attention + &ctx.dropout(&format!("{prefix}.mlp.dropout"), &down, architecture.hidden_dropout)?
}

fn attention(
    architecture: &Architecture,
    ctx: &ModelContext,
    prefix: &str,
    x: &Tensor,
    frequencies: &Tensor,
) -> Result<Tensor> {
    let [head_dim, rotated] = [architecture.head_dim(), architecture.rotated()].map(|width| width as i64);
    let [heads, groups] =
        [architecture.num_attention_heads, architecture.num_key_value_heads].map(|count| count as i64);
    let name = format!("{prefix}.self_attn");
    let [q_proj, k_proj, v_proj] = ["q", "k", "v"].map(|part| format!("{name}.{part}_proj"));
    let [queries, keys, values] = ctx.linears([&q_proj, &k_proj, &v_proj], x)?;
    let [batch, length] = [x.shape()?[0] as i64, x.shape()?[1] as i64];
    // [B, T, heads · D] → [B, heads, T, D]
    let split = |x: &Tensor, heads: i64| x.reshape(&[batch, length, heads, head_dim])?.transpose(&[0, 2, 1, 3]);
    // The first features of each head are rotated, the others stay as they are.
    let turned = |x: &Tensor, heads: i64| -> Result<Tensor> {
        let x = split(x, heads)?;
        let features = |from: i64, to: i64| x.slice(&[0, 0, 0, from], &[batch, heads, length, to]);
        let first = ctx.rope(&features(0, rotated)?, frequencies, 1.0)?;
        if rotated == head_dim {
            return Ok(first);
        }
        Tensor::concatenate(&[&first, &features(rotated, head_dim)?], -1)
    };
    let (queries, keys, values) = (turned(&queries, heads)?, turned(&keys, groups)?, split(&values, groups)?);
    let dropout = architecture.attention_dropout;
    let options = Attention { dropout, ..Attention::new(1.0 / (head_dim as f64).sqrt()) };
    let attended = ctx.attention(&name, &queries, &keys, &values, &options)?;
    let attended = attended.transpose(&[0, 2, 1, 3])?.reshape(&[batch, length, heads * head_dim])?;
    ctx.linear(&format!("{name}.o_proj"), &attended)
}

mdt_plugin_api::plugin! { model "stablelm" => StableLm; }
