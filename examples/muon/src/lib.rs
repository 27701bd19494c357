//! The optimizer Muon (Jordan and others 2024, <https://kellerjordan.github.io/posts/muon/>) as a plugin for `mdt-host`,
//! on the device.
//!
//! The weight of a hidden linear layer moves along its momentum, made orthogonal: all its directions get steps of the same
//! length. What is not a hidden matrix (embeddings, the head, norms, biases) is updated by AdamW.

mod adamw;
mod orthogonal;

use mdt_plugin_api::prelude::*;

mdt_plugin_api::config! {
    /// Keys of the optimizer `muon`. The defaults are those of `torch.optim.Muon` and `torch.optim.AdamW`.
    pub struct Config {
        /// Decay of the momentum of hidden matrices.
        momentum: f64 = 0.95,
        /// Whether a step looks ahead along the momentum (Nesterov).
        nesterov: bool = true,
        /// Iterations that make a step orthogonal.
        iterations: u32 = 5,
        /// The weights of linear layers that are not hidden.
        heads: Vec<String> = vec!["lm_head.weight".to_owned()],
        /// AdamW's decay of the running mean of the gradient.
        beta1: f64 = 0.9,
        /// AdamW's decay of the running mean of the squared gradient.
        beta2: f64 = 0.999,
        /// Added to AdamW's denominator.
        eps: f64 = 1e-8,
    }
}

struct Muon(Config);

impl Component for Muon {
    type Config = Config;

    fn create(config: Config, _setup: &Setup) -> Result<Self> {
        Ok(Self(config))
    }
}

impl Muon {
    fn is_hidden(&self, name: &str, shape: &[usize], role: Role) -> bool {
        role == Role::Linear && shape.len() == 2 && !self.0.heads.iter().any(|head| head == name)
    }
}

impl TypedStates for Muon {
    fn states(&self, parameter: &ParameterSpec) -> Result<Vec<StateSpec>> {
        Ok(match self.is_hidden(&parameter.name, &parameter.shape, parameter.role) {
            true => vec![StateSpec::zeros("momentum")],
            false => vec![StateSpec::zeros("exp_avg"), StateSpec::zeros("exp_avg_sq")],
        })
    }
}

impl DeviceOptimizer for Muon {
    fn update(&self, update: &Update, param: &Tensor, grad: &Tensor, states: &[Tensor]) -> Result<NewValues> {
        if !self.is_hidden(update.name, update.shape, update.role) {
            return adamw::update(&self.0, update, param, grad, states);
        }
        let [momentum] = states else { return Err(Error::plugin("a hidden matrix has one state")) };
        let decay = self.0.momentum;
        let momentum = (&momentum.multiply(decay)? + &grad.multiply(1.0 - decay)?)?;
        let step = match self.0.nesterov {
            true => (&grad.multiply(1.0 - decay)? + &momentum.multiply(decay)?)?,
            false => momentum.try_clone()?,
        };
        let step = orthogonal::nearest(&step, self.0.iterations)?;
        // A step of a matrix with more outputs than inputs would change its outputs less.
        let [outputs, inputs] = match update.layout {
            Layout::OutIn => [update.shape[0], update.shape[1]],
            Layout::InOut => [update.shape[1], update.shape[0]],
        };
        let rate = update.learning_rate * (outputs as f64 / inputs as f64).max(1.0).sqrt();
        let kept = param.multiply(1.0 - update.learning_rate * update.weight_decay)?;
        Ok(NewValues { parameter: (&kept - &step.multiply(rate)?)?, states: vec![momentum] })
    }
}

mdt_plugin_api::plugin! { optimizer "muon" => Muon: device, typed_states; }
