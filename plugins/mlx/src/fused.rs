//! The operations that take most of the time of training: fused where this build has kernels for them, composed of MLX's
//! own elsewhere.
//!
//! Fused: on Linux, on a CPU stream, in f32, some in half precision. Each function then makes one MLX primitive (`native/primitives/`) that runs a kernel of
//! [`crate::kernels`] and knows its own gradient. Else — Metal, CUDA — it is composed of MLX operations; that
//! composition is also what the tests compare with. Shapes are checked here in both cases; the arrays may have any strides.
//!
//! Gradients exist of first order only. Call all functions on the compute thread.

pub mod composed;
#[cfg(mdt_native)]
pub(crate) mod native;
#[cfg(all(test, mdt_native))]
mod tests;

use std::ffi::CStr;

use mlx_rs::error::{Exception, Result};
use mlx_rs::{Array, Dtype, ops};

use crate::custom;

/// Picks the primitive where all these arrays are f32, or of half precision behind `half`, and the stream is a CPU's, else the
/// composition.
macro_rules! fused_or_composed {
    ([$($array:expr),*], $name:ident($($arg:expr),* $(,)?)) => {{
        #[cfg(mdt_native)]
        if native::applies(&[$($array),*]) {
            return native::$name($($arg),*);
        }
        composed::$name($($arg),*)
    }};
    (half [$($array:expr),*], $name:ident($($arg:expr),* $(,)?)) => {{
        #[cfg(mdt_native)]
        if native::applies_to_half(&[$($array),*]) {
            return native::$name($($arg),*);
        }
        composed::$name($($arg),*)
    }};
}

/// Prepares the process: `threads` compute threads (0: one per core) for kernels and matrix products, and an allocator that
/// keeps freed buffers for the next step, up to a quarter of the memory that MLX would use at most. May be called again.
///
/// # Errors
/// What MLX says about its allocator.
pub fn start(threads: usize) -> Result<()> {
    #[cfg(mdt_native)]
    {
        crate::kernels::pool::set_threads(threads);
        native::lend_product_to_blas();
        native::keep_buffers()?;
    }
    #[cfg(not(mdt_native))]
    let _ = threads;
    Ok(())
}

/// Frees kept buffers of shapes that no longer come, see `bound_buffers` in `native/primitives/primitive.h`: operations do so before they
/// take memory. Call it between evaluations.
///
/// # Errors
/// What MLX says about its allocator.
pub fn bound_buffers() -> Result<()> {
    #[cfg(mdt_native)]
    native::bound_buffers()?;
    Ok(())
}

/// To be called after a failed evaluation, so that later ones have nothing to do with it.
pub fn settle() {
    #[cfg(mdt_native)]
    native::settle();
}

/// Whether a CPU multiplies bfloat16 faster than float32.
pub fn has_fast_bf16() -> bool {
    #[cfg(mdt_native)]
    return native::has_tiles();
    #[cfg(not(mdt_native))]
    false
}

/// What the bits of the kernels depend on: not the width of vectors, but whether products and sums are rounded together. None where
/// there are no kernels: then they depend on MLX's own library of linear algebra.
pub fn arithmetic() -> Option<String> {
    #[cfg(not(mdt_native))]
    return None;
    #[cfg(mdt_native)]
    {
        #[cfg(target_arch = "x86_64")]
        let is_fused = crate::kernels::isa::isa() != crate::kernels::isa::Isa::Baseline;
        #[cfg(not(target_arch = "x86_64"))]
        let is_fused = cfg!(target_arch = "aarch64");
        let fused = if is_fused { "with" } else { "without" };
        Some(format!("{} {fused} fused multiply-add", std::env::consts::ARCH))
    }
}

/// Whether operations run on the CPU.
pub fn on_cpu() -> bool {
    #[cfg(mdt_native)]
    return native::on_cpu();
    #[cfg(not(mdt_native))]
    mlx_rs::Device::default().get_type().is_ok_and(|kind| kind == mlx_rs::DeviceType::Cpu)
}

/// Whether operations of layers take half precision as it is, and add in float32.
pub fn takes_half() -> bool {
    cfg!(mdt_native) || !on_cpu()
}

/// Whether this is a type of half precision.
pub fn is_half(dtype: Dtype) -> bool {
    matches!(dtype, Dtype::Float16 | Dtype::Bfloat16)
}

