//! Panics end here: what a plugin's code throws becomes an error that names the component.

use std::any::Any;
use std::cell::{Cell, RefCell};
use std::panic::{self, AssertUnwindSafe};
use std::sync::Once;
use std::sync::atomic::{AtomicBool, Ordering};

use abi_stable::std_types::{RErr, ROk, RResult};

use super::types::RawError;
use crate::{Error, Result};

thread_local! {
    /// How many guards this thread is inside of.
    static DEPTH: Cell<usize> = const { Cell::new(0) };
    /// Where the last panic inside a guard happened.
    static PLACE: RefCell<Option<String>> = const { RefCell::new(None) };
    /// Its address tells threads apart, cheaper than a `ThreadId`.
    static MARK: u8 = const { 0 };
}

/// Who is being called, and whether it can still be.
pub(crate) struct Guard {
    component: String,
    poisoned: AtomicBool,
    /// The only thread that may call it, where there is one.
    thread: Option<usize>,
}

impl Guard {
    /// A guard for a component that any thread may call.
    pub(crate) fn new(component: String) -> Self {
        Self { component, poisoned: AtomicBool::new(false), thread: None }
    }

    /// A guard for a component that lives on the present thread.
    pub(crate) fn for_this_thread(component: String) -> Self {
        Self { component, poisoned: AtomicBool::new(false), thread: Some(this_thread()) }
    }

    /// Calls into the component. After a panic it refuses further calls: its state may be broken.
    pub(crate) fn call<T>(&self, body: impl FnOnce() -> Result<T>) -> RResult<T, RawError> {
        match self.result(body) {
            Ok(value) => ROk(value),
            Err(error) => RErr(error.in_component(&self.component).into()),
        }
    }

    /// The same for calls that cannot report an error: they give `fallback` instead.
    pub(crate) fn call_or<T>(&self, fallback: T, body: impl FnOnce() -> T) -> T {
        self.result(|| Ok(body())).unwrap_or(fallback)
    }

    fn result<T>(&self, body: impl FnOnce() -> Result<T>) -> Result<T> {
        if self.poisoned.load(Ordering::Relaxed) {
            return Err(Error::plugin("the component has panicked before and takes no more calls"));
        }
        if self.thread.is_some_and(|thread| thread != this_thread()) {
            return Err(Error::plugin("the component was called on a thread that is not its own"));
        }
        caught(body).unwrap_or_else(|error| {
            self.poisoned.store(true, Ordering::Relaxed);
            Err(error)
        })
    }
}

/// Runs `body`; a panic comes back as the outer error.
pub(crate) fn caught<T>(body: impl FnOnce() -> Result<T>) -> Result<Result<T>> {
    DEPTH.set(DEPTH.get() + 1);
    let outcome = panic::catch_unwind(AssertUnwindSafe(body));
    DEPTH.set(DEPTH.get() - 1);
    outcome.map_err(|payload| {
        let error = Error::plugin(format!("the plugin panicked: {}", message(&*payload)));
        // A payload may panic when dropped, and nothing would catch that.
        std::mem::forget(payload);
        match PLACE.take() {
            Some(place) => error.with("at", place),
            None => error,
        }
    })
}

fn message(payload: &(dyn Any + Send)) -> &str {
    payload
        .downcast_ref::<&str>()
        .copied()
        .or_else(|| payload.downcast_ref::<String>().map(String::as_str))
        .unwrap_or("(no message)")
}

fn this_thread() -> usize {
    MARK.with(|mark| std::ptr::from_ref(mark) as usize)
}

/// Keeps the panic text of guarded calls off the terminal: it becomes part of the error. Every library has its own
/// copy of the standard library and so its own hook; the entry of each plugin calls this.
pub(crate) fn keep_panics_quiet() {
    static ONCE: Once = Once::new();
    ONCE.call_once(|| {
        let previous = panic::take_hook();
        panic::set_hook(Box::new(move |info| {
            if DEPTH.get() > 0 {
                PLACE.set(info.location().map(ToString::to_string));
            } else {
                previous(info);
            }
        }));
    });
}
