//! Why there is no prompt.

use halny_types::{Blame, Fault};
use thiserror::Error;

use crate::jinja::{Stop, SyntaxError};
use crate::template::SOURCE_BYTES_MAX;

/// Why a template was not read, or a conversation not turned into a prompt.
#[derive(Clone, Debug, Error, PartialEq, Eq)]
pub enum ChatError {
    /// A template's source is too long.
    #[error("the chat template has {0} bytes, at most {SOURCE_BYTES_MAX} are read")]
    SourceTooLarge(usize),
    /// A template's source is no template.
    #[error("the chat template is broken on line {line}: {what}")]
    Template {
        /// The line, from 1.
        line: u32,
        /// What is wrong there.
        what: String,
    },
    /// A parameter of the request is not what it has to be.
    #[error("`{param}` {what}")]
    Parameter {
        /// The parameter, in OpenAI's way: `messages[3].content[1].type`.
        param: String,
        /// What is wrong with it, as the rest of the sentence.
        what: String,
    },
    /// The template itself refused the conversation, in these words.
    #[error("the model's chat template refuses these messages: {0}")]
    Refused(String),
    /// The template needs something that these messages do not have.
    #[error("the model's chat template cannot render these messages: {what} (line {line} of the template)")]
    Unrenderable {
        /// The line of the template, from 1.
        line: u32,
        /// What it could not do.
        what: String,
    },
    /// Rendering took more than a rendering may.
    #[error("the model's chat template needs too {0} for this conversation; shorten it")]
    TooMuch(Resource),
    /// The last message was to be continued, and cannot be.
    #[error("`continue_final_message` {0}")]
    Continue(&'static str),
}

/// What a rendering used up.
#[derive(Clone, Copy, Debug, Error, PartialEq, Eq)]
pub enum Resource {
    /// Steps of the template.
    #[error("many steps")]
    Steps,
    /// Memory for its values.
    #[error("much memory")]
    Memory,
    /// The length of the prompt.
    #[error("long a prompt")]
    Prompt,
    /// Calls within calls, or values within values.
    #[error("deeply nested values or calls")]
    Nesting,
}

impl ChatError {
    pub(crate) fn parameter(param: impl Into<String>, what: impl Into<String>) -> ChatError {
        ChatError::Parameter { param: param.into(), what: what.into() }
    }

    /// The parameter of the request that is at fault, in OpenAI's way.
    #[must_use]
    pub fn param(&self) -> Option<&str> {
        match self {
            ChatError::Parameter { param, .. } => Some(param),
            ChatError::Refused(_) | ChatError::Unrenderable { .. } | ChatError::TooMuch(_) => Some("messages"),
            ChatError::Continue(_) => Some("continue_final_message"),
            ChatError::SourceTooLarge(_) | ChatError::Template { .. } => None,
        }
    }
}

impl Blame for ChatError {
    fn fault(&self) -> Fault {
        match self {
            ChatError::SourceTooLarge(_) | ChatError::Template { .. } => Fault::Ours,
            ChatError::TooMuch(_) => Fault::TooLarge,
            ChatError::Parameter { .. }
            | ChatError::Refused(_)
            | ChatError::Unrenderable { .. }
            | ChatError::Continue(_) => Fault::Caller,
        }
    }
}

impl From<SyntaxError> for ChatError {
    fn from(SyntaxError { line, what }: SyntaxError) -> ChatError {
        ChatError::Template { line, what }
    }
}

impl From<Stop> for ChatError {
    fn from(stop: Stop) -> ChatError {
        match stop {
            Stop::Raised(text) => ChatError::Refused(text),
            Stop::Wrong { what, line } => ChatError::Unrenderable { line, what },
            Stop::Steps => ChatError::TooMuch(Resource::Steps),
            Stop::Memory => ChatError::TooMuch(Resource::Memory),
            Stop::Output => ChatError::TooMuch(Resource::Prompt),
            Stop::Nesting => ChatError::TooMuch(Resource::Nesting),
        }
    }
}
