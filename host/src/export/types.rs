//! The form of the files that the trained model is written to: element types, and whether experts stand in one tensor.

use std::collections::HashMap;

use mdt_plugin_api::half::{bf16, f16};
use mdt_plugin_api::{Dtype, ParameterSpec};

use crate::config::{ExportDtype, Init, Settings};
use crate::exit::{Failure, Status};
use crate::model::{Directory, Parameters, StoredForm, as_stored};
use crate::storage::{Array, StoredArray, TypedArray};

/// The type of each tensor in the files that are written, and which parameters are joined there.
#[derive(Debug, Default)]
pub struct Types {
    /// Where they are not all of one type.
    by_name: HashMap<String, Dtype>,
    /// That of most, which `config.json` names; f32 where nothing is known.
    main: Option<Dtype>,
    /// Names of files for parameters that are written as the source has them, see [`StoredForm::joined`].
    joined: HashMap<String, String>,
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
        let own = match settings.model.init {
            Init::Pretrained if source.drawn().is_none() => Self::of_source(specs, source)?,
            _ => Self::all(source.dtype().unwrap_or(Dtype::F32)),
        };
        let all = |dtype| Self { joined: own.joined.clone(), ..Self::all(dtype) };
        Ok(match settings.checkpoint.export_dtype {
            ExportDtype::Float32 => all(Dtype::F32),
            ExportDtype::Bfloat16 => all(Dtype::BF16),
            ExportDtype::Float16 => all(Dtype::F16),
            ExportDtype::Auto => own,
        })
    }

    /// The same with a tensor for each expert, which is all that mlx-lm reads.
    #[must_use]
    pub fn taken_apart(self) -> Self {
        Self { joined: HashMap::new(), ..self }
    }

    /// Each tensor in the type that files have it in.
    ///
    /// # Errors
    /// The model's files cannot be read.
    pub fn of_source(specs: &[ParameterSpec], source: &Directory) -> Result<Self, Failure> {
        let StoredForm { types, joined } = Parameters::stored_form(specs, source)?;
        Ok(Self { joined, ..Self::of_files(types) })
    }

    /// Each tensor in its own type, of tensors with so many elements.
    fn of_files(tensors: Vec<(String, Dtype, usize)>) -> Self {
        let elements = |of: Dtype| tensors.iter().filter(|(_, dtype, _)| *dtype == of).map(|(.., count)| count).sum();
        // Of as many elements in two types, the wider one.
        let main = [Dtype::F16, Dtype::BF16, Dtype::F32].into_iter().max_by_key(|&dtype| -> usize { elements(dtype) });
        let by_name = tensors.into_iter().map(|(name, dtype, _)| (name, dtype)).collect();
        Self { by_name, main, joined: HashMap::new() }
    }

    /// Parameters as the tensors of their files.
    ///
    /// # Errors
    /// A finite number that the type of the file has not.
    pub(super) fn stored<'a>(
        &'a self,
        specs: &'a [ParameterSpec],
        parameters: &[Array<'a>],
    ) -> Result<Vec<StoredArray<'a>>, Failure> {
        let half_of = |array: &Array<'_>, file: &str| {
            let half = specs.iter().find(|spec| spec.name == array.name)?.half_of.as_ref()?;
            (half.name == file).then_some(half.second)
        };
        let other_half = |own: &Array<'a>, file: &str| {
            let is_other = |array: &&Array<'_>| array.name != own.name && half_of(array, file).is_some();
            parameters.iter().find(is_other).copied()
        };
        let (mut apart, mut stored) = (Vec::new(), Vec::new());
        for array in parameters {
            let file = self.joined.get(array.name).map(String::as_str);
            match file.map(|file| (file, half_of(array, file), other_half(array, file))) {
                // A half whose other one is quantised is no longer a half.
                None | Some((_, Some(_), None)) => apart.push(*array),
                Some((_, Some(true), Some(_))) => {}
                Some((name, Some(false), Some(second))) => {
                    require_held(&second, self.of_tensor(name))?;
                    let second_halves = Some(TypedArray::from(second).bytes);
                    stored.push(StoredArray { second_halves, ..self.stored_as(name, array)? });
                }
                Some((name, None, _)) => stored.push(self.stored_as(name, array)?),
            }
        }
        let apart = as_stored(specs, &apart).into_iter().map(|array| self.stored_as(array.name, &array));
        apart.chain(stored.into_iter().map(Ok)).collect()
    }

    fn stored_as<'a>(&self, name: &'a str, array: &Array<'a>) -> Result<StoredArray<'a>, Failure> {
        let dtype = self.of_tensor(name);
        require_held(array, dtype)?;
        Ok(StoredArray { dtype, ..Array { name, ..*array }.into() })
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
