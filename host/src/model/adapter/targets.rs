//! The layers that get an adapter, and the modules that are trained beside it, by their names in the configuration.

use mdt_plugin_api::{ModelSpec, ParameterSpec, Role};

use super::AdaptedLayer;
use crate::config;
use crate::exit::Failure;
use crate::nearest::nearest;
use crate::patterns::matches;

/// Stands for every linear layer but the head.
const ALL_LINEAR: &str = "all-linear";

/// Whether a pattern means a module of this full name: `q_proj` means each of that name.
fn means(pattern: &str, name: &str) -> bool {
    matches(pattern, name) || matches(&format!("*.{pattern}"), name)
}

/// The layers that `targets` and `layers` name, in the model's order, without those of `modules_to_save`.
///
/// # Errors
/// A name that means no layer, or one of a kind that has no adapters; a number that no layer has.
pub(super) fn layers(
    settings: &config::Adapter,
    modules_to_save: &[String],
    model: &ModelSpec,
) -> Result<Vec<AdaptedLayer>, Failure> {
    let all_linear = [ALL_LINEAR.to_owned()];
    let patterns = settings.targets.as_deref().unwrap_or(&all_linear);
    for pattern in patterns.iter().filter(|pattern| *pattern != ALL_LINEAR) {
        require_layer(pattern, &model.parameters)?;
    }
    let numbers = settings.layers.as_deref();
    for number in numbers.into_iter().flatten() {
        if !model.parameters.iter().any(|spec| self::number(&spec.name) == Some(*number)) {
            return Err(Failure::configuration(format!(
                "`model.adapter.layers` has {number}, and the model has no such layer"
            ))
            .help("they are counted from 0, as in the names of the model's parameters"));
        }
    }
    let is_meant = |layer: &AdaptedLayer| {
        let by_name = patterns.iter().any(|pattern| match pattern.as_str() {
            ALL_LINEAR => !layer.is_embedding && layer.name != model.head.name,
            pattern => means(pattern, &layer.name),
        });
        let by_number = numbers.is_none_or(|numbers| number(&layer.name).is_some_and(|n| numbers.contains(&n)));
        by_name && by_number && !modules_to_save.contains(&layer.name)
    };
    let layers: Vec<_> = AdaptedLayer::all(&model.parameters).into_iter().filter(is_meant).collect();
    if layers.is_empty() {
        return Err(Failure::configuration("no layer gets an adapter")
            .help("`model.adapter.targets`, `layers` and `modules_to_save` leave none: change one of them"));
    }
    Ok(layers)
}

/// The full names of the modules that patterns mean.
///
/// # Errors
/// A pattern means none, or one whose weights are stacked.
pub(super) fn modules(patterns: &[String], model: &ModelSpec) -> Result<Vec<String>, Failure> {
    let mut modules: Vec<&str> =
        model.parameters.iter().filter_map(|spec| Some(spec.name.rsplit_once('.')?.0)).collect();
    modules.dedup();
    for pattern in patterns {
        if !modules.iter().any(|module| means(pattern, module)) {
            return Err(unknown("modules_to_save", pattern, "module", modules.iter().copied()));
        }
    }
    let mut meant: Vec<String> = Vec::new();
    for module in modules.into_iter().filter(|module| patterns.iter().any(|pattern| means(pattern, module))) {
        let inside = |spec: &&ParameterSpec| spec.name.strip_prefix(module).is_some_and(|rest| rest.starts_with('.'));
        if let Some(spec) = model.parameters.iter().filter(inside).find(|spec| !spec.stacked_from.is_empty()) {
            return Err(Failure::configuration(format!("`model.adapter.modules_to_save` means `{}`", spec.name))
                .because("it is made of a tensor for each expert, for which the files of adapters have no place")
                .help("leave it out; without an adapter, `model.train` trains it as it is"));
        }
        if !meant.iter().any(|other| other == module) {
            meant.push(module.to_owned());
        }
    }
    Ok(meant)
}

/// Checks that a pattern means a layer that can have an adapter, and no layer of experts, which cannot.
fn require_layer(pattern: &str, specs: &[ParameterSpec]) -> Result<(), Failure> {
    let of = |spec: &&ParameterSpec| spec.name.strip_suffix(".weight").is_some_and(|name| means(pattern, name));
    if let Some(experts) = specs.iter().filter(of).find(|spec| spec.role == Role::Experts) {
        return Err(Failure::configuration(format!("\"{pattern}\" in `model.adapter.targets` means experts"))
            .because(format!("`{}` has a matrix for each of them, and adapters are for single matrices", experts.name))
            .help("leave it out; without an adapter, `model.train` trains it as it is"));
    }
    let layers = AdaptedLayer::all(specs);
    match layers.iter().any(|layer| means(pattern, &layer.name)) {
        true => Ok(()),
        false => {
            let names = layers.iter().map(|layer| layer.name.as_str());
            Err(unknown("targets", pattern, "linear layer or embedding", names))
        }
    }
}

