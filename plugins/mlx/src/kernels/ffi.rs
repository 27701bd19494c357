//! The kernels under C names, for the MLX primitives in `native/primitives/`. This is the only place where raw memory becomes slices.
//!
//! Every function here has the same contract: the pointers are those of MLX arrays of the sizes given (`native/primitives/kernels.h`),
//! outputs overlap nothing unless said otherwise, and MLX runs a stream's work in order, so nothing else writes meanwhile.
//! Sizes were checked when the graph was built. A panic would be a bug here, and aborts: it must not unwind into C++.

use std::ffi::{c_int, c_void};

use mdt_plugin_api::half::f16;

use super::attention::{self, Cut, Gradients, Mask};
use super::half::{Bf16, Element};
use super::quantized::{self, Quantized, Stored};
use super::{
    View4, add, cross_entropy, embedding, few_rows, functions, half, product, rms_norm, rope, sum, swiglu, token_losses,
};

/// `MdtView` of `native/primitives/kernels.h`.
#[repr(C)]
pub struct RawView<E = f32> {
    data: *const E,
    len: usize,
    shape: [usize; 4],
    strides: [usize; 4],
}

/// `MdtAttention` of `native/primitives/kernels.h`.
#[repr(C)]
pub struct RawAttention {
    query: RawView,
    key: RawView,
    value: RawView,
    scale: f32,
    soft_cap: f32,
    causal: bool,
    window: usize,
    segments: *const i32,
}

/// `MdtTile` of `native/primitives/kernels.h`.
#[repr(C)]
pub struct RawTile {
    rows: usize,
    first: usize,
    width: usize,
    bias: *const f32,
    scale: f32,
    soft_cap: f32,
}

/// `MdtQuantized` of `native/primitives/kernels.h`.
#[repr(C)]
pub struct RawQuantized {
    words: *const u32,
    scales: *const c_void,
    biases: *const c_void,
    dtype: c_int,
    rows: usize,
    width: usize,
    group_size: usize,
    bits: usize,
}

/// # Safety
/// `data` points to `len` initialised values that are not written during `'a`.
unsafe fn input<'a, T>(data: *const T, len: usize) -> &'a [T] {
    if len == 0 {
        return &[];
    }
    // SAFETY: the caller's promise.
    unsafe { std::slice::from_raw_parts(data, len) }
}

/// # Safety
/// `data` points to `len` values that only the caller touches during `'a`. (Fresh memory may hold anything: any bits are a `T`, a
/// number.)
unsafe fn output<'a, T>(data: *mut T, len: usize) -> &'a mut [T] {
    if len == 0 {
        return &mut [];
    }
    // SAFETY: the caller's promise.
    unsafe { std::slice::from_raw_parts_mut(data, len) }
}

impl<E: Element> RawView<E> {
    /// # Safety
    /// As for [`input`], with `data` and `len`.
    unsafe fn get<'a>(&self) -> View4<'a, E> {
        // SAFETY: the caller's promise.
        View4::new(unsafe { input(self.data, self.len) }, self.shape, self.strides)
    }
}

impl RawAttention {
    /// # Safety
    /// As for [`input`], with every view; `segments` is null or one value for each batch row and key.
    unsafe fn get<'a>(&self) -> attention::Inputs<'a> {
        let [batch, kv_heads, keys, _] = self.key.shape;
        // SAFETY: the caller's promise.
        let segments = (!self.segments.is_null()).then(|| unsafe { input(self.segments, batch * keys) });
        let [_, _, queries, width] = self.query.shape;
        let window = Some(self.window).filter(|&window| window > 0);
        let mask = Mask { causal: self.causal || window.is_some(), window, segments, queries, keys };
        // SAFETY: the caller's promise.
        let (query, key, value) = unsafe { (self.query.get(), self.key.get(), self.value.get()) };
        let (scale, soft_cap) = (self.scale, Some(self.soft_cap).filter(|&cap| cap > 0.0));
        attention::Inputs { query, key, value, scale, soft_cap, mask, cut: Cut::of(batch * kv_heads, queries, width) }
    }

    fn len(view: &RawView) -> usize {
        view.shape.iter().product()
    }
}

