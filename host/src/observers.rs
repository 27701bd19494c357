//! Observers: components that are told what happens in a run, each on a thread of its own for which training never waits.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::mpsc::{self, Receiver, RecvTimeoutError, SyncSender, TrySendError};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};
use std::thread;
use std::time::{Duration, Instant, SystemTime};

use mdt_plugin_api::abi::leave_unwatched;
use mdt_plugin_api::{Event, Observation, Observer};

use crate::counted::counted;
use crate::exit::{Failure, Status};
use crate::progress;

/// Observations that wait for an observer at most.
const QUEUE: usize = 1024;

/// How long the end of a run waits for all observers together.
const LAST_WAIT: Duration = Duration::from_secs(5);

/// How often the end of a run looks whether it is interrupted.
const GLANCE: Duration = Duration::from_millis(20);

/// An observer, and its name for messages.
pub type Named = (String, Box<dyn Observer>);

/// The observers of a run, until they are told of its end.
#[derive(Clone, Default)]
pub struct Observers(Arc<Mutex<Vec<Watching>>>);

/// Those of the run of this process, for whoever ends it from another thread.
static RUNNING: OnceLock<Observers> = OnceLock::new();

/// Tells the observers of the run of this process how it ends, and waits a while for them. Any thread.
pub fn finish(event: Event) {
    if let Some(running) = RUNNING.get() {
        running.finish(event, &AtomicBool::new(false));
    }
}

/// An observer on its thread.
struct Watching {
    name: String,
    queue: SyncSender<Arc<Observation>>,
    dropped: AtomicU64,
    /// Disconnected when the thread has ended.
    ended: Receiver<()>,
}

impl Observers {
    /// Starts a thread for each observer.
    pub fn start(observers: Vec<Named>) -> Result<Self, Failure> {
        let started = observers.into_iter().map(|(name, observer)| Watching::start(name, observer));
        let observers = Self(Arc::new(Mutex::new(started.collect::<Result<_, _>>()?)));
        // A process has one run; a test may have more.
        let _ = RUNNING.set(observers.clone());
        Ok(observers)
    }

    fn lock(&self) -> MutexGuard<'_, Vec<Watching>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Their names.
    pub fn names(&self) -> Vec<String> {
        self.lock().iter().map(|watching| watching.name.clone()).collect()
    }

    /// Tells all observers of an event, which is made only where there are any. What does not fit into a queue is dropped and counted.
    pub fn tell(&self, event: impl FnOnce() -> Event) {
        let watching = self.lock();
        if !watching.is_empty() {
            let observation = now(event());
            watching.iter().for_each(|watching| watching.offer(&observation));
        }
    }

    /// Tells all observers how the run has ended, and waits a while for them. `cancelled` ends the wait where it is set
    /// meanwhile.
    pub fn finish(&self, event: Event, cancelled: &AtomicBool) {
        let (last, deadline) = (now(event), Instant::now() + LAST_WAIT);
        let was_cancelled = cancelled.load(Ordering::Relaxed);
        let give_up = || Instant::now() >= deadline || cancelled.load(Ordering::Relaxed) != was_cancelled;
        let ending: Vec<_> =
            std::mem::take(&mut *self.lock()).into_iter().map(|watching| watching.end(&last, &give_up)).collect();
        for (name, dropped, ended) in ending {
            let mut outcome = ended.recv_timeout(Duration::ZERO);
            while outcome == Err(RecvTimeoutError::Timeout) && !give_up() {
                outcome = ended.recv_timeout(GLANCE);
            }
            if outcome == Err(RecvTimeoutError::Timeout) {
                progress::note(&format!(
                    "warning: {name} has not worked through what it was told by the end of the run"
                ));
            }
            if dropped > 0 {
                let dropped = counted(dropped as usize, "observation");
                progress::note(&format!("warning: {name} was too slow: {dropped} of this run were not given to it"));
            }
        }
    }
}

fn now(event: Event) -> Arc<Observation> {
    let since = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
    Arc::new(Observation { unix_time_s: since.as_secs_f64(), event })
}

impl Watching {
    fn start(name: String, mut observer: Box<dyn Observer>) -> Result<Self, Failure> {
        let (queue, observations) = mpsc::sync_channel::<Arc<Observation>>(QUEUE);
        let (running, ended) = mpsc::channel();
        let own_name = name.clone();
        let watch = move || {
            let _running: mpsc::Sender<()> = running;
            // An observer may take its time.
            leave_unwatched();
            for observation in observations {
                if let Err(error) = observer.observe(&observation) {
                    let why = Failure::from(error).in_one_line();
                    progress::note(&format!("warning: {own_name} is switched off, and the run goes on: {why}"));
                    break;
                }
            }
        };
        let spawned = thread::Builder::new().name(format!("observer {name}")).spawn(watch);
        spawned.map_err(|error| Failure::new(Status::Other, "no thread can be started").because(error))?;
        Ok(Self { name, queue, dropped: AtomicU64::new(0), ended })
    }

