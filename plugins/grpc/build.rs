//! Compiles the wire contract in `proto/`, without `protoc`, and names the sources of the plugin in its file.

use std::error::Error;

const ROOT: &str = "../../proto";
const CONTRACT: &str = "mdt/collectives/v1/collectives.proto";

fn main() -> Result<(), Box<dyn Error>> {
    mdt_plugin_sources::declare(&[ROOT])?;
    let descriptors = protox::compile([CONTRACT], [ROOT])?;
    let mut config = prost_build::Config::new();
    // Payloads are views into what was received, not copies of it.
    config.bytes(["."]);
    tonic_prost_build::configure().compile_fds_with_config(descriptors, config)?;
    Ok(())
}
