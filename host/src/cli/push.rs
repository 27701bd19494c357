//! `mdt-host push`: uploads a model to the Hugging Face Hub.

use std::path::PathBuf;
use std::sync::atomic::Ordering;

use clap::Args;

use super::output::print;
use crate::exit::{Failure, Status};
use crate::hub::{self, Environment, Kind, Repository};
use crate::signals;

#[derive(Args)]
pub(super) struct Arguments {
    /// The directory to upload, such as one that `export` or `fuse` wrote, or the `final/` of a run. Hidden files stay here.
    #[arg(long, value_name = "DIR")]
    model: PathBuf,
    /// The repository, which is made where there is none.
    #[arg(long, value_name = "ORG/NAME")]
    to: String,
    /// The branch to upload to.
    #[arg(long, value_name = "BRANCH")]
    revision: Option<String>,
    /// Make a new repository private.
    #[arg(long)]
    private: bool,
    /// What the commit says.
    #[arg(long, value_name = "TEXT", default_value = "Upload with mdt-host")]
    message: String,
}

pub(super) fn run(arguments: &Arguments) -> Result<(), Failure> {
    let Arguments { model, to, revision, private, message } = arguments;
    let is_model = ["config.json", "adapter_config.json"].iter().any(|name| model.join(name).is_file());
    if !is_model {
        return Err(Failure::new(Status::Input, "this is neither a model nor an adapter")
            .at(model.display())
            .help("write one with `mdt-host export` or `mdt-host fuse`, or name the `final/` of a run"));
    }
    let cancelled = signals::cancellation()?;
    let repository = Repository::new(Environment::of_this_process(), Kind::Model, to, revision.as_deref())?;
    let commit = hub::push(&repository, model, *private, message, &|| cancelled.load(Ordering::Relaxed))?;
    print(format_args!("uploaded {} to {commit}", model.display()))
}
