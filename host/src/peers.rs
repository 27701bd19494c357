//! The ranks of a job, as one of them sees the others: collectives begun, waited for and taken apart.

use std::time::Duration;

use mdt_plugin_api::{Buffer, Communicator, Outcome, ReduceOp, Work};

use crate::exit::{Failure, Status};

/// How much longer than the backend's own deadline the host waits: a backend that keeps deadlines can say which rank
/// is late, the host cannot.
const GRACE: Duration = Duration::from_secs(10);

/// The communicator of a run. Every method that talks to the others must be called by all ranks, in the same order.
pub struct Peers {
    communicator: Box<dyn Communicator>,
    deadline: Duration,
}

impl Peers {
    /// The ranks behind a communicator whose backend gives a collective `timeout`.
    pub fn new(communicator: Box<dyn Communicator>, timeout: Duration) -> Self {
        Self { communicator, deadline: timeout.saturating_add(GRACE) }
    }

    /// This process, from 0.
    pub fn rank(&self) -> usize {
        self.communicator.rank() as usize
    }

    /// How many there are.
    pub fn world_size(&self) -> usize {
        self.communicator.world_size() as usize
    }

    /// Whether this is the rank that writes files and tells the user.
    pub fn is_first(&self) -> bool {
        self.rank() == 0
    }

    /// The sum over all ranks, of single precision and of double precision numbers. `what` names it in errors, as in
    /// "the gradients of update 3".
    pub fn sum(&self, what: &str, singles: Vec<f32>, doubles: Vec<f64>) -> Result<(Vec<f32>, Vec<f64>), Failure> {
        let buffers = vec![Buffer::F32(singles), Buffer::F64(doubles)];
        let work = self.communicator.all_reduce(buffers, ReduceOp::Sum);
        match <[Buffer; 2]>::try_from(self.finish(what, work)?) {
            Ok([Buffer::F32(singles), Buffer::F64(doubles)]) => Ok((singles, doubles)),
            _ => Err(other_buffers(what)),
        }
    }

    /// Every rank's numbers, in order of ranks; their lengths may differ.
    pub fn gather_numbers(&self, what: &str, numbers: Vec<f64>) -> Result<Vec<Vec<f64>>, Failure> {
        self.gather(what, Buffer::F64(numbers), |buffer| match buffer {
            Buffer::F64(numbers) => Some(numbers),
            _ => None,
        })
    }

    /// Every rank's text, in order of ranks.
    pub fn gather_texts(&self, what: &str, text: String) -> Result<Vec<String>, Failure> {
        self.gather(what, Buffer::Bytes(text.into_bytes()), |buffer| match buffer {
            Buffer::Bytes(bytes) => String::from_utf8(bytes).ok(),
            _ => None,
        })
    }

    /// Rank 0's numbers, whatever the other ranks bring.
    pub fn broadcast(&self, what: &str, numbers: Vec<f32>) -> Result<Vec<f32>, Failure> {
        let work = self.communicator.broadcast(vec![Buffer::F32(numbers)], 0);
        match <[Buffer; 1]>::try_from(self.finish(what, work)?) {
            Ok([Buffer::F32(numbers)]) => Ok(numbers),
            _ => Err(other_buffers(what)),
        }
    }

    /// Tells the others that this rank gives the job up, and why. Does not wait.
    pub fn abort(&self, reason: &str) {
        self.communicator.abort(reason);
    }

    fn gather<T>(&self, what: &str, buffer: Buffer, take: fn(Buffer) -> Option<T>) -> Result<Vec<T>, Failure> {
        let buffers = self.finish(what, self.communicator.all_gather(buffer))?;
        let all: Option<Vec<T>> = buffers.into_iter().map(take).collect();
        all.filter(|all| all.len() == self.world_size()).ok_or_else(|| other_buffers(what))
    }

    fn finish(&self, what: &str, work: mdt_plugin_api::Result<Box<dyn Work>>) -> Result<Vec<Buffer>, Failure> {
        let outcome = work.and_then(|mut work| work.wait(self.deadline));
        match outcome.map_err(|error| Failure::from(error).at(what))? {
            Outcome::Done(buffers) => Ok(buffers),
            Outcome::TimedOut => {
                let message = format!("the ranks did not exchange {what} within {} s", self.deadline.as_secs());
                Err(Failure::new(Status::Peer, message)
                    .help("look at the other ranks' output; a job with slow updates needs a larger `comm.timeout_s`"))
            }
        }
    }
}

fn other_buffers(what: &str) -> Failure {
    Failure::new(Status::Plugin, "the comm plugin gave other buffers back than it was given").at(what)
}
