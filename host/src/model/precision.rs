//! The element types that a model is computed in.
//!
//! Trained weights stay in float32: updates are smaller than what half precision can tell apart. They are converted where they are
//! used, inside of the function that is differentiated, so that gradients arrive in float32. A block that is computed again converts
//! its weights itself: then what enters it are the weights in float32, which exist anyway, and no converted copy outlives it.

use mdt_plugin_api::op::attribute;
use mdt_plugin_api::{Attribute, Compute, Dtype, OpKind, Result, Tensor, Value};

use crate::config::{self, Settings};
use crate::exit::{Failure, Status};

/// The element types that a model is computed in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Precision {
    /// That of activations, and of the weights that they meet.
    pub dtype: Dtype,
    /// That which the operands of layers' products are rounded to; none where they are multiplied as they are.
    pub operands: Option<Dtype>,
}

impl Precision {
    /// Everything in float32.
    pub const F32: Self = Self { dtype: Dtype::F32, operands: None };

    /// Weights, activations and products in a type of half precision.
    pub const fn half(dtype: Dtype) -> Self {
        Self { dtype, operands: Some(dtype) }
    }

    /// What `compute.dtype` and `compute.matmul` ask for.
    ///
    /// # Errors
    /// A type that training would not be right in.
    pub fn of(settings: &Settings) -> Result<Self, Failure> {
        let config::Compute { dtype, matmul, .. } = &settings.compute;
        for (key, value) in [("compute.dtype", dtype), ("compute.matmul", matmul)] {
            if *value == config::Dtype::Float16 {
                return Err(Failure::configuration(format!("`{key}` may not be \"float16\""))
                    .because("gradients below 6e-8 are 0 in float16, and this version does not scale the loss")
                    .help(format!("`--set {key}=bfloat16` takes as much memory and has the range of float32")));
            }
        }
        Ok(match (dtype, matmul) {
            (config::Dtype::Float32, config::Dtype::Float32) => Self::F32,
            (config::Dtype::Float32, _) => Self { operands: Some(Dtype::BF16), ..Self::F32 },
            _ => Self::half(Dtype::BF16),
        })
    }

    /// Checks that a device computes in these types.
    ///
    /// # Errors
    /// An operation that it lacks.
    pub fn check(self, component: &str, compute: &dyn Compute) -> Result<(), Failure> {
        let Some(half) = self.operands else { return Ok(()) };
        let needed = |op: OpKind| self.dtype == half || op == OpKind::CAST;
        let lacking = OpKind::all().iter().find(|definition| {
            let is_needed = definition.is_primitive && definition.types.contains(half) && needed(definition.op);
            is_needed && !compute.supports(definition.op, &[], half)
        });
        let Some(lacking) = lacking else { return Ok(()) };
        let key = if self.dtype == half { "compute.dtype" } else { "compute.matmul" };
        let message = format!("the compute component `{component}` does not compute in {half}");
        Err(Failure::new(Status::Plugin, message)
            .because(format!("it has no operation `{}` of it", lacking.name))
            .help(format!("`--set {key}=float32`, or choose another component: `compute.use`")))
    }

    /// The line about a processor that computes these types no faster than float32; none where it does.
    pub fn note(self, compute: &dyn Compute) -> Option<String> {
        let (half, device) = (self.operands?, compute.device());
        let is_slow = device.kind == "cpu" && !device.fast_products.contains(&half);
        is_slow.then(|| {
            format!(
                "note: this processor multiplies {half} no faster than float32: results are as asked for, the time is not \
                 shorter"
            )
        })
    }

    /// A tensor in the type of activations; one without floating-point numbers stays as it is.
    pub(super) fn activation(self, tensor: Tensor) -> Result<Tensor> {
        let dtype = tensor.tensor_type()?.dtype;
        if dtype == self.dtype || !dtype.is_float() { Ok(tensor) } else { tensor.cast(self.dtype) }
    }

    /// The attributes of a layer's product.
    pub(super) fn of_product(self) -> Vec<Attribute<'static>> {
        self.operands.map(|operands| attribute("operands", Value::Dtype(operands))).into_iter().collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(dtype: config::Dtype, matmul: config::Dtype) -> Result<Precision, Failure> {
        let mut settings = Settings::default();
        settings.compute.dtype = dtype;
        settings.compute.matmul = matmul;
        Precision::of(&settings)
    }

    #[test]
    fn products_are_rounded_wherever_anything_is_of_half_precision() {
        use config::Dtype::{Bfloat16, Float32};
        assert_eq!(of(Float32, Float32).unwrap(), Precision::F32);
        assert_eq!(of(Float32, Bfloat16).unwrap(), Precision { dtype: Dtype::F32, operands: Some(Dtype::BF16) });
        for matmul in [Float32, Bfloat16] {
            assert_eq!(of(Bfloat16, matmul).unwrap(), Precision::half(Dtype::BF16));
        }
    }

    #[test]
    fn float16_is_refused_with_the_type_to_take_instead() {
        use config::Dtype::{Float16, Float32};
        for (refused, key) in [(of(Float16, Float32), "compute.dtype"), (of(Float32, Float16), "compute.matmul")] {
            let message = refused.unwrap_err().to_string();
            assert!(message.contains(key) && message.contains(&format!("{key}=bfloat16")), "{message}");
        }
    }
}
