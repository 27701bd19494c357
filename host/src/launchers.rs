//! Launchers that start one process per rank, recognised by the variables that they set: `mlx.launch`, torchrun, Kubeflow,
//! MPI, Slurm, Kubernetes.
//!
//! What they tell is a layer of the configuration (see `config::launcher`), below all that the user writes.

mod kubernetes;
mod mlx;
mod mpi;
mod slurm;
mod torch;
mod variables;

use std::fmt;

pub use variables::Variables;

use crate::checksum;
use crate::config::{Origin, Resolved};
use crate::exit::Failure;

/// The backend that connects ranks where the configuration names none.
pub const BACKEND: &str = "grpc";

/// The variable with the secret by which the ranks of a job know each other. A backend may need it.
pub const JOB_TOKEN: &str = "MDT_JOB_TOKEN";

/// The variable with the short name of this start of a job, the same on all ranks.
pub const JOB_ID: &str = "MDT_JOB_ID";

/// The first port for jobs, and how many are chosen from by the name of a job.
const FIRST_PORT: u16 = 50051;
const PORTS: u64 = 8000;

/// A value and the variable that it came from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Told<T> {
    pub value: T,
    pub by: String,
}

impl<T> Told<T> {
    fn new(value: T, by: impl Into<String>) -> Self {
        Self { value, by: by.into() }
    }
}

/// A secret, which is not printed.
#[derive(Clone, PartialEq, Eq)]
pub struct Secret(String);

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Secret")
    }
}

/// What a launcher has told this process.
#[derive(Debug, Clone, PartialEq)]
pub struct Started {
    /// The name of the launcher.
    pub launcher: &'static str,
    /// The rank of this process.
    pub rank: Told<u32>,
    /// The number of ranks, if the launcher says it.
    pub world_size: Option<Told<u32>>,
    /// Where rank 0 is reached.
    pub address: Option<Told<String>>,
    /// The port of rank 0.
    pub port: Option<Told<u16>>,
    /// The name of this start of the job.
    pub job: Option<String>,
    /// A secret of this start that its ranks alone have.
    token: Option<Secret>,
    /// The number of ranks on this machine, where they share its cores.
    pub share: Option<Told<u32>>,
    /// The number of cores for this rank.
    pub cores: Option<Told<u32>>,
    /// How a launcher of this kind hands the job token to its ranks.
    token_help: &'static str,
}

impl Started {
    /// A rank and a number of ranks, of which the rank is one.
    fn new(launcher: &'static str, rank: Told<u32>, world_size: Option<Told<u32>>) -> Result<Self, Failure> {
        if let Some(size) = world_size.as_ref().filter(|size| rank.value >= size.value) {
            let message = format!("{} is {} where {} is {}", rank.by, rank.value, size.by, size.value);
            return Err(Failure::configuration(message).at(format!("the environment of {launcher}")).help(OVERRIDE));
        }
        Ok(Self {
            launcher,
            rank,
            world_size,
            address: None,
            port: None,
            job: None,
            token: None,
            share: None,
            cores: None,
            token_help: EXPORT_TOKEN,
        })
    }

    /// Names the start of the job. Its port follows from the name where the launcher has no place for one, so that jobs
    /// on one machine do not meet.
    fn named(mut self, job: String, by: &str) -> Self {
        let digest = job.bytes().fold(0xcbf2_9ce4_8422_2325, |hash: u64, byte| {
            (hash ^ u64::from(byte)).wrapping_mul(0x0000_0100_0000_01b3)
        });
        self.port.get_or_insert(Told::new(FIRST_PORT + (digest % PORTS) as u16, by));
        self.job = Some(job);
        self
    }

    /// Rank 0 is on this machine, as all others are.
    fn all_here(&mut self, by: impl Into<String>) {
        self.address.get_or_insert(Told::new("127.0.0.1".to_owned(), by));
    }

