//! The gradient of each primitive, made of operations: so it is right for every element type, and can be differentiated again.

use super::compose::{ints, to, wide};
use super::{Attribute, Attributes, OpKind, Value, attribute};
use crate::{Dtype, Error, Result, Tensor, TensorType};

/// A primitive that was applied, as a tape records it: all but its tensors, by which gradients are computed later. For compute
/// plugins whose library does not differentiate.
#[derive(Clone, Debug)]
pub struct Recorded {
    op: OpKind,
    /// `axis`, or `axes`, or all of the first input.
    axes: Vec<usize>,
    start: Vec<i64>,
    reverse: bool,
    exclusive: bool,
}

impl Recorded {
    /// Of an operation, its attributes, and the number of axes of its first input.
    ///
    /// # Errors
    /// An attribute of another kind.
    pub fn new(op: OpKind, attributes: &[Attribute<'_>], rank: usize) -> Result<Self> {
        let given = Attributes::new(attributes);
        let start = given.optional::<&[i64]>("start")?.unwrap_or_default().to_vec();
        let flag = |name| Ok::<_, Error>(given.optional(name)?.unwrap_or(false));
        Ok(Self { op, axes: given.axes(rank)?, start, reverse: flag("reverse")?, exclusive: flag("exclusive")? })
    }

    /// The gradient by one input, of its shape and type, given all inputs, the result, and the gradient by the result.
    ///
    /// # Errors
    /// The table names no gradient by this input.
    pub fn gradient(&self, inputs: &[&Tensor], result: &Tensor, gradient: &Tensor, place: usize) -> Result<Tensor> {
        let x = inputs.iter().map(|&input| widened(input)).collect::<Result<Vec<_>>>()?;
        let call = Call { recorded: self, x: &x, y: result, g: &widened(gradient)? };
        fitted(&call.gradient(place)?, &inputs[place].tensor_type()?)
    }
}

/// float16 and bfloat16 as float32.
fn widened(x: &Tensor) -> Result<Tensor> {
    to(x.try_clone()?, wide(x.tensor_type()?.dtype))
}

fn is_half(x: &Tensor) -> Result<bool> {
    let dtype = x.tensor_type()?.dtype;
    Ok(wide(dtype) != dtype)
}

/// A gradient as its tensor is: summed where that was broadcast, and converted back.
fn fitted(gradient: &Tensor, of: &TensorType) -> Result<Tensor> {
    let shape = gradient.shape()?;
    let leading = shape.len() - of.shape.len();
    let repeats = |&axis: &usize| axis < leading || (of.shape[axis - leading] == 1 && shape[axis] != 1);
    let axes: Vec<usize> = (0..shape.len()).filter(repeats).collect();
    let sum = if axes.is_empty() { gradient.try_clone()? } else { gradient.sum_axes(&ints(&axes), true)? };
    let sum = if shape.len() == of.shape.len() { sum } else { sum.reshape(&ints(&of.shape))? };
    to(sum, of.dtype)
}

fn transposed(x: &Tensor) -> Result<Tensor> {
    let mut axes: Vec<i64> = (0..x.shape()?.len() as i64).collect();
    let last = axes.len() - 1;
    axes.swap(last - 1, last);
    x.transpose(&axes)
}

/// 0 where a condition does not hold, also in the place of NaN.
fn masked(condition: &Tensor, x: &Tensor) -> Result<Tensor> {
    condition.select(x, &x.number(0.0)?)
}

/// Inputs and gradient, in float32 if they are in half precision, and the result.
struct Call<'a> {
    recorded: &'a Recorded,
    x: &'a [Tensor],
    y: &'a Tensor,
    g: &'a Tensor,
}

