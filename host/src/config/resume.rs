//! What of a configuration may change between the runs of one job.

use super::resolved::Resolved;
use crate::exit::Failure;
use serde_json::{Value, json};
use std::collections::BTreeMap;

/// Keys that no update depends on: where files go, how often they are written, where ranks meet, and how many
/// evaluations a job goes on without an improvement. Every other key must stay, those of components included, because
/// the host cannot know what they do.
const FREE: [&str; 11] = [
    "output_dir",
    "trainer.eval_at_start",
    "trainer.early_stopping_patience",
    "checkpoint",
    "metrics",
    "plugins",
    "comm.rank",
    "comm.address",
    "comm.port",
    "comm.timeout_s",
    "comm.token_file",
];

/// Those of them that say when all ranks do something together, and so must be the same on all ranks.
const TOGETHER: [&str; 5] = [
    "trainer.eval_at_start",
    "trainer.early_stopping_patience",
    "checkpoint.save_steps",
    "checkpoint.keep_best",
    "checkpoint.export",
];

/// Keys that say where a rank reads what all ranks read. What is in there is compared by its content.
const PLACES: [&str; 3] = ["model.path", "data.train", "data.eval"];

/// Those of them whose content has a fingerprint in checkpoints, so that they may change between runs too. A model has
/// none: its tokenizer and its `config.json` count beside the weights.
const FINGERPRINTED: [&str; 2] = ["data.train", "data.eval"];

/// A key whose value is not what it was.
#[derive(Debug, Clone, PartialEq)]
pub struct Difference {
    /// The key, its parts joined by dots.
    pub key: String,
    /// Its value when the job began; none where there was no such key.
    pub before: Option<Value>,
    /// Its value now; none where there is no such key.
    pub now: Option<Value>,
}

impl Difference {
    /// Both values in words, what was before first.
    pub fn values(&self) -> [String; 2] {
        let text = |value: &Option<Value>| value.as_ref().map_or("unset".to_owned(), Value::to_string);
        [text(&self.before), text(&self.now)]
    }
}

/// Whether `key` may change between the runs of one job without changing an update.
pub fn may_change(key: &str) -> bool {
    FREE.iter().any(|free| key.strip_prefix(free).is_some_and(|rest| rest.is_empty() || rest.starts_with('.')))
}

impl Resolved {
    /// The configuration as it is stored in checkpoints and compared between runs and ranks: keys sorted, and
    /// `compute.threads` the number that is used, because results depend on that number.
    pub fn canonical(&self) -> Value {
        let mut values = self.values().clone();
        values["compute"]["threads"] = json!(self.settings.compute.thread_count());
        values
    }

    /// The values that all ranks of one job share, by their full keys.
    pub fn fixed_keys(&self) -> BTreeMap<String, Value> {
        let is_fixed = |key: &str| TOGETHER.contains(&key) || !may_change(key) && !PLACES.contains(&key);
        leaves(&self.canonical()).into_iter().filter(|(key, _)| is_fixed(key)).collect()
    }

    /// [`Resolved::fixed_keys`] as text, which makes a job's ranks known to each other.
    pub fn identity(&self) -> String {
        json!(self.fixed_keys()).to_string()
    }

    /// Checks that this configuration continues the job that `before`, a stored [`Resolved::canonical`], began.
    ///
    /// # Errors
    /// Names every key that changed and must not.
    pub fn require_same_job(&self, before: &Value) -> Result<(), Failure> {
        let differences = differences(before, &self.canonical());
        let Some(first) = differences.first() else {
            return Ok(());
        };
        let mut failure = Failure::configuration(match differences.len() {
            1 => format!("`{}` has changed since the checkpoint was written", first.key),
            n => format!("`{}` and {} more keys have changed since the checkpoint was written", first.key, n - 1),
        });
        for difference in &differences {
            let (key, [before, now]) = (&difference.key, difference.values());
            failure = failure.because(format!("{key} was {before} and is {now}"));
        }
        Err(failure.help("set it back; or start anew with `--set checkpoint.resume=never` and another `output_dir`"))
    }
}

/// The keys that differ and must not, sorted.
pub fn differences(before: &Value, now: &Value) -> Vec<Difference> {
    let mut differences = differing(&leaves(before), &leaves(now));
    differences.retain(|Difference { key, .. }| !may_change(key) && !FINGERPRINTED.contains(&key.as_str()));
    differences
}

/// The keys whose values differ between two maps, sorted.
pub fn differing(before: &BTreeMap<String, Value>, now: &BTreeMap<String, Value>) -> Vec<Difference> {
    let mut keys: Vec<&String> = before.keys().chain(now.keys()).collect();
    keys.sort();
    keys.dedup();
    keys.into_iter()
        .filter(|key| before.get(*key) != now.get(*key))
        .map(|key| Difference { key: key.clone(), before: before.get(key).cloned(), now: now.get(key).cloned() })
        .collect()
}

/// The values by their full keys. Unset is the same as absent: a later version's new optional key is no change.
fn leaves(value: &Value) -> BTreeMap<String, Value> {
    fn collect(prefix: &str, value: &Value, leaves: &mut BTreeMap<String, Value>) {
        match value {
            Value::Object(table) => {
                for (key, value) in table {
                    let key = if prefix.is_empty() { key.clone() } else { format!("{prefix}.{key}") };
                    collect(&key, value, leaves);
                }
            }
            Value::Null => {}
            leaf => drop(leaves.insert(prefix.to_owned(), leaf.clone())),
        }
    }
    let mut all = BTreeMap::new();
    collect("", value, &mut all);
    all
}
