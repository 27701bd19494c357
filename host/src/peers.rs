//! Collectives between the ranks of a job, in the form in which the host needs them.

use std::sync::mpsc::{RecvTimeoutError, channel};
use std::sync::{Mutex, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use mdt_plugin_api::register::Connected;
use mdt_plugin_api::{Buffer, Dtype, Element, Outcome, ReduceOp, Region, Work};
use serde::Serialize;
use serde::de::DeserializeOwned;

use crate::exit::{Failure, Status};

/// How much longer than the backend's own time-out the host waits: a backend can say which rank is late, the host cannot.
const GRACE: Duration = if cfg!(test) { Duration::from_millis(400) } else { Duration::from_secs(10) };

/// Time between two looks at the progress of a collective.
const LOOK: Duration = Duration::from_millis(250);

/// What a rank sends while others wait for it, and when it is done.
const STILL_BUSY: f64 = 0.0;
const DONE: f64 = 1.0;

/// Numbers on their way from rank 0.
pub struct Broadcast {
    numbers: Region,
    work: Box<dyn Work>,
}

/// A collective that was begun. Dropped, it goes on, and nobody takes its result.
pub struct UnderWay(Box<dyn Work>);

/// The communicator of a run. Every method that talks to the others must be called by all ranks, in the same order.
pub struct Peers {
    communicator: Connected,
    /// The id of the backend.
    backend: String,
    timeout: Duration,
    /// The element types that it sums.
    dtypes: Vec<Dtype>,
    /// Memory of the communicator for gradients, where it has any.
    bucket: Mutex<Option<Region>>,
}

impl Peers {
    /// The ranks behind a communicator of this backend, which lets ranks wait `timeout` for each other without progress.
    pub fn new(communicator: Connected, backend: &str, timeout: Duration) -> Self {
        Self { communicator, backend: backend.to_owned(), timeout, dtypes: Vec::new(), bucket: Mutex::new(None) }
    }

    /// The same with what the backend says that it sums.
    pub fn summing(self, dtypes: Vec<Dtype>) -> Self {
        Self { dtypes, ..self }
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

    /// The communicator's own memory of at least so many bytes, where it has any: its collectives are fastest with that.
    pub fn memory(&self, bytes: usize) -> Result<Option<Region>, Failure> {
        let Some(able) = &self.communicator.regions else { return Ok(None) };
        let mut bucket = self.bucket.lock().unwrap_or_else(PoisonError::into_inner);
        if bucket.as_ref().is_none_or(|region| region.bytes() < bytes) {
            *bucket = None;
            *bucket = Some(able.region(bytes)?);
        }
        Ok(bucket.clone())
    }

    /// Whether ranks can be given a part of a sum alone.
    pub fn scatters(&self) -> bool {
        self.communicator.reduce_scatter.is_some()
    }

    /// Whether elements of this type are summed.
    pub fn sums(&self, dtype: Dtype) -> bool {
        self.dtypes.contains(&dtype)
    }

    /// The sums over all ranks of buffers, in the memory of the buffers.
    pub fn all_reduce(&self, what: &str, buffers: Vec<Buffer>) -> Result<Vec<Buffer>, Failure> {
        self.wait(what, self.begin_all_reduce(what, buffers)?)
    }

    /// Begins [`Peers::all_reduce`]; several collectives may be under way.
    pub fn begin_all_reduce(&self, what: &str, buffers: Vec<Buffer>) -> Result<UnderWay, Failure> {
        begun(what, self.communicator.all_reduce(buffers, ReduceOp::Sum))
    }

    /// The sums over all ranks of a buffer, of which this rank gets its part.
    pub fn reduce_scatter(&self, what: &str, buffer: Buffer) -> Result<Vec<Buffer>, Failure> {
        self.wait(what, self.begin_reduce_scatter(what, buffer)?)
    }

    /// Begins [`Peers::reduce_scatter`].
    pub fn begin_reduce_scatter(&self, what: &str, buffer: Buffer) -> Result<UnderWay, Failure> {
        let able = self.communicator.reduce_scatter.as_ref().ok_or_else(|| {
            let backend = &self.backend;
            let message = format!("the comm plugin `{backend}` does not have the interface comm.reduce_scatter/1");
            Failure::new(Status::Plugin, message).at(what).help("choose another backend: `--set comm.use=grpc`")
        })?;
        begun(what, able.reduce_scatter(buffer, ReduceOp::Sum))
    }

    /// Begins to give every rank every rank's buffer, in order of ranks; their lengths may differ.
    pub fn begin_all_gather(&self, what: &str, buffer: Buffer) -> Result<UnderWay, Failure> {
        begun(what, self.communicator.all_gather(buffer))
    }

    /// The result of a collective that was begun.
    pub fn wait(&self, what: &str, UnderWay(work): UnderWay) -> Result<Vec<Buffer>, Failure> {
        self.finish(what, Ok(work))
    }

    /// Every rank's numbers, in order of ranks; their lengths may differ.
    pub fn gather_numbers(&self, what: &str, numbers: Vec<f64>) -> Result<Vec<Vec<f64>>, Failure> {
        let gathered = self.gather(what, numbers.into())?;
        gathered.iter().map(|numbers| Ok(numbers.as_slice::<f64>()?.to_vec())).collect()
    }

    /// Every rank's text, in order of ranks.
    pub fn gather_texts(&self, what: &str, text: String) -> Result<Vec<String>, Failure> {
        let gathered = self.gather(what, text.into_bytes().into())?;
        let text = |(rank, text): (usize, &Buffer)| match str::from_utf8(text.bytes()) {
            Ok(text) => Ok(text.to_owned()),
            Err(error) => {
                let message = format!("the comm plugin `{}` gave text of rank {rank} that is none", self.backend);
                Err(Failure::new(Status::Plugin, message).because(error).at(what))
            }
        };
        gathered.iter().enumerate().map(text).collect()
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

    /// Begins to send rank 0's numbers to all ranks, whatever the others bring; several may be under way.
    pub fn begin_broadcast<T: Element>(&self, what: &str, numbers: Vec<T>) -> Result<Broadcast, Failure> {
        let numbers = Region::of(numbers);
        let work = self.communicator.broadcast(vec![whole::<T>(&numbers)?], 0);
        Ok(Broadcast { numbers, work: work.map_err(|error| Failure::from(error).at(what))? })
    }

    /// Rank 0's numbers.
    pub fn finish_broadcast<T: Element>(
        &self,
        what: &str,
        Broadcast { numbers, work }: Broadcast,
    ) -> Result<Vec<T>, Failure> {
        self.finish(what, Ok(work))?;
        self.back(what, numbers)
    }

    /// Runs `body` on the first rank while the others wait for it, however long it takes. Returns nothing on the other
    /// ranks.
    ///
    /// # Errors
    /// The error of `body`, on the first rank; the others get an error when that rank ends.
    pub fn on_first<T>(&self, what: &str, body: impl FnOnce() -> Result<T, Failure>) -> Result<Option<T>, Failure> {
        self.together(what, || if self.is_first() { body().map(Some) } else { Ok(None) })
    }

    /// Runs `body` on every rank, however much longer it takes on one than on another, and comes back when all are done:
    /// ranks exchange numbers meanwhile, so that no deadline passes.
    ///
    /// # Errors
    /// The error of `body`; the other ranks get an error when that rank ends.
    pub fn together<T>(&self, what: &str, body: impl FnOnce() -> Result<T, Failure>) -> Result<T, Failure> {
        if self.world_size() == 1 {
            return body();
        }
        let (own_end, ended) = channel();
        let exchange = move || {
            let mut own = STILL_BUSY;
            loop {
                if own == STILL_BUSY {
                    own = match ended.recv_timeout(self.timeout / 8) {
                        Ok(()) => DONE,
                        Err(RecvTimeoutError::Timeout) => STILL_BUSY,
                        // Without success: this rank ends, and so do the others.
                        Err(RecvTimeoutError::Disconnected) => return Ok(()),
                    };
                }
                if self.gather_numbers(what, vec![own])?.iter().all(|rank| *rank == [DONE]) {
                    return Ok(());
                }
            }
        };
        thread::scope(|scope| {
            let exchange = scope.spawn(exchange);
            let outcome = body();
            match &outcome {
                Ok(_) => drop(own_end.send(())), // nobody takes it where the exchange has failed
                Err(_) => drop(own_end),
            }
            let exchanged =
                exchange.join().unwrap_or_else(|_| Err(Failure::new(Status::Other, format!("{what} broke off"))));
            outcome.and_then(|value| exchanged.map(|()| value))
        })
    }

    /// Tells the others that this rank ends the job, and why. Does not wait.
    pub fn abort(&self, reason: &str) {
        self.communicator.abort(reason);
    }

    /// Every rank's buffer, in order of ranks.
    pub fn gather(&self, what: &str, buffer: Buffer) -> Result<Vec<Buffer>, Failure> {
        self.finish(what, self.communicator.all_gather(buffer))
    }

    /// Waits for a collective as long as it makes progress.
    fn finish(&self, what: &str, work: mdt_plugin_api::Result<Box<dyn Work>>) -> Result<Vec<Buffer>, Failure> {
        let failed = |error| Failure::from(error).at(what);
        let (limit, mut work) = (self.timeout.saturating_add(GRACE), work.map_err(failed)?);
        let (mut seen, mut since) = (0, Instant::now());
        loop {
            if let Outcome::Done(buffers) = work.wait(LOOK.min(limit)).map_err(failed)? {
                return Ok(buffers);
            }
            let progress = work.progress();
            if progress != seen {
                (seen, since) = (progress, Instant::now());
            } else if since.elapsed() >= limit {
                let seconds = limit.as_secs_f64();
                let message = format!("the ranks made no progress for {seconds} s while they exchanged {what}");
                return Err(Failure::new(Status::Peer, message)
                    .at(format!("comm {}", self.backend))
                    .help("look at the other ranks' output; a job with slow updates needs a larger `comm.timeout_s`"));
            }
        }
    }

    /// Takes back what a collective that is done was lent.
    fn back<T: Element>(&self, what: &str, region: Region) -> Result<Vec<T>, Failure> {
        region.into_vec().map_err(|_| self.kept(what))
    }

    fn kept(&self, what: &str) -> Failure {
        let message =
            format!("the comm plugin `{}` still uses memory of a collective that it says is done", self.backend);
        Failure::new(Status::Plugin, message).at(what)
    }
}

fn begun(what: &str, work: mdt_plugin_api::Result<Box<dyn Work>>) -> Result<UnderWay, Failure> {
    work.map(UnderWay).map_err(|error| Failure::from(error).at(what))
}

/// All elements of a region.
fn whole<T: Element>(region: &Region) -> Result<Buffer, Failure> {
    Ok(region.buffer::<T>(0..region.bytes() / size_of::<T>())?)
}

#[cfg(test)]
mod tests {
    use std::sync::{Arc, Barrier};
    use std::time::Instant;

    use mdt_plugin_api::{CommRegions, Communicator, Finished, Result};

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
            let numbers = buffer.as_slice::<f64>()?.to_vec();
            let begin = Instant::now();
            let (barrier, numbers_of) = &*self.shared;
            numbers_of.lock().unwrap()[self.rank as usize] = numbers;
            barrier.wait();
            let all = numbers_of.lock().unwrap().clone();
            barrier.wait();
            let mut longest = self.longest_wait.lock().unwrap();
            *longest = longest.max(begin.elapsed());
            Ok(Box::new(Finished(Some(all.into_iter().map(Buffer::from).collect()))))
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
        (
            (0..3).map(|rank| Peers::new(Connected::new(Arc::new(threads(rank))), "threads", timeout)).collect(),
            longest_wait,
        )
    }

    #[test]
    fn ranks_wait_for_the_slowest_without_any_collective_waiting_long() {
        let (ranks, longest_wait) = ranks(Duration::from_millis(400));
        let begin = Instant::now();
        let results: Vec<_> = thread::scope(|scope| {
            let run = |peers: Peers| {
                let rank = peers.rank() as u32;
                let outcome = peers.together("a phase", || {
                    thread::sleep(Duration::from_millis(450) * rank);
                    Ok(rank)
                });
                (outcome.unwrap(), begin.elapsed())
            };
            let ranks: Vec<_> = ranks.into_iter().map(|peers| scope.spawn(move || run(peers))).collect();
            ranks.into_iter().map(|rank| rank.join().unwrap()).collect()
        });
        for (rank, (result, after)) in results.into_iter().enumerate() {
            assert_eq!(result, rank as u32);
            assert!(after >= Duration::from_millis(900), "{after:?}");
        }
        assert!(*longest_wait.lock().unwrap() < Duration::from_millis(450), "{longest_wait:?}");
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

    /// One rank with memory of its own, which takes gradients from there only.
    #[derive(Default)]
    struct WithMemory(Mutex<Option<Region>>);

    impl CommRegions for WithMemory {
        fn region(&self, bytes: usize) -> Result<Region> {
            assert!(self.0.lock().unwrap().is_none(), "once is enough");
            let region = Region::of(vec![0u64; bytes.div_ceil(8) + 1]);
            Ok(self.0.lock().unwrap().insert(region).clone())
        }
    }

    impl Communicator for WithMemory {
        fn rank(&self) -> u32 {
            0
        }

        fn world_size(&self) -> u32 {
            1
        }

        fn all_reduce(&self, mut buffers: Vec<Buffer>, _: ReduceOp) -> Result<Box<dyn Work>> {
            assert_eq!(self.0.lock().unwrap().as_ref().unwrap().offset_of(&buffers[0]), Some(0));
            buffers[0].as_mut_slice::<f32>()?.iter_mut().for_each(|element| *element *= 2.0);
            Ok(Box::new(Finished(Some(buffers))))
        }

        fn all_gather(&self, _: Buffer) -> Result<Box<dyn Work>> {
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

    #[test]
    fn gradients_are_summed_in_the_memory_that_a_communicator_offers() {
        let memory = Arc::new(WithMemory::default());
        let connected = Connected { regions: Some(memory.clone()), ..Connected::new(memory) };
        let peers = Peers::new(connected, "memory", Duration::ZERO);
        for round in 1..=3 {
            let region = peers.memory(3 * size_of::<f32>()).unwrap().unwrap();
            let mut buffer = region.buffer::<f32>(0..3).unwrap();
            buffer.as_mut_slice::<f32>().unwrap().copy_from_slice(&[1.0, 2.0, round as f32]);
            let sums = peers.all_reduce("gradients", vec![buffer]).unwrap();
            assert_eq!(sums[0].as_slice::<f32>().unwrap(), [2.0, 4.0, 2.0 * round as f32]);
        }
    }

    /// A collective that makes progress at each of so many looks and then stands still.
    struct Slow {
        steps: u64,
        looks: Mutex<u64>,
    }

    impl Work for Slow {
        fn wait(&mut self, deadline: Duration) -> Result<Outcome> {
            thread::sleep(deadline);
            Ok(Outcome::TimedOut)
        }

        fn progress(&self) -> u64 {
            let mut looks = self.looks.lock().unwrap();
            *looks += 1;
            (*looks).min(self.steps)
        }
    }

    #[test]
    fn the_host_waits_as_long_as_a_collective_makes_progress() {
        let (peers, begin) = (&ranks(Duration::ZERO).0[0], Instant::now());
        let waiting = |steps| {
            let failure = peers.finish("the gradients", Ok(Box::new(Slow { steps, looks: Mutex::default() })));
            let message = failure.unwrap_err().message().to_owned();
            assert!(message.contains("made no progress for 0.4 s while they exchanged the gradients"), "{message}");
            begin.elapsed()
        };
        let standing = waiting(0);
        assert!(waiting(6) - standing >= 6 * LOOK, "three times the limit");
    }
}
