//! The primitives of `native/primitives/`, as functions on MLX arrays. One of the plugin's few places with `unsafe`.

use std::ffi::{CStr, c_char, c_int, c_void};

use mlx_rs::error::{Exception, Result};
use mlx_rs::{Array, Dtype, Stream};
use mlx_sys::{mlx_array, mlx_array_free, mlx_array_new, mlx_stream};

use super::{AttentionOptions, Function, Quantized, RopeTables, TokenLosses};
use crate::kernels::{ffi, pool};

/// Text of a C++ exception; the same as in `native/primitives/ffi.cpp`.
#[repr(C)]
struct Failure {
    text: [c_char; 512],
}

/// Declares the primitives' constructors. Each takes places for its results first, then these arguments, then the stream and a
/// place for the text of an exception; it says whether it has filled the results.
macro_rules! constructors {
    ($(fn $name:ident([$($result:ident),*], $($argument:ident: $type:ty),*);)*) => {
        unsafe extern "C" { $(
            fn $name(
                $($result: *mut mlx_array,)* $($argument: $type,)* stream: mlx_stream, failure: *mut Failure
            ) -> bool;
        )* }
    };
}
constructors! {
    fn mdt_op_cross_entropy([losses], logits: mlx_array, targets: mlx_array);
    fn mdt_op_token_losses(
        [losses], hidden: mlx_array, weight: mlx_array, targets: mlx_array, bias: mlx_array, scale: f32, soft_cap: f32,
        rows: c_int, columns: c_int, rounds: bool
    );
    fn mdt_op_swiglu([out], gate: mlx_array, up: mlx_array);
    fn mdt_op_rms_norm([out], x: mlx_array, weight: mlx_array, eps: f32);
    fn mdt_op_rope_tables([cos, sin], positions: mlx_array, inv_freq: mlx_array, factor: f32);
    fn mdt_op_rope([out], x: mlx_array, cos: mlx_array, sin: mlx_array);
    fn mdt_op_attention(
        [out], query: mlx_array, key: mlx_array, value: mlx_array, segments: mlx_array, scale: f32, soft_cap: f32,
        causal: bool, window: c_int
    );
    fn mdt_op_checked_indices(
        [out], indices: mlx_array, operation: *const c_char, length: c_int, from_end: bool
    );
    fn mdt_op_function([out], x: mlx_array, which: c_int);
    fn mdt_op_sum([out], x: mlx_array, first: c_int, axes: c_int);
    fn mdt_op_convert([out], x: mlx_array, to_bf16: bool);
    fn mdt_op_add([out], a: mlx_array, b: mlx_array);
    fn mdt_op_embedding([out], table: mlx_array, ids: mlx_array);
    fn mdt_op_with_look_ups_added_in_place([out], gradient: mlx_array);
    fn mdt_op_linear([out], x: mlx_array, weight: mlx_array);
    fn mdt_op_dequantize(
        [out], words: mlx_array, scales: mlx_array, biases: mlx_array, group_size: c_int, bits: c_int
    );
    fn mdt_op_quantized_linear(
        [out], x: mlx_array, words: mlx_array, scales: mlx_array, biases: mlx_array, group_size: c_int, bits: c_int,
        operands: c_int
    );
    fn mdt_op_product([out], x: mlx_array, matrix: mlx_array, transpose: bool, bf16: bool);
    fn mdt_op_grouped_linear([out], rows: mlx_array, weight: mlx_array, groups: mlx_array);
}

/// Called for each operation of a plan; see `native/primitives/plan.h`.
pub type Visit = unsafe extern "C" fn(
    *mut c_void,
    *const c_char,
    *const c_void,
    usize,
    *const c_void,
    usize,
    *const c_int,
    usize,
    *const usize,
    usize,
    usize,
    usize,
    bool,
);

unsafe extern "C" {
    fn mdt_op_placeholder(
        out: *mut mlx_array,
        shape: *const c_int,
        rank: usize,
        dtype: mlx_sys::mlx_dtype,
        stream: mlx_stream,
        failure: *mut Failure,
    ) -> bool;
    fn mdt_plan(
        tensors: *const mlx_array,
        count: usize,
        stream: mlx_stream,
        context: *mut c_void,
        visit: Visit,
        failure: *mut Failure,
    ) -> bool;
    fn mdt_join_sums(ends: *mut mlx_array, count: usize, stream: mlx_stream, failure: *mut Failure) -> bool;
    fn mdt_array_id(array: mlx_array) -> usize;
    fn mdt_array_is_exclusive(array: mlx_array) -> bool;
    fn mdt_keep_buffers(failure: *mut Failure) -> bool;
    fn mdt_bound_buffers(failure: *mut Failure) -> bool;
    fn mdt_settle(stream: mlx_stream);
    fn mdt_stream_is_cpu(stream: mlx_stream) -> bool;
    fn mdt_has_tiles() -> bool;
    fn mdt_lend_product(product: Option<Product>);
}

