//! How the ranks of a job find each other: all ranks come to rank 0, and each leaves with the roster.

pub(crate) mod coordinator;
pub(crate) mod difference;
pub(crate) mod join;

use std::time::Duration;

/// How long a rank whose connection breaks may take to come back before it is lost.
const REJOIN: Duration = Duration::from_millis(500);
