//! Rows that are longer than `trainer.max_seq_len`: cut, left out, or split into pieces.

use mdt_plugin_api::{Error, Item, Result};

use super::row_location::RowLocation;
use crate::counted::counted;

/// What an item is of what the trainer made of its row.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Part {
    /// All of an item, or what was cut of it.
    Whole,
    /// The first piece of an item that has something to train.
    FirstPiece,
    /// A later one.
    LaterPiece,
}

/// Why a row is left out that has something to train.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LeftOut {
    /// It is longer than `trainer.max_seq_len`, and `trainer.long_rows` is "drop".
    TooLong,
    /// It has more tokens than `data.max_tokens` allows.
    MaxTokens,
}

/// A row as items.
#[derive(Debug, Default)]
pub struct Encoded {
    /// Those that have something to train, within the limits.
    pub items: Vec<Item>,
    /// What each of them is.
    pub parts: Vec<Part>,
    /// Why the row was left out, if it was.
    pub left_out: Option<LeftOut>,
}

/// How many rows were too long, and what became of them.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct LongRows {
    /// Rows that were cut.
    pub cut: usize,
    /// The tokens that they lost.
    pub cut_tokens: u64,
    /// Rows that were left out.
    pub dropped: Vec<RowLocation>,
    /// Rows that were left out by `data.max_tokens`.
    pub over_max_tokens: Vec<RowLocation>,
    /// Rows that were split.
    pub split: usize,
    /// The pieces of them that are trained.
    pub pieces: usize,
}

/// The pieces of an item of one sequence. A piece begins with the last token of the one before, from which its first
/// trained token is predicted: so each token is trained in one piece.
pub(super) fn pieces(item: Item, max_seq_len: usize) -> Vec<Item> {
    let Item { sequences, notes, .. } = &item;
    let [sequence] = sequences.as_slice() else { return vec![item] };
    let length = sequence.tokens.len();
    let starts = (0..).map(|piece| piece * (max_seq_len - 1));
    let starts = starts.take_while(|&start| start == 0 || start + 1 < length);
    let piece = |start: usize| {
        let own = start..length.min(start + max_seq_len);
        let mut supervised = sequence.supervised[own.clone()].to_vec();
        supervised.first_mut().into_iter().for_each(|first| *first = false);
        Item::default().with(&sequence.name, sequence.tokens[own].to_vec(), supervised).with_notes(notes.clone())
    };
    starts.map(piece).collect()
}

/// Refuses items that cannot be split.
///
/// # Errors
/// The item is more than one sequence of tokens, or what it is trained for is known later.
pub(super) fn require_splittable(item: &Item, prepares: bool) -> Result<()> {
    let why = match (item.sequences.as_slice(), item.numbers.as_slice()) {
        _ if prepares => "the trainer prepares its items while it trains".to_owned(),
        ([_], []) => return Ok(()),
        ([_], numbers) => {
            let names: Vec<_> = numbers.iter().map(|(name, _)| format!("{name:?}")).collect();
            format!("its items have numbers, {}, that belong to them as a whole", names.join(", "))
        }
        (sequences, _) => {
            let names: Vec<_> = sequences.iter().map(|sequence| format!("{:?}", sequence.name)).collect();
            format!("its items are of {} sequences, {}", sequences.len(), names.join(", "))
        }
    };
    Err(Error::config("`trainer.long_rows` is \"split\", and the items of this trainer cannot be split")
        .caused_by(why)
        .help("set it to \"cut\" or \"drop\""))
}

impl LongRows {
    /// Counts a row.
    pub fn count(&mut self, location: RowLocation, encoded: &Encoded) {
        let cut = encoded.items.iter().map(Item::truncated).sum::<u64>();
        self.cut += usize::from(cut > 0);
        self.cut_tokens += cut;
        let pieces = encoded.parts.iter().filter(|&&part| part != Part::Whole).count();
        self.split += usize::from(pieces > 0);
        self.pieces += pieces;
        match encoded.left_out {
            Some(LeftOut::TooLong) => self.dropped.push(location),
            Some(LeftOut::MaxTokens) => self.over_max_tokens.push(location),
            None => {}
        }
    }

