//! The element types that the trained model is written in.

use std::collections::HashMap;

use mdt_plugin_api::half::{bf16, f16};
use mdt_plugin_api::{Dtype, ParameterSpec};

use crate::config::{ExportDtype, Init, Settings};
use crate::exit::{Failure, Status};
use crate::model::{Directory, Parameters};
use crate::storage::{Array, StoredArray};

/// The type of each tensor in the files that are written.
#[derive(Debug, Default)]
pub struct Types {
    /// Where they are not all of one type.
    by_name: HashMap<String, Dtype>,
    /// That of most, which `config.json` names; f32 where nothing is known.
    main: Option<Dtype>,
}

impl Types {
    /// Every tensor in this type.
    pub fn all(dtype: Dtype) -> Self {
        Self { main: Some(dtype), ..Self::default() }
    }

    /// As `checkpoint.export_dtype` says. By itself, a model is written in the types of its files, or of its `config.json` where
    /// training begins with random weights.
    ///
    /// # Errors
    /// The model's files cannot be read.
    pub fn of(settings: &Settings, specs: &[ParameterSpec], source: &Directory) -> Result<Self, Failure> {
        Ok(match (settings.checkpoint.export_dtype, settings.model.init) {
            (ExportDtype::Float32, _) => Self::all(Dtype::F32),
            (ExportDtype::Bfloat16, _) => Self::all(Dtype::BF16),
            (ExportDtype::Float16, _) => Self::all(Dtype::F16),
            (ExportDtype::Auto, _) if source.drawn().is_some() => Self::all(source.dtype().unwrap_or(Dtype::F32)),
            (ExportDtype::Auto, Init::Random) => Self::all(source.dtype().unwrap_or(Dtype::F32)),
            (ExportDtype::Auto, Init::Pretrained) => Self::of_source(specs, source)?,
        })
    }

    /// Each tensor in the type that files have it in.
    ///
    /// # Errors
    /// The model's files cannot be read.
    pub fn of_source(specs: &[ParameterSpec], source: &Directory) -> Result<Self, Failure> {
        Ok(Self::of_files(Parameters::stored_types(specs, source)?))
    }

    /// Each tensor in its own type, of tensors with so many elements.
    fn of_files(tensors: Vec<(String, Dtype, usize)>) -> Self {
        let elements = |of: Dtype| tensors.iter().filter(|(_, dtype, _)| *dtype == of).map(|(.., count)| count).sum();
        // Of as many elements in two types, the wider one.
        let main = [Dtype::F16, Dtype::BF16, Dtype::F32].into_iter().max_by_key(|&dtype| -> usize { elements(dtype) });
        Self { by_name: tensors.into_iter().map(|(name, dtype, _)| (name, dtype)).collect(), main }
    }

    /// A tensor as its file has it.
    ///
    /// # Errors
    /// A finite number that the type of the file has not.
    pub(super) fn stored<'a>(&self, array: &Array<'a>) -> Result<StoredArray<'a>, Failure> {
        let dtype = self.of_tensor(array.name);
        require_held(array, dtype)?;
        Ok(StoredArray { array: (*array).into(), dtype })
    }

    fn of_tensor(&self, name: &str) -> Dtype {
        self.by_name.get(name).copied().unwrap_or(self.main())
    }

    /// The type that `config.json` names.
    pub(super) fn main(&self) -> Dtype {
        self.main.unwrap_or(Dtype::F32)
    }
}

fn require_held(array: &Array<'_>, dtype: Dtype) -> Result<(), Failure> {
    let is_held = |x: f32| match dtype {
        Dtype::F16 => f16::from_f32(x).is_finite(),
        Dtype::BF16 => bf16::from_f32(x).is_finite(),
        _ => true,
    };
    match array.data.iter().find(|x| x.is_finite() && !is_held(**x)) {
        None => Ok(()),
        Some(x) => {
            let message = format!("`{}` has the number {x:e}, which {dtype} cannot hold", array.name);
            Err(Failure::new(Status::Storage, message)
                .because("the model's files are of this type")
                .help("the checkpoint is complete: run the same command with `--set checkpoint.export_dtype=float32`"))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_config_names_the_type_of_most_numbers_and_each_tensor_keeps_its_own() {
        let tensor = |name: &str, dtype, count| (name.to_owned(), dtype, count);
        let types = Types::of_files(vec![tensor("norm", Dtype::F32, 8), tensor("weight", Dtype::BF16, 64)]);
        assert_eq!((types.main(), types.of_tensor("norm")), (Dtype::BF16, Dtype::F32));
        assert_eq!((types.of_tensor("weight"), types.of_tensor("new")), (Dtype::BF16, Dtype::BF16));
        assert_eq!(Types::of_files(Vec::new()).main(), Dtype::F32);
    }

    #[test]
    fn a_number_beyond_the_type_of_a_file_is_refused() {
        let array = |data| Array { name: "w", shape: &[1], data };
        assert!(require_held(&array(&[65504.0]), Dtype::F16).is_ok());
        let refused = require_held(&array(&[65520.0]), Dtype::F16).unwrap_err().to_string();
        assert!(refused.contains("`w`") && refused.contains("float16"), "{refused}");
        assert!(require_held(&array(&[65520.0]), Dtype::BF16).is_ok());
        assert!(require_held(&array(&[f32::MAX]), Dtype::BF16).is_err());
        assert!(require_held(&array(&[f32::MAX]), Dtype::F32).is_ok());
    }
}
