//! Weights by name, as tensors that somebody else owns.

use std::rc::Rc;

use mdt_plugin_api::{Error, Handle, Layout, Result, Tensor};

use super::adapter::{self, LayerAdapter};
use super::layer::Layer;
use super::parameters::{Names, Place};
use super::precision::Precision;
use super::weight::{Quantised, Weight};

/// Weights by name. The tensors are borrowed.
pub struct BoundWeights {
    names: Rc<Names>,
    /// Those of the block, or all.
    tensors: Vec<Option<Tensor>>,
    /// The block that they are of.
    block: Option<String>,
}

impl BoundWeights {
    /// All weights.
    pub(super) fn new(names: &Rc<Names>, tensors: impl Iterator<Item = Tensor>) -> Rc<Self> {
        Rc::new(Self { names: Rc::clone(names), tensors: tensors.map(Some).collect(), block: None })
    }

    /// The weight of a full name, and its layout; none where the model declares none of this name.
    ///
    /// # Errors
    /// It lies outside of the present block.
    pub(super) fn weight(&self, name: &str) -> Result<Option<(Weight<'_>, Layout)>> {
        let Some(&Place { tensor, layout, packing }) = self.names.places.get(name) else { return Ok(None) };
        let at = |place: usize| self.tensors[place].as_ref().ok_or_else(|| self.outside(name));
        let weight = match packing {
            None => Weight::Whole(at(tensor)?),
            Some(packing) => {
                let parts = [at(tensor)?, at(tensor + 1)?, at(tensor + 2)?];
                Weight::Quantised(Quantised { parts, packing })
            }
        };
        Ok(Some((weight, layout)))
    }

    /// The tensor of a full name; none where the model declares none of this name.
    ///
    /// # Errors
    /// It lies outside of the present block, or is quantised.
    pub(super) fn find(&self, name: &str) -> Result<Option<&Tensor>> {
        match self.weight(name)? {
            None => Ok(None),
            Some((Weight::Whole(tensor), _)) => Ok(Some(tensor)),
            Some((Weight::Quantised(_), _)) => {
                Err(Error::other(format!("`{name}` is quantised, and is no plain tensor")))
            }
        }
    }

    /// The weight of a full name that is there.
    pub(super) fn require(&self, name: &str) -> Result<Weight<'_>> {
        let found = self.weight(name)?.map(|(weight, _)| weight);
        found.ok_or_else(|| Error::other(format!("there is no parameter `{name}`")))
    }

    /// The layer of a name.
    ///
    /// # Errors
    /// The model declares no `<name>.weight`, or it lies outside of the present block.
    pub(super) fn layer(&self, name: &str) -> Result<Layer<'_>> {
        let (weight, layout) = self
            .weight(&format!("{name}.weight"))?
            .ok_or_else(|| Error::plugin(format!("the model asked for `{name}.weight`, which it did not declare")))?;
        let bias = self.find(&format!("{name}.bias"))?;
        Ok(Layer { weight, layout, bias, adapter: self.adapter(name)?, precision: Precision::F32 })
    }

    /// The adapter of a layer.
    fn adapter(&self, layer: &str) -> Result<Option<LayerAdapter<'_>>> {
        let Some(rule) = self.names.adapter else { return Ok(None) };
        let find = |part: &str| self.find(&format!("{layer}.{part}"));
        let (a, b) = match find(adapter::name::A)? {
            Some(a) => (Some(a), find(adapter::name::B)?),
            None => (find(adapter::name::EMBEDDING_A)?, find(adapter::name::EMBEDDING_B)?),
        };
        let (Some(a), Some(b)) = (a, b) else { return Ok(None) };
        let magnitude = find(adapter::name::MAGNITUDE)?;
        Ok(Some(LayerAdapter { a, b, magnitude, rule, key: None, precision: Precision::F32 }))
    }

    /// The places of a block's weights, in their order.
    pub(super) fn places_within(&self, block: &str) -> Vec<usize> {
        let inside = |name: &str| name.strip_prefix(block).is_some_and(|rest| rest.starts_with('.'));
        let mut places: Vec<usize> = self
            .names
            .places
            .iter()
            .filter(|(name, place)| inside(name) && self.tensors[place.tensor].is_some())
            .flat_map(|(_, place)| place.tensors())
            .collect();
        places.sort_unstable();
        places.dedup();
        places
    }

    /// The handle of a place that [`BoundWeights::places_within`] gave.
    pub(super) fn handle(&self, place: usize) -> Handle {
        self.tensors[place].as_ref().map_or(0, Tensor::handle)
    }

    /// The weights of a block alone, with other tensors of these places.
    pub(super) fn within(&self, block: &str, own: Vec<(usize, Tensor)>) -> Self {
        let mut tensors: Vec<Option<Tensor>> = self.tensors.iter().map(|_| None).collect();
        for (place, tensor) in own {
            tensors[place] = Some(tensor);
        }
        Self { names: Rc::clone(&self.names), tensors, block: Some(block.to_owned()) }
    }

    fn outside(&self, name: &str) -> Error {
        Error::plugin(format!(
            "the model asked for `{name}` in its block `{}`, which that is no part of",
            self.block.as_deref().unwrap_or_default()
        ))
        .help("take it outside of the block, and give it to the block as an input")
    }
}
