//! Cross-entropy of each row of logits with its target: −log softmax(logits)\[target\], without ever storing the softmax.
//!
//! The forward pass keeps one log-sum-exp per row; the backward pass needs only that to turn logits into their gradient, in place if it may.

use super::isa::{LANES, Simd, exp, fold, larger, multiversion};
use super::pool;

/// Rows per task: 8 rows of 8192 logits are 256 KiB.
const ROWS: usize = 8;

/// `losses[i] = lse[i] − logits[i, targets[i]]` and `lse[i] = log Σ_j exp logits[i, j]`, for row-major logits of `losses.len()` rows.
///
/// A negative target marks a row that is not trained: its loss is 0. A target ≥ V gives NaN, which the non-finite guard then reports.
pub fn forward(logits: &[f32], targets: &[i32], losses: &mut [f32], lse: &mut [f32]) {
    let width = width(logits, targets);
    if targets.is_empty() {
        return;
    }
    let tasks =
        logits.chunks(ROWS * width).zip(targets.chunks(ROWS)).zip(losses.chunks_mut(ROWS).zip(lse.chunks_mut(ROWS)));
    pool::run(tasks.collect(), |((logits, targets), (losses, lse))| forward_block(logits, targets, losses, lse));
}

/// `grad[i, j] = cotangent[i] · (softmax(logits[i])[j] − [j = targets[i]])`, all zero where the target is negative.
pub fn backward(logits: &[f32], targets: &[i32], lse: &[f32], cotangent: &[f32], grad: &mut [f32]) {
    let width = width(logits, targets);
    if targets.is_empty() {
        return;
    }
    let rows = targets.chunks(ROWS).zip(lse.chunks(ROWS)).zip(cotangent.chunks(ROWS));
    let tasks = logits.chunks(ROWS * width).zip(grad.chunks_mut(ROWS * width)).zip(rows);
    pool::run(tasks.collect(), |((logits, grad), ((targets, lse), cotangent))| {
        // Row by row, so that the copy is still in the first-level cache when it is read again.
        for (i, (from, to)) in logits.chunks(width).zip(grad.chunks_mut(width)).enumerate() {
            to.copy_from_slice(from);
            backward_block(to, &targets[i..=i], &lse[i..=i], &cotangent[i..=i]);
        }
    });
}

/// The same as [`backward`], with the gradient in the place of the logits.
pub fn backward_in_place(logits: &mut [f32], targets: &[i32], lse: &[f32], cotangent: &[f32]) {
    let width = width(logits, targets);
    if targets.is_empty() {
        return;
    }
    let rows = targets.chunks(ROWS).zip(lse.chunks(ROWS)).zip(cotangent.chunks(ROWS));
    let tasks = logits.chunks_mut(ROWS * width).zip(rows);
    pool::run(tasks.collect(), |(logits, ((targets, lse), cotangent))| backward_block(logits, targets, lse, cotangent));
}

fn width(logits: &[f32], targets: &[i32]) -> usize {
    (logits.len() / targets.len().max(1)).max(1)
}

multiversion! {
    fn forward_block(logits: &[f32], targets: &[i32], losses: &mut [f32], lse: &mut [f32]) = forward_body;
}

#[inline(always)]
fn forward_body<S: Simd, const ROWS: usize>(logits: &[f32], targets: &[i32], losses: &mut [f32], lse: &mut [f32]) {
    let width = logits.len() / targets.len();
    for (((row, &target), loss), lse) in logits.chunks_exact(width).zip(targets).zip(losses).zip(lse) {
        let max = row_max(row);
        let log_sum = sum_exp::<S>(row, max).ln();
        *lse = max + log_sum;
        *loss = match usize::try_from(target) {
            Err(_) => 0.0,
            // Not lse − logit: a confident row's small loss would drown in the rounding of a large maximum.
            Ok(target) => row.get(target).map_or(f32::NAN, |logit| log_sum - (logit - max)),
        };
    }
}

multiversion! {
    fn backward_block(logits: &mut [f32], targets: &[i32], lse: &[f32], cotangent: &[f32]) = backward_body;
}

#[inline(always)]
fn backward_body<S: Simd, const ROWS: usize>(logits: &mut [f32], targets: &[i32], lse: &[f32], cotangent: &[f32]) {
    let width = logits.len() / targets.len();
    for (((row, &target), &lse), &scale) in logits.chunks_exact_mut(width).zip(targets).zip(lse).zip(cotangent) {
        let Ok(target) = usize::try_from(target) else {
            row.fill(0.0);
            continue;
        };
        for logit in row.iter_mut() {
            *logit = exp::<S>(*logit - lse) * scale;
        }
        match row.get_mut(target) {
            Some(at_target) => *at_target -= scale,
            None => row.fill(f32::NAN),
        }
    }
}

