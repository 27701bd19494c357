//! A plugin that panics as soon as it is loaded.

use mdt_plugin_api::abi::OnLoad;
use mdt_plugin_api::prelude::*;

mdt_plugin_api::config! {
    /// No keys.
    pub struct NoKeys {}
}

struct Never;

impl Component for Never {
    type Config = NoKeys;

    fn create(_config: NoKeys, _setup: &Setup) -> Result<Self> {
        Ok(Self)
    }
}

impl Optimizer for Never {
    fn states(&self) -> Vec<StateSpec> {
        Vec::new()
    }

    fn update(&self, _: &Update<'_>, _: &mut [f32], _: &[f32], _: &mut [&mut [f32]]) -> Result<()> {
        Ok(())
    }
}

struct Panics;

impl OnLoad for Panics {
    fn on_load() {
        panic!("no entry")
    }
}

mdt_plugin_api::plugin! {
    on_load Panics;
    optimizer "never" => Never;
}
