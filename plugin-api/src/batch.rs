//! Micro-batches: rows of items, named arrays of them in host memory, and the same on the device.

use std::ops::Range;

use serde::{Deserialize, Serialize};

use crate::{Element, Error, HostArray, Item, Result, Tensor};

// Attention is causal and padding is at the right, so no token that matters sees it: any id does.
const PADDING: i32 = 0;

/// The rows of a micro-batch. A row has one item, or several that the host packed into it, one after the other.
#[derive(Clone, Debug)]
pub struct BatchRows<'a> {
    items: &'a [&'a Item],
    items_per_row: &'a [usize],
}

impl<'a> BatchRows<'a> {
    /// Rows of so many of these items each.
    ///
    /// # Errors
    /// The numbers do not add up to all items.
    pub fn new(items: &'a [&'a Item], items_per_row: &'a [usize]) -> Result<Self> {
        let count = items_per_row.iter().try_fold(0_usize, |sum, &items| sum.checked_add(items));
        if count != Some(items.len()) {
            return Err(Error::other(format!("the rows of a micro-batch do not have its {} items", items.len())));
        }
        Ok(Self { items, items_per_row })
    }

    /// All items, row after row.
    pub fn items(&self) -> &'a [&'a Item] {
        self.items
    }

    /// The number of items of each row.
    pub fn items_per_row(&self) -> &'a [usize] {
        self.items_per_row
    }

    /// The items of each row.
    pub fn iter(&self) -> impl Iterator<Item = &'a [&'a Item]> {
        let mut rest = self.items;
        self.items_per_row.iter().map_while(move |&count| rest.split_off(..count))
    }

    fn is_packed(&self) -> bool {
        self.items_per_row.iter().any(|&items| items > 1)
    }
}

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

    /// Adds the sequences of this name, those of a row one after the other and padded at the right, and counts their
    /// tokens. Of B rows, the longest of T tokens, with I items in all, N trained tokens in all and at most M in an item, it
    /// adds under the name `chosen`
    ///
    /// - `chosen`: token ids `[B, T]`, int32;
    /// - `chosen.places`: for each trained token the hidden state that predicts it, as an index into `[B·T]`, `[N]`, int32;
    /// - `chosen.targets`: the trained tokens, `[N]`, int32;
    /// - `chosen.slots`: the trained tokens of each item as indices into `[N]`, `[I, M]`, int32; 0 where it has fewer than M;
    /// - `chosen.mask`: 1 for each of them and 0 where an item has fewer than M, `[I, M]`, f32;
    ///
    /// and, where a row has several items,
    ///
    /// - `chosen.positions`: the position of each token in its item, `[B, T]`, int32;
    /// - `chosen.segments`: the number of its item in the row, `[B, T]`, int32; padding has a number of its own.
    ///
    /// [`LanguageModel`](crate::LanguageModel) takes them from there.
    ///
    /// # Errors
    /// An item has no such sequence; none of them has a trained token.
    pub fn add_sequences(&mut self, rows: &BatchRows<'_>, name: &str) -> Result<()> {
        let of_row = |items: &[&'_ Item]| -> Result<usize> {
            items.iter().map(|item| Ok(item.sequence(name)?.tokens.len())).sum()
        };
        let length = rows.iter().map(of_row).collect::<Result<Vec<_>>>()?.into_iter().max().unwrap_or(0);
        let shape = [rows.items_per_row.len(), length];
        let size = shape[0] * length;
        let (mut tokens, mut positions, mut segments) = (vec![PADDING; size], vec![0; size], vec![0; size]);
        let (mut places, mut targets, mut trained) = (Vec::new(), Vec::new(), Vec::new());
        for (row, items) in rows.iter().enumerate() {
            let mut at = row * length;
            for (segment, item) in items.iter().enumerate() {
                let (sequence, before) = (item.sequence(name)?, targets.len());
                for (position, (&token, &supervised)) in sequence.tokens.iter().zip(&sequence.supervised).enumerate() {
                    tokens[at] = int32(token as usize)?;
                    (positions[at], segments[at]) = (int32(position)?, int32(segment)?);
                    if supervised && position > 0 {
                        places.push(int32(at - 1)?);
                        targets.push(tokens[at]);
                    }
                    at += 1;
                }
                trained.push(before..targets.len());
                self.tokens += sequence.tokens.len() as u64;
            }
            segments[at..(row + 1) * length].fill(int32(items.len())?);
        }
        if targets.is_empty() {
            return Err(Error::plugin(format!("{} sequences {name:?} have nothing to train", rows.items.len())));
        }
        self.supervised_tokens += targets.len() as u64;
        let width = trained.iter().map(Range::len).max().unwrap_or(0);
        let (mut slots, mut mask) = (vec![0; trained.len() * width], vec![0.0_f32; trained.len() * width]);
        for (item, own) in trained.into_iter().enumerate() {
            for (slot, token) in (item * width..).zip(own) {
                (slots[slot], mask[slot]) = (int32(token)?, 1.0);
            }
        }
        let of_items = [rows.items.len(), width];
        self.add(name, &shape, &tokens)?;
        if rows.is_packed() {
            self.add(&format!("{name}.positions"), &shape, &positions)?;
            self.add(&format!("{name}.segments"), &shape, &segments)?;
        }
        self.add(&format!("{name}.places"), &[places.len()], &places)?;
        self.add(&format!("{name}.targets"), &[targets.len()], &targets)?;
        self.add(&format!("{name}.slots"), &of_items, &slots)?;
        self.add(&format!("{name}.mask"), &of_items, &mask)
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
        self.find(name).ok_or_else(|| Error::plugin(format!("the batch has no array named {name:?}")))
    }

    /// The array of this name, where there is one.
    pub fn find(&self, name: &str) -> Option<&Tensor> {
        self.arrays.iter().find_map(|(key, tensor)| (key == name).then_some(tensor))
    }

    /// All of them.
    pub fn arrays(&self) -> &[(String, Tensor)] {
        &self.arrays
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn item(tokens: &[u32], trained: &[u8]) -> Item {
        Item::of(tokens.to_vec(), trained.iter().map(|&trained| trained == 1).collect())
    }

    fn batch(items: &[&Item], items_per_row: &[usize]) -> Result<HostBatch> {
        let mut batch = HostBatch::default();
        batch.add_sequences(&BatchRows::new(items, items_per_row)?, Item::TOKENS)?;
        Ok(batch)
    }

    fn array(batch: &HostBatch, name: &str) -> (Vec<usize>, Vec<i32>) {
        let (_, array) = batch.arrays.iter().find(|(key, _)| key == name).unwrap();
        (array.shape().to_vec(), array.to_vec().unwrap())
    }

    #[test]
    fn each_trained_token_is_predicted_from_the_one_before_it() {
        let (short, long) = (item(&[1, 5], &[0, 1]), item(&[1, 7, 8, 9], &[0, 0, 1, 1]));
        let batch = batch(&[&short, &long], &[1, 1]).unwrap();
        assert_eq!(array(&batch, "tokens"), (vec![2, 4], vec![1, 5, 0, 0, 1, 7, 8, 9]));
        assert_eq!(array(&batch, "tokens.places"), (vec![3], vec![0, 5, 6]));
        assert_eq!(array(&batch, "tokens.targets"), (vec![3], vec![5, 8, 9]));
        assert_eq!(array(&batch, "tokens.slots"), (vec![2, 2], vec![0, 0, 1, 2]));
        let (_, mask) = batch.arrays.iter().find(|(key, _)| key == "tokens.mask").unwrap();
        assert_eq!(mask.to_vec::<f32>().unwrap(), [1.0, 0.0, 1.0, 1.0]);
        assert_eq!((batch.tokens, batch.supervised_tokens), (6, 3));
        assert_eq!(batch.arrays.len(), 5, "rows of one item have neither positions nor segments");
    }

    #[test]
    fn items_of_one_row_have_positions_and_segments_of_their_own() {
        let (a, b, c) = (item(&[1, 2, 3], &[0, 0, 1]), item(&[4, 5], &[0, 1]), item(&[6, 7], &[0, 1]));
        let batch = batch(&[&a, &b, &c], &[2, 1]).unwrap();
        assert_eq!(array(&batch, "tokens"), (vec![2, 5], vec![1, 2, 3, 4, 5, 6, 7, 0, 0, 0]));
        assert_eq!(array(&batch, "tokens.positions").1, [0, 1, 2, 0, 1, 0, 1, 0, 0, 0]);
        assert_eq!(array(&batch, "tokens.segments").1, [0, 0, 0, 1, 1, 0, 0, 1, 1, 1]);
        assert_eq!(array(&batch, "tokens.places").1, [1, 3, 5]);
        assert_eq!(array(&batch, "tokens.targets").1, [3, 5, 7]);
        assert_eq!(array(&batch, "tokens.slots"), (vec![3, 1], vec![0, 1, 2]));
    }

    #[test]
    fn the_first_token_of_an_item_is_never_trained() {
        let first = item(&[3, 4], &[1, 1]);
        let batch = batch(&[&first, &first], &[2]).unwrap();
        assert_eq!((array(&batch, "tokens.places").1, array(&batch, "tokens.targets").1), (vec![0, 2], vec![4, 4]));
    }

    #[test]
    fn a_micro_batch_with_nothing_to_train_is_an_error() {
        assert!(batch(&[&item(&[3, 4], &[0, 0])], &[1]).is_err());
        assert!(batch(&[], &[]).is_err());
    }

    #[test]
    fn rows_have_all_items() {
        let item = item(&[1, 2], &[0, 1]);
        for items_per_row in [&[1][..], &[3], &[usize::MAX, 3], &[]] {
            assert!(BatchRows::new(&[&item, &item], items_per_row).is_err(), "{items_per_row:?}");
        }
        let (items, items_per_row) = ([&item, &item, &item], [1, 0, 2]);
        let rows = BatchRows::new(&items, &items_per_row).unwrap();
        assert_eq!(rows.iter().map(<[_]>::len).collect::<Vec<_>>(), items_per_row);
    }
}
