//! The compute threads: a small pool that all kernels share.
//!
//! Workers wait for a moment by spinning and then sleep, so a pool without work costs no CPU. The caller takes part.
//! One job runs at a time; a job that is started from inside a job, or while another thread's job runs, runs on the calling thread.

use std::any::Any;
use std::cell::{Cell, UnsafeCell};
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Condvar, Mutex, OnceLock, PoisonError, RwLock};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

/// How long an idle worker spins before it sleeps. Kernels of one step follow each other within this time.
const SPIN: Duration = Duration::from_micros(30);

/// Sets the number of compute threads, the caller included; 0 means one per core. Waits for a running job to end.
pub fn set_threads(threads: usize) {
    THREADS.store(threads, Ordering::Relaxed);
    let mut pool = global().write().unwrap_or_else(PoisonError::into_inner);
    if pool.threads != self::threads() {
        *pool = Pool::new(self::threads());
    }
}

/// The number of compute threads, the caller included.
pub fn threads() -> usize {
    // Not through the lock: a kernel may ask from inside a job while `set_threads` waits for that job.
    match THREADS.load(Ordering::Relaxed) {
        0 => cores(),
        threads => threads,
    }
}

/// The number asked for last, 0 for one per core.
static THREADS: AtomicUsize = AtomicUsize::new(0);

fn cores() -> usize {
    std::thread::available_parallelism().map_or(1, usize::from)
}

/// Calls `body(task)` with every task, spread over the compute threads in no particular order, and returns when all are done.
pub fn run<T: Send>(tasks: Vec<T>, body: impl Fn(T) + Sync) {
    struct Slots<T>(Vec<UnsafeCell<Option<T>>>);
    // SAFETY: `parallel_for` hands each index to exactly one call, so no slot is touched by two threads.
    unsafe impl<T: Send> Sync for Slots<T> {}

    let slots = Slots(tasks.into_iter().map(|task| UnsafeCell::new(Some(task))).collect());
    let slots = &slots;
    parallel_for(slots.0.len(), &|index| {
        // SAFETY: this call is the only one with this index (see `Slots`).
        let task = unsafe { (*slots.0[index].get()).take() };
        body(task.expect("each task runs once"));
    });
}

/// Calls `body(0)` to `body(count - 1)`, each once, spread over the compute threads; a panic in one is resumed on the caller.
pub fn parallel_for(count: usize, body: &(dyn Fn(usize) + Sync)) {
    thread_local!(static INSIDE: Cell<bool> = const { Cell::new(false) });
    if count <= 1 || INSIDE.get() {
        return (0..count).for_each(body);
    }
    let pool = global().read().unwrap_or_else(PoisonError::into_inner);
    INSIDE.set(true);
    let outcome = pool.execute(count, &|index| {
        // Worker threads enter here too: a nested call on them must not wait for the pool that they are part of.
        let before = INSIDE.replace(true);
        body(index);
        INSIDE.set(before);
    });
    INSIDE.set(false);
    drop(pool);
    if let Err(panic) = outcome {
        resume_unwind(panic);
    }
}

fn global() -> &'static RwLock<Pool> {
    static POOL: OnceLock<RwLock<Pool>> = OnceLock::new();
    POOL.get_or_init(|| RwLock::new(Pool::new(threads())))
}

/// One batch of calls. `body` lives on the stack of `Pool::execute`, which does not return before `done == count`.
struct Job {
    body: *const (dyn Fn(usize) + Sync),
    count: usize,
    next: AtomicUsize,
    done: AtomicUsize,
    panic: Mutex<Option<Box<dyn Any + Send>>>,
}

// SAFETY: `body` is a shared reference to a `Sync` closure, and the other fields are `Sync`.
unsafe impl Send for Job {}
// SAFETY: as above.
unsafe impl Sync for Job {}

impl Job {
    /// Takes indices until none is left.
    fn work(&self) {
        loop {
            let index = self.next.fetch_add(1, Ordering::Relaxed);
            if index >= self.count {
                return;
            }
            // SAFETY: this call is not yet counted in `done`, so `execute` is still waiting and its closure is alive.
            let body = unsafe { &*self.body };
            if let Err(panic) = catch_unwind(AssertUnwindSafe(|| body(index))) {
                self.panic.lock().unwrap_or_else(PoisonError::into_inner).get_or_insert(panic);
            }
            self.done.fetch_add(1, Ordering::Release);
        }
    }
}

/// What the threads of a pool share.
struct Shared {
    /// Counts jobs; a worker that sees a new number takes `job`.
    generation: AtomicUsize,
    stop: AtomicBool,
    job: Mutex<Option<Arc<Job>>>,
    wake: Condvar,
}

struct Pool {
    /// As asked for; a machine that refuses a thread gives fewer workers.
    threads: usize,
    shared: Arc<Shared>,
    workers: Vec<JoinHandle<()>>,
    turn: Mutex<()>,
}

