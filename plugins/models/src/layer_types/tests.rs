use mdt_plugin_api::serde_json::{Value, json};

use super::{same_window, sliding_window, windows_of_later_layers};
use crate::json::Object;

fn later(config: Value) -> mdt_plugin_api::Result<[Option<usize>; 4]> {
    Ok(windows_of_later_layers(&Object::root(&config).unwrap(), 4)?.try_into().unwrap())
}

#[test]
fn every_layer_of_mistral_has_the_window_unless_it_is_null() {
    let read = |config| {
        let config = Object::root(&config).unwrap();
        same_window(&config, 2, sliding_window(&config, Some(4096))?)
    };
    assert_eq!(read(json!({})).unwrap(), Some(4096));
    assert_eq!(read(json!({ "sliding_window": null })).unwrap(), None);
    assert_eq!(read(json!({ "sliding_window": 64 })).unwrap(), Some(64));
    let error = read(json!({ "layer_types": ["full_attention", "sliding_attention"] })).unwrap_err();
    assert!(error.message().contains("layer_types has \"full_attention\""), "{error}");
}

#[test]
fn layers_of_qwen_have_it_only_where_it_is_used() {
    let read = |config| later(config).unwrap();
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
        let error = later(config).unwrap_err();
        assert!(error.message().contains("layer_types") && error.message().contains(part), "{error}");
    }
}
