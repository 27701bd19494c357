//! Runs collectives one after the other in the order in which they were called.
//!
//! Whoever waits for a result runs the collectives up to it on its own thread: waking another one would take longer than
//! an exchange of a few KiB. What nobody waits for runs on a thread of this plugin.

use std::collections::VecDeque;
use std::hint::spin_loop;
use std::sync::atomic::Ordering::{Acquire, Relaxed, Release, SeqCst};
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError, TryLockError};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use mdt_plugin_api::{Buffer, Error, Outcome, Result, Work};

use super::Segments;
use super::exchange::{Advance, Exchange};
use crate::call::Request;
use crate::communicator::over;
use crate::job::Job;
use crate::progress::TICK;
use crate::wire::Cause;

/// How long a rank looks again and again without a pause, where every rank has a core. Two ranks can be on the same core
/// all the same: then every moment of it keeps the other one from going on.
const SPIN: Duration = Duration::from_micros(2);

/// How long it then looks whenever no other thread wants its core, before it sleeps: a few times what falling asleep and
/// being woken takes.
const YIELD: Duration = Duration::from_micros(200);

/// The shortest waiting in which a caller runs collectives itself.
const SHORTEST_WAIT: Duration = Duration::from_millis(1);

/// How soon a caller must wait for what it has begun, so that its next call is left to it.
const PROMPT: Duration = Duration::from_micros(200);

/// How long the plugin's thread leaves a collective to its caller, where callers have waited for the ones before.
const HESITATION: Duration = Duration::from_millis(1);

/// How often it looks for collectives after the last one, before it waits to be woken.
const LOOKS: u32 = 50;

/// The collectives of a communicator.
pub(crate) struct Turns {
    job: Arc<Job>,
    session: u64,
    segments: Segments,
    spin: Duration,
    queue: Mutex<VecDeque<Turn>>,
    /// Collectives that are not done.
    pending: AtomicUsize,
    /// Taken by the thread that runs collectives.
    running: Mutex<Running>,
    /// Whether callers wait for collectives as soon as they have begun them.
    callers_run: AtomicBool,
    /// Whether the plugin's thread waits to be woken.
    sleeps: AtomicBool,
    /// Whether something has happened on a stream: a fault, or a rank that has left.
    alarm: AtomicBool,
    closed: AtomicBool,
}

/// A call in the queue.
struct Turn {
    request: Request,
    moved: Arc<AtomicU64>,
    slot: Arc<Slot>,
}

/// Where collectives stand.
#[derive(Default)]
struct Running {
    sequence: u64,
    steps: u64,
    current: Option<(Exchange, Arc<Slot>)>,
}

/// Where a result goes.
#[derive(Default)]
struct Slot {
    result: Mutex<Found>,
    /// Whether a thread sleeps until there is a result. It is set by one that holds the mutex.
    is_awaited: AtomicBool,
    found: Condvar,
}

#[derive(Default)]
enum Found {
    #[default]
    Nothing,
    Result(Result<Vec<Buffer>>),
    /// The result was taken, or there will be none.
    Over,
}

impl Slot {
    fn fill(&self, found: Found) {
        *lock(&self.result) = found;
        if self.is_awaited.load(Acquire) {
            self.found.notify_all();
        }
    }

    fn is_filled(&self) -> bool {
        !matches!(*lock(&self.result), Found::Nothing)
    }

    /// Takes the result, if there is one by then.
    fn take(&self, until: Instant) -> Option<Result<Vec<Buffer>>> {
        let mut result = lock(&self.result);
        while matches!(*result, Found::Nothing) {
            let left = until.checked_duration_since(Instant::now()).filter(|left| !left.is_zero())?;
            self.is_awaited.store(true, Release);
            result = self.found.wait_timeout(result, left).unwrap_or_else(PoisonError::into_inner).0;
        }
        match std::mem::replace(&mut *result, Found::Over) {
            Found::Result(result) => Some(result),
            Found::Nothing | Found::Over => Some(Err(over())),
        }
    }
}

