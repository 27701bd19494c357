//! What is kept between the tokens of a generation: a model's own state, and keys and values within a window.

use std::rc::Rc;
use std::sync::{Mutex, MutexGuard, PoisonError};

use mdt_host::model::{Cache, DescribedModel, Holding, Parameters, TrainedModel, Training};
use mdt_plugin_api::abi::across;
use mdt_plugin_api::prelude::*;
use mdt_plugin_api::register::ModelComponent;
use mdt_plugin_api::{Handle, ModelCalls};
use mdt_tests::{library_job, relative_difference};

const VOCABULARY: usize = 12;
const WIDTH: i64 = 4;
/// Tokens that a convolution sees, its own included.
const TAPS: i64 = 3;

/// An embedding, a causal depthwise convolution as LFM2 and Mamba have it, and a linear recurrence,
/// `h[t] = sigmoid(a) h[t - 1] + x[t]`, whose head is the embedding.
struct Recurrent;

impl Model for Recurrent {
    fn spec(&self) -> ModelSpec {
        let (normal, width) = (Init::Normal { std: 0.5 }, WIDTH as usize);
        let head = ParameterSpec::new("head.weight", [VOCABULARY, width], Role::Linear, normal);
        let parameters = vec![
            ParameterSpec::new("embedding.weight", [VOCABULARY, width], Role::Embedding, normal),
            ParameterSpec::new("convolution.weight", [TAPS as usize, width], Role::Other, normal),
            ParameterSpec::new("recurrence.decay", [width], Role::Other, normal),
            head.tied_to("embedding.weight"),
        ];
        ModelSpec::new(parameters, VOCABULARY, Head::new("head"))
    }

    fn hidden(&self, ctx: &ModelContext, tokens: &Tensor) -> Result<Tensor> {
        let x = ctx.embedding("embedding", tokens)?;
        // [B, T, 1], or [1, T, 1].
        let positions = ctx.positions()?;
        let shape: Vec<i64> = positions.shape()?.iter().map(|&axis| axis as i64).collect();
        let positions = positions.reshape(&[shape[0], shape[1], 1])?;
        let positions = &positions;
        let x = ctx.block("convolution", [&x, positions], |ctx, [x, positions]| convolution(ctx, x, positions))?;
        ctx.block("recurrence", [&x, positions], |ctx, [x, positions]| recurrence(ctx, x, positions))
    }
}

fn sizes(x: &Tensor) -> Result<[i64; 2]> {
    let shape = x.shape()?;
    Ok([shape[0] as i64, shape[1] as i64])
}

/// 1 where as many tokens of the same document are before a token, else 0.
fn has_before(positions: &Tensor, count: i64) -> Result<Tensor> {
    let bound = Tensor::full(positions.compute(), &[], (count - 1) as f64, Dtype::I32)?;
    Tensor::op(OpKind::GREATER, &[positions, &bound], &[])?.cast(Dtype::F32)
}

/// `y[t] = Σ w[j] x[t - j]` over the tokens of the same document.
fn convolution(ctx: &ModelContext, x: &Tensor, positions: &Tensor) -> Result<Tensor> {
    let [batch, tokens] = sizes(x)?;
    let before = match ctx.earlier("convolution")? {
        Some(before) => before,
        None => Tensor::full(ctx.compute(), &[batch, TAPS - 1, WIDTH], 0.0, Dtype::F32)?,
    };
    let all = Tensor::concatenate(&[&before, x], 1)?;
    ctx.keep("convolution", &all.slice(&[0, tokens, 0], &[batch, tokens + TAPS - 1, WIDTH])?)?;
    let weight = ctx.parameter("convolution.weight")?;
    let tap = |j: i64| {
        let start = TAPS - 1 - j;
        let shifted = all.slice(&[0, start, 0], &[batch, start + tokens, WIDTH])?;
        &(&shifted * &weight.slice(&[j, 0], &[j + 1, WIDTH])?)? * &has_before(positions, j)?
    };
    (1..TAPS).try_fold(tap(0)?, |sum, j| &sum + &tap(j)?)
}

