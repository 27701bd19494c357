//! An adapter as it is written.

use mdt_plugin_api::ModelSpec;
use serde_json::Value;

use super::{Adapter, mlx, peft};
use crate::config::AdapterFormat;
use crate::model::OWN;
use crate::storage::Array;

/// The files of an adapter.
pub struct WrittenAdapter {
    /// Its `adapter_config.json`.
    pub config: Value,
    /// The name of the file with its tensors.
    pub file: &'static str,
    /// Its tensors.
    pub tensors: Vec<WrittenTensor>,
}

/// A tensor of an adapter.
pub struct WrittenTensor {
    /// Its name in the file.
    pub name: String,
    /// Length of each axis.
    pub shape: Vec<usize>,
    /// Its elements.
    pub data: Vec<f32>,
}

impl Adapter {
    /// The files of these trained parameters: those of the adapter and of `modules_to_save`. `base` is where the model lies.
    pub fn written(&self, model: &ModelSpec, base: &str, trained: &[Array<'_>]) -> WrittenAdapter {
        let arrays = trained.iter().filter(|array| !array.name.starts_with(OWN));
        match self.format {
            AdapterFormat::Peft => WrittenAdapter {
                config: peft::config(self, model, base),
                file: peft::TENSORS,
                tensors: arrays.map(|array| tensor(peft::stored_name(array.name), array)).collect(),
            },
            AdapterFormat::Mlx => WrittenAdapter {
                config: mlx::config(self, base),
                file: mlx::TENSORS,
                tensors: arrays.map(|array| transposed(tensor(mlx::stored_name(array.name), array))).collect(),
            },
        }
    }
}

fn tensor(name: String, array: &Array<'_>) -> WrittenTensor {
    WrittenTensor { name, shape: array.shape.to_vec(), data: array.data.to_vec() }
}

/// A matrix with its axes the other way round; anything else as it is.
fn transposed(tensor: WrittenTensor) -> WrittenTensor {
    let [rows, columns] = tensor.shape[..] else { return tensor };
    let data = (0..columns).flat_map(|column| (0..rows).map(move |row| row * columns + column));
    let data = data.map(|place| tensor.data[place]).collect();
    WrittenTensor { shape: vec![columns, rows], data, ..tensor }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn a_matrix_that_is_turned_has_its_elements_at_swapped_places_and_turned_again_is_itself(
            rows in 1usize..6,
            columns in 1usize..6,
        ) {
            let data: Vec<f32> = (0..rows * columns).map(|place| place as f32).collect();
            let tensor = || WrittenTensor { name: "a".to_owned(), shape: vec![rows, columns], data: data.clone() };
            let turned = transposed(tensor());
            prop_assert_eq!(&turned.shape, &[columns, rows]);
            for (row, column) in (0..rows).flat_map(|row| (0..columns).map(move |column| (row, column))) {
                prop_assert_eq!(turned.data[column * rows + row], data[row * columns + column]);
            }
            prop_assert_eq!(transposed(turned).data, data);
        }
    }
}
