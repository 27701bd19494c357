//! An optimizer with all abilities, each by a rule of its own.

use mdt_plugin_api::prelude::*;
use mdt_plugin_api::{Granularity, StateMut, StateRef, bf16};

use super::compute::tensor;
use super::faults::Faults;
use super::recorder::Recorder;
use super::source::Source;

/// The optimizer.
pub struct Momentum {
    faults: Faults,
    services: Services,
}

impl Component for Momentum {
    type Config = Faults;

    fn create(faults: Faults, setup: &Setup) -> Result<Self> {
        faults.at("create")?;
        Ok(Self { faults, services: setup.services.clone() })
    }
}

impl Drop for Momentum {
    fn drop(&mut self) {
        self.faults.panic_at("drop");
    }
}

impl Momentum {
    fn granularity_of(parameter: &ParameterSpec) -> Granularity {
        match parameter.shape.len() {
            0 => Granularity::Element,
            1 => Granularity::Block(4),
            _ => Granularity::Tensor,
        }
    }
}

impl Optimizer for Momentum {
    fn states(&self) -> Vec<StateSpec> {
        self.faults.panic_at("slices: states");
        let count = StateSpec::zeros("count").with_shape(StateShape::Scalar).with_initial(Initial::Value(2.5));
        vec![StateSpec::zeros("momentum"), count]
    }

    fn granularity(&self, parameter: &ParameterSpec) -> Granularity {
        self.faults.panic_at("slices: granularity");
        Self::granularity_of(parameter)
    }

    fn update(
        &self,
        update: &Update<'_>,
        parameter: &mut [f32],
        gradient: &[f32],
        states: &mut [&mut [f32]],
    ) -> Result<()> {
        self.faults.at("slices: update")?;
        let [momentum, count] = expect_states(states)?;
        count[0] += update.step as f32;
        for ((p, g), m) in parameter.iter_mut().zip(gradient).zip(momentum.iter_mut()) {
            *m += g;
            *p -= (update.learning_rate * f64::from(*m)) as f32;
        }
        self.services.metric(update.name, f64::from(parameter[0]));
        Ok(())
    }
}

impl TypedStates for Momentum {
    fn states(&self, parameter: &ParameterSpec) -> Result<Vec<StateSpec>> {
        self.faults.at("typed_states: states")?;
        let momentum = StateSpec::zeros("momentum").with_dtype(Dtype::BF16).with_initial(Initial::Parameter);
        let scales = StateSpec::zeros("scales").with_shape(StateShape::Blocks(4)).with_dtype(Dtype::U8);
        Ok(vec![momentum, scales, StateSpec::zeros("rows").with_shape(StateShape::Of(parameter.shape.clone()))])
    }
}

impl TypedSlices for Momentum {
    fn granularity(&self, parameter: &ParameterSpec) -> Granularity {
        self.faults.panic_at("typed_slices: granularity");
        Self::granularity_of(parameter)
    }

    fn update(
        &self,
        update: &Update<'_>,
        parameter: &mut [f32],
        gradient: &[f32],
        states: &mut [StateMut<'_>],
    ) -> Result<()> {
        self.faults.at("typed_slices: update")?;
        let [momentum, scales] = expect_states(states)?;
        scales.elements::<u8>()?.fill(update.step as u8);
        for ((p, g), m) in parameter.iter_mut().zip(gradient).zip(momentum.elements::<bf16>()?) {
            *m = bf16::from_f32(m.to_f32() + g);
            *p -= (update.learning_rate * m.to_f64()) as f32;
        }
        Ok(())
    }
}

impl DeviceOptimizer for Momentum {
    fn update(
        &self,
        update: &Update<'_>,
        parameter: &Tensor,
        gradient: &Tensor,
        states: &[Tensor],
    ) -> Result<NewValues> {
        self.faults.at("device: update")?;
        let [momentum] = states else { return Err(Error::plugin(format!("{} states", states.len()))) };
        let momentum = (momentum + gradient)?;
        let parameter = (parameter + &momentum.multiply(-update.learning_rate)?)?;
        Ok(NewValues { parameter, states: vec![momentum] })
    }
}

impl EvaluationWeights for Momentum {
    fn evaluation_weights(&self, update: &Update<'_>, weights: &mut [f32], states: &[StateRef<'_>]) -> Result<()> {
        self.faults.at("evaluation_weights")?;
        let momentum = states[0].elements::<bf16>()?;
        weights.iter_mut().zip(momentum).for_each(|(weight, m)| *weight = m.to_f32() * update.step as f32);
        // The whole update, as it came.
        self.services.log(LogLevel::Info, &format!("{update:?}"));
        Ok(())
    }
}

