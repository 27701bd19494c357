//! Every operation against a few lines of plain Rust, and everything that an operation refuses.

use mdt_plugin_api::op::attribute;
use mdt_plugin_api::{Attribute, Dtype, OpKind, Tensor, Value};

use crate::tests::{assert_close, cpu, elements, random, tensor};

use super::{OPERATIONS, supports};

#[test]
fn the_plugin_says_what_it_computes_and_leaves_the_rest_to_compositions() {
    let table: Vec<u32> = OPERATIONS.iter().map(|operation| operation.kind.0).collect();
    assert!(table.is_sorted());
    let primitives = OpKind::all().iter().filter(|definition| definition.is_primitive);
    assert!(primitives.map(|definition| definition.op.0).all(|number| table.contains(&number)));
    assert!(OPERATIONS.iter().all(|operation| operation.kind.definition().is_some()));
    assert!(supports(OpKind::ROPE, &["offset"], Dtype::F32) && supports(OpKind::ADD, &["left"], Dtype::I32));
    assert!(!supports(OpKind(9999), &[], Dtype::F32) && !supports(OpKind::ROPE, &["turns"], Dtype::F32));
    assert!(!supports(OpKind::ROPE, &[], Dtype::I32) && !supports(OpKind::ADD, &[], Dtype(77)));
    // MLX's softmax is of float32 only.
    assert!(!supports(OpKind::SOFTMAX, &[], Dtype::F64) && !supports(OpKind::DROPOUT, &[], Dtype::F32));
}

#[test]
fn elementwise() {
    let compute = cpu();
    let (a, b) = ([0.5f32, 2.0, 3.0], [4.0f32, 0.25, 3.0]);
    let (x, y) = (tensor(&compute, &[3], &a), tensor(&compute, &[3], &b));
    type Pair = fn(f64, f64) -> f64;
    let binary: [(OpKind, Pair); 7] = [
        (OpKind::ADD, |a, b| a + b),
        (OpKind::SUBTRACT, |a, b| a - b),
        (OpKind::MULTIPLY, |a, b| a * b),
        (OpKind::DIVIDE, |a, b| a / b),
        (OpKind::MAXIMUM, f64::max),
        (OpKind::MINIMUM, f64::min),
        (OpKind::POWER, f64::powf),
    ];
    for (op, rule) in binary {
        let want: Vec<f64> = a.iter().zip(b).map(|(&a, b)| rule(a.into(), b.into())).collect();
        assert_close(&elements(&Tensor::op(op, &[&x, &y], &[]).unwrap()), &want, 1e-6);
    }
    type One = fn(f64) -> f64;
    let unary: [(OpKind, One); 10] = [
        (OpKind::NEGATIVE, |x| -x),
        (OpKind::EXP, f64::exp),
        (OpKind::LOG, f64::ln),
        (OpKind::SQRT, f64::sqrt),
        (OpKind::RSQRT, |x| 1.0 / x.sqrt()),
        (OpKind::SQUARE, |x| x * x),
        (OpKind::SIGMOID, |x| 1.0 / (1.0 + (-x).exp())),
        (OpKind::SILU, silu),
        (OpKind::TANH, f64::tanh),
        (OpKind::ABS, f64::abs),
    ];
    for (op, rule) in unary {
        let want: Vec<f64> = a.iter().map(|&a| rule(a.into())).collect();
        assert_close(&elements(&Tensor::op(op, &[&x], &[]).unwrap()), &want, 1e-5);
    }
    type Test = fn(&f32, &f32) -> bool;
    let comparisons: [(OpKind, Test); 3] =
        [(OpKind::EQUAL, f32::eq), (OpKind::GREATER, f32::gt), (OpKind::LESS, f32::lt)];
    for (op, rule) in comparisons {
        let got = Tensor::op(op, &[&x, &y], &[]).unwrap();
        assert_eq!(got.tensor_type().unwrap().dtype, Dtype::BOOL);
        let want: Vec<i32> = a.iter().zip(&b).map(|(a, b)| rule(a, b).into()).collect();
        assert_eq!(elements::<i32>(&got.cast(Dtype::I32).unwrap()), want);
    }
    let column = tensor(&compute, &[2, 1], &[10f32, 20.0]);
    assert_eq!(elements::<f32>(&(&column + &x).unwrap()), [10.5, 12.0, 13.0, 20.5, 22.0, 23.0], "broadcasting");
}

