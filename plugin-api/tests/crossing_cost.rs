//! What an operation costs at the boundary: no allocation, and some nanoseconds.

use std::alloc::{GlobalAlloc, Layout, System};
use std::cell::Cell;
use std::rc::Rc;
use std::time::Instant;

use mdt_plugin_api::abi::across;
use mdt_plugin_api::op::attribute;
use mdt_plugin_api::{
    Attribute, Compute, DeviceInfo, Dtype, Error, Handle, HostArrayRef, MemoryInfo, OpKind, RawHostView,
    RecomputedFunction, Result, TensorFunction, TensorType, Value, ValueAndGrad,
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

/// Nanoseconds of an operation, and the allocations of all.
fn cost(compute: &dyn Compute) -> (f64, usize) {
    const CALLS: usize = 1_000_000;
    let attributes = [attribute("axes", Value::Ints(&[0, 1])), attribute("keep_dims", Value::Bool(true))];
    let mut results = [0];
    let mut best = f64::INFINITY;
    // The first call of a thread makes what the watchdog reads.
    compute.op(OpKind::SUM, &[1, 2], &attributes, &mut results).unwrap();
    let before = ALLOCATIONS.get();
    for _ in 0..5 {
        let begin = Instant::now();
        for call in 0..CALLS {
            let inputs = [call as u64, results[0]];
            compute.op(OpKind::SUM, std::hint::black_box(&inputs), &attributes, &mut results).unwrap();
        }
        best = best.min(begin.elapsed().as_secs_f64() * 1e9 / CALLS as f64);
    }
    (best, ALLOCATIONS.get() - before)
}

#[test]
fn an_operation_crosses_without_an_allocation() {
    let native: Rc<dyn Compute> = Rc::new(Idle);
    let loaded = across::compute(&native).unwrap();
    let (direct, _) = cost(&*native);
    let (crossing, allocations) = cost(&*loaded);
    println!("an operation takes {direct:.1} ns directly, {crossing:.1} ns through the boundary");
    assert_eq!(allocations, 0);
}
