//! The primitives against the composition: values, gradients, strides, broadcast cotangents, donation, and use counts.

mod attention_in_half;
mod quantized;

use super::*;
use mlx_rs::transforms::{eval, fallible_vjp, value_and_grad_with_argnums};
use mlx_rs::{Device, ops, random};

/// A pair of the same function, fused and composed, as MLX's transforms want them.
type Function = fn(&[Array]) -> Result<Vec<Array>>;

fn uniform(shape: &[i32], seed: u64) -> Array {
    let key = random::key(seed).unwrap();
    random::uniform::<_, f32>(-1.0, 1.0, shape, Some(&key)).unwrap()
}

fn values(array: &Array) -> Vec<f32> {
    // Row-major, whatever the layout.
    let dense = array.contiguous().unwrap();
    dense.eval().unwrap();
    dense.as_slice::<f32>().to_vec()
}

/// ‖got − want‖ ≤ tolerance · ‖want‖
fn assert_near(what: &str, got: &Array, want: &Array) {
    assert_eq!(got.shape(), want.shape(), "{what}");
    let (got, want) = (values(got), values(want));
    let error: f32 = got.iter().zip(&want).map(|(g, w)| (g - w).powi(2)).sum::<f32>().sqrt();
    let norm = want.iter().map(|w| w * w).sum::<f32>().sqrt();
    assert!(error <= 1e-5 * norm.max(1e-3), "{what}: relative error {}", error / norm);
}

/// Values and vector-Jacobian products agree, for dense cotangents and for those of a mean (stride 0).
fn assert_same(what: &str, fused: Function, composed: Function, inputs: &[Array]) {
    Device::set_default(&Device::cpu());
    let outputs = composed(inputs).unwrap();
    let dense: Vec<Array> = outputs.iter().enumerate().map(|(i, out)| uniform(out.shape(), 90 + i as u64)).collect();
    let broadcast: Vec<Array> =
        outputs.iter().map(|out| ops::broadcast_to(Array::from_f32(0.25), out.shape()).unwrap()).collect();
    for cotangents in [dense, broadcast] {
        let (got, got_gradients) = fallible_vjp(fused, inputs, &cotangents).unwrap();
        let (want, want_gradients) = fallible_vjp(composed, inputs, &cotangents).unwrap();
        for (i, (got, want)) in got.iter().zip(&want).enumerate() {
            assert_near(&format!("{what}, output {i}"), got, want);
        }
        for (i, (got, want)) in got_gradients.iter().zip(&want_gradients).enumerate() {
            assert_near(&format!("{what}, gradient {i}"), got, want);
        }
    }
}

/// [B, T, heads · D] as [B, heads, T, D], the way a projection's result comes.
fn heads(x: &Array, heads: i32) -> Array {
    let [batch, positions, width] = *x.shape() else { panic!("three axes") };
    let split = x.reshape(&[batch, positions, heads, width / heads]).unwrap();
    split.transpose_axes(&[0, 2, 1, 3]).unwrap()
}

fn options(scale: f32, causal: bool) -> AttentionOptions {
    AttentionOptions { scale, causal, ..AttentionOptions::default() }
}

#[test]
fn cross_entropy_is_that_of_mlx() {
    let targets = || Array::from_slice(&[3, 0, -100, 32, 7], &[5]);
    assert!(native::applies(&[&uniform(&[1], 0)]));
    let logits = uniform(&[5, 33], 1).multiply(Array::from_f32(8.0)).unwrap();
    assert_same(
        "cross-entropy",
        |x| Ok(vec![cross_entropy(&x[0], &Array::from_slice(&[3, 0, -100, 32, 7], &[5]))?]),
        |x| Ok(vec![composed::cross_entropy(&x[0], &Array::from_slice(&[3, 0, -100, 32, 7], &[5]))?]),
        std::slice::from_ref(&logits),
    );
    // Logits that are a transposed view.
    let transposed = uniform(&[33, 5], 2).transpose().unwrap();
    let (got, want) = (cross_entropy(&transposed, &targets()), composed::cross_entropy(&transposed, &targets()));
    assert_near("cross-entropy of a view", &got.unwrap(), &want.unwrap());
}

/// Tiles of 16 rows and 64 columns of 37 rows and 150 columns.
const TILES: TokenLosses = TokenLosses { scale: 0.5, soft_cap: Some(2.0), tile: (16, 64), rounds: false };

