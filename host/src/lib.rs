//! The host: configuration, the training loop and the files around it.

pub mod checkpoint;
mod checksum;
pub mod config;
pub mod exit;
pub mod export;
pub mod metrics;
pub mod model;
pub mod plugins;
pub mod progress;
pub mod random;
pub mod schedule;
mod storage;