fn silu(x: f64) -> f64 {
    x / (1.0 + (-x).exp())
}

#[test]
fn reductions() {
    let compute = cpu();
    let x = tensor(&compute, &[2, 3], &[1f32, 5.0, 3.0, -1.0, -2.0, 0.0]);
    let axes = |axes: &'static [i64]| attribute("axes", Value::Ints(axes));
    let keep = attribute("keep_dims", Value::Bool(true));
    let log_sum = |row: &[f64]| row.iter().map(|x| x.exp()).sum::<f64>().ln();
    let (first, second) = ([1.0, 5.0, 3.0], [-1.0, -2.0, 0.0]);
    type Case<'a> = (OpKind, Vec<Attribute<'a>>, Vec<usize>, Vec<f64>);
    let cases: [Case<'_>; 8] = [
        (OpKind::SUM, vec![], vec![], vec![6.0]),
        (OpKind::SUM, vec![axes(&[0])], vec![3], vec![0.0, 3.0, 3.0]),
        (OpKind::SUM, vec![axes(&[-1]), keep], vec![2, 1], vec![9.0, -3.0]),
        (OpKind::MEAN, vec![axes(&[0, 1]), keep], vec![1, 1], vec![1.0]),
        (OpKind::MEAN, vec![axes(&[1])], vec![2], vec![3.0, -1.0]),
        (OpKind::MAX, vec![axes(&[1])], vec![2], vec![5.0, 0.0]),
        (OpKind::LOG_SUM_EXP, vec![axes(&[1])], vec![2], vec![log_sum(&first), log_sum(&second)]),
        (OpKind::LOG_SUM_EXP, vec![], vec![], vec![log_sum(&[1.0, 5.0, 3.0, -1.0, -2.0, 0.0])]),
    ];
    for (op, attributes, shape, want) in cases {
        let got = Tensor::op(op, &[&x], &attributes).unwrap();
        assert_eq!(got.shape().unwrap(), shape, "{op:?}");
        assert_close(&elements(&got), &want, 1e-6);
    }
    let places = x.argmax(1).unwrap();
    assert_eq!(elements::<i32>(&places), [1, 2]);
    let soft = Tensor::op(OpKind::SOFTMAX, &[&x], &[attribute("axis", Value::Int(-1))]).unwrap();
    let want: Vec<f64> = [first, second].iter().flat_map(|row| row.map(|x| (x - log_sum(row)).exp())).collect();
    assert_close(&elements(&soft), &want, 1e-6);
}

#[test]
fn the_largest_elements_come_first_and_of_equal_ones_the_earlier() {
    let compute = cpu();
    let x = tensor(&compute, &[2, 4], &[1f32, 3.0, 3.0, -2.0, 0.5, 0.25, 7.0, 0.5]);
    let places = x.top_k(3, -1).unwrap();
    assert_eq!((places.shape().unwrap(), elements::<i32>(&places)), (vec![2, 3], vec![1, 2, 0, 2, 0, 3]));
    assert_eq!(elements::<f32>(&x.take_along_axis(&places, -1).unwrap()), [3.0, 3.0, 1.0, 7.0, 0.5, 0.5]);
    assert_eq!(elements::<i32>(&x.top_k(1, 0).unwrap()), [0, 0, 1, 1]);
    let error = x.top_k(5, 1).unwrap_err();
    assert!(error.message().contains("no 5 elements along axis 1"), "{error}");
}

