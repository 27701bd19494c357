//! Limits the time and memory of work on what strangers wrote. A chat template or a pattern of a tokenizer can need any
//! amount of both, and the libraries that run them cannot be interrupted.
//!
//! Such work runs on a thread of its own, and the caller waits. Work that exceeds a limit is given up: its thread stays
//! until the process ends, which it soon does with the error.

use std::alloc::{GlobalAlloc, Layout, System};
use std::any::Any;
use std::cell::Cell;
use std::fmt::Display;
use std::panic::{self, AssertUnwindSafe};
use std::sync::Once;
use std::sync::atomic::{AtomicI64, AtomicU8, Ordering};
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

/// What work runs, for the error of work that is given up.
#[derive(Clone, Copy, Debug, PartialEq)]
#[repr(u8)]
pub enum Part {
    /// The chat template.
    Template,
    /// The tokenizer.
    Tokenizer,
}

/// Why work was given up, and what it ran at that time.
#[derive(Debug)]
pub struct GivenUp {
    pub part: Part,
    pub reason: String,
}

/// Does work on an input of this size in bytes; a panic of it is the inner error. Work inside such work is part of it: it
/// has the same thread and the same limits.
///
/// # Errors
/// The work took too long or too much memory.
pub fn limited<T: Send + 'static>(
    part: Part,
    size: usize,
    work: impl FnOnce() -> T + Send + 'static,
) -> Result<thread::Result<T>, GivenUp> {
    if let Some(state) = STATE.get() {
        let outer = state.part.swap(part as u8, Ordering::Relaxed);
        let result = panic::catch_unwind(AssertUnwindSafe(work));
        state.part.store(outer, Ordering::Relaxed);
        return Ok(result);
    }
    let time = TIME.saturating_add(TIME_PER_BYTE.saturating_mul(u32::try_from(size).unwrap_or(u32::MAX)));
    run(part, time, MEMORY + MEMORY_PER_BYTE * size as u64, work)
}

/// The text of a panic.
pub fn panic_text(payload: &(dyn Any + Send)) -> &str {
    let text = payload.downcast_ref::<String>().map(String::as_str);
    text.or(payload.downcast_ref::<&str>().copied()).unwrap_or("it panicked")
}

fn run<T: Send + 'static>(
    part: Part,
    time: Duration,
    memory: u64,
    work: impl FnOnce() -> T + Send + 'static,
) -> Result<thread::Result<T>, GivenUp> {
    let no_worker = |error: &dyn Display| GivenUp { part, reason: format!("no thread can do the work: {error}") };
    let worker = match WORKER.take() {
        Some(worker) => worker,
        None => Worker::start().map_err(|error| no_worker(&error))?,
    };
    let (sender, result) = mpsc::channel();
    let state = worker.state;
    let work = move || {
        state.memory.store(memory as i64, Ordering::Relaxed);
        state.part.store(part as u8, Ordering::Relaxed);
        STATE.set(Some(state));
        let result = panic::catch_unwind(AssertUnwindSafe(work));
        STATE.set(None);
        drop(sender.send(result));
    };
    worker.work.send(Box::new(work)).map_err(|error| no_worker(&error))?;
    let given_up = |reason| {
        let is_template = state.part.load(Ordering::Relaxed) == Part::Template as u8;
        GivenUp { part: if is_template { Part::Template } else { Part::Tokenizer }, reason }
    };
    for _ in 0..time.div_duration_f64(STEP).ceil() as u64 {
        if let Ok(result) = result.recv_timeout(STEP) {
            WORKER.set(Some(worker));
            return Ok(result);
        }
        if state.memory.load(Ordering::Relaxed) < 0 {
            return Err(given_up(format!("it takes more than {} MiB of memory", memory >> 20)));
        }
    }
    Err(given_up(format!("it takes longer than {} s", time.as_secs())))
}

/// A thread that does the work of one caller. It ends with the caller's thread.
struct Worker {
    work: Sender<Box<dyn FnOnce() + Send>>,
    state: &'static State,
}

