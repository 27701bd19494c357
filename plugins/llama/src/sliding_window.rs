//! Sliding windows: how many tokens back a layer sees.
//!
//! Attention within a window is not implemented. For a sequence that fits into the window, full attention gives the same
//! numbers; a longer one is refused.

use mdt_plugin_api::{Error, Result};

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
    /// The window's length in tokens, the token itself included; `None` where every layer sees everything.
    ///
    /// # Errors
    /// Kinds of layers that are unknown or contradict the other keys; the error names the key.
    pub fn read(self, config: &Object<'_>, layers: usize) -> Result<Option<usize>> {
        match self {
            Self::Never => Ok(None),
            Self::EveryLayer => sliding_window(config),
            Self::LaterLayers => later_layers(config, layers),
        }
    }
}

fn sliding_window(config: &Object<'_>) -> Result<Option<usize>> {
    if config.contains("sliding_window") { config.size("sliding_window") } else { Ok(Some(DEFAULT_WINDOW)) }
}

fn later_layers(config: &Object<'_>, layers: usize) -> Result<Option<usize>> {
    let used = config.boolean("use_sliding_window")?.unwrap_or(false);
    let window = if used { sliding_window(config)? } else { None };
    let slides = match config.texts("layer_types")? {
        Some(kinds) => {
            if kinds.len() != layers {
                let why = format!("has {} entries for the {layers} layers of num_hidden_layers", kinds.len());
                return Err(config.refuse("layer_types", why));
            }
            if let Some(other) = kinds.iter().find(|kind| !["full_attention", "sliding_attention"].contains(kind)) {
                let why = format!("has {other:?}; only \"full_attention\" and \"sliding_attention\" are known");
                return Err(config.refuse("layer_types", why));
            }
            let slides = kinds.contains(&"sliding_attention");
            if slides && window.is_none() {
                let why = "has \"sliding_attention\", but use_sliding_window is not true or sliding_window is null";
                return Err(config.refuse("layer_types", why));
            }
            slides
        }
        None => config.count("max_window_layers")?.unwrap_or(28) < layers,
    };
    Ok(window.filter(|_| slides))
}

/// Refuses a sequence of this many tokens, those in the cache included, where a window would change its numbers.
///
/// # Errors
/// The sequence is longer than the window.
pub fn check_length(window: Option<usize>, length: usize) -> Result<()> {
    match window.filter(|&window| length > window) {
        None => Ok(()),
        Some(window) => Err(Error::input(format!(
            "config.json: sliding_window is {window}, and a sequence has {length} tokens; attention within a window is \
             not implemented, only sequences that fit into it"
        ))
        .with("key", "sliding_window")
        .help(format!("keep sequences to {window} tokens: trainer.max_seq_len, or a shorter prompt and answer"))),
    }
}

#[cfg(test)]
mod tests;
