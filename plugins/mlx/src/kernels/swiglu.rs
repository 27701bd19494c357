//! SwiGLU, silu(gate) · up with silu(x) = x / (1 + e^−x) (Shazeer, "GLU Variants Improve Transformer", 2020).

use super::half::{Bf16, Element};
use super::isa::{Simd, madd, multiversion, sigmoid};
use super::pool;

/// Elements per task: 64 KiB of each operand.
const BLOCK: usize = 16 * 1024;

/// Elements with the loops that are compiled for them.
pub trait Gated: Element {
    /// [`forward`] of a block.
    fn forward_block(gate: &[Self], up: &[Self], out: &mut [Self]);
    /// [`backward`] of a block.
    fn backward_block(gate: &[Self], up: &[Self], cotangent: &[Self], grad_gate: &mut [Self], grad_up: &mut [Self]);
}

/// `out = silu(gate) · up`, element by element.
pub fn forward<E: Gated>(gate: &[E], up: &[E], out: &mut [E]) {
    let tasks = gate.chunks(BLOCK).zip(up.chunks(BLOCK)).zip(out.chunks_mut(BLOCK));
    pool::run(tasks.collect(), |((gate, up), out)| E::forward_block(gate, up, out));
}

/// Both gradients for the cotangent of the output.
pub fn backward<E: Gated>(gate: &[E], up: &[E], cotangent: &[E], grad_gate: &mut [E], grad_up: &mut [E]) {
    let inputs = gate.chunks(BLOCK).zip(up.chunks(BLOCK)).zip(cotangent.chunks(BLOCK));
    let tasks = inputs.zip(grad_gate.chunks_mut(BLOCK).zip(grad_up.chunks_mut(BLOCK)));
    pool::run(tasks.collect(), |(((gate, up), cotangent), (grad_gate, grad_up))| {
        E::backward_block(gate, up, cotangent, grad_gate, grad_up);
    });
}

/// Implements [`Gated`] for a type.
macro_rules! gated {
    ($element:ty) => {
        impl Gated for $element {
            fn forward_block(gate: &[Self], up: &[Self], out: &mut [Self]) {
                multiversion! { fn block(gate: &[$element], up: &[$element], out: &mut [$element]) = forward_body; }
                block(gate, up, out);
            }

            fn backward_block(
                gate: &[Self],
                up: &[Self],
                cotangent: &[Self],
                grad_gate: &mut [Self],
                grad_up: &mut [Self],
            ) {
                multiversion! {
                    fn block(
                        gate: &[$element], up: &[$element], cotangent: &[$element], grad_gate: &mut [$element],
                        grad_up: &mut [$element],
                    ) = backward_body;
                }
                block(gate, up, cotangent, grad_gate, grad_up);
            }
        }
    };
}
gated!(f32);
gated!(Bf16);

#[inline(always)]
fn forward_body<S: Simd, const ROWS: usize>(gate: &[impl Element], up: &[impl Element], out: &mut [impl Element]) {
    for ((out, g), u) in out.iter_mut().zip(gate).zip(up) {
        let g = g.wide();
        *out = Element::nearest(g * sigmoid::<S>(g) * u.wide());
    }
}

#[inline(always)]
fn backward_body<S: Simd, const ROWS: usize>(
    gate: &[impl Element],
    up: &[impl Element],
    cotangent: &[impl Element],
    grad_gate: &mut [impl Element],
    grad_up: &mut [impl Element],
) {
    for ((((g, u), c), dg), du) in gate.iter().zip(up).zip(cotangent).zip(grad_gate).zip(grad_up) {
        let (g, u, c) = (g.wide(), u.wide(), c.wide());
        let s = sigmoid::<S>(g);
        // d silu / dx = s + x · s · (1 − s)
        *dg = Element::nearest(c * u * (s * madd::<S>(g, 1.0 - s, 1.0)));
        *du = Element::nearest(c * (g * s));
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::kernels::tests::{assert_close, random};
    use proptest::prelude::*;

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(48))]
        #[test]
        fn values_and_gradients_are_those_of_the_formula(len in 1usize..2000, spread in 0.1f32..100.0, seed in any::<u32>()) {
            let mut random = random(seed);
            let mut draw = |scale: f32| -> Vec<f32> { (0..len).map(|_| random() * scale).collect() };
            let (gate, up, cotangent) = (draw(spread), draw(1.0), draw(1.0));
            let (mut out, mut dg, mut du) = (vec![0.0; len], vec![0.0; len], vec![0.0; len]);
            forward(&gate, &up, &mut out);
            backward(&gate, &up, &cotangent, &mut dg, &mut du);
            let want = |f: &dyn Fn(f64, f64, f64) -> f64| -> Vec<f64> {
                (0..len).map(|i| f(f64::from(gate[i]), f64::from(up[i]), f64::from(cotangent[i]))).collect()
            };
            let s = |g: f64| 1.0 / (1.0 + (-g).exp());
            assert_close(&out, &want(&|g, u, _| g * s(g) * u), 2e-6);
            assert_close(&dg, &want(&|g, u, c| c * u * (s(g) + g * s(g) * (1.0 - s(g)))), 2e-6);
            assert_close(&du, &want(&|g, _, c| c * g * s(g)), 2e-6);
        }
    }
}
