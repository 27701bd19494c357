//! `mdt-host launched-rank`: a rank that `launch` on another machine has started over ssh.

use crate::exit::Failure;
use crate::rank_processes;
use crate::unexpected_end;

/// Ends the process with the status that tells `launch` how the rank ended.
pub(super) fn run() -> Result<(), Failure> {
    let status = rank_processes::serve()?;
    unexpected_end::expected();
    std::process::exit(status)
}
