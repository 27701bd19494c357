//! Short lists without an allocation, for hot calls.

use std::mem::{MaybeUninit, needs_drop};

/// Converts items, and passes them to `body`. Up to four are on the stack, and nothing but them is written there.
#[inline(always)]
pub(crate) fn with_few<S, T, R>(
    items: impl IntoIterator<Item = S, IntoIter: ExactSizeIterator>,
    convert: impl Fn(S) -> T,
    body: impl FnOnce(&mut [T]) -> R,
) -> R {
    const { assert!(!needs_drop::<T>(), "nothing drops the items on the stack") };
    let mut few = [const { MaybeUninit::uninit() }; 4];
    let mut many;
    let mut items = items.into_iter();
    let length = items.len();
    let converted = if length <= few.len() {
        let mut written = 0;
        for place in &mut few[..length] {
            let Some(item) = items.next() else { break };
            place.write(convert(item));
            written += 1;
        }
        // SAFETY: so many were just written.
        unsafe { few[..written].assume_init_mut() }
    } else {
        many = collected(items, convert);
        &mut many[..]
    };
    body(converted)
}

#[cold]
#[inline(never)]
fn collected<S, T>(items: impl Iterator<Item = S>, convert: impl Fn(S) -> T) -> Vec<T> {
    items.map(convert).collect()
}

/// Copies a value of two words that were perhaps just stored, word by word: a load of both at once would wait until the
/// two stores are in the processor's cache.
#[inline(always)]
pub(super) fn by_words<T: Copy>(value: &T) -> T {
    // SAFETY: a reference can be read. A volatile read is not merged.
    unsafe { std::ptr::from_ref(value).read_volatile() }
}
