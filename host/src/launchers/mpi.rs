//! MPI's launchers: Open MPI's `mpirun`, and those that speak PMIx or PMI (MPICH, Intel MPI, `srun --mpi`).

use super::{Started, Variables, token_of};
use crate::exit::Failure;

/// The fewest characters of a secret that are enough.
const SECRET: usize = 32;

pub(super) fn open_mpi(variables: &Variables) -> Result<Option<Started>, Failure> {
    let names = ["OMPI_COMM_WORLD_RANK", "OMPI_COMM_WORLD_SIZE"];
    let Some(mut started) = both(variables, "Open MPI", names)? else { return Ok(None) };
    let here = variables.number::<u32>("OMPI_COMM_WORLD_LOCAL_SIZE")?;
    if here.as_ref().is_some_and(|here| Some(here.value) == started.world_size.as_ref().map(|size| size.value)) {
        started.all_here("OMPI_COMM_WORLD_LOCAL_SIZE");
    }
    // A rank that is bound to cores sees no others.
    let is_bound = variables.text("OMPI_MCA_orte_bound_at_launch") == Some("1");
    started.share = here.filter(|_| !is_bound);
    // 128 random bits of this start, by which its ranks may know each other on the networks that ask for that.
    let secret = "OMPI_MCA_orte_precondition_transports";
    started.token = variables.text(secret).filter(|text| text.len() >= SECRET).map(token_of);
    started.token_help =
        "set MDT_JOB_TOKEN, made with `openssl rand -hex 32`, and start with `mpirun -x MDT_JOB_TOKEN`";
    Ok(Some(name(started, variables, ["PMIX_NAMESPACE", "OMPI_MCA_ess_base_jobid"])))
}

pub(super) fn pmix(variables: &Variables) -> Result<Option<Started>, Failure> {
    let Some(rank) = variables.number("PMIX_RANK")? else { return Ok(None) };
    let started = Started::new("PMIx", rank, None)?;
    Ok(Some(name(started, variables, ["PMIX_NAMESPACE"])))
}

pub(super) fn pmi(variables: &Variables) -> Result<Option<Started>, Failure> {
    let Some(mut started) = both(variables, "PMI", ["PMI_RANK", "PMI_SIZE"])? else { return Ok(None) };
    let here = variables.number::<u32>("MPI_LOCALNRANKS")?;
    if here.as_ref().is_some_and(|here| Some(here.value) == started.world_size.as_ref().map(|size| size.value)) {
        started.all_here("MPI_LOCALNRANKS");
    }
    started.share = here;
    Ok(Some(name(started, variables, ["PMI_JOBID"])))
}

/// A rank and the number of ranks, of which neither is without the other.
fn both(variables: &Variables, launcher: &'static str, names: [&str; 2]) -> Result<Option<Started>, Failure> {
    let [rank, size] = names;
    match (variables.number(rank)?, variables.number(size)?) {
        (None, None) => Ok(None),
        (Some(value), None) => Started::new(launcher, value, Some(variables.needed(size, rank)?)).map(Some),
        (None, Some(_)) => variables.needed::<u32>(rank, size).map(|_| None),
        (Some(rank), size) => Started::new(launcher, rank, size).map(Some),
    }
}

fn name<const N: usize>(started: Started, variables: &Variables, names: [&str; N]) -> Started {
    match names.into_iter().find_map(|name| variables.told(name)) {
        Some(job) => started.named(format!("mpi-{}", job.value), &job.by),
        None => started,
    }
}
