//! Slurm: the tasks of `srun`. Login shells of an allocation and batch scripts are no tasks.

use super::{Started, Told, Variables};
use crate::exit::Failure;

/// Numbers of steps from which on they are no steps of `srun`: interactive shells, batch scripts, other programs.
const NO_STEP: u64 = 0xffff_fff0;

pub(super) fn task(variables: &Variables) -> Result<Option<Started>, Failure> {
    if !is_task(variables) {
        return Ok(None);
    }
    let Some(rank) = variables.number("SLURM_PROCID")? else { return Ok(None) };
    let tasks = variables.number("SLURM_STEP_NUM_TASKS")?;
    let tasks = tasks.map_or_else(|| variables.needed::<u32>("SLURM_NTASKS", "SLURM_PROCID"), Ok)?;
    let mut started = Started::new("Slurm", rank, Some(tasks))?;
    let nodes = variables.number::<u32>("SLURM_STEP_NUM_NODES")?.or(variables.number("SLURM_NNODES")?);
    if let Some(one) = nodes.as_ref().filter(|nodes| nodes.value == 1) {
        started.all_here(&*one.by);
        started.share = started.world_size.as_ref().map(|size| Told::new(size.value, &*size.by));
    } else {
        // Tasks are counted from the first node on.
        let list = variables.told("SLURM_STEP_NODELIST").or_else(|| variables.told("SLURM_NODELIST"));
        started.address = list.and_then(|list| Some(Told::new(first_node(&list.value)?, list.by)));
        let here = variables.told("SLURM_STEP_TASKS_PER_NODE").or_else(|| variables.told("SLURM_TASKS_PER_NODE"));
        let node = variables.number::<usize>("SLURM_NODEID")?.map_or(0, |node| node.value);
        started.share = here.and_then(|here| Some(Told::new(tasks_of_node(&here.value, node)?, here.by)));
    }
    if variables.text("SLURM_CPU_BIND_TYPE").is_some_and(|text| text.starts_with("mask") || text.starts_with("map")) {
        started.share = None; // a task that is bound to cores sees no others
    }
    started.cores = variables.number("SLURM_CPUS_PER_TASK")?;
    started.token_help = "put `export MDT_JOB_TOKEN=$(openssl rand -hex 32)` before `srun` in the job script, or name a \
                          file that every node can read with `comm.token_file`";
    let Some(job) = variables.text("SLURM_JOB_ID") else { return Ok(Some(started)) };
    let step = variables.text("SLURM_STEP_ID").unwrap_or("0");
    let restart = variables.text("SLURM_RESTART_COUNT").map_or_else(String::new, |count| format!("-{count}"));
    Ok(Some(started.named(format!("slurm-{job}.{step}{restart}"), "SLURM_JOB_ID")))
}

/// A process of an allocation of several tasks that is none of them.
pub(super) fn no_task(variables: &Variables) -> Option<String> {
    let tasks: u32 = variables.text("SLURM_NTASKS")?.parse().ok().filter(|tasks| *tasks > 1)?;
    (!is_task(variables)).then(|| {
        format!("Slurm has allocated {tasks} tasks, and this process is none of them: `srun mdt-host ...` starts a rank in each")
    })
}

/// Whether `srun` has started this process as a task of a step: a batch script has the number 0 too, and no step.
fn is_task(variables: &Variables) -> bool {
    let step = variables.text("SLURM_STEP_ID").and_then(|step| step.parse::<u64>().ok());
    variables.text("SLURM_PROCID").is_some() && step.is_some_and(|step| step < NO_STEP)
}

/// The first name of a list such as `gpu-[01-03,07]-ib,login[1-2]`.
fn first_node(list: &str) -> Option<String> {
    let mut name = String::new();
    let mut rest = list.chars();
    while let Some(letter) = rest.next().filter(|letter| *letter != ',') {
        if letter == '[' {
            let range: String = rest.by_ref().take_while(|letter| *letter != ']').collect();
            name += range.split([',', '-']).next()?;
        } else {
            name.push(letter);
        }
    }
    (!name.is_empty()).then_some(name)
}

/// The number of tasks of a node in a list such as `2(x3),1`.
fn tasks_of_node(list: &str, node: usize) -> Option<u32> {
    let counts = list.split(',').map(|part| match part.split_once("(x") {
        Some((tasks, times)) => (tasks, times.trim_end_matches(')').parse().unwrap_or(1)),
        None => (part, 1),
    });
    counts.flat_map(|(tasks, times)| std::iter::repeat_n(tasks, times)).nth(node)?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_name_of_a_list_of_nodes() {
        for (list, first) in [
            ("node1", "node1"),
            ("node1,node2", "node1"),
            ("n[07,09-12]", "n07"),
            ("gpu-a[1-2]-ib,other", "gpu-a1-ib"),
            ("r[1-2]n[03-04]", "r1n03"),
        ] {
            assert_eq!(first_node(list).as_deref(), Some(first), "{list}");
        }
        assert_eq!(first_node(""), None);
    }

    #[test]
    fn tasks_per_node_are_repeated_as_the_list_says() {
        let tasks = |node| tasks_of_node("4(x2),1,3(x2)", node);
        assert_eq!((0..6).map(tasks).collect::<Vec<_>>(), [Some(4), Some(4), Some(1), Some(3), Some(3), None]);
    }
}
