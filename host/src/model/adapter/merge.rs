//! Adapters merged into the weights of their layers.

use mdt_plugin_api::{Error, Layout, ParameterSpec, Result, Tensor};

use super::layer::weight_norm;
use super::{AdaptedLayer, Adapter, LayerAdapter, untied};
use crate::exit::Failure;
use crate::model::Parameters;
use crate::model::load::Loaded;
use crate::model::weight::Weight;

impl LayerAdapter<'_> {
    /// The weight with what the adapter adds to it.
    fn merged(&self, weight: &Weight<'_>, layout: Layout) -> Result<Tensor> {
        let whole = (&weight.whole()? + &self.change(layout)?)?;
        let Some(magnitude) = self.magnitude else { return Ok(whole) };
        let factor = (magnitude / &weight_norm(weight, layout, Some(self))?)?;
        match layout {
            Layout::OutIn => &factor.reshape(&[-1, 1])? * &whole,
            Layout::InOut => &factor * &whole,
        }
    }
}

impl Adapter {
    /// The parameters of the model that the adapter is merged into. Those that were tied, and of which one has an adapter, are
    /// tied no longer.
    pub fn fused_specs(&self, specs: &[ParameterSpec]) -> Vec<ParameterSpec> {
        let differs = |name: &str| self.layer_of(name).is_some();
        let fused = |spec: &ParameterSpec| {
            let spec = ParameterSpec { trainable: false, ..spec.clone() };
            let is_parted = differs(&spec.name) || spec.tied_to.as_deref().is_some_and(differs);
            if is_parted { untied(spec) } else { spec }
        };
        self.beside(specs).iter().map(fused).collect()
    }

    /// The weights of that model, none of which is quantised, of the weights of a job with this adapter.
    pub fn fused(&self, specs: &[ParameterSpec], weights: &Parameters) -> Result<Parameters, Failure> {
        let bound = weights.bind();
        Parameters::build(self.fused_specs(specs), |_, spec| {
            let merged = match self.layer_of(&spec.name) {
                None => bound.require(&spec.name)?.whole()?,
                Some(adapted) => {
                    let layer = bound.layer(&adapted.name)?;
                    let adapter = layer.adapter.ok_or_else(|| Error::other("an adapter is missing"))?;
                    adapter.merged(&layer.weight, adapted.orientation())?
                }
            };
            merged.eval()?;
            Ok(Loaded::Whole(merged))
        })
    }

    /// The layer with an adapter whose weight this parameter is.
    fn layer_of(&self, parameter: &str) -> Option<&AdaptedLayer> {
        let name = parameter.strip_suffix(".weight")?;
        self.layers.iter().find(|layer| layer.name == name)
    }
}
