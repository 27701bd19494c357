//! Where rows came from, for messages.

/// Rows that a text names at most.
const NAMED: usize = 64;

/// Where a row came from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Place {
    /// Its source, as a number in the list of sources.
    pub(super) source: u32,
    /// Its row there, as the source counts.
    pub(super) row: u64,
}

/// Places in words: `train.jsonl rows 3, 17; more.jsonl row 2`.
pub(super) fn name(sources: &[String], places: &[Place]) -> String {
    let mut text = String::new();
    for (number, name) in sources.iter().enumerate() {
        let rows: Vec<u64> =
            places.iter().filter(|place| place.source == number as u32).map(|place| place.row).collect();
        if rows.is_empty() {
            continue;
        }
        let separator = if text.is_empty() { "" } else { "; " };
        let plural = if rows.len() == 1 { "row" } else { "rows" };
        let shown: Vec<_> = rows.iter().take(NAMED).map(u64::to_string).collect();
        let rest = if rows.len() > NAMED { format!(" and {} more", rows.len() - NAMED) } else { String::new() };
        text += &format!("{separator}{name} {plural} {}{rest}", shown.join(", "));
    }
    text
}
