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

/// A call into a component that has not come back.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CallUnderWay {
    /// A number for the thread.
    pub thread: usize,
    /// The component: `optimizer lion 0.1.0`.
    pub component: &'static str,
    /// The interface: `optimizer.slices/1`.
    pub interface: &'static str,
    /// The function of the interface: `update`.
    pub function: &'static str,
    /// Changes with every call that the thread makes and every return from one.
    pub epoch: u64,
}

/// The innermost call of a thread.
#[derive(Clone, Copy)]
pub(super) struct Call {
    component: *const u8,
    length: usize,
    place: *const Place,
}

/// What a thread says of its call. Only the thread writes, and others see from the epoch whether they read a whole.
struct Marker {
    /// Odd while the fields below change.
    epoch: AtomicU64,
    component: AtomicPtr<u8>,
    length: AtomicUsize,
    place: AtomicPtr<Place>,
    /// Whether the thread has ended, so that another may have the marker.
    is_free: AtomicBool,
    is_unwatched: AtomicBool,
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
        if self.0.get().place.is_null() {
            MARKER.set(None);
            self.0.is_free.store(true, Ordering::Release);
        }
    }
}

impl Marker {
    #[cold]
    fn register() -> &'static Self {
        let mut markers = MARKERS.lock().unwrap_or_else(PoisonError::into_inner);
        let free = markers.iter().find(|marker| marker.is_free.swap(false, Ordering::AcqRel)).copied();
        let marker = free.unwrap_or_else(|| {
            let marker = Self {
                epoch: AtomicU64::new(0),
                component: AtomicPtr::default(),
                length: AtomicUsize::new(0),
                place: AtomicPtr::default(),
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

    fn get(&self) -> Call {
        Call {
            component: self.component.load(Ordering::Relaxed),
            length: self.length.load(Ordering::Relaxed),
            place: self.place.load(Ordering::Relaxed),
        }
    }

    fn set(&self, call: Call) {
        let epoch = self.epoch.load(Ordering::Relaxed);
        self.epoch.store(epoch.wrapping_add(1), Ordering::Relaxed);
        fence(Ordering::Release);
        self.component.store(call.component.cast_mut(), Ordering::Relaxed);
        self.length.store(call.length, Ordering::Relaxed);
        self.place.store(call.place.cast_mut(), Ordering::Relaxed);
        self.epoch.store(epoch.wrapping_add(2), Ordering::Release);
    }

    /// The call, and the epoch that it belongs to. None where there is none, or where it is just changing.
    fn read(&self) -> Option<(&'static str, &'static Place, u64)> {
        let epoch = self.epoch.load(Ordering::Acquire);
        let call = self.get();
        fence(Ordering::Acquire);
        if epoch % 2 == 1 || self.epoch.load(Ordering::Relaxed) != epoch || call.place.is_null() {
            return None;
        }
        // SAFETY: the epoch says that pointer and length were stored together, by `enter`, from a `&'static str`.
        let component = unsafe { std::slice::from_raw_parts(call.component, call.length) };
        // SAFETY: as above; it was a `str`.
        let component = unsafe { std::str::from_utf8_unchecked(component) };
        // SAFETY: as above, from a `&'static Place`.
        Some((component, unsafe { &*call.place }, epoch))
    }
}

#[cfg(test)]
thread_local! {
    /// Interfaces and functions that this thread has called.
    pub(super) static CALLED: RefCell<std::collections::BTreeSet<(&'static str, &'static str)>> = const {
        RefCell::new(std::collections::BTreeSet::new())
    };
}

/// Marks that this thread calls a component, and gives what it was in before, for [`leave`].
pub(super) fn enter(component: &'static str, place: &'static Place) -> Call {
    #[cfg(test)]
    let _ = CALLED.try_with(|called| called.borrow_mut().insert((place.interface, place.function)));
    let marker = MARKER.get().unwrap_or_else(Marker::register);
    let outer = marker.get();
    marker.set(Call { component: component.as_ptr(), length: component.len(), place });
    outer
}

/// Marks that the call has come back.
pub(super) fn leave(outer: Call) {
    if let Some(marker) = MARKER.get() {
        marker.set(outer);
    }
}

/// The component (`optimizer lion 0.1.0`) whose code this thread is in, called from this side of the boundary.
pub fn current_component() -> Option<&'static str> {
    MARKER.get()?.read().map(|(component, ..)| component)
}

/// The calls into components that are under way on all watched threads.
pub fn calls_under_way() -> Vec<CallUnderWay> {
    let markers = MARKERS.lock().unwrap_or_else(PoisonError::into_inner);
    let watched = markers.iter().enumerate().filter(|(_, marker)| !marker.is_unwatched.load(Ordering::Relaxed));
    let call = |(thread, marker): (usize, &&'static Marker)| {
        let (component, &Place { interface, function }, epoch) = marker.read()?;
        Some(CallUnderWay { thread, component, interface, function, epoch })
    };
    watched.filter_map(call).collect()
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
        calls_under_way().into_iter().filter(|call| call.component == component).collect()
    }

    #[test]
    fn a_call_is_seen_from_another_thread_until_it_comes_back() {
        let (go, gone) = mpsc::channel::<()>();
        let (seen, wait) = mpsc::channel::<()>();
        let thread = thread::spawn(move || {
            let outer = enter("optimizer seen 1.0.0", UPDATE);
            seen.send(()).unwrap();
            gone.recv().unwrap();
            leave(outer);
            seen.send(()).unwrap();
            gone.recv().unwrap();
        });
        wait.recv().unwrap();
        let [call] = &of("optimizer seen 1.0.0")[..] else { panic!() };
        assert_eq!((call.interface, call.function), ("optimizer.slices/1", "update"));
        assert_eq!(&of("optimizer seen 1.0.0")[0], call, "the same call has the same epoch");
        go.send(()).unwrap();
        wait.recv().unwrap();
        assert_eq!(of("optimizer seen 1.0.0"), []);
        go.send(()).unwrap();
        thread.join().unwrap();
    }

    #[test]
    fn a_call_inside_of_another_changes_the_epoch_of_the_outer_one() {
        let first = enter("trainer outer 1.0.0", UPDATE);
        let before = of("trainer outer 1.0.0");
        let outer = enter("compute inner 1.0.0", OP);
        assert_eq!(current_component(), Some("compute inner 1.0.0"));
        leave(outer);
        let after = of("trainer outer 1.0.0");
        assert_eq!(current_component(), Some("trainer outer 1.0.0"));
        assert!(before[0].epoch != after[0].epoch);
        leave(first);
        assert_eq!(current_component(), None);
    }

    #[test]
    fn a_thread_can_be_left_unwatched() {
        thread::spawn(|| {
            leave_unwatched();
            let outer = enter("observer slow 1.0.0", UPDATE);
            assert_eq!(of("observer slow 1.0.0"), []);
            leave(outer);
        })
        .join()
        .unwrap();
    }
}
