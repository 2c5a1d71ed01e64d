//! OpenAI's API: embeddings and the list of models.

mod completions;
mod embeddings;
mod input;
mod logprobs;
mod models;
pub(crate) mod parameters;

pub use completions::completions;
pub use embeddings::embeddings;
pub use input::TextInput;
pub(crate) use models::model;
pub use models::models;
