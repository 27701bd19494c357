//! Check `version`.

use mdt_plugin_api::Kind;
use mdt_plugin_api::abi::ABI_VERSION;
use serde_json::json;

use super::{Check, Finding, Subject};

pub(super) const CHECK: Check =
    Check { name: "version", description: "The versions of the program and of the plugin boundary.", run };

fn run(_: &Subject) -> Vec<Finding> {
    let (program, system, processor) = (env!("CARGO_PKG_VERSION"), std::env::consts::OS, std::env::consts::ARCH);
    let message = format!("mdt-host {program}, plugin boundary {ABI_VERSION}, {system} {processor}");
    let kinds: Vec<_> = Kind::ALL.iter().map(|kind| format!("{kind}/{}", kind.version())).collect();
    vec![
        Finding::ok(message)
            .fact("version", program)
            .fact("abi", ABI_VERSION)
            .fact("kinds", json!(kinds))
            .fact("system", system)
            .fact("processor", processor),
    ]
}
