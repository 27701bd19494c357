//! The table of operations: numbers, names, documentation, inputs, attributes, types, all in one place.
//!
//! Beyond the rows, this holds everywhere:
//!
//! - Shapes broadcast as in NumPy: aligned at the right, an axis of length 1 repeats.
//! - Inputs of different element types are converted to one, [`super::promoted`], where a row says "promoted". "Real" results
//!   are of the input's floating-point type, or float32 for integers and bool, see [`super::real`].
//! - float16 and bfloat16: inputs are widened to float32, everything is computed in float32 — sums too, also those inside of
//!   compositions and products — and the result is rounded once, to nearest, ties to even. Overflow gives ±Inf.
//! - Integers wrap around on overflow.
//! - NaN goes into every result that depends on it, unless a row says otherwise. Which NaN is not defined.
//! - Numbers of float32 and bfloat16 that are smaller than 2^-126 may be taken for 0, as inputs and as results, but by what moves
//!   elements.
//! - −0 equals 0. The sign of a zero result is defined for `negative`, `abs`, `multiply`, `divide`, `cast` and what moves
//!   elements, only.
//! - Axes count from 0, negative ones from the end; one outside is an error. The same axis twice is an error.
//! - An empty tensor (an axis of length 0) is a tensor like others: sums of nothing are 0, `max`, `min`, `argmax` of nothing are
//!   an error.
//! - A gradient has its tensor's shape and type: where an input was broadcast, it is summed; where it was converted, converted
//!   back. Through integers and bool flows none; where a row names no gradient, or an input does not matter, it is 0.
//!
//! Inputs in a row are named in their order; those in brackets are optional.

use super::definition::{AttributeSpec, Definition, Types, ValueKind};
use super::{OpKind, infer};

const fn required(name: &'static str, kind: ValueKind) -> AttributeSpec {
    AttributeSpec { name, kind, is_required: true }
}

const fn optional(name: &'static str, kind: ValueKind) -> AttributeSpec {
    AttributeSpec { name, kind, is_required: false }
}

const NONE: &[AttributeSpec] = &[];
const AXIS: &[AttributeSpec] = &[required("axis", ValueKind::Int)];
const EPS: &[AttributeSpec] = &[required("eps", ValueKind::Float)];
const SHAPE: &[AttributeSpec] = &[required("shape", ValueKind::Ints)];
const OPERAND: &[AttributeSpec] = &[optional("left", ValueKind::Float), optional("right", ValueKind::Float)];
const REDUCTION: &[AttributeSpec] = &[optional("axes", ValueKind::Ints), optional("keep_dims", ValueKind::Bool)];
const RANDOM: &[AttributeSpec] =
    &[required("key", ValueKind::Int), required("shape", ValueKind::Ints), required("dtype", ValueKind::Dtype)];
const OPERANDS: &[AttributeSpec] = &[optional("operands", ValueKind::Dtype)];
const QUANTIZATION: &[AttributeSpec] = &[required("group_size", ValueKind::Int), required("bits", ValueKind::Int)];
const QUANTIZED_PRODUCT: &[AttributeSpec] =
    &[required("group_size", ValueKind::Int), required("bits", ValueKind::Int), optional("operands", ValueKind::Dtype)];

/// Number of inputs for `concatenate`.
const MANY: usize = usize::MAX;

