//! The families, each a file.

mod gemma;
mod gemma2;
mod gemma3;
mod gpt2;
mod granite;
mod llama;
mod mistral;
mod mixtral;
mod olmo2;
mod phi3;
mod qwen2;
mod qwen3;
mod qwen3_moe;
mod smollm3;
mod starcoder2;

pub use gemma::Gemma;
pub use gemma2::Gemma2;
pub use gemma3::Gemma3;
pub use gpt2::Gpt2;
pub use granite::Granite;
pub use llama::Llama;
pub use mistral::Mistral;
pub use mixtral::Mixtral;
pub use olmo2::Olmo2;
pub use phi3::Phi3;
pub use qwen2::Qwen2;
pub use qwen3::Qwen3;
pub use qwen3_moe::Qwen3Moe;
pub use smollm3::SmolLm3;
pub use starcoder2::Starcoder2;
