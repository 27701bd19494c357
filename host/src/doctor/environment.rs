//! Check `environment`.

use serde_json::json;

use super::{Check, Finding, Subject};

pub(super) const CHECK: Check = Check {
    name: "environment",
    description: "The environment variables that the program reads; they begin with MDT_.",
    run,
};

/// Names without values: reports are sent to others, and a value may be a secret.
fn run(_: &Subject) -> Vec<Finding> {
    let names = std::env::vars_os().map(|(name, _)| name.to_string_lossy().into_owned());
    let mut names: Vec<String> = names.filter(|name| name.starts_with("MDT_")).collect();
    names.sort();
    let message = match names.as_slice() {
        [] => "no environment variable begins with MDT_".to_owned(),
        names => format!("set: {}; `mdt-host config show` shows the values", names.join(", ")),
    };
    vec![Finding::ok(message).fact("variables", json!(names))]
}
