//! Momentum in 8 bits, with a scale for each block of 24 elements.

use mdt_plugin_api::prelude::*;

/// Not a divisor of the host's slices.
const BLOCK: usize = 24;
/// The byte that stands for 0.
const ZERO: u8 = 128;

pub struct Blocks;

crate::component!(Blocks);

impl TypedStates for Blocks {
    fn states(&self, _parameter: &ParameterSpec) -> Result<Vec<StateSpec>> {
        let momentum = StateSpec::zeros("momentum").with_dtype(Dtype::U8).with_initial(Initial::Value(f64::from(ZERO)));
        Ok(vec![momentum, StateSpec::zeros("scale").with_shape(StateShape::Blocks(BLOCK))])
    }
}

impl TypedSlices for Blocks {
    fn granularity(&self, _parameter: &ParameterSpec) -> Granularity {
        Granularity::Block(BLOCK)
    }

    fn update(&self, update: &Update<'_>, param: &mut [f32], grad: &[f32], states: &mut [StateMut<'_>]) -> Result<()> {
        let [momentum, scales] = expect_states(states)?;
        let (momentum, scales) = (momentum.elements::<u8>()?, scales.elements::<f32>()?);
        if scales.len() != param.len().div_ceil(BLOCK) {
            return Err(Error::plugin(format!("{} elements came with {} scales", param.len(), scales.len())));
        }
        let blocks = param.chunks_mut(BLOCK).zip(grad.chunks(BLOCK)).zip(momentum.chunks_mut(BLOCK));
        for (((param, grad), bytes), scale) in blocks.zip(scales) {
            let mut momentum = [0.0f32; BLOCK];
            for ((m, byte), g) in momentum.iter_mut().zip(&*bytes).zip(grad) {
                *m = 0.9 * (f32::from(*byte) - f32::from(ZERO)) * *scale + g;
            }
            *scale = momentum.iter().fold(0.0f32, |largest, m| largest.max(m.abs())) / 127.0;
            for ((p, byte), m) in param.iter_mut().zip(bytes).zip(momentum) {
                *byte = if *scale == 0.0 { ZERO } else { (m / *scale).round() as i16 as u8 ^ ZERO };
                *p -= update.learning_rate as f32 * m;
            }
        }
        Ok(())
    }
}
