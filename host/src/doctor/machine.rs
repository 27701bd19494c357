//! Checks `version`, `machine` and `environment`.

use mdt_plugin_api::Kind;
use mdt_plugin_api::abi::ABI_VERSION;
use serde_json::json;

use super::{Check, Finding, Subject};
use crate::counted::counted;
use crate::memory::{Memory, gibibytes, memory};

pub(super) const VERSION: Check = Check {
    name: "version",
    description: "The versions of the program and of the plugin boundary.",
    runs_plugins: false,
    run: version,
};

pub(super) const MACHINE: Check =
    Check { name: "machine", description: "Cores and memory.", runs_plugins: false, run: cores_and_memory };

pub(super) const ENVIRONMENT: Check = Check {
    name: "environment",
    description: "The environment variables that the program reads; they begin with MDT_.",
    runs_plugins: false,
    run: environment,
};

fn version(_: &Subject) -> Vec<Finding> {
    let (program, system, processor) = (env!("CARGO_PKG_VERSION"), std::env::consts::OS, std::env::consts::ARCH);
    let message = format!("mdt-host {program}, plugin boundary {ABI_VERSION}, {system} {processor}");
    let interfaces = Kind::ALL.map(Kind::interfaces).concat();
    vec![
        Finding::ok(message)
            .fact("version", program)
            .fact("abi", ABI_VERSION)
            .fact("interfaces", json!(interfaces))
            .fact("system", system)
            .fact("processor", processor),
    ]
}

fn cores_and_memory(_: &Subject) -> Vec<Finding> {
    let cores = std::thread::available_parallelism().map_or(1, |cores| cores.get());
    let finding = Finding::ok(counted(cores, "core")).fact("cores", cores);
    let Some(Memory { total, available }) = memory() else { return vec![finding] };
    let memory = format!("{} of memory, {} available", gibibytes(total), gibibytes(available));
    let finding = Finding { message: format!("{}, {memory}", finding.message), ..finding };
    vec![finding.fact("memory_bytes", total).fact("memory_available_bytes", available)]
}

/// Names without values: reports are sent to others, and a value may be a secret.
fn environment(_: &Subject) -> Vec<Finding> {
    let names = std::env::vars_os().map(|(name, _)| name.to_string_lossy().into_owned());
    let mut names: Vec<String> = names.filter(|name| name.starts_with("MDT_")).collect();
    names.sort();
    let message = match names.as_slice() {
        [] => "no environment variable begins with MDT_".to_owned(),
        names => format!("set: {}; `mdt-host config show` shows the values", names.join(", ")),
    };
    vec![Finding::ok(message).fact("variables", json!(names))]
}
