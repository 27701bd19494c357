//! The primitive operations, from the text of the table and nothing else.

use std::cmp::Ordering;

use mdt_plugin_api::op::{Attributes, promoted, real};
use mdt_plugin_api::{Attribute, Dtype, Error, OpKind, Result};

use crate::array::{Array, Number, indices, offset, rounded, wrapped};
use crate::random;

/// Applies a primitive.
pub fn apply(op: OpKind, inputs: &[&Array], attributes: &Attributes<'_>) -> Result<Array> {
    match (op, inputs) {
        (OpKind::EQUAL | OpKind::GREATER | OpKind::LESS, _) => {
            let [a, b] = operands(inputs, attributes, false)?;
            let result = a.elements.iter().zip(&b.elements).map(|(&a, &b)| {
                let order = compared(a, b);
                let holds = match op {
                    OpKind::EQUAL => order == Some(Ordering::Equal),
                    OpKind::GREATER => order == Some(Ordering::Greater),
                    _ => order == Some(Ordering::Less),
                };
                Number::Whole(holds.into())
            });
            Ok(Array { dtype: Dtype::BOOL, shape: a.shape, elements: result.collect() })
        }
        (OpKind::LOGICAL_AND, [a, b]) => {
            let shape = broadcast_shape(&[a, b])?;
            let (a, b) = (a.broadcast(&shape), b.broadcast(&shape));
            let both = a.elements.iter().zip(&b.elements).map(|(a, b)| (a.is_true() && b.is_true()).into());
            Ok(Array { dtype: Dtype::BOOL, shape, elements: both.map(Number::Whole).collect() })
        }
        (OpKind::LOGICAL_NOT, [x]) => Ok(x.map(Dtype::BOOL, |x| Number::Whole((!x.is_true()).into()))),
        (op, _) if op.0 <= OpKind::REMAINDER.0 => {
            let [a, b] = operands(inputs, attributes, matches!(op, OpKind::DIVIDE | OpKind::POWER))?;
            let elements = a.elements.iter().zip(&b.elements).map(|(&a, &b)| binary(op, a, b)).map(|x| match x {
                Number::Whole(x) => Number::Whole(wrapped(a.dtype, x)),
                real => real,
            });
            Ok(Array { dtype: a.dtype, shape: a.shape.clone(), elements: elements.collect() })
        }
        (OpKind::NEGATIVE | OpKind::ABS, [x]) => Ok(x.map(x.dtype, |element| match element {
            Number::Real(x) => Number::Real(if op == OpKind::ABS { x.abs() } else { -x }),
            Number::Whole(n) => Number::Whole(wrapped(x.dtype, if op == OpKind::ABS { n.abs() } else { -n })),
        })),
        (OpKind::FLOOR, [x]) => Ok(x.map(x.dtype, |element| match element {
            Number::Real(x) => Number::Real(x.floor()),
            whole => whole,
        })),
        (OpKind::ROUND, [x]) => Ok(x.map(x.dtype, |element| match element {
            Number::Real(x) => Number::Real(x.round_ties_even()),
            whole => whole,
        })),
        (OpKind::STOP_GRADIENT, [x]) => Ok((*x).clone()),
        (OpKind::SUM | OpKind::MAX | OpKind::MIN, [x]) => reduced(op, x, attributes),
        (OpKind::ARGSORT, [x]) => {
            let (axis, descending) = (axis(attributes, x)?, attributes.optional("descending")?.unwrap_or(false));
            along(x, axis, Dtype::I32, |lane| {
                let mut order: Vec<_> = (0..lane.len()).collect();
                order.sort_by(|&i, &j| {
                    let order = compared_with_nan(lane[i], lane[j]);
                    if descending { order.reverse() } else { order }
                });
                order.into_iter().map(|i| Number::Whole(i as i128)).collect()
            })
        }
        (OpKind::CUMULATIVE_SUM, [x]) => {
            let axis = axis(attributes, x)?;
            let reverse = attributes.optional("reverse")?.unwrap_or(false);
            let exclusive = attributes.optional("exclusive")?.unwrap_or(false);
            let dtype = sum_type(x.dtype);
            along(&x.map(dtype, |element| element.cast(dtype)), axis, dtype, |lane| {
                let count = lane.len();
                let sum = |place: usize| {
                    let (from, to) = match (reverse, exclusive) {
                        (false, false) => (0, place + 1),
                        (false, true) => (0, place),
                        (true, false) => (place, count),
                        (true, true) => (place + 1, count),
                    };
                    sum_of(dtype, &lane[from..to])
                };
                (0..count).map(sum).collect()
            })
        }
        (OpKind::MATMUL, [a, b]) => matmul(a, b),
        (OpKind::RESHAPE, [x]) => {
            let shape: &[i64] = attributes.required("shape")?;
            let known: i64 = shape.iter().filter(|&&length| length != -1).product();
            let missing = if known == 0 { 0 } else { x.elements.len() as i64 / known };
            let shape = shape.iter().map(|&length| if length == -1 { missing } else { length } as usize).collect();
            Ok(Array { shape, ..(*x).clone() })
        }
        (OpKind::TRANSPOSE, [x]) => {
            let axes = axes(attributes.required("axes")?, x)?;
            let shape: Vec<_> = axes.iter().map(|&axis| x.shape[axis]).collect();
            Ok(x.picked(&shape, |index| {
                let mut own = vec![0; axes.len()];
                axes.iter().zip(index).for_each(|(&axis, &at)| own[axis] = at);
                offset(&x.shape, &own)
            }))
        }
        (OpKind::CONCATENATE, [first, ..]) => {
            let axis = axis(attributes, first)?;
            let dtype = inputs.iter().try_fold(first.dtype, |dtype, x| common(dtype, x.dtype))?;
            let mut shape = first.shape.clone();
            shape[axis] = inputs.iter().map(|x| x.shape[axis]).sum();
            let elements = indices(&shape).map(|mut index| {
                let mut from = inputs.iter();
                let mut x = from.next().expect("the first");
                while index[axis] >= x.shape[axis] {
                    index[axis] -= x.shape[axis];
                    x = from.next().expect("lengths add up");
                }
                x.elements[offset(&x.shape, &index)].cast(dtype)
            });
            Ok(Array { dtype, elements: elements.collect(), shape })
        }
        (OpKind::SLICE, [x]) => {
            let (start, stop): (&[i64], &[i64]) = (attributes.required("start")?, attributes.required("stop")?);
            let shape: Vec<_> = start.iter().zip(stop).map(|(&start, &stop)| (stop - start) as usize).collect();
            Ok(x.picked(&shape, |index| offset(&x.shape, &moved(index, start))))
        }
        (OpKind::SLICE_UPDATE, [x, update]) => {
            let start = attributes.required("start")?;
            let mut result = (*x).clone();
            for (index, &element) in indices(&update.shape).zip(&update.elements) {
                result.elements[offset(&x.shape, &moved(&index, start))] = element;
            }
            Ok(result)
        }
        (OpKind::TAKE, [x, chosen]) => {
            let axis = axis(attributes, x)?;
            let shape = [&x.shape[..axis], &chosen.shape, &x.shape[axis + 1..]].concat();
            let rows = places(op, chosen, x.shape[axis])?;
            let rank = chosen.shape.len();
            Ok(x.picked(&shape, |index| {
                let row = rows[offset(&chosen.shape, &index[axis..axis + rank])];
                offset(&x.shape, &[&index[..axis], &[row], &index[axis + rank..]].concat())
            }))
        }
        (OpKind::TAKE_ALONG_AXIS, [x, chosen]) => {
            let axis = axis(attributes, x)?;
            let rows = places(op, chosen, x.shape[axis])?;
            Ok(x.picked(&chosen.shape, |index| offset(&x.shape, &at(index, axis, rows[offset(&chosen.shape, index)]))))
        }
        (OpKind::SCATTER | OpKind::SCATTER_ADD, [x, chosen, updates]) => {
            let axis = axis(attributes, x)?;
            let rows = places(op, chosen, x.shape[axis])?;
            let mut result = (*x).clone();
            for ((index, row), &update) in indices(&chosen.shape).zip(rows).zip(&updates.elements) {
                let element = &mut result.elements[offset(&x.shape, &at(&index, axis, row))];
                *element = if op == OpKind::SCATTER { update } else { sum_of(x.dtype, &[*element, update]) };
            }
            Ok(result)
        }
        (OpKind::BROADCAST_TO, [x]) => {
            let shape: &[i64] = attributes.required("shape")?;
            Ok(x.broadcast(&lengths(shape)))
        }
        (OpKind::CAST, [x]) => {
            let dtype = attributes.required("dtype")?;
            Ok(x.map(dtype, |element| element.cast(dtype)))
        }
        (OpKind::WHERE, [condition, a, b]) => {
            let (shape, dtype) = (broadcast_shape(&[condition, a, b])?, common(a.dtype, b.dtype)?);
            let [condition, a, b] = [condition, a, b].map(|x| x.broadcast(&shape));
            let chosen = condition.elements.iter().zip(a.elements.iter().zip(&b.elements));
            let elements = chosen.map(|(condition, (a, b))| if condition.is_true() { a } else { b }.cast(dtype));
            Ok(Array { dtype, elements: elements.collect(), shape })
        }
        (OpKind::FULL, []) => {
            let (shape, dtype): (&[i64], Dtype) = (attributes.required("shape")?, attributes.required("dtype")?);
            let value: f64 = attributes.required("value")?;
            let shape = lengths(shape);
            Ok(Array::of(dtype, &shape, vec![value; shape.iter().product()]))
        }
        (OpKind::ARANGE, []) => {
            let (count, dtype): (i64, Dtype) = (attributes.required("count")?, attributes.required("dtype")?);
            Ok(Array::of(dtype, &[count as usize], (0..count).map(|i| i as f64)))
        }
        (OpKind::RANDOM_UNIFORM, []) => {
            let shape = lengths(attributes.required("shape")?);
            let numbers = random::uniform(attributes.required("key")?, shape.iter().product());
            Ok(Array {
                dtype: attributes.required("dtype")?,
                shape,
                elements: numbers.into_iter().map(Number::Real).collect(),
            })
        }
        (_, [x]) => unary(op, x),
        _ => Err(Error::plugin(format!("{} of {} inputs is no primitive", op.name(), inputs.len()))),
    }
}