impl Turns {
    pub(crate) fn new(job: Arc<Job>, session: u64, segments: Segments) -> Self {
        let cores = thread::available_parallelism().map_or(1, usize::from);
        Self {
            spin: if segments.world_size <= cores { SPIN } else { Duration::ZERO },
            job,
            session,
            segments,
            queue: Mutex::default(),
            pending: AtomicUsize::new(0),
            running: Mutex::default(),
            callers_run: AtomicBool::new(true),
            sleeps: AtomicBool::new(false),
            alarm: AtomicBool::new(false),
            closed: AtomicBool::new(false),
        }
    }

    pub(crate) fn segments(&self) -> &Segments {
        &self.segments
    }

    /// Reports that something has happened on a stream.
    pub(crate) fn alarm(&self) {
        self.alarm.store(true, SeqCst);
        self.segments.own.segment.board().doorbell.0.ring();
    }

    /// Runs collectives that no caller runs, until the communicator is closed.
    fn run_the_rest(&self) {
        let mut looks = 0;
        while !self.closed.load(SeqCst) {
            if self.pending.load(SeqCst) == 0 {
                looks += 1;
                if looks <= LOOKS {
                    thread::park_timeout(HESITATION);
                    continue;
                }
                self.sleeps.store(true, SeqCst);
                // Who begins a collective counts it before it looks whether this thread sleeps.
                if self.pending.load(SeqCst) == 0 && !self.closed.load(SeqCst) {
                    thread::park();
                }
                self.sleeps.store(false, SeqCst);
                continue;
            }
            looks = 0;
            if self.callers_run.load(SeqCst) {
                thread::park_timeout(HESITATION);
            }
            match self.running.try_lock() {
                Ok(running) => {
                    if self.pending.load(SeqCst) > 0 {
                        self.callers_run.store(false, SeqCst);
                    }
                    self.run(running, None, || false);
                }
                Err(TryLockError::Poisoned(_)) => break,
                Err(TryLockError::WouldBlock) => thread::park_timeout(HESITATION),
            }
        }
        let current = lock(&self.running).current.take();
        let waiting = lock(&self.queue).drain(..).map(|turn| turn.slot).collect::<Vec<_>>();
        current.map(|(_, slot)| slot).into_iter().chain(waiting).for_each(|slot| slot.fill(Found::Over));
    }

    /// Runs collectives in their order until none is left, it is time to stop, or the communicator is closed.
    fn run(&self, mut running: MutexGuard<'_, Running>, until: Option<Instant>, stop: impl Fn() -> bool) {
        while !stop() && !self.closed.load(SeqCst) {
            let Running { sequence, steps, current } = &mut *running;
            let (exchange, slot) = match current {
                Some((exchange, slot)) => (exchange, slot),
                None => {
                    let Some(Turn { request, moved, slot }) = lock(&self.queue).pop_front() else { return };
                    *sequence += 1;
                    let joined = match self.job.fault.cause() {
                        Some(cause) => Err(cause),
                        None => Exchange::join(&self.segments, request, [self.session, *sequence], moved),
                    };
                    match joined {
                        Ok(exchange) => {
                            let (exchange, slot) = current.insert((exchange, slot));
                            (exchange, slot)
                        }
                        Err(cause) => {
                            self.finish(&slot, Err(self.job.fault.raise(cause).error()));
                            continue;
                        }
                    }
                }
            };
            let Some(outcome) = self.complete(exchange, steps, until) else { return };
            let slot = Arc::clone(slot);
            let exchange = current.take().map(|(exchange, _)| exchange);
            self.finish(
                &slot,
                match outcome {
                    Ok(()) => Ok(exchange.map(Exchange::finish).unwrap_or_default()),
                    Err(cause) => Err(self.job.fault.raise(cause).error()),
                },
            );
        }
    }

