//! Checks of the parameters that a model plugin declares.

use std::collections::HashSet;

use mdt_plugin_api::{Init, ParameterSpec};

use crate::exit::{Failure, Status};

/// No starting value is a hundred deviations from 0, so all of them are f32 numbers.
const LARGEST_STD: f64 = 1e36;

/// Checks that the parameters of the model `id` have names of their own, sizes that memory can have, and starting values
/// that are finite.
///
/// # Errors
/// Status 3: the plugin declares two of one name, more elements than can be addressed, or a standard deviation that
/// starting values in f32 cannot have.
pub fn check_parameters(id: &str, specs: &[ParameterSpec]) -> Result<(), Failure> {
    let failure = |what: String| Failure::new(Status::Plugin, format!("the model `{id}` declares {what}"));
    let mut names = HashSet::new();
    let mut bytes = 0usize;
    for ParameterSpec { name, shape, init } in specs {
        if !names.insert(name) {
            return Err(failure(format!("two parameters of the name `{name}`")));
        }
        if let Init::Normal { std } = init
            && !(0.0..=LARGEST_STD).contains(std)
        {
            return Err(failure(format!("`{name}` with starting values of standard deviation {std:?}"))
                .help(format!("it is a finite number from 0 to {LARGEST_STD:e}; many models have 0.02")));
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
    Ok(())
}
