//! The host: configuration, the training loop and the files around it.

pub mod checkpoint;
mod checksum;
pub mod cli;
pub mod config;
pub mod data;
pub mod doctor;
pub mod exit;
pub mod export;
mod finite;
pub mod generate;
pub mod job;
mod memory;
pub mod metrics;
pub mod model;
mod nearest;
pub mod peers;
pub mod plugins;
pub mod preview;
pub mod progress;
pub mod random;
mod rank_processes;
pub mod services;
pub mod signals;
mod storage;
mod terminal;
mod text_file;
pub mod train;