    fn finish(&self, slot: &Slot, result: Result<Vec<Buffer>>) {
        self.pending.fetch_sub(1, SeqCst);
        if result.is_ok() {
            self.job.board.collectives.fetch_add(1, Relaxed);
        }
        slot.fill(Found::Result(result));
    }

    /// Goes on with a collective until it has ended. `None` when the time is up or the communicator is closed.
    fn complete(&self, exchange: &mut Exchange, steps: &mut u64, until: Option<Instant>) -> Option<Result<(), Cause>> {
        let doorbell = &self.segments.own.segment.board().doorbell.0;
        let (mut idle_since, mut armed, mut stalls) = (None, None, None);
        loop {
            // What has arrived counts, even if its sender has failed or left since: this is looked at before.
            let happened =
                self.alarm.load(Acquire).then(|| (self.job.fault.cause(), self.job.departed.borrow().clone()));
            match exchange.advance(&self.segments, steps) {
                Ok(Advance::Moved) => {
                    (idle_since, stalls) = (None, None);
                    if armed.take().is_some() {
                        doorbell.disarm();
                    }
                    continue;
                }
                Ok(Advance::Waits) => {}
                outcome => {
                    doorbell.disarm();
                    return Some(outcome.map(drop));
                }
            }
            if let Some((fault, departed)) = happened {
                let is_needed = |rank: &&u32| exchange.awaited(&self.segments).0.contains(rank);
                let cause =
                    fault.or_else(|| departed.iter().find(is_needed).map(|&rank| Cause::left(rank, &exchange.name())));
                if let Some(cause) = cause {
                    doorbell.disarm();
                    return Some(Err(cause));
                }
            }
            let now = Instant::now();
            let idle = now.duration_since(*idle_since.get_or_insert(now));
            if idle < self.spin {
                (0..16).for_each(|_| spin_loop());
                continue;
            }
            if idle < YIELD {
                thread::yield_now();
                continue;
            }
            if until.is_some_and(|until| now >= until) || self.closed.load(SeqCst) {
                doorbell.disarm();
                return None;
            }
            // Whoever rings after this is heard; so it is looked once more at what is waited for.
            let Some(rung) = armed.take() else {
                armed = Some(doorbell.arm());
                continue;
            };
            doorbell.sleep(rung, until.map_or(TICK, |until| TICK.min(until - now)));
            let stalls = stalls.get_or_insert_with(|| Stalls::new(&self.segments));
            if let Some(cause) = self.overdue(exchange, stalls) {
                return Some(Err(cause));
            }
            idle_since = None;
        }
    }

    /// The error when there has been no progress with ranks that a collective needs for too long.
    fn overdue(&self, exchange: &Exchange, stalls: &mut Stalls) -> Option<Cause> {
        let limit = Duration::from_secs_f64(self.job.config.timeout_s);
        stalls.look(&self.segments);
        let (mut late, are_absent) = exchange.awaited(&self.segments);
        late.retain(|&rank| stalls.of(rank) >= limit);
        (!late.is_empty()).then(|| Cause::overdue(&late, &exchange.name(), are_absent, limit))
    }
}

/// For how long there has been no progress of each rank. It is counted in ticks, so the time in which this process was
/// stopped itself does not count.
struct Stalls {
    next_tick: Instant,
    /// For every rank: its progress at the last look, and the ticks since that changed.
    looks: Vec<(u64, u32)>,
}

impl Stalls {
    fn new(all: &Segments) -> Self {
        let looks = (0..all.world_size).map(|rank| (all.of(rank).board().moved.0.load(Relaxed), 0)).collect();
        Self { next_tick: Instant::now() + TICK, looks }
    }

