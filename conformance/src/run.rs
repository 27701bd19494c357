//! Runs calls on a device and compares what comes.

use std::rc::Rc;

use mdt_plugin_api::op::{Attributes, attribute, compose};
use mdt_plugin_api::{Attribute, Compute, Dtype, Error, HostArrayRef, OpKind, Result, Tensor, Value};

use crate::array::{Array, Number, ulp};
use crate::case::{Case, Input, Layout, shown};
use crate::reference::Reference;
use crate::tolerance;

/// The device under test, and what it is compared with.
pub struct Bench {
    pub compute: Rc<dyn Compute>,
    pub reference: Rc<Reference>,
}

/// Applies an operation as a host does: composed of others where the device does not have it.
pub fn apply(
    compute: &Rc<dyn Compute>,
    op: OpKind,
    inputs: &[Option<&Tensor>],
    attributes: &[Attribute<'_>],
) -> Result<Vec<Tensor>> {
    let handles: Vec<_> = inputs.iter().map(|input| input.map_or(0, Tensor::handle)).collect();
    let mut results = vec![0; op.definition().map_or(1, |definition| definition.results)];
    if let Err(error) = compute.op(op, &handles, attributes, &mut results) {
        let dtype = match inputs.first().copied().flatten() {
            Some(first) => first.tensor_type()?.dtype,
            None => dtype_of(attributes).unwrap_or(Dtype::F32),
        };
        if has(compute, op, attributes, dtype) {
            return Err(error);
        }
        compose(compute, op, &handles, attributes, &mut results)?;
    }
    Ok(results.into_iter().map(|handle| Tensor::from_handle(compute, handle)).collect())
}

/// Whether the device says that it has an operation.
pub fn has(compute: &Rc<dyn Compute>, op: OpKind, attributes: &[Attribute<'_>], dtype: Dtype) -> bool {
    let names: Vec<_> = attributes.iter().map(|attribute| attribute.name).collect();
    compute.supports(op, &names, dtype)
}

fn dtype_of(attributes: &[Attribute<'_>]) -> Option<Dtype> {
    attributes.iter().find_map(|attribute| match attribute.value {
        Value::Dtype(dtype) => Some(dtype),
        _ => None,
    })
}

/// An array as a tensor.
pub fn tensor(compute: &Rc<dyn Compute>, array: &Array) -> Result<Tensor> {
    let array = HostArrayRef { dtype: array.dtype, shape: &array.shape, bytes: &array.bytes() };
    Ok(Tensor::from_handle(compute, compute.from_host(array)?))
}

/// A tensor's elements.
pub fn array(tensor: &Tensor) -> Result<Array> {
    let tensor_type = tensor.tensor_type()?;
    let mut bytes = vec![0; tensor_type.shape.iter().product::<usize>() * tensor_type.dtype.size()];
    tensor.compute().read(tensor.handle(), tensor_type.dtype, &mut bytes)?;
    Ok(Array::from_bytes(tensor_type, &bytes))
}

/// An input, laid out as its case says.
pub fn laid_out(compute: &Rc<dyn Compute>, Input { array, layout }: &Input) -> Result<Tensor> {
    let shape = &array.shape;
    let signed = |lengths: &[usize]| lengths.iter().map(|&length| length as i64).collect::<Vec<_>>();
    match layout {
        Layout::Plain => tensor(compute, array),
        Layout::Transposed => {
            let opposite: Vec<_> = shape.iter().rev().copied().collect();
            let stored = array.picked(&opposite, |index| {
                let own: Vec<_> = index.iter().rev().copied().collect();
                crate::array::offset(shape, &own)
            });
            let axes: Vec<_> = (0..shape.len() as i64).rev().collect();
            one(apply(
                compute,
                OpKind::TRANSPOSE,
                &[Some(&tensor(compute, &stored)?)],
                &[attribute("axes", Value::Ints(&axes))],
            )?)
        }
        Layout::Sliced => {
            let larger: Vec<_> = shape.iter().map(|length| length + 3).collect();
            let filler = array.elements.first().map_or(0.0, |element| element.real());
            let mut stored = Array::of(array.dtype, &larger, vec![filler; larger.iter().product()]);
            for (index, &element) in crate::array::indices(shape).zip(&array.elements) {
                let place: Vec<_> = index.iter().map(|at| at + 1).collect();
                stored.elements[crate::array::offset(&larger, &place)] = element;
            }
            let (start, stop) =
                (vec![1; shape.len()], shape.iter().map(|&length| length as i64 + 1).collect::<Vec<_>>());
            let attributes = [attribute("start", Value::Ints(&start)), attribute("stop", Value::Ints(&stop))];
            one(apply(compute, OpKind::SLICE, &[Some(&tensor(compute, &stored)?)], &attributes)?)
        }
        Layout::Repeated => {
            let mut single = shape.clone();
            single[0] = 1;
            let stored = array.picked(&single, |index| crate::array::offset(shape, index));
            let shape = signed(shape);
            let attributes = [attribute("shape", Value::Ints(&shape))];
            one(apply(compute, OpKind::BROADCAST_TO, &[Some(&tensor(compute, &stored)?)], &attributes)?)
        }
    }
}

/// The only result.
pub fn one(results: Vec<Tensor>) -> Result<Tensor> {
    let [tensor]: [Tensor; 1] = results.try_into().map_err(|_| Error::plugin("more than one result"))?;
    Ok(tensor)
}

impl Bench {
    /// The inputs of a call on the device, and its results.
    pub fn applied(&self, case: &Case) -> Result<(Vec<Option<Tensor>>, Vec<Tensor>)> {
        let inputs =
            case.inputs.iter().map(|input| input.as_ref().map(|input| laid_out(&self.compute, input)).transpose());
        let inputs = inputs.collect::<Result<Vec<_>>>()?;
        let given: Vec<_> = inputs.iter().map(Option::as_ref).collect();
        let results = apply(&self.compute, case.op, &given, &case.attributes)?;
        Ok((inputs, results))
    }

    /// Runs a call with an index out of range: an error that names it, at the latest when the result is read.
    pub fn refuses_index(&self, case: &Case, index: i64) -> Result<(), String> {
        let read = || -> Result<_> {
            let (_inputs, results) = self.applied(case)?;
            array(&results[0])
        };
        match read() {
            // A composition may have replaced a negative index by one that is out of range anyway.
            Err(error)
                if error.to_string().contains(&index.to_string())
                    || matches!(case.op, OpKind::EMBEDDING | OpKind::GATHER_LINEAR) =>
            {
                Ok(())
            }
            Err(error) => Err(format!("{case} gave an error that does not name the index {index}: {error}")),
            Ok(_) => Err(format!("{case} gave a value for the index {index}")),
        }
    }

    /// Runs a call and compares its results with the reference's, and its inputs with what they were.
    pub fn compare(&self, case: &Case) -> Result<(), String> {
        let want = self.reference.evaluate(case.op, &case.arrays(), &case.attributes);
        let want = want.map_err(|error| format!("{case} has no reference: {error}"))?;
        let types: Vec<_> = case.arrays().iter().map(|input| input.map(Array::tensor_type)).collect();
        let types: Vec<_> = types.iter().map(Option::as_ref).collect();
        let inferred = case.op.definition().map(|definition| definition.infer(&types, &case.attributes));
        match inferred {
            Some(Ok(types)) if want.iter().map(Array::tensor_type).eq(types.iter().cloned()) => {}
            other => {
                return Err(format!(
                    "{case} should give {:?}, but infer says {other:?}",
                    want.iter().map(Array::tensor_type).collect::<Vec<_>>()
                ));
            }
        }
        let run = || -> Result<_> {
            let (inputs, results) = self.applied(case)?;
            let results = results.iter().map(array).collect::<Result<Vec<_>>>()?;
            let inputs =
                inputs.iter().map(|input| input.as_ref().map(array).transpose()).collect::<Result<Vec<_>>>()?;
            Ok((results, inputs))
        };
        let (got, inputs) = run().map_err(|error| format!("{case} gave an error: {error}"))?;
        let all = want;
        for (place, (got, want)) in got.iter().zip(&all).enumerate() {
            if (&got.shape, got.dtype) != (&want.shape, want.dtype) {
                return Err(format!("{case} gave {}{:?} and not {}{:?}", got.dtype, got.shape, want.dtype, want.shape));
            }
            let is_near = |at: usize, magnitudes: &[f64]| {
                let (got, want_element) = (got.elements[at], want.elements[at]);
                tolerance::is_near(case.op, want.dtype, got, want_element, magnitudes[at])
            };
            let evaluate = |inputs: &[Option<&Array>]| {
                self.reference.evaluate(case.op, inputs, &case.attributes).ok().map(|mut all| all.swap_remove(place))
            };
            let magnitudes = tolerance::magnitudes(case.op, &case.arrays(), want, evaluate);
            let wrong: Vec<_> = match (case.op, place) {
                (OpKind::QUANTIZE, 0) => words_that_differ(case, got, &all),
                (OpKind::QUANTIZE, _) => {
                    let weights = case.arrays()[0].expect("a weight");
                    let groups = want.elements.len().max(1);
                    let undecided = undecided_groups(weights, (weights.elements.len() / groups).max(1), bits_of(case));
                    (0..want.elements.len()).filter(|&at| !undecided[at] && !is_near(at, &magnitudes)).collect()
                }
                _ => (0..want.elements.len()).filter(|&at| !is_near(at, &magnitudes)).collect(),
            };
            if let Some(&first) = wrong.first() {
                return Err(format!("{case} gave {}", difference(got, want, first, wrong.len())));
            }
        }
        for (input, after) in case.arrays().into_iter().zip(inputs) {
            if input.map(Array::bytes) != after.map(|after| after.bytes()) {
                return Err(format!("{case} changed an input"));
            }
        }
        Ok(())
    }
}

/// Where a result differs first.
pub fn difference(got: &Array, want: &Array, first: usize, count: usize) -> String {
    let index = crate::array::indices(&want.shape).nth(first).unwrap_or_default();
    let (got, element) = (got.elements[first], want.elements[first]);
    let off = (got.real() - element.real()).abs() / ulp(want.dtype, element.real());
    let units = match want.dtype.is_float() && element.real() != 0.0 && off < 1e6 {
        true => format!(", {off:.1} units in the last place off"),
        false => String::new(),
    };
    let total = want.elements.len();
    format!(
        "{} at {index:?} and not {}{units} ({count} of {total} elements)",
        shown(want.dtype, got),
        shown(want.dtype, element)
    )
}

fn bits_of(case: &Case) -> usize {
    Attributes::new(&case.attributes).required::<i64>("bits").map_or(1, |bits| bits as usize)
}

/// The packed words of `quantize` that hold a number which is not the nearest one. In the middle of two, either will do.
fn words_that_differ(case: &Case, got: &Array, want: &[Array]) -> Vec<usize> {
    let attributes = Attributes::new(&case.attributes);
    let (bits, group_size) = (bits_of(case), attributes.required::<i64>("group_size").map_or(1, |size| size as usize));
    let weights = case.arrays()[0].expect("a weight");
    let (inner, words) = (weights.shape[weights.shape.len() - 1], got.shape[got.shape.len() - 1]);
    let undecided = undecided_groups(weights, group_size, bits);
    let is_wrong = |&place: &usize| {
        if undecided[place / group_size] {
            return false;
        }
        let (row, column) = (place / inner, place % inner);
        let bit = |at: usize| got.elements[row * words + at / 32].whole() >> (at % 32) & 1;
        let number = (0..bits).map(|at| bit(column * bits + at) << at).sum::<i128>() as f64;
        let [scale, bias] = [1, 2].map(|of| want[of].elements[place / group_size].real());
        let quotient = ((weights.elements[place].real() - bias) / scale).clamp(0.0, ((1 << bits) - 1) as f64);
        (number - quotient).abs() > 0.5 + 1e-4
    };
    (0..weights.elements.len())
        .filter(is_wrong)
        .map(|place| place / inner * words + place % inner * bits / 32)
        .collect()
}

/// The groups whose least or largest element lies in the middle of two steps, so that their scale may be one of two.
fn undecided_groups(weights: &Array, group_size: usize, bits: usize) -> Vec<bool> {
    let is_undecided = |group: &[Number]| {
        let (least, most) = group.iter().fold((f64::INFINITY, f64::NEG_INFINITY), |(least, most), element| {
            (least.min(element.real()), most.max(element.real()))
        });
        let steps = (least.abs().max(most.abs()) * ((1 << bits) - 1) as f64 / (most - least)).fract();
        (steps - 0.5).abs() < 1e-4
    };
    weights.elements.chunks(group_size).map(is_undecided).collect()
}
