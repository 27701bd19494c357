//! One parameter on the device, of what files have of it or of numbers that were drawn.

use std::rc::Rc;

use mdt_plugin_api::{Compute, Dtype, Error, HostArray, HostArrayRef, ParameterSpec, Result, Tensor};

use super::files::{Files, Named, Stored};
use super::holding::Holding;
use super::packing::Packing;
use super::weight::{Quantised, Weight};
use crate::exit::Failure;
use crate::finite::is_finite;

/// A parameter on the device.
pub(super) enum Loaded {
    /// Its elements: f32 where it is trained.
    Whole(Tensor),
    /// Words, scales and biases.
    Quantised([Tensor; 3], Packing),
}

impl Loaded {
    /// The tensors of a weight that is on the device already.
    pub(super) fn shared(weight: Weight<'_>) -> Result<Self> {
        Ok(match weight {
            Weight::Whole(tensor) => Self::Whole(tensor.try_clone()?),
            Weight::Quantised(Quantised { parts: [words, scales, biases], packing }) => {
                Self::Quantised([words.try_clone()?, scales.try_clone()?, biases.try_clone()?], packing)
            }
        })
    }
}

/// A parameter of files: as it is there where that is quantised, quantised where `holding` says so, else of the type that it says.
///
/// Of one that is converted or quantised here, a piece is there in float32 at a time.
///
/// # Errors
/// A number that is not finite.
pub(super) fn loaded<'a>(
    compute: &Rc<dyn Compute>,
    files: &Files,
    spec: &ParameterSpec,
    stored: &Stored<'a>,
    holding: Holding,
) -> Result<Loaded, Failure> {
    let finite = |&(name, array): &Named<'a>| match is_finite(array) {
        true => Ok(array),
        false => Err(files.not_finite(name)),
    };
    if let Some(packing) = stored.packing {
        let parts = stored.tensors.chunks_exact(3).map(|parts| {
            let [words, scales, biases] = parts else { return Err(Error::other("a part is missing").into()) };
            Ok([upload(compute, words.1)?, upload(compute, finite(scales)?)?, upload(compute, finite(biases)?)?])
        });
        return Ok(Loaded::Quantised(stacked_parts(spec, parts.collect::<Result<_, Failure>>()?, packing)?, packing));
    }
    let finite = stored.tensors.iter().map(finite);
    if let Some(packing) = holding.quantize.filter(|packing| packing.suits(spec)) {
        // Of the type that the files have, as MLX would give scales.
        let parts = finite.map(|array| Ok(quantised(compute, array?, packing)?));
        return Ok(Loaded::Quantised(stacked_parts(spec, parts.collect::<Result<_, Failure>>()?, packing)?, packing));
    }
    let tensors = finite.map(|array| {
        let array = array?;
        Ok(converted(compute, array, holding.planned(spec, Some(array.dtype)))?)
    });
    Ok(Loaded::Whole(stacked(tensors.collect::<Result<_, Failure>>()?, &spec.shape)?))
}

/// A parameter of these numbers, as `holding` says.
pub(super) fn drawn(
    compute: &Rc<dyn Compute>,
    spec: &ParameterSpec,
    numbers: &HostArray,
    holding: Holding,
) -> Result<Loaded, Failure> {
    let numbers = numbers.borrow();
    Ok(match holding.quantize.filter(|packing| packing.suits(spec)) {
        Some(packing) => Loaded::Quantised(quantised(compute, numbers, packing)?, packing),
        None => Loaded::Whole(converted(compute, numbers, holding.planned(spec, None))?),
    })
}

fn upload(compute: &Rc<dyn Compute>, array: HostArrayRef<'_>) -> Result<Tensor> {
    Ok(Tensor::from_handle(compute, compute.from_host(array)?))
}

/// Bytes of float32 that a weight has on the device at a time while it is converted: what is kept of them stays small, too.
pub(super) const PIECE: usize = 4 << 20;

