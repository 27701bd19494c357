//! Packing: several items in one row of a micro-batch, so that less of it is padding.

use mdt_plugin_api::Item;

/// The lengths of an item's sequences. Every item has the same sequences.
pub fn lengths(item: &Item) -> Vec<usize> {
    item.sequences.iter().map(|sequence| sequence.tokens.len()).collect()
}

/// Puts items, by the lengths of their sequences, into as few rows as best fit by falling length finds: each item goes where the
/// least room is left behind it. In a row with several items, their sequences of a name together have at most `capacity` tokens.
///
/// The rows have their items in the order that these come in, and are in the order of their first items.
pub fn best_fit(items: &[Vec<usize>], capacity: usize) -> Vec<Vec<usize>> {
    let mut by_length: Vec<usize> = (0..items.len()).collect();
    by_length.sort_by_key(|&item| std::cmp::Reverse(items[item].iter().max()));
    let mut rows: Vec<(Vec<usize>, Vec<usize>)> = Vec::new();
    for item in by_length {
        let fits = |(lengths, _): &&mut (Vec<usize>, Vec<usize>)| longest(lengths, &items[item]) <= capacity;
        // Of those that are filled alike, the first one.
        let best = rows.iter_mut().rev().filter(fits).max_by_key(|(lengths, _)| longest(lengths, &items[item]));
        match best {
            Some((lengths, own)) => {
                *lengths = added(lengths, &items[item]).collect();
                own.push(item);
            }
            None => rows.push((items[item].clone(), vec![item])),
        }
    }
    let mut rows: Vec<Vec<usize>> = rows.into_iter().map(|(_, own)| own).collect();
    rows.iter_mut().for_each(|row| row.sort_unstable());
    rows.sort_unstable();
    rows
}

/// The length of a row of items with these lengths: that of its longest sequences of one name.
pub fn length(items: impl IntoIterator<Item = Vec<usize>>) -> usize {
    items.into_iter().fold(Vec::new(), |lengths, item| added(&lengths, &item).collect()).into_iter().max().unwrap_or(0)
}

/// These lengths, one for each sequence of a row, with those of another item.
fn added(lengths: &[usize], item: &[usize]) -> impl Iterator<Item = usize> {
    let before = lengths.iter().copied().chain(std::iter::repeat(0));
    item.iter().zip(before).map(|(length, before)| before + length)
}

fn longest(lengths: &[usize], item: &[usize]) -> usize {
    added(lengths, item).max().unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn an_item_goes_where_the_least_room_is_left() {
        assert_eq!(best_fit(&[vec![6], vec![3], vec![7], vec![4], vec![9]], 10), [vec![0, 3], vec![1, 2], vec![4]]);
        assert_eq!(best_fit(&[vec![5], vec![5], vec![5]], 10), [vec![0, 1], vec![2]]);
    }

    #[test]
    fn every_sequence_of_a_pair_has_room() {
        assert_eq!(best_fit(&[vec![2, 6], vec![6, 2], vec![2, 5]], 8), [vec![0, 1], vec![2]]);
    }

    proptest! {
        #[test]
        fn every_item_is_in_one_row_and_no_two_single_items_would_fit_into_one_row(
            lengths in prop::collection::vec(prop::collection::vec(1usize..20, 2), 0..60),
        ) {
            let rows = best_fit(&lengths, 20);
            let mut all: Vec<usize> = rows.iter().flatten().copied().collect();
            all.sort_unstable();
            prop_assert_eq!(all, (0..lengths.len()).collect::<Vec<_>>());
            let of = |rows: &[&Vec<usize>]| length(rows.iter().copied().flatten().map(|&item| lengths[item].clone()));
            for (place, row) in rows.iter().enumerate() {
                prop_assert!(of(&[row]) <= 20);
                if row.len() == 1 {
                    let other = rows[..place].iter().find(|other| other.len() == 1 && of(&[*other, row]) <= 20);
                    prop_assert_eq!(other, None);
                }
            }
        }
    }
}
