//! Whatever is wrong: one clear error, the documented exit status, and nothing lost of what was there before.

mod configuration;
mod data;
mod model;
mod numbers;
mod order;
mod output;
mod plugin_faults;
mod plugin_files;
mod plugin_trust;
mod rows_table;
mod skipped_rows;
mod strangers;
