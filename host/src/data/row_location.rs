//! The source and row number of each example, and how messages name them.

/// The most rows that one text names.
const NAMED: usize = 64;

/// The source that a row was read from, and its number there.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct RowLocation {
    /// The index of its source in the list of sources.
    pub(super) source: u32,
    /// Its row number, as the source counts.
    pub(super) row: u64,
}

/// Locations as text: `train.jsonl rows 3, 17; more.jsonl row 2`.
pub fn describe(sources: &[String], locations: &[RowLocation]) -> String {
    let mut text = String::new();
    for (number, name) in sources.iter().enumerate() {
        let rows: Vec<u64> =
            locations.iter().filter(|location| location.source == number as u32).map(|location| location.row).collect();
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
