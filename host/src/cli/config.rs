//! `mdt-host config`: the configuration, shown, checked, described.

use clap::Subcommand;

use super::Common;
use crate::config;
use crate::exit::Failure;

#[derive(Subcommand)]
pub(super) enum Command {
    /// Prints every value with the layer that it came from.
    Show {
        /// Prints JSON.
        #[arg(long)]
        json: bool,
    },
    /// Checks the configuration and its plugins, and reads nothing else.
    Check,
    /// Prints a JSON Schema of configuration files, with the keys of all plugins.
    Schema,
}

pub(super) fn run(common: &Common, command: &Command) -> Result<(), Failure> {
    let layers = common.layers(Vec::new())?;
    let catalog = common.catalog(&layers)?;
    match command {
        Command::Show { json } => {
            let resolved = layers.resolve(&catalog)?;
            if *json {
                println!("{:#}", resolved.show_json());
            } else {
                print!("{}", resolved.show());
            }
        }
        Command::Check => {
            let resolved = layers.resolve(&catalog)?;
            resolved.require_job()?;
            for dropped in &resolved.dropped {
                println!("{dropped}");
            }
            println!("the configuration is complete: {} values", resolved.entries().len());
        }
        Command::Schema => println!("{:#}", config::schema(&catalog)?),
    }
    Ok(())
}
