//! Short lists without an allocation, for hot calls.

/// Passes a list to `body`. Up to four items are on the stack, and nothing but them is written there.
pub(crate) fn with_few<T, R>(items: impl ExactSizeIterator<Item = T>, body: impl FnOnce(&mut [T]) -> R) -> R {
    match items.len() {
        0 => body(&mut []),
        1 => body(&mut exactly::<T, 1>(items)),
        2 => body(&mut exactly::<T, 2>(items)),
        3 => body(&mut exactly::<T, 3>(items)),
        4 => body(&mut exactly::<T, 4>(items)),
        _ => body(&mut items.collect::<Vec<T>>()),
    }
}

fn exactly<T, const N: usize>(mut items: impl Iterator<Item = T>) -> [T; N] {
    std::array::from_fn(|_| items.next().unwrap_or_else(|| unreachable!("an iterator ends before its length")))
}
