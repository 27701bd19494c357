//! What the host does for a model in one forward pass: weights behind names, positions, attention, blocks.

use std::cell::RefCell;
use std::rc::Rc;

use mdt_plugin_api::op::attribute;
use mdt_plugin_api::{
    Attention, BlockFunction, Compute, Dtype, Error, Handle, ModelContext, ModelHost, OpKind, Pass, Result, Tensor,
    Value,
};

use super::Cache;
use super::auxiliary::OfPass;
use super::bound::BoundWeights;
use super::layer::Layer;
use super::precision::Precision;
use crate::random::Stream;

/// What random numbers of a pass are drawn from; see [`ModelContext::key`].
#[derive(Clone, Copy, Debug, Default)]
pub struct Randomness {
    /// The job's seed.
    pub seed: u64,
    /// The number of the update.
    pub update: u64,
    /// The number of the micro-batch among those of all ranks.
    pub micro_batch: u64,
}

/// How a forward pass is computed.
#[derive(Clone, Copy, Debug, Default)]
pub struct Training {
    /// What random numbers are drawn from.
    pub randomness: Randomness,
    /// Whether blocks are computed again for gradients, and only what enters them is kept.
    pub recompute: bool,
}

/// One forward pass, or one block of it.
#[derive(Clone)]
pub(super) struct Forward {
    pub(super) compute: Rc<dyn Compute>,
    pub(super) weights: Rc<BoundWeights>,
    /// What it is computed in.
    pub(super) precision: Precision,
    /// Number of tokens in this pass, and before it.
    pub(super) tokens: usize,
    pub(super) offset: usize,
    /// Number of tokens that are known of the sequence, at least those of this pass and before it.
    pub(super) length: usize,
    /// Where they are given: positions `[B, T]`, and segments of these tokens and of all before.
    pub(super) positions: Option<Rc<Tensor>>,
    pub(super) segments: Option<Rc<Tensor>>,
    pub(super) cache: Option<Rc<RefCell<Cache>>>,
    /// Where a part of the hidden states begins, of which the head is computed part by part: each draws other random numbers.
    pub(super) part: u64,
    /// None where nobody asks for the model's own losses.
    pub(super) auxiliary: Option<OfPass>,
    /// None outside of training.
    pub(super) training: Option<Training>,
}

impl Forward {
    /// Computes a block, again for gradients if `recompute` says so. Its weights, and what else is a tensor, go in as inputs, and
    /// its auxiliary losses come out as results: in MLX a gradient reaches nothing else.
    pub(super) fn run_block(
        &self,
        name: &str,
        inputs: &[&Tensor],
        function: Rc<BlockFunction>,
        recompute: bool,
    ) -> Result<Vec<Tensor>> {
        let places = self.weights.places_within(name);
        let given: Vec<Handle> = [&self.positions, &self.segments]
            .into_iter()
            .flatten()
            .map(|tensor| tensor.handle())
            .chain(inputs.iter().map(|tensor| tensor.handle()))
            .collect();
        let mut handles: Vec<Handle> = places.iter().map(|&place| self.weights.handle(place)).collect();
        handles.extend(given);

        // What the block's own losses are called; they are its last results.
        let labels = Rc::new(RefCell::new(Vec::new()));
        let (pass, block, labelled) = (self.clone(), name.to_owned(), Rc::clone(&labels));
        let call = move |handles: &[Handle]| -> Result<Vec<Handle>> {
            let mut tensors = handles.iter().map(|&handle| Tensor::borrowed(&pass.compute, handle));
            let own = places.iter().copied().zip(&mut tensors).collect();
            let weights = Rc::new(pass.weights.within(&block, own));
            let positions = pass.positions.as_ref().and_then(|_| tensors.next()).map(Rc::new);
            let segments = pass.segments.as_ref().and_then(|_| tensors.next()).map(Rc::new);
            let inputs: Vec<Tensor> = tensors.collect();
            let auxiliary = pass.auxiliary.as_ref().map(|_| OfPass::default());
            let host = Self { weights, positions, segments, auxiliary: auxiliary.clone(), ..pass.clone() };
            let ctx = ModelContext::new(Rc::new(host), Rc::clone(&pass.compute));
            let mut results = function(&ctx, &inputs)?;
            let (names, values): (Vec<_>, Vec<_>) = auxiliary.map(OfPass::take).unwrap_or_default().into_iter().unzip();
            labelled.replace(names);
            results.extend(values);
            results.into_iter().map(Tensor::into_handle).collect()
        };
        let results = if recompute { self.compute.checkpoint(Rc::new(call), &handles)? } else { call(&handles)? };
        let mut results: Vec<Tensor> =
            results.into_iter().map(|handle| Tensor::from_handle(&self.compute, handle)).collect();
        let labels = labels.take();
        let values = results.split_off(results.len().saturating_sub(labels.len()));
        if let Some(auxiliary) = &self.auxiliary {
            auxiliary.extend(labels.into_iter().zip(values));
        }
        Ok(results)
    }

    /// The layer of a name, as it is in this pass.
    fn layer(&self, name: &str) -> Result<Layer<'_>> {
        let mut layer = Layer { precision: self.precision, ..self.weights.layer(name)? };
        if let Some(adapter) = layer.adapter.as_mut() {
            adapter.precision = self.precision;
            adapter.key = self.training.is_some().then(|| self.key(&format!("{name}.lora_dropout")));
        }
        Ok(layer)
    }
}