fn recurrence(ctx: &ModelContext, x: &Tensor, positions: &Tensor) -> Result<Tensor> {
    let [batch, tokens] = sizes(x)?;
    let decay = Tensor::op(OpKind::SIGMOID, &[&ctx.parameter("recurrence.decay")?], &[])?;
    let decays = (&has_before(positions, 1)? * &decay)?;
    let [rows, _] = sizes(&decays)?;
    let mut state = match ctx.earlier("recurrence")? {
        Some(state) => state,
        None => Tensor::full(ctx.compute(), &[batch, 1, WIDTH], 0.0, Dtype::F32)?,
    };
    let mut states = Vec::new();
    for t in 0..tokens {
        let decay = decays.slice(&[0, t, 0], &[rows, t + 1, WIDTH])?;
        state = (&(&state * &decay)? + &x.slice(&[0, t, 0], &[batch, t + 1, WIDTH])?)?;
        states.push(state.try_clone()?);
    }
    ctx.keep("recurrence", &state)?;
    Tensor::concatenate(&states.iter().collect::<Vec<_>>(), 1)
}

/// A model behind the boundary with random weights, on a device.
struct Loaded {
    compute: Rc<dyn Compute>,
    model: DescribedModel,
    parameters: Parameters,
}

impl Loaded {
    fn new(model: impl Model + 'static) -> Self {
        let compute = library_job(&["model.path=.".to_owned()]).compute().expect("a device");
        let model = across::model(ModelComponent::new(Rc::new(model))).expect("a model");
        let model = DescribedModel::new(model.forward, "model test");
        let parameters =
            Parameters::random(&compute, model.spec().parameters.clone(), 5, Holding::PLAIN).expect("parameters");
        Self { compute, model, parameters }
    }

    fn bound(&self) -> TrainedModel {
        TrainedModel::new(&self.model, self.parameters.bind(), &self.compute)
    }

    fn ids(&self, rows: usize, ids: &[i32]) -> Tensor {
        let array = HostArray::new(&[rows, ids.len() / rows], ids).expect("whole rows");
        Tensor::from_host(&self.compute, &array).expect("the ids")
    }

    /// Hidden states `[T, D]` of one row.
    fn whole(&self, ids: &[i32]) -> Vec<f32> {
        let hidden = self.bound().hidden(&self.ids(1, ids), None, None).expect("hidden states");
        hidden.to_vec().expect("f32")
    }

    fn in_pieces(&self, ids: &[i32], pieces: &[usize]) -> Vec<f32> {
        let (model, mut cache, mut rest) = (self.bound(), Cache::default(), ids);
        let piece = |&length: &usize| {
            let (piece, others) = rest.split_at(length);
            rest = others;
            let hidden = model.continue_hidden(&self.ids(1, piece), &mut cache).expect("hidden states");
            hidden.to_vec::<f32>().expect("f32")
        };
        pieces.iter().flat_map(piece).collect()
    }
}

const IDS: [i32; 10] = [3, 7, 1, 11, 0, 5, 5, 2, 9, 4];

#[test]
fn a_sequence_in_pieces_with_what_was_kept_has_the_bits_of_the_whole() {
    let loaded = Loaded::new(Recurrent);
    let whole = loaded.whole(&IDS);
    for pieces in [&[1; 10][..], &[10], &[2, 1, 4, 3], &[7, 1, 1, 1]] {
        assert!(loaded.in_pieces(&IDS, pieces) == whole, "{pieces:?}");
    }
    // Nothing was left for another sequence.
    assert!(loaded.whole(&IDS) == whole);
}

#[test]
fn text_is_generated_with_the_logits_of_whole_forwards() {
    let loaded = Loaded::new(Recurrent);
    let (model, mut cache, mut next) = (loaded.bound(), Cache::default(), IDS[..3].to_vec());
    let mut tokens = next.clone();
    for _ in 0..8 {
        let logits = model.next_logits(&next, 1, &mut cache).expect("logits");
        let hidden = model.hidden(&loaded.ids(1, &tokens), None, None).expect("hidden states");
        let all: Vec<f32> = model.head(&hidden).expect("logits").to_vec().expect("f32");
        let difference = relative_difference(&logits.to_vec().expect("f32"), &all[all.len() - VOCABULARY..]);
        assert!(difference < 1e-6, "{difference:e} after {tokens:?}");
        next = vec![logits.argmax(-1).expect("places").item().expect("a token") as i32];
        tokens.extend(&next);
    }
}

#[test]
fn no_state_reaches_over_the_start_of_a_document_in_a_packed_row() {
    let loaded = Loaded::new(Recurrent);
    let (first, second) = IDS.split_at(4);
    let apart = [loaded.whole(first), loaded.whole(second)].concat();
    let positions = loaded.ids(1, &[0, 1, 2, 3, 0, 1, 2, 3, 4, 5]);
    let segments = loaded.ids(1, &[0, 0, 0, 0, 1, 1, 1, 1, 1, 1]);
    let packed = loaded.bound().hidden(&loaded.ids(1, &IDS), Some(&positions), Some(&segments));
    assert!(packed.expect("hidden states").to_vec::<f32>().expect("f32") == apart);
}