/// What a worker's thread and its caller both know.
struct State {
    /// The memory that the thread may still use; below 0, it has stopped for ever.
    memory: AtomicI64,
    /// The [`Part`] that it runs.
    part: AtomicU8,
}

thread_local! {
    static WORKER: Cell<Option<Worker>> = const { Cell::new(None) };
    /// [`Worker::state`], while the thread of a worker works.
    static STATE: Cell<Option<&'static State>> = const { Cell::new(None) };
}

impl Worker {
    fn start() -> std::io::Result<Self> {
        static QUIET: Once = Once::new();
        QUIET.call_once(|| {
            let previous = panic::take_hook();
            panic::set_hook(Box::new(move |info| {
                // The panic of a worker becomes an error.
                if STATE.get().is_none() {
                    previous(info);
                }
            }));
        });
        let (work, received) = mpsc::channel::<Box<dyn FnOnce() + Send>>();
        thread::Builder::new()
            .name("tokenizer".to_owned())
            .spawn(move || received.into_iter().for_each(|work| work()))?;
        // Never freed: the thread may outlive this.
        let state = Box::leak(Box::new(State { memory: AtomicI64::new(0), part: AtomicU8::new(0) }));
        Ok(Self { work, state })
    }
}

/// The system's allocator, which stops a worker that has used up its memory.
struct Limited;

#[global_allocator]
static ALLOCATOR: Limited = Limited;

/// Counts memory that the present thread is about to use; negative for memory that it gives back.
fn count(bytes: i64) {
    let Some(state) = STATE.get() else { return };
    // Only this thread changes it.
    let now = state.memory.load(Ordering::Relaxed).saturating_sub(bytes);
    state.memory.store(now, Ordering::Relaxed);
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

    fn reason<T: Send + 'static>(time: Duration, memory: u64, work: impl FnOnce() -> T + Send + 'static) -> String {
        run(Part::Template, time, memory, work).err().expect("work that is given up").reason
    }

    #[test]
    fn work_that_exceeds_a_limit_is_given_up_and_the_next_work_is_done() {
        assert_eq!(reason(SOON, MEMORY, || thread::sleep(Duration::MAX)), "it takes longer than 0 s");
        assert_eq!(reason(TIME, 1 << 20, || vec![1_u8; 2 << 20].len()), "it takes more than 1 MiB of memory");
        let growing = || iter::repeat_with(|| vec![1_u8; 100]).collect::<LinkedList<_>>().len();
        assert_eq!(reason(TIME, 1 << 20, growing), "it takes more than 1 MiB of memory");
        let returned =
            run(Part::Template, TIME, 1 << 20, || (0..100).map(|_| vec![1_u8; 1 << 19].len()).sum::<usize>());
        assert_eq!(returned.unwrap().unwrap(), 100 << 19);
        let panic = limited(Part::Template, 0, || panic!("on {}", "purpose")).unwrap().map(|(): ()| ()).unwrap_err();
        assert_eq!(panic_text(&*panic), "on purpose");
        assert_eq!(limited(Part::Template, 0, || 1).unwrap().unwrap(), 1);
    }

    #[test]
    fn a_thread_has_one_worker_for_all_its_work_and_work_inside_work() {
        let worker = || limited(Part::Template, 0, || thread::current().id()).unwrap().unwrap();
        assert_eq!(worker(), worker());
        assert_ne!(worker(), thread::spawn(worker).join().unwrap());
        let [outer, inner] = limited(Part::Template, 0, move || [thread::current().id(), worker()]).unwrap().unwrap();
        assert_eq!(outer, inner);
    }

    #[test]
    fn work_that_is_given_up_says_what_it_ran() {
        let inside = |part| {
            let work = move || limited(part, 0, || thread::sleep(Duration::MAX)).map(drop).is_ok();
            run(Part::Template, SOON, MEMORY, work).map(drop).expect_err("work that is given up").part
        };
        assert_eq!([inside(Part::Template), inside(Part::Tokenizer)], [Part::Template, Part::Tokenizer]);
    }
}
