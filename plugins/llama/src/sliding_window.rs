//! Sliding windows: how many tokens back a layer sees.

use mdt_plugin_api::Result;

use crate::json::Object;

/// `sliding_window` where it is absent. Null is no window.
const DEFAULT_WINDOW: usize = 4096;

/// Which layers of a family attend within a window.
#[derive(Clone, Copy, Debug)]
pub enum WindowRule {
    /// None; the config has no key for it.
    Never,
    /// All, unless `sliding_window` is null.
    EveryLayer,
    /// With `use_sliding_window`, those that `layer_types` says, or all from `max_window_layers` on.
    LaterLayers,
}

impl WindowRule {
    /// For each layer, the window's length in tokens, the token itself included; `None` where it sees everything.
    ///
    /// # Errors
    /// Kinds of layers that are unknown or contradict the other keys; the error names the key.
    pub fn read(self, config: &Object<'_>, layers: usize) -> Result<Vec<Option<usize>>> {
        match self {
            Self::Never => Ok(vec![None; layers]),
            Self::EveryLayer => Ok(vec![sliding_window(config)?; layers]),
            Self::LaterLayers => later_layers(config, layers),
        }
    }
}

fn sliding_window(config: &Object<'_>) -> Result<Option<usize>> {
    if config.contains("sliding_window") { config.size("sliding_window") } else { Ok(Some(DEFAULT_WINDOW)) }
}

fn later_layers(config: &Object<'_>, layers: usize) -> Result<Vec<Option<usize>>> {
    let used = config.boolean("use_sliding_window")?.unwrap_or(false);
    let window = if used { sliding_window(config)? } else { None };
    let Some(kinds) = config.texts("layer_types")? else {
        let first = config.count("max_window_layers")?.unwrap_or(28);
        return Ok((0..layers).map(|layer| window.filter(|_| layer >= first)).collect());
    };
    if kinds.len() != layers {
        let why = format!("has {} entries for the {layers} layers of num_hidden_layers", kinds.len());
        return Err(config.refuse("layer_types", why));
    }
    let of_kind = |kind: &str| match kind {
        "full_attention" => Ok(None),
        "sliding_attention" if window.is_some() => Ok(window),
        "sliding_attention" => {
            let why = "has \"sliding_attention\", but use_sliding_window is not true or sliding_window is null";
            Err(config.refuse("layer_types", why))
        }
        other => {
            let why = format!("has {other:?}; only \"full_attention\" and \"sliding_attention\" are known");
            Err(config.refuse("layer_types", why))
        }
    };
    kinds.into_iter().map(of_kind).collect()
}

#[cfg(test)]
mod tests;
