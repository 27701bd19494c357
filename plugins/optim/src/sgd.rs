//! Stochastic gradient descent with momentum, as `torch.optim.SGD` computes it.

mod kernel;
#[cfg(test)]
mod tests;

use kernel::Coefficients;
use mdt_plugin_api::prelude::*;

mdt_plugin_api::config! {
    /// Keys of the optimizer `sgd`. The host owns learning rate and weight decay.
    #[derive(PartialEq)]
    pub struct Config {
        /// Decay of the running sum of gradients; from 0, below 1. With 0 there is no sum, and no state. Default: 0.0.
        momentum: f64 = 0.0,
        /// Reduces the weight of each new gradient in the momentum, except the first; 0 to 1. Default: 0.0.
        dampening: f64 = 0.0,
        /// Whether to use Nesterov momentum; needs momentum, and no dampening. Default: false.
        nesterov: bool = false,
    }
}

/// The optimizer `sgd`.
///
/// Update number `t` of a parameter `p` with gradient `g`, learning rate `η`, weight decay `λ`, momentum `μ` and
/// dampening `τ`:
///
/// ```text
/// g ← g + λ p
/// b ← g                     at t = 1
/// b ← μ b + (1 − τ) g       at t > 1
/// p ← p − η b               or, with Nesterov's momentum: p ← p − η (g + μ b)
/// ```
///
/// Without momentum there is no `b`, and `p ← p − η g`. The decay is coupled: it is part of the gradient, and so of the
/// momentum. Dampening does not touch the first gradient. All of this is PyTorch's
/// (<https://docs.pytorch.org/docs/stable/generated/torch.optim.SGD.html>); its Nesterov momentum comes from Sutskever
/// and others 2013 (<https://proceedings.mlr.press/v28/sutskever13.html>).
///
/// # Reproducible bits
/// As with [`AdamW`](crate::AdamW): each element alone, never a fused multiply-add, the same bits on every processor and
/// however the host splits the work. PyTorch fuses where the processor can, and differs by rounding.
///
/// # Threads
/// It starts none: the host splits the work ([`Granularity::Element`]).
pub struct Sgd {
    config: Config,
}

impl Component for Sgd {
    type Config = Config;

    fn create(config: Config, _setup: &Setup) -> Result<Self> {
        Self::new(config)
    }
}

impl Sgd {
    /// An optimizer with these keys.
    ///
    /// # Errors
    /// A momentum outside of [0, 1), a dampening outside of [0, 1], or `nesterov` without momentum or with dampening.
    pub fn new(config: Config) -> Result<Self> {
        let Config { momentum, dampening, nesterov } = config;
        if !(0.0..1.0).contains(&momentum) {
            return Err(Error::config(format!("momentum must be at least 0 and less than 1, not {momentum}"))
                .with("key", "optimizer.momentum"));
        }
        if !(0.0..=1.0).contains(&dampening) {
            return Err(Error::config(format!("dampening must be at least 0 and at most 1, not {dampening}"))
                .with("key", "optimizer.dampening"));
        }
        if nesterov && (momentum == 0.0 || dampening != 0.0) {
            return Err(Error::config(format!(
                "nesterov needs a momentum above 0 and a dampening of 0, not {momentum} and {dampening}"
            ))
            .with("key", "optimizer.nesterov"));
        }
        Ok(Self { config })
    }

    /// The coefficients of one update.
    fn coefficients(&self, update: &Update<'_>) -> Coefficients {
        let Config { momentum, dampening, .. } = self.config;
        let first = update.step == 1;
        Coefficients {
            decay: update.weight_decay as f32,
            keep: if first { 0.0 } else { momentum as f32 },
            gradient_weight: if first { 1.0 } else { (1.0 - dampening) as f32 },
            look_ahead: momentum as f32,
            rate: update.learning_rate as f32,
        }
    }
}

impl Optimizer for Sgd {
    /// The name that PyTorch gives it; none without momentum.
    fn states(&self) -> Vec<StateSpec> {
        match self.config.momentum {
            0.0 => Vec::new(),
            _ => vec![StateSpec::zeros("momentum_buffer")],
        }
    }

    fn update(
        &self,
        update: &Update<'_>,
        parameter: &mut [f32],
        gradient: &[f32],
        states: &mut [&mut [f32]],
    ) -> Result<()> {
        let (given, coefficients) = (gradient.len(), self.coefficients(update));
        let expected = parameter.len();
        if self.config.momentum == 0.0 {
            let [] = expect_states(states)?;
            if given != expected {
                return Err(unequal(update, format!("a slice of {expected} parameters came with {given} gradients")));
            }
            kernel::plain(&coefficients, parameter, gradient);
            return Ok(());
        }
        let [momentum] = expect_states(states)?;
        if [given, momentum.len()] != [expected; 2] {
            let kept = momentum.len();
            let message = format!("a slice of {expected} parameters came with {given} gradients and a state of {kept}");
            return Err(unequal(update, message));
        }
        match self.config.nesterov {
            false => kernel::with_momentum(&coefficients, parameter, gradient, momentum),
            true => kernel::with_nesterov(&coefficients, parameter, gradient, momentum),
        }
        Ok(())
    }
}

fn unequal(update: &Update<'_>, message: String) -> Error {
    Error::plugin(message).with("parameter", update.name)
}
