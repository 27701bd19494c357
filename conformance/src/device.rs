//! What does not belong to one operation: handles, memory, `value_and_grad` and `checkpoint`.

use std::rc::Rc;

use mdt_plugin_api::op::attribute;
use mdt_plugin_api::{
    Compute, Dtype, Element, Error, Handle, HostArray, HostArrayRef, OpKind, Result, Tensor, Value, ValueAndGrad, bf16,
    f16,
};

use crate::run::{apply, one};

type Check = fn(&Rc<dyn Compute>) -> Result<()>;

/// Every check, and the promise that it keeps.
pub const CHECKS: &[(&str, Check)] = &[
    ("a tensor keeps a copy of the host's elements", copies),
    ("a second handle outlives the first", handles),
    ("a handle that is not alive is an error, and releasing it is none", dead_handles),
    ("elements are read as other types", reads),
    ("a tensor that is written to changes, and what was computed of it does not", writes),
    ("a view has the elements at its strides", views),
    ("memory that something else refers to is not lent for writing", views_for_writing),
    ("an unknown operation is an error", unknown_operations),
    ("results are counted", counts_results),
    ("several tensors are computed at a time", evaluates),
    ("a long chain of operations is computed", long_chains),
    ("values come in their order, and an unused parameter has gradient 0", unused_parameters),
    ("a tensor that is used twice has the sum of both gradients", used_twice),
    ("a gradient flows to no integers and through none", integers),
    ("gradients have their parameters' types", types_of_gradients),
    ("only a scalar is differentiated", scalars),
    ("an error in the function comes out as it was", errors_come_out),
    ("nothing is read or written inside value_and_grad", no_reading_inside),
    ("a checkpoint gives the same bits", checkpoints),
    ("checkpoints nest", nested_checkpoints),
    ("a checkpoint draws the same mask again", checkpoints_with_dropout),
    ("a checkpoint gives no gradient to what it captures", captured),
    ("the device describes itself", describes),
];

fn tensor<T: Element>(compute: &Rc<dyn Compute>, shape: &[usize], elements: &[T]) -> Result<Tensor> {
    Tensor::from_host(compute, &HostArray::new(shape, elements)?)
}

fn binary(op: OpKind, a: &Tensor, b: &Tensor) -> Result<Tensor> {
    one(apply(a.compute(), op, &[Some(a), Some(b)], &[])?)
}

fn unary(op: OpKind, x: &Tensor) -> Result<Tensor> {
    one(apply(x.compute(), op, &[Some(x)], &[])?)
}

/// The sum of the products of two tensors.
fn dot(a: &Tensor, b: &Tensor) -> Result<Tensor> {
    unary(OpKind::SUM, &binary(OpKind::MULTIPLY, a, b)?)
}

fn expect<T: PartialEq + std::fmt::Debug>(got: T, want: T) -> Result<()> {
    if got == want { Ok(()) } else { Err(Error::plugin(format!("{got:?} instead of {want:?}"))) }
}

fn expect_error<T>(outcome: Result<T>, what: &str) -> Result<()> {
    match outcome {
        Ok(_) => Err(Error::plugin(format!("{what} was no error"))),
        Err(_) => Ok(()),
    }
}

fn copies(compute: &Rc<dyn Compute>) -> Result<()> {
    let mut elements = [1.0f32, 2.0, 3.0];
    let x = tensor(compute, &[3], &elements)?;
    elements.fill(9.0);
    expect(x.to_vec::<f32>()?, vec![1.0, 2.0, 3.0])?;
    // Bytes need not be aligned.
    let bytes: Vec<u8> = [0u8].into_iter().chain([4.0f32, 5.0].into_iter().flat_map(f32::to_ne_bytes)).collect();
    let array = HostArrayRef { dtype: Dtype::F32, shape: &[2], bytes: &bytes[1..] };
    expect(Tensor::from_handle(compute, compute.from_host(array)?).to_vec::<f32>()?, vec![4.0, 5.0])
}

