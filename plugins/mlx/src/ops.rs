//! Operations: from the boundary's operation kinds to MLX.
//!
//! What an operation takes and gives is checked by the boundary's own table ([`Definition::infer`]); a row here says how it is
//! computed. Operations without a row are composed by the boundary. Where MLX differs from the definition, in a value or a
//! gradient, the functions below make it right.

mod call;
mod compare;
mod constant;
mod elementwise;
mod index;
mod layers;
mod losses;
mod order;
mod quantize;
mod reduce;
mod shape;
#[cfg(test)]
mod tests;

use mdt_plugin_api::op::{Definition, promoted};
use mdt_plugin_api::{Attribute, Dtype, Error, OpKind, Result, TensorType};
use mlx_rs::{Array, Dtype as MlxDtype, ops, stop_gradient};

use self::call::Call;
use crate::fault::Fault;
use crate::fused::{self, Function};
use crate::{dtype, host_view};

/// What an operation with one result gives.
type Outcome = Result<Array, Fault>;

/// A row of the table.
struct Operation {
    kind: OpKind,
    converted: Converted,
    /// Whether MLX computes it in float64 too, with that precision.
    has_f64: bool,
    apply: Apply,
}

/// The type that inputs are converted to before [`Apply`] sees them.
#[derive(Clone, Copy, PartialEq)]
enum Converted {
    /// Every input to the result's type, half precision to float32.
    ToResult,
    /// The same, but half precision of one type stays.
    ToResultOrHalf,
    /// The differentiable inputs to float32 or float64.
    ToFloat,
    /// The same, but half precision of one type stays where the device has kernels for it that add in float32.
    ToFloatOrHalf,
    /// The same, where only a GPU has them.
    ToFloatOnCpu,
    /// All to their promoted type.
    ToPromoted,
    /// None.
    No,
}

