//! AdamW (Loshchilov and Hutter 2019, <https://arxiv.org/abs/1711.05101>), as `torch.optim.AdamW` computes it.

mod kernel;
#[cfg(test)]
mod tests;

use kernel::Coefficients;
use mdt_plugin_api::prelude::*;

mdt_plugin_api::config! {
    /// Keys of the optimizer `adamw`. The host owns learning rate and weight decay.
    #[derive(PartialEq)]
    pub struct Config {
        /// Decay of the running mean of the gradient; from 0, below 1.
        beta1: f64 = 0.9,
        /// Decay of the running mean of the squared gradient; from 0, below 1.
        beta2: f64 = 0.999,
        /// Added to the denominator, which keeps updates finite where gradients vanish.
        eps: f64 = 1e-8,
    }
}

/// The optimizer `adamw`.
///
/// Update number `t` of a parameter `p` with gradient `g`, learning rate `η` and weight decay `λ`:
///
/// ```text
/// p ← p · (1 − η λ)
/// m ← m + (1 − β₁) (g − m)
/// v ← β₂ v + (1 − β₂) g²
/// p ← p − η / (1 − β₁ᵗ) · m / (√v / √(1 − β₂ᵗ) + ε)
/// ```
///
/// The decay is decoupled from the gradient. Everything that is the same for all elements is computed in f64 and
/// rounded to f32 once, as PyTorch does; the order of the operations on elements is PyTorch's too.
///
/// # Reproducible bits
/// Each element is computed alone, with the operations of IEEE 754 that are exactly rounded and never with a fused
/// multiply-add. So the result has the same bits on every processor, with every vector width, and however the host
/// cuts parameters into slices for its threads. PyTorch does fuse where the processor can, and differs by rounding.
///
/// # Threads
/// It starts none: it updates the slice that it is given, on the thread that calls. The host splits the work
/// ([`Granularity::Element`]).
pub struct AdamW {
    config: Config,
}

impl Component for AdamW {
    type Config = Config;

    fn create(config: Config, _setup: &Setup) -> Result<Self> {
        Self::new(config)
    }
}

impl AdamW {
    /// An optimizer with these keys.
    ///
    /// # Errors
    /// A beta outside of [0, 1), or an eps that is negative or not finite.
    pub fn new(config: Config) -> Result<Self> {
        for (key, beta) in [("beta1", config.beta1), ("beta2", config.beta2)] {
            if !(0.0..1.0).contains(&beta) {
                return Err(Error::config(format!("{key} must be at least 0 and less than 1, not {beta}"))
                    .with("key", format!("optimizer.{key}")));
            }
        }
        if !config.eps.is_finite() || config.eps < 0.0 {
            return Err(Error::config(format!("eps must be a finite number of at least 0, not {}", config.eps))
                .with("key", "optimizer.eps"));
        }
        Ok(Self { config })
    }

    /// The coefficients of one update.
    fn coefficients(&self, update: &Update<'_>) -> Coefficients {
        let Config { beta1, beta2, eps } = self.config;
        // Beyond the range of i32 the power is 0 for any beta in use. `powi` multiplies, where `powf` would ask the
        // machine's C library and get its rounding.
        let step = i32::try_from(update.step).unwrap_or(i32::MAX);
        Coefficients {
            keep: (1.0 - update.learning_rate * update.weight_decay) as f32,
            gradient_weight: (1.0 - beta1) as f32,
            beta2: beta2 as f32,
            square_weight: (1.0 - beta2) as f32,
            square_correction: (1.0 - beta2.powi(step)).sqrt() as f32,
            eps: eps as f32,
            rate: (update.learning_rate / (1.0 - beta1.powi(step))) as f32,
        }
    }
}

impl Optimizer for AdamW {
    /// The names that PyTorch gives them.
    fn states(&self) -> Vec<StateSpec> {
        vec![StateSpec::zeros("exp_avg"), StateSpec::zeros("exp_avg_sq")]
    }

    fn update(
        &self,
        update: &Update<'_>,
        parameter: &mut [f32],
        gradient: &[f32],
        states: &mut [&mut [f32]],
    ) -> Result<()> {
        let [mean, square] = expect_states(states)?;
        let lengths = [gradient.len(), mean.len(), square.len()];
        if lengths != [parameter.len(); 3] {
            return Err(Error::plugin(format!(
                "a slice of {} parameters came with {} gradients and states of {} and {}",
                parameter.len(),
                lengths[0],
                lengths[1],
                lengths[2]
            ))
            .with("parameter", update.name));
        }
        kernel::update(&self.coefficients(update), parameter, gradient, mean, square);
        Ok(())
    }
}