fn handles(compute: &Rc<dyn Compute>) -> Result<()> {
    let x = tensor(compute, &[2], &[1.0f32, 2.0])?;
    let (second, sum) = (x.try_clone()?, binary(OpKind::ADD, &x, &x)?);
    drop(x);
    expect(second.to_vec::<f32>()?, vec![1.0, 2.0])?;
    expect(sum.to_vec::<f32>()?, vec![2.0, 4.0])
}

fn dead_handles(compute: &Rc<dyn Compute>) -> Result<()> {
    let x = tensor(compute, &[1], &[1.0f32])?;
    let dead = compute.from_host(HostArrayRef::of(&[1], &[1.0f32]))?;
    compute.release(dead);
    for handle in [dead, 0, u64::MAX] {
        compute.release(handle);
        expect_error(compute.tensor_type(handle), "tensor_type of a handle that is not alive")?;
        expect_error(compute.retain(handle), "retain of a handle that is not alive")?;
        expect_error(compute.eval(&[handle]), "eval of a handle that is not alive")?;
        expect_error(
            compute.op(OpKind::ADD, &[x.handle(), handle], &[], &mut [0]),
            "an operation on a handle that is not alive",
        )?;
    }
    expect(x.to_vec::<f32>()?, vec![1.0])
}

fn reads(compute: &Rc<dyn Compute>) -> Result<()> {
    let x = tensor(compute, &[2, 2], &[1.0f32, -2.5, 0.1, 300.0])?;
    expect(x.to_vec::<f64>()?, vec![1.0, -2.5, f64::from(0.1f32), 300.0])?;
    expect(x.to_vec::<bf16>()?, [1.0, -2.5, 0.1, 300.0].map(bf16::from_f32).to_vec())?;
    expect(x.to_vec::<f16>()?, [1.0, -2.5, 0.1, 300.0].map(f16::from_f32).to_vec())?;
    let transposed = one(apply(compute, OpKind::TRANSPOSE, &[Some(&x)], &[attribute("axes", Value::Ints(&[1, 0]))])?)?;
    expect(transposed.to_vec::<f64>()?, vec![1.0, f64::from(0.1f32), -2.5, 300.0])?;
    let half = tensor(compute, &[2], &[1.5, -2.0].map(f16::from_f32))?;
    expect(half.to_vec::<f32>()?, vec![1.5, -2.0])?;
    expect(tensor(compute, &[2], &[i64::from(i32::MIN), 7])?.to_vec::<f64>()?, vec![-2_147_483_648.0, 7.0])?;
    expect(tensor(compute, &[2], &[0u8, 255])?.to_vec::<f64>()?, vec![0.0, 255.0])?;
    expect_error(compute.read(x.handle(), Dtype::F32, &mut [0; 15]), "reading into another number of bytes")?;
    expect_error(compute.read(x.handle(), Dtype(999), &mut [0; 16]), "reading as an unknown type")
}

fn writes(compute: &Rc<dyn Compute>) -> Result<()> {
    let mut x = tensor(compute, &[2], &[1.0f32, 2.0])?;
    let (second, sum) = (x.try_clone()?, binary(OpKind::ADD, &x, &x)?);
    let same = one(apply(compute, OpKind::RESHAPE, &[Some(&x)], &[attribute("shape", Value::Ints(&[2, 1]))])?)?;
    x.write(HostArrayRef::of(&[2], &[5.0f32, 6.0]))?;
    expect(x.to_vec::<f32>()?, vec![5.0, 6.0])?;
    for (other, want) in [(&second, [1.0, 2.0]), (&sum, [2.0, 4.0]), (&same, [1.0, 2.0])] {
        expect(other.to_vec::<f32>()?, want.to_vec())?;
    }
    expect_error(x.write(HostArrayRef::of(&[1], &[5.0f32])), "writing another shape")?;
    expect_error(x.write(HostArrayRef::of(&[2], &[5.0f64, 6.0])), "writing another type")?;
    expect(x.to_vec::<f32>()?, vec![5.0, 6.0])
}