impl RawTile {
    /// # Safety
    /// As for [`input`]; `bias` is null or one value for each column.
    unsafe fn get<'a>(&self) -> token_losses::Tile<'a> {
        // SAFETY: the caller's promise.
        let bias = (!self.bias.is_null()).then(|| unsafe { input(self.bias, self.width) });
        let soft_cap = Some(self.soft_cap).filter(|&cap| cap > 0.0);
        token_losses::Tile { first: self.first, width: self.width, bias, scale: self.scale, soft_cap }
    }
}

impl RawQuantized {
    /// # Safety
    /// The pointers are those of words, scales and biases of such a weight, which are not written during `'a`.
    unsafe fn get<'a>(&self) -> Quantized<'a> {
        let &Self { words, rows, width, group_size, bits, .. } = self;
        // SAFETY: the caller's promise.
        let stored = |data: *const c_void| unsafe {
            let len = rows * (width / group_size);
            match self.dtype {
                1 => Stored::F16(input(data.cast(), len)),
                2 => Stored::Bf16(input(data.cast(), len)),
                _ => Stored::F32(input(data.cast(), len)),
            }
        };
        // SAFETY: the caller's promise.
        let words = unsafe { input(words, rows * (width / 32 * bits)) };
        Quantized { words, scales: stored(self.scales), biases: stored(self.biases), width, group_size, bits }
    }
}

