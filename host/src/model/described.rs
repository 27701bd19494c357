//! A model's code with what it says of itself.

use std::rc::Rc;

use mdt_plugin_api::{Error, Model, ModelContext, ModelSpec, ParameterSpec, Result, Tensor};

use super::precision::Precision;

/// A model's code, and its description, which it was asked for once. Compute thread only.
#[derive(Clone)]
pub struct DescribedModel {
    code: Rc<dyn Model>,
    /// Its name, for errors.
    name: Rc<str>,
    spec: Rc<ModelSpec>,
    /// The number of features of its hidden states, where its head tells.
    width: Option<usize>,
    /// What it is computed in.
    precision: Precision,
}

impl DescribedModel {
    /// Asks a model for its description.
    pub fn new(code: Rc<dyn Model>, name: &str) -> Self {
        let spec = Rc::new(code.spec());
        let width = spec.hidden_size().ok();
        Self { code, name: name.into(), spec, width, precision: Precision::F32 }
    }

    /// The same, computed in other element types than float32.
    #[must_use]
    pub fn in_precision(self, precision: Precision) -> Self {
        Self { precision, ..self }
    }

    /// The element types that it is computed in.
    pub fn precision(&self) -> Precision {
        self.precision
    }

    /// The same with these parameters, which differ in what is trained.
    #[must_use]
    pub fn with_parameters(self, parameters: Vec<ParameterSpec>) -> Self {
        Self { spec: Rc::new(ModelSpec { parameters, ..ModelSpec::clone(&self.spec) }), ..self }
    }

    /// Its parameters, vocabulary and head.
    pub fn spec(&self) -> &ModelSpec {
        &self.spec
    }

    /// See [`Model::hidden`].
    ///
    /// # Errors
    /// What it gives has another shape than `[B, T, D]`: other states than the tokens' own would be trained without a word.
    pub(super) fn hidden(&self, ctx: &ModelContext, tokens: &Tensor) -> Result<Tensor> {
        let hidden = self.code.hidden(ctx, tokens).map_err(|error| error.called_by(&self.name))?;
        let (shape, tokens) = (hidden.shape()?, tokens.shape()?);
        match shape.split_last() {
            Some((width, rows)) if rows == tokens && self.width.is_none_or(|expected| *width == expected) => Ok(hidden),
            _ => Err(Error::plugin(format!(
                "the model gave hidden states of shape {shape:?} for tokens of shape {tokens:?}, and must give [B, T, D]"
            ))
            .in_component(&*self.name)),
        }
    }
}
