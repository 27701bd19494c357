//! The options of drawing tokens, which `generate` and `chat` share.

use clap::Args;

use crate::exit::Failure;
use crate::generation::{Drawing, Options};

#[derive(Args, Clone)]
pub(super) struct Sampling {
    /// Maximum length of an answer, in tokens.
    #[arg(long, value_name = "N", default_value_t = 256)]
    max_tokens: usize,
    /// What logits are divided by; 0 takes the most likely token each time.
    #[arg(long, value_name = "T", default_value_t = 0.0)]
    temperature: f64,
    /// Draw from the fewest of the most likely tokens whose probabilities add up to P; 1 keeps all.
    #[arg(long, value_name = "P", default_value_t = 1.0)]
    top_p: f64,
    /// Draw from the K most likely tokens; 0 keeps all.
    #[arg(long, value_name = "K", default_value_t = 0)]
    top_k: usize,
    /// Draw from tokens that are at least P times as likely as the most likely one; 0 keeps all.
    #[arg(long, value_name = "P", default_value_t = 0.0)]
    min_p: f64,
    /// Make tokens less likely that came before: positive logits are divided by X, negative ones multiplied; 1 changes
    /// nothing.
    #[arg(long, value_name = "X", default_value_t = 1.0)]
    repetition_penalty: f64,
    /// How many tokens back the repetition penalty reaches, those of the prompt included. The default is all.
    #[arg(long, value_name = "N")]
    repetition_context: Option<usize>,
    /// Draw with this seed: the same weights, prompt and seed give the same answer.
    #[arg(long, value_name = "N", default_value_t = 0)]
    seed: u64,
    /// End an answer before this text; may be given several times.
    #[arg(long, value_name = "TEXT")]
    stop: Vec<String>,
}

impl Sampling {
    /// The options, checked.
    ///
    /// # Errors
    /// A number outside of its range, which is named; an empty text to stop at.
    pub(super) fn options(&self) -> Result<Options, Failure> {
        let from_0_to_1 = |value: &f64| (0.0..=1.0).contains(value);
        let checks = [
            ("--temperature", self.temperature, self.temperature.is_finite() && self.temperature >= 0.0, "0 or more"),
            ("--top-p", self.top_p, from_0_to_1(&self.top_p) && self.top_p > 0.0, "above 0 and at most 1"),
            ("--min-p", self.min_p, from_0_to_1(&self.min_p), "from 0 to 1"),
            (
                "--repetition-penalty",
                self.repetition_penalty,
                self.repetition_penalty.is_finite() && self.repetition_penalty > 0.0,
                "above 0",
            ),
        ];
        if let Some((name, value, _, expected)) = checks.iter().find(|(_, _, is_right, _)| !is_right) {
            return Err(Failure::configuration(format!("`{name}` cannot be {value}"))
                .help(format!("give a number that is {expected}")));
        }
        if self.stop.iter().any(String::is_empty) {
            return Err(Failure::configuration("`--stop` cannot be empty").help("give the text that ends an answer"));
        }
        let drawing = Drawing {
            temperature: self.temperature,
            top_k: (self.top_k > 0).then_some(self.top_k),
            top_p: self.top_p,
            min_p: self.min_p,
            repetition_penalty: self.repetition_penalty,
            repetition_context: self.repetition_context,
        };
        Ok(Options { max_tokens: self.max_tokens, drawing, seed: self.seed, stop: self.stop.clone(), goes_on: false })
    }
}
