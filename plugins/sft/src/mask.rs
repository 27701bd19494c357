//! From spans of text to a mask over tokens.
//!
//! Masks are made from positions, never from token ids: padding, end of sequence and end of turn may be one and the
//! same token.

use std::ops::Range;

/// For each token, whether it is trained: whether it *starts* inside one of the spans.
///
/// A token that straddles the start of a span begins with text that the model is given and is not trained; one that
/// straddles its end begins with the assistant's own text and is. Every byte of a character that is split into several
/// tokens counts as starting where the character does.
///
/// `offsets` are the tokens' byte ranges, `spans` ordered and disjoint byte ranges of the same text.
pub fn supervised(offsets: &[(usize, usize)], spans: &[Range<usize>]) -> Vec<bool> {
    offsets
        .iter()
        .map(|&(start, _)| {
            let after = spans.partition_point(|span| span.start <= start);
            after > 0 && spans[after - 1].contains(&start)
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn a_token_is_trained_if_it_starts_inside_a_span() {
        let offsets = [(0, 2), (2, 5), (5, 6), (6, 9), (9, 9), (9, 12)];
        //                     straddles 4 ┘     └ straddles 8
        assert_eq!(supervised(&offsets, &[4..8, 20..30]), [false, false, true, true, false, false]);
        assert_eq!(supervised(&offsets, &[0..1, 9..10]), [true, false, false, false, true, true]);
        assert_eq!(supervised(&offsets, &[]), [false; 6]);
    }

    proptest! {
        #[test]
        fn agrees_with_looking_at_every_span(
            starts in prop::collection::vec(0_usize..60, 0..40),
            mut edges in prop::collection::btree_set(0_usize..60, 0..12),
        ) {
            if edges.len() % 2 == 1 { edges.pop_last(); }
            let edges: Vec<_> = edges.into_iter().collect();
            let spans: Vec<_> = edges.chunks(2).map(|pair| pair[0]..pair[1]).collect();
            let offsets: Vec<_> = starts.iter().map(|&start| (start, start + 1)).collect();
            let expected: Vec<_> = starts.iter().map(|start| spans.iter().any(|span| span.contains(start))).collect();
            prop_assert_eq!(supervised(&offsets, &spans), expected);
        }
    }
}
