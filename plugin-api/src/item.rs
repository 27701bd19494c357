//! Items: what a trainer makes of an example, as sequences of tokens with numbers beside them.

use serde::{Deserialize, Serialize};

use crate::{Error, Result};

/// A sequence of tokens of an item.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Sequence {
    /// Its name among the sequences of its item: `tokens`, `chosen`.
    pub name: String,
    /// Token ids, below the size of the vocabulary.
    pub tokens: Vec<u32>,
    /// For each token, whether predicting it is trained. The first one never is: nothing comes before it.
    pub supervised: Vec<bool>,
    /// How many tokens were cut off. The host cuts sequences at `max_seq_len` and counts here what it cut.
    pub truncated: u64,
}

impl Sequence {
    /// Number of tokens that are trained.
    pub fn supervised_tokens(&self) -> usize {
        self.supervised.iter().filter(|&&trained| trained).count()
    }
}

/// What is trained as one: a text, a pair of answers to compare, a prompt to answer.
///
/// The host orders items, puts them into micro-batches by the lengths of their sequences, and counts them. It drops an item
/// that has no supervised token in any sequence; one that has none in some of them is the trainer's to judge, also where the
/// host has cut them off at `trainer.max_seq_len`.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Item {
    /// Its sequences. Every item of a trainer has the same names in the same order.
    pub sequences: Vec<Sequence>,
    /// Numbers by name: a reward, a weight, a log-probability for each token. They must be finite, and those named
    /// `weight` above 0.
    pub numbers: Vec<(String, Vec<f64>)>,
    /// What the user should know of it, in sentences that many items may share: the host shows each once, with the number of
    /// its rows and the first of them.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub notes: Vec<String>,
}

impl Item {
    /// The name of the sequence of an item that has one only.
    pub const TOKENS: &'static str = "tokens";

    /// An item of one sequence, named `tokens`.
    pub fn of(tokens: Vec<u32>, supervised: Vec<bool>) -> Self {
        Self::default().with(Self::TOKENS, tokens, supervised)
    }

    /// Adds a sequence.
    #[must_use]
    pub fn with(mut self, name: &str, tokens: Vec<u32>, supervised: Vec<bool>) -> Self {
        self.sequences.push(Sequence { name: name.to_owned(), tokens, supervised, truncated: 0 });
        self
    }

    /// Adds numbers.
    #[must_use]
    pub fn with_numbers(mut self, name: &str, values: impl Into<Vec<f64>>) -> Self {
        self.numbers.push((name.to_owned(), values.into()));
        self
    }

    /// Adds what the user should know of it.
    #[must_use]
    pub fn with_notes(mut self, notes: impl IntoIterator<Item = String>) -> Self {
        self.notes.extend(notes);
        self
    }

    /// The sequence of this name.
    pub fn sequence(&self, name: &str) -> Result<&Sequence> {
        let found = self.sequences.iter().find(|sequence| sequence.name == name);
        found.ok_or_else(|| Error::plugin(format!("an item has no sequence named {name:?}")))
    }

    /// The numbers of this name.
    pub fn numbers(&self, name: &str) -> Result<&[f64]> {
        let found = self.numbers.iter().find(|(key, _)| key == name);
        found
            .map(|(_, values)| &**values)
            .ok_or_else(|| Error::plugin(format!("an item has no numbers named {name:?}")))
    }

    /// The one number of this name.
    pub fn number(&self, name: &str) -> Result<f64> {
        match self.numbers(name)? {
            [number] => Ok(*number),
            numbers => Err(Error::plugin(format!("an item has {} numbers named {name:?}", numbers.len()))),
        }
    }

    /// Tokens of all its sequences.
    pub fn tokens(&self) -> usize {
        self.sequences.iter().map(|sequence| sequence.tokens.len()).sum()
    }

    /// Tokens of all its sequences that are trained.
    pub fn supervised_tokens(&self) -> usize {
        self.sequences.iter().map(Sequence::supervised_tokens).sum()
    }

    /// The length of its longest sequence.
    pub fn length(&self) -> usize {
        self.sequences.iter().map(|sequence| sequence.tokens.len()).max().unwrap_or(0)
    }

    /// Tokens that were cut off its sequences.
    pub fn truncated(&self) -> u64 {
        self.sequences.iter().map(|sequence| sequence.truncated).sum()
    }
}
