//! Checks of the parameters that a model plugin declares.

use std::collections::{HashMap, HashSet};

use mdt_plugin_api::{Init, Layout, ParameterSpec};

use crate::exit::{Failure, Status};

/// No starting value is a hundred deviations from 0, so all of them are f32 numbers.
const LARGEST_STD: f64 = 1e36;

/// What the names of a trainer's own parameters begin with.
pub const OWN: &str = "trainer.";

/// The parameters that have values of their own and are trained, in the model's order.
pub fn trained(specs: &[ParameterSpec]) -> Vec<ParameterSpec> {
    specs.iter().filter(|spec| spec.trainable && spec.tied_to.is_none()).cloned().collect()
}

/// Checks that the parameters of the model `id` have names of their own, sizes that memory can have, starting values
/// that are finite, and ties that lead somewhere.
///
/// # Errors
/// Status 3: the plugin declares two of one name, more elements than can be addressed, a standard deviation that
/// starting values in f32 cannot have, or a tie to what is not there.
pub fn check_parameters(id: &str, specs: &[ParameterSpec]) -> Result<(), Failure> {
    let failure = |what: String| Failure::new(Status::Plugin, format!("the model `{id}` declares {what}"));
    if let Some(spec) = specs.iter().find(|spec| spec.name.starts_with(OWN)) {
        return Err(failure(format!("`{}`, whose name is one of a trainer's own parameters", spec.name)));
    }
    check(specs, failure)
}

/// Checks the parameters that the trainer `id` declares in the same way, and gives them the names that they have in the job.
///
/// # Errors
/// As for those of a model; or one is not as only a model can have it.
pub fn check_own(id: &str, mut specs: Vec<ParameterSpec>) -> Result<Vec<ParameterSpec>, Failure> {
    let failure = |what: String| Failure::new(Status::Plugin, format!("the trainer `{id}` declares {what}"));
    check(&specs, failure)?;
    for spec in &mut specs {
        if spec.tied_to.is_some() || !spec.aliases.is_empty() || spec.layout != Layout::OutIn || !spec.trainable {
            let what = "tied, frozen or with another layout or name, which is for models only";
            return Err(failure(format!("`{}` as {what}", spec.name)));
        }
        spec.name.insert_str(0, OWN);
    }
    Ok(specs)
}

fn check(specs: &[ParameterSpec], failure: impl Fn(String) -> Failure) -> Result<(), Failure> {
    let mut names = HashSet::new();
    let mut bytes = 0usize;
    for ParameterSpec { name, shape, init, layout, stacked_from, tied_to, .. } in specs {
        if let Some(name) = [name].into_iter().chain(stacked_from).find(|name| !names.insert(*name)) {
            return Err(failure(format!("two parameters of the name `{name}`")));
        }
        let stacks = tied_to.is_none() && shape.len() > 1 && shape[0] == stacked_from.len();
        if !stacked_from.is_empty() && !stacks {
            let what = if tied_to.is_some() { "a tied parameter" } else { "a parameter" };
            let count = stacked_from.len();
            return Err(failure(format!("`{name}`, {what} of shape {shape:?}, as stacked from {count} tensors")));
        }
        if let Init::Normal { std } = init
            && !(0.0..=LARGEST_STD).contains(std)
        {
            return Err(failure(format!("`{name}` with starting values of standard deviation {std:?}"))
                .help(format!("it is a finite number from 0 to {LARGEST_STD:e}; many models have 0.02")));
        }
        if *layout == Layout::InOut && shape.len() != 2 {
            return Err(failure(format!("`{name}` of shape {shape:?} as the weight of a linear layer, [in, out]")));
        }
        let size = shape.iter().try_fold(size_of::<f32>(), |bytes, &axis| bytes.checked_mul(axis));
        bytes = size
            .and_then(|size| bytes.checked_add(size))
            .filter(|&bytes| isize::try_from(bytes).is_ok())
            .ok_or_else(|| {
                failure(format!("more elements than memory can have, up to `{name}` of shape {shape:?}"))
                    .help("look at the sizes in the model's config.json")
            })?;
    }
    check_ties(specs).map_err(failure)
}

/// Checks that every tied parameter is another one of the same shape, which is not tied itself.
fn check_ties(specs: &[ParameterSpec]) -> Result<(), String> {
    let by_name: HashMap<&str, &ParameterSpec> = specs.iter().map(|spec| (spec.name.as_str(), spec)).collect();
    for spec in specs {
        let Some(other) = &spec.tied_to else { continue };
        let what = format!("`{}` as another name of `{other}`", spec.name);
        match by_name.get(other.as_str()) {
            None => return Err(format!("{what}, which it does not declare")),
            Some(ParameterSpec { tied_to: Some(third), .. }) => {
                return Err(format!("{what}, which is itself another name of `{third}`"));
            }
            Some(ParameterSpec { shape, .. }) if *shape != spec.shape => {
                return Err(format!("{what}, which has the shape {shape:?} and not {:?}", spec.shape));
            }
            Some(_) => {}
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use mdt_plugin_api::Role;

    fn spec(name: &str) -> ParameterSpec {
        ParameterSpec::new(name, [2, 2], Role::Linear, Init::Zeros)
    }

    #[test]
    fn a_trainers_own_parameters_have_names_that_no_model_has() {
        let own = check_own("values", vec![spec("head.weight")]).unwrap();
        assert_eq!(own[0].name, "trainer.head.weight");
        let refused = check_parameters("llama", &own).unwrap_err().to_string();
        assert!(refused.contains("`llama` declares `trainer.head.weight`"), "{refused}");
    }

    #[test]
    fn a_trainers_own_parameters_are_trained_and_stand_alone() {
        for wrong in [spec("a").frozen(), spec("a").alias("b"), spec("a").in_out(), spec("a").tied_to("a")] {
            let refused = check_own("values", vec![wrong]).unwrap_err().to_string();
            assert!(refused.contains("the trainer `values` declares `a`"), "{refused}");
        }
        assert!(check_own("values", vec![spec("a"), spec("a")]).is_err());
    }
}
