//! Llama model family plugin.
