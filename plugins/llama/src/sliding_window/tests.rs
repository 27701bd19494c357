use mdt_plugin_api::serde_json::{Value, json};

use super::WindowRule;
use crate::json::Object;

fn window(rule: WindowRule, config: Value) -> mdt_plugin_api::Result<[Option<usize>; 4]> {
    Ok(rule.read(&Object::root(&config).unwrap(), 4)?.try_into().unwrap())
}

#[test]
fn every_layer_of_mistral_has_the_window_unless_it_is_null() {
    let read = |config| window(WindowRule::EveryLayer, config).unwrap();
    assert_eq!(read(json!({})), [Some(4096); 4]);
    assert_eq!(read(json!({ "sliding_window": null })), [None; 4]);
    assert_eq!(read(json!({ "sliding_window": 64 })), [Some(64); 4]);
}

#[test]
fn layers_of_qwen_have_it_only_where_it_is_used() {
    let read = |config| window(WindowRule::LaterLayers, config).unwrap();
    let full = json!(["full_attention", "full_attention", "full_attention", "full_attention"]);
    let mixed = json!(["full_attention", "full_attention", "full_attention", "sliding_attention"]);
    assert_eq!(read(json!({ "sliding_window": 64, "max_window_layers": 0 })), [None; 4]);
    assert_eq!(read(json!({ "use_sliding_window": false, "sliding_window": 64, "layer_types": full })), [None; 4]);
    assert_eq!(read(json!({ "use_sliding_window": true, "sliding_window": 64, "layer_types": full })), [None; 4]);
    assert_eq!(
        read(json!({ "use_sliding_window": true, "sliding_window": 64, "layer_types": mixed })),
        [None, None, None, Some(64)]
    );
    // 28 layers see everything where nothing else is said.
    assert_eq!(read(json!({ "use_sliding_window": true, "sliding_window": 64 })), [None; 4]);
    assert_eq!(read(json!({ "use_sliding_window": true, "sliding_window": 64, "max_window_layers": 4 })), [None; 4]);
    assert_eq!(
        read(json!({ "use_sliding_window": true, "sliding_window": 64, "max_window_layers": 3 })),
        [None, None, None, Some(64)]
    );
    assert_eq!(read(json!({ "use_sliding_window": true, "max_window_layers": 0 })), [Some(4096); 4]);
    assert_eq!(read(json!({ "use_sliding_window": true, "sliding_window": null, "max_window_layers": 0 })), [None; 4]);
}

#[test]
fn kinds_of_layers_that_fit_nothing_are_refused() {
    let sliding = ["sliding_attention"; 4];
    for (config, part) in [
        (json!({ "layer_types": sliding }), "use_sliding_window"),
        (json!({ "layer_types": sliding, "use_sliding_window": true, "sliding_window": null }), "sliding_window"),
        (json!({ "layer_types": ["full_attention"] }), "has 1 entries for the 4 layers"),
        (json!({ "layer_types": vec!["linear_attention"; 4] }), "linear_attention"),
        (json!({ "layer_types": [1] }), "a list of texts"),
    ] {
        let error = window(WindowRule::LaterLayers, config).unwrap_err();
        assert!(error.message().contains("layer_types") && error.message().contains(part), "{error}");
    }
}
