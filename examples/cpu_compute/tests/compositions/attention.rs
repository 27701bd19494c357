use mdt_plugin_api::op::attribute;
use mdt_plugin_api::prelude::*;
use mdt_plugin_api::{Attribute, Value};

use crate::{agree, device, gradients, integers, numbers, tensor};

const B: usize = 2;
const H: usize = 4;
const GROUPS: usize = 2;
const T: usize = 3;
const S: usize = 5;
const D: usize = 4;

/// What the table says, in f64, one query at a time.
#[derive(Default)]
struct Expected {
    causal: bool,
    window: Option<usize>,
    segments: Option<[i32; B * S]>,
    soft_cap: Option<f64>,
    mask: Option<Vec<f32>>,
    sinks: Option<[f32; H]>,
    dropout: Option<f64>,
}

impl Expected {
    fn sees(&self, batch: usize, query: usize, key: usize) -> bool {
        let place = S - T + query;
        let is_ordered = self.causal || self.window.is_some();
        (!is_ordered || key <= place)
            && self.window.is_none_or(|window| key + window > place)
            && self.segments.is_none_or(|segments| segments[batch * S + place] == segments[batch * S + key])
    }

    fn values(&self, [q, k, v]: [&[f32]; 3], drawn: &[f64]) -> Vec<f64> {
        let mut results = Vec::new();
        for (batch, head, query) in (0..B * H * T).map(|at| (at / (H * T), at / T % H, at % T)) {
            let row = |x: &[f32], at: usize| x[at * D..][..D].iter().map(|&x| f64::from(x)).collect::<Vec<_>>();
            let of_key = |key: usize| (batch * GROUPS + head / (H / GROUPS)) * S + key;
            let at_score = ((batch * H + head) * T + query) * S;
            let score = |key: usize| {
                let dot: f64 =
                    row(q, (batch * H + head) * T + query).iter().zip(row(k, of_key(key))).map(|(a, b)| a * b).sum();
                let capped = self.soft_cap.map_or(0.5 * dot, |cap| cap * (0.5 * dot / cap).tanh());
                capped + self.mask.as_ref().map_or(0.0, |mask| f64::from(mask[(batch * T + query) * S + key]))
            };
            let seen: Vec<usize> = (0..S).filter(|&key| self.sees(batch, query, key)).collect();
            let exp: Vec<f64> = seen.iter().map(|&key| score(key).exp()).collect();
            let total = exp.iter().sum::<f64>() + self.sinks.map_or(0.0, |sinks| f64::from(sinks[head]).exp());
            let mut result = [0.0; D];
            for (&key, exp) in seen.iter().zip(exp) {
                let weight = match self.dropout {
                    Some(rate) if drawn[at_score + key] < 1.0 - rate => exp / total / (1.0 - rate),
                    Some(_) => 0.0,
                    None => exp / total,
                };
                result.iter_mut().zip(row(v, of_key(key))).for_each(|(sum, value)| *sum += weight * value);
            }
            results.extend(result);
        }
        results
    }

    /// The composition's result.
    fn found(&self, [q, k, v]: [&Tensor; 3]) -> Result<Tensor> {
        let compute = q.compute();
        let mut attributes: Vec<Attribute<'_>> = vec![attribute("scale", Value::Float(0.5))];
        attributes.extend(self.causal.then(|| attribute("causal", Value::Bool(true))));
        attributes.extend(self.window.map(|window| attribute("window", Value::Int(window as i64))));
        attributes.extend(self.soft_cap.map(|cap| attribute("soft_cap", Value::Float(cap))));
        if let Some(rate) = self.dropout {
            attributes.extend([attribute("dropout", Value::Float(rate)), attribute("key", Value::Int(11))]);
        }
        let segments = self.segments.map(|segments| integers(compute, &[B, S], &segments));
        let mask = self.mask.as_ref().map(|mask| tensor(compute, &[B, 1, T, S], mask));
        let sinks = self.sinks.map(|sinks| tensor(compute, &[H], &sinks));
        let inputs = [Some(q), Some(k), Some(v), segments.as_ref(), mask.as_ref(), sinks.as_ref()];
        Tensor::op_on_some(compute, OpKind::ATTENTION, &inputs, &attributes)
    }
}

const SEGMENTS: [i32; B * S] = [0, 0, 1, 1, 1, 3, 3, 3, 3, 4];