/// Compositions that are defined by rounded numbers on the way: these are computed here and not composed.
pub fn directly(op: OpKind, inputs: &[Option<&Array>], attributes: &[Attribute<'_>]) -> Option<Result<Array>> {
    if op != OpKind::ROPE {
        return None;
    }
    let (x, frequencies, positions) = (inputs[0]?, inputs[1]?, inputs.get(2).copied().flatten());
    let attributes = Attributes::new(attributes);
    let from = attributes.optional::<i64>("offset").ok()?.unwrap_or(0);
    let scale = attributes.optional::<f64>("scale").ok()?.unwrap_or(1.0);
    let half = x.shape[3] / 2;
    let elements = indices(&x.shape).map(|index| {
        let position = match positions {
            Some(positions) => positions.elements[index[0] * x.shape[2] + index[2]].real(),
            None => (index[2] as i64 + from) as f64,
        };
        let angle = rounded(Dtype::F32, position * frequencies.elements[index[3] % half].real());
        let other = (index[3] + half) % x.shape[3];
        let [own, other] = [index[3], other].map(|place| x.elements[offset(&x.shape, &at(&index, 3, place))].real());
        let sine = if index[3] < half { -angle.sin() } else { angle.sin() };
        Number::Real(scale * (own * angle.cos() + other * sine))
    });
    Some(Ok(Array { dtype: x.dtype, shape: x.shape.clone(), elements: elements.collect() }))
}

fn unary(op: OpKind, x: &Array) -> Result<Array> {
    let function: fn(f64) -> f64 = match op {
        OpKind::EXP => f64::exp,
        OpKind::LOG => f64::ln,
        OpKind::SQRT => f64::sqrt,
        OpKind::TANH => f64::tanh,
        OpKind::SIN => f64::sin,
        OpKind::COS => f64::cos,
        OpKind::ERF => libm::erf,
        OpKind::LOG1P => f64::ln_1p,
        _ => return Err(Error::plugin(format!("{} is no primitive", op.name()))),
    };
    Ok(x.map(real(x.dtype), |element| Number::Real(function(element.real()))))
}

fn binary(op: OpKind, a: Number, b: Number) -> Number {
    match (a, b) {
        (Number::Real(a), Number::Real(b)) => Number::Real(match op {
            OpKind::ADD => a + b,
            OpKind::SUBTRACT => a - b,
            OpKind::MULTIPLY => a * b,
            OpKind::DIVIDE => a / b,
            OpKind::POWER => a.powf(b),
            OpKind::FLOOR_DIVIDE => (a / b).floor(),
            OpKind::REMAINDER => a - b * (a / b).floor(),
            _ if a.is_nan() || b.is_nan() => f64::NAN,
            OpKind::MAXIMUM => a.max(b),
            _ => a.min(b),
        }),
        _ => {
            let (a, b) = (a.whole(), b.whole());
            // Rust's division of i128 goes towards 0.
            let floor_divide = || if a % b != 0 && (a < 0) != (b < 0) { a / b - 1 } else { a / b };
            Number::Whole(match op {
                OpKind::ADD => a + b,
                OpKind::SUBTRACT => a - b,
                OpKind::MULTIPLY => a.wrapping_mul(b),
                OpKind::FLOOR_DIVIDE | OpKind::REMAINDER if b == 0 => 0,
                OpKind::FLOOR_DIVIDE => floor_divide(),
                OpKind::REMAINDER => a - b * floor_divide(),
                OpKind::MAXIMUM => a.max(b),
                _ => a.min(b),
            })
        }
    }
}

/// Both operands in the type and shape of the result; one of them may be an attribute.
fn operands(inputs: &[&Array], attributes: &Attributes<'_>, is_real: bool) -> Result<[Array; 2]> {
    let number = |name| -> Result<_> {
        Ok(attributes.optional::<f64>(name)?.map(|value| Array::of(inputs[0].dtype, &[], [value])))
    };
    let (left, right) = (number("left")?, number("right")?);
    let (a, b) = match (inputs, &left, &right) {
        ([a, b], None, None) => (*a, *b),
        ([b], Some(a), None) => (a, *b),
        ([a], None, Some(b)) => (*a, b),
        _ => return Err(Error::plugin("needs two operands")),
    };
    let (shape, dtype) = (broadcast_shape(&[a, b])?, common(a.dtype, b.dtype)?);
    let dtype = if is_real { real(dtype) } else { dtype };
    Ok([a, b].map(|x| x.broadcast(&shape).map(dtype, |element| element.cast(dtype))))
}

fn compared(a: Number, b: Number) -> Option<Ordering> {
    match (a, b) {
        (Number::Whole(a), Number::Whole(b)) => Some(a.cmp(&b)),
        _ => a.real().partial_cmp(&b.real()),
    }
}

/// NaN is larger than all numbers.
fn compared_with_nan(a: Number, b: Number) -> Ordering {
    compared(a, b).unwrap_or_else(|| a.real().is_nan().cmp(&b.real().is_nan()))
}

fn reduced(op: OpKind, x: &Array, attributes: &Attributes<'_>) -> Result<Array> {
    let over = match attributes.optional::<&[i64]>("axes")? {
        Some(given) => axes(given, x)?,
        None => (0..x.shape.len()).collect(),
    };
    let kept: Vec<_> = (0..x.shape.len()).map(|axis| if over.contains(&axis) { 1 } else { x.shape[axis] }).collect();
    let mut groups = vec![Vec::new(); kept.iter().product()];
    for (mut index, &element) in indices(&x.shape).zip(&x.elements) {
        over.iter().for_each(|&axis| index[axis] = 0);
        groups[offset(&kept, &index)].push(element);
    }
    let dtype = if op == OpKind::SUM { sum_type(x.dtype) } else { x.dtype };
    let result = |group: Vec<Number>| match op {
        OpKind::SUM => Ok(sum_of(dtype, &group)),
        _ => {
            let of_two = if op == OpKind::MAX { OpKind::MAXIMUM } else { OpKind::MINIMUM };
            let extremum = group.into_iter().reduce(|a, b| binary(of_two, a, b));
            extremum.ok_or_else(|| Error::plugin(format!("{} of nothing", op.name())))
        }
    };
    let elements = groups.into_iter().map(result).collect::<Result<_>>()?;
    let shape = match attributes.optional("keep_dims")?.unwrap_or(false) {
        true => kept,
        false => (0..x.shape.len()).filter(|axis| !over.contains(axis)).map(|axis| x.shape[axis]).collect(),
    };
    Ok(Array { dtype, shape, elements })
}

/// The type of sums.
fn sum_type(dtype: Dtype) -> Dtype {
    match dtype {
        Dtype::BOOL | Dtype::I8 | Dtype::I16 => Dtype::I32,
        Dtype::U8 | Dtype::U16 => Dtype::U32,
        other => other,
    }
}

fn sum_of(dtype: Dtype, elements: &[Number]) -> Number {
    match dtype.is_float() {
        true => Number::Real(elements.iter().map(|element| element.real()).sum()),
        false => Number::Whole(wrapped(dtype, elements.iter().map(|element| element.whole()).sum())),
    }
}

fn matmul(a: &Array, b: &Array) -> Result<Array> {
    let (a_rank, b_rank) = (a.shape.len(), b.shape.len());
    let [rows, inner] = [a.shape[a_rank - 2], a.shape[a_rank - 1]];
    let columns = b.shape[b_rank - 1];
    let outer = |x: &Array| Array { dtype: x.dtype, shape: x.shape[..x.shape.len() - 2].to_vec(), elements: vec![] };
    let batch = broadcast_shape(&[&outer(a), &outer(b)])?;
    let a = a.broadcast(&[&batch[..], &[rows, inner]].concat());
    let b = b.broadcast(&[&batch[..], &[inner, columns]].concat());
    let shape = [&batch[..], &[rows, columns]].concat();
    let elements = (0..shape.iter().product::<usize>()).map(|place| {
        let (matrix, row, column) = (place / (rows * columns), place / columns % rows, place % columns);
        let product = |k: usize| -> f64 {
            a.elements[(matrix * rows + row) * inner + k].real()
                * b.elements[(matrix * inner + k) * columns + column].real()
        };
        Number::Real((0..inner).map(product).sum())
    });
    Ok(Array { dtype: real(common(a.dtype, b.dtype)?), elements: elements.collect(), shape })
}

/// Applies a function to every row of elements along an axis.
fn along(x: &Array, axis: usize, dtype: Dtype, of: impl Fn(&[Number]) -> Vec<Number>) -> Result<Array> {
    let mut result = x.map(dtype, |_| Number::Whole(0));
    for index in indices(&x.shape).filter(|index| index[axis] == 0) {
        let lane: Vec<_> = (0..x.shape[axis]).map(|place| offset(&x.shape, &at(&index, axis, place))).collect();
        let elements: Vec<_> = lane.iter().map(|&place| x.elements[place]).collect();
        lane.into_iter().zip(of(&elements)).for_each(|(place, element)| result.elements[place] = element);
    }
    Ok(result)
}

/// An index with another place on one axis.
fn at(index: &[usize], axis: usize, place: usize) -> Vec<usize> {
    let mut index = index.to_vec();
    index[axis] = place;
    index
}

fn moved(index: &[usize], start: &[i64]) -> Vec<usize> {
    index.iter().zip(start).map(|(&at, &start)| at + start as usize).collect()
}

/// Indices, checked, and those that count from the end counted from the start.
fn places(op: OpKind, chosen: &Array, length: usize) -> Result<Vec<usize>> {
    let place = |element: &Number| {
        let index = element.whole();
        let from_start = if index < 0 { index + length as i128 } else { index };
        if (0..length as i128).contains(&from_start) {
            return Ok(from_start as usize);
        }
        Err(Error::plugin(format!("{}: index {index} is out of range for an axis of length {length}", op.name())))
    };
    chosen.elements.iter().map(place).collect()
}

fn lengths(shape: &[i64]) -> Vec<usize> {
    shape.iter().map(|&length| length as usize).collect()
}

fn axis(attributes: &Attributes<'_>, x: &Array) -> Result<usize> {
    Ok(axes(&[attributes.required("axis")?], x)?[0])
}

fn axes(axes: &[i64], x: &Array) -> Result<Vec<usize>> {
    let rank = x.shape.len() as i64;
    let place = |&axis: &i64| match (-rank..rank).contains(&axis) {
        true => Ok(axis.rem_euclid(rank) as usize),
        false => Err(Error::plugin(format!("there is no axis {axis}"))),
    };
    axes.iter().map(place).collect()
}

fn common(a: Dtype, b: Dtype) -> Result<Dtype> {
    promoted(a, b).ok_or_else(|| Error::plugin(format!("{a} and {b} have no common type")))
}

fn broadcast_shape(inputs: &[&Array]) -> Result<Vec<usize>> {
    let rank = inputs.iter().map(|x| x.shape.len()).max().unwrap_or(0);
    let mut shape = vec![1; rank];
    for x in inputs {
        for (own, &length) in shape[rank - x.shape.len()..].iter_mut().zip(&x.shape) {
            match (*own, length) {
                (1, _) => *own = length,
                (_, 1) => {}
                (own, length) if own == length => {}
                _ => return Err(Error::plugin(format!("{:?} does not broadcast", x.shape))),
            }
        }
    }
    Ok(shape)
}
