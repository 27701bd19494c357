//! Answers as text or JSON, compared with those that the rows have.

use mdt_plugin_api::Example;
use serde_json::json;

use super::Arguments;
use crate::cli::output::print;
use crate::exit::Failure;
use crate::generation::{Answer, Speed};

/// A prompt with its answer.
pub(in crate::cli) struct Answered {
    prompt: String,
    /// The tokens of the prompt, as the model had them.
    tokens: Vec<u32>,
    expected: Option<String>,
    answer: Answer,
}

impl Answered {
    pub(super) fn new(example: &Example, tokens: &[u32], answer: Answer) -> Self {
        let (prompt, expected) = describe(example);
        Self { prompt, tokens: tokens.to_vec(), expected, answer }
    }

    /// Whether it is exactly the expected one; `None` where none is expected.
    fn is_right(&self) -> Option<bool> {
        self.expected.as_deref().map(|expected| expected.trim() == self.answer.text.trim())
    }
}

/// The prompt of a row and the answer that it has.
fn describe(example: &Example) -> (String, Option<String>) {
    if let Ok(mut messages) = example.messages("messages") {
        let expected = messages.pop_if(|last| last.role == "assistant").map(|last| last.content);
        return (messages.pop().map(|last| last.content).unwrap_or_default(), expected);
    }
    let text = |name| example.text(name).ok().map(str::to_owned);
    (text("prompt").or_else(|| text("text")).unwrap_or_default(), text("completion"))
}

/// The number of answers that have one to be compared with, and the share of these that are exactly right.
pub(in crate::cli) fn exact_match(answered: &[Answered]) -> (usize, Option<f64>) {
    let compared: Vec<bool> = answered.iter().filter_map(Answered::is_right).collect();
    let right = compared.iter().filter(|&&right| right).count();
    (compared.len(), (!compared.is_empty()).then(|| right as f64 / compared.len() as f64))
}

pub(super) fn show(answered: &[Answered], speed: &Speed, arguments: &Arguments) -> Result<(), Failure> {
    let (compared, exact_match) = exact_match(answered);
    if arguments.json {
        let row = |Answered { prompt, tokens, expected, answer }: &Answered| {
            json!({
                "prompt": prompt, "prompt_ids": tokens, "expected": expected, "answer": answer.text,
                "answer_tokens": answer.tokens.len(), "ended_by": answer.end.name(),
            })
        };
        let rows: Vec<_> = answered.iter().map(row).collect();
        return print(format_args!(
            "{:#}",
            json!({
                "rows": rows, "compared": compared, "exact_match": exact_match,
                "prompt_tokens": speed.prompt_tokens, "prompt_s": speed.prompt_time.as_secs_f64(),
                "later_tokens": speed.answer_tokens, "later_s": speed.answer_time.as_secs_f64(),
            })
        ));
    }
    if arguments.streams() {
        // Its text is printed already.
        return print("");
    }
    if arguments.data.is_none() {
        return answered.iter().try_for_each(|answered| print(&answered.answer.text));
    }
    let stride = answered.len().div_ceil(arguments.show.unwrap_or(answered.len()).max(1)).max(1);
    for Answered { prompt, expected, answer, .. } in answered.iter().step_by(stride) {
        let expected = expected.as_ref().map_or(String::new(), |expected| format!(" (expected {expected:?})"));
        print(format_args!("{prompt:?} → {:?}{expected}", answer.text))?;
    }
    let rest = match answered.len() - compared {
        0 => String::new(),
        1 => "; 1 row has no answer to compare with".to_owned(),
        rest => format!("; {rest} rows have no answer to compare with"),
    };
    match exact_match {
        Some(share) => {
            let right = answered.iter().filter(|answered| answered.is_right() == Some(true)).count();
            print(format_args!("exact match: {right} of {compared} ({:.1} %){rest}", 100.0 * share))
        }
        None => print("exact match: no row has an answer to compare with"),
    }
}
