//! `mdt-host config`: show, check and describe the configuration.

use clap::Subcommand;
use mdt_plugin_api::Kind;

use super::common::Common;
use super::output::print;
use crate::config;
use crate::exit::Failure;
use crate::progress;

#[derive(Subcommand)]
pub(super) enum Command {
    /// Print every value and the layer that it came from.
    Show {
        /// Print JSON.
        #[arg(long)]
        json: bool,
    },
    /// Check the configuration and its plugins without running any of their code, and read nothing else.
    Check,
    /// Print a JSON Schema of configuration files, with the keys of all plugins.
    Schema,
}

pub(super) fn run(common: &Common, command: &Command) -> Result<(), Failure> {
    let layers = common.layers_of_rank()?;
    let catalog = common.catalog(&layers)?;
    match command {
        Command::Show { json } => {
            let resolved = layers.resolve(&catalog)?;
            if *json {
                print(format_args!("{:#}", resolved.show_json()))?;
            } else {
                print(resolved.show().trim_end())?;
            }
        }
        Command::Check => {
            let resolved = layers.resolve(&catalog)?;
            resolved.require_job()?;
            resolved.require_model()?;
            for (kind, chosen) in resolved.components() {
                catalog.check(*kind, &chosen.id)?;
            }
            for observer in &resolved.settings.observers {
                catalog.check(Kind::Observer, &observer.id)?;
            }
            for dropped in &resolved.dropped {
                print(dropped)?;
            }
            print(format_args!("the configuration is complete: {} values", resolved.entries.len()))?;
        }
        Command::Schema => {
            let (schema, left_out) = config::schema(&catalog);
            for failure in left_out {
                progress::note(&format!("warning: left out: {}", failure.to_string().trim_start_matches("error: ")));
            }
            print(format_args!("{schema:#}"))?;
        }
    }
    Ok(())
}
