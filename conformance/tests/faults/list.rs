//! The faults.

use std::rc::Rc;

use mdt_conformance::Kind;
use mdt_plugin_api::op::attribute;
use mdt_plugin_api::prelude::*;
use mdt_plugin_api::{Attribute, Handle, HostArrayRef, TensorType, Value};

use super::device::{Fault, call};

fn on(inputs: &[&Tensor], op: OpKind, attributes: &[Attribute<'_>]) -> Result<Tensor> {
    let handles: Vec<_> = inputs.iter().map(|tensor| tensor.handle()).collect();
    call(inputs[0].compute(), op, &handles, attributes)
}

/// An operation with a number as its right operand.
fn right(x: &Tensor, op: OpKind, number: f64) -> Result<Tensor> {
    on(&[x], op, &[attribute("right", Value::Float(number))])
}

fn cast(x: &Tensor, dtype: Dtype) -> Result<Tensor> {
    on(&[x], OpKind::CAST, &[attribute("dtype", Value::Dtype(dtype))])
}

fn dtype(x: &Tensor) -> Result<Dtype> {
    Ok(x.tensor_type()?.dtype)
}

fn is_float(x: &Tensor) -> bool {
    dtype(x).is_ok_and(Dtype::is_float)
}

fn length(x: &Tensor, axis: i64) -> Result<usize> {
    let shape = x.shape()?;
    Ok(shape[axis.rem_euclid(shape.len() as i64) as usize])
}

/// The elements along an axis from the last one to the first one.
fn reversed(x: &Tensor, axis: i64) -> Result<Tensor> {
    let order: Vec<i32> = (0..length(x, axis)? as i32).rev().collect();
    let order = Tensor::from_host(x.compute(), &HostArray::new(&[order.len()], &order)?)?;
    on(&[x, &order], OpKind::TAKE, &[attribute("axis", Value::Int(axis))])
}

fn int(attributes: &[Attribute<'_>], name: &str) -> Option<i64> {
    attributes.iter().find_map(|attribute| match attribute.value {
        Value::Int(value) if attribute.name == name => Some(value),
        _ => None,
    })
}

fn float(attributes: &[Attribute<'_>], name: &str) -> Option<f64> {
    attributes.iter().find_map(|attribute| match attribute.value {
        Value::Float(value) if attribute.name == name => Some(value),
        _ => None,
    })
}

fn axis(attributes: &[Attribute<'_>]) -> i64 {
    int(attributes, "axis").expect("an axis")
}

/// The attributes without one, and perhaps with another value of it.
fn but<'a>(attributes: &[Attribute<'a>], name: &'a str, value: Option<Value<'a>>) -> Vec<Attribute<'a>> {
    let others = attributes.iter().copied().filter(|attribute| attribute.name != name);
    others.chain(value.map(|value| attribute(name, value))).collect()
}

const KEEP_DIMS: Attribute<'static> = Attribute { name: "keep_dims", value: Value::Bool(true) };

macro_rules! faults {
    ($($name:literal, $op:expr, $kind:ident, |$inputs:ident, $attributes:ident| $spoil:expr;)*) => {
        &[$(Fault {
            name: $name,
            op: $op,
            found_by: Kind::$kind,
            spoil: {
                fn spoil(device: &Rc<dyn Compute>, inputs: &[Handle], $attributes: &[Attribute<'_>]) -> Result<Tensor> {
                    let $inputs = Inputs { device, handles: inputs };
                    $spoil
                }
                spoil
            },
        }),*]
    };
}

/// The inputs of a call.
struct Inputs<'a> {
    device: &'a Rc<dyn Compute>,
    handles: &'a [Handle],
}

impl Inputs<'_> {
    fn at(&self, place: usize) -> Tensor {
        Tensor::borrowed(self.device, self.handles[place])
    }

    /// The operation on these inputs, done rightly.
    fn op(&self, op: OpKind, attributes: &[Attribute<'_>]) -> Result<Tensor> {
        call(self.device, op, self.handles, attributes)
    }

    fn full(&self, value: f64, dtype: Dtype) -> Result<Tensor> {
        Tensor::full(self.device, &[], value, dtype)
    }
}

pub const FAULTS: &[Fault] = faults! {
    "the result has the first input's type", OpKind::ADD, Types, |x, a| cast(&x.op(OpKind::ADD, a)?, dtype(&x.at(0))?);
    "integers are divided towards 0", OpKind::DIVIDE, Values, |x, a| {
        let quotient = x.op(OpKind::DIVIDE, a)?;
        let has_float = (0..x.handles.len()).any(|place| is_float(&x.at(place)));
        if has_float { Ok(quotient) } else { cast(&cast(&quotient, Dtype::I32)?, Dtype::F32) }
    };
    "the left operand is taken for the right one", OpKind::SUBTRACT, Attributes, |x, a| match float(a, "left") {
        Some(number) => right(&x.at(0), OpKind::SUBTRACT, number),
        None => x.op(OpKind::SUBTRACT, a),
    };
    "the gradient of equal operands is the left one's", OpKind::MAXIMUM, GradientEdges, |x, a| {
        if x.handles.len() == 1 {
            return x.op(OpKind::MAXIMUM, a);
        }
        on(&[&x.op(OpKind::GREATER_EQUAL, &[])?, &x.at(0), &x.at(1)], OpKind::WHERE, &[])
    };
    "a remainder has the dividend's sign", OpKind::REMAINDER, Values, |x, a| {
        if x.handles.len() == 1 || !is_float(&x.at(0)) {
            return x.op(OpKind::REMAINDER, a);
        }
        let quotient = x.op(OpKind::DIVIDE, &[])?;
        let [size, sign] = [OpKind::ABS, OpKind::SIGN].map(|op| on(&[&quotient], op, &[]));
        let whole = on(&[&on(&[&size?], OpKind::FLOOR, &[])?, &sign?], OpKind::MULTIPLY, &[])?;
        on(&[&x.at(0), &on(&[&x.at(1), &whole], OpKind::MULTIPLY, &[])?], OpKind::SUBTRACT, &[])
    };
    "an integer divided by 0 is -1", OpKind::FLOOR_DIVIDE, Edges, |x, a| {
        let quotient = x.op(OpKind::FLOOR_DIVIDE, a)?;
        if x.handles.len() == 1 || is_float(&quotient) {
            return Ok(quotient);
        }
        let wrong = cast(&right(&x.at(1), OpKind::EQUAL, 0.0)?, dtype(&quotient)?)?;
        on(&[&quotient, &wrong], OpKind::SUBTRACT, &[])
    };
    "0 has no sign", OpKind::NEGATIVE, Edges, |x, _a| x.op(OpKind::SUBTRACT, &[attribute("left", Value::Float(0.0))]);
    "the gradient of abs at 0 is 1", OpKind::ABS, GradientEdges, |x, _a| {
        let negative = right(&x.at(0), OpKind::LESS, 0.0)?;
        on(&[&negative, &x.op(OpKind::NEGATIVE, &[])?, &x.at(0)], OpKind::WHERE, &[])
    };
    "the sum with 1 is rounded", OpKind::LOG1P, Edges, |x, _a| {
        on(&[&right(&x.at(0), OpKind::ADD, 1.0)?], OpKind::LOG, &[])
    };
    "halves are rounded up", OpKind::ROUND, Edges, |x, a| match is_float(&x.at(0)) {
        true => on(&[&right(&x.at(0), OpKind::ADD, 0.5)?], OpKind::FLOOR, &[]),
        false => x.op(OpKind::ROUND, a),
    };
    "gelu has its other form", OpKind::GELU, Values, |x, a| {
        let is_tanh = a.iter().any(|attribute| attribute.value == Value::Text("tanh"));
        x.op(OpKind::GELU, &[attribute("approximate", Value::Text(if is_tanh { "none" } else { "tanh" }))])
    };
    "half precision is added in half precision", OpKind::SUM, Values, |x, a| {
        if dtype(&x.at(0))? != Dtype::BF16 || !a.is_empty() {
            return x.op(OpKind::SUM, a);
        }
        let mut all = x.at(0).reshape(&[-1])?;
        while length(&all, 0)? > 1 {
            let (count, half) = (length(&all, 0)? as i64, length(&all, 0)? as i64 / 2);
            let sums = on(&[&all.slice(&[0], &[half])?, &all.slice(&[half], &[2 * half])?], OpKind::ADD, &[])?;
            let odd = all.slice(&[2 * half], &[count])?;
            all = on(&[&sums, &odd], OpKind::CONCATENATE, &[attribute("axis", Value::Int(0))])?;
        }
        if length(&all, 0)? == 1 { all.reshape(&[]) } else { x.op(OpKind::SUM, a) }
    };
    "bytes are added as bytes", OpKind::SUM, Values, |x, a| {
        let sum = x.op(OpKind::SUM, a)?;
        if dtype(&x.at(0))? == Dtype::U8 { cast(&cast(&sum, Dtype::U8)?, Dtype::U32) } else { Ok(sum) }
    };
    "NaN is no maximum", OpKind::MAX, Edges, |x, a| {
        let of = dtype(&x.at(0))?;
        if !of.is_float() {
            return x.op(OpKind::MAX, a);
        }
        let is_number = on(&[&x.at(0), &x.at(0)], OpKind::EQUAL, &[])?;
        let numbers = on(&[&is_number, &x.at(0), &x.full(f64::NEG_INFINITY, of)?], OpKind::WHERE, &[])?;
        on(&[&numbers], OpKind::MAX, a)
    };
    "each of several maxima has the whole gradient", OpKind::MAX, GradientEdges, |x, a| {
        let (most, of) = (x.op(OpKind::MAX, a)?, dtype(&x.at(0))?);
        let kept = x.op(OpKind::MAX, &but(a, KEEP_DIMS.name, Some(KEEP_DIMS.value)))?;
        let is_most = on(&[&x.at(0), &on(&[&kept], OpKind::STOP_GRADIENT, &[])?], OpKind::EQUAL, &[])?;
        let sum = on(&[&on(&[&is_most, &x.at(0), &x.full(0.0, of)?], OpKind::WHERE, &[])?], OpKind::SUM, a)?;
        let rest = on(&[&on(&[&most, &sum], OpKind::SUBTRACT, &[])?], OpKind::STOP_GRADIENT, &[])?;
        on(&[&sum, &rest], OpKind::ADD, &[])
    };
    "of equal ones the last is the largest", OpKind::ARGMAX, Edges, |x, a| {
        let last = length(&x.at(0), axis(a))? - 1;
        let from_end = on(&[&reversed(&x.at(0), axis(a))?], OpKind::ARGMAX, a)?;
        on(&[&from_end], OpKind::SUBTRACT, &[attribute("left", Value::Float(last as f64))])
    };
    "equal ones are turned around too", OpKind::ARGSORT, Attributes, |x, a| match a.len() {
        1 => x.op(OpKind::ARGSORT, a),
        _ => reversed(&x.op(OpKind::ARGSORT, &but(a, "descending", None))?, axis(a)),
    };
    "a sum is without its last element", OpKind::CUMULATIVE_SUM, Values, |x, a| {
        x.op(OpKind::CUMULATIVE_SUM, &but(a, "exclusive", Some(Value::Bool(true))))
    };
    "softmax overflows", OpKind::SOFTMAX, Edges, |x, a| {
        let powers = x.op(OpKind::EXP, &[])?;
        let sum = on(&[&powers], OpKind::SUM, &[attribute("axes", Value::Ints(&[axis(a)])), KEEP_DIMS])?;
        on(&[&powers, &sum], OpKind::DIVIDE, &[])
    };
    "log_sum_exp overflows", OpKind::LOG_SUM_EXP, Edges, |x, a| {
        on(&[&on(&[&x.op(OpKind::EXP, &[])?], OpKind::SUM, a)?], OpKind::LOG, &[])
    };
    "products are of bfloat16", OpKind::MATMUL, Values, |x, a| {
        let [left, right] = [0, 1].map(|place| cast(&x.at(place), Dtype::BF16));
        cast(&on(&[&left?, &right?], OpKind::MATMUL, &[])?, dtype(&x.op(OpKind::MATMUL, a)?)?)
    };
    "an index outside is the nearest one inside", OpKind::TAKE, Indices, |x, a| {
        let count = length(&x.at(0), axis(a))? as f64;
        let chosen = right(&cast(&x.at(1), Dtype::I32)?, OpKind::MINIMUM, count - 1.0)?;
        on(&[&x.at(0), &right(&chosen, OpKind::MAXIMUM, -count)?], OpKind::TAKE, a)
    };
    "numbers are rounded to integers", OpKind::CAST, Values, |x, a| {
        let is_whole = |of: Dtype| !of.is_float() && of != Dtype::BOOL;
        let to_whole = a.iter().any(|attribute| matches!(attribute.value, Value::Dtype(of) if is_whole(of)));
        match to_whole && is_float(&x.at(0)) {
            true => on(&[&x.op(OpKind::ROUND, &[])?], OpKind::CAST, a),
            false => x.op(OpKind::CAST, a),
        }
    };
    "a choice is a sum of products", OpKind::WHERE, Edges, |x, a| {
        let of = dtype(&x.op(OpKind::WHERE, a)?)?;
        if !of.is_float() {
            return x.op(OpKind::WHERE, a);
        }
        let (yes, no) = (cast(&x.at(0), of)?, cast(&on(&[&x.at(0)], OpKind::LOGICAL_NOT, &[])?, of)?);
        let products = [(yes, x.at(1)), (no, x.at(2))].map(|(one, other)| on(&[&one, &other], OpKind::MULTIPLY, &[]));
        let [first, second] = products;
        on(&[&first?, &second?], OpKind::ADD, &[])
    };
    "the first of several updates stays", OpKind::SCATTER, Values, |x, a| {
        let [places, updates] = [1, 2].map(|place| reversed(&x.at(place), axis(a)));
        on(&[&x.at(0), &places?, &updates?], OpKind::SCATTER, a)
    };
    "an input is written to", OpKind::SCATTER_ADD, Values, |x, a| {
        let result = x.op(OpKind::SCATTER_ADD, a)?;
        let TensorType { shape, dtype } = result.tensor_type()?;
        let mut bytes = vec![0; shape.iter().product::<usize>() * dtype.size()];
        x.device.read(result.handle(), dtype, &mut bytes)?;
        x.device.write(x.handles[0], HostArrayRef { dtype, shape: &shape, bytes: &bytes })?;
        Ok(result)
    };
    "numbers are packed rounded down", OpKind::QUANTIZE, Values, |x, a| x.op(OpKind::QUANTIZE, a);
    "NaN does not differ", OpKind::NOT_EQUAL, Edges, |x, a| {
        on(&[&x.op(OpKind::LESS, a)?, &x.op(OpKind::GREATER, a)?], OpKind::LOGICAL_OR, &[])
    };
    "random numbers are those of another key", OpKind::RANDOM_UNIFORM, Values, |x, a| {
        let key = int(a, "key").expect("a key").wrapping_add(1);
        x.op(OpKind::RANDOM_UNIFORM, &but(a, "key", Some(Value::Int(key))))
    };
    "eps is outside of the root", OpKind::RMS_NORM, Values, |x, a| {
        let wide = cast(&x.at(0), Dtype::F32)?;
        let squares = on(&[&wide], OpKind::SQUARE, &[])?;
        let mean = on(&[&squares], OpKind::MEAN, &[attribute("axes", Value::Ints(&[-1])), KEEP_DIMS])?;
        let root = right(&on(&[&mean], OpKind::SQRT, &[])?, OpKind::ADD, float(a, "eps").expect("eps"))?;
        let result = on(&[&on(&[&wide, &root], OpKind::DIVIDE, &[])?, &x.at(1)], OpKind::MULTIPLY, &[])?;
        cast(&result, dtype(&x.op(OpKind::RMS_NORM, a)?)?)
    };
    "positions turn neighbours", OpKind::ROPE, Values, |x, a| {
        let shape: Vec<i64> = x.at(0).shape()?.iter().map(|&length| length as i64).collect();
        let [outer, heads, tokens, half] = [shape[0], shape[1], shape[2], shape[3] / 2];
        let apart = x.at(0).reshape(&[outer, heads, tokens, half, 2])?.transpose(&[0, 1, 2, 4, 3])?.reshape(&shape)?;
        let turned = call(x.device, OpKind::ROPE, &[&[apart.handle()], &x.handles[1..]].concat(), a)?;
        turned.reshape(&[outer, heads, tokens, 2, half])?.transpose(&[0, 1, 2, 4, 3])?.reshape(&shape)
    };
    "a query sees the next key", OpKind::ATTENTION, Attributes, |x, a| {
        let is_causal = a.iter().any(|attribute| attribute.name == "causal") && int(a, "window").is_none();
        if x.handles.len() != 3 || !is_causal {
            return x.op(OpKind::ATTENTION, a);
        }
        let (queries, keys) = (length(&x.at(0), 2)?, length(&x.at(1), 2)?);
        let sees = |place: usize| place % keys <= keys - queries + place / keys + 1;
        let mask: Vec<f32> = (0..queries * keys).map(|place| if sees(place) { 0.0 } else { f32::NEG_INFINITY }).collect();
        let mask = Tensor::from_host(x.device, &HostArray::new(&[1, 1, queries, keys], &mask)?)?;
        let mask = cast(&mask, dtype(&x.at(0))?)?;
        call(x.device, OpKind::ATTENTION, &[x.handles, &[0, mask.handle()]].concat(), &but(a, "causal", None))
    };
    "a window is one key wider", OpKind::ATTENTION, Attributes, |x, a| match int(a, "window") {
        Some(window) => x.op(OpKind::ATTENTION, &but(a, "window", Some(Value::Int(window + 1)))),
        None => x.op(OpKind::ATTENTION, a),
    };
    "segments see each other", OpKind::ATTENTION, Values, |x, a| {
        let mut inputs = x.handles.to_vec();
        inputs.iter_mut().skip(3).take(1).for_each(|segments| *segments = 0);
        call(x.device, OpKind::ATTENTION, &inputs, a)
    };
    "sinks take no part", OpKind::ATTENTION, Values, |x, a| {
        call(x.device, OpKind::ATTENTION, &x.handles[..x.handles.len().min(5)], a)
    };
    "scores have no cap", OpKind::ATTENTION, Attributes, |x, a| x.op(OpKind::ATTENTION, &but(a, "soft_cap", None));
    "heads of a group are not neighbours", OpKind::ATTENTION, Values, |x, a| {
        let (heads, groups) = (length(&x.at(0), 1)?, length(&x.at(1), 1)?);
        if heads == groups || groups == 1 {
            return x.op(OpKind::ATTENTION, a);
        }
        let tiled = |of: &Tensor| on(&vec![of; heads / groups], OpKind::CONCATENATE, &[attribute("axis", Value::Int(1))]);
        let (keys, values) = (tiled(&x.at(1))?, tiled(&x.at(2))?);
        let inputs = [&[x.handles[0], keys.handle(), values.handle()], &x.handles[3..]].concat();
        call(x.device, OpKind::ATTENTION, &inputs, a)
    };
    "a negative target costs as token 0", OpKind::CROSS_ENTROPY, Values, |x, a| {
        on(&[&x.at(0), &right(&x.at(1), OpKind::MAXIMUM, 0.0)?], OpKind::CROSS_ENTROPY, a)
    };
    "a negative id counts from the end", OpKind::EMBEDDING, Indices, |x, _a| {
        x.op(OpKind::TAKE, &[attribute("axis", Value::Int(0))])
    };
    "what dropout keeps is not scaled", OpKind::DROPOUT, Values, |x, a| {
        right(&x.op(OpKind::DROPOUT, a)?, OpKind::MULTIPLY, 1.0 - float(a, "rate").expect("a rate"))
    };
    "an unused parameter has no gradient", OpKind(0), Device, |x, a| x.op(OpKind(0), a);
    "a checkpoint stops the gradient", OpKind(0), Device, |x, a| x.op(OpKind(0), a);
    "reading truncates", OpKind(0), Device, |x, a| x.op(OpKind(0), a);
    "writing another shape does nothing", OpKind(0), Device, |x, a| x.op(OpKind(0), a);
};
