//! The `mdt-host` command.

use std::process::ExitCode;

fn main() -> ExitCode {
    mdt_host::cli::main()
}
