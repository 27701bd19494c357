use mdt_plugin_api::Value;
use mdt_plugin_api::op::attribute;
use mdt_plugin_api::prelude::*;

use crate::{agree, device, gradients, integers, numbers, tensor};

#[test]
fn rows_that_cost_nothing_change_nothing() {
    let compute = device();
    let (nan, inf) = (f32::NAN, f32::INFINITY);
    let logits = tensor(&compute, &[4, 3], &[0.0, 0.0, 0.0, nan, inf, 1.0, 1.0, -inf, 2.0, 1.0, 2.0, 3.0]);
    let targets = integers(&compute, &[4], &[2, -1, 0, 3]);
    let third = (1f64.exp() + 2f64.exp()).ln() - 1.0;
    agree(&logits.cross_entropy(&targets).unwrap().to_vec::<f64>().unwrap(), &[3f64.ln(), 0.0, third, f64::NAN], 1e-6);
    let first = |x: &[Tensor]| x[0].cross_entropy(&targets)?.slice(&[0], &[3]);
    let p = 1.0 / (1.0 + 1f64.exp());
    let (s, mut expected) = (1.0 / 3.0, vec![0.0; 12]);
    expected[..3].copy_from_slice(&[s, s, s - 1.0]);
    expected[6..9].copy_from_slice(&[p - 1.0, 0.0, 1.0 - p]);
    agree(&gradients(first, &[&logits])[0], &expected, 1e-6);
}

#[test]
fn losses_by_pieces_are_those_of_all_logits() {
    let compute = device();
    let [hidden, weight] = [(5, 1), (7, 2)].map(|(rows, seed)| tensor(&compute, &[rows, 4], &numbers(4 * rows, seed)));
    let bias = tensor(&compute, &[7], &numbers(7, 3));
    let targets = integers(&compute, &[5], &[6, 0, -100, 3, 1]);
    let whole = |x: &[Tensor]| {
        let logits = x[0].linear(&x[1], Some(&x[2]))?.multiply(0.5)?;
        (&logits / 3.0)?.tanh()?.multiply(3.0)?.cross_entropy(&targets)
    };
    let inputs = [&hidden, &weight, &bias];
    let expected = whole(&inputs.map(|x| x.try_clone().unwrap())).unwrap().to_vec::<f64>().unwrap();
    for rows in [1, 2, 5, i64::MAX] {
        let pieces = |x: &[Tensor]| {
            let attributes =
                [("scale", Value::Float(0.5)), ("soft_cap", Value::Float(3.0)), ("rows", Value::Int(rows))];
            let attributes = attributes.map(|(name, value)| attribute(name, value));
            Tensor::op(OpKind::TOKEN_LOSSES, &[&x[0], &x[1], &targets, &x[2]], &attributes)
        };
        let found = pieces(&inputs.map(|x| x.try_clone().unwrap())).unwrap();
        agree(&found.to_vec::<f64>().unwrap(), &expected, 1e-6);
        for (found, expected) in gradients(pieces, &inputs).iter().zip(gradients(whole, &inputs)) {
            agree(found, &expected, 1e-5);
        }
    }
    let none = [&hidden.slice(&[0, 0], &[0, 4]).unwrap(), &weight, &targets.slice(&[0], &[0]).unwrap()];
    assert_eq!(Tensor::op(OpKind::TOKEN_LOSSES, &none, &[]).unwrap().shape().unwrap(), [0]);
}

#[test]
fn gradients_of_many_pieces_are_added_up_in_float32() {
    let compute = device();
    let [hidden, weight] =
        [(300, 1), (3, 2)].map(|(rows, seed)| tensor(&compute, &[rows, 4], &numbers(4 * rows, seed)));
    let [hidden, weight] = [hidden, weight].map(|x| x.cast(Dtype::BF16).unwrap());
    let targets = integers(&compute, &[300], &vec![1; 300]);
    let losses = |x: &[Tensor]| {
        Tensor::op(OpKind::TOKEN_LOSSES, &[&hidden, &x[0], &targets], &[attribute("rows", Value::Int(1))])
    };
    let found = gradients(losses, &[&weight]).remove(0);
    let expected = gradients(losses, &[&weight.cast(Dtype::F32).unwrap()]).remove(0);
    // Half of the last bit of bfloat16, and not 300 times that.
    found.iter().zip(expected).for_each(|(found, expected)| assert!((found / expected - 1.0).abs() < 1.0 / 256.0));
}

