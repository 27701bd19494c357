//! Running the program.

use std::process::{Command, Output};

use crate::{built, root};

/// What a run of the program came to.
#[derive(Debug)]
pub struct Run {
    /// Its exit status; none where a signal ended it.
    pub status: Option<i32>,
    /// Standard output.
    pub stdout: String,
    /// Standard error.
    pub stderr: String,
}

impl From<Output> for Run {
    fn from(output: Output) -> Self {
        Run {
            status: output.status.code(),
            stdout: String::from_utf8_lossy(&output.stdout).into_owned(),
            stderr: String::from_utf8_lossy(&output.stderr).into_owned(),
        }
    }
}

impl Run {
    /// The same, if the run ended well.
    #[track_caller]
    pub fn success(self) -> Self {
        assert_eq!(self.status, Some(0), "{}\n{}", self.stderr, self.stdout);
        self
    }

    /// The one error of a run that failed with this status: all of standard error from `error:` on. Panic text is a
    /// failure of the test.
    #[track_caller]
    pub fn failure(self, status: i32) -> String {
        assert_eq!(self.status, Some(status), "{}\n{}", self.stderr, self.stdout);
        assert!(!self.stderr.contains("panicked at"), "panic text reached the user:\n{}", self.stderr);
        let errors = self.stderr.lines().filter(|line| line.starts_with("error:")).count();
        assert_eq!(errors, 1, "one error:\n{}", self.stderr);
        self.stderr[self.stderr.find("error:").unwrap_or_default()..].to_owned()
    }
}

/// Checks that a text has all of these in it.
#[track_caller]
pub fn assert_says(text: &str, parts: &[&str]) {
    for part in parts {
        assert!(text.contains(part), "{part:?} is not in:\n{text}");
    }
}

/// The program, started at the top of the repository, without anything of this machine's own configuration.
pub fn command() -> Command {
    let mut command = Command::new(built().join("mdt-host"));
    command.current_dir(root()).env("XDG_DATA_HOME", root().join("target/no-user-plugins"));
    for (name, _) in std::env::vars_os() {
        if is_configuration(&name.to_string_lossy()) {
            command.env_remove(name);
        }
    }
    command
}

/// Whether a variable is a key of the program, or tells it that a launcher has started it: the tests may run under one.
fn is_configuration(name: &str) -> bool {
    let prefixes = ["MDT_", "MLX_", "OMPI_", "PET_", "PMI_", "PMIX_", "SLURM_", "TORCHELASTIC_"];
    let names = ["RANK", "WORLD_SIZE", "LOCAL_WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT", "JOB_COMPLETION_INDEX"];
    prefixes.iter().any(|prefix| name.starts_with(prefix)) || names.contains(&name)
}

/// Runs the program to its end.
pub fn run<I: IntoIterator<Item = S>, S: AsRef<std::ffi::OsStr>>(arguments: I) -> Run {
    command().args(arguments).output().expect("the program starts").into()
}

/// Runs the program to its end with further variables in its environment.
pub fn run_where<I: IntoIterator<Item = S>, S: AsRef<std::ffi::OsStr>>(
    variables: &[(&str, &str)],
    arguments: I,
) -> Run {
    command().args(arguments).envs(variables.iter().copied()).output().expect("the program starts").into()
}