/// The elements of `x` in float32, rounded to a type of half precision. Its gradient is that of `x` itself, which is not rounded.
///
/// # Errors
/// What MLX says.
pub fn rounded(x: &Array, dtype: Dtype) -> Result<Array> {
    let wide = convert(x, Dtype::Float32)?;
    if x.dtype() == dtype {
        return Ok(wide);
    }
    let value = convert(&convert(&wide, dtype)?, Dtype::Float32)?;
    custom::with_gradients(&[&wide], value, |_, cotangent, _| Ok(vec![cotangent.clone()]))
}

/// To another element type.
///
/// # Errors
/// What MLX says.
pub fn convert(x: &Array, dtype: Dtype) -> Result<Array> {
    #[cfg(mdt_native)]
    {
        let is_wide = |dtype| dtype == Dtype::Float32;
        let (from, to) = (x.dtype(), dtype);
        if (is_half(from) && is_wide(to) || is_wide(from) && is_half(to)) && on_cpu() {
            return native::convert(x, dtype);
        }
    }
    x.as_dtype(dtype)
}

/// Whether this array is evaluated, row-contiguous and not shared, so that its memory may be written in place.
/// Always false where the native part is absent, since MLX's C interface does not tell.
pub fn is_exclusive(array: &Array) -> bool {
    #[cfg(mdt_native)]
    return native::is_exclusive(array);
    #[cfg(not(mdt_native))]
    {
        let _ = array;
        false
    }
}

/// Cross-entropy in nats of each row: logits `[N, V]`, targets `[N]` int32; result `[N]` f32. No gradient flows to the targets.
///
/// A negative target marks a row that is not trained: its loss and gradient are exactly 0. A target ≥ V gives NaN.
/// The softmax is never stored, and the logits' memory becomes their gradient's when nothing else needs them.
///
/// # Errors
/// Other shapes or types.
pub fn cross_entropy(logits: &Array, targets: &Array) -> Result<Array> {
    let fits = logits.ndim() == 2 && targets.shape() == [logits.dim(0)] && targets.dtype() == Dtype::Int32;
    expect(fits && logits.dim(1) > 0, "cross_entropy", "logits [N, V] and int32 targets [N]", &[logits, targets])?;
    fused_or_composed!([logits], cross_entropy(logits, targets))
}

/// How products of hidden states with a head become losses.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct TokenLosses {
    /// What products and bias are multiplied by.
    pub scale: f32,
    /// Whether a logit becomes `cap · tanh(logit / cap)`.
    pub soft_cap: Option<f32>,
    /// The rows and columns of the logits that are there at a time.
    pub tile: (i32, i32),
    /// Whether operands of products are rounded to bfloat16.
    pub rounds: bool,
}

impl TokenLosses {
    /// Elements of a tile: 64 MiB of logits.
    const TILE: i32 = 16 << 20;

    /// Whether so many logits are few enough to be kept for their gradient, instead of being computed again.
    pub fn keeps(rows: i32, vocabulary: i32) -> bool {
        i64::from(rows) * i64::from(vocabulary) <= i64::from(Self::TILE)
    }

    /// Elements of a tile whose products are so fast that reading logits from memory would take longer: 8 MiB.
    const ROUNDED_TILE: i32 = 2 << 20;

    /// A tile for so many rows and columns, and hidden states of this width: at most 16 Mi logits, and as many numbers of the
    /// weight, or fewer of rounded products. A function of the shape alone, and so are the bits.
    pub fn tile(rows: i32, vocabulary: i32, width: i32, rounds: bool) -> (i32, i32) {
        let rows = rows.clamp(1, 2048);
        let columns = if rounds { Self::ROUNDED_TILE } else { Self::TILE } / rows.max(width);
        // OpenBLAS works on multiples of 64 columns.
        (rows, if columns < vocabulary { (columns / 64 * 64).max(1) } else { vocabulary })
    }
}