/// Not trained: the last row of the first tile, and the first of the last one. The last column is a target.
fn targets() -> Array {
    let target = |row| match row {
        15 | 32 => -100,
        20 => 149,
        row => row * 31 % 149,
    };
    Array::from_slice(&(0..37).map(target).collect::<Vec<i32>>(), &[37])
}

/// Hidden states, a weight and a bias.
fn head() -> [Array; 3] {
    let size = Array::from_f32(2.0);
    [uniform(&[37, 24], 1).multiply(size).unwrap(), uniform(&[150, 24], 2), uniform(&[150], 3)]
}

fn by_all_logits(x: &[Array], options: &TokenLosses) -> Result<Vec<Array>> {
    let mut logits = composed::linear(&x[0], &x[1])?;
    if let Some(bias) = x.get(2) {
        logits = logits.add(bias)?;
    }
    logits = logits.multiply(Array::from_f32(options.scale))?;
    if let Some(cap) = options.soft_cap.map(Array::from_f32) {
        logits = ops::tanh(logits.divide(&cap)?)?.multiply(&cap)?;
    }
    Ok(vec![composed::cross_entropy(&logits, &targets())?])
}

#[test]
fn losses_of_tiles_are_those_of_all_logits() {
    const PLAIN: TokenLosses = TokenLosses { scale: 1.0, soft_cap: None, ..TILES };
    let inputs = head();
    assert_same(
        "token losses",
        |x| Ok(vec![token_losses(&x[0], &x[1], &targets(), None, &PLAIN)?]),
        |x| by_all_logits(x, &PLAIN),
        &inputs[..2],
    );
    assert_same(
        "token losses of scaled and capped logits with a bias",
        |x| Ok(vec![token_losses(&x[0], &x[1], &targets(), Some(&x[2]), &TILES)?]),
        |x| by_all_logits(x, &TILES),
        &inputs,
    );
    // A weight that is a transposed view.
    let view = uniform(&[24, 150], 2).transpose().unwrap();
    let got = token_losses(&inputs[0], &view, &targets(), None, &PLAIN).unwrap();
    assert_near("token losses of a view", &got, &by_all_logits(&[inputs[0].clone(), view], &PLAIN).unwrap()[0]);
}

#[test]
fn each_gradient_of_losses_is_the_same_whichever_others_are_asked_for() {
    Device::set_default(&Device::cpu());
    let inputs = head();
    let loss = |x: &[Array]| -> Result<Vec<Array>> {
        Ok(vec![token_losses(&x[0], &x[1], &targets(), Some(&x[2]), &TILES)?.sum(None)?])
    };
    let gradients = |places: &[i32]| -> Vec<Vec<f32>> {
        value_and_grad_with_argnums(loss, places)(&inputs).unwrap().1.iter().map(values).collect()
    };
    let all = gradients(&[0, 1, 2]);
    for places in [&[0][..], &[1], &[2], &[0, 2], &[1, 2]] {
        let expected: Vec<_> = places.iter().map(|&place| all[place as usize].clone()).collect();
        assert_eq!(gradients(places), expected, "{places:?}");
    }
}

#[test]
fn losses_of_rounded_operands_are_near_those_of_their_numbers_in_float32() {
    const ROUNDED: TokenLosses = TokenLosses { rounds: true, ..TILES };
    Device::set_default(&Device::cpu());
    let narrow = head().map(|x| x.as_dtype(Dtype::Bfloat16).unwrap());
    let wide = narrow.clone().map(|x| x.as_dtype(Dtype::Float32).unwrap());
    let of = |inputs: &[Array], options: TokenLosses| {
        let loss = |x: &[Array]| -> Result<Vec<Array>> {
            Ok(vec![token_losses(&x[0], &x[1], &targets(), Some(&x[2]), &options)?.sum(None)?])
        };
        value_and_grad_with_argnums(loss, &[0, 1, 2])(inputs).unwrap()
    };
    let (want, want_gradients) = of(&wide, TILES);
    for inputs in [&narrow, &wide] {
        let (got, got_gradients) = of(inputs, ROUNDED);
        assert!((values(&got[0])[0] / values(&want[0])[0] - 1.0).abs() < 1e-5, "numbers of bfloat16 are not rounded");
        for ((got, want), input) in got_gradients.iter().zip(&want_gradients).zip(inputs) {
            assert_eq!(got.dtype(), input.dtype());
            let (got, want) = (values(&got.as_dtype(Dtype::Float32).unwrap()), values(want));
            let norm = |values: &mut dyn Iterator<Item = f32>| values.map(|value| value * value).sum::<f32>().sqrt();
            let error = norm(&mut got.iter().zip(&want).map(|(got, want)| got - want));
            assert!(error < 0.01 * norm(&mut want.iter().copied()), "a gradient of logits has eight bits: {error}");
        }
    }
}

