//! `mdt-host export`: writes a model for other programs.

use std::path::PathBuf;
use std::sync::Arc;

use clap::{Args, ValueEnum};
use serde_json::json;

use super::common::{Common, on_compute_thread};
use super::model_options::ModelOptions;
use super::output::print;
use crate::config::{Flag, Quantize};
use crate::exit::Failure;
use crate::fuse::{self, Form};
use crate::model::Packing;
use crate::{progress, signals};

#[derive(Args)]
pub(super) struct Arguments {
    #[command(flatten)]
    model: ModelOptions,
    /// The programs that it is for. An adapter is merged into its model; what is quantised is made whole for transformers.
    #[arg(long, value_enum)]
    to: To,
    /// The directory that is written. It must not exist yet.
    #[arg(long, value_name = "DIR")]
    out: PathBuf,
    /// The type of the numbers: that of the model's own files, or another one.
    #[arg(long, value_enum, default_value_t = Type::Source)]
    dtype: Type,
    /// Quantise the layers, for mlx: bits of a number, and how many share a scale.
    #[arg(long, value_name = "BITS,GROUP_SIZE", value_parser = packing)]
    quantize: Option<Packing>,
}

#[derive(Clone, Copy, PartialEq, ValueEnum)]
enum To {
    /// transformers and what reads its directories, such as vLLM; mlx-lm reads them, too.
    Transformers,
    /// mlx-lm.
    Mlx,
}

#[derive(Clone, Copy, ValueEnum)]
enum Type {
    /// That of the model's own files.
    Source,
    Float32,
    Bfloat16,
    Float16,
}

/// `4,64`, or `4` with groups of 64.
fn packing(text: &str) -> Result<Packing, String> {
    let (bits, group_size) = text.split_once(',').unwrap_or((text, "64"));
    let number = |text: &str| text.trim().parse::<u8>().map_err(|_| format!("{text:?} is no small number"));
    let quantize = Quantize { bits: number(bits)?, group_size: number(group_size)? };
    quantize.packing().map_err(|failure| failure.help_text().unwrap_or_default().to_owned())
}

pub(super) fn run(common: &Common, arguments: &Arguments) -> Result<(), Failure> {
    let Arguments { model, to, out, dtype, quantize } = arguments;
    if *to == To::Transformers && quantize.is_some() {
        return Err(Failure::configuration("transformers does not read what MLX quantises")
            .help("quantise with `--to mlx`, or leave --quantize out"));
    }
    let dtype = match dtype {
        Type::Source => "auto",
        Type::Float32 => "float32",
        Type::Bfloat16 => "bfloat16",
        Type::Float16 => "float16",
    };
    let mut flags = model.flags();
    let (name, key) = ("--dtype".to_owned(), "checkpoint.export_dtype".to_owned());
    flags.push(Flag { name, key, value: json!(dtype) });
    let cancelled = signals::cancellation()?;
    let job = common.job(flags, Arc::clone(&cancelled))?;
    let form = match to {
        To::Transformers => Form::Transformers,
        To::Mlx => Form::Mlx { quantize: *quantize },
    };
    let untied = on_compute_thread(&job, || fuse::export(&job, out, form))?;
    untied.iter().for_each(|name| progress::note(&fuse::untied_note(name)));
    print(format_args!("wrote {}", out.display()))
}
