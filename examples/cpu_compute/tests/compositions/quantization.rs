use mdt_plugin_api::Value;
use mdt_plugin_api::op::attribute;
use mdt_plugin_api::prelude::*;

use crate::{agree, device, gradients, numbers, tensor};

/// The numbers, scale and bias of a group, as the table says it.
fn quantized(group: &[f32], bits: u32) -> (Vec<u32>, f32, f32) {
    let most = ((1 << bits) - 1) as f32;
    let (least, largest) = group.iter().fold((f32::MAX, f32::MIN), |(a, b), &x| (a.min(x), b.max(x)));
    let step = ((largest - least) / most).max(1e-7);
    let (step, edge) = if least.abs() > largest.abs() { (step, least) } else { (-step, largest) };
    let steps = (edge / step).round_ties_even();
    let (scale, bias) = if steps == 0.0 { (step, 0.0) } else { (edge / steps, edge) };
    let number = |x: &f32| ((x - bias) / scale).round_ties_even().clamp(0.0, most) as u32;
    (group.iter().map(number).collect(), scale, bias)
}

#[test]
fn numbers_are_packed_bit_after_bit() {
    let compute = device();
    for (bits, group_size) in [(2, 32), (3, 32), (4, 64), (5, 32), (6, 64), (8, 128)] {
        let weights = numbers(2 * 128, bits);
        let parts = tensor(&compute, &[2, 128], &weights).quantize(group_size as i64, i64::from(bits)).unwrap();
        let (mut words, mut scales, mut biases) = (vec![0u32; 8 * bits as usize], Vec::new(), Vec::new());
        let mut stands_for = Vec::new();
        for (at, group) in weights.chunks(group_size).enumerate() {
            let (numbers, scale, bias) = quantized(group, bits);
            for (place, number) in numbers.into_iter().enumerate() {
                stands_for.push(f64::from(number as f32 * scale + bias));
                let first = (at * group_size + place) * bits as usize;
                (0..bits as usize)
                    .for_each(|bit| words[(first + bit) / 32] |= (number >> bit & 1) << ((first + bit) % 32));
            }
            scales.push(scale);
            biases.push(bias);
        }
        assert_eq!(parts[0].shape().unwrap(), [2, 4 * bits as usize]);
        assert_eq!(parts[0].to_vec::<u32>().unwrap(), words, "{bits} bits");
        assert_eq!(parts[1].to_vec::<f32>().unwrap(), scales, "{bits} bits");
        assert_eq!(parts[2].to_vec::<f32>().unwrap(), biases, "{bits} bits");
        let back = Tensor::dequantize([&parts[0], &parts[1], &parts[2]], group_size as i64, i64::from(bits)).unwrap();
        agree(&back.to_vec::<f64>().unwrap(), &stands_for, 1e-6);
        // The group's edge is hit, and nothing is further away than the steps are apart, in eight bits.
        let furthest = stands_for.iter().zip(&weights).map(|(a, &b)| (a - f64::from(b)).abs()).fold(0.0, f64::max);
        assert!(bits < 8 || furthest < 0.016, "{furthest}");
    }
}

#[test]
fn products_with_quantised_weights_are_those_with_what_they_stand_for() {
    let compute = device();
    let x = tensor(&compute, &[3, 64], &numbers(192, 5));
    let [words, scales, biases] = tensor(&compute, &[2, 64], &numbers(128, 9)).quantize(32, 3).unwrap();
    let weight = Tensor::dequantize([&words, &scales, &biases], 32, 3).unwrap();
    let attributes = [attribute("group_size", Value::Int(32)), attribute("bits", Value::Int(3))];
    let product = |x: &[Tensor]| x[0].quantized_linear([&words, &scales, &biases], 32, 3);
    let found = product(&[x.try_clone().unwrap()]).unwrap().to_vec::<f64>().unwrap();
    agree(&found, &x.linear(&weight, None).unwrap().to_vec::<f64>().unwrap(), 1e-6);
    agree(&gradients(product, &[&x])[0], &gradients(|x| x[0].linear(&weight, None), &[&x])[0], 1e-6);
    // The weights are not trained.
    let of_scales = |x: &[Tensor]| Tensor::op(OpKind::QUANTIZED_LINEAR, &[&x[0], &words, &x[1], &biases], &attributes);
    assert!(gradients(of_scales, &[&x, &scales])[1].iter().all(|&gradient| gradient == 0.0));
}