/// Defines C functions whose body runs under the contract of this module.
macro_rules! kernels {
    ($($(#[$meta:meta])* fn $name:ident($($arg:ident: $ty:ty),* $(,)?) $body:block)*) => {$(
        $(#[$meta])*
        /// # Safety
        /// The contract of the module: every pointer is memory of the size that the other arguments say.
        #[unsafe(no_mangle)]
        #[allow(clippy::too_many_arguments)]
        pub unsafe extern "C" fn $name($($arg: $ty),*) {
            // SAFETY: the contract of the module.
            unsafe { $body }
        }
    )*};
}

kernels! {
    /// [`cross_entropy::forward`].
    fn mdt_cross_entropy(logits: *const f32, targets: *const i32, rows: usize, width: usize, losses: *mut f32, lse: *mut f32) {
        cross_entropy::forward(input(logits, rows * width), input(targets, rows), output(losses, rows), output(lse, rows));
    }

    /// [`cross_entropy::backward`], in place where `grad` is `logits`.
    fn mdt_cross_entropy_backward(
        logits: *const f32, targets: *const i32, lse: *const f32, cotangent: *const f32, rows: usize, width: usize, grad: *mut f32,
    ) {
        let (targets, lse, cotangent) = (input(targets, rows), input(lse, rows), input(cotangent, rows));
        let len = rows * width;
        if std::ptr::eq(logits, grad) {
            cross_entropy::backward_in_place(output(grad, len), targets, lse, cotangent);
        } else {
            cross_entropy::backward(input(logits, len), targets, lse, cotangent, output(grad, len));
        }
    }

    /// [`token_losses::fold`].
    fn mdt_token_losses_fold(
        tile: *const RawTile, products: *mut f32, targets: *const i32, max: *mut f32, sum: *mut f32, at_target: *mut f32,
    ) {
        let rows = (*tile).rows;
        let sums = token_losses::Sums { max: output(max, rows), sum: output(sum, rows), at_target: output(at_target, rows) };
        token_losses::fold(output(products, rows * (*tile).width), (*tile).get(), input(targets, rows), sums);
    }

    /// [`token_losses::finish`].
    fn mdt_token_losses_finish(targets: *const i32, rows: usize, max: *mut f32, sum: *mut f32, at_target: *mut f32) {
        let mut sums = token_losses::Sums { max: output(max, rows), sum: output(sum, rows), at_target: output(at_target, rows) };
        token_losses::finish(input(targets, rows), &mut sums);
    }

    /// [`token_losses::gradient`].
    fn mdt_token_losses_gradient(
        tile: *const RawTile, products: *mut f32, targets: *const i32, lse: *const f32, cotangents: *const f32,
        vocabulary: usize, narrow: *mut Bf16,
    ) {
        let rows = (*tile).rows;
        let (targets, lse, cotangents) = (input(targets, rows), input(lse, rows), input(cotangents, rows));
        let cotangents = token_losses::Cotangents { targets, lse, cotangents, vocabulary };
        let len = rows * (*tile).width;
        let narrow = output(narrow, if narrow.is_null() { 0 } else { len });
        token_losses::gradient(output(products, len), (*tile).get(), cotangents, narrow);
    }

    /// [`add::add`].
    fn mdt_add(a: *const f32, b: *const f32, len: usize, out: *mut f32) {
        add::add(input(a, len), input(b, len), output(out, len));
    }

    /// [`add::add_to`].
    fn mdt_add_to(sum: *mut f32, more: *const f32, len: usize) {
        add::add_to(output(sum, len), input(more, len));
    }

    /// [`add::add`] of bfloat16.
    fn mdt_add_bf16(a: *const Bf16, b: *const Bf16, len: usize, out: *mut Bf16) {
        add::add(input(a, len), input(b, len), output(out, len));
    }

    /// [`add::add_to`] of bfloat16.
    fn mdt_add_to_bf16(sum: *mut Bf16, more: *const Bf16, len: usize) {
        add::add_to(output(sum, len), input(more, len));
    }

    /// [`swiglu::forward`] of bfloat16.
    fn mdt_swiglu_bf16(gate: *const Bf16, up: *const Bf16, len: usize, out: *mut Bf16) {
        swiglu::forward(input(gate, len), input(up, len), output(out, len));
    }

    /// [`swiglu::backward`] of bfloat16.
    fn mdt_swiglu_backward_bf16(
        gate: *const Bf16, up: *const Bf16, cotangent: *const Bf16, len: usize, grad_gate: *mut Bf16, grad_up: *mut Bf16,
    ) {
        let (gate, up, cotangent) = (input(gate, len), input(up, len), input(cotangent, len));
        swiglu::backward(gate, up, cotangent, output(grad_gate, len), output(grad_up, len));
    }

    /// [`rms_norm::forward`] of bfloat16.
    fn mdt_rms_norm_bf16(x: *const Bf16, weight: *const Bf16, eps: f32, rows: usize, width: usize, out: *mut Bf16) {
        let weight: Vec<f32> = input(weight, width).iter().map(|weight| weight.wide()).collect();
        rms_norm::forward(input(x, rows * width), &weight, eps, output(out, rows * width));
    }

    /// [`rms_norm::backward`] of bfloat16.
    fn mdt_rms_norm_backward_bf16(
        x: *const Bf16, weight: *const Bf16, eps: f32, cotangent: *const Bf16, rows: usize, width: usize,
        grad_x: *mut Bf16, grad_weight: *mut Bf16,
    ) {
        let len = rows * width;
        let weight: Vec<f32> = input(weight, width).iter().map(|weight| weight.wide()).collect();
        let mut sums = vec![0.0; width];
        rms_norm::backward(input(x, len), &weight, eps, input(cotangent, len), output(grad_x, len), &mut sums);
        output(grad_weight, width).iter_mut().zip(sums).for_each(|(narrow, sum)| *narrow = Bf16::nearest(sum));
    }

    /// [`swiglu::forward`].
    fn mdt_swiglu(gate: *const f32, up: *const f32, len: usize, out: *mut f32) {
        swiglu::forward(input(gate, len), input(up, len), output(out, len));
    }

    /// [`swiglu::backward`].
    fn mdt_swiglu_backward(
        gate: *const f32, up: *const f32, cotangent: *const f32, len: usize, grad_gate: *mut f32, grad_up: *mut f32,
    ) {
        let (gate, up, cotangent) = (input(gate, len), input(up, len), input(cotangent, len));
        swiglu::backward(gate, up, cotangent, output(grad_gate, len), output(grad_up, len));
    }

    /// [`rms_norm::forward`].
    fn mdt_rms_norm(x: *const f32, weight: *const f32, eps: f32, rows: usize, width: usize, out: *mut f32) {
        rms_norm::forward(input(x, rows * width), input(weight, width), eps, output(out, rows * width));
    }

    /// [`rms_norm::backward`].
    fn mdt_rms_norm_backward(
        x: *const f32, weight: *const f32, eps: f32, cotangent: *const f32, rows: usize, width: usize,
        grad_x: *mut f32, grad_weight: *mut f32,
    ) {
        let len = rows * width;
        let (x, weight, cotangent) = (input(x, len), input(weight, width), input(cotangent, len));
        rms_norm::backward(x, weight, eps, cotangent, output(grad_x, len), output(grad_weight, width));
    }

    /// [`rope::tables`].
    fn mdt_rope_tables(
        positions: *const i32, rows: usize, inv_freq: *const f32, half: usize, factor: f32, cos: *mut f32, sin: *mut f32,
    ) {
        let (positions, inv_freq) = (input(positions, rows), input(inv_freq, half));
        rope::tables(positions, inv_freq, factor, output(cos, rows * half), output(sin, rows * half));
    }

    /// [`rope::rotate`].
    fn mdt_rope(x: *const RawView, cos: *const f32, sin: *const f32, half: usize, per_batch: bool, inverse: bool, out: *mut f32) {
        let x = (*x).get();
        let [batch, heads, positions, width] = x.shape();
        let rows = if per_batch { batch * positions } else { positions };
        let tables = rope::Tables { cos: input(cos, rows * half), sin: input(sin, rows * half), half, per_batch };
        rope::rotate(x, tables, inverse, output(out, batch * heads * positions * width));
    }

    /// [`rope::rotate`] of bfloat16.
    fn mdt_rope_bf16(
        x: *const RawView<Bf16>, cos: *const f32, sin: *const f32, half: usize, per_batch: bool, inverse: bool, out: *mut Bf16,
    ) {
        let x = (*x).get();
        let [batch, heads, positions, width] = x.shape();
        let rows = if per_batch { batch * positions } else { positions };
        let tables = rope::Tables { cos: input(cos, rows * half), sin: input(sin, rows * half), half, per_batch };
        rope::rotate(x, tables, inverse, output(out, batch * heads * positions * width));
    }

    /// [`attention::forward`].
    fn mdt_attention(inputs: *const RawAttention, out: *mut f32, lse: *mut f32) {
        let [batch, heads, queries, width] = (*inputs).query.shape;
        let lse = output(lse, attention::lse_len(batch, heads, queries));
        attention::forward((*inputs).get(), output(out, batch * heads * queries * width), lse);
    }

    /// [`attention::backward`].
    fn mdt_attention_backward(
        inputs: *const RawAttention, out: *const RawView, lse: *const f32, cotangent: *const RawView,
        grad_query: *mut f32, grad_key: *mut f32, grad_value: *mut f32,
    ) {
        let raw = &*inputs;
        let [batch, heads, queries, _] = raw.query.shape;
        let lse = input(lse, attention::lse_len(batch, heads, queries));
        let gradients = Gradients {
            query: output(grad_query, RawAttention::len(&raw.query)),
            key: output(grad_key, RawAttention::len(&raw.key)),
            value: output(grad_value, RawAttention::len(&raw.value)),
        };
        attention::backward(raw.get(), (*out).get(), lse, (*cotangent).get(), gradients);
    }

    /// [`functions::exponential`].
    fn mdt_exp(x: *const f32, len: usize, out: *mut f32) {
        functions::exponential(input(x, len), output(out, len));
    }

    /// [`functions::logistic`].
    fn mdt_sigmoid(x: *const f32, len: usize, out: *mut f32) {
        functions::logistic(input(x, len), output(out, len));
    }

    /// [`functions::silu`].
    fn mdt_silu(x: *const f32, len: usize, out: *mut f32) {
        functions::silu(input(x, len), output(out, len));
    }

    /// [`functions::erf`].
    fn mdt_erf(x: *const f32, len: usize, out: *mut f32) {
        functions::erf(input(x, len), output(out, len));
    }

    /// [`functions::softplus`].
    fn mdt_softplus(x: *const f32, len: usize, out: *mut f32) {
        functions::softplus(input(x, len), output(out, len));
    }

    /// [`sum::forward`].
    fn mdt_sum(x: *const f32, outer: usize, count: usize, inner: usize, out: *mut f32) {
        sum::forward(input(x, outer * count * inner), count, inner, output(out, outer * inner));
    }

    /// [`product::multiply`] of row-major matrices, as BLAS has it.
    fn mdt_product(
        transpose_a: bool, transpose_b: bool, m: usize, n: usize, k: usize, alpha: f32, a: *const f32, lda: usize,
        b: *const f32, ldb: usize, beta: f32, c: *mut f32, ldc: usize,
    ) {
        if m == 0 || n == 0 {
            return;
        }
        let operand = |data, outer: usize, stride: usize, k_is_outer: bool| {
            // From the first number to the last one, in rows of which there are as many as the outer axis is long.
            let (rows, width) = if k_is_outer { (k, outer) } else { (outer, k) };
            let len = if k == 0 { 0 } else { (rows - 1) * stride + width };
            let (across, along) = if k_is_outer { (1, stride) } else { (stride, 1) };
            product::Operand { elements: input(data, len), across, along }
        };
        let (left, right) = (operand(a, m, lda, transpose_a), operand(b, n, ldb, !transpose_b));
        product::multiply(left, right, k, alpha, beta, &product::Output::new(c, ldc, m, n));
    }

    /// [`few_rows::forward`].
    fn mdt_few_rows(x: *const f32, rows: usize, weight: *const f32, outputs: usize, width: usize, out: *mut f32) {
        few_rows::forward(input(x, rows * width), input(weight, outputs * width), width, output(out, rows * outputs));
    }

    /// [`half::widen_bf16`].
    fn mdt_widen_bf16(x: *const u16, len: usize, out: *mut f32) {
        half::widen_bf16(input(x, len), output(out, len));
    }

    /// [`half::narrow_bf16`].
    fn mdt_narrow_bf16(x: *const f32, len: usize, out: *mut u16) {
        half::narrow_bf16(input(x, len), output(out, len));
    }

    /// [`half::widen_f16`].
    fn mdt_widen_f16(x: *const f16, len: usize, out: *mut f32) {
        half::widen_f16(input(x, len), output(out, len));
    }

    /// [`half::narrow_f16`].
    fn mdt_narrow_f16(x: *const f32, len: usize, out: *mut f16) {
        half::narrow_f16(input(x, len), output(out, len));
    }

    /// [`quantized::dequantize`].
    fn mdt_dequantize(weight: *const RawQuantized, first: usize, count: usize, out: *mut f32) {
        quantized::dequantize(&(*weight).get(), first, output(out, count * (*weight).width));
    }

    /// [`quantized::multiply`].
    fn mdt_quantized_multiply(weight: *const RawQuantized, x: *const f32, count: usize, rounds: bool, out: *mut f32) {
        let RawQuantized { rows, width, .. } = *weight;
        quantized::multiply(&(*weight).get(), input(x, count * width), rows, rounds, output(out, count * rows));
    }

    /// [`half::round_bf16`].
    fn mdt_round_bf16(x: *const f32, len: usize, out: *mut f32) {
        half::round_bf16(input(x, len), output(out, len));
    }

    /// [`half::round_f16`].
    fn mdt_round_f16(x: *const f32, len: usize, out: *mut f32) {
        half::round_f16(input(x, len), output(out, len));
    }

    /// [`embedding::forward`].
    fn mdt_embedding(table: *const f32, ids: *const i32, count: usize, rows: usize, width: usize, out: *mut f32) {
        embedding::forward(input(table, rows * width), input(ids, count), width, output(out, count * width));
    }

    /// [`embedding::backward`].
    fn mdt_embedding_backward(
        ids: *const i32, count: usize, cotangent: *const f32, rows: usize, width: usize, grad: *mut f32, onto: bool,
    ) {
        embedding::backward(input(ids, count), input(cotangent, count * width), width, output(grad, rows * width), onto);
    }
}

/// [`attention::lse_len`].
#[unsafe(no_mangle)]
pub extern "C" fn mdt_attention_lse_len(batch: usize, heads: usize, queries: usize) -> usize {
    attention::lse_len(batch, heads, queries)
}
