//! What a call costs at the boundary: no allocation, and some nanoseconds.
//!
//!     cargo test --release -p mdt-plugin-api --test crossing_cost -- --nocapture --test-threads=1

use std::alloc::{GlobalAlloc, Layout, System};
use std::cell::Cell;
use std::hint::black_box;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Instant;

use mdt_plugin_api::abi::across;
use mdt_plugin_api::op::attribute;
use mdt_plugin_api::register::OptimizerComponent;
use mdt_plugin_api::{
    Attribute, Compute, DeviceInfo, Dtype, Error, Handle, HostArrayRef, MemoryInfo, OpKind, Optimizer, RawHostView,
    RecomputedFunction, Result, StateSpec, TensorFunction, TensorType, Update, Value, ValueAndGrad,
};

/// Counts the allocations of each thread.
struct Counting;

thread_local! {
    static ALLOCATIONS: Cell<usize> = const { Cell::new(0) };
}

// SAFETY: everything is the system allocator's.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        ALLOCATIONS.set(ALLOCATIONS.get() + 1);
        // SAFETY: the caller's promise.
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, pointer: *mut u8, layout: Layout) {
        // SAFETY: the caller's promise.
        unsafe { System.dealloc(pointer, layout) }
    }
}

#[global_allocator]
static COUNTING: Counting = Counting;

/// A device whose operations do nothing but read what they are given.
struct Idle;

impl Compute for Idle {
    fn device(&self) -> DeviceInfo {
        DeviceInfo::default()
    }

    fn supports(&self, _op: OpKind, _attributes: &[&str], _dtype: Dtype) -> bool {
        true
    }

    fn op(&self, op: OpKind, inputs: &[Handle], attributes: &[Attribute<'_>], results: &mut [Handle]) -> Result<()> {
        let axes = match attributes {
            [Attribute { name: "axes", value: Value::Ints(axes) }, ..] => axes.len() as u64,
            _ => return Err(Error::other("no axes")),
        };
        results[0] = u64::from(op.0) + inputs.iter().sum::<u64>() + axes;
        Ok(())
    }

    fn from_host(&self, _array: HostArrayRef<'_>) -> Result<Handle> {
        Ok(1)
    }

    fn retain(&self, tensor: Handle) -> Result<Handle> {
        Ok(tensor)
    }

    fn release(&self, _tensor: Handle) {}

    fn tensor_type(&self, _tensor: Handle) -> Result<TensorType> {
        Ok(TensorType { shape: Vec::new(), dtype: Dtype::F32 })
    }

    fn eval(&self, _tensors: &[Handle]) -> Result<()> {
        Ok(())
    }

    fn host_view(&self, _tensor: Handle) -> Result<RawHostView> {
        Err(Error::other("no memory"))
    }

    fn host_view_mut(&self, tensor: Handle) -> Result<RawHostView> {
        self.host_view(tensor)
    }

    fn read(&self, _tensor: Handle, _dtype: Dtype, _out: &mut [u8]) -> Result<()> {
        Ok(())
    }

    fn write(&self, _tensor: Handle, _array: HostArrayRef<'_>) -> Result<()> {
        Ok(())
    }

    fn value_and_grad(
        &self,
        function: &mut TensorFunction<'_>,
        parameters: &[Handle],
        inputs: &[Handle],
    ) -> Result<ValueAndGrad> {
        Ok(ValueAndGrad { values: function(parameters, inputs)?, gradients: parameters.to_vec() })
    }

    fn checkpoint(&self, function: Rc<RecomputedFunction>, inputs: &[Handle]) -> Result<Vec<Handle>> {
        function(inputs)
    }

    fn memory(&self) -> MemoryInfo {
        MemoryInfo::default()
    }
}

/// A rule that does nothing.
struct Nothing;

impl Optimizer for Nothing {
    fn states(&self) -> Vec<StateSpec> {
        Vec::new()
    }

    #[inline(never)]
    fn update(&self, _: &Update<'_>, _: &mut [f32], _: &[f32], _: &mut [&mut [f32]]) -> Result<()> {
        Ok(())
    }
}

/// Nanoseconds of a call, the least of many short rounds, and the allocations of all.
fn cost(mut call: impl FnMut()) -> (f64, usize) {
    const CALLS: u32 = 10_000;
    // The first call of a thread makes what the watchdog reads.
    call();
    let before = ALLOCATIONS.get();
    let mut round = || {
        let begin = Instant::now();
        (0..CALLS).for_each(|_| call());
        begin.elapsed().as_secs_f64() * 1e9 / f64::from(CALLS)
    };
    let best = (0..300).map(|_| round()).fold(f64::INFINITY, f64::min);
    (best, ALLOCATIONS.get() - before)
}

fn cost_of_op(compute: &dyn Compute) -> (f64, usize) {
    let attributes = [attribute("axes", Value::Ints(&[0, 1])), attribute("keep_dims", Value::Bool(true))];
    let mut results = [0];
    cost(|| {
        let inputs = [1, results[0]];
        compute.op(OpKind::SUM, black_box(&inputs), &attributes, &mut results).unwrap();
    })
}

fn cost_of_update(optimizer: &dyn Optimizer) -> (f64, usize) {
    let update = Update { learning_rate: 1e-3, ..Update::first("w", &[1]) };
    let (mut parameter, mut first, mut second) = ([1.0f32], [0.0f32], [0.0f32]);
    cost(|| {
        let states: &mut [&mut [f32]] = &mut [&mut first, &mut second];
        optimizer.update(&update, black_box(&mut parameter), &[0.5], states).unwrap();
    })
}

fn crosses_without_an_allocation(what: &str, direct: (f64, usize), crossing: (f64, usize)) {
    let (direct, (crossing, allocations)) = (direct.0, crossing);
    println!("{what}: {direct:.1} ns directly, {crossing:.1} ns through the boundary");
    assert_eq!(allocations, 0);
}

#[test]
fn an_operation_crosses_without_an_allocation() {
    let native: Rc<dyn Compute> = Rc::new(Idle);
    let loaded = across::compute(&native).unwrap();
    crosses_without_an_allocation("an operation", cost_of_op(&*native), cost_of_op(&*loaded));
}

#[test]
fn an_update_crosses_without_an_allocation() {
    let native: Arc<dyn Optimizer> = Arc::new(Nothing);
    let loaded = across::optimizer(OptimizerComponent::new(Arc::clone(&native))).unwrap().slices.unwrap();
    crosses_without_an_allocation("an update", cost_of_update(&*native), cost_of_update(&*loaded));
}
