//! Which keys of a configuration may change between the runs of one job.

use super::resolved::Resolved;
use super::same_sums::Sums;
use crate::exit::Failure;
use serde_json::{Value, json};
use std::collections::BTreeMap;

/// Keys on which no update depends: where files are written and how often, how long ranks wait, when the held-out rows are
/// evaluated, after how many evaluations without an improvement a job stops, which layers are computed again, and on how many
/// threads.
const FREE: [&str; 14] = [
    "model.adapter.format",
    "trainer.eval_steps",
    "trainer.eval_at_start",
    "trainer.early_stopping_patience",
    "trainer.early_stopping_min_delta",
    "trainer.checkpoint_activations",
    "compute.threads",
    "checkpoint",
    "metrics",
    "observers",
    "plugins",
    "comm.shard_optimizer",
    "comm.overlap",
    "comm.bucket_mb",
];

/// The same, of which nothing is said: where a run writes, and where its ranks meet.
const PLACES_OF_A_RUN: [&str; 18] = [
    "data.cache",
    "output_dir",
    "checkpoint.resume",
    "plugins.dirs",
    "comm.rank",
    "comm.address",
    "comm.port",
    "comm.connect_timeout_s",
    "comm.timeout_s",
    "comm.insecure",
    "comm.token_file",
    "comm.tls",
    "comm.bind",
    "comm.interface",
    "comm.advertise",
    "comm.ports",
    "comm.status_port",
    "comm.status_address",
];

/// Keys that say what later updates do, and of which no state of earlier ones is made: the host gives the rate and the decay of
/// each update to the optimizer, clips its gradient, and knows which update is the last. They may change between two runs of a
/// job, and the checkpoint records when they did.
const OF_LATER_UPDATES: [&str; 8] = [
    "optimizer.learning_rate",
    "optimizer.weight_decay",
    "optimizer.no_decay",
    "optimizer.groups",
    "scheduler",
    "trainer.num_epochs",
    "trainer.max_steps",
    "trainer.max_grad_norm",
];

/// Why all other keys must stay the same, by how they begin; the first that fits.
const WHY_FIXED: [(&str, &str); 17] = [
    ("seed", "the order of rows and all random numbers come from it"),
    ("model", "what was trained belongs to the model that the run began with"),
    ("tokenizer", "the same rows would have other tokens than in earlier updates"),
    ("data", "a run goes on at a place in its rows, and those would be others or in another order"),
    ("trainer.batch_size", PLACE_IN_ROWS),
    ("trainer.gradient_accumulation_steps", PLACE_IN_ROWS),
    ("trainer.max_seq_len", OTHER_ROWS),
    ("trainer.long_rows", OTHER_ROWS),
    ("trainer.packing", OTHER_ROWS),
    ("trainer.bucketing", OTHER_ROWS),
    ("trainer.use", "it would be another objective"),
    ("trainer", "it is a key of the trainer, and the host does not know what depends on it"),
    ("optimizer.use", "the states in the checkpoint are those of the other optimizer"),
    ("optimizer", "it is a key of the optimizer, and the host does not know which of its states depend on it"),
    ("compute", "numbers would be rounded in another way than in earlier updates"),
    ("comm.world_size", PLACE_IN_ROWS),
    ("comm", "gradients would be added or rounded in another way than in earlier updates"),
];

const PLACE_IN_ROWS: &str = "a run goes on at a place in its rows that is counted in updates of so many rows";
const OTHER_ROWS: &str = "the rows of an update would be put together in another way than in earlier ones";

/// How many ranks share the work of an update, and over what: all but the type of gradients may change where sums keep their
/// bits.
const SHARING: [&str; 2] = ["comm", "trainer.gradient_accumulation_steps"];

/// Those of them that decide when all ranks do something together. They must be the same on all ranks.
const TOGETHER: [&str; 10] = [
    "trainer.eval_steps",
    "trainer.eval_at_start",
    "trainer.early_stopping_patience",
    "trainer.early_stopping_min_delta",
    "checkpoint.save_steps",
    "checkpoint.keep_best",
    "checkpoint.export",
    "comm.shard_optimizer",
    "comm.overlap",
    "comm.bucket_mb",
];

/// Paths of what all ranks read. Ranks compare the content, not the path.
const PLACES: [&str; 4] = ["model.path", "model.adapter.path", "data.train", "data.eval"];

/// Those of them whose content has a fingerprint in checkpoints, so that the path may change between runs. A model has no
/// fingerprint: its tokenizer and its `config.json` matter beside the weights.
const FINGERPRINTED: [&str; 2] = ["data.train", "data.eval"];

/// A key whose value has changed.
#[derive(Debug, Clone, PartialEq)]
pub struct Difference {
    /// The key, its parts joined by dots.
    pub key: String,
    /// Its value when the job began; none if the key did not exist or was not set.
    pub before: Option<Value>,
    /// Its value now; none if the key does not exist or is not set.
    pub now: Option<Value>,
}

impl Difference {
    /// Both values as text, the earlier one first.
    pub fn values(&self) -> [String; 2] {
        let text = |value: &Option<Value>| value.as_ref().map_or("unset".to_owned(), Value::to_string);
        [text(&self.before), text(&self.now)]
    }

