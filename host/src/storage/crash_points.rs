//! Points between the file operations of a save, at which a test may copy the directory: the copy is what a process
//! that is killed at that moment leaves behind.

/// Reports that a file operation is done. Does nothing outside of tests.
#[cfg(not(test))]
pub(crate) fn reached(_point: &'static str) {}

#[cfg(test)]
pub(crate) use observed::{observe, reached};

#[cfg(test)]
mod observed {
    use std::cell::RefCell;

    type Observer = Box<dyn FnMut(&'static str)>;

    thread_local! {
        static OBSERVER: RefCell<Option<Observer>> = const { RefCell::new(None) };
    }

    pub(crate) fn reached(point: &'static str) {
        OBSERVER.with_borrow_mut(|observer| {
            if let Some(observer) = observer {
                observer(point);
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
