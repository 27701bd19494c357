//! A model that declares the parameters of its configuration, and gives hidden states of another shape than it should.

use mdt_plugin_api::prelude::*;

mdt_plugin_api::config! {
    /// Keys of the model `declares`.
    pub struct DeclaresConfig {
        /// The names of its parameters.
        names: Vec<String> = Vec::new(),
        /// The shape of each.
        shape: Vec<usize> = Vec::new(),
        /// The standard deviation of their starting values, as text: a configuration has no NaN. Without it they are 1.
        std: Option<String> = None,
        /// What all others are tied to.
        tied_to: Option<String> = None,
    }
}

/// The model.
pub struct Declares(DeclaresConfig);

impl Component for Declares {
    type Config = DeclaresConfig;

    fn create(config: DeclaresConfig, _setup: &Setup) -> Result<Self> {
        Ok(Self(config))
    }
}

impl Model for Declares {
    fn spec(&self) -> ModelSpec {
        let std = self.0.std.as_ref().and_then(|std| std.parse().ok());
        let init = std.map_or(Init::Ones, |std| Init::Normal { std });
        let spec = |name: &String| {
            let spec = ParameterSpec::new(name.clone(), self.0.shape.clone(), Role::Other, init);
            match &self.0.tied_to {
                Some(other) if name != other => spec.tied_to(other),
                _ => spec,
            }
        };
        ModelSpec::new(self.0.names.iter().map(spec).collect(), 1 << 20, Head::new("head"))
    }

    /// Rows and tokens change places.
    fn hidden(&self, ctx: &ModelContext, tokens: &Tensor) -> Result<Tensor> {
        ctx.embedding("head", tokens)?.transpose(&[1, 0, 2])
    }
}