fn unknown<'a>(key: &str, pattern: &str, what: &str, names: impl Iterator<Item = &'a str> + Clone) -> Failure {
    let failure =
        Failure::configuration(format!("\"{pattern}\" in `model.adapter.{key}` means no {what} of the model"));
    let last = names.clone().map(|name| name.rsplit('.').next().unwrap_or(name));
    match nearest(pattern, names.chain(last)) {
        Some(name) => failure.help(format!("the nearest name is `{name}`")),
        None => failure,
    }
}

/// The number of the layer that a name lies in.
fn number(name: &str) -> Option<usize> {
    name.split('.').find_map(|part| part.parse().ok())
}

#[cfg(test)]
mod tests {
    use super::*;
    use mdt_plugin_api::{Head, Init};

    fn model() -> ModelSpec {
        let spec = |name: &str, role| ParameterSpec::new(format!("{name}.weight"), [4, 2], role, Init::Zeros);
        let mut specs = vec![spec("m.embed", Role::Embedding)];
        for layer in 0..2 {
            specs.push(spec(&format!("m.h.{layer}.q_proj"), Role::Linear));
            specs.push(spec(&format!("m.h.{layer}.norm"), Role::Norm));
            specs.push(spec(&format!("m.h.{layer}.experts"), Role::Experts));
            specs.push(spec(&format!("m.h.{layer}.o_proj"), Role::Linear));
        }
        specs.push(spec("head", Role::Linear).tied_to("m.embed.weight"));
        ModelSpec::new(specs, 4, Head::new("head"))
    }

    fn named(edit: impl FnOnce(&mut config::Adapter)) -> Result<Vec<String>, Failure> {
        let mut settings = config::Adapter::default();
        edit(&mut settings);
        let saved = modules(settings.modules_to_save.as_deref().unwrap_or_default(), &model())?;
        Ok(layers(&settings, &saved, &model())?.into_iter().map(|layer| layer.name).collect())
    }

    fn targets(names: &[&str]) -> Option<Vec<String>> {
        Some(names.iter().map(|&name| name.to_owned()).collect())
    }

    #[test]
    fn all_linear_layers_but_the_head_have_one_where_nothing_is_said() {
        let all = ["m.h.0.q_proj", "m.h.0.o_proj", "m.h.1.q_proj", "m.h.1.o_proj"];
        assert_eq!(named(|_| ()).unwrap(), all);
        let with_embedding = named(|adapter| adapter.targets = targets(&["all-linear", "embed"])).unwrap();
        assert_eq!(with_embedding, [&["m.embed"], &all[..]].concat());
    }

    #[test]
    fn a_name_means_every_layer_that_ends_with_it_and_a_pattern_those_that_it_matches() {
        for pattern in ["q_proj", "q_*", "m.h.?.q_proj"] {
            let named = named(|adapter| adapter.targets = targets(&[pattern])).unwrap();
            assert_eq!(named, ["m.h.0.q_proj", "m.h.1.q_proj"], "{pattern}");
        }
        assert_eq!(named(|adapter| adapter.targets = targets(&["head"])).unwrap(), ["head"]);
    }

    #[test]
    fn layers_are_limited_by_their_numbers() {
        let second = named(|adapter| adapter.layers = Some(vec![1])).unwrap();
        assert_eq!(second, ["m.h.1.q_proj", "m.h.1.o_proj"]);
        let failure = named(|adapter| adapter.layers = Some(vec![2])).unwrap_err().to_string();
        assert!(failure.contains("has 2"), "{failure}");
    }

    #[test]
    fn a_module_that_is_trained_as_it_is_has_no_adapter() {
        let saved = |adapter: &mut config::Adapter| adapter.modules_to_save = targets(&["o_proj"]);
        assert_eq!(named(saved).unwrap(), ["m.h.0.q_proj", "m.h.1.q_proj"]);
    }

    #[test]
    fn names_that_mean_nothing_or_experts_are_refused() {
        for (pattern, says) in [("q_prj", "`q_proj`"), ("norm", "no linear layer"), ("experts", "means experts")] {
            let failure = named(|adapter| adapter.targets = targets(&[pattern])).unwrap_err().to_string();
            assert!(failure.contains(says), "{failure}");
        }
        let failure = named(|adapter| adapter.modules_to_save = targets(&["heat"])).unwrap_err().to_string();
        assert!(failure.contains("`head`"), "{failure}");
    }
}
