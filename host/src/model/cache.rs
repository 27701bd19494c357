//! What is kept of the tokens so far when text is generated: keys and values of each attention, in memory that grows in steps,
//! and what a model keeps by name.

use std::collections::HashMap;

use mdt_plugin_api::{Error, HostArray, Result, Tensor};

use super::padding::Padding;

/// Tokens that memory grows by.
const STEP: usize = 256;

/// Named arrays of the tokens so far. An empty one begins a new sequence.
#[derive(Debug, Default)]
pub struct Cache {
    length: usize,
    /// What stands before the rows; none where they are of one length.
    padding: Option<Padding>,
    entries: HashMap<String, Entry>,
    /// The tokens of each row, of a model for which keys may have to be computed again.
    tokens: Vec<Vec<i32>>,
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
    /// How many tokens before its own a token sees at most.
    seen_before: usize,
}

impl Cache {
    /// An empty one for rows that begin after so many tokens of padding.
    pub fn after_padding(padding: Vec<usize>) -> Self {
        Self { padding: Padding::before(padding), ..Self::default() }
    }

    /// What stands before the rows; none where they are of one length.
    pub(super) fn padding(&self) -> Option<&Padding> {
        self.padding.as_ref()
    }

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

    /// Takes note of the next tokens `[rows, T]`.
    pub(super) fn remember(&mut self, tokens: &[i32], rows: usize) {
        self.tokens.resize(rows, Vec::new());
        for (all, new) in self.tokens.iter_mut().zip(tokens.chunks_exact(tokens.len() / rows)) {
            // Tokens before an interruption may not have been computed.
            all.truncate(self.length);
            all.extend(new);
        }
    }

    /// Forgets what was computed of the tokens that were taken note of; they are `[rows, T]`.
    pub(super) fn begin_again(&mut self) -> Vec<i32> {
        let (padding, tokens) = (self.padding.take(), std::mem::take(&mut self.tokens));
        let all = tokens.concat();
        *self = Self { padding, tokens, ..Self::default() };
        all
    }

    /// Computes what was appended, where no result needs it.
    pub(super) fn eval(&self) -> Result<()> {
        let arrays: Vec<_> =
            self.entries.values().flat_map(|entry| [entry.keys.handle(), entry.values.handle()]).collect();
        self.entries.values().next().map_or(Ok(()), |entry| entry.keys.compute().eval(&arrays))
    }

    /// Forgets all tokens but the first `length`. Returns whether it could: what a model keeps by name, and keys that a
    /// window has passed, do not come back.
    pub fn truncate(&mut self, length: usize) -> bool {
        if length >= self.length {
            return length == self.length;
        }
        let forgotten = self.length - length;
        let can = |entry: &Entry| entry.used >= forgotten + length.min(entry.seen_before);
        if !self.states.is_empty() || !self.entries.values().all(can) {
            return false;
        }
        self.entries.values_mut().for_each(|entry| entry.used -= forgotten);
        self.tokens.iter_mut().for_each(|row| row.truncate(length));
        self.length = length;
        true
    }

    /// Leaves out all rows but these. Returns whether it could: what a model keeps by name may be of all rows together.
    pub fn keep_rows(&mut self, rows: &[usize]) -> Result<bool> {
        let Some(first) = self.entries.values().next() else { return Ok(false) };
        if !self.states.is_empty() {
            return Ok(false);
        }
        let indices: Vec<i32> = rows.iter().map(|&row| row as i32).collect();
        let indices = Tensor::from_host(first.keys.compute(), &HostArray::new(&[rows.len()], &indices)?)?;
        for entry in self.entries.values_mut() {
            entry.keys = entry.keys.take(&indices, 0)?;
            entry.values = entry.values.take(&indices, 0)?;
        }
        self.padding = self.padding.take().and_then(|padding| padding.of_rows(rows));
        if !self.tokens.is_empty() {
            self.tokens = rows.iter().map(|&row| self.tokens[row].clone()).collect();
        }
        self.eval()?;
        Ok(true)
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
                    seen_before,
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