#[test]
fn each_row_is_multiplied_with_its_own_matrices() {
    let compute = device();
    let x = tensor(&compute, &[2, 1, 2], &[1.0, 2.0, 3.0, 4.0]);
    let weight = tensor(&compute, &[3, 1, 2], &[1.0, 0.0, 0.0, 1.0, 1.0, 1.0]);
    let product = |x: &Tensor, experts: &[i32]| x.gather_linear(&weight, &integers(&compute, &[2, 2], experts));
    let found = product(&x, &[0, 2, 1, 1]).unwrap();
    assert_eq!((found.shape().unwrap(), found.to_vec::<f64>().unwrap()), (vec![2, 2, 1], vec![1.0, 3.0, 4.0, 4.0]));
    let each = tensor(&compute, &[2, 2, 2], &[1., 2., 3., 4., 5., 6., 7., 8.]);
    assert_eq!(product(&each, &[0, 2, 1, 1]).unwrap().to_vec::<f64>().unwrap(), [1.0, 7.0, 6.0, 8.0]);
    for experts in [[0, -1, 1, 1], [0, 3, 1, 1]] {
        assert!(product(&x, &experts).and_then(|x| x.eval()).is_err(), "{experts:?}");
    }
}

#[test]
fn embeddings_have_no_rows_outside_of_their_table() {
    let compute = device();
    let table = tensor(&compute, &[3, 2], &[1.0, 2.0, 3.0, 4.0, 5.0, 6.0]);
    let rows = |ids: &[i32]| table.embedding(&integers(&compute, &[ids.len()], ids));
    assert_eq!(rows(&[2, 0]).unwrap().to_vec::<f64>().unwrap(), [5.0, 6.0, 1.0, 2.0]);
    for id in [-1, 3, i32::MIN] {
        assert!(rows(&[id]).and_then(|x| x.eval()).is_err(), "{id}");
    }
}

#[test]
fn norms_give_rows_of_one_length() {
    let compute = device();
    let x = tensor(&compute, &[1, 2], &[3.0, 5.0]);
    let (weight, bias) = (tensor(&compute, &[2], &[1.0, 2.0]), tensor(&compute, &[2], &[0.0, 0.5]));
    let root = 17f64.sqrt();
    agree(&x.rms_norm(&weight, 0.0).unwrap().to_vec::<f64>().unwrap(), &[3.0 / root, 10.0 / root], 1e-6);
    agree(&x.layer_norm(&weight, Some(&bias), 0.0).unwrap().to_vec::<f64>().unwrap(), &[-1.0, 2.5], 1e-6);
    agree(&x.layer_norm(&weight, None, 3.0).unwrap().to_vec::<f64>().unwrap(), &[-0.5, 1.0], 1e-6);
    let gate = x.swiglu(&weight.reshape(&[1, 2]).unwrap()).unwrap().to_vec::<f64>().unwrap();
    agree(&gate, &[3.0 / (1.0 + (-3f64).exp()), 10.0 / (1.0 + (-5f64).exp())], 1e-6);
}

#[test]
fn positions_rotate_the_halves_of_a_head() {
    let compute = device();
    let x = tensor(&compute, &[1, 1, 2, 4], &[1.0, 2.0, 3.0, 4.0, 1.0, 2.0, 3.0, 4.0]);
    let frequencies = tensor(&compute, &[2], &[1.0, 0.25]);
    let expected = |places: [f64; 2]| {
        let row = |place: f64| {
            let (a, b) = (place.sin_cos(), (place * 0.25).sin_cos());
            [a.1 - 3.0 * a.0, 2.0 * b.1 - 4.0 * b.0, 3.0 * a.1 + a.0, 4.0 * b.1 + 2.0 * b.0].map(|x| x * 0.5)
        };
        places.map(row).concat()
    };
    let attributes = [attribute("offset", Value::Int(3)), attribute("scale", Value::Float(0.5))];
    let found = Tensor::op(OpKind::ROPE, &[&x, &frequencies], &attributes).unwrap();
    agree(&found.to_vec::<f64>().unwrap(), &expected([3.0, 4.0]), 1e-6);
    let positions = integers(&compute, &[1, 2], &[7, 0]);
    let found = Tensor::op(OpKind::ROPE, &[&x, &frequencies, &positions], &attributes[1..]).unwrap();
    agree(&found.to_vec::<f64>().unwrap(), &expected([7.0, 0.0]), 1e-6);
}