/// Declares operations: `NAME = number, "name", primitive or composed, inputs, differentiable inputs, types, attributes, function
/// that infers the result`.
macro_rules! operations {
    ($(
        $(#[doc = $doc:literal])*
        $constant:ident = $number:literal, $name:literal, $kind:ident, $least:literal..=$most:expr, $differentiable:literal,
        $types:ident, $attributes:expr, $infer:ident $(-> $results:literal)?;
    )*) => {
        impl OpKind {
            $($(#[doc = $doc])* pub const $constant: Self = Self($number);)*
        }

        /// In the order of their numbers, which look-ups rely on.
        pub const DEFINITIONS: &[Definition] = &[$(
            Definition {
                op: OpKind::$constant,
                name: $name,
                documentation: &[$($doc),*],
                is_primitive: operations!(@primitive $kind),
                least_inputs: $least,
                most_inputs: $most,
                differentiable: $differentiable,
                types: Types::$types,
                attributes: $attributes,
                results: { let results = 1; $(let _ = results; let results = $results;)? results },
                infer: infer::$infer,
            },
        )*];
    };
    (@primitive primitive) => { true };
    (@primitive composed) => { false };
}

operations! {
    /// `a + b`, broadcast, promoted. As with the other operations that have the attributes `left` and `right`, a single input
    /// goes with one of them: a number in the place of the left or the right operand, rounded to the input's type. For an
    /// integer input it is a whole number that the type holds.
    ADD = 1, "add", primitive, 1..=2, 0b11, Numbers, OPERAND, arithmetic;
    /// `a - b`, broadcast, promoted; `left`, `right` as in `add`.
    SUBTRACT = 2, "subtract", primitive, 1..=2, 0b11, Numbers, OPERAND, arithmetic;
    /// `a * b`, broadcast, promoted; `left`, `right` as in `add`.
    MULTIPLY = 3, "multiply", primitive, 1..=2, 0b11, Numbers, OPERAND, arithmetic;
    /// `a / b`, broadcast, promoted, real: 7 / 2 is 3.5 for integers too. `left`, `right` as in `add`.
    DIVIDE = 4, "divide", primitive, 1..=2, 0b11, Numbers, OPERAND, real_arithmetic;
    /// The larger one of `a` and `b`, broadcast, promoted; NaN if one of them is. The gradient is a's where `a > b`, else b's.
    /// `left`, `right` as in `add`.
    MAXIMUM = 5, "maximum", primitive, 1..=2, 0b11, Numbers, OPERAND, arithmetic;
    /// The smaller one of `a` and `b`, broadcast, promoted; NaN if one of them is. The gradient is a's where `a < b`, else b's.
    /// `left`, `right` as in `add`.
    MINIMUM = 6, "minimum", primitive, 1..=2, 0b11, Numbers, OPERAND, arithmetic;
    /// `a` to the power `b`, broadcast, promoted, real. As in C's `pow`: anything to the power 0 is 1, a negative number to a power
    /// that is not whole is NaN. The gradient by `a` is `b · a^(b-1)`, 0 where b is 0; by `b` it is `a^b · log(a)`, 0 where a is
    /// 0. `left`, `right` as in `add`.
    POWER = 7, "power", primitive, 1..=2, 0b11, Numbers, OPERAND, real_arithmetic;
    /// The largest whole number not above `a / b`, broadcast, promoted. An integer divided by 0 is 0. The gradient is 0. `left`,
    /// `right` as in `add`.
    FLOOR_DIVIDE = 8, "floor_divide", primitive, 1..=2, 0b00, Numbers, OPERAND, arithmetic;
    /// `a - b · floor_divide(a, b)`, so that it has the sign of b, broadcast, promoted; for integers and b = 0 it is 0. The
    /// gradient by `a` is 1, by `b` it is `-floor_divide(a, b)`. By an infinite b it is not
    /// defined. `left`, `right` as in `add`.
    REMAINDER = 9, "remainder", primitive, 1..=2, 0b11, Numbers, OPERAND, arithmetic;

    /// `-x`. Unsigned integers wrap around.
    NEGATIVE = 20, "negative", primitive, 1..=1, 0b1, Numbers, NONE, same;
    /// e to the `x`; real.
    EXP = 21, "exp", primitive, 1..=1, 0b1, Numbers, NONE, real_same;
    /// Natural logarithm; real. −Inf at 0, NaN below.
    LOG = 22, "log", primitive, 1..=1, 0b1, Numbers, NONE, real_same;
    /// Square root; real. NaN below 0; at 0 the gradient is Inf.
    SQRT = 23, "sqrt", primitive, 1..=1, 0b1, Numbers, NONE, real_same;
    /// `1 / sqrt(x)`; real.
    RSQRT = 24, "rsqrt", composed, 1..=1, 0b1, Numbers, NONE, real_same;
    /// `x * x`.
    SQUARE = 25, "square", composed, 1..=1, 0b1, Numbers, NONE, same;
    /// `1 / (1 + exp(-x))`, without overflow; real.
    SIGMOID = 26, "sigmoid", composed, 1..=1, 0b1, Numbers, NONE, real_same;
    /// `x * sigmoid(x)`; real.
    SILU = 27, "silu", composed, 1..=1, 0b1, Numbers, NONE, real_same;
    /// Hyperbolic tangent; real.
    TANH = 28, "tanh", primitive, 1..=1, 0b1, Numbers, NONE, real_same;
    /// Absolute value; at 0 the gradient is 0.
    ABS = 29, "abs", primitive, 1..=1, 0b1, Numbers, NONE, same;
    /// Gaussian error linear unit, `x · Φ(x)` (Hendrycks and Gimpel 2016); with `approximate` "tanh",
    /// `x/2 · (1 + tanh(√(2/π) · (x + 0.044715 x³)))`. The attribute is "none" when absent.
    GELU = 30, "gelu", composed, 1..=1, 0b1, Floats, &[optional("approximate", ValueKind::Text)], gelu;
    /// Sine of `x` in radians; real.
    SIN = 31, "sin", primitive, 1..=1, 0b1, Numbers, NONE, real_same;
    /// Cosine of `x` in radians; real.
    COS = 32, "cos", primitive, 1..=1, 0b1, Numbers, NONE, real_same;
    /// The error function, `2/√π · ∫₀ˣ exp(-t²) dt`; real.
    ERF = 33, "erf", primitive, 1..=1, 0b1, Numbers, NONE, real_same;
    /// `log(1 + x)`, exact near 0; real. −Inf at -1, NaN below.
    LOG1P = 34, "log1p", primitive, 1..=1, 0b1, Numbers, NONE, real_same;
    /// `log(1 + exp(x))`, without overflow; real. The gradient is `sigmoid(x)`.
    SOFTPLUS = 35, "softplus", composed, 1..=1, 0b1, Numbers, NONE, real_same;
    /// The largest whole number not above `x`; integers are themselves. The gradient is 0.
    FLOOR = 36, "floor", primitive, 1..=1, 0b0, Numbers, NONE, same;
    /// The nearest whole number, the even one of two; integers are themselves. The gradient is 0.
    ROUND = 37, "round", primitive, 1..=1, 0b0, Numbers, NONE, same;
    /// -1, 0 or 1; 0 for −0, NaN for NaN. The gradient is 0.
    SIGN = 38, "sign", composed, 1..=1, 0b0, Numbers, NONE, same;

    /// Sum over `axes` (all when absent, none when empty), which are gone then, or have length 1 with `keep_dims`. Integers and
    /// bool are added as integers: those of less than 32 bits as int32 or uint32, bool as int32, the others in their type.
    SUM = 40, "sum", primitive, 1..=1, 0b1, Any, REDUCTION, sum;
    /// Mean over `axes`; `keep_dims`; real. NaN of nothing.
    MEAN = 41, "mean", composed, 1..=1, 0b1, Any, REDUCTION, real_reduction;
    /// Maximum over `axes`; `keep_dims`. NaN if one element is. The gradient goes to all elements that equal the maximum, in
    /// equal parts.
    MAX = 42, "max", primitive, 1..=1, 0b1, Numbers, REDUCTION, extremum;
    /// Index of the maximum along `axis`, which is gone then, int32: of equal ones the first. The first NaN, where there is one.
    ARGMAX = 43, "argmax", composed, 1..=1, 0b0, Numbers, AXIS, argmax;
    /// `log(sum(exp(x)))` over `axes`, without overflow; `keep_dims`; real. −Inf where all elements are, and of nothing.
    LOG_SUM_EXP = 44, "log_sum_exp", composed, 1..=1, 0b1, Numbers, REDUCTION, real_reduction;
    /// Softmax along `axis`, without overflow; real.
    SOFTMAX = 45, "softmax", composed, 1..=1, 0b1, Numbers, AXIS, real_along_axis;
    /// Indices of the `count` largest elements along `axis`, int32: the largest one first, and of equal ones the one that comes
    /// first. NaN is larger than all numbers. `take_along_axis` gives the elements.
    TOP_K = 46, "top_k", composed, 1..=1, 0b0, Numbers, &[required("axis", ValueKind::Int), required("count", ValueKind::Int)],
        top_k;
    /// Minimum over `axes`; `keep_dims`. NaN and gradient as in `max`.
    MIN = 47, "min", primitive, 1..=1, 0b1, Numbers, REDUCTION, extremum;
    /// The order of the elements along `axis`, int32, smallest first, or largest first with `descending`; equal ones stay in
    /// their order. NaN is larger than all numbers.
    ARGSORT = 48, "argsort", primitive, 1..=1, 0b0, Numbers,
        &[required("axis", ValueKind::Int), optional("descending", ValueKind::Bool)], argsort;
    /// The elements along `axis` in the order of `argsort`.
    SORT = 49, "sort", composed, 1..=1, 0b1, Numbers,
        &[required("axis", ValueKind::Int), optional("descending", ValueKind::Bool)], along_axis;
    /// Sums of the elements along `axis` up to each one, from the end with `reverse`, without the one itself with `exclusive`.
    /// Types as in `sum`.
    CUMULATIVE_SUM = 50, "cumulative_sum", primitive, 1..=1, 0b1, Any,
        &[required("axis", ValueKind::Int), optional("reverse", ValueKind::Bool), optional("exclusive", ValueKind::Bool)],
        cumulative_sum;
    /// Logarithm of `softmax` along `axis`; real.
    LOG_SOFTMAX = 51, "log_softmax", composed, 1..=1, 0b1, Numbers, AXIS, real_along_axis;

    /// Matrix product of the last two axes, the others broadcast; real, promoted. Both inputs have two axes at least.
    ///
    /// With `operands`, float16 or bfloat16, inputs are of floating-point types: they are rounded to this type before they are
    /// multiplied, sums are float32 as always, and the result is of the first input's type. The gradient of an input is the product
    /// of the cotangent and the other one, rounded: it has its input's type, and the cotangent may be rounded as well.
    MATMUL = 60, "matmul", primitive, 2..=2, 0b11, Numbers, OPERANDS, matmul;
    /// `x · wᵀ (+ bias)`: x `[.., in]`, w `[out, in]`, \[bias `[out]`\]; promoted. `operands` as in `matmul`, of x and w.
    LINEAR = 61, "linear", composed, 2..=3, 0b111, Floats, OPERANDS, linear;
    /// Products with a matrix for each row: x `[N, 1 or K, in]`, w `[E, out, in]`, indices `[N, K]` int32; row (n, k) of the
    /// result `[N, K, out]` is `w[indices[n, k]] · x[n, k]`, of x's only row n where that has one. An index outside 0..E, a
    /// negative one too, is an error when the result is evaluated. `operands` as in `matmul`, of x and w.
    GATHER_LINEAR = 62, "gather_linear", composed, 3..=3, 0b011, Floats, OPERANDS, gather_linear;
    /// `linear` with quantised weights: x `[.., in]`, packed weights, scales and biases as `quantize` gives them of w `[out, in]`,
    /// \[bias `[out]`\]; `x · dequantize(w)ᵀ (+ bias)`. The gradient flows to x and the last bias. `operands` as in `matmul`, of
    /// x and the weights that are not packed.
    QUANTIZED_LINEAR = 63, "quantized_linear", composed, 4..=5, 0b10001, Floats, QUANTIZED_PRODUCT, quantized_linear;
    /// Head and loss of a language model, without all logits at a time: hidden states `[N, D]`, weight `[V, D]`, targets `[N]`
    /// int32, \[bias `[V]`\]; `cross_entropy` of `scale · (hidden · weightᵀ + bias)`, or of `soft_cap · tanh(that / soft_cap)`,
    /// `[N]` in float32. Computed by `rows` rows at a time, and again for gradients; by default at most 16 Mi logits, or one row of
    /// them, are there at a time. `operands` as in `matmul`, of hidden states and weight.
    TOKEN_LOSSES = 64, "token_losses", composed, 3..=4, 0b1011, Floats,
        &[optional("scale", ValueKind::Float), optional("soft_cap", ValueKind::Float), optional("rows", ValueKind::Int),
          optional("operands", ValueKind::Dtype)],
        token_losses;

    /// Same elements in row-major order, `shape`; one entry may be -1.
    RESHAPE = 80, "reshape", primitive, 1..=1, 0b1, Any, SHAPE, reshape;
    /// Axes in the order `axes`.
    TRANSPOSE = 81, "transpose", primitive, 1..=1, 0b1, Any, &[required("axes", ValueKind::Ints)], transpose;
    /// All inputs one after another along `axis`; promoted.
    CONCATENATE = 82, "concatenate", primitive, 1..=MANY, 0b1111_1111, Any, AXIS, concatenate;
    /// `start` (inclusive) to `stop` (exclusive) for every axis, with 0 ≤ start ≤ stop ≤ length.
    SLICE = 83, "slice", primitive, 1..=1, 0b1, Any, &[required("start", ValueKind::Ints), required("stop", ValueKind::Ints)],
        slice;
    /// Rows of `x` at integer `indices` of any shape, which takes the place of `axis`; -1 is the last row. An index outside the
    /// axis is an error when the result is evaluated, which names it.
    TAKE = 84, "take", primitive, 2..=2, 0b01, Any, AXIS, take;
    /// Elements of `x` at `indices` along `axis`, counted as those of `take`; the other axes are of equal length.
    TAKE_ALONG_AXIS = 85, "take_along_axis", primitive, 2..=2, 0b01, Any, AXIS, take_along_axis;
    /// Repeats axes of length 1 to `shape`, aligned at the right.
    BROADCAST_TO = 86, "broadcast_to", primitive, 1..=1, 0b1, Any, SHAPE, broadcast_to;
    /// To element type `dtype`: to a floating-point type the nearest value; to an integer towards 0, of a value that it cannot
    /// hold the nearest one that it can, of NaN 0, and of an integer its lowest bits; to bool whether it is not 0.
    CAST = 87, "cast", primitive, 1..=1, 0b1, Any, &[required("dtype", ValueKind::Dtype)], cast;
    /// `a` where `condition` (bool) holds, else `b`; all three broadcast, a and b promoted. A NaN that is not chosen does not
    /// matter, nor does its gradient: that is exactly 0.
    WHERE = 88, "where", primitive, 3..=3, 0b110, Any, NONE, select;
    /// `x` with `update`, of its type, in the place of its elements from `start`, an entry for every axis. Where nothing else
    /// needs `x`, its memory becomes the result's.
    SLICE_UPDATE = 89, "slice_update", primitive, 2..=2, 0b11, Any, &[required("start", ValueKind::Ints)], slice_update;
    /// `x` with `updates`, of its type, added to its elements at integer `indices` along `axis`, counted as those of `take`. Indices
    /// and updates are of one shape, whose other axes are x's. Updates of one element are added in the order in which they
    /// stand.
    SCATTER_ADD = 90, "scatter_add", primitive, 3..=3, 0b101, Numbers, AXIS, scatter;
    /// The same, but each update takes the element's place; of several for one element, the last one. The gradient of an element
    /// that was replaced, and of an update that was, is 0.
    SCATTER = 91, "scatter", primitive, 3..=3, 0b101, Any, AXIS, scatter;
    /// `x`, through which no gradient flows.
    STOP_GRADIENT = 92, "stop_gradient", primitive, 1..=1, 0b0, Any, NONE, same;
    /// Affine quantisation of w `[.., in]` in groups of `group_size` (32, 64, 128) along the last axis to `bits` (2, 3, 4, 5, 6, 8)
    /// each, as MLX has it. Three results: words `[.., in · bits / 32]` uint32, in which the numbers of a row stand one after
    /// another from the lowest bit of the first word on; scales and biases `[.., in / group_size]` of w's type. Of a group with
    /// least element a and largest element b, n = 2^bits - 1: scale s = max((b - a) / n, 1e-7) and edge e = a if |a| > |b|, else
    /// -s and e = b; if q = round(e / s) is not 0, s becomes e / q and the bias is e, else the bias is 0. A number is
    /// `round((w - bias) / s)`, at least 0 and at most n.
    QUANTIZE = 94, "quantize", composed, 1..=1, 0b0, Floats, QUANTIZATION, quantize -> 3;
    /// Numbers that `quantize` packed, times their scale plus their bias: words `[.., in · bits / 32]`, scales and biases
    /// `[.., in / group_size]`; result `[.., in]` of the scales' type.
    DEQUANTIZE = 95, "dequantize", composed, 3..=3, 0b110, Words, QUANTIZATION, dequantize;

    /// `a == b`, broadcast, promoted; boolean. `left`, `right` as in `add`. NaN equals nothing.
    EQUAL = 100, "equal", primitive, 1..=2, 0b00, Any, OPERAND, comparison;
    /// `a > b`, broadcast, promoted; boolean. `left`, `right` as in `add`.
    GREATER = 101, "greater", primitive, 1..=2, 0b00, Any, OPERAND, comparison;
    /// `a < b`, broadcast, promoted; boolean. `left`, `right` as in `add`.
    LESS = 102, "less", primitive, 1..=2, 0b00, Any, OPERAND, comparison;
    /// `a != b`, broadcast, promoted; boolean. `left`, `right` as in `add`. NaN differs from everything.
    NOT_EQUAL = 103, "not_equal", composed, 1..=2, 0b00, Any, OPERAND, comparison;
    /// `a >= b`, broadcast, promoted; boolean. `left`, `right` as in `add`.
    GREATER_EQUAL = 104, "greater_equal", composed, 1..=2, 0b00, Any, OPERAND, comparison;
    /// `a <= b`, broadcast, promoted; boolean. `left`, `right` as in `add`.
    LESS_EQUAL = 105, "less_equal", composed, 1..=2, 0b00, Any, OPERAND, comparison;
    /// Whether both are not 0, broadcast; boolean.
    LOGICAL_AND = 106, "logical_and", primitive, 2..=2, 0b00, Any, NONE, logical;
    /// Whether one of them is not 0, broadcast; boolean.
    LOGICAL_OR = 107, "logical_or", composed, 2..=2, 0b00, Any, NONE, logical;
    /// Whether it is 0; boolean.
    LOGICAL_NOT = 108, "logical_not", primitive, 1..=1, 0b0, Any, NONE, logical_not;

    /// A constant: `value` (for an integer type a whole number that it holds), `shape`, `dtype`.
    FULL = 120, "full", primitive, 0..=0, 0b0, Any,
        &[required("value", ValueKind::Float), required("shape", ValueKind::Ints), required("dtype", ValueKind::Dtype)], full;
    /// 0, 1, … `count` - 1 as `dtype`.
    ARANGE = 121, "arange", primitive, 0..=0, 0b0, Numbers,
        &[required("count", ValueKind::Int), required("dtype", ValueKind::Dtype)], arange;
    /// Numbers from [0, 1), of `shape` and `dtype`, a function of the integer `key` and their place alone: Threefry-2x32 with 20
    /// rounds (Salmon et al. 2011) of the key's upper and lower 32 bits. Of n numbers, with h = n / 2 rounded up, the counter
    /// (i, h + i) gives the bits of those at i and h + i; where n is odd, the last counter is (h - 1, 0). Bits become
    /// `min(float32(bits) / 2^32, 1 - 2^-24)`, and are then cast to `dtype`. See [`crate::ModelContext::key`].
    RANDOM_UNIFORM = 122, "random_uniform", primitive, 0..=0, 0b0, Floats, RANDOM, random;
    /// Numbers from the normal distribution with mean 0 and deviation 1 (Box and Muller 1958): of u =
    /// `random_uniform(key, [2, n])`, `√(-2 · log(1 - u[0])) · cos(2π · u[1])`.
    RANDOM_NORMAL = 123, "random_normal", composed, 0..=0, 0b0, Floats, RANDOM, random;
    /// An index for each row of logits `[.., V]`, int32 `[..]`, with probabilities `softmax(logits)` (Gumbel 1954): `argmax` of
    /// `logits - log(-log(u))` with u = `random_uniform(key, shape of the logits)`, at least 2^-32. −Inf is never chosen.
    RANDOM_CATEGORICAL = 124, "random_categorical", composed, 1..=1, 0b0, Floats, &[required("key", ValueKind::Int)],
        random_categorical;

    /// Root mean square norm over the last axis (Zhang and Sennrich 2019): x `[.., D]`, weight `[D]`;
    /// `x / √(mean(x²) + eps) · weight`; promoted.
    RMS_NORM = 140, "rms_norm", composed, 2..=2, 0b11, Floats, EPS, norm;
    /// Rotary positions (Su et al. 2021), rotating the two halves of the last axis against each other (the Hugging Face layout):
    /// x `[B, H, T, D]`, inverse frequencies `[D/2]` float32, \[positions `[B, T]` int32\]; `offset` is added to the positions
    /// 0..T and goes with none that are given, `scale` multiplies the result (1 when absent). Angles are positions times
    /// frequencies, rounded to float32.
    ROPE = 141, "rope", composed, 2..=3, 0b001, Floats, &[optional("offset", ValueKind::Int), optional("scale", ValueKind::Float)],
        rope;
    /// Scaled dot-product attention: q `[B, H, T, D]`, k and v `[B, H_kv, S, D]` with `H_kv` dividing `H`, \[segments `[B, S]`
    /// int32\], \[mask `[B or 1, H or 1, T or 1, S]`, added to the scores\], \[sinks `[H]`, a score for each head that takes part in
    /// the softmax and has no value\]; result `[B, H, T, D]`. Scores are `scale · q · k`, with `soft_cap` c
    /// `c · tanh(scale · q · k / c)`. Query t stands at place `S - T + t`: with `causal` it sees keys up to its place, with
    /// `window` the last so many of these (`window` implies `causal`), with segments those of its own segment; what it does not
    /// see changes no bit of the result. With any of the three T is at most S, and a key that is not finite gives NaN to all that
    /// see it, such a value in its feature. With `dropout` p, which goes with a `key`, weights are kept where `random_uniform(key, [B, H, T, S]) < 1 - p` and
    /// divided by 1 - p, and are 0 elsewhere.
    ATTENTION = 142, "attention", composed, 3..=6, 0b110111, Floats,
        &[required("scale", ValueKind::Float), optional("causal", ValueKind::Bool), optional("window", ValueKind::Int),
          optional("soft_cap", ValueKind::Float), optional("dropout", ValueKind::Float), optional("key", ValueKind::Int)],
        attention;
    /// `silu(gate) * up`; promoted, both of one shape.
    SWIGLU = 143, "swiglu", composed, 2..=2, 0b11, Floats, NONE, swiglu;
    /// Per-row cross-entropy: logits `[N, V]`, targets `[N]` int32; result `[N]` in float32, in nats. A negative target costs
    /// nothing, one beyond the vocabulary gives NaN.
    CROSS_ENTROPY = 144, "cross_entropy", composed, 2..=2, 0b01, Floats, NONE, cross_entropy;
    /// Rows of a table: weight `[V, D]`, ids of any shape int32; result `[.., D]`. An id outside the table, a negative one
    /// too, is an error when the result is evaluated.
    EMBEDDING = 145, "embedding", composed, 2..=2, 0b01, Any, NONE, embedding;
    /// Layer norm over the last axis (Ba et al. 2016): x `[.., D]`, weight `[D]`, \[bias `[D]`\];
    /// `(x - mean) / √(variance + eps) · weight + bias`; promoted.
    LAYER_NORM = 146, "layer_norm", composed, 2..=3, 0b111, Floats, EPS, norm;
    /// `x · (1 / (1 - rate))` where `random_uniform(key, shape of x) < 1 - rate`, else 0 (Srivastava et al. 2014).
    DROPOUT = 147, "dropout", composed, 1..=1, 0b1, Floats, &[required("rate", ValueKind::Float), required("key", ValueKind::Int)],
        dropout;
}
