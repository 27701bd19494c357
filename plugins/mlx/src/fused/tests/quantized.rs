//! Quantised weights against the same ones made whole.

use super::*;

/// Words, scales and biases of a weight `[out, in]`.
fn quantized(out: i32, inner: i32, group_size: i32, bits: i32) -> [Array; 3] {
    Device::set_default(&Device::cpu());
    let (words, scales, biases) = ops::quantize(uniform(&[out, inner], 21), group_size, bits).unwrap();
    eval([&words, &scales, &biases]).unwrap();
    [words, scales, biases]
}

fn weight([words, scales, biases]: &[Array; 3], group_size: i32, bits: i32) -> Quantized<'_> {
    Quantized { words, scales, biases, group_size, bits }
}

/// Every packing on a small weight, and one on a weight of several panels of products of f32, and of rounded ones.
fn each_packing() -> Vec<(i32, i32, i32, i32)> {
    let mut all = vec![(4160, 1024, 64, 4), (8256, 1024, 32, 3)];
    all.extend([2, 3, 4, 5, 6, 8].into_iter().flat_map(|bits| [32, 64, 128].map(|size| (40, 256, size, bits))));
    all
}

#[test]
fn products_and_their_gradients_are_those_of_the_whole_weight() {
    for (out, inner, group_size, bits) in each_packing() {
        let parts = quantized(out, inner, group_size, bits);
        let of = weight(&parts, group_size, bits);
        let whole = dequantize(&of).unwrap();
        assert_near("the whole weight", &whole, &composed::dequantize(&of).unwrap());
        for rows in [3, 17] {
            let (x, cotangent) = (uniform(&[rows, inner], 22), uniform(&[rows, out], 23));
            let packed = |x: &[Array]| Ok(vec![quantized_linear(&x[0], &of, None, true)?]);
            let plain = |x: &[Array]| Ok(vec![linear(&x[0], &whole)?]);
            let of_x = |function: &dyn Fn(&[Array]) -> Result<Vec<Array>>| {
                fallible_vjp(function, std::slice::from_ref(&x), std::slice::from_ref(&cotangent)).unwrap()
            };
            let ((got, got_gradient), (want, want_gradient)) = (of_x(&packed), of_x(&plain));
            let what = format!("{bits} bits, groups of {group_size}, {rows} rows of {inner} to {out}");
            assert_near(&what, &got[0], &want[0]);
            assert_near(&format!("{what}, gradient"), &got_gradient[0], &want_gradient[0]);
        }
    }
}

#[test]
fn operands_are_rounded_as_those_of_the_whole_weight() {
    for (out, inner, group_size, bits) in each_packing() {
        let parts = quantized(out, inner, group_size, bits);
        let of = weight(&parts, group_size, bits);
        let whole = dequantize(&of).unwrap();
        for (rows, operands, dtype) in [
            (3, Dtype::Bfloat16, Dtype::Float32),
            (17, Dtype::Bfloat16, Dtype::Float32),
            (17, Dtype::Bfloat16, Dtype::Bfloat16),
            (3, Dtype::Float16, Dtype::Float32),
        ] {
            let x = uniform(&[rows, inner], 22).as_dtype(dtype).unwrap();
            let cotangent = uniform(&[rows, out], 23).as_dtype(dtype).unwrap();
            let packed = |x: &[Array]| Ok(vec![quantized_linear(&x[0], &of, Some(operands), true)?]);
            let plain = |x: &[Array]| Ok(vec![rounded_linear(&x[0], &whole, operands)?]);
            let of_x = |function: &dyn Fn(&[Array]) -> Result<Vec<Array>>| {
                fallible_vjp(function, std::slice::from_ref(&x), std::slice::from_ref(&cotangent)).unwrap()
            };
            let ((got, got_gradient), (want, want_gradient)) = (of_x(&packed), of_x(&plain));
            let what = format!("{bits} bits, groups of {group_size}, {rows} rows of {inner} to {out}, {operands:?}");
            for (got, want) in [(&got[0], &want[0]), (&got_gradient[0], &want_gradient[0])] {
                assert_eq!(got.dtype(), dtype);
                let [got, want] = [got, want].map(|array| array.as_dtype(Dtype::Float32).unwrap());
                let (got, want) = (values(&got), values(&want));
                let error: f32 = got.iter().zip(&want).map(|(g, w)| (g - w).powi(2)).sum::<f32>().sqrt();
                let norm = want.iter().map(|w| w * w).sum::<f32>().sqrt();
                // Results of half precision may be rounded to neighbours.
                let tolerance = if dtype == Dtype::Float32 { 1e-5 } else { 1e-3 };
                assert!(error <= tolerance * norm, "{what}: relative error {}", error / norm);
            }
        }
    }
}

#[test]
fn scales_and_biases_have_the_gradients_of_mlx() {
    for bits in [3, 4] {
        let [words, scales, biases] = quantized(5, 128, 64, bits);
        let made_whole = |function: fn(&Quantized<'_>) -> Result<Array>| {
            let words = words.clone();
            move |x: &[Array]| {
                let of = Quantized { words: &words, scales: &x[0], biases: &x[1], group_size: 64, bits };
                Ok(vec![function(&of)?])
            }
        };
        let inputs = [scales.clone(), biases.clone()];
        let cotangent = uniform(&[5, 128], 24);
        let (_, got) = fallible_vjp(made_whole(dequantize), &inputs, std::slice::from_ref(&cotangent)).unwrap();
        let (_, want) = fallible_vjp(made_whole(composed::dequantize), &inputs, &[cotangent]).unwrap();
        assert_near("gradient of scales", &got[0], &want[0]);
        assert_near("gradient of biases", &got[1], &want[1]);
    }
}
