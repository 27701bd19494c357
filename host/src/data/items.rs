//! What the host makes sure of in the items that a trainer returns.

use mdt_plugin_api::register::TrainerComponent;
use mdt_plugin_api::{Error, Example, Item, ModelSpec, Result, Sequence};

use super::long_rows::{Encoded, LeftOut, Part, pieces, require_splittable};
use super::row_location::RowLocation;
use crate::config::LongRows;
use crate::job::Job;

/// A row as items, or what is wrong with it, and where it is.
pub type EncodedRow = (RowLocation, Result<Encoded>);

/// The limits that items keep.
#[derive(Clone, Copy, Debug)]
pub struct ItemLimits {
    /// The most tokens of a sequence; longer ones are cut at the right.
    pub max_seq_len: usize,
    /// Token ids are below it.
    pub vocabulary: usize,
    /// The positions that the model has learnt, where it has learnt some.
    pub positions: Option<usize>,
}

/// Turns rows into items.
#[derive(Clone)]
pub struct Encoder {
    trainer: TrainerComponent,
    /// The trainer, as errors name it.
    name: String,
    limits: ItemLimits,
    long_rows: LongRows,
    /// The most tokens of a row.
    max_tokens: usize,
}

impl Encoder {
    /// An encoder of a job's rows, by this trainer, for a model; without one, any tokens will do.
    pub fn new(job: &Job, trainer: &TrainerComponent, model: Option<&ModelSpec>) -> Self {
        let settings = &job.resolved.settings.trainer;
        let limits = ItemLimits::of(settings.max_seq_len as usize, model);
        let max_tokens = job.resolved.settings.data.max_tokens.map_or(usize::MAX, |most| most as usize);
        Self { trainer: trainer.clone(), name: job.trainer_name(), limits, long_rows: settings.long_rows, max_tokens }
    }

    /// The same with another instance of the trainer.
    pub fn with(&self, trainer: TrainerComponent) -> Self {
        Self { trainer, ..self.clone() }
    }

    /// What its results depend on beside the row, the trainer and its keys.
    pub(super) fn identity(&self) -> String {
        let Self { limits, long_rows, max_tokens, .. } = self;
        format!("{limits:?} {long_rows:?} {max_tokens}")
    }

    /// Whether the trainer prepares items before a batch is made of them.
    pub fn prepares(&self) -> bool {
        self.trainer.prepare.is_some()
    }

    /// The items of a row that have something to train, within the limits.
    ///
    /// # Errors
    /// The trainer refuses the row, or returns what it may not.
    pub fn encode(&self, example: &Example) -> Result<Encoded> {
        let made = self.made(example)?;
        let mut encoded = Encoded::default();
        if made.iter().any(|made| made.tokens > self.max_tokens) {
            return Ok(Encoded { left_out: Some(LeftOut::MaxTokens), ..encoded });
        }
        if self.long_rows == LongRows::Drop
            && made.iter().flat_map(|made| &made.pieces).any(|item| self.is_too_long(item))
        {
            return Ok(Encoded { left_out: Some(LeftOut::TooLong), ..encoded });
        }
        for Made { pieces, .. } in made {
            let mut part = if pieces.len() == 1 { Part::Whole } else { Part::FirstPiece };
            // What is prepared later may get its supervised tokens then.
            let is_kept = |item: &Item| item.supervised_tokens() > 0 || self.prepares() && item.tokens() > 0;
            for item in pieces.into_iter().filter(is_kept) {
                encoded.items.push(item);
                encoded.parts.push(part);
                if part == Part::FirstPiece {
                    part = Part::LaterPiece;
                }
            }
        }
        Ok(encoded)
    }

    /// The items of a row as it was read.
    ///
    /// # Errors
    /// As for [`Encoder::encode`]; it could not be read.
    pub fn encode_read(&self, row: &Result<Example>) -> Result<Encoded> {
        row.as_ref().map_err(Error::clone).and_then(|example| self.encode(example))
    }