#[test]
fn sums_of_several_uses_are_one_product_and_have_the_gradients_of_each() {
    Device::set_default(&Device::cpu());
    let inputs = [uniform(&[2, 40, 24], 1), uniform(&[48, 24], 2), uniform(&[64, 24], 3), uniform(&[2, 40, 24], 4)];
    let loss = |x: &[Array]| -> Result<Vec<Array>> {
        let product = |weight: &Array| rounded_linear(&x[0], weight, Dtype::Bfloat16)?.square()?.sum(None);
        let used = x[0].add(&x[3])?;
        Ok(vec![product(&x[1])?.add(product(&x[2])?)?.add(used.square()?.sum(None)?)?])
    };
    let (_, gradients) = value_and_grad_with_argnums(loss, &[0, 1, 2, 3])(&inputs).unwrap();
    let expected: Vec<_> = gradients.iter().map(values).collect();
    let (_, gradients) = value_and_grad_with_argnums(loss, &[0, 1, 2, 3])(&inputs).unwrap();
    let joined = with_joined_sums(gradients).unwrap();
    for (got, want) in joined.iter().map(values).zip(&expected) {
        // One product rounds its sum once more seldom.
        assert!(got.iter().zip(want).all(|(got, want)| (got - want).abs() <= 1e-4 * want.abs().max(1.0)));
    }
}

#[test]
fn rows_that_are_not_trained_have_no_gradient() {
    Device::set_default(&Device::cpu());
    let none = Array::from_slice(&[-1i32; 37], &[37]);
    let loss = |x: &[Array]| -> Result<Vec<Array>> {
        Ok(vec![token_losses(&x[0], &x[1], &none, Some(&x[2]), &TILES)?.sum(None)?])
    };
    let (losses, gradients) = value_and_grad_with_argnums(loss, &[0, 1, 2])(&head()).unwrap();
    assert_eq!(values(&losses[0]), [0.0]);
    assert!(gradients.iter().flat_map(values).all(|element| element == 0.0));
}

#[test]
fn swiglu_is_that_of_mlx() {
    let inputs = [uniform(&[3, 5, 17], 1).multiply(Array::from_f32(9.0)).unwrap(), uniform(&[3, 5, 17], 2)];
    assert_same("swiglu", |x| Ok(vec![swiglu(&x[0], &x[1])?]), |x| Ok(vec![composed::swiglu(&x[0], &x[1])?]), &inputs);
    let halves = ops::split_equal(uniform(&[4, 34], 3), 2, 1).unwrap();
    assert_same(
        "swiglu of halves",
        |x| Ok(vec![swiglu(&x[0], &x[1])?]),
        |x| Ok(vec![composed::swiglu(&x[0], &x[1])?]),
        &halves,
    );
}

#[test]
fn rms_norm_is_that_of_mlx() {
    let inputs = [uniform(&[2, 40, 24], 1), uniform(&[24], 2)];
    assert_same(
        "rms_norm",
        |x| Ok(vec![rms_norm(&x[0], &x[1], 1e-5)?]),
        |x| Ok(vec![composed::rms_norm(&x[0], &x[1], 1e-5)?]),
        &inputs,
    );
}

fn tables(per_batch: bool) -> RopeTables {
    let positions: Vec<i32> = (0..if per_batch { 18 } else { 9 }).map(|i| i * 5 % 31).collect();
    let shape: &[i32] = if per_batch { &[2, 9] } else { &[9] };
    let inv_freq = Array::from_slice(&[1.0f32, 0.3, 0.02], &[3]);
    rope_tables(&Array::from_slice(&positions, shape), &inv_freq, 1.5).unwrap()
}