fn views(compute: &Rc<dyn Compute>) -> Result<()> {
    let x = tensor(compute, &[2, 3], &[1.0f32, 2.0, 3.0, 4.0, 5.0, 6.0])?;
    if !compute.device().unified_memory {
        return expect_error(x.host_view().map(drop), "a view of memory that is not shared");
    }
    let transposed = one(apply(compute, OpKind::TRANSPOSE, &[Some(&x)], &[attribute("axes", Value::Ints(&[1, 0]))])?)?;
    let wide = one(apply(compute, OpKind::BROADCAST_TO, &[Some(&x)], &[attribute("shape", Value::Ints(&[2, 2, 3]))])?)?;
    let once = [1.0, 2.0, 3.0, 4.0, 5.0, 6.0];
    for (tensor, want) in
        [(&x, once.to_vec()), (&transposed, vec![1.0, 4.0, 2.0, 5.0, 3.0, 6.0]), (&wide, [once, once].concat())]
    {
        let (view, mut elements) = (tensor.host_view()?, vec![0.0f32; want.len()]);
        view.copy_to(&mut elements)?;
        expect(elements, want)?;
    }
    let empty = tensor::<f32>(compute, &[0, 3], &[])?;
    expect(empty.host_view()?.shape().to_vec(), vec![0, 3])
}

fn views_for_writing(compute: &Rc<dyn Compute>) -> Result<()> {
    let mut x = tensor(compute, &[2], &[1.0f32, 2.0])?;
    if !compute.device().unified_memory {
        return expect_error(x.host_view_mut().map(drop), "a view of memory that is not shared");
    }
    x.eval()?;
    x.host_view_mut()?.as_mut_slice::<f32>()?[1] = 7.0;
    expect(x.to_vec::<f32>()?, vec![1.0, 7.0])?;
    let second = x.try_clone()?;
    expect_error(x.host_view_mut().map(drop), "writing to memory with a second handle")?;
    drop(second);
    x.host_view_mut()?.as_mut_slice::<f32>()?[0] = 8.0;
    expect(x.to_vec::<f32>()?, vec![8.0, 7.0])
}

fn unknown_operations(compute: &Rc<dyn Compute>) -> Result<()> {
    let (x, mut slots) = (tensor(compute, &[1], &[1.0f32])?, [77]);
    for op in [0, 65_000, u32::MAX].map(OpKind) {
        expect_error(compute.op(op, &[x.handle()], &[], &mut slots), "an unknown operation")?;
        expect(compute.supports(op, &[], Dtype::F32), false)?;
    }
    expect(slots, [77])?;
    expect(compute.supports(OpKind::ADD, &["nonsense"], Dtype::F32), false)
}

fn counts_results(compute: &Rc<dyn Compute>) -> Result<()> {
    let x = tensor(compute, &[1], &[1.0f32])?;
    expect_error(compute.op(OpKind::ADD, &[x.handle(), x.handle()], &[], &mut []), "no slot for the result")?;
    let mut slots = [77, 78];
    expect_error(compute.op(OpKind::ADD, &[x.handle(), x.handle()], &[], &mut slots), "two slots for one result")?;
    expect(slots, [77, 78])
}

fn evaluates(compute: &Rc<dyn Compute>) -> Result<()> {
    let x = tensor(compute, &[2], &[1.0f32, 2.0])?;
    let (sum, product) = (binary(OpKind::ADD, &x, &x)?, binary(OpKind::MULTIPLY, &x, &x)?);
    compute.eval(&[])?;
    compute.eval(&[sum.handle(), product.handle(), sum.handle(), x.handle()])?;
    expect([sum.to_vec::<f32>()?, product.to_vec()?], [vec![2.0, 4.0], vec![1.0, 4.0]])
}

fn long_chains(compute: &Rc<dyn Compute>) -> Result<()> {
    let step = tensor(compute, &[2], &[1.0f32, 0.5])?;
    let mut x = step.try_clone()?;
    for _ in 0..2000 {
        x = binary(OpKind::ADD, &x, &step)?;
    }
    expect(x.to_vec::<f32>()?, vec![2001.0, 1000.5])
}

