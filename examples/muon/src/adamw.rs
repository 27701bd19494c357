//! AdamW (Loshchilov and Hutter 2019, <https://arxiv.org/abs/1711.05101>) in tensor operations.

use mdt_plugin_api::prelude::*;

use crate::Config;

pub fn update(config: &Config, update: &Update, param: &Tensor, grad: &Tensor, states: &[Tensor]) -> Result<NewValues> {
    let [mean, square] = states else { return Err(Error::plugin("AdamW has two states")) };
    let Config { beta1, beta2, eps, .. } = *config;
    let mean = (&mean.multiply(beta1)? + &grad.multiply(1.0 - beta1)?)?;
    let square = (&square.multiply(beta2)? + &(grad * grad)?.multiply(1.0 - beta2)?)?;
    // Both begin at zero, which these corrections make up for.
    let [first, second] = [beta1, beta2].map(|beta| 1.0 - beta.powi(update.step as i32));
    let root = square.sqrt()?.multiply(1.0 / second.sqrt())?;
    let step = (&mean / &root.plus(eps)?)?.multiply(update.learning_rate / first)?;
    let kept = param.multiply(1.0 - update.learning_rate * update.weight_decay)?;
    Ok(NewValues { parameter: (&kept - &step)?, states: vec![mean, square] })
}
