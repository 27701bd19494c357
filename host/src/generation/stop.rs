//! Texts that end an answer, wherever the borders between its tokens are.

/// The texts that end an answer.
#[derive(Clone, Debug, Default)]
pub struct StopTexts(Vec<String>);

impl StopTexts {
    /// These texts; empty ones end nothing.
    pub fn new(texts: &[String]) -> Self {
        Self(texts.iter().filter(|text| !text.is_empty()).cloned().collect())
    }

    /// Where the first of them begins in a text.
    pub fn find(&self, text: &str) -> Option<usize> {
        self.0.iter().filter_map(|stop| text.find(stop.as_str())).min()
    }

    /// How many bytes at the end of a text may be the beginning of one of them.
    pub fn begun(&self, text: &str) -> usize {
        self.0.iter().map(|stop| begun(stop, text)).max().unwrap_or(0)
    }
}

fn begun(stop: &str, text: &str) -> usize {
    let longest = stop.len().min(text.len() + 1) - 1;
    let ends = |&length: &usize| stop.is_char_boundary(length) && text.ends_with(&stop[..length]);
    (1..=longest).rev().find(ends).unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn stops(texts: &[&str]) -> StopTexts {
        StopTexts::new(&texts.iter().map(|&text| text.to_owned()).collect::<Vec<_>>())
    }

    #[test]
    fn the_first_text_that_is_reached_ends_an_answer() {
        let stops = stops(&["\n\n", "END", ""]);
        assert_eq!(stops.find("one END two\n\n"), Some(4));
        assert_eq!(stops.find("one\n\ntwo END"), Some(3));
        assert_eq!(stops.find("one\ntwo EN D"), None);
    }

    #[test]
    fn what_may_become_such_a_text_is_known() {
        let stops = stops(&["abab!", "äb"]);
        for (text, begun) in [("xabab", 4), ("xaba", 3), ("ababa", 3), ("x", 0), ("", 0), ("xä", 2), ("xab!", 0)] {
            assert_eq!(stops.begun(text), begun, "{text:?}");
        }
    }
}
