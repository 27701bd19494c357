//! The operations of `Tensor`, so that a plugin's code reads like array code.
//!
//! `OPERATIONS.md` beside this crate says of each exactly what it computes. Where a method takes an [`Operand`], that is a tensor,
//! which is broadcast, or a number: `x.maximum(0.0)`, `x.less(&y)`.

use std::ops;
use std::rc::Rc;

use super::Tensor;
use crate::op::attribute;
use crate::{Compute, Dtype, OpKind, Result, Value};

/// What can stand at the right of an operation: a tensor, or a number of the left one's element type.
pub trait Operand {
    /// The operation, with this at the right.
    ///
    /// # Errors
    /// Shapes or types that do not fit; for a tensor of integers, a number that its type does not hold.
    fn right_of(self, left: &Tensor, op: OpKind) -> Result<Tensor>;
}

impl Operand for &Tensor {
    fn right_of(self, left: &Tensor, op: OpKind) -> Result<Tensor> {
        Tensor::op(op, &[left, self], &[])
    }
}

impl Operand for f64 {
    fn right_of(self, left: &Tensor, op: OpKind) -> Result<Tensor> {
        Tensor::op(op, &[left], &[attribute("right", Value::Float(self))])
    }
}

macro_rules! unary {
    ($($(#[$doc:meta])* $method:ident => $op:ident;)*) => {
        /// Functions of each element. "Real" results are of the tensor's own floating-point type, float32 for integers.
        impl Tensor {
            $($(#[$doc])* pub fn $method(&self) -> Result<Tensor> {
                Self::op(OpKind::$op, &[self], &[])
            })*
        }
    };
}
unary! {
    /// `-x`.
    negative => NEGATIVE;
    /// Absolute value.
    abs => ABS;
    /// `x * x`.
    square => SQUARE;
    /// e to the x; real.
    exp => EXP;
    /// Natural logarithm; real. −Inf at 0, NaN below.
    log => LOG;
    /// `log(1 + x)`, exact near 0; real.
    log1p => LOG1P;
    /// Square root; real. NaN below 0.
    sqrt => SQRT;
    /// `1 / sqrt(x)`; real.
    rsqrt => RSQRT;
    /// Sine of radians; real.
    sin => SIN;
    /// Cosine of radians; real.
    cos => COS;
    /// Hyperbolic tangent; real.
    tanh => TANH;
    /// The error function; real.
    erf => ERF;
    /// `1 / (1 + exp(-x))`; real.
    sigmoid => SIGMOID;
    /// `log(1 + exp(x))`; real.
    softplus => SOFTPLUS;
    /// `x * sigmoid(x)`; real.
    silu => SILU;
    /// Gaussian error linear unit, exact. For floating-point types.
    gelu => GELU;
    /// The largest whole number not above x, of x's type.
    floor => FLOOR;
    /// The nearest whole number, the even one of two, of x's type.
    round => ROUND;
    /// -1, 0 or 1, of x's type.
    sign => SIGN;
    /// Whether it is 0; bool.
    logical_not => LOGICAL_NOT;
    /// The same elements, through which no gradient flows.
    stop_gradient => STOP_GRADIENT;
}

macro_rules! binary {
    ($($(#[$doc:meta])* $method:ident => $op:ident;)*) => {
        /// Functions of two elements, broadcast.
        impl Tensor {
            $($(#[$doc])* pub fn $method(&self, right: impl Operand) -> Result<Tensor> {
                right.right_of(self, OpKind::$op)
            })*
        }
    };
}
binary! {
    /// The larger one.
    maximum => MAXIMUM;
    /// The smaller one.
    minimum => MINIMUM;
    /// To a power; real.
    power => POWER;
    /// The largest whole number not above the quotient; an integer divided by 0 is 0.
    floor_divide => FLOOR_DIVIDE;
    /// What is left then, with the sign of the divisor.
    remainder => REMAINDER;
    /// Whether they are equal; bool.
    equal => EQUAL;
    /// Whether they differ; bool.
    not_equal => NOT_EQUAL;
    /// Whether this is greater; bool.
    greater => GREATER;
    /// Whether this is greater or equal; bool.
    greater_equal => GREATER_EQUAL;
    /// Whether this is less; bool.
    less => LESS;
    /// Whether this is less or equal; bool.
    less_equal => LESS_EQUAL;
}

macro_rules! reductions {
    ($($(#[$doc:meta])* $method:ident => $op:ident;)*) => {
        /// Reductions over some axes, negative ones counted from the end, which are gone then, or stay with length 1 where
        /// `keep_dims` is set.
        impl Tensor {
            $($(#[$doc])* pub fn $method(&self, axes: &[i64], keep_dims: bool) -> Result<Tensor> {
                let attributes = [attribute("axes", Value::Ints(axes)), attribute("keep_dims", Value::Bool(keep_dims))];
                Self::op(OpKind::$op, &[self], &attributes)
            })*
        }
    };
}
reductions! {
    /// Sum; of integers as integers, of bool as int32.
    sum_axes => SUM;
    /// Mean; real.
    mean_axes => MEAN;
    /// Maximum. An error where an axis has no elements.
    max_axes => MAX;
    /// Minimum. An error where an axis has no elements.
    min_axes => MIN;
    /// `log(sum(exp(x)))`, without overflow; real.
    log_sum_exp_axes => LOG_SUM_EXP;
}

/// Reductions, and other operations along axes.
impl Tensor {
    /// Sum of all elements, a scalar.
    pub fn sum(&self) -> Result<Tensor> {
        Self::op(OpKind::SUM, &[self], &[])
    }

    /// Sum over one axis, which is gone then.
    pub fn sum_axis(&self, axis: i64) -> Result<Tensor> {
        Self::op(OpKind::SUM, &[self], &[attribute("axes", Value::Ints(&[axis]))])
    }

    /// Mean of all elements, a scalar.
    pub fn mean(&self) -> Result<Tensor> {
        Self::op(OpKind::MEAN, &[self], &[])
    }

    /// Maximum of all elements, a scalar. An error where there are none.
    pub fn max(&self) -> Result<Tensor> {
        Self::op(OpKind::MAX, &[self], &[])
    }

    /// Minimum of all elements, a scalar. An error where there are none.
    pub fn min(&self) -> Result<Tensor> {
        Self::op(OpKind::MIN, &[self], &[])
    }

    /// Index of the largest element along an axis, which is gone then; int32. Of equal ones the first.
    pub fn argmax(&self, axis: i64) -> Result<Tensor> {
        Self::op(OpKind::ARGMAX, &[self], &[attribute("axis", Value::Int(axis))])
    }

    /// Indices of the `count` largest elements along an axis, int32, the largest one first.
    ///
    /// # Errors
    /// The axis has fewer elements.
    pub fn top_k(&self, count: i64, axis: i64) -> Result<Tensor> {
        Self::op(OpKind::TOP_K, &[self], &[attribute("axis", Value::Int(axis)), attribute("count", Value::Int(count))])
    }

    /// Softmax along an axis; real.
    pub fn softmax(&self, axis: i64) -> Result<Tensor> {
        Self::op(OpKind::SOFTMAX, &[self], &[attribute("axis", Value::Int(axis))])
    }

    /// Logarithm of the softmax along an axis; real.
    pub fn log_softmax(&self, axis: i64) -> Result<Tensor> {
        Self::op(OpKind::LOG_SOFTMAX, &[self], &[attribute("axis", Value::Int(axis))])
    }

    /// Sums of the elements along an axis up to each one.
    pub fn cumulative_sum(&self, axis: i64) -> Result<Tensor> {
        Self::op(OpKind::CUMULATIVE_SUM, &[self], &[attribute("axis", Value::Int(axis))])
    }

    /// The elements along an axis in rising or falling order; NaN is larger than all numbers.
    pub fn sort(&self, axis: i64, descending: bool) -> Result<Tensor> {
        let attributes = [attribute("axis", Value::Int(axis)), attribute("descending", Value::Bool(descending))];
        Self::op(OpKind::SORT, &[self], &attributes)
    }

    /// Their indices in that order, int32; equal ones stay in their order.
    pub fn argsort(&self, axis: i64, descending: bool) -> Result<Tensor> {
        let attributes = [attribute("axis", Value::Int(axis)), attribute("descending", Value::Bool(descending))];
        Self::op(OpKind::ARGSORT, &[self], &attributes)
    }
}

/// Operations that move or choose elements.
impl Tensor {
    /// Same elements in row-major order in another shape; one entry may be -1.
    ///
    /// # Errors
    /// Another number of elements.
    pub fn reshape(&self, shape: &[i64]) -> Result<Tensor> {
        Self::op(OpKind::RESHAPE, &[self], &[attribute("shape", Value::Ints(shape))])
    }

    /// Axes in another order.
    ///
    /// # Errors
    /// `axes` is no order of all axes.
    pub fn transpose(&self, axes: &[i64]) -> Result<Tensor> {
        Self::op(OpKind::TRANSPOSE, &[self], &[attribute("axes", Value::Ints(axes))])
    }

    /// Axes of length 1 repeated to this shape, aligned at the right.
    pub fn broadcast_to(&self, shape: &[i64]) -> Result<Tensor> {
        Self::op(OpKind::BROADCAST_TO, &[self], &[attribute("shape", Value::Ints(shape))])
    }

    /// To another element type: to an integer towards 0, to bool whether it is not 0.
    pub fn cast(&self, dtype: Dtype) -> Result<Tensor> {
        Self::op(OpKind::CAST, &[self], &[attribute("dtype", Value::Dtype(dtype))])
    }

    /// Elements from `start` (inclusive) to `stop` (exclusive), an entry for every axis.
    ///
    /// # Errors
    /// What lies outside of an axis.
    pub fn slice(&self, start: &[i64], stop: &[i64]) -> Result<Tensor> {
        let attributes = [attribute("start", Value::Ints(start)), attribute("stop", Value::Ints(stop))];
        Self::op(OpKind::SLICE, &[self], &attributes)
    }

    /// With `update`, of the same type, in the place of the elements from `start` on, an entry for every axis.
    ///
    /// # Errors
    /// What lies outside of an axis.
    pub fn slice_update(&self, update: &Tensor, start: &[i64]) -> Result<Tensor> {
        Self::op(OpKind::SLICE_UPDATE, &[self, update], &[attribute("start", Value::Ints(start))])
    }

    /// Rows at these integer indices along an axis; -1 is the last one. An index outside is an error when the result is
    /// computed.
    pub fn take(&self, indices: &Tensor, axis: i64) -> Result<Tensor> {
        Self::op(OpKind::TAKE, &[self, indices], &[attribute("axis", Value::Int(axis))])
    }

    /// Elements at integer indices of the same rank along an axis, counted as in [`Tensor::take`].
    pub fn take_along_axis(&self, indices: &Tensor, axis: i64) -> Result<Tensor> {
        Self::op(OpKind::TAKE_ALONG_AXIS, &[self, indices], &[attribute("axis", Value::Int(axis))])
    }

    /// With `updates`, of the same type, in the place of the elements at integer indices along an axis. Indices and updates
    /// are of one shape.
    pub fn scatter(&self, indices: &Tensor, updates: &Tensor, axis: i64) -> Result<Tensor> {
        Self::op(OpKind::SCATTER, &[self, indices, updates], &[attribute("axis", Value::Int(axis))])
    }

    /// The same, but the updates are added.
    pub fn scatter_add(&self, indices: &Tensor, updates: &Tensor, axis: i64) -> Result<Tensor> {
        Self::op(OpKind::SCATTER_ADD, &[self, indices, updates], &[attribute("axis", Value::Int(axis))])
    }

    /// Tensors one after another along an axis.
    ///
    /// # Errors
    /// No tensors; shapes that differ in another axis.
    pub fn concatenate(tensors: &[&Tensor], axis: i64) -> Result<Tensor> {
        Self::op(OpKind::CONCATENATE, tensors, &[attribute("axis", Value::Int(axis))])
    }

    /// `a` where this, a tensor of bool, holds, else `b`; all three are broadcast. What is not chosen may be NaN.
    pub fn select(&self, a: &Tensor, b: &Tensor) -> Result<Tensor> {
        Self::op(OpKind::WHERE, &[self, a, b], &[])
    }

    /// Whether both are not 0, broadcast; bool.
    pub fn logical_and(&self, other: &Tensor) -> Result<Tensor> {
        Self::op(OpKind::LOGICAL_AND, &[self, other], &[])
    }

    /// Whether one of them is not 0, broadcast; bool.
    pub fn logical_or(&self, other: &Tensor) -> Result<Tensor> {
        Self::op(OpKind::LOGICAL_OR, &[self, other], &[])
    }
}

/// Products and layers.
impl Tensor {
    /// Matrix product of the last two axes, the others broadcast.
    pub fn matmul(&self, other: &Tensor) -> Result<Tensor> {
        Self::op(OpKind::MATMUL, &[self, other], &[])
    }

    /// Every element times a number of the tensor's element type.
    pub fn multiply(&self, factor: f64) -> Result<Tensor> {
        self * factor
    }

    /// Every element plus a number of the tensor's element type.
    pub fn plus(&self, number: f64) -> Result<Tensor> {
        self + number
    }

    /// `x · wᵀ (+ bias)`: x `[.., in]`, weight `[out, in]`, bias `[out]`.
    pub fn linear(&self, weight: &Tensor, bias: Option<&Tensor>) -> Result<Tensor> {
        Self::op_on(self.compute(), OpKind::LINEAR, &inputs([self, weight], bias), &[])
    }

    /// Products with a matrix for each row: x `[N, 1 or K, in]`, weight `[E, out, in]`, indices `[N, K]` int32; result
    /// `[N, K, out]`. An index outside of 0..E is an error when the result is computed.
    pub fn gather_linear(&self, weight: &Tensor, indices: &Tensor) -> Result<Tensor> {
        Self::op(OpKind::GATHER_LINEAR, &[self, weight, indices], &[])
    }

    /// Rows of this table `[V, D]` at ids of any shape, int32; result `[.., D]`. An id outside of 0..V is an error when the result
    /// is computed.
    pub fn embedding(&self, ids: &Tensor) -> Result<Tensor> {
        Self::op(OpKind::EMBEDDING, &[self, ids], &[])
    }

    /// Root mean square norm over the last axis (Zhang and Sennrich 2019): `x / √(mean(x²) + eps) · weight`, weight `[D]`.
    pub fn rms_norm(&self, weight: &Tensor, eps: f64) -> Result<Tensor> {
        Self::op(OpKind::RMS_NORM, &[self, weight], &[attribute("eps", Value::Float(eps))])
    }

    /// Layer norm over the last axis (Ba et al. 2016): `(x - mean) / √(variance + eps) · weight + bias`, weight and bias `[D]`.
    pub fn layer_norm(&self, weight: &Tensor, bias: Option<&Tensor>, eps: f64) -> Result<Tensor> {
        let attributes = [attribute("eps", Value::Float(eps))];
        Self::op_on(self.compute(), OpKind::LAYER_NORM, &inputs([self, weight], bias), &attributes)
    }

    /// `log(sigmoid(x))`, which is `-softplus(-x)`; real.
    pub fn log_sigmoid(&self) -> Result<Tensor> {
        self.negative()?.softplus()?.negative()
    }

    /// Gaussian error linear unit by a hyperbolic tangent, as GPT-2 and Gemma have it.
    pub fn gelu_tanh(&self) -> Result<Tensor> {
        Self::op(OpKind::GELU, &[self], &[attribute("approximate", Value::Text("tanh"))])
    }

    /// `silu(self) * up`, both of one shape.
    pub fn swiglu(&self, up: &Tensor) -> Result<Tensor> {
        Self::op(OpKind::SWIGLU, &[self, up], &[])
    }

    /// Per-row cross-entropy in nats: logits `[N, V]` against targets `[N]` int32, giving `[N]` in float32. A negative target
    /// costs nothing.
    pub fn cross_entropy(&self, targets: &Tensor) -> Result<Tensor> {
        Self::op(OpKind::CROSS_ENTROPY, &[self, targets], &[])
    }

    /// A part `rate` of the elements set to 0, chosen by a key, and the others times `1 / (1 - rate)` (Srivastava et al. 2014).
    pub fn dropout(&self, rate: f64, key: u64) -> Result<Tensor> {
        let attributes = [attribute("rate", Value::Float(rate)), attribute("key", Value::Int(key.cast_signed()))];
        Self::op(OpKind::DROPOUT, &[self], &attributes)
    }

    /// An index for each row of logits `[.., V]`, int32 `[..]`, drawn by a key with the probabilities `softmax(logits)`.
    pub fn random_categorical(&self, key: u64) -> Result<Tensor> {
        Self::op(OpKind::RANDOM_CATEGORICAL, &[self], &[attribute("key", Value::Int(key.cast_signed()))])
    }

    /// Weights `[.., in]` in `bits` (2, 3, 4, 5, 6, 8) each: packed words, and a scale and a bias for each group of
    /// `group_size` (32, 64, 128) elements.
    pub fn quantize(&self, group_size: i64, bits: i64) -> Result<[Tensor; 3]> {
        let attributes = [attribute("group_size", Value::Int(group_size)), attribute("bits", Value::Int(bits))];
        Self::op_with_results(OpKind::QUANTIZE, &[self], &attributes)
    }

    /// `x · wᵀ` of x `[.., in]` and quantised weights `[out, in]`: packed words, scales and biases. They get no gradient.
    pub fn quantized_linear(&self, weight: [&Tensor; 3], group_size: i64, bits: i64) -> Result<Tensor> {
        let attributes = [attribute("group_size", Value::Int(group_size)), attribute("bits", Value::Int(bits))];
        let [words, scales, biases] = weight;
        Self::op(OpKind::QUANTIZED_LINEAR, &[self, words, scales, biases], &attributes)
    }

    /// The weights `[.., in]` of packed words, scales and biases.
    pub fn dequantize([words, scales, biases]: [&Tensor; 3], group_size: i64, bits: i64) -> Result<Tensor> {
        let attributes = [attribute("group_size", Value::Int(group_size)), attribute("bits", Value::Int(bits))];
        Self::op(OpKind::DEQUANTIZE, &[words, scales, biases], &attributes)
    }
}

/// Tensors made of nothing but attributes.
impl Tensor {
    /// A constant of this shape. For an integer type a whole number that it holds.
    pub fn full(compute: &Rc<dyn Compute>, shape: &[i64], value: f64, dtype: Dtype) -> Result<Tensor> {
        let attributes = [
            attribute("shape", Value::Ints(shape)),
            attribute("value", Value::Float(value)),
            attribute("dtype", Value::Dtype(dtype)),
        ];
        Self::op_on(compute, OpKind::FULL, &[], &attributes)
    }

    /// A number as a scalar on the same device, of the same element type.
    pub fn number(&self, value: f64) -> Result<Tensor> {
        Self::full(self.compute(), &[], value, self.tensor_type()?.dtype)
    }

    /// 0, 1, … `count` - 1.
    pub fn arange(compute: &Rc<dyn Compute>, count: i64, dtype: Dtype) -> Result<Tensor> {
        let attributes = [attribute("count", Value::Int(count)), attribute("dtype", Value::Dtype(dtype))];
        Self::op_on(compute, OpKind::ARANGE, &[], &attributes)
    }

    /// Numbers from [0, 1) that are a function of a key alone; see [`crate::ModelContext::key`].
    pub fn random_uniform(compute: &Rc<dyn Compute>, key: u64, shape: &[i64], dtype: Dtype) -> Result<Tensor> {
        Self::random(compute, OpKind::RANDOM_UNIFORM, key, shape, dtype)
    }

    /// Numbers from the normal distribution with mean 0 and deviation 1, a function of a key alone.
    pub fn random_normal(compute: &Rc<dyn Compute>, key: u64, shape: &[i64], dtype: Dtype) -> Result<Tensor> {
        Self::random(compute, OpKind::RANDOM_NORMAL, key, shape, dtype)
    }

    fn random(compute: &Rc<dyn Compute>, op: OpKind, key: u64, shape: &[i64], dtype: Dtype) -> Result<Tensor> {
        let attributes = [
            attribute("key", Value::Int(key.cast_signed())),
            attribute("shape", Value::Ints(shape)),
            attribute("dtype", Value::Dtype(dtype)),
        ];
        Self::op_on(compute, op, &[], &attributes)
    }
}

fn inputs<'a>(always: [&'a Tensor; 2], optional: Option<&'a Tensor>) -> Vec<&'a Tensor> {
    always.into_iter().chain(optional).collect()
}

macro_rules! operators {
    ($($operator:ident, $method:ident => $op:ident;)*) => { $(
        impl<T: Operand> ops::$operator<T> for &Tensor {
            type Output = Result<Tensor>;
            fn $method(self, right: T) -> Result<Tensor> {
                right.right_of(self, OpKind::$op)
            }
        }

        impl ops::$operator<&Tensor> for f64 {
            type Output = Result<Tensor>;
            fn $method(self, right: &Tensor) -> Result<Tensor> {
                Tensor::op(OpKind::$op, &[right], &[attribute("left", Value::Float(self))])
            }
        }
    )* };
}
operators! {
    Add, add => ADD;
    Sub, sub => SUBTRACT;
    Mul, mul => MULTIPLY;
    Div, div => DIVIDE;
}