type ValuesAndGradients = (Vec<Vec<f64>>, Vec<Vec<f64>>);

/// Values and gradients as numbers.
fn differentiated(
    compute: &Rc<dyn Compute>,
    parameters: &[&Tensor],
    inputs: &[&Tensor],
    mut function: impl FnMut(&[Tensor], &[Tensor]) -> Result<Vec<Tensor>>,
) -> Result<ValuesAndGradients> {
    let borrowed =
        |handles: &[Handle]| handles.iter().map(|&handle| Tensor::borrowed(compute, handle)).collect::<Vec<_>>();
    let mut function = |parameters: &[Handle], inputs: &[Handle]| {
        function(&borrowed(parameters), &borrowed(inputs))?.into_iter().map(Tensor::into_handle).collect()
    };
    let handles = |tensors: &[&Tensor]| tensors.iter().map(|tensor| tensor.handle()).collect::<Vec<_>>();
    let ValueAndGrad { values, gradients } =
        compute.value_and_grad(&mut function, &handles(parameters), &handles(inputs))?;
    let owned = |handles: Vec<Handle>| {
        handles.into_iter().map(|handle| Tensor::from_handle(compute, handle)).collect::<Vec<_>>()
    };
    let (values, gradients) = (owned(values), owned(gradients));
    expect(gradients.len(), parameters.len())?;
    for (gradient, parameter) in gradients.iter().zip(parameters) {
        expect(gradient.tensor_type()?, parameter.tensor_type()?)?;
    }
    let numbers = |tensors: Vec<Tensor>| tensors.iter().map(Tensor::to_vec::<f64>).collect::<Result<Vec<_>>>();
    Ok((numbers(values)?, numbers(gradients)?))
}

fn unused_parameters(compute: &Rc<dyn Compute>) -> Result<()> {
    let (a, b) = (tensor(compute, &[2], &[1.0f32, 2.0])?, tensor(compute, &[2], &[3.0f32, 4.0])?);
    let unused = tensor(compute, &[3, 1], &[1.0f32; 3])?;
    let function = |given: &[Tensor], inputs: &[Tensor]| {
        Ok(vec![dot(&given[2], &inputs[0])?, binary(OpKind::ADD, &given[2], &inputs[0])?])
    };
    let (values, gradients) = differentiated(compute, &[&b, &unused, &a], &[&b], function)?;
    expect(values, vec![vec![11.0], vec![4.0, 6.0]])?;
    expect(gradients, vec![vec![0.0; 2], vec![0.0; 3], vec![3.0, 4.0]])
}

fn used_twice(compute: &Rc<dyn Compute>) -> Result<()> {
    let x = tensor(compute, &[2], &[3.0f32, 4.0])?;
    let (_, gradients) = differentiated(compute, &[&x], &[], |given, _| Ok(vec![dot(&given[0], &given[0])?]))?;
    expect(gradients, vec![vec![6.0, 8.0]])?;
    // The same tensor twice among the parameters: each place has its own gradient.
    let (_, gradients) = differentiated(compute, &[&x, &x], &[], |given, _| Ok(vec![dot(&given[0], &given[1])?]))?;
    expect(gradients, vec![vec![3.0, 4.0], vec![3.0, 4.0]])?;
    // A parameter that is itself the value.
    let one = tensor(compute, &[], &[3.0f32])?;
    let (values, gradients) = differentiated(compute, &[&one], &[], |given, _| Ok(vec![given[0].try_clone()?]))?;
    expect((values, gradients), (vec![vec![3.0]], vec![vec![1.0]]))
}

fn integers(compute: &Rc<dyn Compute>) -> Result<()> {
    let (x, whole) = (tensor(compute, &[2], &[1.5f32, 2.5])?, tensor(compute, &[2], &[3i32, 4])?);
    let cast =
        |x: &Tensor, dtype| one(apply(compute, OpKind::CAST, &[Some(x)], &[attribute("dtype", Value::Dtype(dtype))])?);
    let function = |given: &[Tensor], inputs: &[Tensor]| {
        let steps = cast(&cast(&given[0], Dtype::I32)?, Dtype::F32)?;
        Ok(vec![unary(OpKind::SUM, &binary(OpKind::MULTIPLY, &binary(OpKind::ADD, &steps, &given[0])?, &inputs[0])?)?])
    };
    let (values, gradients) = differentiated(compute, &[&x], &[&whole], function)?;
    expect((values, gradients), (vec![vec![25.5]], vec![vec![3.0, 4.0]]))
}

