//! How many rows and tokens there are, and what became of the others: the line that begins with `data`.

use super::long_rows::LongRows;
use super::places::PackedRows;
use super::row_location::RowLocation;
use crate::counted::counted;

/// The most rows that a message names.
const NAMED: usize = 5;

/// Numbers of rows and tokens, and the rows that were left out.
#[derive(Clone, Debug, Default)]
pub(super) struct Counts {
    /// Rows that the items are of.
    pub rows: usize,
    pub tokens: usize,
    /// Tokens that are trained.
    pub supervised: usize,
    /// How many rows have a sequence for each of several answers, and how many sequences these are.
    pub by_answer: (usize, usize),
    /// Rows that were too long.
    pub long: LongRows,
    /// Rows that repeat earlier ones.
    pub repeated: Vec<RowLocation>,
    /// The number of rows that cannot be used.
    pub bad: usize,
    /// Rows with nothing to train.
    pub dropped: Vec<RowLocation>,
}

impl Counts {
    /// Adds those of later rows.
    pub fn add(&mut self, later: Self) {
        let Self { rows, tokens, supervised, by_answer, long, repeated, bad, dropped } = later;
        self.rows += rows;
        self.tokens += tokens;
        self.supervised += supervised;
        self.by_answer = (self.by_answer.0 + by_answer.0, self.by_answer.1 + by_answer.1);
        self.long.add(long);
        self.repeated.extend(repeated);
        self.bad += bad;
        self.dropped.extend(dropped);
    }

    /// The same without rows that are held out of them, all of which have something to train.
    #[must_use]
    pub fn without(mut self, held_out: &Self) -> Self {
        self.rows -= held_out.rows;
        self.tokens -= held_out.tokens;
        self.supervised -= held_out.supervised;
        self.by_answer = (self.by_answer.0 - held_out.by_answer.0, self.by_answer.1 - held_out.by_answer.1);
        self.long.cut -= held_out.long.cut;
        self.long.cut_tokens -= held_out.long.cut_tokens;
        self.long.split -= held_out.long.split;
        self.long.pieces -= held_out.long.pieces;
        self
    }

    /// A line for the user; `total` is the number of rows before some were held out, and `name` names rows.
    pub fn text(
        &self,
        total: Option<usize>,
        packed: Option<PackedRows>,
        name: &dyn Fn(&[RowLocation]) -> String,
    ) -> String {
        let Self { rows, tokens, supervised, by_answer, long, repeated, bad, dropped } = self;
        let of = total.map_or(String::new(), |total| format!(" of {total}"));
        let mut text = format!("{rows}{of} rows, {tokens} tokens, {supervised} of them trained");
        if let &(rows @ 1.., sequences) = by_answer {
            text += &format!("; {} with a sequence for each answer, {sequences} in all", counted(rows, "row"));
        }
        if let Some(PackedRows { rows, longest, tokens }) = packed {
            let padding = 100.0 * (1.0 - tokens as f64 / (rows * longest).max(1) as f64);
            text += &format!("; packed into {rows} rows of up to {longest} tokens, {padding:.1} % of them padding");
        }
        let shown = |rows: &[RowLocation]| {
            let more = if rows.len() > NAMED { ", …" } else { "" };
            name(&rows[..rows.len().min(NAMED)]) + more
        };
        for part in long.parts(&shown) {
            text += &format!("; {part}");
        }
        if !repeated.is_empty() {
            text += &format!("; {} left out that repeat earlier ones ({})", repeated.len(), shown(repeated));
        }
        if *bad > 0 {
            text += &format!("; {} skipped", counted(*bad, "bad row"));
        }
        if !dropped.is_empty() {
            text += &format!("; {} dropped with nothing to train ({})", dropped.len(), shown(dropped));
        }
        text
    }
}
