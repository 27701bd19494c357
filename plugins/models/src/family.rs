//! What a family provides, and the component that is made of it.

use std::marker::PhantomData;
use std::rc::Rc;

use mdt_plugin_api::serde_json::{Map, Value};
use mdt_plugin_api::{Component, Model, ModelContext, ModelSpec, Result, Setup, Tensor};

use crate::config::refuse_other_mathematics;
use crate::decoder::Decoder;
use crate::exported_config::exported_keys;
use crate::json::Object;
use crate::rope::Rope;

/// A family of models: what its `config.json` says. A component is made without being told its id, so the family is a type.
///
/// The sources are each family's paper, and its configuration and modeling files in transformers. What transformers does not
/// read there has no effect here either, unless it would be another model: that is refused.
pub trait Family: 'static {
    /// Its `model_type`, which is its component's id too.
    const MODEL_TYPE: &'static str;
    /// The class that transformers loads it with.
    const CLASS: &'static str;

    /// The decoder that a `config.json` describes, as transformers 4 and 5 write it.
    ///
    /// # Errors
    /// A missing key, a wrong type, sizes that do not fit each other, or mathematics that are not here; the error names the key.
    fn decoder(config: &Object<'_>) -> Result<Decoder>;
}

mdt_plugin_api::config! {
    /// The models have no keys of their own; their `config.json` has all values.
    pub struct Config {}
}

/// A model of the family `F`.
#[derive(Debug)]
pub struct FamilyModel<F> {
    decoder: Rc<Decoder>,
    /// Keys that other readers of its `config.json` need.
    exported: Map<String, Value>,
    family: PhantomData<F>,
}

/// The decoder of a whole `config.json`.
///
/// # Errors
/// See [`Family::decoder`].
pub fn read<F: Family>(json: &Value) -> Result<Decoder> {
    let config = Object::root(json)?;
    if let Some(other) = config.text("model_type")?.filter(|&name| name != F::MODEL_TYPE) {
        return Err(
            config.refuse("model_type", format!("is {other:?}; this model component reads {:?}", F::MODEL_TYPE))
        );
    }
    let decoder = F::decoder(&config)?;
    refuse_other_mathematics(&config, F::MODEL_TYPE)?;
    Ok(decoder)
}

impl<F: Family> Component for FamilyModel<F> {
    type Config = Config;

    fn create(_config: Config, setup: &Setup) -> Result<Self> {
        let decoder = read::<F>(&setup.model_config).map_err(|error| match &setup.model_path {
            Some(path) => error.with("file", path.join("config.json").display()),
            None => error,
        })?;
        let exported = exported_keys(&setup.model_config, decoder.tied, F::CLASS);
        Ok(Self { decoder: Rc::new(decoder), exported, family: PhantomData })
    }
}

impl<F: Family> Model for FamilyModel<F> {
    fn spec(&self) -> ModelSpec {
        let spec = ModelSpec::new(self.decoder.parameters(), self.decoder.vocabulary_size, self.decoder.head());
        let config = self.exported.clone();
        let other_keys_beyond = self.decoder.ropes.iter().filter_map(Rope::other_keys_beyond).min();
        ModelSpec { config, max_positions: self.decoder.positions, other_keys_beyond, ..spec }
    }

    fn hidden(&self, ctx: &ModelContext, tokens: &Tensor) -> Result<Tensor> {
        self.decoder.hidden(ctx, tokens)
    }
}
