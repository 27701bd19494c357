//! Short lists without an allocation, for hot calls.

/// Lists up to this length are on the stack.
const FEW: usize = 4;

/// Passes a list to `body`. `filler` makes what stands in the places that are not used.
pub(super) fn with_few<T, R>(
    mut items: impl ExactSizeIterator<Item = T>,
    mut filler: impl FnMut() -> T,
    body: impl FnOnce(&mut [T]) -> R,
) -> R {
    let length = items.len();
    if length <= FEW {
        let mut few: [T; FEW] = std::array::from_fn(|_| items.next().unwrap_or_else(&mut filler));
        body(&mut few[..length])
    } else {
        body(&mut items.collect::<Vec<T>>())
    }
}
