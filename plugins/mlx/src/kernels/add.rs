//! Sums of two arrays.

use super::half::{Bf16, Element};
use super::isa::{Simd, multiversion};
use super::pool;

/// Elements per task.
const BLOCK: usize = 32 * 1024;

/// Elements that can be added, with the loops that are compiled for them.
pub trait Addend: Element {
    /// `out = a + b`.
    fn add_block(a: &[Self], b: &[Self], out: &mut [Self]);
    /// `sum += more`.
    fn add_to_block(sum: &mut [Self], more: &[Self]);
}

/// `out = a + b`, rounded once.
pub fn add<E: Addend>(a: &[E], b: &[E], out: &mut [E]) {
    let tasks = a.chunks(BLOCK).zip(b.chunks(BLOCK)).zip(out.chunks_mut(BLOCK));
    pool::run(tasks.collect(), |((a, b), out)| E::add_block(a, b, out));
}

/// `sum += more`, with the same bits.
pub fn add_to<E: Addend>(sum: &mut [E], more: &[E]) {
    pool::run(sum.chunks_mut(BLOCK).zip(more.chunks(BLOCK)).collect(), |(sum, more)| E::add_to_block(sum, more));
}

/// Implements [`Addend`] for a type.
macro_rules! addend {
    ($element:ty) => {
        impl Addend for $element {
            fn add_block(a: &[Self], b: &[Self], out: &mut [Self]) {
                multiversion! { fn block(a: &[$element], b: &[$element], out: &mut [$element]) = add_body; }
                block(a, b, out);
            }

            fn add_to_block(sum: &mut [Self], more: &[Self]) {
                multiversion! { fn block(sum: &mut [$element], more: &[$element]) = add_to_body; }
                block(sum, more);
            }
        }
    };
}
addend!(f32);
addend!(Bf16);

#[inline(always)]
fn add_body<S: Simd, const ROWS: usize>(a: &[impl Element], b: &[impl Element], out: &mut [impl Element]) {
    for ((out, a), b) in out.iter_mut().zip(a).zip(b) {
        *out = Element::nearest(a.wide() + b.wide());
    }
}

#[inline(always)]
fn add_to_body<S: Simd, const ROWS: usize>(sum: &mut [impl Element], more: &[impl Element]) {
    for (sum, more) in sum.iter_mut().zip(more) {
        *sum = Element::nearest(sum.wide() + more.wide());
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sums_are_rounded_once_whether_or_not_they_take_the_place_of_an_addend() {
        let mut random = crate::kernels::tests::random(5);
        let (a, b): (Vec<f32>, Vec<f32>) = (0..70_001).map(|_| (random(), random() * 100.0)).unzip();
        let mut sum = vec![0.0; a.len()];
        add(&a, &b, &mut sum);
        assert!(sum.iter().zip(a.iter().zip(&b)).all(|(sum, (a, b))| *sum == a + b));
        let [a, b] = [a, b].map(|x| x.into_iter().map(Bf16::nearest).collect::<Vec<_>>());
        let mut sum = vec![Bf16::default(); a.len()];
        add(&a, &b, &mut sum);
        assert!(sum.iter().zip(a.iter().zip(&b)).all(|(sum, (a, b))| *sum == Bf16::nearest(a.wide() + b.wide())));
        let mut in_place = b;
        add_to(&mut in_place, &a);
        assert_eq!(in_place, sum);
    }
}
