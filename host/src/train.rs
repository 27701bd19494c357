//! Training: a job is opened and checked, then update follows update.

mod accumulate;
mod agree;
mod best;
mod builds;
mod checkpointing;
mod clip;
mod connect;
mod estimate;
mod evaluate;
mod evaluate_alone;
mod final_model;
mod frozen;
mod gradient;
mod guard;
mod layout;
mod observe;
mod on_device;
mod open;
mod optimizer;
mod own_part;
mod plugin_metrics;
mod prefetch;
mod prepare;
mod processor;
mod reduction;
mod report;
mod run;
mod schedule;
mod shards;
mod share;
mod slow_rank;
mod start;
mod stop;
mod update;

pub mod bench;

pub use connect::backend;
pub use estimate::{Estimate, Work, admit, admitted, available};
pub use evaluate_alone::evaluate;
pub use run::{Run, train};
