//! OpenAI's API: embeddings, completions, chats, responses, and the list of models.

pub(crate) mod batches;
mod chat;
mod completions;
pub(crate) mod conversation;
mod embeddings;
pub(crate) mod files;
mod input;
mod logprobs;
mod models;
pub(crate) mod parameters;
mod responses;

pub(crate) use batches::WINDOW_MS;
pub use chat::chat;
pub use completions::completions;
pub use embeddings::embeddings;
pub(crate) use files::fresh_id as fresh_file_id;
pub use input::TextInput;
pub(crate) use models::model;
pub use models::models;
pub use responses::responses;
