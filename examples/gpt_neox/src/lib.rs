//! GPT-NeoX (Black et al. 2022, <https://arxiv.org/abs/2204.06745>) and Pythia as a plugin for `mdt-host`.

use std::rc::Rc;

use mdt_plugin_api::prelude::*;
use mdt_plugin_api::serde::Deserialize;
use mdt_plugin_api::serde_json::{self, Value};

mdt_plugin_api::config! {
    /// GPT-NeoX has no keys of its own: its `config.json` has all values.
    pub struct Config {}
}

/// What is read of a `config.json`; an absent key has the default of `GPTNeoXConfig` in transformers.
#[derive(Deserialize)]
#[serde(crate = "mdt_plugin_api::serde", default)]
struct Sizes {
    vocab_size: usize,
    hidden_size: usize,
    intermediate_size: usize,
    num_hidden_layers: usize,
    num_attention_heads: usize,
    hidden_act: String,
    attention_dropout: f64,
    hidden_dropout: f64,
    layer_norm_eps: f64,
    initializer_range: f64,
    tie_word_embeddings: bool,
    use_parallel_residual: bool,
    attention_bias: bool,
    /// transformers 5.
    rope_parameters: Rope,
    /// transformers 4.
    rotary_emb_base: Option<f64>,
    rotary_pct: Option<f64>,
    rope_scaling: Value,
}

#[derive(Default, Deserialize)]
#[serde(crate = "mdt_plugin_api::serde")]
struct Rope {
    rope_type: Option<String>,
    rope_theta: Option<f64>,
    partial_rotary_factor: Option<f64>,
}

impl Default for Sizes {
    fn default() -> Self {
        Self {
            vocab_size: 50_432,
            hidden_size: 6144,
            intermediate_size: 24_576,
            num_hidden_layers: 44,
            num_attention_heads: 64,
            hidden_act: "gelu".to_owned(),
            attention_dropout: 0.0,
            hidden_dropout: 0.0,
            layer_norm_eps: 1e-5,
            initializer_range: 0.02,
            tie_word_embeddings: false,
            use_parallel_residual: true,
            attention_bias: true,
            rope_parameters: Rope::default(),
            rotary_emb_base: None,
            rotary_pct: None,
            rope_scaling: Value::Null,
        }
    }
}

impl Sizes {
    fn read(config: &Value) -> Result<Self> {
        let refuse = |what: String| Err(Error::input(format!("config.json: {what}")));
        let sizes: Self = match serde_json::from_value(config.clone()) {
            Ok(sizes) => sizes,
            Err(error) => return refuse(error.to_string()),
        };
        let Self { hidden_size, num_attention_heads: heads, hidden_act, .. } = &sizes;
        if hidden_act != "gelu" {
            return refuse(format!("hidden_act is {hidden_act:?}; only \"gelu\" is here"));
        }
        if *heads == 0 || hidden_size % heads != 0 {
            return refuse(format!("num_attention_heads, {heads}, does not divide hidden_size, {hidden_size}"));
        }
        if sizes.rope_parameters.rope_type.as_deref().is_some_and(|kind| kind != "default") {
            return refuse("rope_parameters.rope_type: only \"default\" is here".to_owned());
        }
        if !sizes.rope_scaling.is_null() {
            return refuse("rope_scaling is not implemented".to_owned());
        }
        if sizes.rotated() == 0 || sizes.rotated() % 2 != 0 || sizes.rotated() > sizes.head_dim() {
            return refuse(format!("{} features of {} would be rotated", sizes.rotated(), sizes.head_dim()));
        }
        Ok(sizes)
    }

    fn head_dim(&self) -> usize {
        self.hidden_size / self.num_attention_heads
    }

    /// How many features of each head are rotated.
    fn rotated(&self) -> usize {
        let part = self.rope_parameters.partial_rotary_factor.or(self.rotary_pct).unwrap_or(0.25);
        (self.head_dim() as f64 * part) as usize
    }

    /// Radians per position, `[rotated / 2]`.
    fn inverse_frequencies(&self, ctx: &ModelContext) -> Result<Tensor> {
        let theta = self.rope_parameters.rope_theta.or(self.rotary_emb_base).unwrap_or(10_000.0);
        let frequency = |feature: usize| (1.0 / theta.powf((2 * feature) as f64 / self.rotated() as f64)) as f32;
        let frequencies: Vec<f32> = (0..self.rotated() / 2).map(frequency).collect();
        Tensor::from_host(ctx.compute(), &HostArray::new(&[frequencies.len()], &frequencies)?)
    }
}

/// The model.
struct GptNeoX(Rc<Sizes>);

impl Component for GptNeoX {
    type Config = Config;

    fn create(_config: Config, setup: &Setup) -> Result<Self> {
        Ok(Self(Rc::new(Sizes::read(&setup.model_config)?)))
    }
}

