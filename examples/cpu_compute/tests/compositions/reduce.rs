use mdt_plugin_api::prelude::*;

use crate::{agree, device, gradients, tensor};

const INF: f32 = f32::INFINITY;

#[test]
fn log_sum_exp_neither_overflows_nor_gives_nan_for_rows_of_nothing() {
    let compute = device();
    let x = tensor(&compute, &[5, 2], &[1000.0, 1000.0, -INF, -INF, 0.0, -INF, INF, 1.0, f32::NAN, 1.0]);
    let expected = [1000.0 + 2f64.ln(), f64::NEG_INFINITY, 0.0, f64::INFINITY, f64::NAN];
    agree(&x.log_sum_exp_axes(&[1], false).unwrap().to_vec::<f64>().unwrap(), &expected, 1e-6);
    let finite = x.slice(&[0, 0], &[3, 2]).unwrap();
    let found = gradients(|x| x[0].log_sum_exp_axes(&[-1], true), &[&finite]);
    agree(&found[0], &[0.5, 0.5, 0.0, 0.0, 1.0, 0.0], 1e-6);
    let nothing = tensor(&compute, &[2, 0], &[]).log_sum_exp_axes(&[1], false).unwrap();
    assert_eq!(nothing.to_vec::<f64>().unwrap(), [f64::NEG_INFINITY; 2]);
}

#[test]
fn softmax_of_large_numbers_is_that_of_their_differences() {
    let compute = device();
    let x = tensor(&compute, &[2, 3], &[1000.0, 1001.0, -INF, 0.0, 0.0, 0.0]);
    let e = 1f64.exp();
    let softmax = [1.0 / (1.0 + e), e / (1.0 + e), 0.0, 1.0 / 3.0, 1.0 / 3.0, 1.0 / 3.0];
    agree(&x.softmax(1).unwrap().to_vec::<f64>().unwrap(), &softmax, 1e-6);
    agree(&x.log_softmax(-1).unwrap().to_vec::<f64>().unwrap(), &softmax.map(f64::ln), 1e-6);
    // The gradient of the first logarithm of a row: 1 - softmax, and - softmax elsewhere.
    let first = |x: &[Tensor]| x[0].log_softmax(1)?.slice(&[0, 0], &[2, 1]);
    let expected: Vec<f64> = softmax.iter().enumerate().map(|(at, s)| f64::from(u8::from(at % 3 == 0)) - s).collect();
    agree(&gradients(first, &[&x])[0], &expected, 1e-6);
    assert_eq!(tensor(&compute, &[2, 0], &[]).softmax(1).unwrap().shape().unwrap(), [2, 0]);
}

#[test]
fn means_divide_by_what_was_summed() {
    let compute = device();
    let x = tensor(&compute, &[2, 3], &[1.0, 2.0, 3.0, 4.0, 5.0, 6.0]);
    assert_eq!(x.mean().unwrap().item().unwrap(), 3.5);
    assert_eq!(x.mean_axes(&[0], false).unwrap().to_vec::<f64>().unwrap(), [2.5, 3.5, 4.5]);
    let integers = x.cast(Dtype::I32).unwrap().mean_axes(&[-1], true).unwrap();
    assert_eq!((integers.shape().unwrap(), integers.to_vec::<f64>().unwrap()), (vec![2, 1], vec![2.0, 5.0]));
    assert!(tensor(&compute, &[0], &[]).mean().unwrap().item().unwrap().is_nan());
}

#[test]
fn the_largest_element_is_the_first_of_equal_ones_and_nan_before_all() {
    let compute = device();
    let x = tensor(&compute, &[2, 4], &[1.0, 3.0, 3.0, -1.0, 5.0, f32::NAN, 7.0, f32::NAN]);
    let argmax = x.argmax(1).unwrap();
    assert_eq!((argmax.tensor_type().unwrap().dtype, argmax.to_vec::<i32>().unwrap()), (Dtype::I32, vec![1, 1]));
    assert_eq!(x.top_k(3, -1).unwrap().to_vec::<i32>().unwrap(), [1, 2, 0, 1, 3, 2]);
    assert_eq!(x.top_k(0, 1).unwrap().shape().unwrap(), [2, 0]);
    let sorted = x.sort(1, false).unwrap().to_vec::<f64>().unwrap();
    agree(&sorted, &[-1.0, 1.0, 3.0, 3.0, 5.0, 7.0, f64::NAN, f64::NAN], 0.0);
    assert_eq!(gradients(|x| x[0].sort(1, true)?.slice(&[0, 0], &[1, 1]), &[&x])[0], [0., 1., 0., 0., 0., 0., 0., 0.]);
}

#[test]
fn categories_are_drawn_with_their_probabilities() {
    let compute = device();
    let logits = tensor(&compute, &[3], &[0.0, 3f32.ln(), -INF]).broadcast_to(&[8000, 3]).unwrap();
    let drawn = logits.random_categorical(5).unwrap().to_vec::<i32>().unwrap();
    let count = |of: i32| drawn.iter().filter(|&&drawn| drawn == of).count();
    assert_eq!((drawn.len(), count(2)), (8000, 0));
    assert!((5800..6200).contains(&count(1)), "{}", count(1));
}
