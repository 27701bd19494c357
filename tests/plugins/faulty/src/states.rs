//! An optimizer that declares what its configuration says, and writes NaN where it says so.

use mdt_plugin_api::prelude::*;

mdt_plugin_api::config! {
    /// Keys of the optimizer `states`.
    pub struct StatesConfig {
        /// The names of its states.
        names: Vec<String> = Vec::new(),
        /// Whether they start as NaN.
        undefined_initial: bool = false,
        /// The update from which on the first state is NaN; 0: never.
        undefined_from: u64 = 0,
        /// Whether each update reports its number as the metric `update_number`.
        reports: bool = false,
    }
}

/// SGD with states that it does not use.
pub struct States {
    config: StatesConfig,
    services: Services,
}

impl Component for States {
    type Config = StatesConfig;

    fn create(config: StatesConfig, setup: &Setup) -> Result<Self> {
        Ok(Self { config, services: setup.services.clone() })
    }
}

impl Optimizer for States {
    fn states(&self) -> Vec<StateSpec> {
        let initial = Initial::Value(if self.config.undefined_initial { f64::NAN } else { 0.0 });
        let spec = |name: &String| StateSpec::zeros(name).with_initial(initial);
        self.config.names.iter().map(spec).collect()
    }

    fn update(
        &self,
        update: &Update<'_>,
        parameter: &mut [f32],
        gradient: &[f32],
        states: &mut [&mut [f32]],
    ) -> Result<()> {
        if self.config.reports {
            self.services.metric("update_number", update.step as f64);
        }
        if let Some(state) = states.first_mut().filter(|_| (1..=update.step).contains(&self.config.undefined_from)) {
            state.fill(f32::NAN);
        }
        let rate = update.learning_rate as f32;
        parameter.iter_mut().zip(gradient).for_each(|(parameter, gradient)| *parameter -= rate * gradient);
        Ok(())
    }
}