/// The methods that may fail.
pub const METHODS: &[&str] = &[
    "slices: states",
    "slices: granularity",
    "slices: update",
    "typed_states: states",
    "typed_slices: granularity",
    "typed_slices: update",
    "device: update",
    "evaluation_weights",
];

/// Calls each method.
pub fn exercise(recorder: &mut Recorder, source: &Source) {
    let (config, setup) = (recorder.config(), recorder.setup());
    let made = recorder.make("create", |_| String::new(), || source.optimizer(&config, &setup));
    let Some(optimizer) = made else { return };
    let slices = optimizer.slices.as_deref().expect("the ability");
    let typed_states = optimizer.typed_states.as_deref().expect("the ability");
    let typed_slices = optimizer.typed_slices.as_deref().expect("the ability");
    let device = optimizer.device.as_deref().expect("the ability");
    let weights = optimizer.evaluation_weights.as_deref().expect("the ability");
    let parameters = [vec![], vec![5], vec![2, 3]]
        .map(|shape| ParameterSpec::new("w", shape, Role::Norm, Init::Ones).alias("other").frozen().tied_to("v"));
    let next = || typed_states.states(&parameters[0]).map(drop);

    recorder.call_infallible("slices: states", || slices.states(), next);
    for parameter in &parameters {
        recorder.call_infallible("slices: granularity", || slices.granularity(parameter), next);
        recorder.call_shared("typed_states: states", || typed_states.states(parameter));
        recorder.call_infallible("typed_slices: granularity", || typed_slices.granularity(parameter), next);
    }
    for role in [Role::Other, Role::Linear, Role::Embedding, Role::Norm, Role::Experts] {
        let (layout, planned_steps) = match role {
            Role::Norm => (Layout::InOut, Some(9)),
            _ => (Layout::OutIn, None),
        };
        let first = Update::first("w", &[2]);
        let update = Update { role, layout, planned_steps, learning_rate: 0.1, weight_decay: 0.01, step: 3, ..first };
        recorder.call_shared("slices: update", || {
            let (mut parameter, mut momentum, mut count) = ([1.0, 2.0], [0.5, 0.25], [2.5]);
            slices.update(&update, &mut parameter, &[0.1, 0.2], &mut [&mut momentum, &mut count])?;
            Ok((parameter, momentum, count))
        });
        recorder.call_shared("typed_slices: update", || {
            let (mut parameter, mut momentum, mut scales) = ([1.0, 2.0], [bf16::ONE; 2], [0u8; 1]);
            let mut states = [StateMut::new(&mut momentum), StateMut::new(&mut scales)];
            typed_slices.update(&update, &mut parameter, &[0.1, 0.2], &mut states)?;
            Ok((parameter, momentum, scales))
        });
        recorder.call_shared("evaluation_weights", || {
            let mut written = [1.0, 2.0];
            weights.evaluation_weights(&update, &mut written, &[StateRef::new(&[bf16::ONE; 2])])?;
            Ok(written)
        });
    }
    let update = Update { learning_rate: 0.1, ..Update::first("w", &[2]) };
    // More states than lie on the stack, and of another type than the rule reads.
    recorder.call_shared("slices: update", || {
        slices.update(&update, &mut [1.0], &[0.1], &mut [&mut [], &mut [], &mut [], &mut [], &mut []])
    });
    recorder.call_shared("typed_slices: update", || {
        let mut states = [StateMut::new::<u8>(&mut []), StateMut::new::<f32>(&mut [])];
        typed_slices.update(&update, &mut [1.0], &[0.1], &mut states)
    });
    let compute = source.plain_compute();
    for count in [1, 0] {
        recorder.call("device: update", || {
            let [parameter, gradient, momentum] =
                [[1.0, 2.0], [0.1, 0.2], [0.5, 0.25]].map(|numbers| tensor(&compute, &numbers));
            let states = [momentum?];
            let new = device.update(&update, &parameter?, &gradient?, &states[..count])?;
            let states = new.states.iter().map(Tensor::to_vec::<f32>).collect::<Result<Vec<_>>>()?;
            Ok((new.parameter.to_vec::<f32>()?, states))
        });
    }
    recorder.drop("drop", optimizer);
}