/// [`cross_entropy`] of the logits `scale · (hidden · weightᵀ + bias)` or of their caps, of which a tile is there at a time: hidden
/// `[N, D]` and weight `[V, D]`, targets `[N]` int32, bias `[V]`, none of them empty; result `[N]` f32. Where products round their
/// operands, any of them may be bfloat16, else all are f32.
///
/// # Errors
/// Other shapes or types; no native part, or no CPU.
pub fn token_losses(
    hidden: &Array,
    weight: &Array,
    targets: &Array,
    bias: Option<&Array>,
    options: &TokenLosses,
) -> Result<Array> {
    let fits = hidden.ndim() == 2
        && weight.ndim() == 2
        && hidden.dim(1) == weight.dim(1)
        && targets.shape() == [hidden.dim(0)]
        && targets.dtype() == Dtype::Int32
        && bias.is_none_or(|bias| bias.shape() == [weight.dim(0)]);
    let takes = |x: &Array| x.dtype() == Dtype::Float32 || options.rounds && x.dtype() == Dtype::Bfloat16;
    let fits = fits && [Some(hidden), Some(weight), bias].into_iter().flatten().all(takes);
    let expected = "hidden [N, D], a weight [V, D], int32 targets [N] and, if any, a bias [V]";
    expect(fits, "token_losses", expected, &[hidden, weight, targets])?;
    #[cfg(mdt_native)]
    if on_cpu() {
        return native::token_losses(hidden, weight, targets, bias, options);
    }
    let _ = options;
    Err(Exception::custom("token_losses runs on a CPU only"))
}

/// Whether [`token_losses`] is there.
pub fn has_token_losses() -> bool {
    cfg!(mdt_native) && on_cpu()
}

/// A function of each element, numbered as in `native/primitives/ops.h`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(i32)]
pub enum Function {
    /// e to the x.
    Exp,
    /// `1 / (1 + e^−x)`.
    Sigmoid,
    /// `x · sigmoid(x)`.
    Silu,
    /// The error function.
    Erf,
    /// `log(1 + e^x)`.
    Softplus,
    /// The sine.
    Sin,
    /// The cosine.
    Cos,
}

/// Whether [`function`] takes float64.
pub const FUNCTIONS_HAVE_F64: bool = cfg!(mdt_native);

/// The function of each element of x.
///
/// # Errors
/// What MLX says.
pub fn function(x: &Array, which: Function) -> Result<Array> {
    #[cfg(mdt_native)]
    if x.dtype() == Dtype::Float64 && on_cpu() {
        return native::function(x, which);
    }
    // MLX's own are exact enough.
    if matches!(which, Function::Sin | Function::Cos) {
        return composed::function(x, which);
    }
    fused_or_composed!([x], function(x, which))
}

/// Sum over so many axes from `first` on, which are gone then. x is not empty. MLX's own adds one by one, in f32.
///
/// # Errors
/// What MLX says.
pub fn sum(x: &Array, first: i32, axes: i32) -> Result<Array> {
    fused_or_composed!([x], sum(x, first, axes))
}

/// `silu(gate) · up`, for gate and up of one shape and type.
///
/// # Errors
/// Other shapes.
pub fn swiglu(gate: &Array, up: &Array) -> Result<Array> {
    expect(gate.shape() == up.shape(), "swiglu", "gate and up of one shape", &[gate, up])?;
    fused_or_composed!(half [gate, up], swiglu(gate, up))
}

/// `x / √(mean(x²) + eps) · weight` over the last axis: x `[.., D]`, weight `[D]`.
///
/// # Errors
/// Other shapes.
pub fn rms_norm(x: &Array, weight: &Array, eps: f32) -> Result<Array> {
    let fits = weight.ndim() == 1 && last(x) == Some(weight.dim(0)) && weight.dim(0) > 0;
    expect(fits, "rms_norm", "x [.., D] and a weight [D]", &[x, weight])?;
    fused_or_composed!(half [x, weight], rms_norm(x, weight, eps))
}

/// The angles of rotary positions, which all layers of a step share: cosines and sines, `[R, half]` f32 each.
#[derive(Clone, Debug)]
pub struct RopeTables {
    cos: Array,
    sin: Array,
}

