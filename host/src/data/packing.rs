//! Packing: several items in one row of a micro-batch, so that less of it is padding.

use mdt_plugin_api::Item;

/// Puts items into as few rows as best fit by falling length finds: each item goes where the least room is left behind it.
/// In a row with several items, their sequences of a name together have at most `capacity` tokens.
///
/// The rows have their items in the order that these come in, and are in the order of their first items.
pub fn best_fit(items: &[&Item], capacity: usize) -> Vec<Vec<usize>> {
    let mut by_length: Vec<usize> = (0..items.len()).collect();
    by_length.sort_by_key(|&item| std::cmp::Reverse(items[item].length()));
    let mut rows: Vec<(Vec<usize>, Vec<usize>)> = Vec::new();
    for item in by_length {
        let fits = |(lengths, _): &&mut (Vec<usize>, Vec<usize>)| longest(lengths, items[item]) <= capacity;
        // Of those that are filled alike, the first one.
        let best = rows.iter_mut().rev().filter(fits).max_by_key(|(lengths, _)| longest(lengths, items[item]));
        match best {
            Some((lengths, own)) => {
                *lengths = added(lengths, items[item]).collect();
                own.push(item);
            }
            None => rows.push((added(&[], items[item]).collect(), vec![item])),
        }
    }
    let mut rows: Vec<Vec<usize>> = rows.into_iter().map(|(_, own)| own).collect();
    rows.iter_mut().for_each(|row| row.sort_unstable());
    rows.sort_unstable();
    rows
}

/// The length of a row of these items: that of its longest sequences of one name.
pub fn length<'a>(items: impl IntoIterator<Item = &'a Item>) -> usize {
    items.into_iter().fold(Vec::new(), |lengths, item| added(&lengths, item).collect()).into_iter().max().unwrap_or(0)
}

/// These lengths, one for each sequence of a row, with those of another item. Every item has the same sequences.
fn added(lengths: &[usize], item: &Item) -> impl Iterator<Item = usize> {
    let before = lengths.iter().copied().chain(std::iter::repeat(0));
    item.sequences.iter().zip(before).map(|(sequence, before)| before + sequence.tokens.len())
}

fn longest(lengths: &[usize], item: &Item) -> usize {
    added(lengths, item).max().unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn item(lengths: &[usize]) -> Item {
        let sequence = |item: Item, &length: &usize| item.with("", vec![1; length], vec![true; length]);
        lengths.iter().fold(Item::default(), sequence)
    }

    fn packed(lengths: &[Vec<usize>], capacity: usize) -> Vec<Vec<usize>> {
        let items: Vec<Item> = lengths.iter().map(|lengths| item(lengths)).collect();
        best_fit(&items.iter().collect::<Vec<_>>(), capacity)
    }

    #[test]
    fn an_item_goes_where_the_least_room_is_left() {
        assert_eq!(packed(&[vec![6], vec![3], vec![7], vec![4], vec![9]], 10), [vec![0, 3], vec![1, 2], vec![4]]);
        assert_eq!(packed(&[vec![5], vec![5], vec![5]], 10), [vec![0, 1], vec![2]]);
    }

    #[test]
    fn every_sequence_of_a_pair_has_room() {
        assert_eq!(packed(&[vec![2, 6], vec![6, 2], vec![2, 5]], 8), [vec![0, 1], vec![2]]);
    }

    proptest! {
        #[test]
        fn every_item_is_in_one_row_and_no_two_single_items_would_fit_into_one_row(
            lengths in prop::collection::vec(prop::collection::vec(1usize..20, 2), 0..60),
        ) {
            let items: Vec<Item> = lengths.iter().map(|lengths| item(lengths)).collect();
            let rows = packed(&lengths, 20);
            let mut all: Vec<usize> = rows.iter().flatten().copied().collect();
            all.sort_unstable();
            prop_assert_eq!(all, (0..items.len()).collect::<Vec<_>>());
            let of = |rows: &[&Vec<usize>]| length(rows.iter().copied().flatten().map(|&item| &items[item]));
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