#[test]
fn each_row_is_multiplied_by_the_matrix_of_its_index() {
    let compute = cpu();
    let (experts, out, width) = (3usize, 2usize, 4usize);
    let weight = random(5, experts * out * width);
    let w = tensor(&compute, &[experts, out, width], &weight);
    let indices = [2i32, 0, 0, 2, 2, 2];
    let i = tensor(&compute, &[3, 2], &indices);
    for rows_of_token in [1, 2] {
        let elements_of_x = random(6, 3 * rows_of_token * width);
        let x = tensor(&compute, &[3, rows_of_token, width], &elements_of_x);
        let got = Tensor::op(OpKind::GATHER_LINEAR, &[&x, &w, &i], &[]).unwrap();
        assert_eq!(got.shape().unwrap(), [3, 2, out]);
        let mut want = Vec::new();
        for (row, &expert) in indices.iter().enumerate() {
            let x = &elements_of_x[row * rows_of_token / 2 * width..][..width];
            for feature in 0..out {
                let w = &weight[(expert as usize * out + feature) * width..][..width];
                want.push(x.iter().zip(w).map(|(&x, &w)| f64::from(x) * f64::from(w)).sum());
            }
        }
        assert_close(&elements(&got), &want, 1e-6);
        let half = |tensor: &Tensor| tensor.cast(Dtype::BF16).unwrap();
        let got = Tensor::op(OpKind::GATHER_LINEAR, &[&half(&x), &half(&w), &i], &[]).unwrap();
        assert_eq!(got.tensor_type().unwrap().dtype, Dtype::BF16);
        assert_close(&elements(&got.cast(Dtype::F32).unwrap()), &want, 3e-2);
    }
    let none = Tensor::op(
        OpKind::GATHER_LINEAR,
        &[&tensor::<f32>(&compute, &[0, 1, width], &[]), &w, &tensor::<i32>(&compute, &[0, 2], &[])],
        &[],
    );
    assert_eq!(none.unwrap().shape().unwrap(), [0, 2, out]);
    for outside in [3i32, -1] {
        let indices = tensor(&compute, &[3, 2], &[0, 1, outside, 0, 0, 0]);
        let x = tensor(&compute, &[3, 1, width], &[0f32; 12]);
        let result = Tensor::op(OpKind::GATHER_LINEAR, &[&x, &w, &indices], &[]).and_then(|result| result.eval());
        let message = result.unwrap_err().to_string();
        assert!(message.contains("gather_linear") && message.contains(&outside.to_string()), "{message}");
    }
}

#[test]
fn no_exponential_turns_a_nan_into_a_number() {
    let compute = cpu();
    let nans = crate::kernels::tests::nans();
    let x = tensor(&compute, &[nans.len(), 1], &nans);
    for op in [OpKind::EXP, OpKind::SIGMOID, OpKind::SILU, OpKind::TANH, OpKind::SOFTMAX, OpKind::LOG_SUM_EXP] {
        let attributes = match op {
            OpKind::SOFTMAX => vec![attribute("axis", Value::Int(-1))],
            OpKind::LOG_SUM_EXP => vec![attribute("axes", Value::Ints(&[-1]))],
            _ => vec![],
        };
        let got: Vec<f32> = elements(&Tensor::op(op, &[&x], &attributes).unwrap());
        for (nan, got) in nans.iter().zip(got) {
            assert!(got.is_nan(), "{} of {:#010x} is {got}", op.name(), nan.to_bits());
        }
    }
}

#[test]
fn moving_elements() {
    let compute = cpu();
    let x = tensor(&compute, &[2, 3], &[1i32, 2, 3, 4, 5, 6]);
    let shaped = |tensor: Tensor| (tensor.shape().unwrap(), elements::<i32>(&tensor));
    assert_eq!(shaped(x.reshape(&[3, -1]).unwrap()), (vec![3, 2], vec![1, 2, 3, 4, 5, 6]));
    assert_eq!(shaped(x.transpose(&[1, 0]).unwrap()), (vec![3, 2], vec![1, 4, 2, 5, 3, 6]));
    let y = tensor(&compute, &[1, 3], &[7i32, 8, 9]);
    assert_eq!(shaped(Tensor::concatenate(&[&x, &y, &y], 0).unwrap()).0, [4, 3]);
    assert_eq!(shaped(Tensor::concatenate(&[&y, &y], -1).unwrap()), (vec![1, 6], vec![7, 8, 9, 7, 8, 9]));
    assert_eq!(shaped(x.slice(&[0, 1], &[2, 3]).unwrap()), (vec![2, 2], vec![2, 3, 5, 6]));
    assert_eq!(shaped(x.slice(&[1, 0], &[1, 3]).unwrap()).0, [0, 3]);
    assert_eq!(shaped(x.slice(&[0, 0], &[2, 3]).unwrap()).1, [1, 2, 3, 4, 5, 6]);
    let indices = tensor(&compute, &[2, 2], &[1i32, 0, 1, 1]);
    assert_eq!(shaped(x.take(&indices, 0).unwrap()).0, [2, 2, 3]);
    assert_eq!(shaped(x.take(&indices, 1).unwrap()), (vec![2, 2, 2], vec![2, 1, 2, 2, 5, 4, 5, 5]));
    let axis = attribute("axis", Value::Int(1));
    assert_eq!(shaped(Tensor::op(OpKind::TAKE_ALONG_AXIS, &[&x, &indices], &[axis]).unwrap()).1, [2, 1, 5, 5]);
    let wide = Tensor::op(OpKind::BROADCAST_TO, &[&y], &[attribute("shape", Value::Ints(&[2, 2, 3]))]).unwrap();
    assert_eq!(shaped(wide), (vec![2, 2, 3], [7, 8, 9].repeat(4)));
    assert_eq!(elements::<f32>(&x.cast(Dtype::F32).unwrap()), [1.0, 2.0, 3.0, 4.0, 5.0, 6.0]);
    let condition = Tensor::op(OpKind::GREATER, &[&x, &tensor(&compute, &[], &[3i32])], &[]).unwrap();
    assert_eq!(shaped(Tensor::op(OpKind::WHERE, &[&condition, &x, &y], &[]).unwrap()).1, [7, 8, 9, 4, 5, 6]);
}

