//! AdamW optimizer plugin.
