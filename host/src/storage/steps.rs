//! Points between the file operations of a save. Tests look at the disk there: what they find is what a process that
//! was killed at that moment leaves behind.

/// Says that a file operation is done.
#[cfg(not(test))]
pub(crate) fn reached(_step: &'static str) {}

#[cfg(test)]
pub(crate) use observed::{observe, reached};

#[cfg(test)]
mod observed {
    use std::cell::RefCell;

    type Observer = Box<dyn FnMut(&'static str)>;

    thread_local! {
        static OBSERVER: RefCell<Option<Observer>> = const { RefCell::new(None) };
    }

    pub(crate) fn reached(step: &'static str) {
        OBSERVER.with_borrow_mut(|observer| {
            if let Some(observer) = observer {
                observer(step);
            }
        });
    }

    /// Calls `observer` after every file operation of `work`.
    pub(crate) fn observe<T>(observer: impl FnMut(&'static str) + 'static, work: impl FnOnce() -> T) -> T {
        OBSERVER.set(Some(Box::new(observer)));
        let result = work();
        OBSERVER.set(None);
        result
    }
}
