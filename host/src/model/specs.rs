//! Checks of the parameters that a model plugin declares.

use std::collections::HashSet;

use mdt_plugin_api::ParameterSpec;

use crate::exit::{Failure, Status};

/// Checks that the parameters of the model `id` have names of their own and sizes that memory can have.
///
/// # Errors
/// Status 3: the plugin declares two of one name, or more elements than can be addressed.
pub fn check_parameters(id: &str, specs: &[ParameterSpec]) -> Result<(), Failure> {
    let failure = |what: String| Failure::new(Status::Plugin, format!("the model `{id}` declares {what}"));
    let mut names = HashSet::new();
    let mut bytes = 0usize;
    for ParameterSpec { name, shape, .. } in specs {
        if !names.insert(name) {
            return Err(failure(format!("two parameters of the name `{name}`")));
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