    fn look(&mut self, all: &Segments) {
        let now = Instant::now();
        let ticks = u32::from(now >= self.next_tick);
        if ticks > 0 {
            self.next_tick = now + TICK;
        }
        for (rank, (moved, stalled)) in self.looks.iter_mut().enumerate() {
            let before = std::mem::replace(moved, all.of(rank).board().moved.0.load(Relaxed));
            *stalled = if before == *moved { *stalled + ticks } else { 0 };
        }
    }

    fn of(&self, rank: u32) -> Duration {
        TICK * self.looks[rank as usize].1
    }
}

/// The collectives of a communicator, and the thread that runs what nobody waits for.
pub(crate) struct Runner {
    turns: Arc<Turns>,
    thread: Option<JoinHandle<()>>,
}

impl Runner {
    /// # Errors
    /// The system starts no thread.
    pub(crate) fn start(turns: &Arc<Turns>) -> Result<Self> {
        let own = Arc::clone(turns);
        let thread = thread::Builder::new().name("mdt-grpc-memory".to_owned()).spawn(move || own.run_the_rest());
        let thread =
            thread.map_err(|error| Error::other("no thread for collectives can be started").caused_by(error))?;
        Ok(Self { turns: Arc::clone(turns), thread: Some(thread) })
    }

    pub(crate) fn turns(&self) -> &Arc<Turns> {
        &self.turns
    }

    /// Begins a collective behind those that were begun before.
    pub(crate) fn begin(&self, request: Request) -> Box<dyn Work> {
        let (slot, moved) = (Arc::<Slot>::default(), Arc::<AtomicU64>::default());
        lock(&self.turns.queue).push_back(Turn { request, moved: Arc::clone(&moved), slot: Arc::clone(&slot) });
        self.turns.pending.fetch_add(1, SeqCst);
        if self.turns.sleeps.load(SeqCst) || !self.turns.callers_run.load(SeqCst) {
            self.wake();
        }
        Box::new(Waiting {
            begun: Some(Instant::now()),
            turns: Arc::clone(&self.turns),
            thread: self.thread.as_ref().map(|it| it.thread().clone()),
            slot,
            moved,
        })
    }

    fn wake(&self) {
        self.thread.iter().for_each(|thread| thread.thread().unpark());
    }
}

impl Drop for Runner {
    fn drop(&mut self) {
        self.turns.closed.store(true, SeqCst);
        self.turns.alarm();
        self.wake();
        if let Some(thread) = self.thread.take() {
            let _ = thread.join(); // a panic was reported by its collective, which has no result
        }
    }
}

/// A collective that was begun.
struct Waiting {
    /// When it was begun, until it is waited for.
    begun: Option<Instant>,
    turns: Arc<Turns>,
    thread: Option<thread::Thread>,
    slot: Arc<Slot>,
    moved: Arc<AtomicU64>,
}

impl Work for Waiting {
    fn wait(&mut self, deadline: Duration) -> Result<Outcome> {
        let now = Instant::now();
        // A day is longer than anybody waits.
        let until = now + deadline.min(Duration::from_secs(86400));
        let is_long = deadline >= SHORTEST_WAIT;
        if is_long && let Some(begun) = self.begun.take() {
            self.turns.callers_run.store(begun.elapsed() < PROMPT, SeqCst);
        }
        if is_long
            && !self.slot.is_filled()
            && let Ok(running) = self.turns.running.try_lock()
        {
            self.turns.run(running, Some(until), || self.slot.is_filled());
            if !self.slot.is_filled() {
                // The thread goes on with it.
                self.turns.callers_run.store(false, SeqCst);
                self.thread.iter().for_each(thread::Thread::unpark);
            }
        }
        match self.slot.take(until) {
            Some(result) => result.map(Outcome::Done),
            None => Ok(Outcome::TimedOut),
        }
    }

    /// What this rank has moved, and what it sees of the others.
    fn progress(&self) -> u64 {
        let all = &self.turns.segments;
        let others = all.peers().map(|peer| all.of(peer).board().moved.0.load(Relaxed));
        self.moved.load(Relaxed) + others.sum::<u64>()
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
