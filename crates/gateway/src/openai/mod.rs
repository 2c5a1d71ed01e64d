//! OpenAI's API: embeddings, completions, chats, responses, and the list of models.

mod chat;
mod completions;
pub(crate) mod conversation;
mod embeddings;
mod input;
mod logprobs;
mod models;
pub(crate) mod parameters;
mod responses;

pub use chat::chat;
pub use completions::completions;
pub use embeddings::embeddings;
pub use input::TextInput;
pub(crate) use models::model;
pub use models::models;
pub use responses::responses;
