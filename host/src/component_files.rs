//! The file of each component that was loaded, for the last words of a process: read without a lock or an allocation.

use std::fmt;
use std::path::Path;
use std::sync::atomic::{AtomicPtr, Ordering};

/// A component and its file, in a list that only grows.
struct Entry {
    component: &'static str,
    file: String,
    next: *const Entry,
}

static LAST: AtomicPtr<Entry> = AtomicPtr::new(std::ptr::null_mut());

/// Notes the file of a component, by its name in calls.
pub fn note(component: &'static str, file: &Path) {
    let entry = Box::leak(Box::new(Entry { component, file: file.display().to_string(), next: std::ptr::null() }));
    let add = |last: *mut Entry| {
        entry.next = last;
        Some(std::ptr::from_mut(entry))
    };
    let _ = LAST.fetch_update(Ordering::AcqRel, Ordering::Acquire, add);
}

/// Where a component is: ` in FILE`, or nothing where that is not known. A signal handler may call it.
pub fn place(component: &str) -> impl fmt::Display {
    let mut entry = LAST.load(Ordering::Acquire).cast_const();
    // SAFETY: entries are complete when they come into the list, never change, and live for ever.
    while let Some(Entry { component: name, file, next }) = unsafe { entry.as_ref() } {
        if *name == component {
            return Place(file);
        }
        entry = *next;
    }
    Place("")
}

struct Place(&'static str);

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.0.is_empty() { Ok(()) } else { write!(f, " in {}", self.0) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_file_of_each_component_is_found() {
        note("optimizer one 1.0.0", Path::new("one.so"));
        note("optimizer other 1.0.0", Path::new("other.so"));
        assert_eq!(place("optimizer one 1.0.0").to_string(), " in one.so");
        assert_eq!(place("optimizer other 1.0.0").to_string(), " in other.so");
        assert_eq!(place("optimizer none 1.0.0").to_string(), "");
    }
}