#[test]
fn constants() {
    let compute = cpu();
    assert_eq!(elements::<f32>(&Tensor::full(&compute, &[2, 1], 1.5, Dtype::F32).unwrap()), [1.5, 1.5]);
    assert_eq!(elements::<i64>(&Tensor::full(&compute, &[], -(2f64.powi(40)), Dtype::I64).unwrap()), [-(1 << 40)]);
    assert_eq!(elements::<f64>(&Tensor::full(&compute, &[1], 0.1, Dtype::F64).unwrap()), [0.1]);
    let mut writable = Tensor::full(&compute, &[4], 2.0, Dtype::F32).unwrap();
    writable.eval().unwrap();
    assert_eq!(writable.host_view_mut().unwrap().as_mut_slice::<f32>().unwrap(), [2.0; 4]);
    let attributes = [attribute("count", Value::Int(4)), attribute("dtype", Value::Dtype(Dtype::I32))];
    let counted = Tensor::op_on(&compute, OpKind::ARANGE, &[], &attributes).unwrap();
    assert_eq!(elements::<i32>(&counted), [0, 1, 2, 3]);
    for (value, dtype) in [(0.5, Dtype::I32), (256.0, Dtype::U8), (-1.0, Dtype::U32), (2.0, Dtype::BOOL)] {
        let error = Tensor::full(&compute, &[1], value, dtype).unwrap_err();
        assert!(error.message().contains("\"value\""), "{error}");
    }
}

#[test]
fn products() {
    let compute = cpu();
    let (x, w, b) = (random(1, 6), random(2, 12), random(3, 4));
    let dot = |row: usize, column: usize| -> f64 {
        (0..3).map(|k| f64::from(x[row * 3 + k]) * f64::from(w[column * 3 + k])).sum()
    };
    let want: Vec<f64> =
        (0..2).flat_map(|row| (0..4).map(move |column| (row, column))).map(|(r, c)| dot(r, c)).collect();
    let (tx, tw, tb) = (tensor(&compute, &[1, 2, 3], &x), tensor(&compute, &[4, 3], &w), tensor(&compute, &[4], &b));
    let product = tx.matmul(&tw.transpose(&[1, 0]).unwrap()).unwrap();
    assert_close(&elements(&product), &want, 1e-6);
    let linear = Tensor::op(OpKind::LINEAR, &[&tx, &tw], &[]).unwrap();
    assert_eq!(linear.shape().unwrap(), [1, 2, 4]);
    assert_close(&elements(&linear), &want, 1e-6);
    let with_bias: Vec<f64> = want.iter().zip(b.iter().cycle()).map(|(y, &b)| y + f64::from(b)).collect();
    assert_close(&elements(&Tensor::op(OpKind::LINEAR, &[&tx, &tw, &tb], &[]).unwrap()), &with_bias, 1e-6);
}

