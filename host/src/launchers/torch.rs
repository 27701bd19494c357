//! torchrun and what sets the same variables, and Kubeflow, which sets torchrun's options as variables.

use super::variables::wrong;
use super::{Started, Told, Variables};
use crate::exit::Failure;

pub(super) fn torchrun(variables: &Variables) -> Result<Option<Started>, Failure> {
    let world_size = variables.number::<u32>("WORLD_SIZE")?;
    let Some(rank) = variables.number("RANK")? else {
        return match world_size {
            Some(_) => variables.needed::<u32>("RANK", "WORLD_SIZE").map(|_| None),
            None => Ok(None),
        };
    };
    let world_size = world_size.map_or_else(|| variables.needed("WORLD_SIZE", "RANK"), Ok)?;
    let mut started = Started::new("torchrun", rank, Some(world_size))?;
    started.address = variables.told("MASTER_ADDR");
    started.port = variables.number("MASTER_PORT")?;
    // There the agent of torchrun listens itself.
    if variables.text("TORCHELASTIC_USE_AGENT_STORE").is_some_and(|text| text.eq_ignore_ascii_case("true"))
        && let Some(port) = &mut started.port
    {
        *port = Told::new(port.value.wrapping_add(1).max(1), "MASTER_PORT + 1");
    }
    let local = variables.number::<u32>("LOCAL_WORLD_SIZE")?;
    if local.as_ref().is_some_and(|local| Some(local.value) == started.world_size.as_ref().map(|size| size.value)) {
        started.all_here("LOCAL_WORLD_SIZE");
    }
    started.share = local;
    if let Some(run) = variables.text("TORCHELASTIC_RUN_ID") {
        let restart = variables.text("TORCHELASTIC_RESTART_COUNT").unwrap_or("0");
        let place = variables.text("MASTER_PORT").unwrap_or_default();
        started = started.named(format!("torchrun-{run}-{place}.{restart}"), "TORCHELASTIC_RUN_ID");
    }
    Ok(Some(started))
}

/// One process per node, which has all its cores.
pub(super) fn kubeflow(variables: &Variables) -> Result<Option<Started>, Failure> {
    let Some(rank) = variables.number::<u32>("PET_NODE_RANK")? else {
        return match variables.text("PET_NNODES") {
            Some(_) => variables.needed::<u32>("PET_NODE_RANK", "PET_NNODES").map(|_| None),
            None => Ok(None),
        };
    };
    if variables.text("PET_NNODES").is_some_and(|nodes| nodes.contains(':')) {
        return Err(wrong("PET_NNODES", "is a range, and the number of ranks of a job does not change"));
    }
    let nodes = variables.needed("PET_NNODES", "PET_NODE_RANK")?;
    if let Some(processes) = variables.text("PET_NPROC_PER_NODE").filter(|text| text.parse() != Ok(1u32))
        && processes.parse::<u32>().is_ok()
    {
        let what = format!("is {processes}, and this is one process per node, which uses all its cores");
        return Err(
            wrong("PET_NPROC_PER_NODE", &what).help("set `numProcPerNode: 1`, or start the ranks with torchrun")
        );
    }
    let mut started = Started::new("Kubeflow", rank, Some(nodes))?;
    started.address = variables.told("PET_MASTER_ADDR");
    started.port = variables.number("PET_MASTER_PORT")?;
    started.token_help = super::kubernetes::TOKEN_HELP;
    Ok(Some(started))
}
