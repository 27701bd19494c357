//! `mdt-host doctor`: check that this machine is ready for a job.

use clap::Args;
use serde_json::json;

use super::child;
use super::common::Common;
use super::output::print;
use crate::counted::counted;
use crate::doctor::{CHECKS, Check, Examined, Finding, Subject, Summary};
use crate::exit::{Failure, Status};
use crate::watchdog;

#[derive(Args)]
pub(super) struct Arguments {
    /// Print JSON: `checks`, each with `name`, `description` and `findings` (`status`, `message`, `error`, `help`,
    /// `facts`), and a `summary`.
    #[arg(long)]
    json: bool,
    /// Make this check alone, in this process, which is the child of another.
    #[arg(long, hide = true, value_name = "NAME")]
    check: Option<String>,
}

pub(super) fn run(common: &Common, arguments: &Arguments) -> Result<(), Failure> {
    let subject = Subject::new(common.layers_of_rank(), &common.plugin_dir, common.trust_plugin_dirs);
    if let Some(name) = &arguments.check {
        child::end_with_the_parent();
        return examine_here(name, &subject);
    }
    let width = CHECKS.iter().map(|check| check.name.len()).max().unwrap_or_default();
    let mut examined = Vec::new();
    for check in &CHECKS {
        let found = if check.runs_plugins { in_child(check, &subject) } else { check.examine(&subject) };
        // At once: a later check may take a while.
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

/// Makes a check in this process, and prints its findings for the parent.
fn examine_here(name: &str, subject: &Subject) -> Result<(), Failure> {
    let check = CHECKS.iter().find(|check| check.name == name);
    let check = check.ok_or_else(|| Failure::configuration(format!("there is no check `{name}`")))?;
    watchdog::start(subject.timeout())?;
    print(Finding::send(&check.examine(subject).findings))
}

/// Makes a check in a child process. If that ends before it has told its findings, it is one.
fn in_child(check: &Check, subject: &Subject) -> Examined {
    if !subject.has_job() {
        return check.examine(subject);
    }
    let findings = child::output(&["--check", check.name]).and_then(|child| {
        let printed = String::from_utf8_lossy(&child.stderr);
        Finding::receive(&child.stdout).ok_or_else(|| {
            let failure = Failure::new(Status::Plugin, "a plugin has ended the process of this check");
            let said = printed.trim();
            let said = said.rfind("error: ").map_or(said, |begin| &said[begin + 7..]);
            let failure = failure.because(child::end(child.status));
            if said.is_empty() { failure } else { failure.because(said) }
        })
    });
    check.found(findings.unwrap_or_else(|failure| vec![Finding::failed(&failure)]))
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
