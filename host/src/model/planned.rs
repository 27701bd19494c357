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

fn placeholder(compute: &Rc<dyn Compute>, shape: Vec<usize>, dtype: Dtype) -> Result<Tensor, Error> {
    let handle = compute.placeholder(&TensorType { shape, dtype })?;
    let handle = handle.ok_or_else(|| Error::plugin("the device can plan some types only"))?;
    Ok(Tensor::from_handle(compute, handle))
}
