//! Tensor operations as data: a kind, inputs, attributes. A new one never changes the ABI.

use std::fmt;

/// Which operation. Open: a number that a compute plugin does not know is an error that names it, and
/// [`crate::Compute::supports`] asks beforehand.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct OpKind(pub u32);

macro_rules! ops {
    ($($(#[$doc:meta])* $constant:ident = $number:literal, $name:literal;)*) => {
        impl OpKind {
            $($(#[$doc])* pub const $constant: Self = Self($number);)*

            /// Its name, for messages.
            pub fn name(self) -> &'static str {
                match self { $(Self::$constant => $name,)* _ => "unknown" }
            }

            /// Every operation that this version of the crate names.
            pub const ALL: &[Self] = &[$(Self::$constant,)*];
        }
    };
}

ops! {
    /// `a + b`, broadcast.
    ADD = 1, "add";
    /// `a - b`, broadcast.
    SUBTRACT = 2, "subtract";
    /// `a * b`, broadcast.
    MULTIPLY = 3, "multiply";
    /// `a / b`, broadcast.
    DIVIDE = 4, "divide";
    /// Elementwise maximum, broadcast.
    MAXIMUM = 5, "maximum";
    /// Elementwise minimum, broadcast.
    MINIMUM = 6, "minimum";
    /// `a` to the power `b`, broadcast.
    POWER = 7, "power";

    /// `-x`.
    NEGATIVE = 20, "negative";
    /// e to the `x`.
    EXP = 21, "exp";
    /// Natural logarithm.
    LOG = 22, "log";
    /// Square root.
    SQRT = 23, "sqrt";
    /// `1 / sqrt(x)`.
    RSQRT = 24, "rsqrt";
    /// `x * x`.
    SQUARE = 25, "square";
    /// `1 / (1 + exp(-x))`.
    SIGMOID = 26, "sigmoid";
    /// `x * sigmoid(x)`.
    SILU = 27, "silu";
    /// Hyperbolic tangent.
    TANH = 28, "tanh";
    /// Absolute value.
    ABS = 29, "abs";
    /// Gaussian error linear unit, `x · Φ(x)` (Hendrycks and Gimpel 2016); with `approximate` "tanh",
    /// `x/2 · (1 + tanh(√(2/π) · (x + 0.044715 x³)))`. The attribute is "none" when absent.
    GELU = 30, "gelu";

    /// Sum over `axes` (all when absent); `keep_dims`.
    SUM = 40, "sum";
    /// Mean over `axes`; `keep_dims`.
    MEAN = 41, "mean";
    /// Maximum over `axes`; `keep_dims`.
    MAX = 42, "max";
    /// Index of the maximum along `axis`, int32.
    ARGMAX = 43, "argmax";
    /// `log(sum(exp(x)))` over `axes`; `keep_dims`.
    LOG_SUM_EXP = 44, "log_sum_exp";
    /// Softmax along `axis`.
    SOFTMAX = 45, "softmax";
    /// Indices of the `count` largest elements along `axis`, int32: the largest one first, and of equal ones the one that comes
    /// first. `take_along_axis` gives the elements.
    TOP_K = 46, "top_k";

    /// Matrix product of the last two axes, the others broadcast.
    MATMUL = 60, "matmul";
    /// `x · wᵀ (+ bias)`: x `[.., in]`, w `[out, in]`, bias `[out]` optional.
    LINEAR = 61, "linear";
    /// Products with a matrix for each row: x `[N, 1 or K, in]`, w `[E, out, in]`, indices `[N, K]` int32; row (n, k) of the
    /// result `[N, K, out]` is `w[indices[n, k]] · x[n, k]`, of x's only row n where that has one. An index outside 0..E, a
    /// negative one too, is an error when the result is evaluated. No gradient flows to the indices.
    GATHER_LINEAR = 62, "gather_linear";

    /// Same elements, `shape`; one entry may be -1.
    RESHAPE = 80, "reshape";
    /// Axes in the order `axes`.
    TRANSPOSE = 81, "transpose";
    /// All inputs one after another along `axis`.
    CONCATENATE = 82, "concatenate";
    /// `start` (inclusive) to `stop` (exclusive) for every axis.
    SLICE = 83, "slice";
    /// Rows of `x` at integer `indices` along `axis`; -1 is the last row. An index outside the axis is an error when the
    /// result is evaluated, which names it.
    TAKE = 84, "take";
    /// Elements of `x` at `indices` (same rank) along `axis`, counted as those of `take`.
    TAKE_ALONG_AXIS = 85, "take_along_axis";
    /// Repeats axes of length 1 to `shape`.
    BROADCAST_TO = 86, "broadcast_to";
    /// To element type `dtype`.
    CAST = 87, "cast";
    /// `a` where `condition`, else `b`.
    WHERE = 88, "where";
    /// `x` with `update` in the place of its elements from `start`, an entry for every axis. Where nothing else needs `x`,
    /// its memory becomes the result's.
    SLICE_UPDATE = 89, "slice_update";

    /// `a == b`, boolean.
    EQUAL = 100, "equal";
    /// `a > b`, boolean.
    GREATER = 101, "greater";
    /// `a < b`, boolean.
    LESS = 102, "less";

    /// A constant: `value`, `shape`, `dtype`; no inputs.
    FULL = 120, "full";
    /// 0, 1, … `count` - 1 as `dtype`; no inputs.
    ARANGE = 121, "arange";
    /// Numbers from [0, 1), of `shape` and `dtype`; no inputs. They are a function of the integer `key` alone, see
    /// [`crate::ModelContext::key`].
    RANDOM_UNIFORM = 122, "random_uniform";

    /// Root mean square norm over the last axis: x `[.., D]`, weight `[D]`; `eps`.
    RMS_NORM = 140, "rms_norm";
    /// Rotary positions, rotating the two halves of the last axis against each other (the Hugging Face layout):
    /// x `[B, H, T, D]`, inverse frequencies `[D/2]`, optional positions `[B, T]` int32; `offset` is added to the
    /// positions 0..T and goes with none that are given, `scale` multiplies the result (1 when absent).
    ROPE = 141, "rope";
    /// Scaled dot-product attention: q `[B, H, T, D]`, k and v `[B, H_kv, S, D]` with `H_kv` dividing `H`, optional segments
    /// `[B, S]` int32; result `[B, H, T, D]`. `scale`. Query t stands at place `S - T + t`: with `causal` it sees keys up to
    /// its place, with `window` the last so many of these, with segments those of its own segment. With `soft_cap` c, scores
    /// become `c · tanh(score / c)`. With `dropout` p, which goes with a `key`, that part of the weights is set to 0 and the
    /// others are divided by 1 - p.
    ATTENTION = 142, "attention";
    /// `silu(gate) * up`.
    SWIGLU = 143, "swiglu";
    /// Per-row cross-entropy: logits `[N, V]`, targets `[N]` int32; result `[N]` in f32, in nats. A negative target
    /// costs nothing, one beyond the vocabulary gives NaN.
    CROSS_ENTROPY = 144, "cross_entropy";
    /// Rows of a table: weight `[V, D]`, ids of any shape int32; result `[.., D]`. An id outside the table, a negative one
    /// too, is an error when the result is evaluated.
    EMBEDDING = 145, "embedding";
    /// Layer norm over the last axis (Ba et al. 2016): x `[.., D]`, weight `[D]`, optional bias `[D]`; `eps`.
    LAYER_NORM = 146, "layer_norm";
}

impl fmt::Debug for OpKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}({})", self.name(), self.0)
    }
}

/// A named attribute of an operation. An operation refuses attributes that it does not know.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Attribute<'a> {
    /// Its name, as the operation's documentation gives it.
    pub name: &'a str,
    /// Its value.
    pub value: Value<'a>,
}

/// The value of an attribute.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Value<'a> {
    /// A truth value.
    Bool(bool),
    /// An integer: an axis (negative counts from the end), an offset, a count.
    Int(i64),
    /// A real number; an operation that needs one does not accept [`Value::Int`].
    Float(f64),
    /// A list of integers: a shape, axes.
    Ints(&'a [i64]),
    /// An element type.
    Dtype(crate::Dtype),
    /// A text: one of the names that the operation's documentation lists.
    Text(&'a str),
    /// A list of real numbers.
    Floats(&'a [f64]),
}

/// Builds an attribute: `attribute("axis", Value::Int(-1))`.
pub fn attribute<'a>(name: &'a str, value: Value<'a>) -> Attribute<'a> {
    Attribute { name, value }
}
