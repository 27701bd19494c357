//! The trainer `sft` through its trait: what it makes of rows, and what it says about those it cannot use.

mod golden;
mod limits;
mod refusals;
mod rows;
mod setup;
mod templates;
