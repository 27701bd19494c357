//! Limits the time and memory of work on what strangers wrote. A chat template or a pattern of a tokenizer can need any
//! amount of both, and the libraries that run them cannot be interrupted.
//!
//! Such work runs on a thread of its own, and the caller waits. Work that exceeds a limit is given up: its thread stays
//! until the process ends, which it soon does with the error.

use std::alloc::{GlobalAlloc, Layout, System};
use std::cell::Cell;
use std::panic::{self, AssertUnwindSafe};
use std::sync::Once;
use std::sync::atomic::{AtomicI64, Ordering};
use std::sync::mpsc::{self, Sender};
use std::thread;
use std::time::Duration;

/// How long work on an input may take: far longer than any that ends, on a loaded machine too.
const TIME: Duration = Duration::from_secs(10);
/// The additional time for each byte of the input. Tokenizers read a byte in less than a microsecond.
const TIME_PER_BYTE: Duration = Duration::from_micros(4);

/// How much memory work may use, in bytes, and how much more for each byte of its input.
const MEMORY: u64 = 512 << 20;
const MEMORY_PER_BYTE: u64 = 256;

/// The caller counts time in such steps: one in which the whole process was stopped counts once.
const STEP: Duration = Duration::from_millis(20);

/// The result of work on an input of this size in bytes, or the reason why there is none: the work took too long or too
/// much memory, or panicked.
pub fn limited<T: Send + 'static>(size: usize, work: impl FnOnce() -> T + Send + 'static) -> Result<T, String> {
    let time = TIME.saturating_add(TIME_PER_BYTE.saturating_mul(u32::try_from(size).unwrap_or(u32::MAX)));
    run(time, MEMORY + MEMORY_PER_BYTE * size as u64, work)
}

fn run<T: Send + 'static>(time: Duration, memory: u64, work: impl FnOnce() -> T + Send + 'static) -> Result<T, String> {
    let worker = match WORKER.take() {
        Some(worker) => worker,
        None => Worker::start().map_err(|error| format!("no thread can be started: {error}"))?,
    };
    let (sender, result) = mpsc::channel();
    let left = worker.memory;
    let work = move || {
        left.store(memory as i64, Ordering::Relaxed);
        MEMORY_LEFT.set(Some(left));
        let result = panic::catch_unwind(AssertUnwindSafe(work));
        MEMORY_LEFT.set(None);
        drop(sender.send(result));
    };
    worker.work.send(Box::new(work)).map_err(|error| error.to_string())?;
    for _ in 0..time.div_duration_f64(STEP).ceil() as u64 {
        if let Ok(result) = result.recv_timeout(STEP) {
            WORKER.set(Some(worker));
            return result.map_err(|payload| {
                let text = payload.downcast_ref::<String>().map(String::as_str);
                text.or(payload.downcast_ref::<&str>().copied()).unwrap_or("it panicked").to_owned()
            });
        }
        if worker.memory.load(Ordering::Relaxed) < 0 {
            return Err(format!("it takes more than {} MiB of memory", memory >> 20));
        }
    }
    Err(format!("it takes longer than {} s", time.as_secs()))
}

/// A thread that does the work of one caller. It ends with the caller's thread.
struct Worker {
    work: Sender<Box<dyn FnOnce() + Send>>,
    /// The memory that the thread may still use; below 0, it has stopped for ever.
    memory: &'static AtomicI64,
}

thread_local! {
    static WORKER: Cell<Option<Worker>> = const { Cell::new(None) };
    /// [`Worker::memory`], while the thread of a worker works.
    static MEMORY_LEFT: Cell<Option<&'static AtomicI64>> = const { Cell::new(None) };
}

impl Worker {
    fn start() -> std::io::Result<Self> {
        static QUIET: Once = Once::new();
        QUIET.call_once(|| {
            let previous = panic::take_hook();
            panic::set_hook(Box::new(move |info| {
                // The panic of a worker becomes an error.
                if MEMORY_LEFT.get().is_none() {
                    previous(info);
                }
            }));
        });
        let (work, received) = mpsc::channel::<Box<dyn FnOnce() + Send>>();
        thread::Builder::new().name("sft".to_owned()).spawn(move || received.into_iter().for_each(|work| work()))?;
        // Never freed: the thread may outlive this.
        Ok(Self { work, memory: Box::leak(Box::default()) })
    }
}

/// The system's allocator, which stops a worker that has used up its memory.
struct Limited;

#[global_allocator]
static ALLOCATOR: Limited = Limited;

/// Counts memory that the present thread is about to use; negative for memory that it gives back.
fn count(bytes: i64) {
    let Some(left) = MEMORY_LEFT.get() else { return };
    // Only this thread changes it.
    let now = left.load(Ordering::Relaxed).saturating_sub(bytes);
    left.store(now, Ordering::Relaxed);
    if now < 0 {
        loop {
            thread::sleep(Duration::MAX);
        }
    }
}

// SAFETY: every call goes to the system's allocator as it is; `count` allocates nothing.
unsafe impl GlobalAlloc for Limited {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        count(layout.size() as i64);
        // SAFETY: the caller keeps the contract of this method, which is the system allocator's.
        unsafe { System.alloc(layout) }
    }

    unsafe fn alloc_zeroed(&self, layout: Layout) -> *mut u8 {
        count(layout.size() as i64);
        // SAFETY: as in `alloc`.
        unsafe { System.alloc_zeroed(layout) }
    }

    unsafe fn realloc(&self, pointer: *mut u8, layout: Layout, size: usize) -> *mut u8 {
        count(size as i64 - layout.size() as i64);
        // SAFETY: as in `alloc`.
        unsafe { System.realloc(pointer, layout, size) }
    }

    unsafe fn dealloc(&self, pointer: *mut u8, layout: Layout) {
        count(-(layout.size() as i64));
        // SAFETY: as in `alloc`.
        unsafe { System.dealloc(pointer, layout) }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::LinkedList;
    use std::iter;

    use super::*;

    const SOON: Duration = Duration::from_millis(100);

    #[test]
    fn work_that_exceeds_a_limit_is_given_up_and_the_next_work_is_done() {
        let endless = run(SOON, MEMORY, || thread::sleep(Duration::MAX));
        assert_eq!(endless.unwrap_err(), "it takes longer than 0 s");
        let large = run(TIME, 1 << 20, || vec![1_u8; 2 << 20].len());
        assert_eq!(large.unwrap_err(), "it takes more than 1 MiB of memory");
        let growing = run(TIME, 1 << 20, || iter::repeat_with(|| vec![1_u8; 100]).collect::<LinkedList<_>>().len());
        assert_eq!(growing.unwrap_err(), "it takes more than 1 MiB of memory");
        assert_eq!(run(TIME, 1 << 20, || (0..100).map(|_| vec![1_u8; 1 << 19].len()).sum()), Ok(100 << 19));
        assert_eq!(run::<()>(TIME, MEMORY, || panic!("on purpose")).unwrap_err(), "on purpose");
        assert_eq!(limited(0, || 1), Ok(1));
    }

    #[test]
    fn a_thread_has_one_worker_for_all_its_work() {
        let worker = || limited(0, || thread::current().id()).unwrap();
        assert_eq!(worker(), worker());
        assert_ne!(Ok(worker()), thread::spawn(worker).join().map_err(drop));
    }
}
