//! Check `output-directory`.

use std::path::Path;

use super::{Check, Finding, Subject};
use crate::exit::Failure;
use crate::memory::gibibytes;
use crate::storage;

pub(super) const CHECK: Check = Check {
    name: "output-directory",
    description: "Whether the output directory can be written to, and its free space.",
    runs_plugins: false,
    run,
};

/// Less free space than this is a warning: a checkpoint holds the weights and, with AdamW, twice as much state.
const LITTLE: u64 = 1 << 30;

fn run(subject: &Subject) -> Vec<Finding> {
    subject.of_job(|job| {
        let output = &job.resolved.settings.output_dir;
        let finding = examine(output).unwrap_or_else(|failure| Finding::failed(&failure));
        vec![finding.fact("output_dir", output.to_string_lossy())]
    })
}

/// Writes and removes a small file in the directory, or where it would be created.
fn examine(output: &Path) -> Result<Finding, Failure> {
    let place = existing(output);
    storage::check_output_dir(place)?;
    let shown = output.display();
    let exists = if place == output { "can be written to" } else { "can be created" };
    let Some(free) = free_bytes(place) else { return Ok(Finding::ok(format!("{shown} {exists}"))) };
    let message = format!("{shown} {exists}; {} are free", gibibytes(free));
    let finding = if free < LITTLE {
        Finding::warning(message).help("free space, or set `output_dir` to another file system")
    } else {
        Finding::ok(message)
    };
    Ok(finding.fact("free_bytes", free))
}

/// The longest part of a path that exists.
fn existing(path: &Path) -> &Path {
    let there = path.ancestors().find(|part| part.exists());
    // The last ancestor of a relative path is empty: it is the working directory.
    there.unwrap_or(Path::new("."))
}

/// The free bytes of a directory's file system, for ordinary users.
fn free_bytes(place: &Path) -> Option<u64> {
    let file_system = rustix::fs::statvfs(place).ok()?;
    file_system.f_bavail.checked_mul(file_system.f_frsize)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_missing_directory_is_not_created() {
        let root = tempfile::tempdir().unwrap();
        let finding = examine(&root.path().join("a/b")).unwrap();
        assert!(finding.message.contains("can be created"), "{}", finding.message);
        assert_eq!(std::fs::read_dir(root.path()).unwrap().count(), 0);
        assert_eq!(existing(Path::new("no/such/directory")), Path::new("."));
    }

    #[test]
    fn a_file_in_the_way_is_a_failure() {
        let root = tempfile::tempdir().unwrap();
        std::fs::write(root.path().join("out"), "mine").unwrap();
        assert!(examine(&root.path().join("out")).is_err());
        assert!(examine(&root.path().join("out/below")).is_err());
    }
}
