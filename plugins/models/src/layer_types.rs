//! Kinds of layers: how many tokens back each of them sees.

use mdt_plugin_api::Result;

use crate::json::Object;

/// For each layer, the window's length in tokens, the token itself included; `None` where it sees everything. `layer_types` says
/// which layers have the window, or `slides` where it is absent.
///
/// # Errors
/// Kinds of layers that are unknown or contradict the other keys; the error names the key.
pub fn windows(
    config: &Object<'_>,
    layers: usize,
    window: Option<usize>,
    slides: impl Fn(usize) -> bool,
) -> Result<Vec<Option<usize>>> {
    let Some(kinds) = config.texts("layer_types")? else {
        return Ok((0..layers).map(|layer| window.filter(|_| slides(layer))).collect());
    };
    if kinds.len() != layers {
        let why = format!("has {} entries for the {layers} layers of num_hidden_layers", kinds.len());
        return Err(config.refuse("layer_types", why));
    }
    let of_kind = |kind: &str| match kind {
        "full_attention" => Ok(None),
        "sliding_attention" if window.is_some() => Ok(window),
        "sliding_attention" => {
            let why = "has \"sliding_attention\", but sliding_window is null, or use_sliding_window is not true";
            Err(config.refuse("layer_types", why))
        }
        other => {
            let why = format!("has {other:?}; only \"full_attention\" and \"sliding_attention\" are known");
            Err(config.refuse("layer_types", why))
        }
    };
    kinds.into_iter().map(of_kind).collect()
}

/// `sliding_window`; null is none.
///
/// # Errors
/// It is no length.
pub fn sliding_window(config: &Object<'_>, absent: Option<usize>) -> Result<Option<usize>> {
    if config.contains("sliding_window") { config.size("sliding_window") } else { Ok(absent) }
}

/// The same where `use_sliding_window` says that it is used.
///
/// # Errors
/// It is no length.
pub fn used_sliding_window(config: &Object<'_>, absent: Option<usize>) -> Result<Option<usize>> {
    if config.flag("use_sliding_window")? { sliding_window(config, absent) } else { Ok(None) }
}

/// The window of a family that has the same one in all layers.
///
/// # Errors
/// `layer_types` says something else.
pub fn same_window(config: &Object<'_>, layers: usize, window: Option<usize>) -> Result<Option<usize>> {
    if windows(config, layers, window, |_| true)?.iter().any(|&of_layer| of_layer != window) {
        return Err(config.refuse("layer_types", "has \"full_attention\"; this family has its window in all layers"));
    }
    Ok(window)
}

/// Of Qwen: layers from `max_window_layers` on, where `layer_types` says nothing else.
///
/// # Errors
/// Those of [`windows`].
pub fn windows_of_later_layers(config: &Object<'_>, layers: usize) -> Result<Vec<Option<usize>>> {
    let first = config.count("max_window_layers")?.unwrap_or(28);
    windows(config, layers, used_sliding_window(config, Some(4096))?, |layer| layer >= first)
}

#[cfg(test)]
mod tests;
