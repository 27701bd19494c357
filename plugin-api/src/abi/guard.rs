//! Panics of a plugin's code are caught here and become errors that name the component.

use std::any::Any;
use std::cell::{Cell, RefCell};
use std::mem::ManuallyDrop;
use std::panic::{self, AssertUnwindSafe};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Once, OnceLock};

use crate::register::Package;
use crate::{Error, LogLevel, Result, Services};

thread_local! {
    /// How many guards this thread is inside of. Its address tells threads apart, cheaper than a `ThreadId`.
    static DEPTH: Cell<usize> = const { Cell::new(0) };
    /// Where the last panic inside a guard happened.
    static PLACE: RefCell<Option<String>> = const { RefCell::new(None) };
}

/// The component whose code is called: its name for errors, and where to log what no error can carry.
pub(crate) struct Owner {
    name: String,
    services: Option<Services>,
}

impl Owner {
    /// A component (`optimizer lion 0.1.0`) that was made with these services.
    pub(crate) fn new(name: String, services: &Services) -> Arc<Self> {
        Arc::new(Self { name, services: Some(services.clone()) })
    }

    /// A part of the host (`host weights`), or a component before it is made.
    pub(crate) fn named(name: impl Into<String>) -> Arc<Self> {
        Arc::new(Self { name: name.into(), services: None })
    }

    /// Drops a value of this component; a panic is logged, since a destructor can return no error.
    fn destroy(&self, value: impl FnOnce()) {
        let dropped = caught(|| {
            value();
            Ok(())
        });
        if let (Err(panic), Some(services)) = (dropped, &self.services) {
            let place = panic.context().iter().map(|(_, place)| format!(" at {place}")).collect::<String>();
            services.log(LogLevel::Warn, &format!("{}: {panic} (in its destructor{place})", self.name));
        }
    }
}

const ANY_THREAD: usize = 0;
/// After a panic. It is no thread: the address of a thread's variable is even.
const NO_THREAD: usize = 1;

/// Guards the calls into one object of a component.
pub(crate) struct Guard {
    /// Who may call it: [`ANY_THREAD`], [`NO_THREAD`] or one.
    callers: AtomicUsize,
    owner: Arc<Owner>,
    first_panic: OnceLock<Error>,
    /// Whether it can be called again after a panic.
    forgives: bool,
}

impl Guard {
    /// A guard for an object that any thread may call.
    pub(crate) fn new(owner: Arc<Owner>) -> Self {
        Self { callers: AtomicUsize::new(ANY_THREAD), owner, first_panic: OnceLock::new(), forgives: false }
    }

    /// A guard for an object that belongs to the present thread.
    pub(crate) fn for_this_thread(owner: Arc<Owner>) -> Self {
        Self { callers: AtomicUsize::new(address(depth())), ..Self::new(owner) }
    }

    /// Calls into the object. After a panic it refuses further calls, with that panic as the reason: its state may be
    /// broken.
    #[inline(always)]
    pub(crate) fn call<T>(&self, body: impl FnOnce() -> Result<T>) -> Result<T> {
        let depth = depth();
        let callers = self.callers.load(Ordering::Acquire);
        if callers != ANY_THREAD && callers != address(depth) {
            return Err(self.refusal());
        }
        match caught_at(depth, body) {
            Ok(Ok(value)) => Ok(value),
            Ok(Err(error)) => Err(self.name(error)),
            Err(panic) => Err(self.remember(panic)),
        }
    }

    /// Why it cannot be called.
    #[cold]
    fn refusal(&self) -> Error {
        self.name(match self.first_panic.get() {
            Some(panic) => panic.clone().after_a_panic(),
            None => Error::plugin("the component was called on a thread that is not its own"),
        })
    }

    #[cold]
    fn remember(&self, panic: Error) -> Error {
        if !self.forgives {
            // A second thread that panics at the same time reports its own.
            let _ = self.first_panic.set(panic.clone());
            self.callers.store(NO_THREAD, Ordering::Release);
        }
        self.name(panic)
    }

    #[cold]
    fn name(&self, error: Error) -> Error {
        error.in_component(&self.owner.name)
    }
}

/// An object of a component with its guard; a panic while it is dropped is caught as well.
pub(crate) struct Guarded<T> {
    value: ManuallyDrop<T>,
    guard: Guard,
}

impl<T> Guarded<T> {
    /// An object that any thread may call.
    pub(crate) fn new(value: T, owner: Arc<Owner>) -> Self {
        Self { value: ManuallyDrop::new(value), guard: Guard::new(owner) }
    }

