//! Chat: from a conversation to a prompt, and from a model's text to calls of tools.
//!
//! A model was trained on one way of writing a conversation down. Its chat template, a program in
//! Jinja's language that comes with its file, is the only exact description of it; so the template
//! is run, with what Hugging Face's `apply_chat_template` would give it. It is also a program from
//! the internet: whatever it does ends in bounded time and memory, and it reaches no file, no
//! environment and no network.
//!
//! Not a list of known templates as in llama.cpp's `llama_chat_apply_template`: a template that was
//! changed in one place would be taken for its neighbour. Not llama.cpp's Jinja in C++: it has no
//! bounds, and an error in it takes the server with it.
//!
//! Not the VM of `minijinja`, whose fuel would be the bound: it charges for a value once it was made,
//! or not at all when the value is lazy or shared. Measured with 3.1.0 and 500,000 fuel on 8 MiB of
//! stack: a list nested 20,000 deep overflows the stack when it is dropped and aborts the process,
//! a slice of a slice 20,000 deep takes 59 s, `{% set a, b = [1] * 20000000 %}` takes 472 MB. Values
//! here hold their bytes from before they are allocated (`jinja/budget.rs`), so the bound needs no list
//! of dangerous operations.

mod error;
mod jinja;
mod messages;
mod template;
mod tool_format;
mod tool_parser;

pub use error::{ChatError, Resource};
pub use messages::{
    MESSAGES_MAX, TOOL_NAME_BYTES_MAX, TOOL_SCHEMA_BYTES_MAX, TOOL_SCHEMA_DEPTH_MAX, TOOLS_MAX, ToolChoice,
    read_messages, read_tool_choice, read_tools,
};
pub use template::{ChatTemplate, Conversation, PROMPT_BYTES_MAX, SOURCE_BYTES_MAX, Specials};
pub use tool_format::{ForcedCall, ToolFormat};
pub use tool_parser::{Piece, ToolParser};
