//! Compiles the wire contracts in `proto/`, without `protoc`, and names the sources of the plugin in its file.

use std::error::Error;

use prost::Message;

const ROOT: &str = "../../proto";
/// What ranks say to each other.
const COLLECTIVES: &str = "mdt/collectives/v1/collectives.proto";
/// What generic clients ask for.
const STATUS: &str = "mdt/job/v1/status.proto";

fn main() -> Result<(), Box<dyn Error>> {
    mdt_plugin_sources::declare(&[ROOT])?;
    for contract in [COLLECTIVES, STATUS] {
        let mut config = prost_build::Config::new();
        // Payloads are views into what was received, not copies of it.
        config.bytes(["."]);
        tonic_prost_build::configure().compile_fds_with_config(protox::compile([contract], [ROOT])?, config)?;
    }
    // For reflection.
    let described = protox::compile([STATUS], [ROOT])?;
    std::fs::write(format!("{}/status.bin", std::env::var("OUT_DIR")?), described.encode_to_vec())?;
    Ok(())
}
