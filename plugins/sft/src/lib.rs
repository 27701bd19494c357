//! supervised fine-tuning trainer plugin.
