//! Adapters as mlx-lm has them, `mlx_lm/tuner/utils.py`: matrices the other way round, and a scale in the place of alpha.

use mdt_plugin_api::Layout;
use serde_json::{Map, Value, json};

use super::directory::Described;
use super::{Adapter, Rule, name};
use crate::config::AdapterKind;
use crate::exit::{Failure, Status};

/// The file with the tensors.
pub(super) const TENSORS: &str = "adapters.safetensors";

/// Names in a job, and in the file.
const NAMES: [(&str, &str); 3] = [(name::A, "lora_a"), (name::B, "lora_b"), (name::MAGNITUDE, "m")];

/// Those of an embedding, whose matrices have the same names in the file.
const EMBEDDING: [(&str, &str); 2] = [(name::EMBEDDING_A, "lora_a"), (name::EMBEDDING_B, "lora_b")];

/// The name that a parameter has in the file.
pub(super) fn stored_name(name: &str) -> String {
    let in_file = |&(ours, theirs): &(&str, &str)| Some(format!("{}{theirs}", name.strip_suffix(ours)?));
    NAMES.iter().chain(&EMBEDDING).find_map(in_file).unwrap_or_else(|| name.to_owned())
}

/// The names that a tensor of the file may have in a job: as a linear layer's, and as an embedding's.
pub(super) fn name(stored: &str, is_embedding: impl Fn(&str) -> bool) -> String {
    let Some((layer, last)) = stored.rsplit_once('.') else { return stored.to_owned() };
    let names: &[(&str, &str)] = if is_embedding(layer) { &EMBEDDING } else { &NAMES };
    let ours = names.iter().find(|(_, theirs)| *theirs == last).map_or(last, |(ours, _)| ours);
    format!("{layer}.{ours}")
}

/// What an `adapter_config.json` says.
pub(super) fn describe(config: &Map<String, Value>) -> Result<Described, Failure> {
    let kind = match config.get("fine_tune_type").and_then(Value::as_str).unwrap_or("lora") {
        "lora" => AdapterKind::Lora,
        "dora" => AdapterKind::Dora,
        other => {
            let message = format!("the adapter is of the kind {other:?}, which this version does not have");
            return Err(Failure::new(Status::Input, message));
        }
    };
    let number = |key: &str| config["lora_parameters"].get(key).and_then(Value::as_f64);
    let missing = |key: &str| {
        Failure::new(Status::Input, format!("the adapter's configuration has no number `lora_parameters.{key}`"))
    };
    let rank = number("rank").filter(|&rank| rank >= 1.0).ok_or_else(|| missing("rank"))? as usize;
    let scale = number("scale").ok_or_else(|| missing("scale"))?;
    let rule = Rule { scale, dropout: number("dropout").unwrap_or_default() };
    Ok(Described { kind, rank, alpha: scale * rank as f64, rslora: false, rule })
}

/// An `adapter_config.json`. Its keys are whole names, which mean the same layers whatever `num_layers` is.
pub(super) fn config(adapter: &Adapter, base: &str) -> Value {
    let keys: Vec<&str> = adapter.layers.iter().map(|layer| layer.name.as_str()).collect();
    json!({
        "fine_tune_type": match adapter.kind {
            AdapterKind::Lora => "lora",
            AdapterKind::Dora => "dora",
        },
        "lora_parameters": {
            "dropout": adapter.rule.dropout,
            "keys": keys,
            "rank": adapter.rank,
            "scale": adapter.rule.scale,
        },
        "model": base,
        "num_layers": 1,
    })
}

/// Checks that the files of mlx-lm can hold an adapter, and mean the same there.
///
/// # Errors
/// It has what they have no place for, or what mlx-lm computes otherwise.
pub(super) fn require_same_meaning(adapter: &Adapter) -> Result<(), Failure> {
    let refused =
        |what: String| Err(Failure::configuration(format!("an adapter of mlx-lm cannot be this one: {what}")));
    if let Some(module) = adapter.modules_to_save.first() {
        return refused(format!("it holds no modules as they are, such as `{module}`"));
    }
    for layer in &adapter.layers {
        if layer.is_tied {
            return refused(format!(
                "`{}` is tied, and in mlx-lm it has one adapter with what it is tied to",
                layer.name
            ));
        }
        if layer.layout == Layout::InOut {
            return refused(format!(
                "the weight of `{}` has its axes the other way round and another name there",
                layer.name
            ));
        }
        if layer.is_embedding && adapter.kind == AdapterKind::Dora {
            return refused(format!("`{}` is an embedding, of which mlx-lm takes the norms of rows", layer.name));
        }
    }
    Ok(())
}