type Body = unsafe extern "C" fn(*mut c_void, c_int);
type Product = unsafe extern "C" fn(
    bool,
    bool,
    usize,
    usize,
    usize,
    f32,
    *const f32,
    usize,
    *const f32,
    usize,
    f32,
    *mut f32,
    usize,
);

/// Would the primitives take these? All f32, and the stream that MLX would use a CPU's.
pub fn applies(arrays: &[&Array]) -> bool {
    // SAFETY: the stream lives until the end of the call.
    arrays.iter().all(|array| array.dtype() == Dtype::Float32) && unsafe { mdt_stream_is_cpu(stream().as_ptr()) }
}

/// The same of those that take half precision too.
pub fn applies_to_half(arrays: &[&Array]) -> bool {
    let fits = |array: &&Array| array.dtype() == Dtype::Float32 || super::is_half(array.dtype());
    arrays.iter().all(fits) && on_cpu()
}

/// Whether the stream that MLX would use is a CPU's.
pub fn on_cpu() -> bool {
    applies(&[])
}

/// Makes MLX's matrix products those of the kernels.
pub fn lend_product_to_blas() {
    // SAFETY: the function is there for good, and MLX calls it with matrices that it has the memory of.
    unsafe { mdt_lend_product(Some(ffi::mdt_product)) };
}

/// Calls a body once for each number, on the compute threads, for the primitives.
///
/// # Safety
/// `body` may be called with `context` and each number below `count`, from any threads at once.
#[unsafe(no_mangle)]
unsafe extern "C" fn mdt_parallel_for(context: *mut c_void, count: c_int, body: Body) {
    struct Context(*mut c_void);
    // SAFETY: the caller lets every thread use it.
    unsafe impl Sync for Context {}
    impl Context {
        fn get(&self) -> *mut c_void {
            self.0
        }
    }

    let context = Context(context);
    pool::parallel_for(count.max(0) as usize, &|number| {
        // SAFETY: the caller's promise; the number is below `count`, so it fits.
        unsafe { body(context.get(), number as c_int) };
    });
}

/// Whether the processor has instructions for products of bfloat16.
pub fn has_tiles() -> bool {
    // SAFETY: it only asks the processor and the system.
    unsafe { mdt_has_tiles() }
}

pub fn keep_buffers() -> Result<()> {
    // SAFETY: it takes no handles.
    build(|[], _, failure| unsafe { mdt_keep_buffers(failure) }).map(|[]| ())
}

pub fn bound_buffers() -> Result<()> {
    // SAFETY: it takes no handles.
    build(|[], _, failure| unsafe { mdt_bound_buffers(failure) }).map(|[]| ())
}

pub fn settle() {
    // SAFETY: the stream lives until the end of the call.
    unsafe { mdt_settle(stream().as_ptr()) }
}

pub fn is_exclusive(array: &Array) -> bool {
    // SAFETY: the handle lives as long as `array`.
    unsafe { mdt_array_is_exclusive(array.as_ptr()) }
}

pub fn cross_entropy(logits: &Array, targets: &Array) -> Result<Array> {
    // SAFETY: live handles and places for the results, as `build` gives them; and so below.
    build(|[losses], stream, failure| unsafe {
        mdt_op_cross_entropy(losses, logits.as_ptr(), targets.as_ptr(), stream, failure)
    })
    .map(|[a]| a)
}

pub fn token_losses(
    hidden: &Array,
    weight: &Array,
    targets: &Array,
    bias: Option<&Array>,
    &TokenLosses { scale, soft_cap, tile: (rows, columns), rounds }: &TokenLosses,
) -> Result<Array> {
    let (hidden, weight, targets, bias) = (hidden.as_ptr(), weight.as_ptr(), targets.as_ptr(), or_empty(bias));
    let soft_cap = soft_cap.unwrap_or(0.0);
    // SAFETY: as in `cross_entropy`; `bias` may be empty.
    build(|[losses], stream, failure| unsafe {
        mdt_op_token_losses(
            losses, hidden, weight, targets, bias, scale, soft_cap, rows, columns, rounds, stream, failure,
        )
    })
    .map(|[a]| a)
}

pub fn swiglu(gate: &Array, up: &Array) -> Result<Array> {
    // SAFETY: as in `cross_entropy`.
    build(|[out], stream, failure| unsafe { mdt_op_swiglu(out, gate.as_ptr(), up.as_ptr(), stream, failure) })
        .map(|[a]| a)
}

