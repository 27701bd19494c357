//! From spans of text to a mask over tokens.
//!
//! Masks are made from positions, never from token ids: padding, end of sequence and end of turn may be one and the
//! same token.

use std::ops::Range;

/// For each token, whether it is trained: whether any of its text lies inside one of the spans.
///
/// So a token that holds the end of a prompt and the start of its answer is trained, as in transformers: it is the only
/// token from which the model can learn how the answer begins. Each token of a character that is split into several
/// covers the whole character.
///
/// `offsets` are the tokens' byte ranges, `spans` ordered and disjoint byte ranges of the same text.
pub fn supervised(offsets: &[(usize, usize)], spans: &[Range<usize>]) -> Vec<bool> {
    offsets
        .iter()
        .map(|&(start, end)| {
            let next = spans.partition_point(|span| span.end <= start);
            spans.get(next).is_some_and(|span| span.start < end.max(start + 1))
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn a_token_is_trained_if_some_of_its_text_is_inside_a_span() {
        let offsets = [(0, 2), (2, 5), (5, 6), (6, 9), (9, 9), (9, 12)];
        //                     straddles 4 ┘     └ straddles 8
        assert_eq!(supervised(&offsets, &[4..8, 20..30]), [false, true, true, true, false, false]);
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
            let offsets: Vec<_> = starts.iter().map(|&start| (start, start + 1 + start % 4)).collect();
            let expected: Vec<_> =
                offsets.iter().map(|&(start, end)| (start..end).any(|byte| spans.iter().any(|span| span.contains(&byte)))).collect();
            prop_assert_eq!(supervised(&offsets, &spans), expected);
        }
    }
}