/// The first row, the shape and the bytes of each piece of an array.
fn pieces(array: HostArrayRef<'_>) -> Vec<(usize, Vec<usize>, &[u8])> {
    let Some((&rows, rest)) = array.shape.split_first() else { return vec![(0, Vec::new(), array.bytes)] };
    let width = rest.iter().product::<usize>().max(1);
    let most = (PIECE / (width * size_of::<f32>())).max(1);
    let bytes = array.bytes.chunks((most * width * array.dtype.size()).max(1));
    let shape = |first: usize| [&[most.min(rows - first)], rest].concat();
    (0..rows).step_by(most).zip(bytes).map(|(first, bytes)| (first, shape(first), bytes)).collect()
}

/// An array of the host on the device, in this type.
fn converted(compute: &Rc<dyn Compute>, array: HostArrayRef<'_>, dtype: Dtype) -> Result<Tensor> {
    if array.dtype == dtype {
        return upload(compute, array);
    }
    let pieces = pieces(array);
    let axes: Vec<i64> = array.shape.iter().map(|&length| length as i64).collect();
    let mut whole = match pieces.len() {
        0 | 1 => upload(compute, array)?.cast(dtype)?,
        _ => Tensor::full(compute, &axes, 0.0, dtype)?,
    };
    if pieces.len() > 1 {
        for (first, shape, bytes) in pieces {
            let piece = upload(compute, HostArrayRef { dtype: array.dtype, shape: &shape, bytes })?.cast(dtype)?;
            let mut start = vec![0; shape.len()];
            start[0] = first as i64;
            // In its place: nothing else needs what was there.
            whole = whole.slice_update(&piece, &start)?;
            whole.eval()?;
        }
    }
    // Now, so that nothing holds on to what it was made of.
    whole.eval()?;
    Ok(whole)
}

/// An array of the host, quantised on the device.
fn quantised(compute: &Rc<dyn Compute>, array: HostArrayRef<'_>, packing: Packing) -> Result<[Tensor; 3]> {
    let mut parts: [Vec<Tensor>; 3] = Default::default();
    for (_, shape, bytes) in pieces(array) {
        let piece = upload(compute, HostArrayRef { dtype: array.dtype, shape: &shape, bytes })?;
        let of_piece = piece.quantize(packing.group_size as i64, packing.bits as i64)?;
        compute.eval(&of_piece.each_ref().map(Tensor::handle))?;
        parts.iter_mut().zip(of_piece).for_each(|(parts, part)| parts.push(part));
    }
    let [words, scales, biases] = parts.map(joined);
    Ok([words?, scales?, biases?])
}

/// The parts of a quantised parameter, of those that it is stacked from.
fn stacked_parts(spec: &ParameterSpec, each: Vec<[Tensor; 3]>, packing: Packing) -> Result<[Tensor; 3]> {
    let missing = || Error::other("a part is missing");
    let [words, scales, biases] = packing.shapes(&spec.shape).ok_or_else(missing)?;
    let mut lists = [Vec::new(), Vec::new(), Vec::new()];
    for parts in each {
        lists.iter_mut().zip(parts).for_each(|(list, part)| list.push(part));
    }
    let [of_words, of_scales, of_biases] = lists;
    Ok([stacked(of_words, &words)?, stacked(of_scales, &scales)?, stacked(of_biases, &biases)?])
}

/// The only tensor, or several along the first axis of this shape.
fn stacked(mut tensors: Vec<Tensor>, shape: &[usize]) -> Result<Tensor> {
    if let [_] = tensors.as_slice() {
        return Ok(tensors.remove(0));
    }
    let shape: Vec<i64> = shape.iter().map(|&length| length as i64).collect();
    let stacked = joined(tensors)?.reshape(&shape)?;
    stacked.eval()?;
    Ok(stacked)
}

/// The rows of all tensors.
fn joined(mut tensors: Vec<Tensor>) -> Result<Tensor> {
    if let [_] = tensors.as_slice() {
        return Ok(tensors.remove(0));
    }
    let joined = Tensor::concatenate(&tensors.iter().collect::<Vec<_>>(), 0)?;
    joined.eval()?;
    Ok(joined)
}
