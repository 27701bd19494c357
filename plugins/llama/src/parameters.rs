//! The parameters of a model, under the names that transformers gives them.

use mdt_plugin_api::{Init, ParameterSpec};

use crate::config::Architecture;

/// Every parameter, in the order of the forward pass.
pub fn parameters(architecture: &Architecture) -> Vec<ParameterSpec> {
    let Architecture { vocab_size, hidden_size: hidden, intermediate_size: inner, head_dim, .. } = *architecture;
    let (queries, keys) = (architecture.heads * head_dim, architecture.key_value_heads * head_dim);
    let Architecture { query_key_value_bias, output_bias, mlp_bias, .. } = *architecture;
    let normal = Init::Normal { std: architecture.initializer_range };

    let mut specs = Vec::new();
    let mut add = |name: &str, shape: &[usize], init| {
        specs.push(ParameterSpec { name: name.to_owned(), shape: shape.to_vec(), init });
    };
    add("model.embed_tokens.weight", &[vocab_size, hidden], normal);
    for layer in 0..architecture.layers {
        let mut linear = |name: &str, shape: [usize; 2], bias: bool| {
            add(&format!("model.layers.{layer}.{name}.weight"), &shape, normal);
            if bias {
                add(&format!("model.layers.{layer}.{name}.bias"), &shape[..1], Init::Zeros);
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
            for norm in ["q_norm", "k_norm"] {
                add(&format!("model.layers.{layer}.self_attn.{norm}.weight"), &[head_dim], Init::Ones);
            }
        }
        for norm in ["input_layernorm", "post_attention_layernorm"] {
            add(&format!("model.layers.{layer}.{norm}.weight"), &[hidden], Init::Ones);
        }
    }
    add("model.norm.weight", &[hidden], Init::Ones);
    if !architecture.tie_word_embeddings {
        add("lm_head.weight", &[vocab_size, hidden], normal);
    }
    specs
}

#[cfg(test)]
mod tests;
