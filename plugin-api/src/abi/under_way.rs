//! Which calls into components are under way, on every thread: for a watchdog, and for the last words of a process.
//!
//! A call costs a few plain stores to a place of its thread. It reads no clock and allocates nothing: whoever watches looks
//! now and then whether a thread is still in the same call.

use std::cell::{Cell, RefCell};
use std::sync::atomic::{AtomicBool, AtomicPtr, AtomicU64, AtomicUsize, Ordering, fence};
use std::sync::{Mutex, PoisonError};

/// A function of an interface.
pub(super) struct Place {
    pub(super) interface: &'static str,
    pub(super) function: &'static str,
}

/// A call into a component.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Call {
    /// The component: `optimizer lion 0.1.0`.
    pub component: &'static str,
    /// The interface: `optimizer.slices/1`.
    pub interface: &'static str,
    /// The function of the interface: `update`.
    pub function: &'static str,
}

/// A call into a component that has not come back.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CallUnderWay {
    /// A number for the thread.
    pub thread: usize,
    /// How many calls of the thread it is inside of.
    pub level: usize,
    /// Differs between two calls of one thread and level.
    pub epoch: u64,
    /// Changes with each call that it makes.
    pub inner_epoch: u64,
    /// The call.
    pub call: Call,
}

/// So many calls inside of each other are seen; those inside of these are not.
const LEVELS: usize = 16;

/// What a thread says of its calls. Only the thread writes.
struct Marker {
    /// How many calls are under way.
    depth: AtomicUsize,
    levels: [Level; LEVELS],
    /// Whether the thread has ended, so that another may have the marker.
    is_free: AtomicBool,
    is_unwatched: AtomicBool,
}

/// The call at a level, or the last one that was there. Others see from the epoch whether they read a whole.
#[derive(Default)]
struct Level {
    /// Odd while the fields below change.
    epoch: AtomicU64,
    component: AtomicPtr<u8>,
    length: AtomicUsize,
    place: AtomicPtr<Place>,
}

/// The markers of all threads, for good.
static MARKERS: Mutex<Vec<&'static Marker>> = Mutex::new(Vec::new());

thread_local! {
    static MARKER: Cell<Option<&'static Marker>> = const { Cell::new(None) };
    /// Gives the marker back when the thread ends.
    static OWNED: RefCell<Option<Owned>> = const { RefCell::new(None) };
}

struct Owned(&'static Marker);

impl Drop for Owned {
    fn drop(&mut self) {
        // Inside of a call the process is ending, by an `exit` of the component whose name is still to be told.
        if self.0.depth.load(Ordering::Relaxed) == 0 {
            MARKER.set(None);
            self.0.is_free.store(true, Ordering::Release);
        }
    }
}

impl Level {
    #[inline(always)]
    fn set(&self, component: &'static str, place: &'static Place) {
        let epoch = self.epoch.load(Ordering::Relaxed);
        self.epoch.store(epoch.wrapping_add(1), Ordering::Relaxed);
        fence(Ordering::Release);
        self.component.store(component.as_ptr().cast_mut(), Ordering::Relaxed);
        self.length.store(component.len(), Ordering::Relaxed);
        self.place.store(std::ptr::from_ref(place).cast_mut(), Ordering::Relaxed);
        self.epoch.store(epoch.wrapping_add(2), Ordering::Release);
    }

    /// The call, and its epoch. None where it is just changing.
    fn read(&self) -> Option<(Call, u64)> {
        let epoch = self.epoch.load(Ordering::Acquire);
        let (component, length) = (self.component.load(Ordering::Relaxed), self.length.load(Ordering::Relaxed));
        let place = self.place.load(Ordering::Relaxed);
        fence(Ordering::Acquire);
        if epoch % 2 == 1 || self.epoch.load(Ordering::Relaxed) != epoch || place.is_null() {
            return None;
        }
        // SAFETY: the epoch says that pointer and length were stored together, by `set`, from a `&'static str`.
        let component = unsafe { std::slice::from_raw_parts(component, length) };
        // SAFETY: as above; it was a `str`.
        let component = unsafe { std::str::from_utf8_unchecked(component) };
        // SAFETY: as above, from a `&'static Place`.
        let &Place { interface, function } = unsafe { &*place };
        Some((Call { component, interface, function }, epoch))
    }
}

impl Marker {
    #[cold]
    fn register() -> &'static Self {
        let mut markers = MARKERS.lock().unwrap_or_else(PoisonError::into_inner);
        let free = markers.iter().find(|marker| marker.is_free.swap(false, Ordering::AcqRel)).copied();
        let marker = free.unwrap_or_else(|| {
            let marker = Self {
                depth: AtomicUsize::new(0),
                levels: Default::default(),
                is_free: AtomicBool::new(false),
                is_unwatched: AtomicBool::new(false),
            };
            let marker: &'static Self = Box::leak(Box::new(marker));
            markers.push(marker);
            marker
        });
        marker.is_unwatched.store(false, Ordering::Relaxed);
        MARKER.set(Some(marker));
        // Where the thread is ending already, the marker stays its own.
        let _ = OWNED.try_with(|owned| owned.replace(Some(Owned(marker))));
        marker
    }

    /// The levels at which calls are under way, outermost first.
    fn calls(&self) -> &[Level] {
        &self.levels[..self.depth.load(Ordering::Acquire).min(LEVELS)]
    }
}

#[cfg(test)]
thread_local! {
    /// Interfaces and functions that this thread has called.
    pub(super) static CALLED: RefCell<std::collections::BTreeSet<(&'static str, &'static str)>> = const {
        RefCell::new(std::collections::BTreeSet::new())
    };
}

