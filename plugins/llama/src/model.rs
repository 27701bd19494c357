//! The components `model llama`, `mistral`, `qwen2` and `qwen3`: one forward pass for all.

use std::marker::PhantomData;
use std::rc::Rc;

use mdt_plugin_api::serde_json::{Map, Value};
use mdt_plugin_api::{Component, Head, HostArray, Model, ModelContext, ModelSpec, Result, Setup, Tensor};

use crate::attention::{Rotation, attention};
use crate::config::Architecture;
use crate::exported_config::exported_keys;
use crate::family::Member;
use crate::parameters::parameters;

mdt_plugin_api::config! {
    /// The models have no keys of their own; their `config.json` has all values.
    pub struct Config {}
}

/// A model of the family that `M` names.
#[derive(Debug)]
pub struct Decoder<M> {
    architecture: Rc<Architecture>,
    /// Keys that other readers of its `config.json` need.
    exported: Map<String, Value>,
    member: PhantomData<M>,
}

impl<M: Member> Component for Decoder<M> {
    type Config = Config;

    fn create(_config: Config, setup: &Setup) -> Result<Self> {
        let architecture =
            Architecture::read(&setup.model_config, &M::FAMILY).map_err(|error| match &setup.model_path {
                Some(path) => error.with("file", path.join("config.json").display()),
                None => error,
            })?;
        let exported = exported_keys(&setup.model_config, &architecture, &M::FAMILY);
        Ok(Self { architecture: Rc::new(architecture), exported, member: PhantomData })
    }
}

impl<M: Member> Model for Decoder<M> {
    fn spec(&self) -> ModelSpec {
        let parameters = parameters(&self.architecture);
        let spec = ModelSpec::new(parameters, self.architecture.vocab_size, Head::new("lm_head"));
        ModelSpec { config: self.exported.clone(), ..spec }
    }

    fn hidden(&self, ctx: &ModelContext, tokens: &Tensor) -> Result<Tensor> {
        let frequencies = self.architecture.rope.frequencies(ctx.length());
        let array = HostArray::new(&[frequencies.inverse.len()], &frequencies.inverse)?;
        let inverse_frequencies = Tensor::from_host(ctx.compute(), &array)?;

        let mut hidden = ctx.embedding("model.embed_tokens", tokens)?;
        for layer in 0..self.architecture.layers {
            let (architecture, scale) = (Rc::clone(&self.architecture), frequencies.scale);
            let block = move |ctx: &ModelContext, [hidden, inverse_frequencies]: [&Tensor; 2]| {
                decoder_layer(&architecture, ctx, layer, hidden, &Rotation { inverse_frequencies, scale })
            };
            hidden = ctx.block(&format!("model.layers.{layer}"), [&hidden, &inverse_frequencies], block)?;
        }
        ctx.rms_norm("model.norm", &hidden, self.architecture.rms_norm_eps)
    }
}

fn decoder_layer(
    architecture: &Architecture,
    ctx: &ModelContext,
    layer: usize,
    hidden: &Tensor,
    rotation: &Rotation<'_>,
) -> Result<Tensor> {
    let (prefix, eps) = (format!("model.layers.{layer}"), architecture.rms_norm_eps);
    let normed = ctx.rms_norm(&format!("{prefix}.input_layernorm"), hidden, eps)?;
    let hidden = (hidden + &attention(architecture, ctx, layer, &normed, rotation)?)?;
    let normed = ctx.rms_norm(&format!("{prefix}.post_attention_layernorm"), &hidden, eps)?;
    &hidden + &mlp(ctx, &prefix, &normed)?
}

/// `down(silu(gate(x)) · up(x))`.
fn mlp(ctx: &ModelContext, prefix: &str, x: &Tensor) -> Result<Tensor> {
    let [gate, up] = ctx.linears([&format!("{prefix}.mlp.gate_proj"), &format!("{prefix}.mlp.up_proj")], x)?;
    ctx.linear(&format!("{prefix}.mlp.down_proj"), &gate.swiglu(&up)?)
}
