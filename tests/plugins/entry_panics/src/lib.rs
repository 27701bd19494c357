//! A plugin that panics as soon as it is loaded, after it has left a mark where a test wants one.

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

/// The system's loader calls this before anybody can call anything else of the library.
#[cfg(target_os = "linux")]
#[used]
#[unsafe(link_section = ".init_array")]
static CONSTRUCTOR: extern "C" fn() = {
    extern "C" fn constructor() {
        let maps = std::fs::read_to_string("/proc/self/maps").unwrap_or_default();
        if let Some(mark) = std::env::var_os("TEST_PLUGIN_MARK").filter(|_| maps.contains("/marked/")) {
            let _ = std::fs::write(mark, "a constructor ran");
        }
    }
    constructor
};

mdt_plugin_api::plugin! {
    on_load Panics;
    optimizer "never" => Never;
}