    /// Adds others.
    pub fn add(&mut self, other: Self) {
        self.cut += other.cut;
        self.cut_tokens += other.cut_tokens;
        self.dropped.extend(other.dropped);
        self.over_max_tokens.extend(other.over_max_tokens);
        self.split += other.split;
        self.pieces += other.pieces;
    }

    /// What became of them, each as a part of a line for the user; `name` names rows.
    pub fn parts(&self, name: &dyn Fn(&[RowLocation]) -> String) -> Vec<String> {
        let mut parts = Vec::new();
        if self.cut > 0 {
            let (rows, tokens) = (counted(self.cut, "row"), self.cut_tokens);
            parts.push(format!("{rows} cut at max_seq_len, losing {tokens} tokens"));
        }
        if self.split > 0 {
            let (rows, pieces) = (counted(self.split, "row"), counted(self.pieces, "piece"));
            parts.push(format!("{rows} longer than max_seq_len split into {pieces}"));
        }
        if !self.dropped.is_empty() {
            parts.push(format!("{} longer than max_seq_len dropped ({})", self.dropped.len(), name(&self.dropped)));
        }
        if !self.over_max_tokens.is_empty() {
            let (count, names) = (self.over_max_tokens.len(), name(&self.over_max_tokens));
            parts.push(format!("{count} left out by data.max_tokens ({names})"));
        }
        parts
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn a_piece_begins_with_the_last_token_of_the_one_before() {
        let item = Item::of((0..8).collect(), vec![false, false, true, true, false, true, true, true]);
        let expected = [
            Item::of(vec![0, 1, 2, 3], vec![false, false, true, true]),
            Item::of(vec![3, 4, 5, 6], vec![false, false, true, true]),
            Item::of(vec![6, 7], vec![false, true]),
        ];
        assert_eq!(pieces(item, 4), expected);
        for length in 1..=4 {
            let short = Item::of(vec![1; length], vec![false; length]);
            assert_eq!(pieces(short.clone(), 4), [short]);
        }
    }

    proptest! {
        #[test]
        fn each_supervised_token_is_trained_in_exactly_one_piece(
            supervised in prop::collection::vec(any::<bool>(), 1..60), max_seq_len in 2usize..12,
        ) {
            let mut supervised = supervised;
            supervised[0] = false;
            let tokens: Vec<u32> = (0..supervised.len() as u32).collect();
            let pieces = pieces(Item::of(tokens, supervised.clone()), max_seq_len);
            let mut trained = Vec::new();
            for piece in &pieces {
                let sequence = piece.sequence(Item::TOKENS).unwrap();
                prop_assert!(sequence.tokens.len() <= max_seq_len);
                prop_assert!(pieces.len() == 1 || sequence.tokens.len() > 1, "a piece with nothing to predict");
                for (place, (&token, &marked)) in sequence.tokens.iter().zip(&sequence.supervised).enumerate() {
                    if marked {
                        prop_assert_eq!(sequence.tokens[place - 1] + 1, token);
                        trained.push(token);
                    }
                }
            }
            let expected: Vec<u32> = (0..).zip(&supervised).filter(|(_, marked)| **marked).map(|(token, _)| token).collect();
            prop_assert_eq!(trained, expected);
        }
    }

    #[test]
    fn items_of_more_than_one_sequence_of_tokens_cannot_be_split() {
        let item = || Item::of(vec![1, 2], vec![false, true]);
        assert!(require_splittable(&item(), false).is_ok());
        let refused = |item: Item, prepares| format!("{:?}", require_splittable(&item, prepares).unwrap_err());
        assert!(refused(item(), true).contains("prepares"));
        assert!(refused(item().with("rejected", vec![1], vec![false]), false).contains("rejected"));
        assert!(refused(item().with_numbers("reward", [1.0]), false).contains("reward"));
    }
}