    /// All items of a row, and all pieces of those that are split. Those that are left out because they are too long are as
    /// they were made.
    ///
    /// # Errors
    /// As for [`Encoder::encode`].
    pub fn items(&self, example: &Example) -> Result<Vec<Item>> {
        Ok(self.made(example)?.into_iter().flat_map(|made| made.pieces).collect())
    }

    /// The items of a row, each as its pieces.
    fn made(&self, example: &Example) -> Result<Vec<Made>> {
        let items = self.trainer.encode(example)?;
        let of_trainer = |error: Error| error.in_component(&self.name).with("row", example.row);
        let within_limits = |mut item: Item| -> Result<Made> {
            self.limits.check(&mut item)?;
            let whole = |sequence: &Sequence| sequence.tokens.len() + sequence.truncated as usize;
            let tokens = item.sequences.iter().map(whole).max().unwrap_or(0);
            let pieces = match self.long_rows {
                LongRows::Cut => {
                    self.limits.cut(&mut item);
                    vec![item]
                }
                LongRows::Drop => vec![item],
                LongRows::Split => {
                    require_splittable(&item, self.prepares())?;
                    pieces(item, self.limits.max_seq_len)
                }
            };
            Ok(Made { pieces, tokens })
        };
        let made: Vec<Made> = items.into_iter().map(within_limits).collect::<Result<_>>().map_err(of_trainer)?;
        // Rows that are left out for their length may have any.
        let kept = made.iter().filter(|made| made.tokens <= self.max_tokens).flat_map(|made| &made.pieces);
        let mut kept = kept.filter(|item| self.long_rows != LongRows::Drop || !self.is_too_long(item));
        kept.try_for_each(|item| self.limits.check_positions(item)).map_err(|error| error.with("row", example.row))?;
        Ok(made)
    }

    fn is_too_long(&self, item: &Item) -> bool {
        item.length() > self.limits.max_seq_len
    }
}

/// An item that the trainer has made of a row.
struct Made {
    /// It, or what it was split into.
    pieces: Vec<Item>,
    /// The tokens of its longest sequence, before any of them were cut off.
    tokens: usize,
}

impl ItemLimits {
    /// Those of a model; without one, any tokens will do.
    pub fn of(max_seq_len: usize, model: Option<&ModelSpec>) -> Self {
        let vocabulary = model.map_or(usize::MAX, |model| model.vocabulary_size);
        Self { max_seq_len, vocabulary, positions: model.and_then(|model| model.max_positions) }
    }

    /// Checks that the model knows a position for each token.
    ///
    /// # Errors
    /// A sequence is too long: that is the row's fault, or the configuration's.
    fn check_positions(self, item: &Item) -> Result<()> {
        match self.positions {
            Some(positions) if item.length() > positions => {
                let tokens = item.length();
                let message = format!("a sequence has {tokens} tokens, and the model has learnt {positions} positions");
                Err(Error::input(message).help(format!(
                    "set trainer.max_seq_len = {positions}: longer rows are then cut, or left out or split (trainer.long_rows)"
                )))
            }
            _ => Ok(()),
        }
    }

    /// Checks all that the trainer returned, and cuts the sequences of an item.
    ///
    /// # Errors
    /// As for [`ItemLimits::check`].
    pub fn enforce(self, item: &mut Item) -> Result<()> {
        self.check(item)?;
        self.cut(item);
        self.check_positions(item)
    }

    /// Cuts the sequences of an item at the right.
    fn cut(self, item: &mut Item) {
        for Sequence { tokens, supervised, truncated, .. } in &mut item.sequences {
            let too_many = tokens.len().saturating_sub(self.max_seq_len);
            tokens.truncate(self.max_seq_len);
            supervised.truncate(self.max_seq_len);
            *truncated += too_many as u64;
        }
    }

