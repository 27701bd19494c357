//! The host: configuration, the training loop and the files around it.

pub mod bench;
pub mod checkpoint;
mod checksum;
pub mod cli;
pub mod config;
pub mod data;
pub mod exit;
pub mod export;
pub mod fold;
pub mod generate;
pub mod gradient;
pub mod job;
pub mod metrics;
pub mod model;
pub mod peers;
pub mod plan;
pub mod plugins;
pub mod prefetch;
pub mod progress;
pub mod random;
pub mod schedule;
pub mod services;
pub mod signals;
mod storage;
pub mod train;
pub mod update;