/// The largest value; NaN is passed over.
#[inline(always)]
pub(super) fn row_max(row: &[f32]) -> f32 {
    let (chunks, rest) = row.as_chunks::<{ 4 * LANES }>();
    let mut max = [f32::NEG_INFINITY; 4 * LANES];
    for chunk in chunks {
        for l in 0..4 * LANES {
            max[l] = larger(max[l], chunk[l]);
        }
    }
    rest.iter().chain(&max).fold(f32::NEG_INFINITY, |max, &x| larger(max, x))
}

/// Σ e^(value − max).
#[inline(always)]
pub(super) fn sum_exp<S: Simd>(row: &[f32], max: f32) -> f32 {
    let (chunks, rest) = row.as_chunks::<LANES>();
    let mut sum = [0.0; LANES];
    for chunk in chunks {
        for l in 0..LANES {
            sum[l] += exp::<S>(chunk[l] - max);
        }
    }
    fold(sum) + rest.iter().map(|&x| exp::<S>(x - max)).sum::<f32>()
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn reference(logits: &[f32], targets: &[i32], scale: &[f32]) -> (Vec<f64>, Vec<f64>) {
        let width = logits.len() / targets.len();
        let mut losses = Vec::new();
        let mut grad = Vec::new();
        for ((row, &target), &scale) in logits.chunks(width).zip(targets).zip(scale) {
            let max = row.iter().fold(f64::NEG_INFINITY, |m, &x| m.max(f64::from(x)));
            let lse = max + row.iter().map(|&x| (f64::from(x) - max).exp()).sum::<f64>().ln();
            let trained = target >= 0;
            losses.push(if trained { lse - f64::from(row[target as usize]) } else { 0.0 });
            for (j, &x) in row.iter().enumerate() {
                let hit = f64::from(u8::from(j as i32 == target));
                grad.push(if trained { f64::from(scale) * ((f64::from(x) - lse).exp() - hit) } else { 0.0 });
            }
        }
        (losses, grad)
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(48))]
        #[test]
        fn losses_and_gradients_are_those_of_the_formula(rows in 1usize..20, width in 1usize..150, spread in 0.1f32..30.0, seed in any::<u32>()) {
            let mut random = crate::kernels::tests::random(seed);
            let logits: Vec<f32> = (0..rows * width).map(|_| random() * spread).collect();
            let targets: Vec<i32> = (0..rows).map(|i| if i % 5 == 4 { -100 } else { (i * 7 % width) as i32 }).collect();
            let scale: Vec<f32> = (0..rows).map(|_| random()).collect();
            let (want_losses, want_grad) = reference(&logits, &targets, &scale);
            let (mut losses, mut lse, mut grad) = (vec![0.0; rows], vec![0.0; rows], vec![0.0; rows * width]);
            forward(&logits, &targets, &mut losses, &mut lse);
            backward(&logits, &targets, &lse, &scale, &mut grad);
            // The logits' own rounding, `spread` · 2⁻²⁴, bounds what any f32 softmax can know.
            let tolerance = 1e-6 * (1.0 + f64::from(spread));
            let near = |got: &[f32], want: &[f64]| got.iter().zip(want).all(|(&got, want)| (f64::from(got) - want).abs() <= tolerance);
            prop_assert!(near(&losses, &want_losses), "{losses:?} is not {want_losses:?}");
            prop_assert!(near(&grad, &want_grad), "{grad:?} is not {want_grad:?}");
            let mut in_place = logits.clone();
            backward_in_place(&mut in_place, &targets, &lse, &scale);
            prop_assert_eq!(in_place, grad);
        }
    }

    #[test]
    fn a_non_finite_logit_is_never_hidden() {
        for bad in [f32::NAN, f32::INFINITY] {
            let mut logits = vec![0.5; 100];
            logits[77] = bad;
            let (mut losses, mut lse) = ([0.0], [0.0]);
            forward(&logits, &[3], &mut losses, &mut lse);
            assert!(!losses[0].is_finite(), "{bad} gave the loss {}", losses[0]);
        }
    }

    #[test]
    fn a_target_outside_the_vocabulary_is_never_hidden() {
        let (mut losses, mut lse) = ([0.0], [0.0]);
        forward(&[0.0; 10], &[10], &mut losses, &mut lse);
        assert!(losses[0].is_nan());
    }
}
