//! Adapters as peft has them: <https://huggingface.co/docs/peft/developer_guides/checkpoint>.

use serde_json::{Map, Value, json};

use super::directory::Described;
use super::{Adapter, Rule, scale};
use crate::config::AdapterKind;
use crate::exit::{Failure, Status};
use mdt_plugin_api::{Layout, ModelSpec};

/// The file with the tensors.
pub(super) const TENSORS: &str = "adapter_model.safetensors";

/// What stands before the names of the model's own modules.
const PREFIX: &str = "base_model.model.";

/// The name that a parameter has in the file.
pub(super) fn stored_name(name: &str) -> String {
    format!("{PREFIX}{name}")
}

/// The name of a tensor of the file in a job. None for what peft writes beside the adapter and does not read.
pub(super) fn name(stored: &str) -> Option<String> {
    let name = stored.strip_prefix(PREFIX).unwrap_or(stored);
    (!name.contains(".base_layer.")).then(|| name.to_owned())
}

/// Keys that change what an adapter computes, in ways that are not here. Each is absent, null, false or empty.
const WITHOUT: [&str; 14] = [
    "alora_invocation_tokens",
    "alpha_pattern",
    "arrow_config",
    "layer_replication",
    "lora_bias",
    "rank_pattern",
    "target_parameters",
    "trainable_token_indices",
    "use_bdlora",
    "use_qalora",
    "monteclora_config",
    "velora_config",
    "corda_config",
    "kasa_config",
];

/// What an `adapter_config.json` says.
pub(super) fn describe(config: &Map<String, Value>) -> Result<Described, Failure> {
    let refused =
        |what: String| Failure::new(Status::Input, format!("the adapter {what}, which this version does not have"));
    let text = |key: &str| config.get(key).and_then(Value::as_str);
    if text("peft_type") != Some("LORA") {
        return Err(refused(format!("is of the kind {}", config["peft_type"])));
    }
    let is_set = |value: &Value| match value {
        Value::Null => false,
        Value::Bool(set) => *set,
        Value::Array(list) => !list.is_empty(),
        Value::Object(table) => !table.is_empty(),
        _ => true,
    };
    if let Some(key) = WITHOUT.into_iter().find(|key| config.get(*key).is_some_and(is_set)) {
        return Err(refused(format!("has `{key}`")));
    }
    if let Some(bias) = text("bias").filter(|bias| *bias != "none") {
        return Err(refused(format!("trains biases (`bias` is {bias:?})")));
    }
    // These begin with other weights of the model than it has.
    if let Some(init) = text("init_lora_weights").filter(|init| !["gaussian", "eva", "orthogonal"].contains(init)) {
        return Err(refused(format!("has `init_lora_weights` {init:?}")).help(
            "convert it in peft to a plain one: `path_initial_model_for_weight_conversion` of `save_pretrained`",
        ));
    }
    let missing = |key: &str| Failure::new(Status::Input, format!("the adapter's configuration has no number `{key}`"));
    let rank = config.get("r").and_then(Value::as_u64).filter(|&rank| rank > 0).ok_or_else(|| missing("r"))? as usize;
    let alpha = config.get("lora_alpha").and_then(Value::as_f64).ok_or_else(|| missing("lora_alpha"))?;
    let flag = |key: &str| config.get(key).and_then(Value::as_bool).unwrap_or_default();
    let rslora = flag("use_rslora");
    let dropout = config.get("lora_dropout").and_then(Value::as_f64).unwrap_or_default();
    let kind = if flag("use_dora") { AdapterKind::Dora } else { AdapterKind::Lora };
    Ok(Described { kind, rank, alpha, rslora, rule: Rule { scale: scale(alpha, rank, rslora), dropout } })
}

/// An `adapter_config.json`, with the keys that every version of peft knows.
pub(super) fn config(adapter: &Adapter, model: &ModelSpec, base: &str) -> Value {
    let modules = |modules: Vec<String>| if modules.is_empty() { Value::Null } else { json!(modules) };
    json!({
        "base_model_name_or_path": base,
        "bias": "none",
        "fan_in_fan_out": adapter.layers.iter().any(|layer| layer.layout == Layout::InOut),
        "inference_mode": true,
        "init_lora_weights": true,
        "lora_alpha": number(adapter.alpha),
        "lora_dropout": adapter.rule.dropout,
        "modules_to_save": modules(adapter.modules_to_save.clone()),
        "peft_type": "LORA",
        "r": adapter.rank,
        "target_modules": targets(adapter, model),
        "task_type": "CAUSAL_LM",
        "use_dora": adapter.kind == AdapterKind::Dora,
        "use_rslora": adapter.rslora,
    })
}

/// peft's alpha is an integer, where it is one.
fn number(number: f64) -> Value {
    if number.fract() == 0.0 && number.abs() < 1e15 { json!(number as i64) } else { json!(number) }
}

/// Names that mean the layers with an adapter and no others: the last part of a name where it means all of them, as users of
/// peft write it, and else the whole name.
fn targets(adapter: &Adapter, model: &ModelSpec) -> Vec<String> {
    let has_adapter = |name: &str| adapter.layers.iter().any(|layer| layer.name == name);
    let last = |name: &str| name.rsplit('.').next().unwrap_or(name).to_owned();
    let layers = || model.parameters.iter().filter_map(|spec| spec.name.strip_suffix(".weight"));
    let mut targets: Vec<String> = Vec::new();
    for layer in &adapter.layers {
        let short = last(&layer.name);
        let means_others = layers().any(|name| last(name) == short && !has_adapter(name));
        let target = if means_others { layer.name.clone() } else { short };
        if !targets.contains(&target) {
            targets.push(target);
        }
    }
    targets
}