    /// Whether later updates depend on it.
    pub fn changes_updates(&self) -> bool {
        !changes_nothing(&self.key)
    }
}

/// Whether no update depends on `key`.
fn changes_nothing(key: &str) -> bool {
    is_in(key, &FREE) || is_in(key, &PLACES_OF_A_RUN)
}

fn why_fixed(key: &str) -> Option<&'static str> {
    WHY_FIXED.iter().find(|(prefix, _)| is_in(key, &[prefix])).map(|&(_, why)| why)
}

fn is_in(key: &str, keys: &[&str]) -> bool {
    keys.iter().any(|free| key.strip_prefix(free).is_some_and(|rest| rest.is_empty() || rest.starts_with('.')))
}

impl Resolved {
    /// The configuration as it is stored in checkpoints and compared between runs and ranks: keys sorted.
    pub fn canonical(&self) -> Value {
        self.values.clone()
    }

    /// The values that all ranks of one job share, by their full keys.
    pub fn fixed_keys(&self) -> BTreeMap<String, Value> {
        let is_fixed = |key: &str| TOGETHER.contains(&key) || !changes_nothing(key) && !PLACES.contains(&key);
        leaves(&self.canonical()).into_iter().filter(|(key, _)| is_fixed(key)).collect()
    }

    /// [`Resolved::fixed_keys`] as text, by which the ranks of a job recognise each other.
    pub fn identity(&self) -> String {
        json!(self.fixed_keys()).to_string()
    }

    /// The keys of [`Resolved::canonical`] that have their default value.
    pub fn keys_at_default(&self) -> Vec<String> {
        let defaults = leaves(&self.defaults);
        leaves(&self.canonical())
            .into_iter()
            .filter(|(key, value)| defaults.get(key) == Some(value))
            .map(|(key, _)| key)
            .collect()
    }

    /// Checks that this configuration continues the job of a checkpoint, given its [`Resolved::canonical`] and its
    /// [`Resolved::keys_at_default`], and returns what has changed and may. `by_the_tree` says of the comm plugins of both
    /// whether they add by the pairwise tree, the earlier one first.
    ///
    /// # Errors
    /// Names every key that has changed and may not, with both values and the reason.
    pub fn require_same_job(
        &self,
        before: &Value,
        before_at_default: &[String],
        by_the_tree: [bool; 2],
    ) -> Result<Vec<Difference>, Failure> {
        let sums = Sums::of(&self.canonical(), by_the_tree[1]);
        let other_sums = sums.differ_from(&Sums::of(before, by_the_tree[0]));
        let mut differences = differing(&leaves(before), &leaves(&self.canonical()));
        let now_at_default = self.keys_at_default();
        // Two versions may know different keys. A key that was never set has not changed.
        differences.retain(|Difference { key, before, now }| {
            let unknown_before = before.is_none() && now_at_default.contains(key);
            let unknown_now = now.is_none() && before_at_default.contains(key);
            !unknown_before && !unknown_now
        });
        let may_change = |difference: &Difference| {
            let key = difference.key.as_str();
            let same_sums = is_in(key, &SHARING) && key != "comm.gradient_dtype" && other_sums.is_none();
            changes_nothing(key) || is_in(key, &OF_LATER_UPDATES) || same_sums || FINGERPRINTED.contains(&key)
        };
        let (mut changed, refused): (Vec<_>, Vec<_>) = differences.into_iter().partition(may_change);
        let Some(first) = refused.first() else {
            changed.retain(|difference| !is_in(&difference.key, &PLACES_OF_A_RUN));
            return Ok(changed);
        };
        let mut failure = Failure::configuration(match refused.len() {
            1 => format!("`{}` has changed since the checkpoint was written", first.key),
            n => format!("`{}` and {} more keys have changed since the checkpoint was written", first.key, n - 1),
        });
        for difference in &refused {
            let (key, [before, now]) = (&difference.key, difference.values());
            // Of what ranks share there is a better reason.
            let why = why_fixed(key).filter(|_| other_sums.is_none() || !is_in(key, &SHARING));
            let why = why.map_or(String::new(), |why| format!(": {why}"));
            failure = failure.because(format!("{key} was {before} and is {now}{why}"));
        }
        if let Some(why) = other_sums.filter(|_| refused.iter().any(|difference| is_in(&difference.key, &SHARING))) {
            failure = failure.because(why);
        }
        Err(failure.help("set it back; or begin again with `--set checkpoint.resume=never` and another `output_dir`"))
    }
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_key_that_must_stay_the_same_has_a_reason() {
        let settings = serde_json::to_value(crate::config::Settings::default()).unwrap();
        let sections: Vec<_> = settings.as_object().unwrap().keys().cloned().collect();
        assert!(sections.len() > 10);
        for key in leaves(&settings).into_keys().chain(sections) {
            let may_change = changes_nothing(&key) || is_in(&key, &OF_LATER_UPDATES);
            assert!(may_change || why_fixed(&key).is_some(), "{key}");
        }
        assert_ne!(why_fixed("optimizer.use"), why_fixed("optimizer.beta1"));
        assert_ne!(why_fixed("trainer.batch_size"), why_fixed("trainer.join_turns"));
    }
}
