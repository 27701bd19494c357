//! From encoded rows to a padded micro-batch.

use mdt_plugin_api::{Error, HostArray, HostBatch, Item, Result};

/// Token ids `[B, T]`, int32, padded at the right to the longest row.
pub const TOKENS: &str = Item::TOKENS;
/// Indices into `[B·T]` of the hidden states that predict a trained token, `[N]`, int32.
pub const ROWS: &str = "rows";
/// The token that each of them predicts, `[N]`, int32.
pub const TARGETS: &str = "targets";

// Attention is causal and padding is at the right, so no token that matters sees it: any id does.
const PADDING: i32 = 0;

/// Rows as one micro-batch: [`TOKENS`], [`ROWS`], [`TARGETS`].
///
/// A row without supervised tokens is included.
///
/// # Errors
/// No row has a supervised token. The host drops such rows after encoding and makes no micro-batch for a rank without
/// rows, so this is a bug, which a loss of zero would hide.
pub fn collate(items: &[&Item]) -> Result<HostBatch> {
    let rows = items.iter().map(|item| item.sequence(TOKENS)).collect::<Result<Vec<_>>>()?;
    let length = rows.iter().map(|row| row.tokens.len()).max().unwrap_or(0);
    let mut tokens = vec![PADDING; rows.len() * length];
    let mut places = Vec::new();
    let mut targets = Vec::new();
    for (b, row) in rows.iter().enumerate() {
        let start = b * length;
        for (t, (&token, &trained)) in row.tokens.iter().zip(&row.supervised).enumerate() {
            let token = int32(token as usize, "token id")?;
            tokens[start + t] = token;
            if trained && t > 0 {
                places.push(int32(start + t - 1, "place in the micro-batch")?);
                targets.push(token);
            }
        }
    }
    if targets.is_empty() {
        return Err(Error::plugin(format!("a micro-batch of {} rows has nothing to train", rows.len())));
    }
    Ok(HostBatch {
        tokens: rows.iter().map(|row| row.tokens.len() as u64).sum(),
        supervised_tokens: targets.len() as u64,
        arrays: vec![
            (TOKENS.into(), HostArray::new(&[rows.len(), length], &tokens)?),
            (ROWS.into(), HostArray::new(&[places.len()], &places)?),
            (TARGETS.into(), HostArray::new(&[targets.len()], &targets)?),
        ],
    })
}

fn int32(value: usize, what: &str) -> Result<i32> {
    i32::try_from(value).map_err(|_| Error::input(format!("{what} {value} does not fit into 32 bits")))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn row(tokens: &[u32], supervised: &[u8]) -> Item {
        Item::of(tokens.to_vec(), supervised.iter().map(|&trained| trained == 1).collect())
    }

    fn array(batch: &HostBatch, name: &str) -> (Vec<usize>, Vec<i32>) {
        let (_, array) = batch.arrays.iter().find(|(key, _)| key == name).expect("present");
        (array.shape().to_vec(), array.to_vec().expect("int32"))
    }

    #[test]
    fn each_supervised_token_is_predicted_from_the_one_before_it() {
        let (long, short) = (row(&[1, 7, 8, 9], &[0, 0, 1, 1]), row(&[1, 5], &[0, 1]));
        let batch = collate(&[&short, &long]).expect("collates");
        assert_eq!(array(&batch, TOKENS), (vec![2, 4], vec![1, 5, 0, 0, 1, 7, 8, 9]));
        assert_eq!(array(&batch, ROWS), (vec![3], vec![0, 5, 6]));
        assert_eq!(array(&batch, TARGETS), (vec![3], vec![5, 8, 9]));
        assert_eq!((batch.tokens, batch.supervised_tokens), (6, 3));
    }

    #[test]
    fn a_prompt_of_6_and_an_answer_of_3_give_3_supervised_tokens() {
        let example = row(&[1, 2, 3, 4, 5, 6, 7, 8, 9], &[0, 0, 0, 0, 0, 0, 1, 1, 1]);
        let padding_partner = row(&[1; 30], &[0; 30]);
        let batch = collate(&[&example, &padding_partner]).expect("collates");
        assert_eq!(batch.supervised_tokens, 3);
        assert_eq!(array(&batch, TARGETS).1, [7, 8, 9]);
    }

    #[test]
    fn a_token_with_nothing_before_it_is_never_trained() {
        let batch = collate(&[&row(&[3, 4], &[1, 1])]).expect("collates");
        assert_eq!((array(&batch, ROWS).1, array(&batch, TARGETS).1), (vec![0], vec![4]));
    }

    #[test]
    fn a_micro_batch_with_nothing_to_train_is_an_error() {
        assert!(collate(&[&row(&[3, 4], &[0, 0])]).is_err());
        assert!(collate(&[]).is_err());
    }

    fn item() -> impl Strategy<Value = Item> {
        prop::collection::vec((0_u32..50, any::<bool>()), 1..20).prop_map(|pairs| {
            let (tokens, supervised) = pairs.into_iter().unzip();
            Item::of(tokens, supervised)
        })
    }

    proptest! {
        #[test]
        fn padding_is_never_trained_and_nothing_else_is_lost(items in prop::collection::vec(item(), 1..6)) {
            let rows: Vec<_> = items.iter().map(|item| &item.sequences[0]).collect();
            let expected: Vec<(usize, usize)> = rows
                .iter()
                .enumerate()
                .flat_map(|(b, row)| (1..row.tokens.len()).filter(|&t| row.supervised[t]).map(move |t| (b, t)))
                .collect();
            prop_assume!(!expected.is_empty());
            let batch = collate(&items.iter().collect::<Vec<_>>())?;
            let (shape, tokens) = array(&batch, TOKENS);
            let found: Vec<(usize, usize)> = array(&batch, ROWS)
                .1
                .into_iter()
                .map(|place| (place as usize / shape[1], place as usize % shape[1] + 1))
                .collect();
            for (&(b, t), target) in found.iter().zip(array(&batch, TARGETS).1) {
                prop_assert!(t < rows[b].tokens.len(), "padding");
                prop_assert_eq!(target, rows[b].tokens[t] as i32);
                prop_assert_eq!(target, tokens[b * shape[1] + t]);
            }
            prop_assert_eq!(found, expected);
        }
    }
}