#[test]
fn rms_norm() {
    let compute = cpu();
    let (x, weight) = (random(1, 8), random(2, 4));
    let attributes = [attribute("eps", Value::Float(0.25))];
    let inputs = [&tensor(&compute, &[2, 4], &x), &tensor(&compute, &[4], &weight)];
    let want: Vec<f64> = x
        .chunks(4)
        .flat_map(|row| {
            let mean = row.iter().map(|&x| f64::from(x).powi(2)).sum::<f64>() / 4.0;
            row.iter().zip(&weight).map(move |(&x, &w)| f64::from(x) / (mean + 0.25).sqrt() * f64::from(w))
        })
        .collect();
    assert_close(&elements(&Tensor::op(OpKind::RMS_NORM, &inputs, &attributes).unwrap()), &want, 1e-6);
}

#[test]
fn rope_turns_the_halves_against_each_other() {
    let compute = cpu();
    let (heads, length, width) = (2, 3, 4);
    let x = random(1, 2 * heads * length * width);
    let inverse = [1.0f32, 0.01];
    let rotated = |position: fn(usize, usize) -> i32, scale: f64| -> Vec<f64> {
        let mut want = vec![0.0; x.len()];
        for (row, out) in want.chunks_mut(width).enumerate() {
            let (batch, place) = (row / (heads * length), row % length);
            for half in 0..2 {
                let angle = f64::from(position(batch, place)) * f64::from(inverse[half]);
                let (left, right) = (f64::from(x[row * width + half]), f64::from(x[row * width + half + 2]));
                out[half] = scale * (left * angle.cos() - right * angle.sin());
                out[half + 2] = scale * (right * angle.cos() + left * angle.sin());
            }
        }
        want
    };
    let (tx, frequencies) = (tensor(&compute, &[2, heads, length, width], &x), tensor(&compute, &[2], &inverse));
    let op = |inputs: &[&Tensor], attributes: &[Attribute<'_>]| {
        elements::<f32>(&Tensor::op(OpKind::ROPE, inputs, attributes).unwrap())
    };
    assert_close(&op(&[&tx, &frequencies], &[]), &rotated(|_, place| place as i32, 1.0), 1e-6);
    let attributes = [attribute("offset", Value::Int(100)), attribute("scale", Value::Float(1.25))];
    assert_close(&op(&[&tx, &frequencies], &attributes), &rotated(|_, place| place as i32 + 100, 1.25), 1e-5);
    let positions = tensor(&compute, &[2, 3], &[0i32, 1, 0, 7, 8, 9]);
    let own = |batch: usize, place: usize| [[0, 1, 0], [7, 8, 9]][batch][place];
    assert_close(&op(&[&tx, &frequencies, &positions], &[]), &rotated(own, 1.0), 1e-6);
}

#[test]
fn attention_sees_grouped_heads_and_no_later_keys() {
    let compute = cpu();
    let (heads, groups, queries, keys, width) = (4, 2, 3, 5, 2);
    let (q, k, v) =
        (random(1, heads * queries * width), random(2, groups * keys * width), random(3, groups * keys * width));
    let row = |all: &[f32], row: usize| -> [f64; 2] { [all[row * 2].into(), all[row * 2 + 1].into()] };
    for causal in [false, true] {
        let mut want = Vec::new();
        for head in 0..heads {
            let group = head / (heads / groups);
            for query in 0..queries {
                let seen = if causal { keys - queries + query + 1 } else { keys };
                let [q0, q1] = row(&q, head * queries + query);
                let weights: Vec<f64> = (0..seen)
                    .map(|key| row(&k, group * keys + key))
                    .map(|[k0, k1]| (0.7 * (q0 * k0 + q1 * k1)).exp())
                    .collect();
                for feature in 0..width {
                    let sum = |(key, weight): (usize, &f64)| weight * row(&v, group * keys + key)[feature];
                    let total: f64 = weights.iter().sum();
                    want.push(weights.iter().enumerate().map(sum).sum::<f64>() / total);
                }
            }
        }
        let inputs = [
            &tensor(&compute, &[1, heads, queries, width], &q),
            &tensor(&compute, &[1, groups, keys, width], &k),
            &tensor(&compute, &[1, groups, keys, width], &v),
        ];
        let attributes = [attribute("scale", Value::Float(0.7)), attribute("causal", Value::Bool(causal))];
        let got = Tensor::op(OpKind::ATTENTION, &inputs, &attributes).unwrap();
        assert_eq!(got.shape().unwrap(), [1, heads, queries, width]);
        assert_close(&elements(&got), &want, 1e-6);
    }
}

