use std::rc::Rc;

use mdt_plugin_api::Value;
use mdt_plugin_api::abi::across;
use mdt_plugin_api::op::{attribute, compose};
use mdt_plugin_api::prelude::*;

use crate::{device, integers, tensor};

/// The same device, native and as a host gets it.
fn devices() -> [Rc<dyn Compute>; 2] {
    let native = device();
    [across::compute(&native).unwrap(), native]
}

#[test]
fn what_a_device_lacks_is_composed_on_both_sides_of_the_boundary() {
    for compute in devices() {
        let x = tensor(&compute, &[2], &[0.0, 0.0]);
        assert_eq!(x.softmax(0).unwrap().to_vec::<f64>().unwrap(), [0.5, 0.5]);
        assert_eq!((1.0 - &x).unwrap().to_vec::<f64>().unwrap(), [1.0, 1.0]);
        let mut results = [0];
        let attributes = [attribute("axis", Value::Int(0))];
        let direct = compute.op(OpKind::SOFTMAX, &[x.handle()], &attributes, &mut results);
        assert_eq!(direct.is_ok(), compute.as_loaded().is_some());
        results.iter().for_each(|&result| compute.release(result));
    }
    let [across, native] = devices();
    assert!(across.supports(OpKind::SOFTMAX, &["axis"], Dtype::F32));
    assert!(!native.supports(OpKind::SOFTMAX, &["axis"], Dtype::F32));
    assert!(!across.supports(OpKind::SOFTMAX, &["axes"], Dtype::F32));
    assert!(!across.supports(OpKind::SOFTMAX, &["axis"], Dtype::BOOL));
    assert!(!across.supports(OpKind(9999), &[], Dtype::F32));
}

#[test]
fn errors_of_what_a_device_has_come_through_unchanged() {
    for compute in devices() {
        let x = tensor(&compute, &[2, 3], &[0.0; 6]);
        let mut results = [7];
        let direct = compute.op(OpKind::MATMUL, &[x.handle(), x.handle()], &[], &mut results).unwrap_err();
        assert_eq!(x.matmul(&x).unwrap_err(), direct);
        let message =
            "operation matmul on float32 [2, 3], float32 [2, 3]: rows of 3 elements do not go with columns of 2";
        assert_eq!((direct.message(), results), (message, [7]));
        // There is no composition of an operation that nobody knows.
        let direct = compute.op(OpKind(9999), &[x.handle()], &[], &mut results).unwrap_err();
        assert_eq!(Tensor::op(OpKind(9999), &[&x], &[]).unwrap_err(), direct);
    }
}

#[test]
fn errors_of_a_composition_name_the_operation_that_was_asked_for() {
    for compute in devices() {
        let table = tensor(&compute, &[2, 3], &[0.0; 6]);
        let wrong = table.softmax(2).unwrap_err();
        assert_eq!(wrong.message(), "operation softmax on float32 [2, 3]: axis 2 is not one of 2 axes");
        let ids = integers(&compute, &[1], &[5]);
        let outside = Tensor::op(OpKind::EMBEDDING, &[&table, &ids], &[]).unwrap_err();
        assert_eq!(outside.message(), "operation embedding on float32 [2, 3], int32 [1], composed of others");
        assert!(outside.causes()[0].contains("index 5"), "{outside}");
    }
}

#[test]
fn a_primitive_has_no_composition() {
    let compute = device();
    let x = tensor(&compute, &[1], &[0.0]);
    let error = compose(&compute, OpKind::EXP, &[x.handle()], &[], &mut [0]).unwrap_err();
    assert!(error.to_string().contains("is a primitive"), "{error}");
    let error = compose(&compute, OpKind::SILU, &[x.handle()], &[], &mut [0, 0]).unwrap_err();
    assert!(error.to_string().contains("operation silu: has 1 results, not 2"), "{error}");
}