#[test]
fn rope_is_that_of_the_formula() {
    for per_batch in [false, true] {
        let positions: Vec<i32> = (0..if per_batch { 18 } else { 9 }).map(|i| i * 5 % 31).collect();
        let shape: &[i32] = if per_batch { &[2, 9] } else { &[9] };
        let inv_freq = Array::from_slice(&[1.0f32, 0.3, 0.02], &[3]);
        let want = composed::rope_tables(&Array::from_slice(&positions, shape), &inv_freq, 1.5).unwrap();
        assert_near("cosines", &tables(per_batch).cos, &want.cos);
        assert_near("sines", &tables(per_batch).sin, &want.sin);
    }
    let x = heads(&uniform(&[2, 9, 4 * 8], 1), 4);
    let fused: [Function; 2] = [|x| Ok(vec![rope(&x[0], &tables(false))?]), |x| Ok(vec![rope(&x[0], &tables(true))?])];
    let composed: [Function; 2] =
        [|x| Ok(vec![composed::rope(&x[0], &tables(false))?]), |x| Ok(vec![composed::rope(&x[0], &tables(true))?])];
    for (fused, composed) in fused.into_iter().zip(composed) {
        assert_same("rope", fused, composed, std::slice::from_ref(&x));
    }
}

fn packed(segments: &Array) -> AttentionExtras<'_> {
    AttentionExtras { segments: Some(segments), ..AttentionExtras::default() }
}

#[test]
fn attention_is_that_of_mlx() {
    fn segments() -> Array {
        let ids: Vec<i32> = (0..2 * 70).map(|i| i % 70 / 23).collect();
        Array::from_slice(&ids, &[2, 70])
    }
    let inputs = [
        heads(&uniform(&[2, 70, 4 * 8], 1), 4),
        heads(&uniform(&[2, 70, 16], 2), 2),
        heads(&uniform(&[2, 70, 16], 3), 2),
    ];
    assert_same(
        "causal attention",
        |x| Ok(vec![attention(&x[0], &x[1], &x[2], AttentionExtras::default(), &options(0.4, true))?]),
        |x| Ok(vec![composed::attention(&x[0], &x[1], &x[2], AttentionExtras::default(), &options(0.4, true))?]),
        &inputs,
    );
    assert_same(
        "packed attention",
        |x| Ok(vec![attention(&x[0], &x[1], &x[2], packed(&segments()), &options(0.4, true))?]),
        |x| Ok(vec![composed::attention(&x[0], &x[1], &x[2], packed(&segments()), &options(0.4, true))?]),
        &inputs,
    );
    assert_same(
        "full attention",
        |x| Ok(vec![attention(&x[0], &x[1], &x[2], AttentionExtras::default(), &options(0.4, false))?]),
        |x| Ok(vec![composed::attention(&x[0], &x[1], &x[2], AttentionExtras::default(), &options(0.4, false))?]),
        &inputs,
    );
    fn options_of(window: Option<i32>, soft_cap: Option<f32>) -> AttentionOptions {
        AttentionOptions { window, soft_cap, ..options(0.4, true) }
    }
    assert_same(
        "attention in a window",
        |x| Ok(vec![attention(&x[0], &x[1], &x[2], packed(&segments()), &options_of(Some(13), None))?]),
        |x| Ok(vec![composed::attention(&x[0], &x[1], &x[2], packed(&segments()), &options_of(Some(13), None))?]),
        &inputs,
    );
    assert_same(
        "attention with capped scores",
        |x| Ok(vec![attention(&x[0], &x[1], &x[2], packed(&segments()), &options_of(Some(40), Some(0.2)))?]),
        |x| Ok(vec![composed::attention(&x[0], &x[1], &x[2], packed(&segments()), &options_of(Some(40), Some(0.2)))?]),
        &inputs,
    );
    let cached = [heads(&uniform(&[2, 9, 4 * 8], 4), 4), inputs[1].clone(), inputs[2].clone()];
    assert_same(
        "attention after a cache",
        |x| Ok(vec![attention(&x[0], &x[1], &x[2], AttentionExtras::default(), &options(0.4, true))?]),
        |x| Ok(vec![composed::attention(&x[0], &x[1], &x[2], AttentionExtras::default(), &options(0.4, true))?]),
        &cached,
    );
}