#[test]
fn swiglu_cross_entropy_and_embedding() {
    let compute = cpu();
    let (gate, up) = (random(1, 6), random(2, 6));
    let want: Vec<f64> = gate.iter().zip(&up).map(|(&g, &u)| silu(g.into()) * f64::from(u)).collect();
    let got = tensor(&compute, &[2, 3], &gate).swiglu(&tensor(&compute, &[2, 3], &up)).unwrap();
    assert_close(&elements(&got), &want, 1e-6);

    let logits: Vec<f32> = random(3, 8).into_iter().map(|x| 30.0 * x).collect();
    let targets = [3usize, 0];
    let want: Vec<f64> = logits
        .chunks(4)
        .zip(targets)
        .map(|(row, target)| row.iter().map(|&x| f64::from(x).exp()).sum::<f64>().ln() - f64::from(row[target]))
        .collect();
    let got = tensor(&compute, &[2, 4], &logits).cross_entropy(&tensor(&compute, &[2], &[3i32, 0])).unwrap();
    assert_close(&elements(&got), &want, 1e-6);

    let table = tensor(&compute, &[3, 2], &[0f32, 1.0, 10.0, 11.0, 20.0, 21.0]);
    let ids = tensor(&compute, &[1, 2], &[2i32, 0]);
    let rows = Tensor::op(OpKind::EMBEDDING, &[&table, &ids], &[]).unwrap();
    assert_eq!((rows.shape().unwrap(), elements::<f32>(&rows)), (vec![1, 2, 2], vec![20.0, 21.0, 0.0, 1.0]));
}

#[test]
fn what_does_not_fit_is_refused_with_the_operation_and_what_was_wrong() {
    let compute = cpu();
    let matrix = tensor(&compute, &[2, 3], &[0f32; 6]);
    let ids = tensor(&compute, &[2], &[0i32; 2]);
    let int = |name: &'static str, value: i64| attribute(name, Value::Int(value));
    type Case<'a> = (OpKind, Vec<&'a Tensor>, Vec<Attribute<'a>>, &'a [&'a str]);
    let cases: Vec<Case<'_>> = vec![
        (OpKind(9999), vec![&matrix], vec![], &["9999", "unknown"]),
        (OpKind::EXP, vec![&matrix, &matrix], vec![], &["exp", "1 inputs, not 2", "float32 [2, 3], float32 [2, 3]"]),
        (OpKind::LINEAR, vec![&matrix], vec![], &["linear", "2 to 3 inputs, not 1"]),
        (OpKind::EXP, vec![&matrix], vec![int("base", 2)], &["exp", "no attribute \"base\"", "takes none"]),
        (OpKind::SOFTMAX, vec![&matrix], vec![int("axes", 1)], &["softmax", "no attribute \"axes\"", "knows axis"]),
        (OpKind::SOFTMAX, vec![&matrix], vec![], &["softmax", "needs", "\"axis\""]),
        (OpKind::SOFTMAX, vec![&matrix], vec![int("axis", 1), int("axis", 1)], &["softmax", "twice"]),
        (OpKind::SOFTMAX, vec![&matrix], vec![attribute("axis", Value::Float(1.0))], &["\"axis\"", "an integer"]),
        (OpKind::SOFTMAX, vec![&matrix], vec![int("axis", 7)], &["softmax", "float32 [2, 3]", "axis 7"]),
        (OpKind::RMS_NORM, vec![&matrix, &matrix], vec![], &["rms_norm", "\"eps\""]),
        (OpKind::MATMUL, vec![&matrix, &matrix], vec![], &["matmul", "float32 [2, 3], float32 [2, 3]"]),
        (OpKind::LINEAR, vec![&matrix, &ids], vec![], &["linear", "int32 [2]"]),
        (OpKind::LINEAR, vec![&matrix, &matrix, &matrix], vec![], &["linear", "bias [out]"]),
        (OpKind::GATHER_LINEAR, vec![&matrix, &matrix, &ids], vec![], &["gather_linear", "[E, out, in]"]),
        (OpKind::TAKE, vec![&matrix, &matrix], vec![int("axis", 0)], &["take", "integers"]),
        (OpKind::EMBEDDING, vec![&matrix, &matrix], vec![], &["embedding", "int32"]),
        (OpKind::SWIGLU, vec![&matrix, &ids], vec![], &["swiglu", "shape"]),
        (OpKind::CROSS_ENTROPY, vec![&matrix, &matrix], vec![], &["cross_entropy", "[N]"]),
        (OpKind::CONCATENATE, vec![&matrix, &ids], vec![int("axis", 0)], &["concatenate"]),
        (
            OpKind::ATTENTION,
            vec![&matrix, &matrix, &matrix],
            vec![attribute("scale", Value::Float(1.0))],
            &["[B, H, T, D]"],
        ),
    ];
    for (op, inputs, attributes, expected) in cases {
        let error = Tensor::op(op, &inputs, &attributes).unwrap_err();
        for part in expected {
            assert!(error.message().contains(part), "{op:?}: {error} lacks {part:?}");
        }
        assert!(!error.message().contains(".cpp"), "{error}");
    }
    for (start, stop) in [([0, 0], [2, 4]), ([-1, 0], [2, 3]), ([2, 0], [1, 3])] {
        let error = matrix.slice(&start, &stop).unwrap_err();
        assert!(error.message().contains("is not a part of axis"), "{error}");
    }
    let positions = tensor(&compute, &[1, 2], &[0i32, 1]);
    let (heads, frequencies) = (tensor(&compute, &[1, 1, 2, 4], &[0f32; 8]), tensor(&compute, &[2], &[1f32; 2]));
    let error = Tensor::op(OpKind::ROPE, &[&heads, &frequencies, &positions], &[int("offset", 3)]).unwrap_err();
    assert!(error.message().contains("not both"), "{error}");
}

