//! Check `environment`.

use serde_json::json;

use super::{Check, Finding, Subject};

pub(super) const CHECK: Check = Check {
    name: "environment",
    description: "Variables of the environment that the program reads: MDT_ and a name, most of them keys.",
    run,
};

/// Names without values: a report is passed on, and a value may be a secret.
fn run(_: &Subject) -> Vec<Finding> {
    let names = std::env::vars_os().map(|(name, _)| name.to_string_lossy().into_owned());
    let mut names: Vec<String> = names.filter(|name| name.starts_with("MDT_")).collect();
    names.sort();
    let message = match names.as_slice() {
        [] => "no variable that begins with MDT_ is set".to_owned(),
        names => format!("set: {}; `mdt-host config show` has the values of keys", names.join(", ")),
    };
    vec![Finding::ok(message).fact("variables", json!(names))]
}