/// Most operations are a function of one or two arrays; the others read attributes.
enum Apply {
    Unary(fn(&Array) -> mlx_rs::error::Result<Array>),
    Binary(fn(&Array, &Array) -> mlx_rs::error::Result<Array>),
    Call(fn(&Call<'_>) -> Outcome),
    Several(fn(&Call<'_>) -> Result<Vec<Array>, Fault>),
}

use Converted::{No, ToFloat, ToFloatOnCpu, ToFloatOrHalf, ToPromoted, ToResult, ToResultOrHalf};

/// In the order of their numbers, which the search relies on.
const OPERATIONS: &[Operation] = &[
    binary(OpKind::ADD, ToResultOrHalf, fused::add),
    binary(OpKind::SUBTRACT, ToResult, |a, b| a.subtract(b)),
    binary(OpKind::MULTIPLY, ToResult, |a, b| a.multiply(b)),
    binary(OpKind::DIVIDE, ToResult, |a, b| a.divide(b)),
    call(OpKind::MAXIMUM, ToResult, elementwise::maximum),
    call(OpKind::MINIMUM, ToResult, elementwise::minimum),
    call(OpKind::POWER, ToResult, elementwise::power),
    binary(OpKind::FLOOR_DIVIDE, ToResult, elementwise::floor_divide),
    binary(OpKind::REMAINDER, ToResult, elementwise::remainder),
    unary(OpKind::NEGATIVE, |x| x.negative()),
    function(OpKind::EXP, |x| fused::function(x, Function::Exp)),
    unary(OpKind::LOG, |x| x.log()),
    unary(OpKind::SQRT, |x| x.sqrt()),
    unary(OpKind::RSQRT, |x| x.rsqrt()),
    unary(OpKind::SQUARE, |x| x.square()),
    function(OpKind::SIGMOID, |x| fused::function(x, Function::Sigmoid)),
    function(OpKind::SILU, |x| fused::function(x, Function::Silu)),
    unary(OpKind::TANH, |x| ops::tanh(x)),
    unary(OpKind::ABS, |x| x.abs()),
    call(OpKind::GELU, ToResult, layers::gelu).without_f64(),
    function(OpKind::SIN, |x| fused::function(x, Function::Sin)),
    function(OpKind::COS, |x| fused::function(x, Function::Cos)),
    function(OpKind::ERF, |x| fused::function(x, Function::Erf)),
    unary(OpKind::LOG1P, |x| x.log1p()),
    function(OpKind::SOFTPLUS, |x| fused::function(x, Function::Softplus)),
    unary(OpKind::FLOOR, |x| x.floor()),
    unary(OpKind::ROUND, |x| x.round(0)),
    unary(OpKind::SIGN, elementwise::sign),
    call(OpKind::SUM, ToResult, reduce::sum),
    call(OpKind::MEAN, ToResult, reduce::mean),
    call(OpKind::MAX, ToResult, reduce::max),
    call(OpKind::ARGMAX, No, order::argmax),
    call(OpKind::LOG_SUM_EXP, ToResult, reduce::log_sum_exp).without_f64(),
    call(OpKind::SOFTMAX, ToResult, reduce::softmax).without_f64(),
    call(OpKind::TOP_K, No, order::top_k),
    call(OpKind::MIN, ToResult, reduce::min),
    call(OpKind::ARGSORT, No, order::argsort),
    call(OpKind::SORT, No, order::sort),
    call(OpKind::CUMULATIVE_SUM, ToResult, reduce::cumulative_sum),
    call(OpKind::LOG_SOFTMAX, ToResult, reduce::log_softmax).without_f64(),
    call(OpKind::MATMUL, ToResult, layers::matmul),
    call(OpKind::LINEAR, ToFloatOrHalf, layers::linear),
    call(OpKind::GATHER_LINEAR, ToFloat, layers::gather_linear).without_f64(),
    call(OpKind::QUANTIZED_LINEAR, ToFloat, quantize::quantized_linear).without_f64(),
    call(OpKind::TOKEN_LOSSES, No, losses::token_losses).without_f64(),
    call(OpKind::RESHAPE, No, shape::reshape),
    call(OpKind::TRANSPOSE, No, shape::transpose),
    call(OpKind::CONCATENATE, No, shape::concatenate),
    call(OpKind::SLICE, No, shape::slice),
    call(OpKind::TAKE, No, index::take),
    call(OpKind::TAKE_ALONG_AXIS, No, index::take_along_axis),
    call(OpKind::BROADCAST_TO, No, shape::broadcast_to),
    call(OpKind::CAST, No, elementwise::cast),
    call(OpKind::WHERE, No, compare::select),
    call(OpKind::SLICE_UPDATE, No, shape::slice_update),
    call(OpKind::SCATTER_ADD, ToFloat, index::scatter_add),
    call(OpKind::SCATTER, No, index::scatter),
    call(OpKind::STOP_GRADIENT, No, |call| Ok(stop_gradient(call.input(0))?)),
    several(OpKind::QUANTIZE, quantize::quantize).without_f64(),
    call(OpKind::DEQUANTIZE, No, quantize::dequantize),
    binary(OpKind::EQUAL, ToPromoted, |a, b| a.eq(b)),
    binary(OpKind::GREATER, ToPromoted, |a, b| a.gt(b)),
    binary(OpKind::LESS, ToPromoted, |a, b| a.lt(b)),
    binary(OpKind::NOT_EQUAL, ToPromoted, |a, b| a.ne(b)),
    binary(OpKind::GREATER_EQUAL, ToPromoted, |a, b| a.ge(b)),
    binary(OpKind::LESS_EQUAL, ToPromoted, |a, b| a.le(b)),
    binary(OpKind::LOGICAL_AND, No, |a, b| a.logical_and(b)),
    binary(OpKind::LOGICAL_OR, No, |a, b| a.logical_or(b)),
    call(OpKind::LOGICAL_NOT, No, |call| Ok(call.input(0).logical_not()?)),
    call(OpKind::FULL, No, constant::full),
    call(OpKind::ARANGE, No, constant::arange),
    call(OpKind::RANDOM_UNIFORM, No, constant::random_uniform),
    call(OpKind::RMS_NORM, ToFloatOrHalf, layers::rms_norm).without_f64(),
    call(OpKind::ROPE, ToFloatOrHalf, layers::rope).without_f64(),
    call(OpKind::ATTENTION, ToFloatOrHalf, layers::attention).without_f64(),
    call(OpKind::SWIGLU, ToFloatOrHalf, layers::swiglu).without_f64(),
    call(OpKind::CROSS_ENTROPY, ToFloat, losses::cross_entropy).without_f64(),
    call(OpKind::EMBEDDING, No, index::embedding),
    call(OpKind::LAYER_NORM, ToFloatOnCpu, layers::layer_norm).without_f64(),
];

const fn unary(kind: OpKind, apply: fn(&Array) -> mlx_rs::error::Result<Array>) -> Operation {
    Operation { kind, converted: ToResult, has_f64: true, apply: Apply::Unary(apply) }
}

const fn function(kind: OpKind, apply: fn(&Array) -> mlx_rs::error::Result<Array>) -> Operation {
    Operation { kind, converted: ToResult, has_f64: fused::FUNCTIONS_HAVE_F64, apply: Apply::Unary(apply) }
}

const fn binary(
    kind: OpKind,
    converted: Converted,
    apply: fn(&Array, &Array) -> mlx_rs::error::Result<Array>,
) -> Operation {
    Operation { kind, converted, has_f64: true, apply: Apply::Binary(apply) }
}

const fn call(kind: OpKind, converted: Converted, apply: fn(&Call<'_>) -> Outcome) -> Operation {
    Operation { kind, converted, has_f64: true, apply: Apply::Call(apply) }
}

const fn several(kind: OpKind, apply: fn(&Call<'_>) -> Result<Vec<Array>, Fault>) -> Operation {
    Operation { kind, converted: No, has_f64: true, apply: Apply::Several(apply) }
}

/// The attribute of products whose operands are rounded by the product itself.
const OPERANDS: &str = "operands";

fn find(kind: OpKind) -> Option<&'static Operation> {
    if kind == OpKind::TOKEN_LOSSES && !fused::has_token_losses() {
        return None;
    }
    let place = OPERATIONS.binary_search_by_key(&kind.0, |operation| operation.kind.0).ok()?;
    Some(&OPERATIONS[place])
}

/// Whether [`apply`] computes this operation with these attributes, for elements of this type.
pub fn supports(kind: OpKind, attributes: &[&str], dtype: Dtype) -> bool {
    let (Some(operation), Some(definition)) = (find(kind), kind.definition()) else { return false };
    attributes.iter().all(|&name| definition.attributes.iter().any(|known| known.name == name))
        && definition.types.contains(dtype)
        && (dtype != Dtype::F64 || operation.has_f64 && !attributes.contains(&OPERANDS))
}

/// Applies an operation, lazily. `recording` says whether a gradient may be asked for.
///
/// # Errors
/// An operation that this plugin does not compute; inputs or attributes that do not fit; the message names the operation and
/// its inputs.
pub fn apply(
    kind: OpKind,
    inputs: &[Option<&Array>],
    attributes: &[Attribute<'_>],
    recording: bool,
) -> Result<Vec<Array>> {
    let definition = kind
        .definition()
        .ok_or_else(|| Error::plugin(format!("operation number {} is unknown to this plugin", kind.0)))?;
    let types = types_of(inputs)?;
    let given: Vec<Option<&TensorType>> = types.iter().map(Option::as_ref).collect();
    let results = definition.infer(&given, attributes)?;
    let operation = find(kind).ok_or_else(|| Error::plugin(format!("this plugin does not compute {}", kind.name())))?;
    operation.run(definition, inputs, attributes, &results, recording).map_err(|fault| {
        let inputs: Vec<_> = given.iter().map(|input| describe(*input)).collect();
        let on = if inputs.is_empty() { String::new() } else { format!(" on {}", inputs.join(", ")) };
        Error::plugin(format!("operation {}{on}: {fault}", kind.name()))
    })
}

fn types_of(inputs: &[Option<&Array>]) -> Result<Vec<Option<TensorType>>> {
    let type_of = |array: &Array| {
        dtype::from_mlx(array.dtype()).map(|dtype| TensorType { shape: host_view::shape(array), dtype })
    };
    inputs.iter().map(|input| input.map(type_of).transpose()).collect()
}

fn describe(input: Option<&TensorType>) -> String {
    input.map_or_else(|| "none".to_owned(), |TensorType { shape, dtype }| format!("{dtype} {shape:?}"))
}

impl Operation {
    const fn without_f64(mut self) -> Self {
        self.has_f64 = false;
        self
    }

    fn run(
        &self,
        definition: &Definition,
        inputs: &[Option<&Array>],
        attributes: &[Attribute<'_>],
        types: &[TensorType],
        recording: bool,
    ) -> Result<Vec<Array>, Fault> {
        let rounds = attributes.iter().any(|attribute| attribute.name == OPERANDS);
        let is_f64 = |input: &Array| input.dtype() == MlxDtype::Float64;
        let first_is_f64 = inputs.first().copied().flatten().is_some_and(is_f64);
        if !self.has_f64 && inputs.iter().flatten().any(|input| is_f64(input)) || rounds && first_is_f64 {
            return Err(Fault::new("this plugin does not compute it in float64"));
        }
        if types.iter().all(|result| result.shape.contains(&0)) {
            let empty = |result: &TensorType| call::zeros(result);
            return types.iter().map(empty).collect();
        }
        let mut owned: Vec<Option<Array>> = Vec::new();
        for (place, input) in inputs.iter().enumerate() {
            let Some(input) = input else { continue };
            // The last bit stands for all further inputs.
            let is_differentiable = definition.differentiable >> place.min(7) & 1 == 1;
            let mut changed = None;
            if recording && !is_differentiable && definition.differentiable != 0 {
                changed = Some(stop_gradient(input)?);
            }
            let target = match rounds {
                true => is_f64(input).then_some(MlxDtype::Float32),
                false => self.target(definition, is_differentiable, inputs, types)?,
            };
            if let Some(target) = target.filter(|&target| target != input.dtype()) {
                changed = Some(fused::convert(changed.as_ref().unwrap_or(input), target)?);
            }
            if changed.is_some() {
                owned.resize_with(inputs.len(), || None);
                owned[place] = changed;
            }
        }
        let prepared: Vec<Option<&Array>>;
        let prepared = if owned.is_empty() {
            inputs
        } else {
            prepared = inputs.iter().zip(&owned).map(|(input, owned)| owned.as_ref().or(*input)).collect();
            &prepared
        };
        let call = Call::new(prepared, attributes, types, inputs.first().copied().flatten(), recording);
        let results = match self.apply {
            Apply::Unary(apply) => vec![apply(call.input(0))?],
            Apply::Binary(apply) => vec![call.binary(apply)?],
            Apply::Call(apply) => vec![apply(&call)?],
            Apply::Several(apply) => apply(&call)?,
        };
        let finished = results.into_iter().zip(types).map(|(result, wanted)| {
            let wanted_type = call::mlx_type(wanted.dtype)?;
            let result = if result.dtype() == wanted_type { result } else { fused::convert(&result, wanted_type)? };
            // A gradient of 0 would still be multiplied by what was computed before, which may be infinite.
            let is_constant = definition.differentiable == 0 || !wanted.dtype.is_float();
            Ok(if recording && is_constant { stop_gradient(result)? } else { result })
        });
        finished.collect()
    }

    /// The type that an input is converted to.
    fn target(
        &self,
        definition: &Definition,
        is_differentiable: bool,
        inputs: &[Option<&Array>],
        types: &[TensorType],
    ) -> Result<Option<MlxDtype>, Fault> {
        let result = types[0].dtype;
        let dtype = match self.converted {
            No => return Ok(None),
            ToFloat | ToFloatOrHalf | ToFloatOnCpu if !is_differentiable => return Ok(None),
            ToFloatOnCpu if !fused::on_cpu() => result,
            ToFloatOrHalf if fused::takes_half() && are_alike(definition, inputs) => return Ok(None),
            ToResultOrHalf if are_alike(definition, inputs) => return Ok(None),
            ToResult | ToResultOrHalf | ToFloat | ToFloatOrHalf | ToFloatOnCpu => widened(result),
            ToPromoted => {
                let mut common = None;
                for input in inputs.iter().flatten() {
                    let dtype = call::boundary_type(input)?;
                    common = common.map_or(Some(dtype), |common| promoted(common, dtype));
                }
                common.ok_or_else(|| Fault::new("the inputs have no common type"))?
            }
        };
        call::mlx_type(dtype).map(Some)
    }
}

/// Whether the differentiable inputs have one type.
fn are_alike(definition: &Definition, inputs: &[Option<&Array>]) -> bool {
    let flows = |place: usize| definition.differentiable >> place.min(7) & 1 == 1;
    let mut types = inputs.iter().enumerate().filter(|&(place, _)| flows(place)).filter_map(|(_, input)| *input);
    let first = types.next().map(Array::dtype);
    types.all(|input| Some(input.dtype()) == first)
}

/// The type that elements are computed in.
fn widened(dtype: Dtype) -> Dtype {
    if dtype.is_float() && dtype.size() < 4 { Dtype::F32 } else { dtype }
}
