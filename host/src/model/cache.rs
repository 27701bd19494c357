//! What is kept of the tokens so far when text is generated: keys and values of each attention, in memory that grows in steps,
//! and what a model keeps by name.

use std::collections::HashMap;

use mdt_plugin_api::{Error, Result, Tensor};

/// Tokens that memory grows by.
const STEP: usize = 256;

/// Named arrays of the tokens so far. An empty one begins a new sequence.
#[derive(Debug, Default)]
pub struct Cache {
    length: usize,
    entries: HashMap<String, Entry>,
    /// What the model keeps; see [`mdt_plugin_api::ModelContext::keep`].
    states: HashMap<String, Tensor>,
}

/// Keys and values of one attention, `[B, H, capacity, D]`.
#[derive(Debug)]
struct Entry {
    keys: Tensor,
    values: Tensor,
    capacity: usize,
    /// How many places are in use: those of the last tokens.
    used: usize,
}

impl Cache {
    /// Number of tokens in it, which is the position of the next one.
    pub fn length(&self) -> usize {
        self.length
    }

    /// Counts tokens, once every layer has seen them, and computes what was kept: a state that no result needed would hold on to
    /// all that it is made of.
    pub(super) fn advance(&mut self, tokens: usize) -> Result<()> {
        self.length += tokens;
        let states: Vec<_> = self.states.values().map(Tensor::handle).collect();
        self.states.values().next().map_or(Ok(()), |state| state.compute().eval(&states))
    }

    /// What was kept under a name.
    pub(super) fn earlier(&self, name: &str) -> Option<Result<Tensor>> {
        self.states.get(name).map(Tensor::try_clone)
    }

    /// Keeps a tensor under a name.
    pub(super) fn keep(&mut self, name: &str, tensor: &Tensor) -> Result<()> {
        self.states.insert(name.to_owned(), tensor.try_clone()?);
        Ok(())
    }

    /// Appends keys and values `[B, H, T, D]` of new tokens under a name; returns those that the new tokens may see. With a
    /// window, earlier ones are forgotten.
    pub(super) fn append(
        &mut self,
        name: &str,
        keys: &Tensor,
        values: &Tensor,
        window: Option<usize>,
    ) -> Result<(Tensor, Tensor)> {
        let [_, _, tokens, _] = shape(keys)?;
        // A token sees this many before it at most.
        let seen_before = window.map_or(usize::MAX, |window| window - 1);
        let entry = match self.entries.get_mut(name) {
            Some(entry) => entry,
            None => {
                // Of the tokens that begin a sequence, those that come later need the last ones only.
                let kept = tokens.min(seen_before);
                let entry = Entry {
                    keys: grown(&last(keys, tokens, kept)?, kept)?,
                    values: grown(&last(values, tokens, kept)?, kept)?,
                    capacity: kept.next_multiple_of(STEP),
                    used: kept,
                };
                self.entries.insert(name.to_owned(), entry);
                return Ok((keys.try_clone()?, values.try_clone()?));
            }
        };
        if entry.used + tokens > entry.capacity {
            let kept = entry.used.min(seen_before);
            entry.keys = grown(&last(&entry.keys, entry.used, kept)?, kept + tokens)?;
            entry.values = grown(&last(&entry.values, entry.used, kept)?, kept + tokens)?;
            entry.capacity = (kept + tokens).next_multiple_of(STEP);
            entry.used = kept;
        }
        entry.keys = updated(&entry.keys, keys, entry.used)?;
        entry.values = updated(&entry.values, values, entry.used)?;
        entry.used += tokens;
        let visible = entry.used.min(seen_before.saturating_add(tokens));
        Ok((last(&entry.keys, entry.used, visible)?, last(&entry.values, entry.used, visible)?))
    }
}

fn shape(tensor: &Tensor) -> Result<[usize; 4]> {
    <[usize; 4]>::try_from(tensor.shape()?)
        .map_err(|shape| Error::plugin(format!("keys and values have the shape [B, H, T, D], not {shape:?}")))
}

/// The last `count` of the first `used` tokens.
fn last(array: &Tensor, used: usize, count: usize) -> Result<Tensor> {
    let [batch, heads, all, width] = shape(array)?;
    if (used, count) == (all, all) {
        return array.try_clone();
    }
    let bounds = |tokens: usize| [batch as i64, heads as i64, tokens as i64, width as i64];
    array.slice(&[0, 0, (used - count) as i64, 0], &bounds(used))
}

/// The tokens of an array at the start of memory for `tokens` of them, rounded up to whole steps.
fn grown(array: &Tensor, tokens: usize) -> Result<Tensor> {
    let [batch, heads, held, width] = shape(array)?;
    let rest = tokens.next_multiple_of(STEP) - held;
    if rest == 0 {
        return array.try_clone();
    }
    let shape = [batch as i64, heads as i64, rest as i64, width as i64];
    let zeros = Tensor::full(array.compute(), &shape, 0.0, array.tensor_type()?.dtype)?;
    if held == 0 { Ok(zeros) } else { Tensor::concatenate(&[array, &zeros], 2) }
}

/// The array with new tokens from `start` on. The device writes them into its memory, as nothing else needs the earlier array.
fn updated(array: &Tensor, tokens: &Tensor, start: usize) -> Result<Tensor> {
    let start = [0, 0, start as i64, 0];
    array.slice_update(tokens, &start)
}
