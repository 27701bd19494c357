//! The experts of a layer: which ones a token has, what they make of it, and the loss that balances them.

use mdt_plugin_api::{Dtype, ModelContext, ParameterSpec, Result, Role, Tensor};

use crate::feed_forward::Activation;
use crate::json::Object;
use crate::parameters::Parameters;

/// Experts, each a gated part as `FeedForward::Gated`.
#[derive(Clone, Debug, PartialEq)]
pub struct Experts {
    /// What they are called in their layer.
    pub name: &'static str,
    /// The names of gate, up and down.
    pub parts: [&'static str; 3],
    /// How many there are.
    pub count: usize,
    /// How many each token has.
    pub each: usize,
    /// Width inside of one.
    pub inner: usize,
    /// Of its gate.
    pub activation: Activation,
    /// Whether the weights of a token's experts add up to 1.
    pub normalised: bool,
}

impl Experts {
    /// The numbers of experts: `keys` are the names for how many there are.
    ///
    /// # Errors
    /// More for each token than there are.
    pub fn counts(config: &Object<'_>, keys: &[&str], defaults: [usize; 2]) -> Result<[usize; 2]> {
        let mut count = defaults[0];
        for key in keys {
            count = config.size(key)?.unwrap_or(count);
        }
        let each = config.size("num_experts_per_tok")?.unwrap_or(defaults[1]);
        if each > count {
            return Err(config.refuse("num_experts_per_tok", format!("is {each}, and there are {count} experts")));
        }
        Ok([count, each])
    }

    /// The coefficient of the loss that balances them, where `output_router_logits` says that it is trained.
    pub fn router_loss(config: &Object<'_>) -> Result<Option<f64>> {
        let coefficient = config.number("router_aux_loss_coef")?.unwrap_or(0.001);
        Ok(config.flag("output_router_logits")?.then_some(coefficient))
    }

    /// Declares their parameters. Files have a tensor for each expert, or those of all in two, which transformers 5 keeps in memory
    /// and writes where it is asked to (`save_original_format=False`).
    pub fn declare(&self, parameters: &mut Parameters, layer: &str) {
        let (hidden, [gate, up, down]) = (parameters.hidden, self.parts);
        parameters.linear(&format!("{layer}.{}.gate", self.name), [self.count, hidden], false);
        let fused = |name: &str| format!("{layer}.mlp.{name}");
        if let Some(router) = parameters.specs.last_mut().filter(|_| self.name != "mlp") {
            router.aliases.push(fused("gate.weight"));
        }
        for (part, [out, input]) in
            [(gate, [self.inner, hidden]), (up, [self.inner, hidden]), (down, [hidden, self.inner])]
        {
            let name = |of: &str| format!("{layer}.{}.experts.{of}.weight", self.name);
            let files = (0..self.count).map(|expert| name(&format!("{expert}.{part}")));
            let spec = ParameterSpec::new(name(part), [self.count, out, input], Role::Experts, parameters.normal);
            let spec = match part {
                part if part == down => spec.alias(fused("experts.down_proj")),
                part => spec.half_of(fused("experts.gate_up_proj"), part == up),
            };
            parameters.specs.push(spec.stacked_from(files));
        }
    }

    /// What the chosen experts make of x `[B, T, D]`, and the probabilities `[B · T, E]` that they are chosen by.
    pub fn of(&self, ctx: &ModelContext, layer: &str, x: &Tensor) -> Result<(Tensor, Tensor)> {
        let [gate, up, down] = self.parts.map(|part| format!("{layer}.{}.experts.{part}", self.name));
        let shape: Vec<i64> = x.shape()?.iter().map(|&axis| axis as i64).collect();
        let (width, each) = (shape[shape.len() - 1], self.each as i64);
        let tokens = x.reshape(&[-1, width])?;
        let scores = ctx.linear(&format!("{layer}.{}.gate", self.name), &tokens)?;
        let probabilities = scores.cast(Dtype::F32)?.softmax(-1)?;
        let experts = probabilities.top_k(each, -1)?;
        let mut weights = probabilities.take_along_axis(&experts, -1)?;
        if self.normalised {
            weights = (&weights / &weights.sum_axis(-1)?.reshape(&[-1, 1])?)?;
        }
        let weights = weights.cast(x.tensor_type()?.dtype)?;

        let [gate, up] = ctx.expert_linears([&gate, &up], &tokens.reshape(&[-1, 1, width])?, &experts)?;
        let down = ctx.expert_linear(&down, &self.activation.gated(&gate, &up)?, &experts)?;
        let mixed = (&down * &weights.reshape(&[-1, each, 1])?)?.sum_axis(1)?.reshape(&shape)?;
        Ok((mixed, probabilities))
    }

    /// `E Σ f p` over experts: f is the number of times that an expert is chosen for a token, p the mean of its probability (Fedus
    /// et al. 2021, <https://arxiv.org/abs/2101.03961>). Of probabilities `[N, E]`; a scalar.
    pub fn imbalance(&self, probabilities: &Tensor) -> Result<Tensor> {
        let (count, each) = (self.count as i64, self.each as i64);
        let numbers = Tensor::arange(probabilities.compute(), count, Dtype::I32)?;
        let experts = probabilities.top_k(each, -1)?.reshape(&[-1, 1])?;
        let chosen = experts.equal(&numbers)?.cast(Dtype::F32)?.sum_axis(0)?;
        let tokens = probabilities.shape()?[0] as f64;
        let products = (&chosen * &probabilities.sum_axis(0)?)?.sum()?;
        products.multiply(count as f64 / (tokens * tokens))
    }
}
