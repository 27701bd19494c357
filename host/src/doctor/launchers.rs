//! Check `launchers`.

use std::env;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use serde_json::{Map, Value, json};

use super::{Check, Finding, Subject};
use crate::launchers::{self, Variables};

pub(super) const CHECK: Check = Check {
    name: "launchers",
    description: "Programs that start ranks on several machines, and the variables that such programs set.",
    runs_plugins: false,
    run,
};

const PROGRAMS: [&str; 4] = ["mpirun", "mlx.launch", "srun", "ssh"];
/// Variables by which launchers tell a process its rank.
const NAMES: [&str; 6] = ["RANK", "WORLD_SIZE", "LOCAL_RANK", "MASTER_ADDR", "MASTER_PORT", "JOB_COMPLETION_INDEX"];
const PREFIXES: [&str; 6] = ["OMPI_COMM_WORLD_", "PMI_", "PMIX_", "SLURM_", "MLX_", "PET_"];

fn run(subject: &Subject) -> Vec<Finding> {
    let paths = env::var_os("PATH").unwrap_or_default();
    let directories: Vec<_> = env::split_paths(&paths).collect();
    let found = |name: &str| directories.iter().map(|place| place.join(name)).find(|path| is_program(path));
    let programs: Vec<(&str, Option<PathBuf>)> = PROGRAMS.iter().map(|&name| (name, found(name))).collect();
    let names = |present: bool| {
        let chosen = programs.iter().filter(|(_, path)| path.is_some() == present).map(|(name, _)| *name);
        chosen.collect::<Vec<_>>().join(", ")
    };
    let message = match (names(true), names(false)) {
        (present, absent) if absent.is_empty() => present,
        (present, absent) if present.is_empty() => format!("not on PATH: {absent}"),
        (present, absent) => format!("{present}; not on PATH: {absent}"),
    };
    let path = |(name, path): &(&str, Option<PathBuf>)| (String::from(*name), json!(path));
    let facts: Map<_, _> = programs.iter().map(path).collect();
    vec![Finding::ok(message).fact("programs", Value::Object(facts)), variables(), this_process(subject)]
}

/// Which rank a launcher has made this process.
fn this_process(subject: &Subject) -> Finding {
    let variables = Variables::of_this_process();
    let started = match subject.started() {
        Some(started) => Ok(Some(started)),
        // The configuration says which rank this is, or cannot be read.
        None => launchers::detect(&variables),
    };
    match started {
        Ok(Some(started)) => {
            let world_size = started.world_size.as_ref().map(|size| size.value);
            let finding = Finding::ok(format!("this process was started by {started}"));
            finding
                .fact("launcher", started.launcher)
                .fact("rank", started.rank.value)
                .fact("world_size", json!(world_size))
        }
        Ok(None) => Finding::ok(
            launchers::no_rank(&variables).unwrap_or_else(|| "this process was not started by a launcher".to_owned()),
        ),
        Err(failure) => Finding::failed(&failure),
    }
}

fn is_program(path: &Path) -> bool {
    path.metadata().is_ok_and(|metadata| metadata.is_file() && metadata.permissions().mode() & 0o111 != 0)
}

fn variables() -> Finding {
    let is_launchers = |name: &str| NAMES.contains(&name) || PREFIXES.iter().any(|prefix| name.starts_with(prefix));
    let all = env::vars_os().map(|(name, value)| (name.to_string_lossy().into_owned(), value));
    // Numbers are shown; other values may be secrets of the launcher.
    let shown = |name: String, value: std::ffi::OsString| match value.to_str().map(str::parse::<u32>) {
        Some(Ok(number)) => format!("{name}={number}"),
        _ => name,
    };
    let mut set: Vec<String> =
        all.filter(|(name, _)| is_launchers(name)).map(|(name, value)| shown(name, value)).collect();
    set.sort();
    let message = match set.as_slice() {
        [] => "no variables of a launcher are set".to_owned(),
        set => format!("variables of a launcher are set: {}", set.join(", ")),
    };
    Finding::ok(message).fact("variables", json!(set))
}