/// Tables for int32 `positions` and f32 inverse frequencies `[half]`, both functions multiplied by `factor` (YaRN's attention
/// factor; 1 elsewhere). Positions `[T]` hold for all rows of a batch; `[B, T]` are each row's own. No gradient flows through.
///
/// Angles are position · frequency rounded to f32, as in transformers. Scaling rules belong into the frequencies.
///
/// # Errors
/// Other shapes or types.
pub fn rope_tables(positions: &Array, inv_freq: &Array, factor: f32) -> Result<RopeTables> {
    let fits = matches!(positions.ndim(), 1 | 2)
        && positions.dtype() == Dtype::Int32
        && inv_freq.ndim() == 1
        && inv_freq.dtype() == Dtype::Float32;
    let expected = "int32 positions [T] or [B, T] and f32 inverse frequencies [D/2]";
    expect(fits, "rope_tables", expected, &[positions, inv_freq])?;
    // A function that is computed again is differentiated by all that it is given.
    let (positions, inv_freq) = (&mlx_rs::stop_gradient(positions)?, &mlx_rs::stop_gradient(inv_freq)?);
    fused_or_composed!([inv_freq], rope_tables(positions, inv_freq, factor))
}

/// Rotates feature i of x `[B, H, T, D]` against feature i + half, for i < half ≤ D/2 (Llama's and Hugging Face's layout);
/// features from 2·half on pass through. The result lies in memory as `[B, T, H, D]`, so going back to rows copies nothing.
///
/// # Errors
/// Tables of other than T or B·T rows, or wider than the features.
pub fn rope(x: &Array, tables: &RopeTables) -> Result<Array> {
    let (rows, half) = (tables.cos.dim(0), tables.cos.dim(1));
    let fits = x.ndim() == 4 && 2 * half <= x.dim(3) && (rows == x.dim(2) || rows == x.dim(0) * x.dim(2));
    let expected = "x [B, H, T, D] and tables of T or B·T rows and at most D/2 columns";
    expect(fits, "rope", expected, &[x, &tables.cos])?;
    fused_or_composed!(half [x, &tables.cos, &tables.sin], rope(x, tables))
}

/// How attention scores keys, and which it sees.
#[derive(Clone, Copy, Debug, Default)]
pub struct AttentionOptions {
    /// What scores are multiplied by.
    pub scale: f32,
    /// Whether query t sees keys up to place S − T + t only.
    pub causal: bool,
    /// Whether it sees only the last so many keys up to its place.
    pub window: Option<i32>,
    /// Whether a score becomes `cap · tanh(score / cap)`.
    pub soft_cap: Option<f32>,
    /// The part of the weights that is set to 0, and the key that chooses them.
    pub dropout: Option<(f32, u64)>,
}

/// What attention may be given besides queries, keys and values.
#[derive(Clone, Copy, Debug, Default)]
pub struct AttentionExtras<'a> {
    /// `[B, S]` int32, for packed rows: query t sees only keys of the segment of place S − T + t.
    pub segments: Option<&'a Array>,
    /// Added to the scores, broadcast to `[B, H, T, S]`.
    pub mask: Option<&'a Array>,
    /// `[H]`, a score of each head that takes part in the softmax and has no value.
    pub sinks: Option<&'a Array>,
}

/// `softmax(scale · Q Kᵀ + mask) V`: query `[B, H, T, D]`, key and value `[B, Hkv, S, D]` with Hkv dividing H; head h of the
/// queries reads head h / (H / Hkv). The result `[B, H, T, D]` lies in memory as `[B, T, H, D]`.
///
/// A hidden key changes no bit of the result. Memory beside the result: copies of keys and values, and some MiB a thread; with
/// dropout, a mask or sinks, that of all scores.
///
/// # Errors
/// Other shapes or types; T > S with `causal`, `window` or segments.
pub fn attention(
    query: &Array,
    key: &Array,
    value: &Array,
    extras: AttentionExtras<'_>,
    options: &AttentionOptions,
) -> Result<Array> {
    let &AttentionOptions { causal, window, .. } = options;
    let segments = extras.segments;
    let fits = query.ndim() == 4
        && key.ndim() == 4
        && key.shape() == value.shape()
        && query.dim(0) == key.dim(0)
        && query.dim(3) == key.dim(3)
        && key.dim(1) > 0
        && query.dim(1) % key.dim(1) == 0
        && key.dim(2) > 0
        && query.dim(3) > 0;
    let expected = "query [B, H, T, D], key and value [B, Hkv, S, D] with Hkv dividing H";
    expect(fits, "attention", expected, &[query, key, value])?;
    if let Some(segments) = segments {
        let fits = segments.shape() == [key.dim(0), key.dim(2)] && segments.dtype() == Dtype::Int32;
        expect(fits, "attention", "int32 segments [B, S]", &[segments, key])?;
    }
    let ordered = causal || window.is_some() || segments.is_some();
    expect(
        !ordered || query.dim(2) <= key.dim(2),
        "attention",
        "no more queries than keys under a mask",
        &[query, key],
    )?;
    // The kernel works on 32 queries at a time and packs the keys first: wasted on the few new queries of a generation step.
    // And without a mask its alignment of queries with the last keys means nothing, but it must exist.
    let (queries, keys) = (query.dim(2), key.dim(2));
    let has_no_kernel = extras.mask.is_some() || extras.sinks.is_some() || options.dropout.is_some();
    if queries > keys || (queries < 8 && queries < keys) || has_no_kernel {
        if is_half(query.dtype()) && on_cpu() {
            let [query, key, value] = [query, key, value].map(|array| convert(array, Dtype::Float32));
            return composed::attention(&query?, &key?, &value?, extras, options);
        }
        return composed::attention(query, key, value, extras, options);
    }
    #[cfg(mdt_native)]
    if native::applies_to_half(&[query, key, value]) {
        return native::attention(query, key, value, segments, options);
    }
    composed::attention(query, key, value, extras, options)
}