impl Model for GptNeoX {
    fn spec(&self) -> ModelSpec {
        let Sizes { vocab_size, hidden_size: hidden, intermediate_size: inner, .. } = *self.0;
        let normal = Init::Normal { std: self.0.initializer_range };
        let table = |name: &str, role| ParameterSpec::new(name, [vocab_size, hidden], role, normal);
        let mut specs = vec![table("gpt_neox.embed_in.weight", Role::Embedding)];
        let norm = |specs: &mut Vec<ParameterSpec>, name: String| {
            specs.push(ParameterSpec::new(format!("{name}.weight"), [hidden], Role::Norm, Init::Ones));
            specs.push(ParameterSpec::new(format!("{name}.bias"), [hidden], Role::Norm, Init::Zeros));
        };
        for layer in 0..self.0.num_hidden_layers {
            let prefix = format!("gpt_neox.layers.{layer}");
            norm(&mut specs, format!("{prefix}.input_layernorm"));
            norm(&mut specs, format!("{prefix}.post_attention_layernorm"));
            for (name, shape, bias) in [
                ("attention.query_key_value", [3 * hidden, hidden], self.0.attention_bias),
                ("attention.dense", [hidden, hidden], self.0.attention_bias),
                ("mlp.dense_h_to_4h", [inner, hidden], true),
                ("mlp.dense_4h_to_h", [hidden, inner], true),
            ] {
                specs.push(ParameterSpec::new(format!("{prefix}.{name}.weight"), shape, Role::Linear, normal));
                if bias {
                    let name = format!("{prefix}.{name}.bias");
                    specs.push(ParameterSpec::new(name, [shape[0]], Role::Other, Init::Zeros));
                }
            }
        }
        norm(&mut specs, "gpt_neox.final_layer_norm".to_owned());
        let head = table("embed_out.weight", Role::Linear);
        let tied = self.0.tie_word_embeddings;
        specs.push(if tied { head.tied_to("gpt_neox.embed_in.weight") } else { head });
        ModelSpec::new(specs, vocab_size, Head::new("embed_out"))
    }

    fn hidden(&self, ctx: &ModelContext, tokens: &Tensor) -> Result<Tensor> {
        let frequencies = self.0.inverse_frequencies(ctx)?;
        let embedded = ctx.embedding("gpt_neox.embed_in", tokens)?;
        let mut hidden = ctx.dropout("gpt_neox.emb_dropout", &embedded, self.0.hidden_dropout)?;
        for layer in 0..self.0.num_hidden_layers {
            let (sizes, name) = (Rc::clone(&self.0), format!("gpt_neox.layers.{layer}"));
            let prefix = name.clone();
            let block = move |ctx: &ModelContext, [hidden, frequencies]: [&Tensor; 2]| {
                decoder_layer(&sizes, ctx, &prefix, hidden, frequencies)
            };
            hidden = ctx.block(&name, [&hidden, &frequencies], block)?;
        }
        ctx.layer_norm("gpt_neox.final_layer_norm", &hidden, self.0.layer_norm_eps)
    }
}

/// `x + attention(norm(x)) + mlp(other_norm(x))`: both see the same x, unless the file says that one follows the other.
fn decoder_layer(
    sizes: &Sizes,
    ctx: &ModelContext,
    prefix: &str,
    hidden: &Tensor,
    frequencies: &Tensor,
) -> Result<Tensor> {
    let norm = |name: &str, x: &Tensor| ctx.layer_norm(&format!("{prefix}.{name}_layernorm"), x, sizes.layer_norm_eps);
    let dropout = |name: &str, x: &Tensor| ctx.dropout(&format!("{prefix}.{name}_dropout"), x, sizes.hidden_dropout);
    let attended = attention(sizes, ctx, &format!("{prefix}.attention"), &norm("input", hidden)?, frequencies)?;
    let attended = dropout("post_attention", &attended)?;
    let after_attention = (hidden + &attended)?;

    let seen = if sizes.use_parallel_residual { hidden } else { &after_attention };
    let inner = ctx.linear(&format!("{prefix}.mlp.dense_h_to_4h"), &norm("post_attention", seen)?)?.gelu()?;
    let outer = ctx.linear(&format!("{prefix}.mlp.dense_4h_to_h"), &inner)?;
    &after_attention + &dropout("post_mlp", &outer)?
}

fn attention(sizes: &Sizes, ctx: &ModelContext, name: &str, x: &Tensor, frequencies: &Tensor) -> Result<Tensor> {
    let [batch, length, width] = <[usize; 3]>::try_from(x.shape()?).map_err(|_| Error::plugin("x is not [B, T, D]"))?;
    let [batch, length, width] = [batch, length, width].map(|size| size as i64);
    let [heads, head, rotated] = [sizes.num_attention_heads, sizes.head_dim(), sizes.rotated()].map(|size| size as i64);
    // Each head has its query, key and value one after the other: [B, T, heads · 3 · D] → [B, heads, T, 3 · D].
    let joined = ctx.linear(&format!("{name}.query_key_value"), x)?;
    let joined = joined.reshape(&[batch, length, heads, 3 * head])?.transpose(&[0, 2, 1, 3])?;
    let features = |from: i64, to: i64| joined.slice(&[0, 0, 0, from], &[batch, heads, length, to]);
    // The first features of queries and keys are rotated, the others stay as they are.
    let turned = |from: i64| -> Result<Tensor> {
        let first = ctx.rope(&features(from, from + rotated)?, frequencies, 1.0)?;
        if rotated == head {
            return Ok(first);
        }
        Tensor::concatenate(&[&first, &features(from + rotated, from + head)?], -1)
    };
    let options = Attention { dropout: sizes.attention_dropout, ..Attention::new(1.0 / (head as f64).sqrt()) };
    let attended = ctx.attention(name, &turned(0)?, &turned(head)?, &features(2 * head, 3 * head)?, &options)?;
    let attended = attended.transpose(&[0, 2, 1, 3])?.reshape(&[batch, length, width])?;
    ctx.linear(&format!("{name}.dense"), &attended)
}

mdt_plugin_api::plugin! { model "gpt_neox" => GptNeoX; }
