//! How a quantised weight is packed, and which weights are quantised: as `config.json` says of those in files, or by
//! `model.quantize`.

use std::collections::HashMap;
use std::fmt;

use mdt_plugin_api::{Layout, ParameterSpec, Role};
use serde_json::Value;

/// MLX's affine quantisation: each group of elements along the last axis has a scale and a bias.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Packing {
    /// Bits of an element: 2, 3, 4, 5, 6 or 8.
    pub bits: usize,
    /// Elements of a group: 32, 64 or 128.
    pub group_size: usize,
}

impl Packing {
    /// Whether it is one that devices compute with.
    pub fn is_known(self) -> bool {
        matches!(self.bits, 2..=6 | 8) && matches!(self.group_size, 32 | 64 | 128)
    }

    /// Whether a weight is one that `model.quantize` quantises: frozen, of a linear layer, of experts or an embedding, with rows
    /// of whole groups, as in mlx-lm.
    pub(super) fn suits(self, spec: &ParameterSpec) -> bool {
        let is_layer = matches!(spec.role, Role::Linear | Role::Experts | Role::Embedding);
        let has_groups = spec.shape.len() > 1 && spec.shape.last().is_some_and(|width| width % self.group_size == 0);
        is_layer && has_groups && spec.layout == Layout::OutIn && !spec.trainable
    }

    /// The shapes of words, scales and biases of a weight of this shape; none if its rows are not of whole groups.
    pub(super) fn shapes(self, weight: &[usize]) -> Option<[Vec<usize>; 3]> {
        let (&width, rows) = weight.split_last().filter(|(width, _)| *width % self.group_size == 0)?;
        let of_groups = [rows, &[width / self.group_size]].concat();
        Some([[rows, &[width / 32 * self.bits]].concat(), of_groups.clone(), of_groups])
    }

    /// Bytes of a weight with so many elements, with scales and biases of so many bytes each.
    pub fn bytes(self, elements: u64, of_scale: u64) -> u64 {
        elements / 8 * self.bits as u64 + elements / self.group_size as u64 * 2 * of_scale
    }
}

impl fmt::Display for Packing {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} bits, group size {}", self.bits, self.group_size)
    }
}

/// What a model's `config.json` says of its quantisation.
pub(super) enum Quantization {
    /// MLX's affine one, with the settings of all layers and of those that have their own; `None` is a layer that is whole.
    Affine { all: Packing, layers: HashMap<String, Option<Packing>> },
    /// Another one, in words.
    Other(String),
}

impl Quantization {
    /// Reads the table `quantization` or `quantization_config`; none where there is neither.
    pub(super) fn of(config: &Value) -> Option<Self> {
        let table = ["quantization", "quantization_config"].into_iter().find_map(|key| config.get(key)?.as_object())?;
        let number = |table: &serde_json::Map<String, Value>, key: &str| table.get(key)?.as_u64();
        let packing = |own: &Value| {
            let own = own.as_object()?;
            let affine = own.get("mode").is_none_or(|mode| mode == "affine");
            let bits = number(own, "bits").or_else(|| number(table, "bits"))?;
            let group_size = number(own, "group_size").or_else(|| number(table, "group_size"))?;
            let packing = Packing { bits: bits as usize, group_size: group_size as usize };
            (affine && packing.is_known()).then_some(packing)
        };
        let whole = Value::Object(table.clone());
        let all = if table.contains_key("quant_method") { None } else { packing(&whole) };
        let Some(all) = all else {
            let text = |key: &str, before: &str, after: &str| {
                Some(format!("{before}{}{after}", table.get(key)?).replace('"', ""))
            };
            let parts = [
                text("quant_method", "", ""),
                text("mode", "", ""),
                text("bits", "", " bits"),
                text("group_size", "group size ", ""),
            ];
            return Some(Self::Other(parts.into_iter().flatten().collect::<Vec<_>>().join(", ")));
        };
        let mut layers = HashMap::new();
        for (layer, own) in table {
            match own {
                Value::Bool(quantised) => drop(layers.insert(layer.clone(), quantised.then_some(all))),
                Value::Object(_) => match packing(own) {
                    Some(own) => drop(layers.insert(layer.clone(), Some(own))),
                    None => return Some(Self::Other(format!("{layer}: {own}").replace('"', ""))),
                },
                _ => {}
            }
        }
        Some(Self::Affine { all, layers })
    }

