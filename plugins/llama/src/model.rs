//! The components `model llama`, `mistral`, `qwen2` and `qwen3`: one forward pass for all.

use std::marker::PhantomData;

use mdt_plugin_api::serde_json::{Map, Value};
use mdt_plugin_api::{
    Cache, Component, Error, Head, HostArray, Model, ModelContext, ModelInput, ModelSpec, Result, Setup, Tensor,
};

use crate::attention::{Rotation, attention};
use crate::config::Architecture;
use crate::exported_config::exported_keys;
use crate::family::Member;
use crate::parameters::parameters;
use crate::sliding_window::check_length;

mdt_plugin_api::config! {
    /// The models have no keys of their own; their `config.json` has all values.
    pub struct Config {}
}

/// A model of the family that `M` names.
#[derive(Debug)]
pub struct Decoder<M> {
    architecture: Architecture,
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
        Ok(Self { architecture, exported, member: PhantomData })
    }
}

impl<M: Member> Model for Decoder<M> {
    fn spec(&self) -> ModelSpec {
        let parameters = parameters(&self.architecture);
        let spec = ModelSpec::new(parameters, self.architecture.vocab_size, Head::new("lm_head"));
        ModelSpec { config: self.exported.clone(), ..spec }
    }

    fn hidden(&self, ctx: &ModelContext, input: &ModelInput<'_>, mut cache: Option<&mut Cache>) -> Result<Tensor> {
        if input.segments.is_some() {
            return Err(Error::plugin("this model's attention does not support several documents in one row")
                .help("choose a trainer that gives the model one document per row, such as `sft`"));
        }
        let &[_, length] = input.tokens.shape()?.as_slice() else {
            return Err(Error::plugin("token ids must have the shape [batch, length]"));
        };
        let offset = cache.as_ref().map_or(0, |cache| cache.length());
        check_length(self.architecture.window, offset + length)?;
        let rotation = self.rotation(ctx, input.positions, offset, length)?;
        let eps = self.architecture.rms_norm_eps;

        let mut hidden = ctx.embedding("model.embed_tokens", input.tokens)?;
        for layer in 0..self.architecture.layers {
            let prefix = format!("model.layers.{layer}");
            let normed = ctx.rms_norm(&format!("{prefix}.input_layernorm"), &hidden, eps)?;
            let attended = attention(&self.architecture, ctx, layer, &normed, &rotation, cache.as_deref_mut())?;
            hidden = (&hidden + &attended)?;
            let normed = ctx.rms_norm(&format!("{prefix}.post_attention_layernorm"), &hidden, eps)?;
            hidden = (&hidden + &mlp(ctx, &prefix, &normed)?)?;
        }
        if let Some(cache) = cache {
            cache.advance(length);
        }
        ctx.rms_norm("model.norm", &hidden, eps)
    }
}

impl<M: Member> Decoder<M> {
    /// The frequencies are made anew for each pass: a function that is differentiated may capture no tensor.
    fn rotation<'a>(
        &self,
        ctx: &ModelContext,
        positions: Option<&'a Tensor>,
        offset: usize,
        length: usize,
    ) -> Result<Rotation<'a>> {
        // Positions that are given count from the start of their own document, so the row's length bounds them.
        let frequencies = self.architecture.rope.frequencies(offset + length);
        let array = HostArray::new(&[frequencies.inverse.len()], &frequencies.inverse)?;
        Ok(Rotation {
            inverse_frequencies: Tensor::from_host(ctx.compute(), &array)?,
            positions,
            offset: if positions.is_some() { 0 } else { offset },
            scale: frequencies.scale,
        })
    }
}

/// `down(silu(gate(x)) · up(x))`.
fn mlp(ctx: &ModelContext, prefix: &str, x: &Tensor) -> Result<Tensor> {
    let gate = ctx.linear(&format!("{prefix}.mlp.gate_proj"), x)?;
    let up = ctx.linear(&format!("{prefix}.mlp.up_proj"), x)?;
    ctx.linear(&format!("{prefix}.mlp.down_proj"), &gate.swiglu(&up)?)
}
