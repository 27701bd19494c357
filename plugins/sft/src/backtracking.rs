//! A bound on how long a tokenizer's pattern may search: a `tokenizer.json` brings its own patterns.

use std::sync::Once;

/// Steps back of one search for a token. Oniguruma has this bound for one attempt to match; this one is for the attempts
/// at all places of the text together. Patterns of real tokenizers take about as many steps as a token has characters.
const MOST_STEPS: u64 = 10_000_000;

/// Bounds all searches of this library's copy of Oniguruma. One that takes more steps fails.
pub fn bound() {
    static ONCE: Once = Once::new();
    ONCE.call_once(|| {
        // SAFETY: it sets a variable that searches read when they begin. No search is running: every tokenizer calls
        // this before it is loaded, and the others wait for the first.
        unsafe { onig_sys::onig_set_retry_limit_in_search(MOST_STEPS as _) };
    });
}

/// What to say about an error of a tokenizer: whether it is one of that bound.
pub fn is_exceeded(error: &str) -> bool {
    error.contains("retry-limit")
}