    /// Takes what is missing from what another launcher has told the same rank.
    fn complete(&mut self, other: Self) {
        let size = |started: &Self| started.world_size.as_ref().map(|size| size.value);
        let contradicts = matches!((size(self), size(&other)), (Some(one), Some(another)) if one != another);
        if self.rank.value != other.rank.value || contradicts {
            return;
        }
        self.world_size = self.world_size.take().or(other.world_size);
        self.address = self.address.take().or(other.address);
        if self.job.is_none() {
            (self.job, self.port) = (other.job, self.port.take().or(other.port));
        }
        self.share = self.share.take().or(other.share);
        self.cores = self.cores.take().or(other.cores);
    }

    /// The secret that the launcher has made for the ranks of this start.
    pub fn token(&self) -> Option<&str> {
        self.token.as_ref().map(|Secret(text)| text.as_str())
    }

    /// What to do where ranks need a job token and this one has none.
    pub fn token_help(&self) -> String {
        format!("{} makes no job token: {}", self.launcher, self.token_help)
    }
}

impl fmt::Display for Started {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} as rank {}", self.launcher, self.rank.value)?;
        if let Some(size) = &self.world_size {
            write!(f, " of {}", size.value)?;
        }
        self.job.iter().try_for_each(|job| write!(f, " (job {job})"))
    }
}

/// How a wrong environment is overridden.
const OVERRIDE: &str =
    "start the ranks with that launcher, unset its variables, or set `comm.rank` and `comm.world_size`";

const EXPORT_TOKEN: &str = "set the same MDT_JOB_TOKEN for every rank, made once with `openssl rand -hex 32`, or name a \
                            file that every rank can read with `comm.token_file`";

/// What the launcher that started this process has told it; `None` if none did.
///
/// # Errors
/// Variables of a launcher are missing, or are not what they should be.
pub fn detect(variables: &Variables) -> Result<Option<Started>, Failure> {
    type Recognise = fn(&Variables) -> Result<Option<Started>, Failure>;
    const LAUNCHERS: [Recognise; 8] = [
        mlx::launch,
        torch::torchrun,
        torch::kubeflow,
        mpi::open_mpi,
        mpi::pmix,
        mpi::pmi,
        slurm::task,
        kubernetes::indexed_job,
    ];
    let mut found: Option<Started> = None;
    for recognise in LAUNCHERS {
        match (&mut found, recognise(variables)) {
            // A launcher that started the process which this launcher has replaced may know more; what is wrong with its
            // variables does not matter any more.
            (Some(found), recognised) => recognised.into_iter().flatten().for_each(|other| found.complete(other)),
            (None, recognised) => found = recognised?,
        }
    }
    let Some(mut started) = found else { return Ok(None) };
    if started.world_size.is_none() && started.launcher != kubernetes::NAME {
        let message = format!("{} is set, and no variable says how many ranks there are", started.rank.by);
        return Err(Failure::configuration(message).help(OVERRIDE));
    }
    if started.address.is_none() {
        started.address = variables.told("MASTER_ADDR");
    }
    Ok(Some(started))
}

/// Why this process is no rank although its environment comes from a launcher, where that may surprise.
pub fn no_rank(variables: &Variables) -> Option<String> {
    slurm::no_task(variables)
}

/// Checks that a backend that connects by address has one.
///
/// # Errors
/// A launcher has started the ranks, maybe on several machines, and has not said where rank 0 is.
pub fn require_address(resolved: &Resolved) -> Result<(), Failure> {
    let comm = &resolved.settings.comm;
    let is_open = matches!(resolved.origin("comm.address"), None | Some(Origin::Default | Origin::Component(_)));
    match &resolved.started {
        Some(started) if comm.world_size > 1 && comm.id == BACKEND && is_open => {
            let message = format!("{} does not tell its ranks where rank 0 runs", started.launcher);
            Err(Failure::configuration(message).help(
                "set `comm.address` to the name or address of rank 0's machine: in a configuration file, with --set, or in \
                 the variable MDT_COMM__ADDRESS or MASTER_ADDR of every rank",
            ))
        }
        _ => Ok(()),
    }
}

/// A job token made of a secret of the launcher's own, which is not used as it is.
fn token_of(secret: &str) -> Secret {
    Secret(checksum::of_bytes(format!("mdt-host job token {secret}").as_bytes()))
}

#[cfg(test)]
mod tests;
