//! Kubernetes: the pods of an indexed Job. It tells them their rank, and neither how many there are nor where rank 0 is.

use super::{Started, Variables};
use crate::exit::Failure;

pub(super) const NAME: &str = "Kubernetes";

pub(super) const TOKEN_HELP: &str = "set MDT_JOB_TOKEN in the pods from a Secret (`secretKeyRef`)";

pub(super) fn indexed_job(variables: &Variables) -> Result<Option<Started>, Failure> {
    let Some(rank) = variables.number("JOB_COMPLETION_INDEX")? else { return Ok(None) };
    let mut started = Started::new(NAME, rank, None)?;
    started.token_help = TOKEN_HELP;
    Ok(Some(started))
}