impl ModelHost for Forward {
    fn linears(&self, names: &[&str], x: &Tensor) -> Result<Vec<Tensor>> {
        names.iter().map(|name| self.layer(name)?.linear(x)).collect()
    }

    fn expert_linears(&self, names: &[&str], x: &Tensor, experts: &Tensor) -> Result<Vec<Tensor>> {
        names.iter().map(|name| self.layer(name)?.experts(x, experts)).collect()
    }

    fn embedding(&self, name: &str, ids: &Tensor) -> Result<Tensor> {
        self.layer(name)?.embedding(ids)
    }

    fn parameter(&self, name: &str) -> Result<Option<Tensor>> {
        self.weights.weight(name)?.map(|(weight, _)| self.precision.activation(weight.whole()?)).transpose()
    }

    fn positions(&self) -> Result<Tensor> {
        if let Some(positions) = &self.positions {
            return positions.try_clone();
        }
        let (offset, end) = (self.offset as i64, (self.offset + self.tokens) as i64);
        Tensor::arange(&self.compute, end, Dtype::I32)?.slice(&[offset], &[end])?.reshape(&[1, -1])
    }

    fn rope(&self, x: &Tensor, inverse_frequencies: &Tensor, scale: f64) -> Result<Tensor> {
        let offset = if self.positions.is_some() { 0 } else { self.offset };
        let attributes = [attribute("offset", Value::Int(offset as i64)), attribute("scale", Value::Float(scale))];
        match &self.positions {
            Some(positions) => Tensor::op(OpKind::ROPE, &[x, inverse_frequencies, positions], &attributes),
            None => Tensor::op(OpKind::ROPE, &[x, inverse_frequencies], &attributes),
        }
    }

    fn attention(&self, name: &str, [queries, keys, values]: [&Tensor; 3], options: &Attention) -> Result<Tensor> {
        let kept = match &self.cache {
            Some(cache) => Some(cache.borrow_mut().append(name, keys, values, options.window)?),
            None => None,
        };
        let (keys, values) = kept.as_ref().map_or((keys, values), |(keys, values)| (keys, values));
        let mut attributes =
            vec![attribute("scale", Value::Float(options.scale)), attribute("causal", Value::Bool(true))];
        // A window that holds all keys hides none.
        let window = options.window.filter(|&window| window < self.offset + self.tokens);
        attributes.extend(window.map(|window| attribute("window", Value::Int(window as i64))));
        attributes.extend(options.soft_cap.map(|cap| attribute("soft_cap", Value::Float(cap))));
        if self.training.is_some() && options.dropout > 0.0 {
            let key = self.key(&format!("{name}.dropout")).cast_signed();
            attributes.extend([attribute("dropout", Value::Float(options.dropout)), attribute("key", Value::Int(key))]);
        }
        match &self.segments {
            Some(segments) => {
                let segments = last(segments, keys.shape()?[2])?;
                Tensor::op(OpKind::ATTENTION, &[queries, keys, values, &segments], &attributes)
            }
            None => Tensor::op(OpKind::ATTENTION, &[queries, keys, values], &attributes),
        }
    }

    fn block(&self, name: &str, inputs: &[&Tensor], function: Rc<BlockFunction>) -> Result<Vec<Tensor>> {
        let recompute = self.training.is_some_and(|training| training.recompute);
        self.run_block(name, inputs, function, recompute)
    }

    fn auxiliary_loss(&self, name: &str, value: &Tensor, coefficient: f64) -> Result<()> {
        let shape = value.shape()?;
        if !shape.is_empty() {
            return Err(Error::plugin(format!("the auxiliary loss `{name}` is a scalar, not of shape {shape:?}")));
        }
        if let Some(auxiliary) = &self.auxiliary {
            auxiliary.extend([((name.to_owned(), coefficient), value.cast(Dtype::F32)?)]);
        }
        Ok(())
    }

    fn earlier(&self, name: &str) -> Result<Option<Tensor>> {
        self.cache.as_ref().and_then(|cache| cache.borrow().earlier(name)).transpose()
    }

    fn keep(&self, name: &str, tensor: &Tensor) -> Result<()> {
        match &self.cache {
            Some(cache) => cache.borrow_mut().keep(name, tensor),
            None => Ok(()),
        }
    }

    fn key(&self, place: &str) -> u64 {
        let Randomness { seed, update, micro_batch } = self.training.unwrap_or_default().randomness;
        let of_update = Stream::new(seed, place, update).bits();
        let of_batch = Stream::new(of_update, "micro-batch", micro_batch).bits();
        if self.part == 0 { of_batch } else { Stream::new(of_batch, "part", self.part).bits() }
    }

    fn pass(&self) -> Pass {
        Pass { training: self.training.is_some(), length: self.length }
    }
}

/// The last `count` of each row.
fn last(rows: &Tensor, count: usize) -> Result<Tensor> {
    match *rows.shape()? {
        [batch, length] if count < length => rows.slice(&[0, (length - count) as i64], &[batch as i64, length as i64]),
        _ => rows.try_clone(),
    }
}
