//! A limit on the backtracking of a tokenizer's patterns, which come with `tokenizer.json`.

use std::sync::Once;

/// Maximum number of steps back in one search for a match. Oniguruma has this limit for one attempt to match; here it
/// holds for the attempts at all positions of the text together. Patterns of real tokenizers take about one step for each
/// character of a match.
const MOST_STEPS: u64 = 10_000_000;

/// Limits all searches of this library's copy of Oniguruma. A search that takes more steps fails.
pub fn bound() {
    static ONCE: Once = Once::new();
    ONCE.call_once(|| {
        // SAFETY: it sets a variable that searches read when they begin. No search is running: every tokenizer calls
        // this before it is loaded, and the others wait for the first.
        unsafe { onig_sys::onig_set_retry_limit_in_search(MOST_STEPS as _) };
    });
}

/// Whether this error of a tokenizer says that the limit was exceeded.
pub fn is_exceeded(error: &str) -> bool {
    error.contains("retry-limit")
}
