//! Attention against the formula in f64, and its gradients against f64's.

use super::*;
use crate::kernels::tests::{assert_close_above, norm, random};
use proptest::prelude::*;

struct Case {
    shape: [usize; 4],
    kv_heads: usize,
    keys: usize,
    causal: bool,
    window: Option<usize>,
    soft_cap: Option<f32>,
    segments: Option<Vec<i32>>,
    data: [Vec<f32>; 4],
    cut: Cut,
}

impl Case {
    fn new(shape: [usize; 4], kv_heads: usize, keys: usize, causal: bool, documents: i32, seed: u32) -> Self {
        let mut random = random(seed);
        let [b, h, t, d] = shape;
        let mut draw = |n: usize| -> Vec<f32> { (0..n).map(|_| random() * 2.0).collect() };
        let data =
            [draw(b * h * t * d), draw(b * kv_heads * keys * d), draw(b * kv_heads * keys * d), draw(b * h * t * d)];
        let segments =
            (documents > 1).then(|| (0..b * keys).map(|i| (i % keys) as i32 * documents / keys as i32).collect());
        let cut = Cut { keys: 2048, parts: 1 };
        Self { shape, kv_heads, keys, causal, window: None, soft_cap: None, segments, data, cut }
    }

    fn inputs(&self) -> Inputs<'_> {
        let [b, h, t, d] = self.shape;
        let kv = [b, self.kv_heads, self.keys, d];
        let (causal, window, segments) = (self.causal, self.window, self.segments.as_deref());
        Inputs {
            query: View4::contiguous(&self.data[0], [b, h, t, d]),
            key: View4::contiguous(&self.data[1], kv),
            value: View4::contiguous(&self.data[2], kv),
            scale: 0.3,
            soft_cap: self.soft_cap,
            mask: Mask { causal, window, segments, queries: t, keys: self.keys },
            cut: self.cut,
        }
    }

    /// Output and the three gradients, in the layouts of the kernels, and the sizes of the terms that each is a sum of.
    fn reference(&self) -> [(Vec<f64>, Vec<f64>); 4] {
        let [b, h, t, d] = self.shape;
        let (hk, n) = (self.kv_heads, self.keys);
        let at = |which: usize, b: usize, h: usize, t: usize, i: usize, heads: usize, len: usize| {
            f64::from(self.data[which][((b * heads + h) * len + t) * d + i])
        };
        let mut result = [b * t * h * d, b * t * h * d, b * n * hk * d, b * n * hk * d]
            .map(|length| (vec![0.0; length], vec![0.0; length]));
        let mut add = |which: usize, place: usize, factor: f64, size: f64, value: f64| {
            result[which].0[place] += factor * value;
            result[which].1[place] += size * value.abs();
        };
        for (b, h, t) in (0..b).flat_map(|b| (0..h).flat_map(move |h| (0..t).map(move |t| (b, h, t)))) {
            let (heads, queries, kv) = (self.shape[1], self.shape[2], h * hk / self.shape[1]);
            let place = t + n - queries;
            let sees = |key: usize| {
                let same = self.segments.as_ref().is_none_or(|s| s[b * n + key] == s[b * n + place]);
                let is_near = self.window.is_none_or(|window| key + window > place);
                same && is_near && !(self.causal && key > place)
            };
            let dot = |x: usize, y: usize, key: usize| -> f64 {
                (0..d).map(|i| at(x, b, h, t, i, heads, queries) * at(y, b, kv, key, i, hk, n)).sum()
            };
            let tanh = |key| self.soft_cap.map(|cap| (0.3 * dot(0, 1, key) / f64::from(cap)).tanh());
            let score = |key| self.soft_cap.map_or(0.3 * dot(0, 1, key), |cap| f64::from(cap) * tanh(key).unwrap());
            let scores: Vec<f64> = (0..n).map(|key| if sees(key) { score(key).exp() } else { 0.0 }).collect();
            let sum: f64 = scores.iter().sum();
            let p: Vec<f64> = scores.iter().map(|s| s / sum).collect();
            let dp: Vec<f64> = (0..n).map(|key| dot(3, 2, key)).collect();
            let delta: f64 = p.iter().zip(&dp).map(|(p, dp)| p * dp).sum();
            let row = ((b * queries + t) * heads + h) * d;
            for key in 0..n {
                let slope = 0.3 * tanh(key).map_or(1.0, |tanh| 1.0 - tanh * tanh);
                let ds = slope * p[key] * (dp[key] - delta);
                // Where a query sees one key only, these two are equal, and what is left of them is rounding.
                let size = 0.3 * p[key] * (dp[key].abs() + delta.abs());
                let kv_row = ((b * n + key) * hk + kv) * d;
                for i in 0..d {
                    add(0, row + i, p[key], p[key], at(2, b, kv, key, i, hk, n));
                    add(1, row + i, ds, size, at(1, b, kv, key, i, hk, n));
                    add(2, kv_row + i, ds, size, at(0, b, h, t, i, heads, queries));
                    add(3, kv_row + i, p[key], p[key], at(3, b, h, t, i, heads, queries));
                }
            }
        }
        result
    }

    fn kernel(&self) -> [Vec<f32>; 4] {
        let [b, h, t, d] = self.shape;
        let nan = |n: usize| vec![f32::NAN; n];
        let (mut out, mut lse) = (nan(b * t * h * d), nan(lse_len(b, h, t)));
        forward(self.inputs(), &mut out, &mut lse);
        let kv = b * self.keys * self.kv_heads * d;
        let (mut query, mut key, mut value) = (nan(out.len()), nan(kv), nan(kv));
        let out_view = View4::new(&out, self.shape, [t * h * d, d, h * d, 1]);
        let cotangent = View4::contiguous(&self.data[3], self.shape);
        let gradients = Gradients { query: &mut query, key: &mut key, value: &mut value };
        backward(self.inputs(), out_view, &lse, cotangent, gradients);
        [out, query, key, value]
    }
}

