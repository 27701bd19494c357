//! Values and gradients.

use std::rc::Rc;

use mdt_plugin_api::{Compute, Dtype, Error, ErrorCode, Handle, OpKind, Result, Tensor};

use super::{assert_close, cpu, elements, random, tensor};

/// A layer of everything: norm, linear, swiglu, attention over one head, cross-entropy.
fn loss(parameters: &[Tensor], inputs: &[Tensor]) -> Result<Tensor> {
    use mdt_plugin_api::Value;
    use mdt_plugin_api::op::attribute;
    let [norm, gate, up] = parameters else { return Err(Error::other("three parameters")) };
    let [x, targets] = inputs else { return Err(Error::other("two inputs")) };
    let h = Tensor::op(OpKind::RMS_NORM, &[x, norm], &[attribute("eps", Value::Float(1e-5))])?;
    let gate = Tensor::op(OpKind::LINEAR, &[&h, gate], &[])?;
    let up = Tensor::op(OpKind::LINEAR, &[&h, up], &[])?;
    let h = gate.swiglu(&up)?.reshape(&[1, 1, 5, 6])?;
    let attributes = [attribute("scale", Value::Float(0.5)), attribute("causal", Value::Bool(true))];
    let h = Tensor::op(OpKind::ATTENTION, &[&h, &h, &h], &attributes)?;
    h.reshape(&[5, 6])?.cross_entropy(targets)?.sum()
}

#[test]
fn gradients_agree_with_finite_differences() {
    let compute = cpu();
    let values: Vec<Vec<f32>> = [(1, 4), (2, 24), (3, 24)].map(|(seed, count)| random(seed, count)).into();
    let shapes: [&[usize]; 3] = [&[4], &[6, 4], &[6, 4]];
    let make = |values: &[Vec<f32>]| -> Vec<Tensor> {
        values.iter().zip(shapes).map(|(values, shape)| tensor(&compute, shape, values)).collect()
    };
    let inputs = [tensor(&compute, &[5, 4], &random(4, 20)), tensor(&compute, &[5], &[0i32, 3, 5, 2, 2])];
    let parameters = make(&values);
    let handles: Vec<_> = parameters.iter().map(Tensor::handle).collect();
    let input_handles: Vec<_> = inputs.iter().map(Tensor::handle).collect();
    let mut function = |parameters: &[u64], inputs: &[u64]| {
        let borrow = |handles: &[u64]| -> Vec<Tensor> {
            handles.iter().map(|&handle| Tensor::borrowed(&compute, handle)).collect()
        };
        Ok(vec![loss(&borrow(parameters), &borrow(inputs))?.into_handle()?])
    };
    let result = compute.value_and_grad(&mut function, &handles, &input_handles).unwrap();
    let value = Tensor::from_handle(&compute, result.values[0]);
    assert_close(&[value.item().unwrap() as f32], &[loss(&parameters, &inputs).unwrap().item().unwrap()], 1e-6);

    for (place, gradient) in result.gradients.into_iter().enumerate() {
        let gradient = Tensor::from_handle(&compute, gradient);
        assert_eq!(gradient.shape().unwrap(), shapes[place]);
        let step = 1e-2;
        let differences: Vec<f64> = (0..values[place].len())
            .map(|element| {
                let at = |shift: f32| {
                    let mut moved = values.clone();
                    moved[place][element] += shift;
                    loss(&make(&moved), &inputs).unwrap().item().unwrap()
                };
                (at(step) - at(-step)) / (2.0 * f64::from(step))
            })
            .collect();
        // As it is, without a reshape: gradients are promised to be row-contiguous.
        let view = gradient.host_view().unwrap();
        assert_close(view.as_slice::<f32>().unwrap(), &differences, 2e-3);
    }
}

#[test]
fn an_error_in_the_function_comes_out_as_it_was() {
    let compute = cpu();
    let x = tensor(&compute, &[1], &[1f32]);
    let original = Error::input("row 7 is bad").with("file", "train.jsonl").caused_by("a comma");
    let thrown = original.clone();
    let got = compute.value_and_grad(&mut |_, _| Err(thrown.clone()), &[x.handle()], &[]).unwrap_err();
    // Errors carry the name of the first component through which they went.
    assert_eq!(got, original.in_component("component under test"));
    // And the component works on.
    assert_eq!(elements::<f32>(&(&x + &x).unwrap()), [2.0]);
}

#[test]
fn a_panic_in_the_function_becomes_an_error() {
    let compute = cpu();
    let x = tensor(&compute, &[1], &[1f32]);
    let got = compute.value_and_grad(&mut |_, _| panic!("out of cheese"), &[x.handle()], &[]).unwrap_err();
    assert_eq!(got.code(), ErrorCode::Plugin);
    assert!(got.message().contains("out of cheese"), "{got}");
    assert_eq!(elements::<f32>(&(&x + &x).unwrap()), [2.0]);
}

#[test]
fn values_cannot_be_read_while_recording() {
    let compute = cpu();
    let x = tensor(&compute, &[], &[1f32]);
    type Read = fn(&Tensor) -> Result<()>;
    let reads: [Read; 3] = [|x| x.item().map(drop), |x| x.host_view().map(drop), |x| x.eval()];
    for read in reads {
        let mut function = |parameters: &[u64], _: &[u64]| {
            let x = Tensor::borrowed(&compute, parameters[0]);
            read(&x)?;
            Ok(vec![x.into_handle()?])
        };
        let error = compute.value_and_grad(&mut function, &[x.handle()], &[]).unwrap_err();
        assert!(error.message().contains("inside value_and_grad"), "{error}");
    }
}

