//! Blocks of a model: gradients reach what the host passes to them, and are the same bits when a block is computed again.

use std::rc::Rc;

use mdt_host::model::{AuxiliaryLoss, AuxiliaryLosses, DescribedModel, Holding, Parameters, TrainedModel, Training};
use mdt_plugin_api::abi::across;
use mdt_plugin_api::prelude::*;
use mdt_plugin_api::register::ModelComponent;
use mdt_plugin_api::{Handle, ModelCalls};
use mdt_tests::{library_job, relative_difference, root};

/// An embedding, two layers `tanh(W x)` as blocks, a norm, and a head, which is the embedding or has a weight of its own.
#[derive(Clone, Copy)]
struct Toy {
    /// Takes the weights of its layers from outside of the blocks.
    captures: bool,
    /// The head has a weight of its own, `[in, out]`.
    own_head: bool,
}

/// As it usually is.
const PLAIN: Toy = Toy { captures: false, own_head: false };

impl Model for Toy {
    fn spec(&self) -> ModelSpec {
        let normal = Init::Normal { std: 0.4 };
        let mut specs = vec![ParameterSpec::new("embedding.weight", [12, 4], Role::Embedding, normal)];
        specs.extend((0..2).map(|n| ParameterSpec::new(format!("layer.{n}.weight"), [4, 4], Role::Linear, normal)));
        specs.push(ParameterSpec::new("norm.weight", [4], Role::Norm, Init::Ones).frozen());
        specs.push(if self.own_head {
            ParameterSpec::new("head.weight", [4, 12], Role::Linear, normal).in_out()
        } else {
            ParameterSpec::new("head.weight", [12, 4], Role::Linear, normal).tied_to("embedding.weight")
        });
        ModelSpec::new(specs, 12, Head { scale: 0.5, soft_cap: Some(3.0), ..Head::new("head") })
    }

    fn hidden(&self, ctx: &ModelContext, tokens: &Tensor) -> Result<Tensor> {
        let mut x = ctx.embedding("embedding", tokens)?;
        for n in 0..2 {
            let name = format!("layer.{n}");
            x = if self.captures {
                let outside = ctx.parameter(&format!("{name}.weight"))?;
                ctx.block(&name, [&x], move |_, [x]| x.matmul(&outside.transpose(&[1, 0])?)?.tanh())?
            } else {
                ctx.block(&name.clone(), [&x], move |ctx, [x]| ctx.linear(&name, x)?.tanh())?
            };
        }
        ctx.rms_norm("norm", &x, 1e-6)
    }
}

/// The model behind the boundary, its parameters, and a device.
fn toy(toy: Toy) -> (Rc<dyn Compute>, DescribedModel, Parameters) {
    let compute = library_job(&["model.path=.".to_owned()]).compute().expect("a device");
    let model = across::model(ModelComponent::new(Rc::new(toy))).expect("a model");
    let model = DescribedModel::new(model.forward, "model test");
    let parameters =
        Parameters::random(&compute, model.spec().parameters.clone(), 5, Holding::PLAIN).expect("parameters");
    (compute, model, parameters)
}

/// The gradients of the losses of some tokens, one after another; `logits_bytes` limits the pieces of the head.
fn gradients(model: Toy, recompute: bool, logits_bytes: usize) -> Result<Vec<f32>> {
    let parameters_of_head = usize::from(model.own_head);
    let (compute, model, parameters) = toy(model);
    let ids = Tensor::from_host(&compute, &HostArray::new(&[2, 3], &[1i32, 5, 7, 11, 0, 2])?)?;
    let targets = Tensor::from_host(&compute, &HostArray::new(&[6], &[5i32, 7, -1, 0, 2, 3])?)?;
    let names = Rc::clone(parameters.names());
    let frozen = parameters.frozen_handles();
    assert_eq!(
        (parameters.specs().len(), frozen.len()),
        (3 + parameters_of_head, 1),
        "what is frozen or tied is not trained"
    );
    let mut function = |trained: &[Handle], inputs: &[Handle]| {
        let weights = trained.iter().chain(&inputs[2..]).copied();
        let weights = Parameters::bind_handles(&names, &compute, weights);
        let training = Training { recompute, ..Training::default() };
        let model = TrainedModel::new(&model, weights, &compute).in_training(training).with_logits_bytes(logits_bytes);
        let [ids, targets] = [0, 1].map(|place| Tensor::borrowed(&compute, inputs[place]));
        let hidden = model.hidden(&ids, None, None)?.reshape(&[6, 4])?;
        Ok(vec![model.token_losses(&hidden, &targets)?.sum()?.into_handle()?])
    };
    let inputs: Vec<Handle> = [ids.handle(), targets.handle()].into_iter().chain(frozen).collect();
    let result = compute.value_and_grad(&mut function, &parameters.handles(), &inputs)?;
    let mut all = Vec::new();
    for handle in result.gradients {
        all.extend(Tensor::from_handle(&compute, handle).to_vec::<f32>()?);
    }
    Ok(all)
}

