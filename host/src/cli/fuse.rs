//! `mdt-host fuse`: merges an adapter into its model.

use std::path::PathBuf;
use std::sync::Arc;

use clap::Args;
use serde_json::json;

use super::common::{Common, adapter_flags, on_compute_thread};
use super::output::print;
use crate::config::Flag;
use crate::exit::Failure;
use crate::fuse::{self, Fused};
use crate::{progress, signals};

#[derive(Args)]
pub(super) struct Arguments {
    /// The model's directory; the default is the configured model.
    #[arg(long, value_name = "DIR")]
    model: Option<PathBuf>,
    /// The adapter's directory, as a run, peft or mlx-lm wrote it.
    #[arg(long, value_name = "DIR")]
    adapter: PathBuf,
    /// The directory that the merged model is written to. It must not exist yet.
    #[arg(long, value_name = "DIR")]
    out: PathBuf,
}

pub(super) fn run(common: &Common, arguments: &Arguments) -> Result<(), Failure> {
    let mut flags = adapter_flags(&arguments.adapter);
    if let Some(model) = &arguments.model {
        let flag = |key: &str, value| Flag { name: "--model".to_owned(), key: key.to_owned(), value };
        flags.extend([flag("model.path", json!(model)), flag("model.init", json!("pretrained"))]);
    }
    let cancelled = signals::cancellation()?;
    let job = common.job(flags, Arc::clone(&cancelled))?;
    let Fused { layers, untied, difference, largest, tokens } =
        on_compute_thread(&job, || fuse::fuse(&job, &arguments.out))?;
    for name in untied {
        progress::note(&format!("note: `{name}` was tied to another weight, and has values of its own now"));
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
