//! Abilities of optimizers: each answers the same before and behind the boundary, and one that is not named is absent.

use std::alloc::{GlobalAlloc, Layout, System};
use std::cell::Cell;
use std::sync::Arc;

use super::across;
use crate::register::OptimizerComponent;
use crate::{
    Dtype, Error, EvaluationWeights, Granularity, Init, Initial, Optimizer, ParameterSpec, Result, Role, StateMut,
    StateRef, StateShape, StateSpec, TypedSlices, TypedStates, Update, bf16, expect_states,
};

/// Momentum in bf16 with a scale for each block of four.
struct Blocks;

impl TypedStates for Blocks {
    fn states(&self, parameter: &ParameterSpec) -> Result<Vec<StateSpec>> {
        if parameter.name.ends_with("refused") {
            return Err(Error::plugin("no states for this one").with("parameter", &parameter.name));
        }
        let momentum = StateSpec::zeros("momentum").with_dtype(Dtype::BF16).with_initial(Initial::Parameter);
        let scales = StateSpec::zeros("scales").with_shape(StateShape::Blocks(4)).with_dtype(Dtype::U8);
        Ok(vec![momentum, scales, StateSpec::zeros("rows").with_shape(StateShape::Of(vec![parameter.shape[0]]))])
    }
}

impl TypedSlices for Blocks {
    fn granularity(&self, parameter: &ParameterSpec) -> Granularity {
        if parameter.shape.len() == 2 { Granularity::Tensor } else { Granularity::Block(4) }
    }

    fn update(
        &self,
        update: &Update<'_>,
        parameter: &mut [f32],
        gradient: &[f32],
        states: &mut [StateMut<'_>],
    ) -> Result<()> {
        let [momentum, scales, rows] = expect_states(states)?;
        rows.elements::<f32>()?[0] += update.planned_steps.unwrap_or(0) as f32;
        scales.elements::<u8>()?.fill(update.step as u8);
        for ((p, g), m) in parameter.iter_mut().zip(gradient).zip(momentum.elements::<bf16>()?) {
            *m = bf16::from_f32(m.to_f32() + g);
            *p -= (update.learning_rate * m.to_f64()) as f32;
        }
        Ok(())
    }
}

impl EvaluationWeights for Blocks {
    fn evaluation_weights(&self, update: &Update<'_>, weights: &mut [f32], states: &[StateRef<'_>]) -> Result<()> {
        let momentum = states[0].elements::<bf16>()?;
        weights.iter_mut().zip(momentum).for_each(|(weight, m)| *weight = m.to_f32() * update.step as f32);
        Ok(())
    }
}

fn parameter(shape: &[usize]) -> ParameterSpec {
    ParameterSpec::new("w", shape, Role::Other, Init::Ones)
}

#[test]
fn an_optimizer_has_the_abilities_that_it_was_made_with_and_no_other() {
    let plain = across::optimizer(OptimizerComponent::new(Arc::new(Nothing))).unwrap();
    let OptimizerComponent { slices, typed_states, typed_slices, device, evaluation_weights } = plain;
    assert!(slices.is_some() && typed_states.is_none() && typed_slices.is_none());
    assert!(device.is_none() && evaluation_weights.is_none());

    let typed = Arc::new(Blocks);
    let typed = OptimizerComponent {
        typed_states: Some(typed.clone()),
        typed_slices: Some(typed),
        ..OptimizerComponent::default()
    };
    let typed = across::optimizer(typed).unwrap();
    assert!(typed.slices.is_none() && typed.typed_states.is_some() && typed.typed_slices.is_some());
}

#[test]
fn typed_states_answer_the_same_before_and_behind_the_boundary() {
    let native = Arc::new(Blocks);
    let component = OptimizerComponent {
        typed_states: Some(native.clone()),
        typed_slices: Some(native.clone()),
        evaluation_weights: Some(native.clone()),
        ..OptimizerComponent::default()
    };
    let behind = across::optimizer(component).unwrap();
    let (states, slices, weights) =
        (behind.typed_states.unwrap(), behind.typed_slices.unwrap(), behind.evaluation_weights.unwrap());
    for shape in [&[5][..], &[2, 3]] {
        let parameter = parameter(shape);
        assert_eq!(states.states(&parameter).unwrap(), native.states(&parameter).unwrap());
        assert_eq!(slices.granularity(&parameter), native.granularity(&parameter));
    }
    let refused = ParameterSpec { name: "refused".to_owned(), ..parameter(&[1]) };
    let error = states.states(&refused).unwrap_err();
    assert_eq!(error.component(), Some("component under test"));
    assert_eq!(error.context(), native.states(&refused).unwrap_err().context());

    let run = |slices: &dyn TypedSlices, weights: &dyn EvaluationWeights| {
        let (mut w, mut momentum, mut scales, mut rows) = ([1.0, 2.0, 3.0], [bf16::ONE; 3], [0u8; 1], [0f32; 2]);
        let update = Update { step: 3, planned_steps: Some(7), learning_rate: 0.1, ..Update::first("w", &[3]) };
        let mut states = [StateMut::new(&mut momentum), StateMut::new(&mut scales), StateMut::new(&mut rows)];
        slices.update(&update, &mut w, &[0.1, 0.2, 0.3], &mut states).unwrap();
        let mut evaluated = w;
        weights.evaluation_weights(&update, &mut evaluated, &states.each_ref().map(StateMut::as_ref)).unwrap();
        (w, evaluated, momentum, scales, rows)
    };
    assert_eq!(run(&*slices, &*weights), run(&*native, &*native));
    // A state of another type than the rule reads is an error, not other numbers.
    let (mut wrong, mut rows) = ([1.0f32], [0.0f32]);
    let mut states = [StateMut::new(&mut wrong), StateMut::new::<u8>(&mut []), StateMut::new(&mut rows)];
    let error = slices.update(&Update::first("w", &[1]), &mut [1.0], &[0.5], &mut states).unwrap_err();
    assert!(error.message().contains("type"), "{error}");
    let error = slices.update(&Update::first("w", &[1]), &mut [1.0], &[], &mut []).unwrap_err();
    assert!(error.message().contains("1 elements here and its gradient 0"), "{error}");
}

struct Nothing;

impl Optimizer for Nothing {
    fn states(&self) -> Vec<StateSpec> {
        Vec::new()
    }

    fn update(&self, _: &Update<'_>, _: &mut [f32], _: &[f32], _: &mut [&mut [f32]]) -> Result<()> {
        Ok(())
    }
}

/// The system's allocator, counting the allocations of each thread.
struct Counting;

thread_local! {
    static ALLOCATIONS: Cell<usize> = const { Cell::new(0) };
}

// SAFETY: every call is the system allocator's own.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        ALLOCATIONS.with(|count| count.set(count.get() + 1));
        // SAFETY: the caller's promise.
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, memory: *mut u8, layout: Layout) {
        // SAFETY: the caller's promise.
        unsafe { System.dealloc(memory, layout) }
    }
}

#[global_allocator]
static COUNTING: Counting = Counting;

#[test]
fn an_update_across_the_boundary_allocates_nothing() {
    let behind = across::optimizer(OptimizerComponent::new(Arc::new(Nothing))).unwrap().slices.unwrap();
    let (mut w, mut m, mut v) = ([1.0], [0.0], [0.0]);
    let update = Update::first("w", &[1]);
    let mut call = || behind.update(&update, &mut w, &[0.5], &mut [&mut m, &mut v]).unwrap();
    call();
    let before = ALLOCATIONS.get();
    (0..100).for_each(|_| call());
    assert_eq!(ALLOCATIONS.get() - before, 0);
}
