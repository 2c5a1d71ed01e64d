//! OpenAI's API: embeddings and the list of models.

mod embeddings;
mod input;
mod models;

pub use embeddings::embeddings;
pub use input::TextInput;
pub(crate) use models::model;
pub use models::models;
