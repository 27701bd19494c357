//! `mdt-host fuse`: merges an adapter into its model.

use std::path::PathBuf;
use std::sync::Arc;

use clap::Args;

use super::common::{Common, on_compute_thread};
use super::model_options::ModelOptions;
use super::output::print;
use crate::exit::Failure;
use crate::fuse::{self, Fused};
use crate::{progress, signals};

#[derive(Args)]
pub(super) struct Arguments {
    #[command(flatten)]
    model: ModelOptions,
    /// The directory that the merged model is written to. It must not exist yet.
    #[arg(long, value_name = "DIR")]
    out: PathBuf,
}

pub(super) fn run(common: &Common, arguments: &Arguments) -> Result<(), Failure> {
    let cancelled = signals::cancellation()?;
    let job = common.job(arguments.model.flags(), Arc::clone(&cancelled))?;
    let Fused { layers, untied, difference, largest, tokens } =
        on_compute_thread(&job, || fuse::fuse(&job, &arguments.out))?;
    for name in untied {
        progress::note(&fuse::untied_note(&name));
    }
    print(format_args!(
        "merged the adapters of {layers} layers into {}; on {tokens} tokens no logit differs by more than {difference:.1e} \
         from the model with its adapter, and the largest logit is {largest:.3}",
        arguments.out.display()
    ))?;
    if difference > fuse::WARN_ABOVE * largest {
        progress::note(&format!(
            "warning: the merged model is not quite the model with its adapter: their logits differ by {difference:.1e}. Where \
             its files have half precision, `--set checkpoint.export_dtype=float32` writes what was merged as it is"
        ));
    }
    Ok(())
}
