//! Describes how the jobs of two ranks differ.

use std::collections::BTreeMap;

use mdt_plugin_api::serde_json::{self, Value};

/// Keys that are named with both values.
const NAMED: usize = 3;

/// The longest value that is shown whole.
const LONGEST: usize = 120;

/// Says which keys differ between the job of rank 0 and that of another rank. The identity of a job is its configuration
/// as one JSON object; of any other text, the message only says that it differs.
pub(crate) fn between(ours: &str, theirs: &str, rank: u32) -> String {
    let (Some(ours), Some(theirs)) = (keys(ours), keys(theirs)) else {
        return format!("rank {rank} was started for another job than rank 0");
    };
    let mut names: Vec<&String> = ours.keys().chain(theirs.keys()).collect();
    names.sort();
    names.dedup();
    let differing: Vec<&String> = names.into_iter().filter(|key| ours.get(*key) != theirs.get(*key)).collect();
    let value = |value: Option<&Value>| match value.map(Value::to_string) {
        None => "unset".to_owned(),
        Some(text) if text.len() <= LONGEST => text,
        Some(text) => format!("{}…", text.chars().take(LONGEST).collect::<String>()),
    };
    let named: Vec<String> = differing
        .iter()
        .take(NAMED)
        .map(|key| {
            format!("`{key}` is {} on rank 0 and {} on rank {rank}", value(ours.get(*key)), value(theirs.get(*key)))
        })
        .collect();
    let more = match differing.len().saturating_sub(NAMED) {
        0 => String::new(),
        1 => ", and one more key differs".to_owned(),
        more => format!(", and {more} more keys differ"),
    };
    match named.as_slice() {
        [] => format!("rank {rank} has the configuration of rank 0, written in another way"),
        named => format!("the configuration of rank {rank} differs from that of rank 0: {}{more}", named.join(", ")),
    }
}

fn keys(identity: &str) -> Option<BTreeMap<String, Value>> {
    serde_json::from_str(identity).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_keys_that_differ_are_named_with_both_values() {
        let ours = r#"{"a": 1, "b": "x", "c": [1], "d": 1, "e": 1, "same": 0}"#;
        let theirs = r#"{"a": 2, "b": "x", "c": [2], "e": 2, "f": null, "same": 0}"#;
        assert_eq!(
            between(ours, theirs, 3),
            "the configuration of rank 3 differs from that of rank 0: `a` is 1 on rank 0 and 2 on rank 3, `c` is [1] on \
             rank 0 and [2] on rank 3, `d` is 1 on rank 0 and unset on rank 3, and 2 more keys differ"
        );
    }

    #[test]
    fn jobs_that_are_not_json_objects_are_only_said_to_differ() {
        assert_eq!(between("job a", "{}", 1), "rank 1 was started for another job than rank 0");
    }
}
