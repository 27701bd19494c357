//! GPT-2 (Radford et al. 2019) as a plugin for `mdt-host`.

use std::rc::Rc;

use mdt_plugin_api::prelude::*;
use mdt_plugin_api::serde::Deserialize;
use mdt_plugin_api::serde_json;

mdt_plugin_api::config! {
    /// GPT-2 has no keys of its own: its `config.json` has all values.
    pub struct Config {}
}

/// What is read of a `config.json`; an absent key has the default of `GPT2Config` in transformers.
#[derive(Deserialize)]
#[serde(crate = "mdt_plugin_api::serde", default)]
struct Sizes {
    vocab_size: usize,
    n_positions: usize,
    n_embd: usize,
    n_layer: usize,
    n_head: usize,
    n_inner: Option<usize>,
    activation_function: String,
    resid_pdrop: f64,
    embd_pdrop: f64,
    attn_pdrop: f64,
    layer_norm_epsilon: f64,
    initializer_range: f64,
}

impl Default for Sizes {
    fn default() -> Self {
        Self {
            vocab_size: 50_257,
            n_positions: 1024,
            n_embd: 768,
            n_layer: 12,
            n_head: 12,
            n_inner: None,
            activation_function: "gelu_new".to_owned(),
            resid_pdrop: 0.1,
            embd_pdrop: 0.1,
            attn_pdrop: 0.1,
            layer_norm_epsilon: 1e-5,
            initializer_range: 0.02,
        }
    }
}

/// The model.
struct Gpt2(Rc<Sizes>);

impl Component for Gpt2 {
    type Config = Config;

    fn create(_config: Config, setup: &Setup) -> Result<Self> {
        let sizes: Sizes = serde_json::from_value(setup.model_config.clone())
            .map_err(|error| Error::input(format!("config.json: {error}")))?;
        if sizes.activation_function != "gelu_new" {
            let other = &sizes.activation_function;
            return Err(Error::input(format!(
                "config.json: activation_function is {other:?}; only \"gelu_new\" is here"
            )));
        }
        if sizes.n_head == 0 || sizes.n_embd % sizes.n_head != 0 {
            let Sizes { n_embd, n_head, .. } = sizes;
            return Err(Error::input(format!("config.json: n_head, {n_head}, does not divide n_embd, {n_embd}")));
        }
        Ok(Self(Rc::new(sizes)))
    }
}

impl Model for Gpt2 {
    fn spec(&self) -> ModelSpec {
        let Sizes { vocab_size, n_positions, n_embd, n_layer, n_inner, initializer_range: std, .. } = *self.0;
        let (inner, normal) = (n_inner.unwrap_or(4 * n_embd), Init::Normal { std });
        // The first checkpoints, and those of many others, have names without "transformer.".
        let spec = |name: &str, shape: &[usize], role, init| {
            ParameterSpec::new(format!("transformer.{name}"), shape, role, init).alias(name)
        };
        let mut specs = vec![
            spec("wte.weight", &[vocab_size, n_embd], Role::Embedding, normal),
            spec("wpe.weight", &[n_positions, n_embd], Role::Embedding, normal),
        ];
        let norm = |specs: &mut Vec<ParameterSpec>, name: String| {
            specs.push(spec(&format!("{name}.weight"), &[n_embd], Role::Norm, Init::Ones));
            specs.push(spec(&format!("{name}.bias"), &[n_embd], Role::Norm, Init::Zeros));
        };
        for layer in 0..n_layer {
            norm(&mut specs, format!("h.{layer}.ln_1"));
            norm(&mut specs, format!("h.{layer}.ln_2"));
            for (name, input, output) in [
                ("attn.c_attn", n_embd, 3 * n_embd),
                ("attn.c_proj", n_embd, n_embd),
                ("mlp.c_fc", n_embd, inner),
                ("mlp.c_proj", inner, n_embd),
            ] {
                let weight = spec(&format!("h.{layer}.{name}.weight"), &[input, output], Role::Linear, normal);
                specs.push(weight.in_out());
                specs.push(spec(&format!("h.{layer}.{name}.bias"), &[output], Role::Other, Init::Zeros));
            }
        }
        norm(&mut specs, "ln_f".to_owned());
        let head = ParameterSpec::new("lm_head.weight", [vocab_size, n_embd], Role::Linear, normal);
        specs.push(head.tied_to("transformer.wte.weight"));
        ModelSpec::new(specs, vocab_size, Head::new("lm_head"))
    }

