//! What trainers say of rows: each sentence once, with the number of its rows and the first of them.

use std::collections::{BTreeMap, BTreeSet};

use mdt_plugin_api::Item;

use super::row_location::RowLocation;
use crate::counted::counted;

/// Sentences, each with the number of rows that it is said of and the first of them.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Notes(BTreeMap<String, (usize, RowLocation)>);

impl Notes {
    /// What is said of these items, which may be several of a row and in any order.
    pub fn of<'a>(items: impl Iterator<Item = (RowLocation, &'a Item)>) -> Self {
        let mut rows = BTreeMap::<&str, BTreeSet<RowLocation>>::new();
        for (location, item) in items {
            for note in &item.notes {
                rows.entry(note).or_default().insert(location);
            }
        }
        let first = |rows: BTreeSet<RowLocation>| Some((rows.len(), *rows.first()?));
        Self(rows.into_iter().filter_map(|(note, rows)| Some((note.to_owned(), first(rows)?))).collect())
    }

    /// Adds those of later rows. Returns what was not said of earlier ones.
    pub fn add(&mut self, later: Self) -> Self {
        let mut new = Self::default();
        for (note, (count, first)) in later.0 {
            match self.0.get_mut(&note) {
                Some((all, _)) => *all += count,
                None => {
                    new.0.insert(note.clone(), (count, first));
                    self.0.insert(note, (count, first));
                }
            }
        }
        new
    }

    /// The sentences, with the number of rows and the first of them.
    pub fn iter(&self) -> impl Iterator<Item = (&str, usize, RowLocation)> {
        self.0.iter().map(|(note, &(rows, first))| (note.as_str(), rows, first))
    }

    /// A line for each; `name` names rows.
    pub fn lines(&self, name: &dyn Fn(&[RowLocation]) -> String) -> Vec<String> {
        self.iter()
            .map(|(note, rows, first)| format!("{}, first {}: {note}", counted(rows, "row"), name(&[first])))
            .collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_sentence_is_said_once_with_the_number_of_its_rows_and_the_first() {
        let at = |row| RowLocation { source: 0, row };
        let item = |notes: &[&str]| Item::default().with_notes(notes.iter().map(|&note| note.to_owned()));
        let items = [(at(7), item(&["b"])), (at(3), item(&["a", "b"])), (at(3), item(&["a"])), (at(4), item(&[]))];
        let mut notes = Notes::of(items.iter().map(|(row, item)| (*row, item)));
        let name = |rows: &[RowLocation]| format!("row {}", rows[0].row);
        assert_eq!(notes.lines(&name), ["1 row, first row 3: a", "2 rows, first row 3: b"]);
        let later = [(at(9), item(&["b", "c"]))];
        let new = notes.add(Notes::of(later.iter().map(|(row, item)| (*row, item))));
        assert_eq!(new.lines(&name), ["1 row, first row 9: c"]);
        assert_eq!(notes.lines(&name)[1..], ["3 rows, first row 3: b", "1 row, first row 9: c"]);
    }
}
