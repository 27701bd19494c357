//! Patterns of names: `*` stands for any characters, `?` for one.

use mdt_plugin_api::ParameterSpec;
use wildmatch::WildMatch;

use crate::exit::Failure;
use crate::nearest::nearest;

/// Whether a pattern matches a whole name.
pub fn matches(pattern: &str, name: &str) -> bool {
    WildMatch::new(pattern).matches(name)
}

/// The failure of a pattern of the key `key` that matches none of these parameters.
pub fn unused(key: &str, pattern: &str, parameters: &[ParameterSpec]) -> Failure {
    let failure =
        Failure::configuration(format!("the pattern \"{pattern}\" in `{key}` matches no parameter of the model"));
    failure.help(match nearest(pattern, parameters.iter().map(|spec| spec.name.as_str())) {
        Some(name) => format!("the parameter with the nearest name is `{name}`"),
        None => "`*` stands for any characters, `?` for one".to_owned(),
    })
}
