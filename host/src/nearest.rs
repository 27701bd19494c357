//! The nearest valid name to a misspelt one.

/// The candidate that `name` is most likely a misspelling or the first words of, if one is near enough. Among equally
/// near candidates it is the one with the longest common beginning.
pub(crate) fn nearest<'a>(name: &str, candidates: impl IntoIterator<Item = &'a str>) -> Option<&'a str> {
    let likeness = |candidate: &'a str| {
        let goes_on = candidate.strip_prefix(name).is_some_and(|rest| rest.starts_with('_'));
        let alike = name.bytes().zip(candidate.bytes()).take_while(|(a, b)| a == b).count();
        let similarity = strsim::normalized_damerau_levenshtein(name, candidate);
        (if goes_on { similarity.max(NEAR) } else { similarity }, alike, candidate)
    };
    let near = candidates.into_iter().map(likeness).filter(|(similarity, ..)| *similarity >= NEAR);
    near.max_by(|a, b| a.0.total_cmp(&b.0).then(a.1.cmp(&b.1)).then(b.2.cmp(a.2))).map(|(.., candidate)| candidate)
}

/// The smallest similarity of a misspelling. Below it, other words would be taken for misspellings.
const NEAR: f64 = 0.6;

#[cfg(test)]
mod tests {
    use super::nearest;

    #[test]
    fn misspellings_are_corrected_and_other_words_are_not() {
        let keys =
            ["learning_rate", "weight_decay", "no_decay", "beta1", "beta2", "eps", "gradient_accumulation_steps"];
        assert_eq!(nearest("learning_rat", keys), Some("learning_rate"));
        assert_eq!(nearest("lerning_rate", keys), Some("learning_rate"));
        assert_eq!(nearest("weigth_decay", keys), Some("weight_decay"));
        assert_eq!(nearest("beta11", keys), Some("beta1"));
        assert_eq!(nearest("learning", keys), Some("learning_rate"));
        assert_eq!(nearest("colour", keys), None);
        assert_eq!(nearest("gradient_clipping", keys), None);
    }
}