/// Indices along an axis of this length as int32 from 0 on; with `from_end`, -1 is the last place. MLX itself reads and writes
/// wherever an index points, so every gather takes its indices from here.
///
/// # Errors
/// Other types; an axis without elements. An index that lies outside fails the evaluation, which names it and the operation; where
/// the native part is absent, the indices are evaluated now.
pub fn checked_indices(operation: &CStr, indices: &Array, length: i32, from_end: bool) -> Result<Array> {
    let name = operation.to_string_lossy();
    let integers = !indices.dtype().is_float() && !matches!(indices.dtype(), Dtype::Bool | Dtype::Complex64);
    expect(integers, &name, "indices that are integers", &[indices])?;
    if length == 0 && indices.size() > 0 {
        return Err(Exception::custom(format!("{name}: every index is out of range for an axis of length 0")));
    }
    if indices.size() == 0 {
        return indices.as_dtype(Dtype::Int32);
    }
    fused_or_composed!([], checked_indices(operation, indices, length, from_end))
}

/// Rows of a table: table `[V, D]`, ids of any shape int32; result `[.., D]`.
///
/// # Errors
/// Other shapes or types. An id outside the table fails the evaluation.
pub fn embedding(table: &Array, ids: &Array) -> Result<Array> {
    let fits = table.ndim() == 2 && ids.dtype() == Dtype::Int32;
    expect(fits, "embedding", "a table [V, D] and int32 ids", &[table, ids])?;
    let ids = &checked_indices(c"embedding", ids, table.dim(0), false)?;
    fused_or_composed!([table], embedding(table, ids))
}

/// The sum of two arrays of one type, where the shapes allow it. Half precision is added in float32.
///
/// # Errors
/// What MLX says.
pub fn add(a: &Array, b: &Array) -> Result<Array> {
    /// Elements from which on threads help.
    #[cfg(mdt_native)]
    const MANY: usize = 4096;
    #[cfg(mdt_native)]
    if a.shape() == b.shape()
        && a.size() >= MANY
        && a.dtype() == b.dtype()
        && matches!(a.dtype(), Dtype::Float32 | Dtype::Bfloat16)
        && on_cpu()
    {
        return native::add(a, b);
    }
    if !is_half(a.dtype()) {
        return a.add(b);
    }
    let [wide, other] = [a, b].map(|x| convert(x, Dtype::Float32));
    convert(&wide?.add(other?)?, a.dtype())
}

/// Values and gradients with the sums that MLX makes of several uses of an array done by this module: those of rounded products
/// become one product each, others are [`add`]. In float32 the bits are the same.
///
/// # Errors
/// What MLX says.
pub fn with_joined_sums(arrays: Vec<Array>) -> Result<Vec<Array>> {
    #[cfg(mdt_native)]
    if on_cpu() {
        return native::with_joined_sums(arrays);
    }
    Ok(arrays)
}

