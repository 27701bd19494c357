//! Which of a model's parameters are trained: `model.freeze` and `model.train`.

use std::collections::BTreeSet;

use mdt_plugin_api::ParameterSpec;

use crate::exit::Failure;
use crate::patterns::{matches, unused};

/// Parameters of which those of `freeze` are not trained, nor those outside of `train`. What the model itself does not train is
/// never trained.
///
/// # Errors
/// A pattern matches no parameter.
pub fn freeze(
    mut specs: Vec<ParameterSpec>,
    freeze: &[String],
    train: Option<&[String]>,
) -> Result<Vec<ParameterSpec>, Failure> {
    let frozen = matched("model.freeze", freeze, &specs)?;
    let trained = train.map(|patterns| matched("model.train", patterns, &specs)).transpose()?;
    for spec in &mut specs {
        let values = values(spec);
        spec.trainable &= !frozen.contains(values) && trained.as_ref().is_none_or(|trained| trained.contains(values));
    }
    Ok(specs)
}

/// The parameters whose values, under either of their names, a pattern matches.
fn matched(key: &str, patterns: &[String], specs: &[ParameterSpec]) -> Result<BTreeSet<String>, Failure> {
    let mut matched = BTreeSet::new();
    for pattern in patterns {
        let mut found = specs.iter().filter(|spec| matches(pattern, &spec.name)).peekable();
        if found.peek().is_none() {
            return Err(unused(key, pattern, specs));
        }
        matched.extend(found.map(|spec| values(spec).to_owned()));
    }
    Ok(matched)
}

/// The name under which a parameter's values are kept.
fn values(spec: &ParameterSpec) -> &str {
    spec.tied_to.as_ref().unwrap_or(&spec.name)
}

#[cfg(test)]
mod tests {
    use super::*;
    use mdt_plugin_api::{Init, Role};

    fn specs() -> Vec<ParameterSpec> {
        let spec = |name: &str| ParameterSpec::new(name, [2, 2], Role::Linear, Init::Zeros);
        vec![
            spec("embed.weight"),
            spec("h.0.q.weight"),
            spec("h.0.mask").frozen(),
            spec("head.weight").tied_to("embed.weight"),
        ]
    }

    fn trained(freeze: &[&str], train: Option<&[&str]>) -> Result<Vec<String>, Failure> {
        let owned = |patterns: &[&str]| patterns.iter().map(|&pattern| pattern.to_owned()).collect::<Vec<_>>();
        let specs = super::freeze(specs(), &owned(freeze), train.map(owned).as_deref())?;
        Ok(specs.into_iter().filter(|spec| spec.trainable).map(|spec| spec.name).collect())
    }

    #[test]
    fn a_tied_parameter_is_meant_by_either_name() {
        for name in ["head.weight", "embed.weight", "*e?d*"] {
            assert_eq!(trained(&[name], None).unwrap(), ["h.0.q.weight"], "{name}");
            assert_eq!(trained(&[], Some(&[name])).unwrap(), ["embed.weight", "head.weight"], "{name}");
        }
    }

    #[test]
    fn what_is_frozen_is_taken_out_of_what_is_trained_and_out_of_what_the_model_trains() {
        assert_eq!(trained(&["h.*"], Some(&["*weight"])).unwrap(), ["embed.weight", "head.weight"]);
        assert_eq!(trained(&[], Some(&["h.0.*"])).unwrap(), ["h.0.q.weight"]);
        assert_eq!(trained(&["*"], None).unwrap(), <[&str; 0]>::default());
    }

    #[test]
    fn a_pattern_that_matches_nothing_names_the_nearest_parameter() {
        for failure in [trained(&["h.0.k.weight"], None), trained(&[], Some(&["h.0.k.weight"]))] {
            let failure = failure.unwrap_err().to_string();
            assert!(failure.contains("\"h.0.k.weight\"") && failure.contains("`h.0.q.weight`"), "{failure}");
        }
    }
}