const ALL: usize = 1 << 30;

#[test]
fn gradients_through_blocks_are_the_same_bits_when_blocks_are_computed_again() {
    let kept = gradients(PLAIN, false, ALL).expect("gradients");
    assert_eq!(kept.len(), 12 * 4 + 2 * 4 * 4);
    assert!(kept[12 * 4..].iter().all(|element| *element != 0.0), "a layer has no gradient: {kept:?}");
    assert_eq!(gradients(PLAIN, true, ALL).expect("gradients"), kept);
    // By another way, without blocks that have weights of their own.
    let other = gradients(Toy { captures: true, ..PLAIN }, false, ALL).expect("gradients");
    assert!(relative_difference(&other, &kept) < 1e-6);
}

#[test]
fn a_weight_that_a_block_takes_from_outside_is_an_error_when_it_is_computed_again() {
    // Its gradient would be silence: nothing reaches what was not passed to the block.
    let error = gradients(Toy { captures: true, ..PLAIN }, true, ALL).unwrap_err();
    assert!(error.message().contains("not alive"), "{error}");
}

#[test]
fn pieces_of_a_head_with_an_adapter_draw_masks_of_their_own() {
    let fixture = |name: &str| root().join("tests/fixtures").join(name).display().to_string();
    let keys = [
        format!("model.path={}", fixture("training/model")),
        format!("model.adapter.path={}", fixture("adapters/tied_ends/final")),
        "model.adapter.dropout=0.5".to_owned(),
    ];
    let job = library_job(&keys);
    let opened = job.open_model(job.compute().expect("a device")).expect("the model");
    let (parameters, compute) = (opened.weights().expect("the weights"), &opened.compute);
    let rows_of_piece = 2;
    let model = TrainedModel::new(&opened.model, parameters.bind(), compute).in_training(Training::default());
    let model = model.with_logits_bytes(rows_of_piece * 104 * size_of::<f32>());
    // All rows are the same: what differs is what was dropped of them.
    let hidden = Tensor::full(compute, &[6, 48], 0.3, Dtype::F32).expect("hidden states");
    let targets = Tensor::full(compute, &[6], 5.0, Dtype::I32).expect("targets");
    let losses = model.token_losses(&hidden, &targets).and_then(|losses| losses.to_vec::<f32>()).expect("losses");
    for (i, a) in losses.iter().enumerate() {
        assert!(losses[i + 1..].iter().all(|b| a != b), "{losses:?}");
    }
}