#[test]
fn products_and_look_ups_are_those_of_mlx() {
    let inputs = [uniform(&[2, 9, 12], 1), uniform(&[7, 12], 2)];
    assert_same("linear", |x| Ok(vec![linear(&x[0], &x[1])?]), |x| Ok(vec![composed::linear(&x[0], &x[1])?]), &inputs);
    assert_same(
        "embedding",
        |x| Ok(vec![embedding(&x[0], &Array::from_slice(&[3, 0, 3, 6], &[2, 2]))?]),
        |x| Ok(vec![composed::embedding(&x[0], &Array::from_slice(&[3, 0, 3, 6], &[2, 2]))?]),
        &[uniform(&[7, 12], 2)],
    );
}

#[test]
fn products_with_a_matrix_of_several_are_those_of_each_matrix() {
    // Matrix 1 has no row, matrix 3 has one.
    fn indices() -> Array {
        Array::from_slice(&[2, 0, 3, 2, 0, 2, 2, 0, 0, 2], &[5, 2])
    }
    /// The products with all matrices, of which each row takes one.
    fn by_definition(x: &[Array]) -> Result<Vec<Array>> {
        let (rows, weight) = (ops::broadcast_to(&x[0], &[5, 2, 12])?, &x[1]);
        let all = rows.reshape(&[10, 1, 1, 12])?.matmul(weight.swap_axes(1, 2)?)?.reshape(&[10, 4, 7])?;
        let each = ops::arange::<i32, i32>(0, 4, 1)?.eq(indices().reshape(&[10, 1])?)?.as_dtype(Dtype::Float32)?;
        Ok(vec![all.multiply(each.reshape(&[10, 4, 1])?)?.sum_axes(&[1], false)?.reshape(&[5, 2, 7])?])
    }
    for rows in [1, 2] {
        assert_same(
            "gather_linear",
            |x| Ok(vec![gather_linear(&x[0], &x[1], &indices())?]),
            by_definition,
            &[uniform(&[5, rows, 12], 1), uniform(&[4, 7, 12], 2)],
        );
    }
    // MLX's own, which takes its place on other devices.
    fn groups() -> Array {
        Array::from_slice(&[0, 0, 2, 2, 2, 3], &[6])
    }
    assert_same(
        "grouped_linear",
        |x| Ok(vec![grouped_linear(&x[0], &x[1], &groups())?]),
        |x| Ok(vec![composed::grouped_linear(&x[0], &x[1], &groups())?]),
        &[uniform(&[6, 12], 3), uniform(&[4, 7, 12], 4)],
    );
}

#[test]
fn a_backwards_view_is_read_in_its_own_order() {
    use mlx_rs::ops::indexing::{IndexOp, IntoStrideBy};
    Device::set_default(&Device::cpu());
    let x = heads(&uniform(&[2, 9, 4 * 8], 1), 4);
    let backwards = x.index((.., .., (..).stride_by(-1), ..));
    backwards.eval().unwrap();
    let (got, want) = (rope(&backwards, &tables(false)), composed::rope(&backwards, &tables(false)));
    assert_near("rope of a backwards view", &got.unwrap(), &want.unwrap());
}

#[test]
fn gradients_of_a_weight_are_row_major() {
    Device::set_default(&Device::cpu());
    let loss = |x: &[Array]| -> Result<Vec<Array>> { Ok(vec![linear(&x[0], &x[1])?.sum(None)?]) };
    let inputs = [uniform(&[20, 12], 1), uniform(&[7, 12], 2)];
    let (_, gradients) = value_and_grad_with_argnums(loss, &[1])(&inputs).unwrap();
    eval(&gradients).unwrap();
    assert!(gradients[0].try_as_slice::<f32>().is_ok(), "strides {:?}", gradients[0].strides());
}

#[test]
fn logits_that_are_needed_again_survive_their_gradient() {
    Device::set_default(&Device::cpu());
    let logits = uniform(&[4, 50], 1);
    let before = values(&logits);
    let targets = Array::from_slice(&[1, 2, 3, 4], &[4]);
    let loss = |x: &[Array]| -> Result<Vec<Array>> { Ok(vec![cross_entropy(&x[0], &targets)?.sum(None)?]) };
    let (_, gradients) = value_and_grad_with_argnums(loss, &[0])(std::slice::from_ref(&logits)).unwrap();
    eval(&gradients).unwrap();
    assert_eq!(values(&logits), before);
}

