//! Optimizers whose states are of every kind that a checkpoint can hold. They are written for their states and not for
//! how well they train.

mod average;
mod blocks;
mod device;
mod factored;
mod half;

mdt_plugin_api::config! {
    /// No keys.
    pub struct NoKeys {}
}

/// A component without keys that is a unit struct.
macro_rules! component {
    ($name:ident) => {
        impl mdt_plugin_api::Component for $name {
            type Config = crate::NoKeys;

            fn create(_config: crate::NoKeys, _setup: &mdt_plugin_api::Setup) -> mdt_plugin_api::Result<Self> {
                Ok(Self)
            }
        }
    };
}
use component;

mdt_plugin_api::plugin! {
    optimizer "factored" => factored::Factored: typed_states, typed_slices;
    optimizer "half" => half::Half: typed_states, typed_slices;
    optimizer "blocks" => blocks::Blocks: typed_states, typed_slices;
    optimizer "average" => average::Average: slices, evaluation_weights;
    optimizer "device" => device::Momentum: device, typed_states;
    optimizer "device_and_slices" => device::Descent: slices, device;
    optimizer "device_faults" => device::Faults: slices, device;
}
