//! Updates on the device.

use mdt_plugin_api::prelude::*;

/// Momentum in bf16, and the number of updates as an integer.
pub struct Momentum;

crate::component!(Momentum);

impl TypedStates for Momentum {
    fn states(&self, parameter: &ParameterSpec) -> Result<Vec<StateSpec>> {
        let count = StateSpec::zeros("count").with_shape(StateShape::Scalar).with_dtype(Dtype::I32);
        let momentum = StateSpec::zeros("momentum").with_dtype(Dtype::BF16);
        Ok(if parameter.shape.len() == 1 { vec![momentum] } else { vec![momentum, count] })
    }
}

impl DeviceOptimizer for Momentum {
    fn update(&self, update: &Update<'_>, param: &Tensor, grad: &Tensor, states: &[Tensor]) -> Result<NewValues> {
        let [momentum, counts @ ..] = states else { return Err(Error::plugin("no momentum")) };
        let on = param.compute();
        let number = |value| Tensor::full(on, &[], value, Dtype::F32);
        let momentum = (&(&momentum.cast(Dtype::F32)? * &number(0.9)?)? + grad)?;
        let parameter = (param - &(&momentum * &number(update.learning_rate)?)?)?;
        let one = Tensor::full(on, &[1], 1.0, Dtype::I32)?;
        let counts = counts.iter().map(|count| count + &one);
        let states = std::iter::once(momentum.cast(Dtype::BF16)).chain(counts).collect::<Result<_>>()?;
        Ok(NewValues { parameter, states })
    }
}

/// Gradient descent with momentum on slices, and the same on the device.
pub struct Descent;

crate::component!(Descent);

impl Optimizer for Descent {
    fn states(&self) -> Vec<StateSpec> {
        vec![StateSpec::zeros("momentum")]
    }

    fn update(&self, _: &Update<'_>, _: &mut [f32], _: &[f32], _: &mut [&mut [f32]]) -> Result<()> {
        Err(Error::plugin("the host has a device and took slices"))
    }
}

impl DeviceOptimizer for Descent {
    fn update(&self, update: &Update<'_>, param: &Tensor, grad: &Tensor, states: &[Tensor]) -> Result<NewValues> {
        let number = |value| Tensor::full(param.compute(), &[], value, Dtype::F32);
        let [momentum] = states else { return Err(Error::plugin("no momentum")) };
        let momentum = (&(momentum * &number(0.9)?)? + grad)?;
        let parameter = (param - &(&momentum * &number(update.learning_rate)?)?)?;
        Ok(NewValues { parameter, states: vec![momentum] })
    }
}

mdt_plugin_api::config! {
    /// What is wrong with the third update.
    pub struct FaultKeys {
        /// `shape`, `states`, `dtype` or `panic`.
        by: String = "shape".to_owned(),
    }
}

/// Updates that are no updates.
pub struct Faults(FaultKeys);

impl Component for Faults {
    type Config = FaultKeys;

    fn create(config: FaultKeys, _setup: &Setup) -> Result<Self> {
        Ok(Self(config))
    }
}

impl Optimizer for Faults {
    fn states(&self) -> Vec<StateSpec> {
        vec![StateSpec::zeros("momentum")]
    }

    fn update(&self, _: &Update<'_>, _: &mut [f32], _: &[f32], _: &mut [&mut [f32]]) -> Result<()> {
        Err(Error::plugin("the host has a device and took slices"))
    }
}

impl DeviceOptimizer for Faults {
    fn update(&self, update: &Update<'_>, param: &Tensor, _: &Tensor, states: &[Tensor]) -> Result<NewValues> {
        let (mut parameter, mut states) =
            (param.try_clone()?, states.iter().map(Tensor::try_clone).collect::<Result<Vec<_>>>()?);
        if update.step == 3 {
            match self.0.by.as_str() {
                "states" => drop(states.pop()),
                "dtype" => states[0] = states[0].cast(Dtype::F16)?,
                "panic" => panic!("three is too much for this device"),
                _ => parameter = parameter.sum()?,
            }
        }
        Ok(NewValues { parameter, states })
    }
}
