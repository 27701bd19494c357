//! Abilities of optimizers: one that is not named is absent, lengths are checked, and an update allocates nothing.

use std::alloc::{GlobalAlloc, Layout, System};
use std::cell::Cell;
use std::sync::Arc;

use super::across;
use crate::register::OptimizerComponent;
use crate::{Granularity, Optimizer, ParameterSpec, Result, StateMut, StateSpec, TypedSlices, TypedStates, Update};

struct Nothing;

impl Optimizer for Nothing {
    fn states(&self) -> Vec<StateSpec> {
        Vec::new()
    }

    fn update(&self, _: &Update<'_>, _: &mut [f32], _: &[f32], _: &mut [&mut [f32]]) -> Result<()> {
        Ok(())
    }
}

impl TypedStates for Nothing {
    fn states(&self, _parameter: &ParameterSpec) -> Result<Vec<StateSpec>> {
        Ok(Vec::new())
    }
}

impl TypedSlices for Nothing {
    fn granularity(&self, _parameter: &ParameterSpec) -> Granularity {
        Granularity::Element
    }

    fn update(&self, _: &Update<'_>, _: &mut [f32], _: &[f32], _: &mut [StateMut<'_>]) -> Result<()> {
        Ok(())
    }
}

fn typed() -> OptimizerComponent {
    let (typed_states, typed_slices) = (Some(Arc::new(Nothing) as _), Some(Arc::new(Nothing) as _));
    across::optimizer(OptimizerComponent { typed_states, typed_slices, ..OptimizerComponent::default() }).unwrap()
}

fn slices() -> Arc<dyn Optimizer> {
    across::optimizer(OptimizerComponent::new(Arc::new(Nothing))).unwrap().slices.unwrap()
}

#[test]
fn an_optimizer_has_the_abilities_that_it_was_made_with_and_no_other() {
    let plain = across::optimizer(OptimizerComponent::new(Arc::new(Nothing))).unwrap();
    let OptimizerComponent { slices, typed_states, typed_slices, device, evaluation_weights } = plain;
    assert!(slices.is_some() && typed_states.is_none() && typed_slices.is_none());
    assert!(device.is_none() && evaluation_weights.is_none());
    let typed = typed();
    assert!(typed.slices.is_none() && typed.typed_states.is_some() && typed.typed_slices.is_some());
}

#[test]
fn a_gradient_of_another_length_than_its_parameter_is_an_error() {
    let (update, typed) = (Update::first("w", &[2]), typed().typed_slices.unwrap());
    for error in [
        slices().update(&update, &mut [1.0, 2.0], &[0.1], &mut []).unwrap_err(),
        typed.update(&update, &mut [1.0, 2.0], &[0.1], &mut []).unwrap_err(),
    ] {
        assert!(error.message().contains("2 elements here and its gradient 1"), "{error}");
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
    let behind = slices();
    let (mut w, mut m, mut v) = ([1.0], [0.0], [0.0]);
    let update = Update::first("w", &[1]);
    let mut call = || behind.update(&update, &mut w, &[0.5], &mut [&mut m, &mut v]).unwrap();
    call();
    let before = ALLOCATIONS.get();
    (0..100).for_each(|_| call());
    assert_eq!(ALLOCATIONS.get() - before, 0);
}
