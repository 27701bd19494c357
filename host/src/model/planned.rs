//! Parameters without memory, of the types that the real ones will have, for planning.

use std::rc::Rc;

use mdt_plugin_api::{Compute, Dtype, Error, ParameterSpec, Tensor, TensorType};

use super::Directory;
use super::files::Files;
use super::holding::Holding;
use super::load::{Loaded, PIECE};
use super::parameters::Parameters;
use crate::exit::Failure;

impl Parameters {
    /// What [`Parameters::read`], or [`Parameters::random`] where there is no directory, will make; none where the device cannot
    /// plan.
    ///
    /// # Errors
    /// As [`Parameters::check`].
    pub fn planned(
        compute: &Rc<dyn Compute>,
        specs: Vec<ParameterSpec>,
        directory: Option<&Directory>,
        holding: Holding,
    ) -> Result<Option<Self>, Failure> {
        let any = TensorType { shape: Vec::new(), dtype: Dtype::F32 };
        let Some(handle) = compute.placeholder(&any)? else { return Ok(None) };
        compute.release(handle);
        let files = directory.map(Files::open).transpose()?;
        let mut stored = match &files {
            Some(files) => files.read_all(&specs)?.into_iter(),
            None => Vec::new().into_iter(),
        };
        Self::build(specs, |_, spec| {
            let stored = stored.next().flatten();
            let packed = stored.as_ref().and_then(|stored| stored.packing);
            let of_files = stored.as_ref().and_then(|stored| stored.tensors.last()).map(|(_, array)| array.dtype);
            let of_scales = of_files.unwrap_or(Dtype::F32);
            match packed.or(holding.quantize.filter(|packing| packing.suits(spec))) {
                Some(packing) => {
                    let shapes = packing.shapes(&spec.shape).ok_or_else(|| Error::other("a part is missing"))?;
                    let [words, scales, biases] = shapes;
                    let parts = [
                        placeholder(compute, words, Dtype::U32)?,
                        placeholder(compute, scales, of_scales)?,
                        placeholder(compute, biases, of_scales)?,
                    ];
                    Ok(Loaded::Quantised(parts, packing))
                }
                None => Ok(Loaded::Whole(placeholder(compute, spec.shape.clone(), holding.planned(spec, of_files))?)),
            }
        })
        .map(Some)
    }
}

/// The most bytes that weights take while they are loaded one after another: those that are there, and what those are made of that
/// are on their way. `is_drawn` where they are random, and not of files; numbers for so many weights are drawn `at_a_time` then.
pub fn loading_bytes(specs: &[ParameterSpec], holding: Holding, is_drawn: bool, at_a_time: usize) -> u64 {
    let own: Vec<_> = specs.iter().filter(|spec| spec.tied_to.is_none()).map(|spec| holding.bytes(spec)).collect();
    let (mut held, mut most) = (0_u64, 0_u64);
    for batch in own.chunks(at_a_time.max(1)) {
        let mut drawn =
            if is_drawn { batch.iter().fold(0, |sum: u64, &(_, whole)| sum.saturating_add(whole)) } else { 0 };
        for &(own, whole) in batch {
            // Before and after the conversion.
            let piece = if own == whole { 0 } else { 2 * whole.min(PIECE as u64) };
            held = held.saturating_add(own);
            most = most.max(held.saturating_add(drawn).saturating_add(piece));
            drawn = drawn.saturating_sub(whole);
        }
    }
    most
}

fn placeholder(compute: &Rc<dyn Compute>, shape: Vec<usize>, dtype: Dtype) -> Result<Tensor, Error> {
    let handle = compute.placeholder(&TensorType { shape, dtype })?;
    let handle = handle.ok_or_else(|| Error::plugin("the device can plan some types only"))?;
    Ok(Tensor::from_handle(compute, handle))
}

#[cfg(test)]
mod tests {
    use mdt_plugin_api::{Init, Role};

    use super::super::packing::Packing;
    use super::*;

    #[test]
    fn the_largest_weight_is_there_with_its_copies_while_it_is_loaded() {
        let spec = |name: &str, rows| ParameterSpec::new(name, [rows, 64], Role::Linear, Init::Ones).frozen();
        let specs = [spec("small", 1), spec("large", 1000), spec("last", 10), spec("large", 1000).tied_to("large")];
        let plain = |is_drawn, at_a_time| loading_bytes(&specs, Holding::PLAIN, is_drawn, at_a_time);
        assert_eq!(plain(false, 1), 1011 * 64 * 4);
        assert_eq!(plain(true, 1), (1001 + 1000) * 64 * 4);
        assert_eq!(plain(true, 3), (1001 + 1010) * 64 * 4, "numbers of the next ones are there too");
        let quantised = Holding { quantize: Some(Packing { bits: 4, group_size: 64 }), ..Holding::PLAIN };
        let packed = 1001 * (64 / 2 + 2 * 4);
        assert_eq!(loading_bytes(&specs, quantised, true, 1), packed + 3 * 1000 * 64 * 4);
        assert_eq!(loading_bytes(&specs, quantised, false, 1), packed + 2 * 1000 * 64 * 4);
        let huge = [spec("huge", 1 << 20)];
        let packed = (1 << 20) * (64 / 2 + 2 * 4);
        assert_eq!(loading_bytes(&huge, quantised, false, 1), packed + 2 * PIECE as u64, "only a piece is whole");
    }
}
