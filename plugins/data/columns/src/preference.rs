//! Pairs of answers without a column for their prompt: it is what both begin with.

use mdt_plugin_api::serde_json::Value;

/// The prompt of two answers, and what follows it in each: the turns that two conversations begin with, or the beginning of two
/// texts, without the space before they differ (as `extract_prompt` of TRL has it). Null where they begin differently.
pub(super) fn without_prompt(chosen: Value, rejected: Value) -> (Value, Value, Value) {
    match (chosen, rejected) {
        (Value::Array(mut chosen), Value::Array(mut rejected)) => {
            let common = chosen.iter().zip(&rejected).take_while(|(one, other)| one == other).count();
            if common == 0 || common == chosen.len() || common == rejected.len() {
                return (Value::Null, chosen.into(), rejected.into());
            }
            let [chosen_answer, rejected_answer] = [chosen.split_off(common), rejected.split_off(common)];
            (chosen.into(), chosen_answer.into(), rejected_answer.into())
        }
        (Value::String(chosen), Value::String(rejected)) => {
            let differs = chosen.char_indices().zip(rejected.chars()).find(|((_, one), other)| one != other);
            let place = differs.map_or(0, |((place, _), _)| place);
            let prompt = chosen[..place].strip_suffix(' ').unwrap_or(&chosen[..place]).to_owned();
            if prompt.is_empty() {
                return (Value::Null, chosen.into(), rejected.into());
            }
            let [one, other] = [&chosen, &rejected].map(|text| Value::from(&text[prompt.len()..]));
            (prompt.into(), one, other)
        }
        (chosen, rejected) => (Value::Null, chosen, rejected),
    }
}
