//! The optimizer Lion (Chen et al. 2023, <https://arxiv.org/abs/2302.06675>) as a plugin for `mdt-host`.

use mdt_plugin_api::prelude::*;

mdt_plugin_api::config! {
    /// Keys of the optimizer `lion`.
    pub struct Config {
        /// Weight of the momentum in the direction of an update.
        beta1: f64 [0.0..1.0] = 0.9,
        /// Decay of the momentum.
        beta2: f64 [0.0..1.0] = 0.99,
    }
}

struct Lion(Config);

impl Component for Lion {
    type Config = Config;

    fn create(config: Config, _setup: &Setup) -> Result<Self> {
        Ok(Self(config))
    }
}

impl Optimizer for Lion {
    fn states(&self) -> Vec<StateSpec> {
        vec![StateSpec::zeros("momentum")]
    }

    fn update(&self, update: &Update, param: &mut [f32], grad: &[f32], states: &mut [&mut [f32]]) -> Result<()> {
        let [momentum] = expect_states(states)?;
        let (beta1, beta2) = (self.0.beta1 as f32, self.0.beta2 as f32);
        let (rate, decay) = (update.learning_rate as f32, update.weight_decay as f32);
        for ((p, &g), m) in param.iter_mut().zip(grad).zip(momentum.iter_mut()) {
            let direction = beta1 * *m + (1.0 - beta1) * g;
            let sign = if direction == 0.0 { 0.0 } else { direction.signum() };
            *p -= rate * (sign + decay * *p);
            *m = beta2 * *m + (1.0 - beta2) * g;
        }
        Ok(())
    }
}

mdt_plugin_api::plugin! { optimizer "lion" => Lion; }

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn steps_are_as_long_as_the_learning_rate_and_follow_the_momentum() {
        let lion = Lion(Config::default());
        let update = Update { learning_rate: 0.25, weight_decay: 0.5, ..Update::first("weight", &[3]) };
        let (mut param, mut momentum) = ([1.0, 1.0, 1.0], [0.0, 0.0, 0.5]);

        // The last gradient points against a momentum that outweighs it.
        lion.update(&update, &mut param, &[2.0, 0.0, -0.5], &mut [&mut momentum]).unwrap();

        assert_eq!(param, [0.625, 0.875, 0.625]);
        assert_eq!(momentum.map(|m| (m * 1000.0).round()), [20.0, 0.0, 490.0]);
    }
}
