//! The lines of `metrics.jsonl`. Their keys are a contract with scripts.

use serde::Serialize;
use serde_json::{Map, Value};
use std::collections::BTreeMap;

/// Metrics of plugins in a line. One that has the name of another key of the line, or of the loss by which readers tell
/// lines apart, is written as `extra.<name>`.
pub type Extra = BTreeMap<String, f64>;

/// One update. A number that is not finite is written as null, which is what JSON has for it.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Update {
    /// The update, from 1.
    pub step: u64,
    /// Passes over the data that are done, with their fraction.
    pub epoch: f64,
    /// Mean over the supervised tokens of the update, all ranks.
    pub loss: f64,
    /// Global norm of the gradient before clipping.
    pub grad_norm: f64,
    /// Learning rate of the update.
    pub lr: f64,
    /// Tokens of the update, all ranks, without padding.
    pub tokens: u64,
    /// Supervised tokens of the update, all ranks.
    pub supervised_tokens: u64,
    /// `tokens / step_s`.
    pub tokens_per_s: f64,
    /// Seconds of the whole update, data wait included, evaluation and saving excluded.
    pub step_s: f64,
    /// Seconds of it spent waiting for data.
    pub data_wait_s: f64,
    /// Peak memory of the process, see [`super::peak_memory_bytes`]; null where the system does not tell.
    pub peak_memory_bytes: Option<u64>,
}

/// One evaluation. Its line has no `loss`.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Evaluation {
    /// Updates that were done.
    pub step: u64,
    /// Passes over the data that were done, with their fraction.
    pub epoch: f64,
    /// Mean over the supervised tokens of the held-out rows.
    pub eval_loss: f64,
    /// `exp(eval_loss)`, where the loss is that of tokens; null where that is too large for a number.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub eval_perplexity: Option<f64>,
    /// Supervised tokens of the held-out rows.
    pub eval_tokens: u64,
    /// Seconds of the evaluation.
    pub eval_s: f64,
}

/// An early stop, because the held-out loss no longer fell. Its line has neither `loss` nor `eval_loss`.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct EarlyStop {
    /// Updates that were done.
    pub step: u64,
    /// Passes over the data that were done, with their fraction.
    pub epoch: f64,
    /// Evaluations since the last improvement.
    pub evaluations_without_improvement: u32,
    /// The update after which the held-out loss was lowest; null where it was never finite.
    pub best_step: Option<u64>,
    /// That loss.
    pub best_eval_loss: Option<f64>,
}

/// The numbers of a line by their keys; one that is not finite is left out.
pub fn numbers(documented: &impl Serialize, extra: &Extra) -> BTreeMap<String, f64> {
    keys(documented, extra).into_iter().filter_map(|(key, value)| Some((key, value.as_f64()?))).collect()
}

/// The line of a struct above and of metrics of plugins, with its newline.
pub(super) fn line(documented: &impl Serialize, extra: &Extra) -> String {
    Value::Object(keys(documented, extra)).to_string() + "\n"
}

fn keys(documented: &impl Serialize, extra: &Extra) -> Map<String, Value> {
    let mut keys = match serde_json::to_value(documented) {
        Ok(Value::Object(keys)) => keys,
        // A struct of numbers always becomes an object.
        other => unreachable!("a metrics line is no object: {other:?}"),
    };
    for (name, &value) in extra {
        let is_taken = keys.contains_key(name) || ["loss", "eval_loss"].contains(&name.as_str());
        keys.insert(if is_taken { format!("extra.{name}") } else { name.clone() }, value.into());
    }
    keys
}

#[cfg(test)]
pub(super) fn update(step: u64, loss: f64) -> Update {
    Update {
        step,
        epoch: 0.5,
        loss,
        grad_norm: 1.5,
        lr: 1e-4,
        tokens: 100,
        supervised_tokens: 40,
        tokens_per_s: 200.0,
        step_s: 0.5,
        data_wait_s: 0.01,
        peak_memory_bytes: Some(1 << 20),
    }
}

#[cfg(test)]
pub(super) fn evaluation(step: u64, eval_loss: f64) -> Evaluation {
    let eval_perplexity = Some(libm::exp(eval_loss));
    Evaluation { step, epoch: 0.5, eval_loss, eval_perplexity, eval_tokens: 7, eval_s: 0.25 }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_update_line_has_exactly_the_documented_keys() {
        let value: Value = serde_json::from_str(&line(&update(1, 2.0), &Extra::new())).unwrap();
        let keys: Vec<_> = value.as_object().unwrap().keys().cloned().collect();
        let documented =
            "step epoch loss grad_norm lr tokens supervised_tokens tokens_per_s step_s data_wait_s peak_memory_bytes";
        assert_eq!(keys, documented.split(' ').collect::<Vec<_>>());
    }

    #[test]
    fn an_evaluation_line_has_eval_loss_and_no_loss() {
        let line = line(&evaluation(3, 0.0), &Extra::new());
        let numbers = "\"eval_loss\":0.0,\"eval_perplexity\":1.0,\"eval_tokens\":7,\"eval_s\":0.25";
        assert_eq!(line, format!("{{\"step\":3,\"epoch\":0.5,{numbers}}}\n"));
    }

    #[test]
    fn a_perplexity_beyond_all_numbers_is_null_beside_its_loss() {
        let value: Value = serde_json::from_str(&line(&evaluation(3, 1000.0), &Extra::new())).unwrap();
        assert_eq!((&value["eval_loss"], &value["eval_perplexity"]), (&1000.0.into(), &Value::Null));
    }

    #[test]
    fn the_line_of_an_early_stop_has_no_loss_of_its_own() {
        let stop = EarlyStop {
            step: 9,
            epoch: 1.5,
            evaluations_without_improvement: 3,
            best_step: Some(3),
            best_eval_loss: Some(0.5),
        };
        let value: Value = serde_json::from_str(&line(&stop, &Extra::new())).unwrap();
        assert!(value.get("loss").is_none() && value.get("eval_loss").is_none(), "{value}");
        assert_eq!((&value["step"], &value["best_step"]), (&9.into(), &3.into()));
    }

    #[test]
    fn an_extra_metric_never_hides_a_documented_one() {
        let extra = [("loss".to_owned(), 9.0), ("accuracy".to_owned(), 0.5)].into();
        let value: Value = serde_json::from_str(&line(&update(1, 2.0), &extra)).unwrap();
        assert_eq!((&value["loss"], &value["extra.loss"], &value["accuracy"]), (&2.0.into(), &9.0.into(), &0.5.into()));
    }

    #[test]
    fn a_number_that_is_not_finite_is_null_and_the_line_stays_json() {
        for number in [f64::NAN, f64::INFINITY] {
            let extra = [("accuracy".to_owned(), number)].into();
            let value: Value = serde_json::from_str(&line(&update(1, number), &extra)).unwrap();
            assert_eq!((&value["loss"], &value["accuracy"]), (&Value::Null, &Value::Null));
        }
    }
}
