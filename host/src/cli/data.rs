//! `mdt-host data`: shows how rows are rendered, tokenized and masked.

use std::io;
use std::sync::Arc;

use anstream::AutoStream;
use clap::{Args, ColorChoice, Subcommand, ValueEnum};
use serde_json::json;

use super::child;
use super::common::{Common, on_compute_thread};
use super::output::{print, print_painted};
use crate::exit::{Failure, Status};
use crate::job::Job;
use crate::preview::{Paint, Part, Preview, Row};
use crate::{progress, unexpected_end};

#[derive(Subcommand)]
pub(super) enum Command {
    /// Show how rows are rendered, tokenized and masked, and the totals of all rows.
    ///
    /// Reads and encodes every row as training does, and loads no weights. With --json each line is one object: one for
    /// each row that is shown (`source`, `row`, `text`, `tokens`, `supervised`, `pieces`, `supervised_tokens`,
    /// `truncated`, `part` of a row that has several sequences, `packed_row` where rows are packed, and `notes` where training and generation differ), then one line `{"totals": {…}}`.
    Preview(Arguments),
}

#[derive(Args)]
pub(super) struct Arguments {
    /// Number of rows to show, from the first on; 0 shows the totals only.
    #[arg(long, value_name = "N", default_value_t = 3)]
    rows: usize,
    /// Show the row of this number (in JSON Lines, the line) instead, even if nothing in it is trained.
    #[arg(long, value_name = "K", conflicts_with = "rows")]
    row: Option<u64>,
    /// Which rows to show: the training rows or the held-out rows.
    #[arg(long, value_name = "PART", default_value = "train")]
    split: Split,
    /// Print JSON lines.
    #[arg(long)]
    json: bool,
    /// Run the job's plugins in this process, which is the child of another.
    #[arg(long, hide = true)]
    in_child: bool,
    /// Show trained text in colour or in brackets; `auto` uses colour on a terminal, unless NO_COLOR is set.
    #[arg(long, value_name = "WHEN", default_value = "auto")]
    color: ColorChoice,
}

#[derive(Clone, Copy, ValueEnum)]
enum Split {
    Train,
    Eval,
}

pub(super) fn run(common: &Common, command: &Command) -> Result<(), Failure> {
    let Command::Preview(arguments) = command;
    if !arguments.in_child {
        return in_child();
    }
    child::end_with_the_parent();
    let job = common.job(Vec::new(), Arc::default())?;
    job.resolved.dropped.iter().for_each(|dropped| progress::note(&dropped.to_string()));
    // No device is made; the thread brings the job's number of threads for encoding.
    on_compute_thread(&job, || preview(&job, arguments))
}

/// Runs the job's plugins in a child process, and ends as that did.
fn in_child() -> Result<(), Failure> {
    let status = child::run(&["--in-child"])?;
    match status.code() {
        Some(0) => return Ok(()),
        // It has printed why.
        Some(code) => unexpected_end::exit(Status::of_code(code)),
        None if unexpected_end::is_reported(status) => unexpected_end::exit(Status::Plugin),
        None => {}
    }
    Err(Failure::new(Status::Plugin, "the process that ran the plugins of this job has ended")
        .because(child::end(status)))
}

fn preview(job: &Job, arguments: &Arguments) -> Result<(), Failure> {
    let part = match arguments.split {
        Split::Train => Part::Train,
        Split::Eval => Part::Eval,
    };
    let preview = Preview::open(job, part)?;
    let is_coloured = match arguments.color {
        ColorChoice::Auto => AutoStream::choice(&io::stdout()) != anstream::ColorChoice::Never,
        ColorChoice::Always => true,
        ColorChoice::Never => false,
    };
    let paint = if is_coloured { Paint::Colour } else { Paint::Marks };
    let show = |row: &Row| match arguments.json {
        true => print(json!(row)),
        false => print_painted(paint.row(row)),
    };
    let legend = arguments.row.is_some() || arguments.rows > 0;
    if legend && !arguments.json {
        print_painted(format_args!("{}\n", paint.legend()))?;
    }
    // Before all others are read: why a row is dropped or refused may be what the user wants to see.
    if let Some(number) = arguments.row {
        preview.find(number)?.iter().try_for_each(show)?;
    }
    let (dataset, whole) = preview.read()?;
    if arguments.row.is_none() {
        for row in 0..arguments.rows.min(dataset.rows().len()) {
            preview.row(&dataset, row)?.iter().try_for_each(show)?;
        }
    }
    let mut totals = preview.totals(&dataset);
    if !whole {
        (totals.updates_per_epoch, totals.updates) = (None, None);
        let rows = dataset.rows_read();
        progress::note(&format!("the rows are read while training goes on: these are totals of the first {rows}"));
    }
    if arguments.json { print(json!({ "totals": totals })) } else { print(totals) }
}