/// The gradient of a parameter, as MLX gives it: where it is added up of several uses of a table, those by [`embedding`] are added to
/// the others in place, so that there is one gradient of the table and not one for each use. The bits are the same.
///
/// # Errors
/// What MLX says.
pub fn with_look_ups_added_in_place(gradient: &Array) -> Result<Array> {
    #[cfg(mdt_native)]
    if native::applies(&[gradient]) {
        return native::with_look_ups_added_in_place(gradient);
    }
    Ok(gradient.clone())
}

/// `x · weightᵀ`: x `[.., in]`, weight `[out, in]`. The fused path's gradient of the weight is row-major, ready to be read.
///
/// # Errors
/// Other shapes, or half precision of two types.
pub fn linear(x: &Array, weight: &Array) -> Result<Array> {
    if is_half(x.dtype()) {
        // It has nothing to be rounded.
        return rounded_linear(x, weight, x.dtype());
    }
    expect_linear(x, weight)?;
    if x.size() == 0 {
        return composed::linear(x, weight);
    }
    fused_or_composed!([x, weight], linear(x, weight))
}

/// A weight that MLX quantised: words `[.., in · bits / 32]` uint32, scales and biases `[.., in / group_size]` of one floating-point
/// type.
#[derive(Clone, Copy, Debug)]
pub struct Quantized<'a> {
    /// Its numbers, bit after bit.
    pub words: &'a Array,
    /// What the numbers of each group are multiplied by.
    pub scales: &'a Array,
    /// What is added then.
    pub biases: &'a Array,
    /// 32, 64 or 128.
    pub group_size: i32,
    /// 2, 3, 4, 5, 6 or 8.
    pub bits: i32,
}

/// The weight `[.., in]` as it stands for, f32. The gradient flows to scales and biases.
///
/// # Errors
/// Other shapes or types.
pub fn dequantize(weight: &Quantized<'_>) -> Result<Array> {
    expect_quantized("dequantize", weight)?;
    fused_or_composed!([], dequantize(weight))
}

/// `x · weightᵀ`: x `[.., in]` f32, weight `[out, in]`. The weight gets no gradient; with `recording`, x may get one. With `operands` x
/// is of f32 or half precision, x and the weight are rounded to this type, and the result has x's.
///
/// The fused path keeps none of the weight but a few rows, and its gradient makes them whole again.
///
/// # Errors
/// Other shapes or types.
pub fn quantized_linear(x: &Array, weight: &Quantized<'_>, operands: Option<Dtype>, recording: bool) -> Result<Array> {
    expect_quantized("quantized_linear", weight)?;
    let fits = weight.words.ndim() == 2 && last(x) == last(weight.scales).map(|groups| groups * weight.group_size);
    expect(fits, "quantized_linear", "x [.., in] and a weight [out, in]", &[x, weight.scales])?;
    #[cfg(mdt_native)]
    if x.size() > 0 && if operands.is_some() { native::applies_to_half(&[x]) } else { native::applies(&[x]) } {
        return native::quantized_linear(x, weight, operands);
    }
    match operands {
        Some(operands) => rounded_linear(x, &mlx_rs::stop_gradient(dequantize(weight)?)?, operands),
        None => composed::quantized_linear(x, weight, recording),
    }
}

fn expect_quantized(operation: &str, weight: &Quantized<'_>) -> Result<()> {
    let Quantized { words, scales, biases, group_size, bits } = *weight;
    let rows = |array: &Array| array.shape().split_last().map(|(_, rows)| rows.to_vec());
    let fits = words.dtype() == Dtype::Uint32
        && scales.shape() == biases.shape()
        && scales.dtype() == biases.dtype()
        && matches!(scales.dtype(), Dtype::Float32 | Dtype::Float16 | Dtype::Bfloat16)
        && rows(words) == rows(scales)
        && last(words) == last(scales).map(|groups| groups * group_size / 32 * bits);
    expect(fits, operation, "words, scales and biases of a quantised weight", &[words, scales, biases])
}

/// The same of operands that are rounded to a type of half precision. The result has x's type.
///
/// # Errors
/// Other shapes.
pub fn rounded_linear(x: &Array, weight: &Array, operands: Dtype) -> Result<Array> {
    expect_linear(x, weight)?;
    #[cfg(mdt_native)]
    if x.size() > 0 && native::applies_to_half(&[x, weight]) {
        return native::product(x, weight, true, operands);
    }
    composed::product(x, &weight.transpose()?, operands)
}

