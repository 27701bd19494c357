//! Parameters without memory, of the types that the real ones will have, for planning.

use std::rc::Rc;

use mdt_plugin_api::{Compute, Dtype, Error, ParameterSpec, Tensor, TensorType};

use super::Directory;
use super::files::Files;
use super::holding::Holding;
use super::load::Loaded;
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
            let stored = stored.next();
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

/// The most bytes that weights take while they are loaded one after another: those that are there, and copies of the one that is
/// on its way. `is_drawn` where they are random, and not of files.
pub fn loading_bytes(specs: &[ParameterSpec], holding: Holding, is_drawn: bool) -> u64 {
    let (mut held, mut most) = (0_u64, 0_u64);
    for spec in specs.iter().filter(|spec| spec.tied_to.is_none()) {
        let (own, whole) = holding.bytes(spec);
        // Drawn numbers are made in host memory; those of files may be of half precision there, and are checked in float32.
        let beside = match (is_drawn, own == whole) {
            (true, true) => whole,
            (true, false) => whole.saturating_mul(2),
            (false, true) => 0,
            (false, false) => whole.saturating_add(whole / 2),
        };
        held = held.saturating_add(own);
        most = most.max(held.saturating_add(beside));
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
        let plain = |is_drawn| loading_bytes(&specs, Holding::PLAIN, is_drawn);
        assert_eq!(plain(false), 1011 * 64 * 4);
        assert_eq!(plain(true), (1001 + 1000) * 64 * 4);
        let quantised = Holding { quantize: Some(Packing { bits: 4, group_size: 64 }), ..Holding::PLAIN };
        let packed = 1001 * (64 / 2 + 2 * 4);
        assert_eq!(loading_bytes(&specs, quantised, true), packed + 2 * 1000 * 64 * 4);
        assert_eq!(loading_bytes(&specs, quantised, false), packed + 1500 * 64 * 4);
    }
}
