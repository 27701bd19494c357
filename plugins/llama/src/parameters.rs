//! The parameters of a model, under the names that transformers gives them.

use mdt_plugin_api::{Init, ParameterSpec, Role};

use crate::config::Architecture;

/// Every parameter, in the order of the forward pass.
pub fn parameters(architecture: &Architecture) -> Vec<ParameterSpec> {
    let Architecture { vocab_size, hidden_size: hidden, intermediate_size: inner, head_dim, .. } = *architecture;
    let (queries, keys) = (architecture.heads * head_dim, architecture.key_value_heads * head_dim);
    let Architecture { query_key_value_bias, output_bias, mlp_bias, .. } = *architecture;
    let normal = Init::Normal { std: architecture.initializer_range };

    let mut specs = vec![ParameterSpec::new(EMBEDDING, [vocab_size, hidden], Role::Embedding, normal)];
    for layer in 0..architecture.layers {
        let prefix = format!("model.layers.{layer}");
        let mut linear = |name: &str, shape: [usize; 2], bias: bool| {
            specs.push(ParameterSpec::new(format!("{prefix}.{name}.weight"), shape, Role::Linear, normal));
            if bias {
                let name = format!("{prefix}.{name}.bias");
                specs.push(ParameterSpec::new(name, &shape[..1], Role::Other, Init::Zeros));
            }
        };
        linear("self_attn.q_proj", [queries, hidden], query_key_value_bias);
        linear("self_attn.k_proj", [keys, hidden], query_key_value_bias);
        linear("self_attn.v_proj", [keys, hidden], query_key_value_bias);
        linear("self_attn.o_proj", [hidden, queries], output_bias);
        linear("mlp.gate_proj", [inner, hidden], mlp_bias);
        linear("mlp.up_proj", [inner, hidden], mlp_bias);
        linear("mlp.down_proj", [hidden, inner], mlp_bias);
        if architecture.query_key_norm {
            specs.extend(["self_attn.q_norm", "self_attn.k_norm"].map(|name| norm(&prefix, name, head_dim)));
        }
        specs.extend(["input_layernorm", "post_attention_layernorm"].map(|name| norm(&prefix, name, hidden)));
    }
    specs.push(norm("model", "norm", hidden));
    let head = ParameterSpec::new("lm_head.weight", [vocab_size, hidden], Role::Linear, normal);
    specs.push(if architecture.tie_word_embeddings { head.tied_to(EMBEDDING) } else { head });
    specs
}

const EMBEDDING: &str = "model.embed_tokens.weight";

fn norm(prefix: &str, name: &str, width: usize) -> ParameterSpec {
    ParameterSpec::new(format!("{prefix}.{name}.weight"), [width], Role::Norm, Init::Ones)
}

#[cfg(test)]
mod tests;
