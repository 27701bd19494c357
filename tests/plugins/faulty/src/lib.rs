//! Components that misbehave, each in one way.

mod model;
mod states;
mod trainer;

use mdt_plugin_api::prelude::*;

mdt_plugin_api::config! {
    /// No keys.
    pub struct NoKeys {}
}

/// SGD until update 3, where it panics.
struct PanicsAtThree;

impl Component for PanicsAtThree {
    type Config = NoKeys;

    fn create(_config: NoKeys, _setup: &Setup) -> Result<Self> {
        Ok(Self)
    }
}

impl Optimizer for PanicsAtThree {
    fn states(&self) -> Vec<StateSpec> {
        Vec::new()
    }

    fn update(
        &self,
        update: &Update<'_>,
        parameter: &mut [f32],
        gradient: &[f32],
        _states: &mut [&mut [f32]],
    ) -> Result<()> {
        assert!(update.step < 3, "three is too much for me");
        let rate = update.learning_rate as f32;
        parameter.iter_mut().zip(gradient).for_each(|(parameter, gradient)| *parameter -= rate * gradient);
        Ok(())
    }
}

/// An optimizer that cannot even be made.
struct PanicsWhenMade;

impl Component for PanicsWhenMade {
    type Config = NoKeys;

    fn create(_config: NoKeys, _setup: &Setup) -> Result<Self> {
        panic!("born to fail")
    }
}

impl Optimizer for PanicsWhenMade {
    fn states(&self) -> Vec<StateSpec> {
        Vec::new()
    }

    fn update(&self, _: &Update<'_>, _: &mut [f32], _: &[f32], _: &mut [&mut [f32]]) -> Result<()> {
        Ok(())
    }
}

mdt_plugin_api::plugin! {
    optimizer "panics_at_three" => PanicsAtThree;
    optimizer "panics_when_made" => PanicsWhenMade;
    optimizer "states" => states::States;
    trainer "bytes" => trainer::Bytes;
    model "declares" => model::Declares;
}
