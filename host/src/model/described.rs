//! A model's code with what it says of itself.

use std::rc::Rc;

use mdt_plugin_api::{Model, ModelContext, ModelSpec, Result, Tensor};

/// A model's code, and its description, which it was asked for once. Compute thread only.
#[derive(Clone)]
pub struct DescribedModel {
    code: Rc<dyn Model>,
    spec: Rc<ModelSpec>,
}

impl DescribedModel {
    /// Asks a model for its description.
    pub fn new(code: Rc<dyn Model>) -> Self {
        Self { spec: Rc::new(code.spec()), code }
    }

    /// Its parameters, vocabulary and head.
    pub fn spec(&self) -> &ModelSpec {
        &self.spec
    }

    /// See [`Model::hidden`].
    pub(super) fn hidden(&self, ctx: &ModelContext, tokens: &Tensor) -> Result<Tensor> {
        self.code.hidden(ctx, tokens)
    }
}