pub fn rms_norm(x: &Array, weight: &Array, eps: f32) -> Result<Array> {
    // SAFETY: as in `cross_entropy`.
    build(|[out], stream, failure| unsafe { mdt_op_rms_norm(out, x.as_ptr(), weight.as_ptr(), eps, stream, failure) })
        .map(|[a]| a)
}

pub fn rope_tables(positions: &Array, inv_freq: &Array, factor: f32) -> Result<RopeTables> {
    let (positions, inv_freq) = (positions.as_ptr(), inv_freq.as_ptr());
    // SAFETY: as in `cross_entropy`.
    build(|[cos, sin], stream, failure| unsafe {
        mdt_op_rope_tables(cos, sin, positions, inv_freq, factor, stream, failure)
    })
    .map(|[cos, sin]| RopeTables { cos, sin })
}

pub fn rope(x: &Array, tables: &RopeTables) -> Result<Array> {
    let (cos, sin) = (tables.cos.as_ptr(), tables.sin.as_ptr());
    // SAFETY: as in `cross_entropy`.
    build(|[out], stream, failure| unsafe { mdt_op_rope(out, x.as_ptr(), cos, sin, stream, failure) }).map(|[a]| a)
}

pub fn attention(
    query: &Array,
    key: &Array,
    value: &Array,
    segments: Option<&Array>,
    &AttentionOptions { scale, soft_cap, causal, window, .. }: &AttentionOptions,
) -> Result<Array> {
    let (query, key, value) = (query.as_ptr(), key.as_ptr(), value.as_ptr());
    let (segments, soft_cap, window) = (or_empty(segments), soft_cap.unwrap_or(0.0), window.unwrap_or(0));
    // SAFETY: as in `cross_entropy`; `segments` may be empty.
    build(|[out], stream, failure| unsafe {
        mdt_op_attention(out, query, key, value, segments, scale, soft_cap, causal, window, stream, failure)
    })
    .map(|[a]| a)
}

pub fn checked_indices(operation: &CStr, indices: &Array, length: i32, from_end: bool) -> Result<Array> {
    let (operation, indices) = (operation.as_ptr(), indices.as_ptr());
    // SAFETY: as in `cross_entropy`; the name is copied.
    build(|[out], stream, failure| unsafe {
        mdt_op_checked_indices(out, indices, operation, length, from_end, stream, failure)
    })
    .map(|[a]| a)
}

pub fn embedding(table: &Array, ids: &Array) -> Result<Array> {
    // SAFETY: as in `cross_entropy`.
    build(|[out], stream, failure| unsafe { mdt_op_embedding(out, table.as_ptr(), ids.as_ptr(), stream, failure) })
        .map(|[a]| a)
}

pub fn add(a: &Array, b: &Array) -> Result<Array> {
    // SAFETY: as in `cross_entropy`.
    build(|[out], stream, failure| unsafe { mdt_op_add(out, a.as_ptr(), b.as_ptr(), stream, failure) }).map(|[a]| a)
}

pub fn with_joined_sums(arrays: Vec<Array>) -> Result<Vec<Array>> {
    let mut handles: Vec<mlx_array> = arrays.iter().map(Array::as_ptr).collect();
    // SAFETY: live handles, whose arrays are replaced by others.
    build(|[], stream, failure| unsafe { mdt_join_sums(handles.as_mut_ptr(), handles.len(), stream, failure) })?;
    Ok(arrays)
}

pub fn with_look_ups_added_in_place(gradient: &Array) -> Result<Array> {
    // SAFETY: as in `cross_entropy`.
    build(|[out], stream, failure| unsafe {
        mdt_op_with_look_ups_added_in_place(out, gradient.as_ptr(), stream, failure)
    })
    .map(|[a]| a)
}

/// A function of each element.
pub fn function(x: &Array, which: Function) -> Result<Array> {
    // SAFETY: as in `cross_entropy`.
    build(|[out], stream, failure| unsafe { mdt_op_function(out, x.as_ptr(), which as c_int, stream, failure) })
        .map(|[a]| a)
}

/// Sum over so many axes from one on.
pub fn sum(x: &Array, first: i32, axes: i32) -> Result<Array> {
    // SAFETY: as in `cross_entropy`.
    build(|[out], stream, failure| unsafe { mdt_op_sum(out, x.as_ptr(), first, axes, stream, failure) }).map(|[a]| a)
}

/// Between f32 and half precision.
pub fn convert(x: &Array, dtype: Dtype) -> Result<Array> {
    let to_bf16 = dtype == Dtype::Bfloat16;
    // SAFETY: as in `cross_entropy`.
    build(|[out], stream, failure| unsafe { mdt_op_convert(out, x.as_ptr(), to_bf16, stream, failure) }).map(|[a]| a)
}