    fn hidden(&self, ctx: &ModelContext, tokens: &Tensor) -> Result<Tensor> {
        let Sizes { n_positions, n_layer, embd_pdrop, layer_norm_epsilon, .. } = *self.0;
        if ctx.length() > n_positions {
            let message = format!("a sequence has {} tokens, and GPT-2 knows {n_positions} positions", ctx.length());
            return Err(Error::input(message).help("set trainer.max_seq_len to the model's n_positions"));
        }
        let positions = ctx.embedding("transformer.wpe", &ctx.positions()?)?;
        let embedded = (&ctx.embedding("transformer.wte", tokens)? + &positions)?;
        let mut hidden = ctx.dropout("transformer.drop", &embedded, embd_pdrop)?;
        for layer in 0..n_layer {
            let (sizes, prefix) = (Rc::clone(&self.0), format!("transformer.h.{layer}"));
            hidden = ctx.block(&prefix.clone(), [&hidden], move |ctx, [hidden]| block(&sizes, ctx, &prefix, hidden))?;
        }
        ctx.layer_norm("transformer.ln_f", &hidden, layer_norm_epsilon)
    }
}

fn block(sizes: &Sizes, ctx: &ModelContext, prefix: &str, hidden: &Tensor) -> Result<Tensor> {
    let normed = ctx.layer_norm(&format!("{prefix}.ln_1"), hidden, sizes.layer_norm_epsilon)?;
    let attended = attention(sizes, ctx, &format!("{prefix}.attn"), &normed)?;
    let hidden = (hidden + &attended)?;
    let normed = ctx.layer_norm(&format!("{prefix}.ln_2"), &hidden, sizes.layer_norm_epsilon)?;
    let inner = ctx.linear(&format!("{prefix}.mlp.c_fc"), &normed)?.gelu_tanh()?;
    let outer = ctx.linear(&format!("{prefix}.mlp.c_proj"), &inner)?;
    &hidden + &ctx.dropout(&format!("{prefix}.mlp.dropout"), &outer, sizes.resid_pdrop)?
}

fn attention(sizes: &Sizes, ctx: &ModelContext, name: &str, x: &Tensor) -> Result<Tensor> {
    let [batch, length, width] = <[usize; 3]>::try_from(x.shape()?).map_err(|_| Error::plugin("x is not [B, T, D]"))?;
    let [batch, length, width] = [batch, length, width].map(|size| size as i64);
    let (heads, head) = (sizes.n_head as i64, width / sizes.n_head as i64);
    // [B, T, 3 · D] → [3, B, heads, T, D / heads], of which the first axis is queries, keys and values.
    let joined = ctx.linear(&format!("{name}.c_attn"), x)?;
    let joined = joined.reshape(&[batch, length, 3, heads, head])?.transpose(&[2, 0, 3, 1, 4])?;
    let part = |place: i64| {
        let part = joined.slice(&[place, 0, 0, 0, 0], &[place + 1, batch, heads, length, head])?;
        part.reshape(&[batch, heads, length, head])
    };
    let options = Attention { dropout: sizes.attn_pdrop, ..Attention::new(1.0 / (head as f64).sqrt()) };
    let attended = ctx.attention(name, &part(0)?, &part(1)?, &part(2)?, &options)?;
    let attended = attended.transpose(&[0, 2, 1, 3])?.reshape(&[batch, length, width])?;
    let outer = ctx.linear(&format!("{name}.c_proj"), &attended)?;
    ctx.dropout(&format!("{name}.resid_dropout"), &outer, sizes.resid_pdrop)
}

mdt_plugin_api::plugin! { model "gpt2" => Gpt2; }
