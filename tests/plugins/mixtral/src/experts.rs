//! The experts of a layer: which ones a token has, what they make of it, and the loss that balances them.

use mdt_plugin_api::prelude::*;

use crate::config::Architecture;

/// The parameters of a layer's experts. Files have a tensor for each expert.
pub fn parameters(architecture: &Architecture, prefix: &str) -> Vec<ParameterSpec> {
    let &Architecture { hidden_size: hidden, intermediate_size: inner, num_local_experts: count, .. } = architecture;
    let (layer, normal) = (format!("{prefix}.block_sparse_moe"), Init::Normal { std: 0.02 });
    let experts = |part: &str, [out, input]: [usize; 2]| {
        let files = (0..count).map(|expert| format!("{layer}.experts.{expert}.{part}.weight"));
        let name = format!("{layer}.experts.{part}.weight");
        ParameterSpec::new(name, [count, out, input], Role::Experts, normal).stacked_from(files)
    };
    vec![
        ParameterSpec::new(format!("{layer}.gate.weight"), [count, hidden], Role::Linear, normal),
        experts("w1", [inner, hidden]),
        experts("w2", [hidden, inner]),
        experts("w3", [inner, hidden]),
    ]
}

/// What the chosen experts make of x `[B, T, D]`, and the probabilities `[B·T, E]` that they are chosen by.
pub fn mixture(architecture: &Architecture, ctx: &ModelContext, prefix: &str, x: &Tensor) -> Result<(Tensor, Tensor)> {
    let layer = format!("{prefix}.block_sparse_moe");
    let [w1, w2, w3] = ["w1", "w2", "w3"].map(|part| format!("{layer}.experts.{part}"));
    let shape: Vec<i64> = x.shape()?.iter().map(|&axis| axis as i64).collect();
    let (width, each) = (architecture.hidden_size as i64, architecture.num_experts_per_tok as i64);
    let tokens = x.reshape(&[-1, width])?;
    let probabilities = ctx.linear(&format!("{layer}.gate"), &tokens)?.softmax(-1)?;
    let experts = probabilities.top_k(each, -1)?;
    let chosen = probabilities.take_along_axis(&experts, -1)?;
    let weights = (&chosen / &chosen.sum_axis(-1)?.reshape(&[-1, 1])?)?;

    let [gate, up] = ctx.expert_linears([&w1, &w3], &tokens.reshape(&[-1, 1, width])?, &experts)?;
    let down = ctx.expert_linear(&w2, &gate.swiglu(&up)?, &experts)?;
    let mixed = (&down * &weights.reshape(&[-1, each, 1])?)?.sum_axis(1)?.reshape(&shape)?;
    Ok((mixed, probabilities))
}

/// `E Σ f p` over experts: f is the number of times that an expert is chosen for a token, p the mean of its probability (Fedus et
/// al. 2021, <https://arxiv.org/abs/2101.03961>). Of probabilities `[N, E]`; a scalar.
pub fn balance(architecture: &Architecture, probabilities: &Tensor) -> Result<Tensor> {
    let (count, each) = (architecture.num_local_experts as i64, architecture.num_experts_per_tok as i64);
    let numbers = Tensor::arange(probabilities.compute(), count, Dtype::I32)?;
    let experts = probabilities.top_k(each, -1)?.reshape(&[-1, 1])?;
    let chosen = experts.equal(&numbers)?.cast(Dtype::F32)?.sum_axis(0)?;
    let tokens = probabilities.shape()?[0] as f64;
    let products = (&chosen * &probabilities.sum_axis(0)?)?.sum()?;
    products.multiply(count as f64 / (tokens * tokens))
}