    /// Checks all that the trainer returned, and takes the mark for training from first tokens.
    ///
    /// # Errors
    /// Status 3, with the sequence or number that is wrong.
    fn check(self, item: &mut Item) -> Result<()> {
        if item.sequences.is_empty() {
            return Err(Error::plugin("an item has no sequence of tokens"));
        }
        for at in 0..item.sequences.len() {
            let (before, rest) = item.sequences.split_at_mut(at);
            self.check_sequence(&mut rest[0])?;
            if before.iter().any(|other| other.name == rest[0].name) {
                return Err(Error::plugin(format!("an item has two sequences named {:?}", rest[0].name)));
            }
        }
        for (name, values) in &item.numbers {
            let allowed = |value: &f64| value.is_finite() && (name != "weight" || *value > 0.0);
            if let Some(value) = values.iter().find(|value| !allowed(value)) {
                let expected = if name == "weight" { "a finite number above 0" } else { "finite" };
                return Err(Error::plugin(format!(
                    "an item has a number {name:?} of {value}, which must be {expected}"
                )));
            }
        }
        Ok(())
    }

    fn check_sequence(self, sequence: &mut Sequence) -> Result<()> {
        let Sequence { name, tokens, supervised, .. } = sequence;
        if tokens.len() != supervised.len() {
            let (tokens, marks) = (tokens.len(), supervised.len());
            return Err(Error::plugin(format!(
                "the sequence {name:?} has {tokens} tokens and {marks} marks for training"
            )));
        }
        if let Some(token) = tokens.iter().find(|&&token| token as usize >= self.vocabulary) {
            let message =
                format!("the sequence {name:?} has the token {token}, and the vocabulary {} tokens", self.vocabulary);
            return Err(Error::plugin(message));
        }
        // Nothing comes before it that it could be predicted from.
        if let Some(first) = supervised.first_mut() {
            *first = false;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LIMITS: ItemLimits = ItemLimits { max_seq_len: 3, vocabulary: 10, positions: None };

    fn refused(item: Item) -> String {
        LIMITS.enforce(&mut { item }).unwrap_err().to_string()
    }

    #[test]
    fn sequences_are_cut_at_the_right_and_the_rest_is_counted() {
        let mut item = Item::of(vec![1, 2, 3, 4, 5], vec![true; 5]);
        LIMITS.enforce(&mut item).unwrap();
        let expected =
            Sequence { truncated: 2, ..Item::of(vec![1, 2, 3], vec![false, true, true]).sequences.remove(0) };
        assert_eq!(item.sequences, [expected]);
    }

    #[test]
    fn a_sequence_without_a_position_for_each_token_is_an_error_of_the_row() {
        let item = Item::of(vec![1, 2, 3], vec![true; 3]);
        let limits = |positions| ItemLimits { positions: Some(positions), ..LIMITS };
        assert!(limits(3).enforce(&mut item.clone()).is_ok());
        let error = limits(2).enforce(&mut item.clone()).unwrap_err();
        assert_eq!(error.code(), mdt_plugin_api::ErrorCode::Input);
        assert!(error.to_string().contains("3 tokens") && error.to_string().contains("2 positions"), "{error}");
    }

    #[test]
    fn what_a_trainer_may_not_return_is_refused() {
        let item = || Item::of(vec![1, 2], vec![false, true]);
        assert!(refused(Item::default()).contains("no sequence"));
        assert!(refused(Item::of(vec![1, 2], vec![true])).contains("2 tokens and 1 marks"));
        assert!(refused(Item::of(vec![1, 10], vec![false, true])).contains("the token 10"));
        assert!(refused(item().with(Item::TOKENS, vec![], vec![])).contains("two sequences"));
        for weight in [0.0, -1.0, f64::NAN, f64::INFINITY] {
            assert!(refused(item().with_numbers("weight", [weight])).contains("above 0"), "{weight}");
        }
        assert!(refused(item().with_numbers("reward", [0.0, f64::NAN])).contains("\"reward\" of NaN"));
        assert!(LIMITS.enforce(&mut item().with_numbers("reward", [0.0, -1.0])).is_ok());
    }
}