/// The gradients of Llama's losses on two packed rows, one after another.
fn gradients_of_llama(recompute: bool) -> Vec<f32> {
    let directory = root().join("tests/fixtures/models/llama3");
    let job = library_job(&[format!("model.path={}", directory.display())]);
    let (compute, directory) = (job.compute().expect("a device"), job.model_directory().expect("the directory"));
    let model = job.model(&directory).expect("the model");
    let parameters =
        Parameters::read(&compute, model.spec().parameters.clone(), &directory, Holding::PLAIN).expect("the weights");
    let upload = |elements: [i32; 12]| {
        let array = HostArray::new(&[2, 6], &elements).expect("an array");
        Tensor::from_host(&compute, &array).expect("a tensor")
    };
    let inputs = [
        upload([1, 5, 7, 1, 9, 2, 1, 4, 3, 8, 8, 2]),
        upload([0, 1, 2, 0, 1, 2, 0, 1, 2, 3, 4, 5]),
        upload([0, 0, 0, 1, 1, 1, 0, 0, 0, 0, 0, 0]),
        upload([5, 7, -1, 9, 2, -1, 4, 3, 8, 8, 2, -1]),
    ];
    let names = Rc::clone(parameters.names());
    let mut function = |trained: &[Handle], inputs: &[Handle]| {
        let weights = Parameters::bind_handles(&names, &compute, trained.iter().copied());
        let training = Training { recompute, ..Training::default() };
        let model = TrainedModel::new(&model, weights, &compute).in_training(training);
        let inputs: Vec<Tensor> = inputs.iter().map(|&handle| Tensor::borrowed(&compute, handle)).collect();
        let hidden = model.hidden(&inputs[0], Some(&inputs[1]), Some(&inputs[2]))?;
        let width = hidden.shape()?[2] as i64;
        let losses = model.token_losses(&hidden.reshape(&[12, width])?, &inputs[3].reshape(&[12])?)?;
        Ok(vec![losses.sum()?.into_handle()?])
    };
    let handles: Vec<Handle> = inputs.iter().map(Tensor::handle).collect();
    let result = compute.value_and_grad(&mut function, &parameters.handles(), &handles).expect("gradients");
    let gradients = result.gradients.into_iter().map(|handle| Tensor::from_handle(&compute, handle));
    gradients.flat_map(|gradient| gradient.to_vec::<f32>().expect("f32")).collect()
}

#[test]
fn packed_rows_have_the_same_gradients_when_the_layers_of_llama_are_computed_again() {
    let kept = gradients_of_llama(false);
    assert!(kept.iter().any(|element| *element != 0.0));
    assert!(gradients_of_llama(true) == kept);
}

#[test]
fn losses_in_pieces_have_the_gradients_of_losses_at_once() {
    for own_head in [false, true] {
        let toy = Toy { own_head, ..PLAIN };
        let whole = gradients(toy, false, ALL).expect("gradients");
        for rows in [1, 2, 5] {
            let pieces = gradients(toy, false, rows * 12 * size_of::<f32>()).expect("gradients");
            let difference = relative_difference(&pieces, &whole);
            assert!(difference < 1e-6, "{rows} rows, own head {own_head}: {difference:e}");
        }
    }
}

#[test]
fn a_block_sees_its_own_weights_only() {
    struct Outside;
    impl Model for Outside {
        fn spec(&self) -> ModelSpec {
            PLAIN.spec()
        }
        fn hidden(&self, ctx: &ModelContext, tokens: &Tensor) -> Result<Tensor> {
            let x = ctx.embedding("embedding", tokens)?;
            ctx.block("layer.0", [&x], |ctx, [x]| ctx.linear("layer.1", x))
        }
    }
    let (compute, _, parameters) = toy(PLAIN);
    let model = across::model(ModelComponent::new(Rc::new(Outside))).expect("a model");
    let model = DescribedModel::new(model.forward, "model test");
    let ids = Tensor::from_host(&compute, &HostArray::new(&[1, 1], &[1i32]).expect("ids")).expect("ids");
    let error = TrainedModel::new(&model, parameters.bind(), &compute).hidden(&ids, None, None).unwrap_err();
    assert!(error.message().contains("`layer.1.weight`") && error.message().contains("`layer.0`"), "{error}");
}

/// Two layers whose outputs have a loss of their own, and their sum one outside of the blocks.
struct Balanced;

impl Model for Balanced {
    fn spec(&self) -> ModelSpec {
        PLAIN.spec()
    }

    fn hidden(&self, ctx: &ModelContext, tokens: &Tensor) -> Result<Tensor> {
        let x = ctx.embedding("embedding", tokens)?;
        let layer = |n: usize, coefficient: f64| {
            move |ctx: &ModelContext, [x]: [&Tensor; 1]| {
                let y = ctx.linear(&format!("layer.{n}"), x)?.tanh()?;
                ctx.auxiliary_loss("size", &(&y * &y)?.mean()?, coefficient)?;
                Ok([y, x.sum()?])
            }
        };
        let [x, first] = ctx.block("layer.0", [&x], layer(0, 0.5))?;
        let [x, second] = ctx.block("layer.1", [&x], layer(1, 0.25))?;
        ctx.auxiliary_loss("sum", &(&first + &second)?, 2.0)?;
        Ok(x)
    }
}

