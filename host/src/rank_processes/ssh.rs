//! Another machine, reached by ssh.

use std::ffi::OsString;
use std::path::PathBuf;
use std::process::{Command, Stdio};

use super::Rank;
use super::order::Order;
use crate::exit::Failure;

/// How a machine is reached, and where things are on it.
#[derive(Debug)]
pub struct Ssh {
    /// `ssh` and its options.
    pub command: Vec<String>,
    /// The machine as `ssh` knows it, with a user or without.
    pub host: String,
    /// The path of this program there.
    pub program: PathBuf,
    /// The working directory there.
    pub directory: PathBuf,
}

/// Options beside the user's own, which come first and win: no question to anybody, and a machine that does not answer
/// is given up.
const OPTIONS: [&str; 9] = [
    "-T",
    "-o",
    "BatchMode=yes",
    "-o",
    "ConnectTimeout=20",
    "-o",
    "ServerAliveInterval=10",
    "-o",
    "ServerAliveCountMax=6",
];

impl Ssh {
    /// The command that starts this program there. What the rank is to do comes over standard input.
    pub(super) fn start(&self) -> Command {
        let mut command = self.ssh();
        command.args(OPTIONS).arg("--").arg(&self.host);
        command.arg(format!("{} launched-rank", quoted(&self.program.to_string_lossy())));
        command
    }

    fn ssh(&self) -> Command {
        let mut command = Command::new(&self.command[0]);
        command.args(&self.command[1..]);
        command
    }

    /// What is said to it first.
    ///
    /// # Errors
    /// An argument is not text.
    pub(super) fn order(&self, rank: &Rank, job: &str, token: &str) -> Result<Order, Failure> {
        let text = |argument: &OsString| {
            argument.clone().into_string().map_err(|argument| {
                let message = "an argument for a rank on another machine is not text";
                Failure::configuration(message).at(argument.to_string_lossy())
            })
        };
        Ok(Order {
            version: env!("CARGO_PKG_VERSION").to_owned(),
            job: job.to_owned(),
            token: token.to_owned(),
            arguments: rank.arguments.iter().map(text).collect::<Result<_, _>>()?,
            environment: rank.environment.clone(),
            directory: self.directory.clone(),
            ranks: rank.ranks_there,
            shares_cores: rank.shares_cores,
        })
    }

    /// The name or address that stands behind the name, which may be one of ssh's configuration only.
    pub fn address(&self) -> String {
        let name = self.host.rsplit('@').next().unwrap_or(&self.host);
        let asked = self.ssh().arg("-G").arg(&self.host).stdin(Stdio::null()).stderr(Stdio::null()).output();
        let answer = asked.map(|output| String::from_utf8_lossy(&output.stdout).into_owned()).unwrap_or_default();
        let meant = answer.lines().find_map(|line| line.strip_prefix("hostname ")).map(str::trim);
        meant.filter(|meant| !meant.is_empty()).unwrap_or(name).to_owned()
    }
}

/// A word for the shell there, whichever that is.
fn quoted(text: &str) -> String {
    format!("'{}'", text.replace('\'', r"'\''"))
}
