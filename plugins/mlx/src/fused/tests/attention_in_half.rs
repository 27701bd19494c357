//! Attention of bfloat16 beside that of the same numbers in f32, on matrix tiles where this processor has them.

use super::*;
use crate::kernels::pool;

/// Shapes, masks and layouts: batch, heads, key/value heads, queries, keys, features.
struct Case {
    sizes: [i32; 6],
    options: AttentionOptions,
    documents: i32,
}

impl Case {
    fn new(sizes: [i32; 6], causal: bool) -> Self {
        Self { sizes, options: options(0.3, causal), documents: 1 }
    }

    fn inputs(&self) -> [Array; 3] {
        let [batch, query_heads, kv_heads, queries, keys, width] = self.sizes;
        // Some values are far from 0, so that rows of probabilities are far from even.
        let rows = |positions, number, seed| {
            let x = uniform(&[batch, positions, number * width], seed).multiply(Array::from_f32(3.0)).unwrap();
            heads(&x.as_dtype(Dtype::Bfloat16).unwrap(), number)
        };
        [rows(queries, query_heads, 1), rows(keys, kv_heads, 2), rows(keys, kv_heads, 3)]
    }

    fn segments(&self) -> Option<Array> {
        let [batch, .., keys, _] = self.sizes;
        let ids: Vec<i32> = (0..batch * keys).map(|i| i % keys * self.documents / keys).collect();
        (self.documents > 1).then(|| Array::from_slice(&ids, &[batch, keys]))
    }

    /// The result and the three gradients.
    fn run(&self, inputs: &[Array], cotangent: &Array) -> Vec<Array> {
        let segments = self.segments();
        let extras = AttentionExtras { segments: segments.as_ref(), ..AttentionExtras::default() };
        let function = |x: &[Array]| Ok(vec![attention(&x[0], &x[1], &x[2], extras, &self.options)?]);
        let (mut all, gradients) = fallible_vjp(function, inputs, std::slice::from_ref(cotangent)).unwrap();
        all.extend(gradients);
        all
    }
}

fn cases() -> Vec<Case> {
    let window =
        |window, case: Case| Case { options: AttentionOptions { window: Some(window), ..case.options }, ..case };
    let capped = |cap, case: Case| Case { options: AttentionOptions { soft_cap: Some(cap), ..case.options }, ..case };
    vec![
        Case::new([2, 4, 2, 70, 70, 8], true),
        Case::new([1, 3, 1, 129, 129, 40], false),
        Case::new([1, 2, 2, 40, 77, 64], true),
        Case { documents: 3, ..Case::new([2, 4, 2, 300, 300, 64], true) },
        // More keys than are looked at at a time.
        Case::new([1, 2, 1, 700, 700, 32], true),
        window(13, Case { documents: 2, ..Case::new([2, 2, 1, 150, 150, 33], true) }),
        capped(2.0, Case::new([1, 4, 2, 100, 100, 256], true)),
        // Few heads and long rows, whose queries are cut into parts.
        Case::new([1, 2, 1, 2100, 2100, 16], true),
        // Wider than tiles take.
        Case::new([1, 2, 1, 20, 20, 288], true),
    ]
}

#[test]
fn attention_of_half_precision_is_that_of_f32_up_to_rounding() {
    Device::set_default(&Device::cpu());
    for case in cases() {
        let inputs = case.inputs();
        let wide = inputs.each_ref().map(|input| input.as_dtype(Dtype::Float32).unwrap());
        let [batch, heads_of_queries, _, queries, _, width] = case.sizes;
        let rows = uniform(&[batch, queries, heads_of_queries * width], 4).as_dtype(Dtype::Bfloat16).unwrap();
        let one = Array::from_f32(0.25).as_dtype(Dtype::Bfloat16).unwrap();
        let dense = heads(&rows, heads_of_queries);
        // The second one has strides of 0, also along features.
        for cotangent in [ops::broadcast_to(one, dense.shape()).unwrap(), dense] {
            let got = case.run(&inputs, &cotangent);
            let want = case.run(&wide, &cotangent.as_dtype(Dtype::Float32).unwrap());
            for (number, (got, want)) in got.iter().zip(&want).enumerate() {
                assert_eq!((got.dtype(), got.shape()), (Dtype::Bfloat16, want.shape()));
                let (got, want) = (in_bf16(got), values(want));
                let error = got.iter().zip(&want).map(|(g, w)| (g - w).powi(2)).sum::<f32>().sqrt();
                let norm = want.iter().map(|w| w * w).sum::<f32>().sqrt();
                assert!(error <= 0.015 * norm, "{:?}, output {number}: {}", case.sizes, error / norm);
            }
        }
    }
}

#[test]
fn attention_of_half_precision_has_the_same_bits_on_any_number_of_threads() {
    Device::set_default(&Device::cpu());
    for case in cases() {
        let inputs = case.inputs();
        let [first, others @ ..] = [1, 2, 3].map(|threads| {
            pool::set_threads(threads);
            case.run(&inputs, &inputs[0]).iter().map(in_bf16).collect::<Vec<_>>()
        });
        pool::set_threads(0);
        assert!(others.iter().all(|other| *other == first), "{:?}", case.sizes);
    }
}

#[test]
fn a_hidden_document_changes_no_bit_of_half_precision() {
    Device::set_default(&Device::cpu());
    let case = Case { documents: 2, ..Case::new([1, 2, 1, 80, 80, 16], true) };
    let [query, key, value] = case.inputs();
    let first_document = Array::from_slice(&(0..80).map(|i| i32::from(i < 40)).collect::<Vec<_>>(), &[1, 1, 80, 1]);
    let factor = ops::add(first_document.multiply(Array::from_int(50)).unwrap(), Array::from_int(1)).unwrap();
    let changed = |x: &Array| x.multiply(factor.as_dtype(Dtype::Bfloat16).unwrap()).unwrap();
    let before = case.run(&[query.clone(), key.clone(), value.clone()], &query);
    let after = case.run(&[query.clone(), changed(&key), changed(&value)], &query);
    let second_document =
        |x: &Array| in_bf16(x).chunks(80 * 16).flat_map(|head| head[40 * 16..].to_vec()).collect::<Vec<_>>();
    for (before, after) in before.iter().zip(&after) {
        assert_eq!(second_document(before), second_document(after));
    }
}