impl Pool {
    fn new(threads: usize) -> Self {
        let shared = Arc::new(Shared {
            generation: AtomicUsize::new(0),
            stop: AtomicBool::new(false),
            job: Mutex::new(None),
            wake: Condvar::new(),
        });
        let workers = (1..threads)
            .filter_map(|number| {
                let shared = Arc::clone(&shared);
                // Fewer workers give the same results.
                std::thread::Builder::new().name(format!("mdt-compute-{number}")).spawn(move || worker(&shared)).ok()
            })
            .collect();
        Pool { threads, shared, workers, turn: Mutex::new(()) }
    }

    fn execute(&self, count: usize, body: &(dyn Fn(usize) + Sync)) -> Result<(), Box<dyn Any + Send>> {
        let turn = self.turn.try_lock();
        if self.workers.is_empty() || turn.is_err() {
            return catch_unwind(AssertUnwindSafe(|| (0..count).for_each(body)));
        }
        // SAFETY: only the lifetime changes, and `body` is not used after this function has seen `done == count`.
        let body: *const (dyn Fn(usize) + Sync) = unsafe { std::mem::transmute(body) };
        let (next, done) = (AtomicUsize::new(0), AtomicUsize::new(0));
        let job = Arc::new(Job { body, count, next, done, panic: Mutex::new(None) });
        {
            let mut slot = self.shared.job.lock().unwrap_or_else(PoisonError::into_inner);
            *slot = Some(Arc::clone(&job));
            // Under the lock, so that a worker cannot miss it between its last look and its sleep.
            self.shared.generation.fetch_add(1, Ordering::Release);
        }
        self.shared.wake.notify_all();
        job.work();
        let mut spins = 0u32;
        while job.done.load(Ordering::Acquire) != count {
            // The last task of a worker is short; but when another process holds its core, let that one run.
            spins += 1;
            if spins < 20_000 { std::hint::spin_loop() } else { std::thread::yield_now() }
        }
        let panic = job.panic.lock().unwrap_or_else(PoisonError::into_inner).take();
        panic.map_or(Ok(()), Err)
    }
}

impl Drop for Pool {
    fn drop(&mut self) {
        self.shared.stop.store(true, Ordering::Release);
        drop(self.shared.job.lock().unwrap_or_else(PoisonError::into_inner));
        self.shared.wake.notify_all();
        for worker in self.workers.drain(..) {
            let _ = worker.join();
        }
    }
}

fn worker(shared: &Shared) {
    let mut seen = 0;
    loop {
        let idle = Instant::now();
        let mut spins = 0u32;
        while shared.generation.load(Ordering::Acquire) == seen && !shared.stop.load(Ordering::Acquire) {
            spins += 1;
            if spins.is_multiple_of(64) && idle.elapsed() > SPIN {
                break;
            }
            std::hint::spin_loop();
        }
        let mut slot = shared.job.lock().unwrap_or_else(PoisonError::into_inner);
        while shared.generation.load(Ordering::Acquire) == seen && !shared.stop.load(Ordering::Acquire) {
            slot = shared.wake.wait(slot).unwrap_or_else(PoisonError::into_inner);
        }
        if shared.stop.load(Ordering::Acquire) {
            return;
        }
        seen = shared.generation.load(Ordering::Acquire);
        let job = slot.clone();
        drop(slot);
        if let Some(job) = job {
            job.work();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_task_runs_once_on_any_number_of_threads() {
        for threads in [1, 2, 5] {
            let pool = Pool::new(threads);
            for count in [0, 1, 2, 7, 1000] {
                let hits: Vec<AtomicUsize> = (0..count).map(|_| AtomicUsize::new(0)).collect();
                pool.execute(count, &|i| {
                    hits[i].fetch_add(1, Ordering::Relaxed);
                })
                .expect("no panic");
                assert!(hits.iter().all(|h| h.load(Ordering::Relaxed) == 1), "{threads} threads, {count} tasks");
            }
        }
    }

    #[test]
    fn a_job_inside_a_job_runs_on_its_caller() {
        let total = AtomicUsize::new(0);
        parallel_for(8, &|_| {
            parallel_for(8, &|_| {
                total.fetch_add(1, Ordering::Relaxed);
            });
        });
        assert_eq!(total.load(Ordering::Relaxed), 64);
    }

    #[test]
    fn a_panic_reaches_the_caller_and_the_pool_lives_on() {
        let caught = catch_unwind(|| parallel_for(64, &|i| assert!(i != 13, "unlucky")));
        assert!(caught.is_err());
        let total = AtomicUsize::new(0);
        parallel_for(64, &|_| {
            total.fetch_add(1, Ordering::Relaxed);
        });
        assert_eq!(total.load(Ordering::Relaxed), 64);
    }

    #[test]
    fn tasks_are_moved_into_the_calls() {
        let mut data = vec![0u32; 1000];
        run(data.chunks_mut(64).enumerate().collect(), |(i, chunk): (usize, &mut [u32])| chunk.fill(i as u32));
        assert!(data.iter().enumerate().all(|(i, &value)| value == (i / 64) as u32));
    }
}