impl Call<'_> {
    fn zeros(&self, like: &Tensor) -> Result<Tensor> {
        self.g.number(0.0)?.broadcast_to(&ints(&like.shape()?))
    }

    /// The result as it was before it was rounded.
    fn result(&self) -> Result<Tensor> {
        if is_half(self.y)? {
            return Tensor::op(self.recorded.op, &self.x.iter().collect::<Vec<_>>(), &[]);
        }
        self.y.try_clone()
    }

    /// The part of the gradient from `start` on that has the shape of an input.
    fn part(&self, start: &[i64], shape: &[usize]) -> Result<Tensor> {
        let stop: Vec<i64> = start.iter().zip(ints(shape)).map(|(start, length)| start + length).collect();
        self.g.slice(start, &stop)
    }

    /// The gradient by an input, of the shape that it has after broadcasting.
    fn gradient(&self, place: usize) -> Result<Tensor> {
        let Self { recorded: Recorded { op, axes, start, reverse, exclusive }, x, g, .. } = *self;
        let axis = axes.first().map_or(0, |&axis| axis as i64);
        let shape = x[place].shape()?;
        let is_first = place == 0;
        match *op {
            OpKind::ADD | OpKind::CAST | OpKind::BROADCAST_TO => g.try_clone(),
            OpKind::SUBTRACT | OpKind::REMAINDER | OpKind::SCATTER_ADD if is_first => g.try_clone(),
            OpKind::SUBTRACT | OpKind::NEGATIVE => g.negative(),
            OpKind::MULTIPLY => g * &x[1 - place],
            OpKind::DIVIDE if is_first => g / &x[1],
            OpKind::DIVIDE => (&(g / &x[1])? * &self.result()?)?.negative(),
            OpKind::MAXIMUM | OpKind::MINIMUM => {
                let is_of_first = if *op == OpKind::MAXIMUM { x[0].greater(&x[1])? } else { x[0].less(&x[1])? };
                masked(&if is_first { is_of_first } else { is_of_first.logical_not()? }, g)
            }
            OpKind::POWER if is_first => {
                // An exponent of unsigned integers has no -1.
                let exponent = x[1].cast(g.tensor_type()?.dtype)?;
                masked(&exponent.not_equal(0.0)?, &(&(g * &exponent)? * &x[0].power(&exponent.plus(-1.0)?)?)?)
            }
            OpKind::POWER => masked(&x[0].not_equal(0.0)?, &(&(g * &self.result()?)? * &x[0].log()?)?),
            OpKind::REMAINDER => (g * &x[0].floor_divide(&x[1])?)?.negative(),
            OpKind::EXP => g * &self.result()?,
            OpKind::LOG => g / &x[0],
            OpKind::SQRT => g / &self.result()?.multiply(2.0)?,
            OpKind::TANH => g * &(1.0 - &self.result()?.square()?)?,
            OpKind::ABS => g * &x[0].sign()?,
            OpKind::SIN => g * &x[0].cos()?,
            OpKind::COS => g * &x[0].sin()?.negative()?,
            OpKind::ERF => g * &x[0].square()?.negative()?.exp()?.multiply(std::f64::consts::FRAC_2_SQRT_PI)?,
            OpKind::LOG1P => g / &x[0].plus(1.0)?,
            OpKind::SUM => g.reshape(&self.kept(&shape))?.broadcast_to(&ints(&shape)),
            OpKind::MAX | OpKind::MIN => {
                let is_extreme = x[0].equal(&widened(self.y)?.reshape(&self.kept(&shape))?)?;
                let part = (&g.reshape(&self.kept(&shape))? / &is_extreme.sum_axes(&ints(axes), true)?)?;
                masked(&is_extreme, &part.broadcast_to(&ints(&shape))?)
            }
            OpKind::CUMULATIVE_SUM => {
                let flags =
                    [attribute("reverse", Value::Bool(!reverse)), attribute("exclusive", Value::Bool(*exclusive))];
                Tensor::op(*op, &[g], &[&[attribute("axis", Value::Int(axis))], &flags[..]].concat())
            }
            OpKind::MATMUL if is_first => g.matmul(&transposed(&x[1])?),
            OpKind::MATMUL if shape.len() == 2 => {
                // One product for all matrices that this one was multiplied with.
                let rows = |x: &Tensor| -> Result<Tensor> {
                    let (last, others) = x.shape()?.split_last().map_or((0, 0), |(&n, all)| (n, all.iter().product()));
                    x.reshape(&ints(&[others, last]))
                };
                transposed(&rows(&x[0])?)?.matmul(&rows(g)?)
            }
            OpKind::MATMUL => transposed(&x[0])?.matmul(g),
            OpKind::RESHAPE => g.reshape(&ints(&shape)),
            OpKind::TRANSPOSE => {
                let mut back = vec![0; shape.len()];
                axes.iter().enumerate().for_each(|(to, &from)| back[from] = to as i64);
                g.transpose(&back)
            }
            OpKind::CONCATENATE => {
                let mut start = vec![0; shape.len()];
                for x in &x[..place] {
                    start[axes[0]] += x.shape()?[axes[0]] as i64;
                }
                self.part(&start, &shape)
            }
            OpKind::SLICE => self.zeros(&x[0])?.slice_update(g, start),
            OpKind::SLICE_UPDATE if is_first => g.slice_update(&self.zeros(&x[1])?, start),
            OpKind::SLICE_UPDATE => self.part(start, &shape),
            OpKind::TAKE => {
                // Each index once for every element of the row that it names.
                let count = x[1].shape()?.iter().product::<usize>() as i64;
                let (mut all, mut along) = (ints(&shape), vec![1; shape.len()]);
                (all[axes[0]], along[axes[0]]) = (count, count);
                let indices = x[1].reshape(&along)?.broadcast_to(&all)?;
                self.zeros(&x[0])?.scatter_add(&indices, &g.reshape(&all)?, axis)
            }
            OpKind::TAKE_ALONG_AXIS => self.zeros(&x[0])?.scatter_add(&x[1], g, axis),
            OpKind::WHERE if place == 1 => masked(&x[0], g),
            OpKind::WHERE => masked(&x[0].logical_not()?, g),
            OpKind::SCATTER_ADD => g.take_along_axis(&x[1], axis),
            OpKind::SCATTER if is_first => g.scatter(&x[1], &self.zeros(&x[2])?, axis),
            OpKind::SCATTER => {
                // An update counts where its own number is what is found after the numbers have been scattered.
                let count = shape.iter().product::<usize>() as i64;
                let numbers = Tensor::arange(g.compute(), count, Dtype::I64)?.reshape(&ints(&shape))?;
                let last = self.zeros(&x[0])?.cast(Dtype::I64)?.scatter(&x[1], &numbers, axis)?;
                let is_last = last.take_along_axis(&x[1], axis)?.equal(&numbers)?;
                masked(&is_last, &g.take_along_axis(&x[1], axis)?)
            }
            _ => Err(Error::plugin(format!("{} has no gradient by input {place}", op.name()))),
        }
    }

    /// The shape of an input with 1 for the axes that were reduced.
    fn kept(&self, shape: &[usize]) -> Vec<i64> {
        let axes = &self.recorded.axes;
        shape.iter().enumerate().map(|(axis, &length)| if axes.contains(&axis) { 1 } else { length as i64 }).collect()
    }
}
