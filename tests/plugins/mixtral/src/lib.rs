//! Mixtral (Jiang et al. 2024, <https://arxiv.org/abs/2401.04088>): layers of experts, and a loss that balances them.

mod config;
mod experts;

use std::rc::Rc;

use mdt_plugin_api::prelude::*;
use mdt_plugin_api::serde_json::{Map, Value, json};

use crate::config::Architecture;

mdt_plugin_api::config! {
    /// Mixtral has no keys of its own: its `config.json` has all values.
    pub struct Config {}
}

/// The model.
struct Mixtral(Rc<Architecture>);

impl Component for Mixtral {
    type Config = Config;

    fn create(_config: Config, setup: &Setup) -> Result<Self> {
        Ok(Self(Rc::new(Architecture::read(&setup.model_config)?)))
    }
}

const EMBEDDING: &str = "model.embed_tokens";

impl Model for Mixtral {
    fn spec(&self) -> ModelSpec {
        let Architecture { vocab_size, hidden_size: hidden, num_attention_heads: heads, head_dim, .. } = *self.0;
        let (queries, keys) = (heads * head_dim, self.0.num_key_value_heads * head_dim);
        let normal = Init::Normal { std: 0.02 };
        let linear = |name: String, shape: [usize; 2]| ParameterSpec::new(name, shape, Role::Linear, normal);
        let norm = |name: String| ParameterSpec::new(name, [hidden], Role::Norm, Init::Ones);
        let embedding = format!("{EMBEDDING}.weight");
        let mut specs = vec![ParameterSpec::new(embedding, [vocab_size, hidden], Role::Embedding, normal)];
        for layer in 0..self.0.num_hidden_layers {
            let prefix = format!("model.layers.{layer}");
            let of_layer = |name: &str| format!("{prefix}.{name}.weight");
            specs.extend([norm(of_layer("input_layernorm")), norm(of_layer("post_attention_layernorm"))]);
            let projections = [("q", [queries, hidden]), ("k", [keys, hidden]), ("v", [keys, hidden])];
            let projections = projections.into_iter().chain([("o", [hidden, queries])]);
            specs.extend(projections.map(|(part, shape)| linear(of_layer(&format!("self_attn.{part}_proj")), shape)));
            specs.extend(experts::parameters(&self.0, &prefix));
        }
        specs.extend([norm("model.norm.weight".to_owned()), linear("lm_head.weight".to_owned(), [vocab_size, hidden])]);
        // mlx-lm passes over `rope_parameters`.
        let config = json!({ "rope_theta": self.0.rope_parameters.rope_theta, "rope_scaling": null });
        let config: Map<String, Value> = config.as_object().cloned().unwrap_or_default();
        ModelSpec { config, ..ModelSpec::new(specs, vocab_size, Head::new("lm_head")) }
    }

    fn hidden(&self, ctx: &ModelContext, tokens: &Tensor) -> Result<Tensor> {
        let frequencies = self.0.inverse_frequencies();
        let frequencies = Tensor::from_host(ctx.compute(), &HostArray::new(&[frequencies.len()], &frequencies)?)?;
        let mut hidden = ctx.embedding(EMBEDDING, tokens)?;
        let mut routing = Vec::new();
        for layer in 0..self.0.num_hidden_layers {
            let prefix = format!("model.layers.{layer}");
            let (architecture, name) = (Rc::clone(&self.0), prefix.clone());
            let block = move |ctx: &ModelContext, [hidden, frequencies]: [&Tensor; 2]| {
                decoder_layer(&architecture, ctx, &name, hidden, frequencies)
            };
            let [next, probabilities] = ctx.block(&prefix, [&hidden, &frequencies], block)?;
            hidden = next;
            routing.push(probabilities);
        }
        if self.0.output_router_logits {
            // One loss of all layers together, as transformers has it.
            let all = Tensor::concatenate(&routing.iter().collect::<Vec<_>>(), 0)?;
            ctx.auxiliary_loss("router_loss", &experts::balance(&self.0, &all)?, self.0.router_aux_loss_coef)?;
        }
        ctx.rms_norm("model.norm", &hidden, self.0.rms_norm_eps)
    }
}

/// Hidden states after a layer, and the probabilities `[N, E]` of its experts.
fn decoder_layer(
    architecture: &Architecture,
    ctx: &ModelContext,
    prefix: &str,
    hidden: &Tensor,
    frequencies: &Tensor,
) -> Result<[Tensor; 2]> {
    let norm =
        |name: &str, x: &Tensor| ctx.rms_norm(&format!("{prefix}.{name}_layernorm"), x, architecture.rms_norm_eps);
    let hidden = (hidden + &attention(architecture, ctx, prefix, &norm("input", hidden)?, frequencies)?)?;
    let (mixed, probabilities) = experts::mixture(architecture, ctx, prefix, &norm("post_attention", &hidden)?)?;
    Ok([(&hidden + &mixed)?, probabilities])
}

fn attention(
    architecture: &Architecture,
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
    let split =
        |x: &Tensor, heads: usize| x.reshape(&[batch, -1, heads as i64, head_dim as i64])?.transpose(&[0, 2, 1, 3]);
    let queries = ctx.rope(&split(&queries, heads)?, frequencies, 1.0)?;
    let keys = ctx.rope(&split(&keys, groups)?, frequencies, 1.0)?;
    let options = Attention::new(1.0 / (head_dim as f64).sqrt());
    let attended = ctx.attention(&name, &queries, &keys, &split(&values, groups)?, &options)?;
    let attended = attended.transpose(&[0, 2, 1, 3])?.reshape(&[batch, -1, (heads * head_dim) as i64])?;
    ctx.linear(&format!("{name}.o_proj"), &attended)
}

mdt_plugin_api::plugin! { model "mixtral" => Mixtral; }
