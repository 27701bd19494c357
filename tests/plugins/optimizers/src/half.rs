//! Momentum in bf16, and a running mean of the weights in f16 that starts as them.

use mdt_plugin_api::prelude::*;
use mdt_plugin_api::{bf16, f16};

pub struct Half;

crate::component!(Half);

impl TypedStates for Half {
    fn states(&self, _parameter: &ParameterSpec) -> Result<Vec<StateSpec>> {
        let mean = StateSpec::zeros("mean").with_dtype(Dtype::F16).with_initial(Initial::Parameter);
        Ok(vec![StateSpec::zeros("momentum").with_dtype(Dtype::BF16), mean])
    }
}

impl TypedSlices for Half {
    fn granularity(&self, _parameter: &ParameterSpec) -> Granularity {
        Granularity::Element
    }

    fn update(&self, update: &Update<'_>, param: &mut [f32], grad: &[f32], states: &mut [StateMut<'_>]) -> Result<()> {
        let [momentum, mean] = expect_states(states)?;
        let (momentum, mean) = (momentum.elements::<bf16>()?, mean.elements::<f16>()?);
        for (((p, g), momentum), mean) in param.iter_mut().zip(grad).zip(momentum).zip(mean) {
            *momentum = bf16::from_f32(0.9 * momentum.to_f32() + g);
            // A weak pull to the mean, so that it changes the weights.
            *p -= update.learning_rate as f32 * (momentum.to_f32() + 0.1 * (*p - mean.to_f32()));
            *mean = f16::from_f32(0.99 * mean.to_f32() + 0.01 * *p);
        }
        Ok(())
    }
}