fn cases() -> Vec<Expected> {
    let mut mask = numbers(B * T * S, 8);
    mask[1] = f32::NEG_INFINITY;
    let sinks = [0.5, -1.0, 30.0, 0.0];
    vec![
        Expected::default(),
        Expected { causal: true, ..Expected::default() },
        Expected { window: Some(2), ..Expected::default() },
        Expected { causal: true, window: Some(9), soft_cap: Some(1.5), ..Expected::default() },
        Expected { segments: Some(SEGMENTS), ..Expected::default() },
        Expected { causal: true, segments: Some(SEGMENTS), window: Some(2), ..Expected::default() },
        Expected { mask: Some(mask.clone()), soft_cap: Some(2.0), ..Expected::default() },
        Expected { sinks: Some(sinks), causal: true, ..Expected::default() },
        Expected { dropout: Some(0.4), ..Expected::default() },
        Expected {
            causal: true,
            window: Some(3),
            segments: Some(SEGMENTS),
            soft_cap: Some(2.0),
            mask: Some(mask),
            sinks: Some(sinks),
            dropout: Some(0.25),
        },
    ]
}

fn inputs() -> [Vec<f32>; 3] {
    [numbers(B * H * T * D, 1), numbers(B * GROUPS * S * D, 2), numbers(B * GROUPS * S * D, 3)]
}

#[test]
fn attention_is_that_of_one_query_at_a_time() {
    let compute = device();
    let [q, k, v] = inputs();
    let on_device = [
        tensor(&compute, &[B, H, T, D], &q),
        tensor(&compute, &[B, GROUPS, S, D], &k),
        tensor(&compute, &[B, GROUPS, S, D], &v),
    ];
    let shape = [B, H, T, S].map(|length| length as i64);
    let drawn = Tensor::random_uniform(&compute, 11, &shape, Dtype::F32).unwrap().to_vec::<f64>().unwrap();
    for case in cases() {
        let found = case.found(on_device.each_ref()).unwrap();
        assert_eq!(found.shape().unwrap(), [B, H, T, D]);
        agree(&found.to_vec::<f64>().unwrap(), &case.values([&q, &k, &v], &drawn), 2e-6);
        for (input, gradient) in
            gradients(|x| case.found([&x[0], &x[1], &x[2]]), &on_device.each_ref()).iter().enumerate()
        {
            // Differences of the formula in f64.
            for (place, gradient) in gradient.iter().enumerate().step_by(3) {
                let at = |step: f32| {
                    let mut moved = [q.clone(), k.clone(), v.clone()];
                    moved[input][place] += step;
                    let sum: f64 = case.values([&moved[0], &moved[1], &moved[2]], &drawn).iter().sum();
                    (sum, f64::from(moved[input][place]))
                };
                let ((above, to), (below, from)) = (at(1e-3), at(-1e-3));
                agree(&[*gradient], &[(above - below) / (to - from)], 1e-4);
            }
        }
    }
}

/// NaN and Inf in a key and its value, of the batches that `is_spoilt` says.
fn spoilt(x: &[f32], hidden: usize, element: f32, is_spoilt: impl Fn(usize) -> bool) -> Vec<f32> {
    let mut x = x.to_vec();
    for row in (0..B * GROUPS).filter(|row| is_spoilt(row / GROUPS)) {
        x[(row * S + hidden) * D + 1] = element;
    }
    x
}

#[test]
fn what_a_query_does_not_see_changes_no_bit() {
    let compute = device();
    let ([q, k, v], shape) = (inputs(), [B, GROUPS, S, D]);
    let on_device = |k: &[f32], v: &[f32]| {
        [tensor(&compute, &[B, H, T, D], &q), tensor(&compute, &shape, k), tensor(&compute, &shape, v)]
    };
    let plain = on_device(&k, &v);
    let mut compared = [0, 0];
    for case in cases() {
        let result = |x: &[Tensor]| case.found([&x[0], &x[1], &x[2]]);
        let expected = result(&plain).unwrap().to_vec::<f32>().unwrap();
        let expected_gradients = gradients(result, &plain.each_ref());
        for hidden in 0..S {
            let spoil = |is_spoilt: &dyn Fn(usize) -> bool| {
                on_device(&spoilt(&k, hidden, f32::NAN, is_spoilt), &spoilt(&v, hidden, f32::INFINITY, is_spoilt))
            };
            let found = result(&spoil(&|_| true)).unwrap().to_vec::<f32>().unwrap();
            for (at, (found, expected)) in found.iter().zip(&expected).enumerate() {
                if case.sees(at / (H * T * D), at / D % T, hidden) {
                    assert!(found.is_nan(), "key {hidden}, element {at}: {found}");
                } else {
                    assert_eq!(found.to_bits(), expected.to_bits(), "key {hidden}, element {at}");
                    compared[0] += 1;
                }
            }
            // Where no query sees it, no gradient changes either.
            let is_unseen = |batch| (0..T).all(|query| !case.sees(batch, query, hidden));
            assert_eq!(gradients(result, &spoil(&is_unseen).each_ref()), expected_gradients, "key {hidden}");
            compared[1] += (0..B).filter(|&batch| is_unseen(batch)).count();
        }
    }
    assert!(compared[0] > 500 && compared[1] >= 5, "{compared:?}");
}