    /// An object that belongs to the present thread.
    pub(crate) fn for_this_thread(value: T, owner: Arc<Owner>) -> Self {
        Self { value: ManuallyDrop::new(value), guard: Guard::for_this_thread(owner) }
    }

    /// A factory, which one panic while something is made does not break.
    pub(crate) fn factory(value: T, owner: Arc<Owner>) -> Self {
        let guard = Guard { forgives: true, ..Guard::new(owner) };
        Self { value: ManuallyDrop::new(value), guard }
    }

    /// The value, for what runs no code of the component.
    pub(super) fn plain(&self) -> &T {
        &self.value
    }

    /// [`Guard::call`].
    #[inline(always)]
    pub(crate) fn call<R>(&self, body: impl FnOnce(&T) -> Result<R>) -> Result<R> {
        self.guard.call(|| body(&self.value))
    }
}

impl<T> Drop for Guarded<T> {
    fn drop(&mut self) {
        let value = &mut self.value;
        // SAFETY: dropped here only, and not used afterwards.
        self.guard.owner.destroy(|| unsafe { ManuallyDrop::drop(value) });
    }
}

/// Runs `body`; a panic comes back as the outer error.
#[inline(always)]
pub(crate) fn caught<T>(body: impl FnOnce() -> Result<T>) -> Result<Result<T>> {
    caught_at(depth(), body)
}

#[inline(always)]
fn caught_at<T>(depth: &Cell<usize>, body: impl FnOnce() -> Result<T>) -> Result<Result<T>> {
    let outside = depth.get();
    depth.set(outside + 1);
    let outcome = panic::catch_unwind(AssertUnwindSafe(body));
    depth.set(outside);
    outcome.map_err(panic_error)
}

#[cold]
fn panic_error(payload: Box<dyn Any + Send>) -> Error {
    let error = Error::plugin(format!("the plugin panicked: {}", message(&*payload)));
    // A payload may panic when dropped, and nothing would catch that.
    std::mem::forget(payload);
    match PLACE.take() {
        Some(place) => error.with("at", place),
        None => error,
    }
}

fn message(payload: &(dyn Any + Send)) -> &str {
    payload
        .downcast_ref::<&str>()
        .copied()
        .or_else(|| payload.downcast_ref::<String>().map(String::as_str))
        .unwrap_or("(no message)")
}

/// This thread's [`DEPTH`]. A call looks it up once: in a dynamic library each look-up is a call.
#[inline(always)]
fn depth<'a>() -> &'a Cell<usize> {
    // SAFETY: nothing drops it while the thread runs, and the reference stays on the thread, for it is not `Send`.
    DEPTH.with(|depth| unsafe { &*std::ptr::from_ref(depth) })
}

fn address(depth: &Cell<usize>) -> usize {
    std::ptr::from_ref(depth) as usize
}

/// Where panics on threads of this library's own are logged: the services of its first component.
static PANIC_LOG: OnceLock<Services> = OnceLock::new();

/// Has panics on threads of this library's own logged here, unless they are logged somewhere already.
pub(crate) fn log_panics_to(services: &Services) {
    // The first services serve as well as any.
    let _ = PANIC_LOG.set(services.clone());
}

/// Logs a panic that no guarded call meets: it is on a thread that the library has started itself.
fn log_panic(info: &panic::PanicHookInfo<'_>) -> bool {
    let Some(services) = PANIC_LOG.get() else { return false };
    let library = Package::of_this_library().unwrap_or("a plugin");
    let place = info.location().map(|place| format!(" (at {place})")).unwrap_or_default();
    let message = message(info.payload());
    services.log(LogLevel::Warn, &format!("{library}: a thread of its own panicked: {message}{place}"));
    true
}

/// Keeps the panic text of guarded calls off the terminal: it becomes part of the error. A panic elsewhere is logged with
/// the library's name. Every library has its own copy of the standard library and so its own hook; the entry of each
/// plugin calls this.
pub(crate) fn keep_panics_quiet() {
    static ONCE: Once = Once::new();
    ONCE.call_once(|| {
        let previous = panic::take_hook();
        panic::set_hook(Box::new(move |info| {
            if DEPTH.get() > 0 {
                PLACE.set(info.location().map(ToString::to_string));
            } else if !log_panic(info) {
                previous(info);
            }
        }));
    });
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_object_of_one_thread_refuses_calls_on_others() {
        let guard = Guard::for_this_thread(Owner::named("compute x"));
        let other = std::thread::scope(|scope| scope.spawn(|| guard.call(|| Ok(()))).join().unwrap());
        let error = other.unwrap_err();
        assert!(error.message().contains("on a thread that is not its own"), "{error}");
        assert_eq!(guard.call(|| Ok(7)).unwrap(), 7, "its own thread");
    }
}
