//! Collectives between the ranks of a job, in the form in which the host needs them.

use std::sync::mpsc::{RecvTimeoutError, channel};
use std::thread;
use std::time::Duration;

use mdt_plugin_api::{Buffer, Communicator, Outcome, ReduceOp, Work};
use serde::Serialize;
use serde::de::DeserializeOwned;

use crate::exit::{Failure, Status};

/// How much longer than the backend's own time-out the host waits: a backend can say which rank is late, the host cannot.
const GRACE: Duration = Duration::from_secs(10);

/// The slowest link that the host waits for, in bytes per second. A backend may wait as long as data moves, which the
/// host cannot see; this limit is for backends that have none.
const SLOWEST: u64 = 64 << 10;

/// What the first rank sends while the others wait for it, and when it is done.
const STILL_BUSY: f64 = 0.0;
const DONE: f64 = 1.0;

/// The communicator of a run. Every method that talks to the others must be called by all ranks, in the same order.
pub struct Peers {
    communicator: Box<dyn Communicator>,
    timeout: Duration,
}

impl Peers {
    /// The ranks behind a communicator whose backend lets ranks wait `timeout` for each other without progress.
    pub fn new(communicator: Box<dyn Communicator>, timeout: Duration) -> Self {
        Self { communicator, timeout }
    }

    /// This process, from 0.
    pub fn rank(&self) -> usize {
        self.communicator.rank() as usize
    }

    pub fn world_size(&self) -> usize {
        self.communicator.world_size() as usize
    }

    /// Whether this is the rank that writes files and tells the user.
    pub fn is_first(&self) -> bool {
        self.rank() == 0
    }

    /// The sums over all ranks of a gradient and of `N` numbers. `what` names them in errors, as in "the gradients of
    /// update 3".
    pub fn sum<const N: usize>(
        &self,
        what: &str,
        gradient: Vec<f32>,
        numbers: [f64; N],
    ) -> Result<(Vec<f32>, [f64; N]), Failure> {
        let (length, bytes) = (gradient.len(), size_of_val(&*gradient));
        let buffers = vec![Buffer::F32(gradient), Buffer::F64(numbers.to_vec())];
        let work = self.communicator.all_reduce(buffers, ReduceOp::Sum);
        match <[Buffer; 2]>::try_from(self.finish(what, bytes, work)?) {
            Ok([Buffer::F32(gradient), Buffer::F64(numbers)]) if gradient.len() == length => {
                numbers.try_into().map(|numbers| (gradient, numbers)).map_err(|_| other_buffers(what))
            }
            _ => Err(other_buffers(what)),
        }
    }

    /// Every rank's numbers, in order of ranks; their lengths may differ.
    pub fn gather_numbers(&self, what: &str, numbers: Vec<f64>) -> Result<Vec<Vec<f64>>, Failure> {
        self.gather(what, size_of_val(&*numbers), Buffer::F64(numbers), |buffer| match buffer {
            Buffer::F64(numbers) => Some(numbers),
            _ => None,
        })
    }

    /// Every rank's text, in order of ranks.
    pub fn gather_texts(&self, what: &str, text: String) -> Result<Vec<String>, Failure> {
        self.gather(what, text.len(), Buffer::Bytes(text.into_bytes()), |buffer| match buffer {
            Buffer::Bytes(bytes) => String::from_utf8(bytes).ok(),
            _ => None,
        })
    }

    /// Every rank's value, in order of ranks.
    pub fn gather_values<T: Serialize + DeserializeOwned>(&self, what: &str, own: &T) -> Result<Vec<T>, Failure> {
        let unreadable = |rank: usize, error: serde_json::Error| {
            let failure = Failure::new(Status::Peer, format!("{what}: what rank {rank} sent cannot be read"));
            failure.because(error).help("run the same version of mdt-host on every rank")
        };
        let text = serde_json::to_string(own).map_err(|error| unreadable(self.rank(), error))?;
        let texts = self.gather_texts(what, text)?;
        let value =
            |(rank, text): (usize, &String)| serde_json::from_str(text).map_err(|error| unreadable(rank, error));
        texts.iter().enumerate().map(value).collect()
    }

    /// Rank 0's numbers, whatever the other ranks bring.
    pub fn broadcast(&self, what: &str, numbers: Vec<f32>) -> Result<Vec<f32>, Failure> {
        let bytes = size_of_val(&*numbers);
        let work = self.communicator.broadcast(vec![Buffer::F32(numbers)], 0);
        match <[Buffer; 1]>::try_from(self.finish(what, bytes, work)?) {
            Ok([Buffer::F32(numbers)]) => Ok(numbers),
            _ => Err(other_buffers(what)),
        }
    }

    /// Runs `body` on the first rank while the others wait for it, however long it takes: they exchange numbers with it
    /// meanwhile, so that no deadline passes. Returns nothing on the other ranks.
    ///
    /// # Errors
    /// The error of `body`, on the first rank; the others get an error when that rank ends.
    pub fn on_first<T: Send>(
        &self,
        what: &str,
        body: impl FnOnce() -> Result<T, Failure> + Send,
    ) -> Result<Option<T>, Failure> {
        if self.world_size() == 1 {
            return body().map(Some);
        }
        if !self.is_first() {
            while self.gather_numbers(what, vec![STILL_BUSY])?[0] == [STILL_BUSY] {}
            return Ok(None);
        }
        let beat = self.timeout / 8;
        thread::scope(|scope| {
            let (done, ended) = channel::<()>();
            let work = scope.spawn(move || {
                let _done = done; // dropped at the end, also by a panic
                body()
            });
            while ended.recv_timeout(beat) == Err(RecvTimeoutError::Timeout) {
                self.gather_numbers(what, vec![STILL_BUSY])?;
            }
            let outcome = work.join().unwrap_or_else(|_| Err(Failure::new(Status::Other, format!("{what} broke off"))));
            if outcome.is_ok() {
                self.gather_numbers(what, vec![DONE])?;
            }
            outcome.map(Some)
        })
    }