#[test]
fn an_array_is_exclusive_when_nothing_else_refers_to_it() {
    Device::set_default(&Device::cpu());
    let array = uniform(&[4, 6], 1);
    assert!(!is_exclusive(&array), "it is not evaluated yet");
    array.eval().unwrap();
    assert!(is_exclusive(&array));
    let second = array.clone();
    assert!(!is_exclusive(&array), "a clone holds it");
    drop(second);
    assert!(is_exclusive(&array));
    let view = array.reshape(&[6, 4]).unwrap();
    view.eval().unwrap();
    assert!(!is_exclusive(&array), "a view shares its memory");
    drop(view);
    let pending = array.add(Array::from_f32(1.0)).unwrap();
    assert!(!is_exclusive(&array), "a pending sum will read it");
    pending.eval().unwrap();
    assert!(is_exclusive(&array), "the sum is done");
}

#[test]
fn wrong_shapes_are_named() {
    let error = cross_entropy(&uniform(&[4, 50], 1), &Array::from_slice(&[1, 2], &[2])).unwrap_err();
    assert!(
        error.what().contains("cross_entropy takes logits [N, V]") && error.what().contains("[4, 50]"),
        "{}",
        error.what()
    );
    let error = attention(
        &uniform(&[1, 3, 4, 8], 1),
        &uniform(&[1, 2, 4, 8], 2),
        &uniform(&[1, 2, 4, 8], 3),
        AttentionExtras::default(),
        &options(1.0, true),
    );
    assert!(error.unwrap_err().what().contains("Hkv dividing H"));
}

#[test]
fn the_same_step_twice_has_the_same_bits() {
    Device::set_default(&Device::cpu());
    start(2).unwrap();
    let inputs =
        [heads(&uniform(&[2, 70, 32], 1), 4), heads(&uniform(&[2, 70, 16], 2), 2), heads(&uniform(&[2, 70, 16], 3), 2)];
    let loss = |x: &[Array]| -> Result<Vec<Array>> {
        Ok(vec![attention(&x[0], &x[1], &x[2], AttentionExtras::default(), &options(0.4, true))?.square()?.sum(None)?])
    };
    let run = || {
        let (_, gradients) = value_and_grad_with_argnums(loss, &[0, 1, 2])(&inputs).unwrap();
        gradients.iter().map(values).collect::<Vec<_>>()
    };
    assert_eq!(run(), run());
}

#[test]
fn buffers_of_past_shapes_do_not_pile_up() {
    Device::set_default(&Device::cpu());
    start(2).unwrap();
    for step in 0..60 {
        uniform(&[1 << 12, 100 + 10 * step], 1).eval().unwrap();
        bound_buffers().unwrap();
    }
    // Other tests keep buffers in this process too, but not the gigabyte that went through here.
    let kept = mlx_rs::memory::cache_memory().unwrap();
    assert!(kept < 256 << 20, "{kept} bytes kept");
}

/// Rounded to bfloat16, as f32.
fn in_bf16(array: &Array) -> Vec<f32> {
    values(&array.as_dtype(Dtype::Bfloat16).unwrap().as_dtype(Dtype::Float32).unwrap())
}

/// `a [m, k] · b [k, n]`, each as a function of its place.
fn multiplied(m: usize, n: usize, k: usize, a: impl Fn(usize, usize) -> f32, b: impl Fn(usize, usize) -> f32) -> Array {
    let sum =
        |place: usize| (0..k).map(|k| f64::from(a(place / n, k)) * f64::from(b(k, place % n))).sum::<f64>() as f32;
    Array::from_slice(&(0..m * n).map(sum).collect::<Vec<_>>(), &[m as i32, n as i32])
}