#[test]
fn what_keeps_a_state_in_generation_is_trained_without_one() {
    let loaded = Loaded::new(Recurrent);
    let Loaded { compute, model, parameters } = &loaded;
    let (ids, names) = (loaded.ids(2, &IDS), Rc::clone(parameters.names()));
    let mut function = |trained: &[Handle], inputs: &[Handle]| {
        let weights = Parameters::bind_handles(&names, compute, trained.iter().copied());
        let training = Training { recompute: true, ..Training::default() };
        let model = TrainedModel::new(model, weights, compute).in_training(training);
        let hidden = model.hidden(&Tensor::borrowed(compute, inputs[0]), None, None)?;
        Ok(vec![hidden.sum()?.into_handle()?])
    };
    let result = compute.value_and_grad(&mut function, &parameters.handles(), &[ids.handle()]).expect("gradients");
    for gradient in result.gradients {
        let gradient = Tensor::from_handle(compute, gradient).to_vec::<f32>().expect("f32");
        assert!(gradient.iter().any(|element| *element != 0.0));
    }
}

/// One attention of two heads of 64 features, whose queries, keys and values are the embedding.
struct Attends {
    window: Option<usize>,
}

impl Model for Attends {
    fn spec(&self) -> ModelSpec {
        let normal = Init::Normal { std: 0.5 };
        let embedding = ParameterSpec::new("embedding.weight", [VOCABULARY, 128], Role::Embedding, normal);
        let head = ParameterSpec::new("head.weight", [VOCABULARY, 128], Role::Linear, normal);
        ModelSpec::new(vec![embedding, head.tied_to("embedding.weight")], VOCABULARY, Head::new("head"))
    }

    fn hidden(&self, ctx: &ModelContext, tokens: &Tensor) -> Result<Tensor> {
        let [batch, length] = sizes(tokens)?;
        let x = ctx.embedding("embedding", tokens)?.reshape(&[batch, length, 2, 64])?.transpose(&[0, 2, 1, 3])?;
        let options = Attention { window: self.window, ..Attention::new(0.125) };
        let attended = ctx.attention("attention", &x, &x, &x, &options)?;
        attended.transpose(&[0, 2, 1, 3])?.reshape(&[batch, length, 128])
    }
}

/// One test at a time needs much memory of the device, or counts it.
fn memory() -> MutexGuard<'static, ()> {
    static MEMORY: Mutex<()> = Mutex::new(());
    MEMORY.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Bytes of the device after so many tokens of eight rows, one at a time.
fn bytes_after(loaded: &Loaded, tokens: &[usize]) -> Vec<u64> {
    let (model, mut cache) = (loaded.bound(), Cache::default());
    let row: Vec<i32> = (0..8).collect();
    let after = |token: usize| {
        let hidden = model.continue_hidden(&loaded.ids(8, &row), &mut cache).expect("hidden states");
        hidden.eval().expect("hidden states");
        tokens.contains(&token).then(|| loaded.compute.memory().active_bytes)
    };
    (1..=tokens.iter().copied().max().unwrap_or(0)).filter_map(after).collect()
}

#[test]
fn keys_beyond_a_window_take_no_memory() {
    let _memory = memory();
    // A step of the cache: 256 tokens of eight rows.
    let step = 2 * 8 * 2 * 64 * 256 * 4;
    let windowed = bytes_after(&Loaded::new(Attends { window: Some(8) }), &[300, 1500]);
    assert!(windowed[1] < windowed[0] + step / 2, "{windowed:?}");
    let all = bytes_after(&Loaded::new(Attends { window: None }), &[300, 1500]);
    assert!(all[1] > all[0] + 3 * step, "{all:?}");
}

/// The logits after these tokens, which follow what is in the cache.
fn next(loaded: &Loaded, ids: &[i32], rows: usize, cache: &mut Cache) -> Vec<f32> {
    let logits = loaded.bound().next_logits(ids, rows, cache).expect("logits");
    logits.to_vec().expect("f32")
}

