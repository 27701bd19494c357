//! Functions that are computed again for gradients.

use std::cell::Cell;
use std::rc::Rc;

use mdt_plugin_api::{Compute, Error, Handle, Result, Tensor};

use super::{cpu, elements, tensor};

/// tanh(w·x)², summed; with `checkpoint`, by a function that is computed again. `captured` takes w from outside of it.
fn gradient(compute: &Rc<dyn Compute>, checkpointed: bool, captured: bool, calls: &Rc<Cell<usize>>) -> Vec<f32> {
    let (w, x) = (tensor(compute, &[3], &[0.5f32, -1.0, 2.0]), tensor(compute, &[3], &[1f32, 2.0, 3.0]));
    let mut function = |parameters: &[Handle], inputs: &[Handle]| {
        let (device, calls, outer) = (Rc::clone(compute), Rc::clone(calls), parameters[0]);
        let layer = move |inputs: &[Handle]| -> Result<Vec<Handle>> {
            calls.set(calls.get() + 1);
            let [w, x] = [0, 1].map(|place| Tensor::borrowed(&device, inputs[place]));
            let w = if captured && calls.get() == 1 { Tensor::borrowed(&device, outer) } else { w };
            Ok(vec![(&w * &x)?.tanh()?.into_handle()?])
        };
        let given = [parameters[0], inputs[0]];
        let results = if checkpointed { compute.checkpoint(Rc::new(layer), &given)? } else { layer(&given)? };
        let y = Tensor::from_handle(compute, results[0]);
        Ok(vec![(&y * &y)?.sum()?.into_handle()?])
    };
    let result = compute.value_and_grad(&mut function, &[w.handle()], &[x.handle()]).unwrap();
    elements(&Tensor::from_handle(compute, result.gradients[0]))
}

#[test]
fn gradients_are_the_same_bits_and_the_function_is_called_again() {
    let (compute, calls) = (cpu(), Rc::new(Cell::new(0)));
    let kept = gradient(&compute, false, false, &calls);
    assert_eq!(calls.replace(0), 1);
    assert_eq!(gradient(&compute, true, false, &calls), kept);
    assert_eq!(calls.get(), 2, "once on the way, once for the gradient");
}

#[test]
fn a_gradient_reaches_only_what_was_given() {
    let compute = cpu();
    let mut function = |parameters: &[Handle], _: &[Handle]| {
        let (device, outer) = (Rc::clone(&compute), parameters[0]);
        let one = tensor(&compute, &[], &[1f32]);
        let layer = move |inputs: &[Handle]| -> Result<Vec<Handle>> {
            let (w, x) = (Tensor::borrowed(&device, outer), Tensor::borrowed(&device, inputs[0]));
            Ok(vec![(&w * &x)?.into_handle()?])
        };
        compute.checkpoint(Rc::new(layer), &[one.handle()])
    };
    // Silence would be a gradient of 0; the handle from outside is not alive when the function is called again.
    let w = tensor(&compute, &[], &[3f32]);
    match compute.value_and_grad(&mut function, &[w.handle()], &[]) {
        Ok(result) => assert_eq!(elements::<f32>(&Tensor::from_handle(&compute, result.gradients[0])), [0.0]),
        Err(error) => assert!(error.message().contains("not alive"), "{error}"),
    }
}

#[test]
fn an_error_in_the_function_comes_out_as_it_was_in_either_call() {
    for failing in [1, 2] {
        let (compute, calls) = (cpu(), Rc::new(Cell::new(0)));
        let mut function = |parameters: &[Handle], _: &[Handle]| {
            let (device, calls) = (Rc::clone(&compute), Rc::clone(&calls));
            let layer = move |inputs: &[Handle]| -> Result<Vec<Handle>> {
                calls.set(calls.get() + 1);
                if calls.get() == failing {
                    return Err(Error::input("layer 3 is bad"));
                }
                Ok(vec![Tensor::borrowed(&device, inputs[0]).tanh()?.into_handle()?])
            };
            compute.checkpoint(Rc::new(layer), parameters)
        };
        let w = tensor(&compute, &[], &[3f32]);
        let error = compute.value_and_grad(&mut function, &[w.handle()], &[]).unwrap_err();
        assert!(error.message().contains("layer 3 is bad"), "{error}");
        assert_eq!(elements::<f32>(&(&w + &w).unwrap()), [6.0], "the component works on");
    }
}

#[test]
fn outside_of_a_gradient_the_function_is_called_once() {
    let compute = cpu();
    let w = tensor(&compute, &[2], &[3f32, 4.0]);
    let device = Rc::clone(&compute);
    let double = move |inputs: &[Handle]| {
        let w = Tensor::borrowed(&device, inputs[0]);
        Ok(vec![(&w + &w)?.into_handle()?])
    };
    let results = compute.checkpoint(Rc::new(double), &[w.handle()]).unwrap();
    assert_eq!(elements::<f32>(&Tensor::from_handle(&compute, results[0])), [6.0, 8.0]);
}