    /// How a layer is packed, if it is; `None` where the quantisation is another one than MLX's affine.
    pub(super) fn packing(&self, layer: &str) -> Option<Packing> {
        match self {
            Self::Affine { all, layers } => layers.get(layer).copied().unwrap_or(Some(*all)),
            Self::Other(_) => None,
        }
    }
}

impl fmt::Display for Quantization {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Affine { all, .. } => all.fmt(f),
            Self::Other(words) => words.fmt(f),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use mdt_plugin_api::Init;
    use serde_json::json;

    const FOUR: Packing = Packing { bits: 4, group_size: 64 };

    #[test]
    fn a_layer_has_its_own_settings_or_those_of_all() {
        let config = json!({"quantization": {
            "group_size": 64, "bits": 4, "mode": "affine", "a": {"group_size": 32, "bits": 6}, "b": false, "c": {"bits": 8}
        }});
        let quantization = Quantization::of(&config).unwrap();
        assert_eq!(quantization.packing("a"), Some(Packing { bits: 6, group_size: 32 }));
        assert_eq!(quantization.packing("b"), None);
        assert_eq!(quantization.packing("c"), Some(Packing { bits: 8, group_size: 64 }));
        assert_eq!(quantization.packing("d"), Some(FOUR));
        assert!(Quantization::of(&json!({"a": 1})).is_none());
    }

    #[test]
    fn another_method_is_named_and_packs_no_layer() {
        for (config, named) in [
            (json!({"quantization_config": {"quant_method": "gptq", "bits": 4, "group_size": 128}}), "gptq"),
            (json!({"quantization": {"group_size": 32, "bits": 4, "mode": "mxfp4"}}), "mxfp4"),
            (json!({"quantization": {"group_size": 16, "bits": 4}}), "group size 16"),
            (
                json!({"quantization": {"group_size": 64, "bits": 4, "a": {"bits": 4, "group_size": 16, "mode": "nvfp4"}}}),
                "nvfp4",
            ),
            (json!({"quantization_config": {"load_in_4bit": true, "quant_method": "bitsandbytes"}}), "bitsandbytes"),
        ] {
            let quantization = Quantization::of(&config).unwrap();
            assert!(quantization.to_string().contains(named), "{quantization}");
            assert_eq!(quantization.packing("a"), None);
        }
    }

    #[test]
    fn frozen_layers_with_rows_of_whole_groups_are_quantised() {
        let spec = |shape: &[usize], role| ParameterSpec::new("a.weight", shape, role, Init::Zeros).frozen();
        assert!(FOUR.suits(&spec(&[3, 128], Role::Linear)) && FOUR.suits(&spec(&[3, 64], Role::Embedding)));
        assert!(FOUR.suits(&spec(&[2, 3, 64], Role::Experts)));
        assert!(!FOUR.suits(&spec(&[3, 96], Role::Linear)), "half a group");
        assert!(!FOUR.suits(&spec(&[64], Role::Norm)) && !FOUR.suits(&spec(&[64, 64], Role::Other)));
        assert!(!FOUR.suits(&spec(&[64, 64], Role::Linear).in_out()), "groups lie along the inputs");
        assert!(!FOUR.suits(&ParameterSpec::new("a.weight", [3, 64], Role::Linear, Init::Zeros)), "trained");
    }

    #[test]
    fn shapes_and_bytes_are_those_of_the_packed_words() {
        let [words, scales, biases] = Packing { bits: 3, group_size: 32 }.shapes(&[5, 64]).unwrap();
        assert_eq!((words, scales, biases), (vec![5, 6], vec![5, 2], vec![5, 2]));
        assert_eq!(FOUR.shapes(&[5, 96]), None);
        assert_eq!(FOUR.bytes(128, 2), 64 + 8);
    }
}