pub fn linear(x: &Array, weight: &Array) -> Result<Array> {
    // SAFETY: as in `cross_entropy`.
    build(|[out], stream, failure| unsafe { mdt_op_linear(out, x.as_ptr(), weight.as_ptr(), stream, failure) })
        .map(|[a]| a)
}

pub fn dequantize(weight: &Quantized<'_>) -> Result<Array> {
    let [words, scales, biases] = [weight.words, weight.scales, weight.biases].map(Array::as_ptr);
    // SAFETY: as in `cross_entropy`.
    build(|[out], stream, failure| unsafe {
        mdt_op_dequantize(out, words, scales, biases, weight.group_size, weight.bits, stream, failure)
    })
    .map(|[a]| a)
}

pub fn quantized_linear(x: &Array, weight: &Quantized<'_>, operands: Option<Dtype>) -> Result<Array> {
    let operands = operands.map_or(0, |operands| if operands == Dtype::Float16 { 1 } else { 2 });
    let [x, words, scales, biases] = [x, weight.words, weight.scales, weight.biases].map(Array::as_ptr);
    // SAFETY: as in `cross_entropy`.
    build(|[out], stream, failure| unsafe {
        let (group_size, bits) = (weight.group_size, weight.bits);
        mdt_op_quantized_linear(out, x, words, scales, biases, group_size, bits, operands, stream, failure)
    })
    .map(|[a]| a)
}

/// `x · matrix`, or `x · matrixᵀ`, of operands rounded to a type of half precision.
pub fn product(x: &Array, matrix: &Array, transpose: bool, operands: Dtype) -> Result<Array> {
    let bf16 = operands == Dtype::Bfloat16;
    // SAFETY: as in `cross_entropy`.
    build(|[out], stream, failure| unsafe {
        mdt_op_product(out, x.as_ptr(), matrix.as_ptr(), transpose, bf16, stream, failure)
    })
    .map(|[a]| a)
}

pub fn grouped_linear(rows: &Array, weight: &Array, groups: &Array) -> Result<Array> {
    let (rows, weight, groups) = (rows.as_ptr(), weight.as_ptr(), groups.as_ptr());
    // SAFETY: as in `cross_entropy`.
    build(|[out], stream, failure| unsafe { mdt_op_grouped_linear(out, rows, weight, groups, stream, failure) })
        .map(|[a]| a)
}

/// The handle of an array that may be left out.
fn or_empty(array: Option<&Array>) -> mlx_array {
    array.map_or(mlx_array { ctx: std::ptr::null_mut() }, Array::as_ptr)
}

/// An array without memory.
pub fn placeholder(shape: &[i32], dtype: Dtype) -> Result<Array> {
    // SAFETY: as in `cross_entropy`; the shape is copied.
    build(|[out], stream, failure| unsafe {
        mdt_op_placeholder(out, shape.as_ptr(), shape.len(), dtype as mlx_sys::mlx_dtype, stream, failure)
    })
    .map(|[a]| a)
}

/// Visits the operations that evaluating these arrays takes, in their order.
///
/// # Safety
/// `visit` may be called with `context` until this returns.
pub unsafe fn plan(arrays: &[Array], context: *mut c_void, visit: Visit) -> Result<()> {
    let handles: Vec<mlx_array> = arrays.iter().map(Array::as_ptr).collect();
    // SAFETY: live handles, and the caller's promise.
    build(|[], stream, failure| unsafe { mdt_plan(handles.as_ptr(), handles.len(), stream, context, visit, failure) })
        .map(|[]| ())
}

/// The number of an array in a graph.
pub fn id(array: &Array) -> usize {
    // SAFETY: the handle lives as long as `array`.
    unsafe { mdt_array_id(array.as_ptr()) }
}

fn stream() -> Stream {
    Stream::thread_local_or_default()
}

/// Calls a constructor with places for its results; the results, or the text of the C++ exception.
#[track_caller]
fn build<const N: usize>(
    construct: impl FnOnce([*mut mlx_array; N], mlx_stream, *mut Failure) -> bool,
) -> Result<[Array; N]> {
    let stream = stream();
    // SAFETY: makes an empty handle.
    let mut results = std::array::from_fn(|_| unsafe { mlx_array_new() });
    let mut failure = Failure { text: [0; 512] };
    if construct(results.each_mut().map(|result| result as *mut mlx_array), stream.as_ptr(), &mut failure) {
        // SAFETY: the constructor has filled every handle, and each is owned by one `Array`.
        return Ok(results.map(|result| unsafe { Array::from_ptr(result) }));
    }
    for result in results {
        // SAFETY: owned here; empty handles may be freed.
        unsafe { mlx_array_free(result) };
    }
    // SAFETY: the constructor ends the text with a zero; it started as zeros.
    let text = unsafe { CStr::from_ptr(failure.text.as_ptr()) };
    Err(Exception::custom(text.to_string_lossy()))
}