/// A call that has not come back. It is dropped when it has, and so after those that it made.
#[must_use = "the call is over when this is dropped"]
pub(super) struct UnderWay {
    marker: &'static Marker,
    depth: usize,
}

/// Marks that this thread calls a component.
#[inline(always)]
pub(super) fn enter(component: &'static str, place: &'static Place) -> UnderWay {
    #[cfg(test)]
    let _ = CALLED.try_with(|called| called.borrow_mut().insert((place.interface, place.function)));
    let marker = MARKER.get().unwrap_or_else(Marker::register);
    let depth = marker.depth.load(Ordering::Relaxed);
    if let Some(level) = marker.levels.get(depth) {
        level.set(component, place);
    }
    marker.depth.store(depth + 1, Ordering::Release);
    UnderWay { marker, depth }
}

impl Drop for UnderWay {
    #[inline(always)]
    fn drop(&mut self) {
        self.marker.depth.store(self.depth, Ordering::Release);
    }
}

/// The innermost call, from this side of the boundary, that this thread is in.
pub fn current_call() -> Option<Call> {
    MARKER.get()?.calls().last()?.read().map(|(call, _)| call)
}

/// The calls into components that are under way on all watched threads; those of a thread with the outermost first.
pub fn calls_under_way() -> Vec<CallUnderWay> {
    let markers = MARKERS.lock().unwrap_or_else(PoisonError::into_inner);
    let watched = markers.iter().enumerate().filter(|(_, marker)| !marker.is_unwatched.load(Ordering::Relaxed));
    let calls = |(thread, &marker): (usize, &&'static Marker)| {
        let calls = marker.calls().iter().enumerate();
        calls.filter_map(move |(level, call)| {
            let (call, epoch) = call.read()?;
            let inner_epoch = marker.levels.get(level + 1).map_or(0, |inner| inner.epoch.load(Ordering::Relaxed));
            Some(CallUnderWay { thread, level, epoch, inner_epoch, call })
        })
    };
    watched.flat_map(calls).collect()
}

/// Leaves the calls of this thread out of [`calls_under_way`]: nothing waits for them.
pub fn leave_unwatched() {
    MARKER.get().unwrap_or_else(Marker::register).is_unwatched.store(true, Ordering::Relaxed);
}

#[cfg(test)]
mod tests {
    use std::sync::mpsc;
    use std::thread;

    use super::*;

    const UPDATE: &Place = &Place { interface: "optimizer.slices/1", function: "update" };
    const OP: &Place = &Place { interface: "compute.tensors/1", function: "op" };

    fn of(component: &str) -> Vec<CallUnderWay> {
        calls_under_way().into_iter().filter(|under_way| under_way.call.component == component).collect()
    }

    #[test]
    fn a_call_is_seen_from_another_thread_until_it_comes_back() {
        let (go, gone) = mpsc::channel::<()>();
        let (seen, wait) = mpsc::channel::<()>();
        let thread = thread::spawn(move || {
            let call = enter("optimizer seen 1.0.0", UPDATE);
            seen.send(()).unwrap();
            gone.recv().unwrap();
            drop(call);
            seen.send(()).unwrap();
            gone.recv().unwrap();
        });
        wait.recv().unwrap();
        let [call] = &of("optimizer seen 1.0.0")[..] else { panic!() };
        assert_eq!((call.call.interface, call.call.function), ("optimizer.slices/1", "update"));
        assert_eq!(&of("optimizer seen 1.0.0")[0], call, "the same call has the same epoch");
        go.send(()).unwrap();
        wait.recv().unwrap();
        assert_eq!(of("optimizer seen 1.0.0"), []);
        go.send(()).unwrap();
        thread.join().unwrap();
    }

    #[test]
    fn a_call_stays_the_same_while_it_makes_calls() {
        let outer = enter("trainer outer 1.0.0", UPDATE);
        let before = of("trainer outer 1.0.0").remove(0);
        for _ in 0..3 {
            let inner = enter("compute inner 1.0.0", OP);
            assert_eq!(current_call().unwrap().component, "compute inner 1.0.0");
            assert_eq!((before.level, of("compute inner 1.0.0")[0].level), (0, 1));
            drop(inner);
        }
        let after = of("trainer outer 1.0.0").remove(0);
        assert!(after.epoch == before.epoch && after.inner_epoch != before.inner_epoch);
        assert_eq!(current_call().unwrap().component, "trainer outer 1.0.0");
        drop(outer);
        assert_eq!(current_call(), None);
        let _another = enter("trainer outer 1.0.0", UPDATE);
        assert_ne!(of("trainer outer 1.0.0")[0].epoch, before.epoch, "another call");
    }

    #[test]
    fn calls_that_lie_too_deep_are_not_seen_and_change_nothing() {
        let mut calls: Vec<_> = (0..2 * LEVELS).map(|_| enter("trainer deep 1.0.0", UPDATE)).collect();
        assert_eq!(of("trainer deep 1.0.0").len(), LEVELS);
        while calls.pop().is_some() {}
        assert_eq!(of("trainer deep 1.0.0"), []);
    }

    #[test]
    fn a_thread_can_be_left_unwatched() {
        thread::spawn(|| {
            leave_unwatched();
            let _call = enter("observer slow 1.0.0", UPDATE);
            assert_eq!(of("observer slow 1.0.0"), []);
        })
        .join()
        .unwrap();
    }
}