#[test]
fn no_state_reaches_from_padding_into_a_shorter_prompt() {
    let loaded = Loaded::new(Recurrent);
    let mut cache = Cache::after_padding(vec![3, 0]);
    let together = next(&loaded, &[9, 9, 9, 3, 7, 1, 4, 11, 0, 5], 2, &mut cache);
    let then = next(&loaded, &[2, 8], 2, &mut cache);
    for (row, prompt) in [&[3, 7][..], &[1, 4, 11, 0, 5]].into_iter().enumerate() {
        let (own, mut alone) = (row * VOCABULARY..(row + 1) * VOCABULARY, Cache::default());
        let first = relative_difference(&together[own.clone()], &next(&loaded, prompt, 1, &mut alone));
        let second = relative_difference(&then[own], &next(&loaded, &[[2, 8][row]], 1, &mut alone));
        assert!(first < 1e-6 && second < 1e-6, "row {row}: {first:e} {second:e}");
    }
    assert!(!cache.keep_rows(&[1]).expect("nothing is computed"), "a state is of all rows together");
}

#[test]
fn long_prompts_are_computed_in_passes_with_the_logits_of_the_whole() {
    let _memory = memory();
    for window in [None, Some(300)] {
        let loaded = Loaded::new(Attends { window });
        let ids: Vec<i32> = (0..5000).map(|place| place * 7 % VOCABULARY as i32).collect();
        let mut cache = Cache::default();
        let logits = next(&loaded, &ids, 1, &mut cache);
        let model = loaded.bound();
        let hidden = model.hidden(&loaded.ids(1, &ids), None, None).expect("hidden states");
        let all: Vec<f32> = model.head(&hidden).expect("logits").to_vec().expect("f32");
        let difference = relative_difference(&logits, &all[all.len() - VOCABULARY..]);
        assert!(difference < 2e-6, "{window:?}: {difference:e}");
        assert_eq!(cache.length(), 5000);
    }
}

#[test]
fn a_sequence_goes_on_from_any_place_that_the_cache_still_has() {
    let _memory = memory();
    let ids: Vec<i32> = (0..300).map(|place| place * 5 % VOCABULARY as i32).collect();
    for (window, places) in [(None, &[299, 150, 1, 0][..]), (Some(8), &[299, 7])] {
        let loaded = Loaded::new(Attends { window });
        for &place in places {
            let mut cache = Cache::default();
            // In pieces, because of the first ones no window needs more than its own length.
            next(&loaded, &ids[..7], 1, &mut cache);
            next(&loaded, &ids[7..], 1, &mut cache);
            assert!(cache.truncate(place), "{window:?}, {place}");
            assert_eq!(cache.length(), place);
            let difference = relative_difference(
                &next(&loaded, &[3, 1], 1, &mut cache),
                &next(&loaded, &[&ids[..place], &[3, 1]].concat(), 1, &mut Cache::default()),
            );
            assert!(difference < 1e-6, "{window:?}, {place}: {difference:e}");
        }
    }
}

#[test]
fn what_a_window_has_passed_or_a_model_has_made_of_it_does_not_come_back() {
    let _memory = memory();
    let windowed = Loaded::new(Attends { window: Some(8) });
    let mut cache = Cache::default();
    let ids: Vec<i32> = (0..600).map(|place| place % VOCABULARY as i32).collect();
    next(&windowed, &ids[..300], 1, &mut cache);
    ids[300..].iter().for_each(|&id| drop(next(&windowed, &[id], 1, &mut cache)));
    assert!(!cache.truncate(100));
    assert_eq!(cache.length(), 600, "what it cannot forget it keeps");
    let recurrent = Loaded::new(Recurrent);
    let mut cache = Cache::default();
    next(&recurrent, &IDS, 1, &mut cache);
    assert!(cache.truncate(IDS.len()) && !cache.truncate(IDS.len() - 1) && !cache.truncate(IDS.len() + 1));
}

#[test]
fn rows_that_are_kept_go_on_as_before() {
    let _memory = memory();
    let loaded = Loaded::new(Attends { window: None });
    let mut cache = Cache::after_padding(vec![0, 2, 1]);
    next(&loaded, &[1, 2, 3, 9, 9, 4, 9, 5, 6], 3, &mut cache);
    assert!(cache.keep_rows(&[1, 2]).expect("rows"));
    let kept = next(&loaded, &[7, 8], 2, &mut cache);
    for (row, prompt) in [&[4, 7][..], &[5, 6, 8]].into_iter().enumerate() {
        let alone = next(&loaded, prompt, 1, &mut Cache::default());
        let difference = relative_difference(&kept[row * VOCABULARY..(row + 1) * VOCABULARY], &alone);
        assert!(difference < 1e-6, "row {row}: {difference:e}");
    }
}