#[test]
fn gelu_in_both_forms() {
    let compute = cpu();
    let x = tensor(&compute, &[4], &[-3f32, -0.5, 0.25, 2.0]);
    // torch.nn.functional.gelu in f64.
    let exact = [-0.004049694094890, -0.154268769362993, 0.149676581420731, 1.954499736103642];
    let tanh = [-0.003637392081773, -0.154285990174856, 0.149675350701685, 1.954597694087775];
    assert_close(&elements(&Tensor::op(OpKind::GELU, &[&x], &[]).unwrap()), &exact, 1e-6);
    let approximate = |name| [attribute("approximate", Value::Text(name))];
    assert_close(&elements(&Tensor::op(OpKind::GELU, &[&x], &approximate("none")).unwrap()), &exact, 1e-6);
    assert_close(&elements(&Tensor::op(OpKind::GELU, &[&x], &approximate("tanh")).unwrap()), &tanh, 1e-6);
    let error = Tensor::op(OpKind::GELU, &[&x], &approximate("erf")).unwrap_err();
    assert!(error.message().contains("\"erf\""), "{error}");
}

#[test]
fn layer_norm_with_and_without_bias() {
    let compute = cpu();
    let x = tensor(&compute, &[2, 2], &[1f32, 3.0, -2.0, 2.0]);
    let (weight, bias) = (tensor(&compute, &[2], &[2f32, 0.5]), tensor(&compute, &[2], &[1f32, -1.0]));
    let eps = [attribute("eps", Value::Float(0.0))];
    let plain = Tensor::op(OpKind::LAYER_NORM, &[&x, &weight], &eps).unwrap();
    assert_close(&elements(&plain), &[-2.0, 0.5, -2.0, 0.5], 1e-6);
    let biased = Tensor::op(OpKind::LAYER_NORM, &[&x, &weight, &bias], &eps).unwrap();
    assert_close(&elements(&biased), &[-1.0, -0.5, -1.0, -0.5], 1e-6);
}

#[test]
fn a_slice_is_updated_in_place_where_nothing_else_needs_the_tensor() {
    let compute = cpu();
    let update = |x: &Tensor, rows: &Tensor, start: &[i64]| {
        Tensor::op(OpKind::SLICE_UPDATE, &[x, rows], &[attribute("start", Value::Ints(start))])
    };
    let zeros = Tensor::full(&compute, &[3, 2], 0.0, Dtype::F32).unwrap();
    zeros.eval().unwrap();
    let address = zeros.host_view().unwrap().as_slice::<f32>().unwrap().as_ptr();
    let row = tensor(&compute, &[1, 2], &[7f32, 8.0]);
    let updated = update(&zeros, &row, &[1, 0]).unwrap();
    drop(zeros);
    assert_eq!(elements::<f32>(&updated), [0.0, 0.0, 7.0, 8.0, 0.0, 0.0]);
    assert_eq!(updated.host_view().unwrap().as_slice::<f32>().unwrap().as_ptr(), address);
    let again = update(&updated, &row, &[2, 0]).unwrap();
    assert_eq!(elements::<f32>(&again), [0.0, 0.0, 7.0, 8.0, 7.0, 8.0]);
    assert_eq!(elements::<f32>(&updated), [0.0, 0.0, 7.0, 8.0, 0.0, 0.0], "it was needed");
    let error = update(&updated, &row, &[3, 0]).unwrap_err();
    assert!(error.message().contains("axis 0, which has length 3"), "{error}");
}

