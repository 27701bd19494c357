//! An index that lies outside is an error that names it, and nothing is read or written through it.
//!
//! MLX reports an error of a kernel to whoever evaluates next in the process. So these tests have a process of their own,
//! and each holds [`alone`].

#[path = "../src/tests/setup.rs"]
mod setup;

use std::rc::Rc;
use std::sync::{Mutex, MutexGuard, PoisonError};

use mdt_mlx::fused::{checked_indices, composed};
use mdt_mlx::{Config, DeviceChoice, Mlx};
use mdt_plugin_api::op::attribute;
use mdt_plugin_api::{Compute, HostArray, OpKind, Result, Tensor, Value};
use mlx_rs::Array;

use self::setup::{cpu, elements, tensor};

fn alone() -> MutexGuard<'static, ()> {
    static ALONE: Mutex<()> = Mutex::new(());
    ALONE.lock().unwrap_or_else(PoisonError::into_inner)
}

/// `x[.., index]` of a row of ten by `take`, `take_along_axis` or `embedding`, with indices that are computed.
fn chosen(op: OpKind, x: &Tensor, indices: &Tensor) -> Result<Tensor> {
    let axis = attribute("axis", Value::Int(0));
    let attributes = if op == OpKind::EMBEDDING { vec![] } else { vec![axis] };
    Tensor::op(op, &[x, indices], &attributes)
}

/// A table of ten rows, and two indices as the sum of what is given and zero. Row i begins with 3 i.
fn table_and_indices(compute: &Rc<dyn Compute>, op: OpKind, indices: [i32; 2]) -> (Tensor, Tensor) {
    let is_along = op == OpKind::TAKE_ALONG_AXIS;
    let values: Vec<f32> = (0..30).step_by(if is_along { 3 } else { 1 }).map(|value| value as f32).collect();
    let shape: &[usize] = if is_along { &[2, 1] } else { &[2] };
    let indices = tensor(compute, shape, &indices);
    let zeros = tensor(compute, shape, &[0i32, 0]);
    let table = tensor(compute, &[10, values.len() / 10], &values);
    (table, Tensor::op(OpKind::ADD, &[&indices, &zeros], &[]).unwrap())
}

const OPERATIONS: [OpKind; 3] = [OpKind::TAKE, OpKind::TAKE_ALONG_AXIS, OpKind::EMBEDDING];

#[test]
fn an_index_out_of_range_is_named_when_it_is_known() {
    let _alone = alone();
    for (op, bad) in OPERATIONS.into_iter().flat_map(|op| [10, 1 << 20, -11, i32::MIN].map(|bad| (op, bad))) {
        let compute = cpu();
        let (x, indices) = table_and_indices(&compute, op, [3, bad]);
        let error = chosen(op, &x, &indices).unwrap().host_view().expect_err("an error").to_string();
        for part in [op.name(), &format!("index {bad} "), "place 1", "length 10"] {
            assert!(error.contains(part), "no {part:?} in {error:?}");
        }
        // The next evaluation has nothing to do with it.
        let (x, indices) = table_and_indices(&compute, op, [3, 4]);
        assert_eq!(elements::<f32>(&chosen(op, &x, &indices).unwrap())[0], 9.0);
    }
}

#[test]
fn an_index_out_of_range_writes_nothing_on_the_way_back() {
    let _alone = alone();
    for (op, bad) in OPERATIONS.into_iter().flat_map(|op| [10, 1 << 24, -11].map(|bad| (op, bad))) {
        let compute = cpu();
        let (x, indices) = table_and_indices(&compute, op, [3, bad]);
        let mut sum = |parameters: &[u64], inputs: &[u64]| {
            let [x, indices] = [parameters[0], inputs[0]].map(|handle| Tensor::borrowed(&compute, handle));
            let sum = Tensor::op(OpKind::SUM, &[&chosen(op, &x, &indices)?], &[])?;
            Ok(vec![sum.into_handle()?])
        };
        let result = compute.value_and_grad(&mut sum, &[x.handle()], &[indices.handle()]).unwrap();
        // The gradient is asked for first, as a trainer's host does.
        let gradient = Tensor::from_handle(&compute, result.gradients[0]);
        let error = gradient.host_view().expect_err("an error").to_string();
        assert!(error.contains(op.name()) && error.contains(&format!("index {bad} ")), "{error}");
    }
}

#[test]
fn negative_indices_count_from_the_end_but_are_no_token_ids() {
    let _alone = alone();
    let compute = cpu();
    let (x, indices) = table_and_indices(&compute, OpKind::TAKE, [-1, -10]);
    assert_eq!(elements::<f32>(&chosen(OpKind::TAKE, &x, &indices).unwrap()), [27.0, 28.0, 29.0, 0.0, 1.0, 2.0]);
    let (x, indices) = table_and_indices(&compute, OpKind::EMBEDDING, [1, -1]);
    let error = chosen(OpKind::EMBEDDING, &x, &indices).unwrap().host_view().expect_err("an error").to_string();
    assert!(error.contains("embedding: index -1 (the one at place 1)"), "{error}");
}

#[test]
fn indices_of_every_integer_type_are_checked() {
    let _alone = alone();
    let compute = cpu();
    let x = tensor(&compute, &[3], &[5.0f32, 6.0, 7.0]);
    let from = |array: HostArray| Tensor::from_host(&compute, &array).unwrap();
    for (good, bad) in [
        (from(HostArray::new(&[1], &[2u8]).unwrap()), from(HostArray::new(&[1], &[255u8]).unwrap())),
        (from(HostArray::new(&[1], &[2u32]).unwrap()), from(HostArray::new(&[1], &[u32::MAX]).unwrap())),
        (from(HostArray::new(&[1], &[2i64]).unwrap()), from(HostArray::new(&[1], &[i64::MIN]).unwrap())),
    ] {
        assert_eq!(elements::<f32>(&x.take(&good, 0).unwrap()), [7.0]);
        let error = x.take(&bad, 0).unwrap().host_view().expect_err("an error").to_string();
        assert!(error.contains("out of range for an axis of length 3"), "{error}");
    }
    let empty = tensor::<f32>(&compute, &[0, 2], &[]);
    let error = empty.take(&tensor(&compute, &[1], &[0i32]), 0).expect_err("an error").to_string();
    assert!(error.contains("an axis of length 0"), "{error}");
}

#[test]
fn indices_are_checked_alike_with_and_without_the_native_part() {
    let _alone = alone();
    let _compute = cpu();
    let indices = || Array::from_slice(&[0i32, 4, -5, -1], &[2, 2]);
    for check in [checked_indices, composed::checked_indices] {
        let checked = check(c"take", &indices(), 5, true).unwrap();
        checked.eval().unwrap();
        assert_eq!(checked.as_slice::<i32>(), [0, 4, 0, 4]);
        for (index, from_end) in [(5, true), (-6, true), (-1, false)] {
            let given = Array::from_slice(&[0, index], &[2]);
            let error = check(c"take", &given, 5, from_end).and_then(|checked| checked.eval()).unwrap_err();
            let message = format!("take: index {index} (the one at place 1) is out of range for an axis of length 5");
            assert!(error.what().contains(&message), "{}", error.what());
        }
    }
}