    /// Tells the others that this rank ends the job, and why. Does not wait.
    pub fn abort(&self, reason: &str) {
        self.communicator.abort(reason);
    }

    fn gather<T>(
        &self,
        what: &str,
        bytes: usize,
        buffer: Buffer,
        take: fn(Buffer) -> Option<T>,
    ) -> Result<Vec<T>, Failure> {
        let buffers = self.finish(what, bytes, self.communicator.all_gather(buffer))?;
        let all: Option<Vec<T>> = buffers.into_iter().map(take).collect();
        all.filter(|all| all.len() == self.world_size()).ok_or_else(|| other_buffers(what))
    }

    /// How long the host waits for a collective of so many bytes on each rank.
    fn deadline(&self, bytes: usize) -> Duration {
        let transfer = (bytes as u64).saturating_mul(self.world_size() as u64) / SLOWEST;
        self.timeout.saturating_add(GRACE).saturating_add(Duration::from_secs(transfer))
    }

    fn finish(
        &self,
        what: &str,
        bytes: usize,
        work: mdt_plugin_api::Result<Box<dyn Work>>,
    ) -> Result<Vec<Buffer>, Failure> {
        let deadline = self.deadline(bytes);
        let outcome = work.and_then(|mut work| work.wait(deadline));
        match outcome.map_err(|error| Failure::from(error).at(what))? {
            Outcome::Done(buffers) => Ok(buffers),
            Outcome::TimedOut => {
                let message = format!("the ranks did not exchange {what} within {} s", deadline.as_secs());
                Err(Failure::new(Status::Peer, message)
                    .help("look at the other ranks' output; a job with slow updates needs a larger `comm.timeout_s`"))
            }
        }
    }
}

fn other_buffers(what: &str) -> Failure {
    Failure::new(Status::Plugin, "the comm plugin gave other buffers back than it was given").at(what)
}

#[cfg(test)]
mod tests {
    use std::sync::{Arc, Barrier, Mutex};
    use std::time::Instant;

    use mdt_plugin_api::{Finished, Result};

    use super::*;

    /// Ranks that are threads. Every collective is a gather of numbers; one that is late fails.
    struct Threads {
        rank: u32,
        ranks: u32,
        shared: Arc<(Barrier, Mutex<Vec<Vec<f64>>>)>,
        longest_wait: Arc<Mutex<Duration>>,
    }

    impl Communicator for Threads {
        fn rank(&self) -> u32 {
            self.rank
        }

        fn world_size(&self) -> u32 {
            self.ranks
        }

        fn all_gather(&self, buffer: Buffer) -> Result<Box<dyn Work>> {
            let Buffer::F64(numbers) = buffer else { unreachable!("numbers only") };
            let begin = Instant::now();
            let (barrier, numbers_of) = &*self.shared;
            numbers_of.lock().unwrap()[self.rank as usize] = numbers;
            barrier.wait();
            let all = numbers_of.lock().unwrap().clone();
            barrier.wait();
            let mut longest = self.longest_wait.lock().unwrap();
            *longest = longest.max(begin.elapsed());
            Ok(Box::new(Finished(Some(all.into_iter().map(Buffer::F64).collect()))))
        }

        fn all_reduce(&self, _: Vec<Buffer>, _: ReduceOp) -> Result<Box<dyn Work>> {
            unreachable!()
        }

        fn broadcast(&self, _: Vec<Buffer>, _: u32) -> Result<Box<dyn Work>> {
            unreachable!()
        }

        fn barrier(&self) -> Result<Box<dyn Work>> {
            unreachable!()
        }

        fn abort(&self, _: &str) {}
    }

    /// Three ranks, and the longest time that one waited in a collective.
    fn ranks(timeout: Duration) -> (Vec<Peers>, Arc<Mutex<Duration>>) {
        let shared = Arc::new((Barrier::new(3), Mutex::new(vec![Vec::new(); 3])));
        let longest_wait = Arc::<Mutex<Duration>>::default();
        let threads =
            |rank| Threads { rank, ranks: 3, shared: Arc::clone(&shared), longest_wait: Arc::clone(&longest_wait) };
        ((0..3).map(|rank| Peers::new(Box::new(threads(rank)), timeout)).collect(), longest_wait)
    }

    #[test]
    fn ranks_wait_for_slow_work_of_the_first_without_any_collective_waiting_long() {
        let work = Duration::from_millis(900);
        let (ranks, longest_wait) = ranks(Duration::from_millis(400));
        let results: Vec<_> = thread::scope(|scope| {
            let run = |peers: Peers| {
                peers.on_first("a save", || {
                    thread::sleep(work);
                    Ok(7)
                })
            };
            let ranks: Vec<_> = ranks.into_iter().map(|peers| scope.spawn(move || run(peers).unwrap())).collect();
            ranks.into_iter().map(|rank| rank.join().unwrap()).collect()
        });
        assert_eq!(results, [Some(7), None, None]);
        assert!(*longest_wait.lock().unwrap() < work / 2, "{longest_wait:?}");
    }

    #[test]
    fn the_host_waits_longer_for_a_large_transfer_than_the_backend_may_stand_still() {
        let peers = &ranks(Duration::from_secs(8)).0[0];
        assert!(peers.deadline(0) > Duration::from_secs(8));
        // 268 MB for each of three ranks over 5 Mbit/s.
        assert!(peers.deadline(268 << 20) > Duration::from_secs(3 * 430));
    }
}
