//! Schedule-Free SGD (Defazio and others 2024, <https://arxiv.org/abs/2405.15682>): what is evaluated is an average.

use mdt_plugin_api::prelude::*;

/// The part of the average in the weights whose gradient is taken.
const BETA: f32 = 0.9;

pub struct Average;

crate::component!(Average);

impl Optimizer for Average {
    fn states(&self) -> Vec<StateSpec> {
        vec![StateSpec::zeros("z").with_initial(Initial::Parameter)]
    }

    fn update(&self, update: &Update<'_>, param: &mut [f32], grad: &[f32], states: &mut [&mut [f32]]) -> Result<()> {
        let [z] = expect_states(states)?;
        let (rate, newest) = (update.learning_rate as f32, 1.0 / update.step as f32);
        for ((y, g), z) in param.iter_mut().zip(grad).zip(z.iter_mut()) {
            *y += newest * (*z - *y) + rate * (BETA * (1.0 - newest) - 1.0) * g;
            *z -= rate * g;
        }
        Ok(())
    }
}

impl EvaluationWeights for Average {
    fn evaluation_weights(&self, _update: &Update<'_>, weights: &mut [f32], states: &[StateRef<'_>]) -> Result<()> {
        let z = states[0].elements::<f32>()?;
        weights.iter_mut().zip(z).for_each(|(y, z)| *y += (1.0 - 1.0 / BETA) * (z - *y));
        Ok(())
    }
}
