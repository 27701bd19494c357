//! SIGINT and SIGTERM: the first asks the job to stop at the next update, the second ends it at once.

use std::sync::Arc;
use std::sync::atomic::AtomicBool;

use signal_hook::consts::{SIGINT, SIGTERM};
use signal_hook::flag;

use crate::exit::{Failure, Status};

/// A flag that the first signal sets.
pub fn cancellation() -> Result<Arc<AtomicBool>, Failure> {
    let cancelled = Arc::new(AtomicBool::new(false));
    for signal in [SIGINT, SIGTERM] {
        // In this order: a signal that finds the flag set ends the process, and only then is it set.
        flag::register_conditional_shutdown(signal, i32::from(Status::Interrupted.code()), Arc::clone(&cancelled))
            .and_then(|_| flag::register(signal, Arc::clone(&cancelled)))
            .map_err(|error| Failure::new(Status::Other, "signals cannot be handled").because(error))?;
    }
    Ok(cancelled)
}