fn expect_linear(x: &Array, weight: &Array) -> Result<()> {
    let fits = weight.ndim() == 2 && last(x) == Some(weight.dim(1)) && weight.dim(0) > 0 && weight.dim(1) > 0;
    expect(fits, "linear", "x [.., in] and a weight [out, in]", &[x, weight])
}

/// `x · y` of operands that are rounded to a type of half precision: x `[.., n, in]`, y `[.., in, out]`. The result has x's type.
///
/// # Errors
/// Other shapes.
pub fn product(x: &Array, y: &Array, operands: Dtype) -> Result<Array> {
    #[cfg(mdt_native)]
    if y.ndim() == 2 && x.size() > 0 && y.size() > 0 && native::applies_to_half(&[x, y]) {
        return native::product(x, y, false, operands);
    }
    composed::product(x, y, operands)
}

/// Products with a matrix for each row: x `[N, 1 or K, in]`, weight `[E, out, in]`, indices `[N, K]` int32; result `[N, K, out]`.
///
/// # Errors
/// Other shapes or types. An index outside the matrices fails the evaluation.
pub fn gather_linear(x: &Array, weight: &Array, indices: &Array) -> Result<Array> {
    let fits = x.ndim() == 3
        && weight.ndim() == 3
        && indices.ndim() == 2
        && indices.dtype() == Dtype::Int32
        && x.dim(0) == indices.dim(0)
        && (x.dim(1) == 1 || x.dim(1) == indices.dim(1))
        && x.dim(2) == weight.dim(2)
        && x.dim(2) > 0
        && x.dtype() == weight.dtype()
        && matches!(x.dtype(), Dtype::Float32 | Dtype::Float16 | Dtype::Bfloat16);
    let expected = "x [N, 1 or K, in], a weight [E, out, in] of its type and int32 indices [N, K]";
    expect(fits, "gather_linear", expected, &[x, weight, indices])?;
    let (each, out) = (indices.dim(1), weight.dim(1));
    // A function that is computed again is differentiated by all that it is given.
    let indices = mlx_rs::stop_gradient(indices)?.reshape(&[-1])?;
    let indices = checked_indices(c"gather_linear", &indices, weight.dim(0), false)?;
    if indices.size() == 0 {
        return ops::zeros_dtype(&[x.dim(0), each, out], x.dtype());
    }
    // The rows of one matrix one after another, so that each matrix is multiplied once.
    let order = ops::argsort_axis(&indices, 0)?;
    let places = if x.dim(1) == 1 { order.floor_divide(Array::from_int(each))? } else { order.clone() };
    let (rows, groups) = (x.reshape(&[-1, x.dim(2)])?.take_axis(places, 0)?, indices.take_axis(&order, 0)?);
    let products = grouped_linear(&rows, weight, &groups)?;
    products.take_axis(ops::argsort_axis(&order, 0)?, 0)?.reshape(&[x.dim(0), each, out])
}

/// Products of rows `[R, in]` with the matrices of a weight `[E, out, in]` that rising indices `[R]` name; result `[R, out]`.
fn grouped_linear(rows: &Array, weight: &Array, groups: &Array) -> Result<Array> {
    // On a CPU MLX's own product is of f32 only, and of one row at a time.
    #[cfg(mdt_native)]
    if native::applies(&[]) {
        let [rows_f32, weight] = [rows.as_dtype(Dtype::Float32)?, weight.as_dtype(Dtype::Float32)?];
        return native::grouped_linear(&rows_f32, &weight, groups)?.as_dtype(rows.dtype());
    }
    composed::grouped_linear(rows, weight, groups)
}

fn last(array: &Array) -> Option<i32> {
    array.shape().last().copied()
}

/// Refuses arrays that do not fit, naming what came.
#[track_caller]
fn expect(fits: bool, operation: &str, expected: &str, arrays: &[&Array]) -> Result<()> {
    if fits {
        return Ok(());
    }
    let found: Vec<String> = arrays.iter().map(|a| format!("{:?} {:?}", a.dtype(), a.shape())).collect();
    Err(Exception::custom(format!("{operation} takes {expected}; it got {}", found.join(", "))))
}
