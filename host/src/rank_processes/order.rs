//! What `launch` says to the `mdt-host` on another machine that starts a rank there: an order, then messages, each a line
//! of JSON on standard input.

use std::path::PathBuf;

use serde::{Deserialize, Serialize};

/// Starts a rank. It has the job token, which therefore stands on no command line.
#[derive(Serialize, Deserialize)]
pub(super) struct Order {
    /// The version of the program that launches, which must be the same there.
    pub version: String,
    pub job: String,
    pub token: String,
    pub arguments: Vec<String>,
    pub environment: Vec<(String, String)>,
    pub directory: PathBuf,
    /// How many ranks that machine has.
    pub ranks: u32,
    /// Whether the rank computes with its share of the cores there.
    pub shares_cores: bool,
}

/// What is said to a rank that runs.
#[derive(Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(super) enum Message {
    /// It gets a signal.
    Signal(i32),
    /// It gets a line on its standard input: which rank has failed.
    Tell(String),
    /// The launcher is there. Said from time to time, so that a cut network is noticed.
    Alive,
    /// The job is ending: if the rank is stopped, as by SIGSTOP, it is killed.
    Ending,
}

/// The status with which the program on the other machine ends when its rank was stopped and had to be killed.
pub(super) const STOPPED: i32 = 103;

/// The lowest status that stands for a signal by which the rank was ended, as in a shell.
pub(super) const SIGNALLED: i32 = 128;
