//! The host: configuration, the training loop and the files around it.

mod checksum;
pub mod config;
pub mod exit;
pub mod model;
pub mod plugins;
pub mod random;
pub mod schedule;