/// Output and gradients of one case, for tests of all kernels.
pub fn example() -> [Vec<f32>; 4] {
    Case::new([2, 4, 45, 20], 2, 50, true, 2, 3).kernel()
}

/// The output for a query that holds this value.
pub fn with_a_query_of(value: f32) -> Vec<f32> {
    let mut case = Case::new([1, 1, 1, 8], 1, 20, false, 1, 9);
    case.data[0][3] = value;
    case.kernel()[0].clone()
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(40))]
    #[test]
    fn values_and_gradients_are_those_of_the_formula(
        b in 1usize..3, kv_heads in 1usize..3, group in 1usize..4, t in 1usize..80, more in 0usize..40, d in 1usize..70,
        causal in any::<bool>(), window in prop::option::of(1usize..60), soft_cap in prop::option::of(0.5f32..4.0),
        documents in 1i32..4, keys in prop::sample::select(vec![8, 24, 64, 2048]), parts in 1usize..4, seed in any::<u32>(),
    ) {
        let window = window.filter(|_| causal);
        let case = Case::new([b, kv_heads * group, t, d], kv_heads, t + more, causal, documents, seed);
        check(&Case { window, soft_cap, cut: Cut { keys, parts }, ..case });
    }
}

fn check(case: &Case) {
    for (got, (want, terms)) in case.kernel().iter().zip(&case.reference()) {
        assert_close_above(got, want, 0.1 * norm(terms), 5e-6);
    }
}

#[test]
fn where_only_one_key_is_seen_no_gradient_is_left_but_rounding() {
    for (shape, kv_heads, documents) in [([1, 1, 1, 13], 1, 1), ([2, 6, 1, 64], 2, 1), ([1, 2, 3, 33], 1, 3)] {
        check(&Case::new(shape, kv_heads, shape[2], false, documents, 61_043_748));
    }
}

#[test]
fn what_is_cut_into_blocks_of_keys_is_what_is_not_to_rounding() {
    let case = |cut| Case { cut, window: Some(50), ..Case::new([1, 2, 130, 16], 1, 150, true, 2, 5) };
    let whole = case(Cut { keys: 2048, parts: 1 }).kernel();
    let cut = case(Cut { keys: 16, parts: 3 }).kernel();
    for (cut, whole) in cut.iter().zip(&whole) {
        let whole: Vec<f64> = whole.iter().map(|&x| f64::from(x)).collect();
        assert_close_above(cut, &whole, 0.0, 1e-6);
    }
}

#[test]
fn long_rows_of_few_heads_are_cut_so_that_several_cores_have_work() {
    assert_eq!(Cut::of(1, 32_768, 256), Cut { keys: 256, parts: 4 });
    assert_eq!(Cut::of(4, 32_768, 64), Cut { keys: 1024, parts: 1 });
    assert_eq!(Cut::of(1, 512, 8), Cut { keys: 2048, parts: 1 });
}

#[test]
fn a_hidden_key_changes_nothing_at_all() {
    let case = Case::new([1, 2, 40, 16], 1, 40, true, 3, 5);
    let mut changed = Case::new([1, 2, 40, 16], 1, 40, true, 3, 5);
    // The keys and values of the first document.
    changed.data[1][..13 * 16].fill(1e4);
    changed.data[2][..13 * 16].fill(-1e4);
    let (before, after) = (case.kernel(), changed.kernel());
    let first_of_second = 14 * 2 * 16;
    assert_eq!(before[0][first_of_second..], after[0][first_of_second..]);
    assert_eq!(before[1][first_of_second..], after[1][first_of_second..]);
}
