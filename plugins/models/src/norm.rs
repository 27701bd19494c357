//! Norms over the last axis.

use mdt_plugin_api::{Dtype, Init, ModelContext, Result, Role, Tensor};

use crate::parameters::Parameters;

/// A kind of norm; what is added to the mean square or the variance.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Norm {
    /// Root mean square (Zhang and Sennrich 2019, <https://arxiv.org/abs/1910.07467>).
    Rms(f64),
    /// The same with a weight of `1 + w`.
    RmsPlusOne(f64),
    /// Mean and variance (Ba et al. 2016, <https://arxiv.org/abs/1607.06450>), with a bias.
    Layer(f64),
}

impl Norm {
    /// Declares its parameters.
    pub fn declare(self, parameters: &mut Parameters, name: &str, width: usize) {
        let init = if matches!(self, Self::RmsPlusOne(_)) { Init::Zeros } else { Init::Ones };
        parameters.other(format!("{name}.weight"), width, Role::Norm, init);
        if let Self::Layer(_) = self {
            parameters.other(format!("{name}.bias"), width, Role::Norm, Init::Zeros);
        }
    }

    /// Of x `[.., width]`.
    pub fn of(self, ctx: &ModelContext, name: &str, x: &Tensor) -> Result<Tensor> {
        match self {
            Self::Rms(eps) => ctx.rms_norm(name, x, eps),
            Self::Layer(eps) => ctx.layer_norm(name, x, eps),
            Self::RmsPlusOne(eps) => {
                // In half precision most of a small w would be lost in 1 + w.
                let weight = ctx.parameter(&format!("{name}.weight"))?.cast(Dtype::F32)?.plus(1.0)?;
                x.rms_norm(&weight, eps)?.cast(x.tensor_type()?.dtype)
            }
        }
    }
}
