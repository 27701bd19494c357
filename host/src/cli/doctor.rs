//! `mdt-host doctor`: check that this machine is ready for a job.

use clap::Args;
use serde_json::json;

use super::common::Common;
use super::output::print;
use crate::counted::counted;
use crate::doctor::{CHECKS, Examined, Subject, Summary};
use crate::exit::Failure;

#[derive(Args)]
pub(super) struct Arguments {
    /// Print JSON: `checks`, each with `name`, `description` and `findings` (`status`, `message`, `error`, `help`,
    /// `facts`), and a `summary`.
    #[arg(long)]
    json: bool,
}

pub(super) fn run(common: &Common, arguments: &Arguments) -> Result<(), Failure> {
    let subject = Subject::new(common.layers(Vec::new()), &common.plugin_dir, common.trust_plugin_dirs);
    let width = CHECKS.iter().map(|check| check.name.len()).max().unwrap_or_default();
    let mut examined = Vec::new();
    for check in &CHECKS {
        let found = check.examine(&subject);
        // At once: a later check may take a while, or a plugin may crash the process.
        if !arguments.json {
            show(&found, width)?;
        }
        examined.push(found);
    }
    let summary = Summary::of(&examined);
    let Summary { ok, warnings, failed, skipped, exit_status } = summary;
    if arguments.json {
        print(format_args!("{:#}", json!({ "checks": examined, "summary": summary })))?;
    } else {
        print(format_args!("\n{ok} ok, {warnings} warnings, {failed} failed, {skipped} skipped"))?;
    }
    if exit_status == 0 {
        return Ok(());
    }
    Err(Failure::new(summary.status(), format!("{} failed", counted(failed, "check"))))
}

fn show(examined: &Examined, width: usize) -> Result<(), Failure> {
    for finding in &examined.findings {
        let status = format!("{:?}", finding.status).to_lowercase();
        let begin = format!("{status:<7}  {:<width$}  ", examined.name);
        let indented = finding.text().replace('\n', &format!("\n{}", " ".repeat(begin.len())));
        print(format_args!("{begin}{indented}"))?;
    }
    Ok(())
}