fn types_of_gradients(compute: &Rc<dyn Compute>) -> Result<()> {
    let half = tensor(compute, &[2], &[1.0, 2.0].map(bf16::from_f32))?;
    let full = tensor(compute, &[2], &[0.1f32, 0.3])?;
    let (_, gradients) =
        differentiated(compute, &[&half, &full], &[], |given, _| Ok(vec![dot(&given[0], &given[1])?]))?;
    expect(gradients, vec![[0.1, 0.3].map(|x| bf16::from_f32(x).to_f64()).to_vec(), vec![1.0, 2.0]])
}

fn scalars(compute: &Rc<dyn Compute>) -> Result<()> {
    let x = tensor(compute, &[2], &[1.0f32, 2.0])?;
    expect_error(
        differentiated(compute, &[&x], &[], |given, _| Ok(vec![given[0].try_clone()?])),
        "a value that is no scalar",
    )?;
    expect_error(differentiated(compute, &[&x], &[], |_, _| Ok(vec![])), "no value")
}

fn errors_come_out(compute: &Rc<dyn Compute>) -> Result<()> {
    let x = tensor(compute, &[2], &[1.0f32, 2.0])?;
    match differentiated(compute, &[&x], &[], |_, _| Err(Error::input("layer 3 is bad"))) {
        Err(error) if error.to_string().contains("layer 3 is bad") => {}
        other => return Err(Error::plugin(format!("{other:?} instead of the error \"layer 3 is bad\""))),
    }
    expect(binary(OpKind::ADD, &x, &x)?.to_vec::<f32>()?, vec![2.0, 4.0])
}

fn no_reading_inside(compute: &Rc<dyn Compute>) -> Result<()> {
    let x = tensor(compute, &[2], &[1.0f32, 2.0])?;
    let function = |given: &[Tensor], _: &[Tensor]| {
        let y = binary(OpKind::ADD, &given[0], &given[0])?;
        expect_error(compute.read(y.handle(), Dtype::F32, &mut [0; 8]), "reading inside value_and_grad")?;
        expect_error(compute.host_view(y.handle()), "a view inside value_and_grad")?;
        expect_error(compute.write(y.handle(), HostArrayRef::of(&[2], &[1.0f32; 2])), "writing inside value_and_grad")?;
        Ok(vec![unary(OpKind::SUM, &y)?])
    };
    expect(differentiated(compute, &[&x], &[], function)?.1, vec![vec![2.0, 2.0]])
}

/// `tanh(x · w)`, in a function that may be computed again.
fn layer(compute: &Rc<dyn Compute>, inputs: &[Handle]) -> Result<Vec<Handle>> {
    let [x, w] = [0, 1].map(|place| Tensor::borrowed(compute, inputs[place]));
    Ok(vec![unary(OpKind::TANH, &binary(OpKind::MATMUL, &x, &w)?)?.into_handle()?])
}

/// Gradients of the squares of a layer's results by x and w; `depth` is the number of checkpoints around it.
fn layer_gradients(compute: &Rc<dyn Compute>, depth: usize) -> Result<ValuesAndGradients> {
    let numbers: Vec<f32> = (0..9).map(|place| (place as f32 - 4.0) / 7.0).collect();
    let (x, w) = (tensor(compute, &[3, 3], &numbers)?, tensor(compute, &[3, 3], &numbers)?);
    differentiated(compute, &[&x, &w], &[], |given, _| {
        let handles = [given[0].handle(), given[1].handle()];
        let (device, again) = (Rc::clone(compute), Rc::clone(compute));
        let once = move |inputs: &[Handle]| layer(&device, inputs);
        let results = match depth {
            0 => once(&handles)?,
            1 => compute.checkpoint(Rc::new(once), &handles)?,
            _ => {
                let once = Rc::new(once);
                compute.checkpoint(
                    Rc::new(move |inputs: &[Handle]| again.checkpoint(Rc::clone(&once) as _, inputs)),
                    &handles,
                )?
            }
        };
        let y = Tensor::from_handle(compute, results[0]);
        Ok(vec![dot(&y, &y)?])
    })
}

