//! One parameter on the device, of what files have of it or of numbers that were drawn.

use std::rc::Rc;

use mdt_plugin_api::{Compute, Dtype, Error, HostArray, ParameterSpec, Result, Tensor};

use super::files::{Files, Named, Stored};
use super::holding::Holding;
use super::packing::Packing;
use super::weight::{Quantised, Weight};
use crate::exit::Failure;
use crate::finite::all_finite;
use crate::staging;

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
/// Of one that is quantised here, one of the tensors that it is stacked from is whole at a time.
///
/// # Errors
/// A number that is not finite.
pub(super) fn loaded(
    compute: &Rc<dyn Compute>,
    files: &Files,
    spec: &ParameterSpec,
    stored: &Stored<'_>,
    holding: Holding,
) -> Result<Loaded, Failure> {
    let upload = |named: &Named<'_>| upload(compute, files, named);
    if let Some(packing) = stored.packing {
        let parts = stored.tensors.chunks_exact(3).map(|parts| {
            let [words, scales, biases] = parts else { return Err(Error::other("a part is missing").into()) };
            let words = Tensor::from_handle(compute, compute.from_host(words.1)?);
            Ok([words, upload(scales)?.0, upload(biases)?.0])
        });
        return Ok(Loaded::Quantised(stacked_parts(spec, parts.collect::<Result<_, Failure>>()?, packing)?, packing));
    }
    if let Some(packing) = holding.quantize.filter(|packing| packing.suits(spec)) {
        // Of the type that the files have, as MLX would give scales.
        let parts = stored.tensors.iter().map(|named| Ok(quantised(&upload(named)?.0, packing)?));
        return Ok(Loaded::Quantised(stacked_parts(spec, parts.collect::<Result<_, Failure>>()?, packing)?, packing));
    }
    let held = |named: &Named<'_>| {
        let (stored, wide) = upload(named)?;
        Ok(holding.of_files(spec, stored, wide)?)
    };
    let tensors = stored.tensors.iter().map(held).collect::<Result<Vec<_>, Failure>>()?;
    Ok(Loaded::Whole(stacked(tensors, &spec.shape)?))
}

/// A parameter of these numbers, as `holding` says.
pub(super) fn drawn(
    compute: &Rc<dyn Compute>,
    spec: &ParameterSpec,
    numbers: &HostArray,
    holding: Holding,
) -> Result<Loaded, Failure> {
    let whole = Tensor::from_host(compute, numbers)?;
    Ok(match holding.quantize.filter(|packing| packing.suits(spec)) {
        Some(packing) => Loaded::Quantised(quantised(&whole, packing)?, packing),
        None => Loaded::Whole(holding.of_numbers(spec, whole)?),
    })
}

/// A tensor of the type that it has in its file, and the same in f32, which has been checked.
fn upload(compute: &Rc<dyn Compute>, files: &Files, &(name, array): &Named<'_>) -> Result<(Tensor, Tensor), Failure> {
    let tensor = Tensor::from_handle(compute, compute.from_host(array)?);
    let wide = if array.dtype == Dtype::F32 { tensor.try_clone()? } else { tensor.cast(Dtype::F32)? };
    wide.eval()?;
    match staging::with_slices(std::slice::from_ref(&wide), |slices| Ok(all_finite(slices[0])))? {
        true => Ok((tensor, wide)),
        false => Err(files.not_finite(name)),
    }
}

fn quantised(whole: &Tensor, packing: Packing) -> Result<[Tensor; 3]> {
    let parts = whole.quantize(packing.group_size as i64, packing.bits as i64)?;
    // Nothing is to hold on to the whole weight.
    whole.compute().eval(&parts.each_ref().map(Tensor::handle))?;
    Ok(parts)
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
    let stacked = Tensor::concatenate(&tensors.iter().collect::<Vec<_>>(), 0)?.reshape(&shape)?;
    stacked.eval()?;
    Ok(stacked)
}
