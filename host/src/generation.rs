//! Text from a model: answers to prompts, and what is drawn for trainers.

mod answers;
mod draw;
mod sampler;
mod session;
mod stop;
mod text;

pub use answers::{Answer, Answers, Generator, Listener, Options, Speed, Unheard};
pub use draw::Drawing;
pub use sampler::{FirstDrawn, Sampler};
pub use session::Session;