/// Gradients of the auxiliary losses of `passes` passes alone, and the value of each.
fn of_auxiliary_losses(recompute: bool, passes: usize) -> (Vec<f32>, Vec<(String, f64)>) {
    let (compute, _, parameters) = toy(PLAIN);
    let model = across::model(ModelComponent::new(Rc::new(Balanced))).expect("a model");
    let model = DescribedModel::new(model.forward, "model test");
    let ids = Tensor::from_host(&compute, &HostArray::new(&[1, 3], &[1i32, 5, 7]).expect("ids")).expect("ids");
    let (names, mut losses) = (Rc::clone(parameters.names()), Vec::new());
    let mut function = |trained: &[Handle], inputs: &[Handle]| {
        let weights = Parameters::bind_handles(&names, &compute, trained.iter().chain(&inputs[1..]).copied());
        let (training, auxiliary) = (Training { recompute, ..Training::default() }, AuxiliaryLosses::default());
        let model = TrainedModel::new(&model, weights, &compute).in_training(training).with_auxiliary(&auxiliary);
        for _ in 0..passes {
            model.hidden(&Tensor::borrowed(&compute, inputs[0]), None, None)?;
        }
        let (mut sum, mut values) = (Tensor::full(&compute, &[], 0.0, Dtype::F32)?, Vec::new());
        losses.clear();
        for AuxiliaryLoss { name, value, weighted } in auxiliary.means()? {
            sum = (&sum + &weighted)?;
            losses.push(name);
            values.push(value);
        }
        [sum].into_iter().chain(values).map(Tensor::into_handle).collect()
    };
    let inputs: Vec<Handle> = [ids.handle()].into_iter().chain(parameters.frozen_handles()).collect();
    let result = compute.value_and_grad(&mut function, &parameters.handles(), &inputs).expect("gradients");
    let tensors = |handles: Vec<Handle>| handles.into_iter().map(|handle| Tensor::from_handle(&compute, handle));
    let gradients = tensors(result.gradients).flat_map(|gradient| gradient.to_vec::<f32>().expect("f32")).collect();
    let values = tensors(result.values).skip(1).map(|value| value.item().expect("a number"));
    (gradients, losses.into_iter().zip(values).collect())
}

#[test]
fn auxiliary_losses_of_blocks_have_gradients_that_are_the_same_bits_when_blocks_are_computed_again() {
    let (kept, values) = of_auxiliary_losses(false, 1);
    assert!(kept[12 * 4..].iter().all(|element| *element != 0.0), "a layer has no gradient: {kept:?}");
    assert_eq!(values.iter().map(|(name, _)| name.as_str()).collect::<Vec<_>>(), ["size", "sum"]);
    assert_eq!(of_auxiliary_losses(true, 1), (kept.clone(), values.clone()));
    // Of two passes over one micro-batch it is the mean.
    let (twice, of_two) = of_auxiliary_losses(true, 2);
    assert_eq!(of_two, values);
    assert!(relative_difference(&twice, &kept) < 1e-6);
}

#[test]
fn an_auxiliary_loss_is_a_scalar_and_nothing_where_nobody_asks_for_it() {
    struct Wide;
    impl Model for Wide {
        fn spec(&self) -> ModelSpec {
            PLAIN.spec()
        }
        fn hidden(&self, ctx: &ModelContext, tokens: &Tensor) -> Result<Tensor> {
            let x = ctx.embedding("embedding", tokens)?;
            ctx.auxiliary_loss("wide", &x, 1.0)?;
            Ok(x)
        }
    }
    let (compute, _, parameters) = toy(PLAIN);
    let ids = Tensor::from_host(&compute, &HostArray::new(&[1, 2], &[1i32, 2]).expect("ids")).expect("ids");
    let hidden = |model: Rc<dyn Model>| {
        let model = across::model(ModelComponent::new(model)).expect("a model");
        TrainedModel::new(&DescribedModel::new(model.forward, "model test"), parameters.bind(), &compute)
            .hidden(&ids, None, None)
    };
    let error = hidden(Rc::new(Wide)).unwrap_err();
    assert!(error.message().contains("`wide` is a scalar, not of shape [1, 2, 4]"), "{error}");
    hidden(Rc::new(Balanced)).expect("hidden states");
}