#[test]
fn calls_nest() {
    let compute = cpu();
    let x = tensor(&compute, &[], &[3f32]);
    // d/dx (d/dx x³ · x) = d/dx 3x³ = 9x².
    let mut outer = |parameters: &[u64], _: &[u64]| {
        let mut cube = |parameters: &[u64], _: &[u64]| {
            let x = Tensor::borrowed(&compute, parameters[0]);
            Ok(vec![(&(&x * &x)? * &x)?.into_handle()?])
        };
        let inner = compute.value_and_grad(&mut cube, parameters, &[])?;
        let x = Tensor::borrowed(&compute, parameters[0]);
        Ok(vec![(&Tensor::from_handle(&compute, inner.gradients[0]) * &x)?.into_handle()?])
    };
    let result = compute.value_and_grad(&mut outer, &[x.handle()], &[]).unwrap();
    assert_eq!(Tensor::from_handle(&compute, result.gradients[0]).item().unwrap(), 81.0);
}

#[test]
fn only_parameters_are_differentiated_and_all_results_come_back() {
    let compute = cpu();
    let (a, unused) = (tensor(&compute, &[2], &[1f32, 2.0]), tensor(&compute, &[3], &[1f32; 3]));
    let b = tensor(&compute, &[2], &[10f32, 20.0]);
    let mut function = |parameters: &[u64], inputs: &[u64]| {
        let (a, b) = (Tensor::borrowed(&compute, parameters[0]), Tensor::borrowed(&compute, inputs[0]));
        let product = (&a * &b)?;
        Ok(vec![product.sum()?.into_handle()?, product.into_handle()?])
    };
    let result = compute.value_and_grad(&mut function, &[a.handle(), unused.handle()], &[b.handle()]).unwrap();
    let [values, gradients] = [result.values, result.gradients]
        .map(|all| all.into_iter().map(|handle| Tensor::from_handle(&compute, handle)));
    assert_eq!(values.map(|value| elements::<f32>(&value)).collect::<Vec<_>>(), [vec![50.0], vec![10.0, 40.0]]);
    let gradients: Vec<_> = gradients.map(|gradient| elements::<f32>(&gradient)).collect();
    assert_eq!(gradients, [vec![10.0, 20.0], vec![0.0; 3]]);
}

#[test]
fn what_cannot_be_differentiated_is_said() {
    let compute = cpu();
    let x = tensor(&compute, &[2], &[1f32, 2.0]);
    let error = |parameters: &[u64], cast: Option<Dtype>| {
        let mut function = |parameters: &[u64], _: &[u64]| {
            let x = Tensor::borrowed(&compute, parameters[0]);
            Ok(vec![cast.map_or_else(|| x.try_clone(), |dtype| x.sum()?.cast(dtype))?.into_handle()?])
        };
        compute.value_and_grad(&mut function, parameters, &[]).unwrap_err().to_string()
    };
    assert!(error(&[x.handle()], None).contains("shape [2]"));
    assert!(error(&[x.handle()], Some(Dtype::I32)).contains("Int32"));
    let whole = tensor(&compute, &[], &[1i32]);
    assert!(error(&[whole.handle()], Some(Dtype::F32)).contains("floating-point parameters"));
    assert!(error(&[], None).contains("at least one parameter"));
}

/// The losses of tokens by a head of `head`, of embeddings that are rows of `table`.
fn tied(compute: &Rc<dyn Compute>, table: Tensor, head: &Tensor, recomputed: bool) -> Result<Tensor> {
    let ids = tensor(compute, &[6], &[3i32, 0, 3, 6, 3, 0]);
    let look_up = {
        let compute = Rc::clone(compute);
        move |inputs: &[Handle]| {
            let [table, ids] = [0, 1].map(|place| Tensor::borrowed(&compute, inputs[place]));
            let found = Tensor::op(OpKind::EMBEDDING, &[&table, &ids], &[])?;
            Ok(vec![(&found * &found)?.into_handle()?])
        }
    };
    let inputs = [table.handle(), ids.handle()];
    let found = if recomputed { compute.checkpoint(Rc::new(look_up), &inputs)? } else { look_up(&inputs)? };
    let hidden = Tensor::from_handle(compute, found[0]);
    let targets = tensor(compute, &[6], &[1i32, 2, 3, -1, 5, 6]);
    Tensor::op(OpKind::TOKEN_LOSSES, &[&hidden, head, &targets], &[])?.sum()
}

#[test]
fn the_gradient_of_a_table_that_is_also_the_head_has_the_bits_of_the_sum_of_both() {
    let compute = cpu();
    let [table, other] = [0, 1].map(|_| tensor(&compute, &[7, 4], &random(5, 28)));
    let gradients = |parameters: &[Handle], recomputed: bool| -> Vec<Vec<f32>> {
        let mut function = |parameters: &[Handle], _: &[Handle]| {
            let head = Tensor::borrowed(&compute, *parameters.last().unwrap());
            let loss = tied(&compute, Tensor::borrowed(&compute, parameters[0]), &head, recomputed)?;
            Ok(vec![loss.into_handle()?])
        };
        let result = compute.value_and_grad(&mut function, parameters, &[]).unwrap();
        result.gradients.into_iter().map(|gradient| elements(&Tensor::from_handle(&compute, gradient))).collect()
    };
    for recomputed in [false, true] {
        let apart = gradients(&[table.handle(), other.handle()], recomputed);
        let sum: Vec<f32> = apart[0].iter().zip(&apart[1]).map(|(of_table, of_head)| of_table + of_head).collect();
        assert_eq!(gradients(&[table.handle()], recomputed), [sum], "recomputed: {recomputed}");
    }
}