#[test]
fn products_of_rounded_operands_and_their_gradients_are_added_up_in_f32() {
    Device::set_default(&Device::cpu());
    for (rows, inner, out) in [(1usize, 1usize, 1usize), (5, 7, 3), (33, 65, 17), (70, 40, 130), (64, 32, 96)] {
        let x = uniform(&[rows as i32, inner as i32], 1);
        let weight = uniform(&[out as i32, inner as i32], 2);
        let cotangent = uniform(&[rows as i32, out as i32], 3);
        let [rx, rw, rc] = [&x, &weight, &cotangent].map(in_bf16);
        let by_x = multiplied(rows, inner, out, |i, k| rc[i * out + k], |k, j| rw[k * inner + j]);
        let by_weight = multiplied(out, inner, rows, |i, k| rc[k * out + i], |k, j| rx[k * inner + j]);
        let value = multiplied(rows, out, inner, |i, k| rx[i * inner + k], |k, j| rw[j * inner + k]);
        let transposed = weight.transpose().unwrap().contiguous().unwrap();
        let linear = |x: &[Array]| Ok(vec![rounded_linear(&x[0], &x[1], Dtype::Bfloat16)?]);
        let plain = |x: &[Array]| Ok(vec![product(&x[0], &x[1], Dtype::Bfloat16)?]);
        let (got, gradients) =
            fallible_vjp(linear, &[x.clone(), weight.clone()], std::slice::from_ref(&cotangent)).unwrap();
        assert_near("value", &got[0], &value);
        assert_near("gradient of x", &gradients[0], &by_x);
        assert_near("gradient of the weight", &gradients[1], &by_weight);
        let (got, gradients) = fallible_vjp(plain, &[x.clone(), transposed], std::slice::from_ref(&cotangent)).unwrap();
        assert_near("value of the plain one", &got[0], &value);
        assert_near("gradient of the other one", &gradients[1].transpose().unwrap(), &by_weight);

        // x and the cotangent of half precision: the weight's gradient is not rounded, the others are.
        let half = |array: &Array| array.as_dtype(Dtype::Bfloat16).unwrap();
        let (got, gradients) = fallible_vjp(linear, &[half(&x), weight], &[half(&cotangent)]).unwrap();
        assert_eq!([got[0].dtype(), gradients[0].dtype()], [Dtype::Bfloat16; 2]);
        assert_near("gradient of a weight in f32", &gradients[1], &by_weight);
        let near = |got: &Array, want: &Array| {
            let (got, want) = (in_bf16(got), values(want));
            got.iter().zip(want).all(|(g, w)| (g - w).abs() <= w.abs() / 200.0 + 1e-5)
        };
        assert!(near(&got[0], &value) && near(&gradients[0], &by_x), "{rows} {inner} {out}");
    }
}

#[test]
fn layers_of_half_precision_are_those_of_f32_rounded_once() {
    Device::set_default(&Device::cpu());
    let half = |shape: &[i32], seed| uniform(shape, seed).as_dtype(Dtype::Bfloat16).unwrap();
    let tables = || {
        rope_tables(&Array::from_slice(&[0, 1, 2, 3, 4], &[5]), &Array::from_slice(&[1.0f32, 0.1], &[2]), 1.0).unwrap()
    };
    let x = half(&[2, 5, 12], 4);
    let (x, gate, weight) = (heads(&x, 3), half(&[2, 5, 12], 5), half(&[4], 6));
    type Layer = Box<dyn Fn(&[Array]) -> Result<Vec<Array>>>;
    let cases: [(&str, Layer, Vec<Array>); 3] = [
        ("rms_norm", Box::new(|x| Ok(vec![rms_norm(&x[0], &x[1], 1e-5)?])), vec![x.clone(), weight]),
        ("swiglu", Box::new(|x| Ok(vec![swiglu(&x[0], &x[1])?])), vec![gate.clone(), half(&[2, 5, 12], 7)]),
        ("rope", Box::new(move |x| Ok(vec![rope(&x[0], &tables())?])), vec![x.clone()]),
    ];
    for (what, function, inputs) in cases {
        let wide: Vec<Array> = inputs.iter().map(|input| input.as_dtype(Dtype::Float32).unwrap()).collect();
        let shape = function(&wide).unwrap()[0].shape().to_vec();
        let cotangent = half(&shape, 10);
        let of_wide = cotangent.as_dtype(Dtype::Float32).unwrap();
        let (got, gradients) = fallible_vjp(&function, &inputs, &[cotangent]).unwrap();
        let (want, want_gradients) = fallible_vjp(&function, &wide, &[of_wide]).unwrap();
        assert!(got[0].dtype() == Dtype::Bfloat16 && in_bf16(&got[0]) == in_bf16(&want[0]), "{what}");
        for (got, want) in gradients.iter().zip(&want_gradients) {
            assert_eq!(got.dtype(), Dtype::Bfloat16, "{what}");
            let (got, want) = (in_bf16(got), values(want));
            let largest = want.iter().fold(0f32, |largest, x| largest.max(x.abs()));
            assert!(got.iter().zip(want).all(|(g, w)| (g - w).abs() <= w.abs() / 200.0 + largest / 200.0), "{what}");
        }
    }
}