#[test]
fn random_numbers_are_a_function_of_their_key() {
    let compute = cpu();
    let draw = |key: i64| {
        let attributes = [
            attribute("key", Value::Int(key)),
            attribute("shape", Value::Ints(&[1000])),
            attribute("dtype", Value::Dtype(Dtype::F32)),
        ];
        elements::<f32>(&Tensor::op_on(&compute, OpKind::RANDOM_UNIFORM, &[], &attributes).unwrap())
    };
    let (first, other) = (draw(-7), draw(8));
    assert_eq!(first, draw(-7));
    assert_ne!(first, other);
    assert!(first.iter().all(|x| (0.0..1.0).contains(x)));
    let mean = first.iter().sum::<f32>() / 1000.0;
    assert!((mean - 0.5).abs() < 0.05, "{mean}");
}

/// Attention in f64 by its definition, one head.
fn attention_by_definition(
    qkv: [&[f32]; 3],
    shape: [usize; 3],
    sees: impl Fn(usize, usize) -> bool,
    cap: Option<f64>,
) -> Vec<f64> {
    let ([q, k, v], [queries, keys, width]) = (qkv, shape);
    let row = |x: &[f32], place: usize| x[place * width..][..width].iter().map(|&x| f64::from(x)).collect::<Vec<_>>();
    let mut result = Vec::new();
    for t in 0..queries {
        let score = |s: usize| {
            let score = row(q, t).iter().zip(row(k, s)).map(|(q, k)| q * k).sum::<f64>() * 0.7;
            if sees(t + keys - queries, s) { cap.map_or(score, |cap| cap * (score / cap).tanh()).exp() } else { 0.0 }
        };
        let weights: Vec<f64> = (0..keys).map(score).collect();
        let total: f64 = weights.iter().sum();
        result.extend((0..width).map(|d| (0..keys).map(|s| weights[s] * row(v, s)[d]).sum::<f64>() / total));
    }
    result
}

#[test]
fn attention_with_a_window_segments_and_a_soft_cap() {
    let compute = cpu();
    let (queries, keys, width) = (9, 11, 4);
    let [q, k, v] = [(1, queries), (2, keys), (3, keys)].map(|(seed, rows)| random(seed, rows * width));
    let tensors = [(&q, queries), (&k, keys), (&v, keys)].map(|(x, rows)| tensor(&compute, &[1, 1, rows, width], x));
    let segment_of: Vec<i32> = (0..keys as i32).map(|place| place / 4).collect();
    let segments = tensor(&compute, &[1, keys], &segment_of);
    for (window, segmented, cap) in [
        (Some(3), false, None),
        (Some(1000), false, None),
        (None, true, None),
        (Some(3), true, None),
        (None, false, Some(0.5)),
        (Some(3), true, Some(0.5)),
    ] {
        let mut attributes = vec![attribute("scale", Value::Float(0.7)), attribute("causal", Value::Bool(true))];
        attributes.extend(window.map(|window| attribute("window", Value::Int(window))));
        attributes.extend(cap.map(|cap| attribute("soft_cap", Value::Float(cap))));
        let mut inputs: Vec<&Tensor> = tensors.iter().collect();
        inputs.extend(segmented.then_some(&segments));
        let got = Tensor::op(OpKind::ATTENTION, &inputs, &attributes).unwrap();
        let sees = |place: usize, key: usize| {
            key <= place
                && window.is_none_or(|window| place - key < window as usize)
                && (!segmented || segment_of[place] == segment_of[key])
        };
        let want = attention_by_definition([&q, &k, &v], [queries, keys, width], sees, cap);
        assert_close(&elements(&got), &want, 1e-5);
    }
}
