//! Micro-batches: named arrays in host memory, and the same on the device.

use serde::{Deserialize, Serialize};

use crate::{Element, Error, HostArray, Item, Result, Tensor};

// Attention is causal and padding is at the right, so no token that matters sees it: any id does.
const PADDING: i32 = 0;
/// The target of a place that predicts nothing.
const NO_TARGET: i32 = -1;

/// A micro-batch in host memory.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct HostBatch {
    /// Named arrays, as [`Trainer::loss`](crate::Trainer::loss) gets them back.
    pub arrays: Vec<(String, HostArray)>,
    /// Tokens without padding.
    pub tokens: u64,
    /// Tokens that are trained.
    pub supervised_tokens: u64,
}

impl HostBatch {
    /// Adds an array.
    pub fn add<T: Element>(&mut self, name: &str, shape: &[usize], values: &[T]) -> Result<()> {
        self.arrays.push((name.to_owned(), HostArray::new(shape, values)?));
        Ok(())
    }

    /// Adds the sequences of this name, one per item and row, padded at the right, and counts their tokens. Of the
    /// sequences `chosen` of B items, the longest of T tokens, with at most M trained tokens each, it adds
    ///
    /// - `chosen`: token ids `[B, T]`, int32;
    /// - `chosen.places`: indices into `[B·T]` of the hidden states that predict a trained token, `[B, M]`, int32;
    /// - `chosen.targets`: the token that each of them predicts, `[B, M]`, int32; -1 where a row has fewer than M;
    /// - `chosen.mask`: 1 for each of them and 0 where a row has fewer than M, `[B, M]`, f32.
    ///
    /// [`LanguageModel::log_probs`](crate::LanguageModel::log_probs) takes them from there.
    ///
    /// # Errors
    /// An item has no such sequence; none of them has a trained token.
    pub fn add_sequences(&mut self, items: &[&Item], name: &str) -> Result<()> {
        let sequences = items.iter().map(|item| item.sequence(name)).collect::<Result<Vec<_>>>()?;
        let length = sequences.iter().map(|sequence| sequence.tokens.len()).max().unwrap_or(0);
        let trained = |place: usize| {
            let sequence = sequences[place];
            (1..sequence.tokens.len()).filter(|&t| sequence.supervised[t])
        };
        let width = (0..sequences.len()).map(|place| trained(place).count()).max().unwrap_or(0);
        if width == 0 {
            return Err(Error::plugin(format!("{} sequences {name:?} have nothing to train", sequences.len())));
        }
        let rows = sequences.len();
        let mut tokens = vec![PADDING; rows * length];
        let (mut places, mut targets) = (vec![0; rows * width], vec![NO_TARGET; rows * width]);
        let mut mask = vec![0.0_f32; rows * width];
        for (row, sequence) in sequences.iter().enumerate() {
            for (t, &token) in sequence.tokens.iter().enumerate() {
                tokens[row * length + t] = int32(token as usize)?;
            }
            for (place, t) in (row * width..).zip(trained(row)) {
                places[place] = int32(row * length + t - 1)?;
                targets[place] = tokens[row * length + t];
                mask[place] = 1.0;
            }
            self.tokens += sequence.tokens.len() as u64;
            self.supervised_tokens += trained(row).count() as u64;
        }
        self.add(name, &[rows, length], &tokens)?;
        self.add(&format!("{name}.places"), &[rows, width], &places)?;
        self.add(&format!("{name}.targets"), &[rows, width], &targets)?;
        self.add(&format!("{name}.mask"), &[rows, width], &mask)
    }
}

fn int32(value: usize) -> Result<i32> {
    i32::try_from(value).map_err(|_| Error::input(format!("{value} is no token or place of 32 bits")))
}

/// The same micro-batch on the device.
#[derive(Debug, Default)]
pub struct Batch {
    arrays: Vec<(String, Tensor)>,
}

impl Batch {
    /// A batch of these named tensors.
    pub fn new(arrays: Vec<(String, Tensor)>) -> Self {
        Self { arrays }
    }

    /// The array of this name.
    pub fn get(&self, name: &str) -> Result<&Tensor> {
        self.arrays
            .iter()
            .find_map(|(key, tensor)| (key == name).then_some(tensor))
            .ok_or_else(|| Error::plugin(format!("the batch has no array named {name:?}")))
    }

    /// All of them.
    pub fn arrays(&self) -> &[(String, Tensor)] {
        &self.arrays
    }
}