    fn offer(&self, observation: &Arc<Observation>) {
        if let Err(TrySendError::Full(_)) = self.queue.try_send(Arc::clone(observation)) {
            self.dropped.fetch_add(1, Ordering::Relaxed);
        }
    }

    /// Gives the last observation, for which a full queue gets some time, and closes the queue.
    fn end(self, last: &Arc<Observation>, give_up: &impl Fn() -> bool) -> (String, u64, Receiver<()>) {
        let mut dropped = self.dropped.into_inner();
        while let Err(TrySendError::Full(_)) = self.queue.try_send(Arc::clone(last)) {
            if give_up() {
                dropped += 1;
                break;
            }
            thread::sleep(GLANCE);
        }
        (self.name, dropped, self.ended)
    }
}

#[cfg(test)]
mod tests {
    use mdt_plugin_api::{Error, Metrics, Result};

    use super::*;

    /// Keeps what it is told, slowly, and fails at an update.
    #[derive(Clone, Default)]
    struct Keeps {
        told: Arc<Mutex<Vec<Event>>>,
        pause: Duration,
        fails_at: Option<u64>,
    }

    impl Observer for Keeps {
        fn observe(&mut self, observation: &Observation) -> Result<()> {
            thread::sleep(self.pause);
            match &observation.event {
                Event::Updated(metrics) if Some(metrics.update) == self.fails_at => Err(Error::other("no more")),
                event => {
                    self.told.lock().unwrap().push(event.clone());
                    Ok(())
                }
            }
        }
    }

    fn updated(update: u64) -> Event {
        Event::Updated(Metrics { update, values: Default::default() })
    }

    fn observed_by(observers: &[&Keeps], updates: u64) -> Duration {
        let boxed = observers.iter().map(|keeps| ("observer x".to_owned(), Box::new((*keeps).clone()) as Box<_>));
        let running = Observers::start(boxed.collect()).unwrap();
        (1..=updates).for_each(|update| running.tell(|| updated(update)));
        let begin = Instant::now();
        running.finish(Event::Finished, &AtomicBool::new(false));
        begin.elapsed()
    }

    #[test]
    fn all_observers_are_told_everything_in_order_and_the_end_last() {
        let (one, other) = (Keeps::default(), Keeps::default());
        observed_by(&[&one, &other], 100);
        let expected: Vec<_> = (1..=100).map(updated).chain([Event::Finished]).collect();
        assert_eq!((&*one.told.lock().unwrap(), &*other.told.lock().unwrap()), (&expected, &expected));
    }

    #[test]
    fn one_that_fails_is_told_nothing_more_and_the_others_all() {
        let fails = Keeps { fails_at: Some(3), ..Keeps::default() };
        let goes_on = Keeps::default();
        observed_by(&[&fails, &goes_on], 5);
        assert_eq!(*fails.told.lock().unwrap(), [updated(1), updated(2)]);
        assert_eq!(goes_on.told.lock().unwrap().len(), 6);
    }

    #[test]
    fn telling_never_waits_and_the_end_of_a_run_waits_a_bounded_time() {
        let slow = Keeps { pause: Duration::from_secs(60), ..Keeps::default() };
        let begin = Instant::now();
        let waited = observed_by(&[&slow, &slow], 100_000);
        assert!(waited >= LAST_WAIT && begin.elapsed() < LAST_WAIT + Duration::from_secs(5), "{waited:?}");
    }

    #[test]
    fn an_interruption_ends_the_wait() {
        let slow = Keeps { pause: Duration::from_secs(60), ..Keeps::default() };
        let running = Observers::start(vec![("observer x".to_owned(), Box::new(slow))]).unwrap();
        running.tell(|| updated(1));
        let (cancelled, begin) = (AtomicBool::new(false), Instant::now());
        thread::scope(|scope| {
            scope.spawn(|| {
                thread::sleep(Duration::from_millis(100));
                cancelled.store(true, Ordering::Relaxed);
            });
            running.finish(Event::Finished, &cancelled);
        });
        assert!(begin.elapsed() < LAST_WAIT);
    }
}