fn checkpoints(compute: &Rc<dyn Compute>) -> Result<()> {
    expect(layer_gradients(compute, 1)?, layer_gradients(compute, 0)?)?;
    // Outside of a gradient it is just a call.
    let x = tensor(compute, &[1, 1], &[0.5f32])?;
    let device = Rc::clone(compute);
    let results =
        compute.checkpoint(Rc::new(move |inputs: &[Handle]| layer(&device, inputs)), &[x.handle(), x.handle()])?;
    let got = Tensor::from_handle(compute, results[0]).item()?;
    expect((got - 0.25f64.tanh()).abs() < 1e-6, true)
}

fn nested_checkpoints(compute: &Rc<dyn Compute>) -> Result<()> {
    expect(layer_gradients(compute, 2)?, layer_gradients(compute, 0)?)
}

fn checkpoints_with_dropout(compute: &Rc<dyn Compute>) -> Result<()> {
    let x = tensor(compute, &[64], &[1.0f32; 64])?;
    let device = Rc::clone(compute);
    let dropped = Rc::new(move |inputs: &[Handle]| {
        let x = Tensor::borrowed(&device, inputs[0]);
        let attributes = [attribute("rate", Value::Float(0.5)), attribute("key", Value::Int(11))];
        let y = one(apply(&device, OpKind::DROPOUT, &[Some(&x)], &attributes)?)?;
        Ok(vec![binary(OpKind::MULTIPLY, &y, &x)?.into_handle()?])
    });
    let (values, gradients) = differentiated(compute, &[&x], &[], |given, _| {
        let results = compute.checkpoint(Rc::clone(&dropped) as _, &[given[0].handle()])?;
        let y = Tensor::from_handle(compute, results[0]);
        Ok(vec![unary(OpKind::SUM, &y)?, y])
    })?;
    let twice: Vec<f64> = values[1].iter().map(|y| 2.0 * y).collect();
    expect(gradients, vec![twice])
}

fn captured(compute: &Rc<dyn Compute>) -> Result<()> {
    let w = tensor(compute, &[], &[3.0f32])?;
    let one = tensor(compute, &[], &[1.0f32])?;
    let outcome = differentiated(compute, &[&w], &[&one], |given, inputs| {
        let (device, outer) = (Rc::clone(compute), given[0].handle());
        let layer = move |inputs: &[Handle]| {
            let (w, x) = (Tensor::borrowed(&device, outer), Tensor::borrowed(&device, inputs[0]));
            Ok(vec![binary(OpKind::MULTIPLY, &w, &x)?.into_handle()?])
        };
        let results = compute.checkpoint(Rc::new(layer), &[inputs[0].handle()])?;
        Ok(vec![Tensor::from_handle(compute, results[0])])
    });
    // A device that just calls the function gives the gradient, which is right too.
    match outcome {
        Ok((_, gradients)) if gradients != [[0.0]] && gradients != [[1.0]] => {
            Err(Error::plugin(format!("a captured weight has the gradient {gradients:?}")))
        }
        _ => Ok(()),
    }
}

fn describes(compute: &Rc<dyn Compute>) -> Result<()> {
    let device = compute.device();
    expect(device.kind.is_empty() || device.name.is_empty() || device.library.is_empty(), false)?;
    let before = compute.memory().active_bytes;
    let held = tensor(compute, &[1 << 18], &vec![1.0f32; 1 << 18])?;
    held.eval()?;
    expect(compute.memory().active_bytes >= before, true)?;
    expect(compute.memory().peak_bytes >= 1 << 20, true)
}
