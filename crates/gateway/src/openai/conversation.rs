//! From a conversation in a request to a prompt: what chats and responses have in common.

use std::sync::Arc;

use halny_chat::{Conversation, ToolChoice, ToolFormat, read_messages, read_tool_choice, read_tools};
use halny_generation::grammar::Format;
use halny_residency::Writing;
use halny_types::Fault;
use serde::de::DeserializeOwned;
use serde_json::value::RawValue;

use crate::bounded;
use crate::writing::Prompt;
use crate::{ApiError, Shared};

/// What a request says of its conversation, still as text: brackets unfold to many times as much.
#[derive(Debug, Default)]
pub(crate) struct Asked {
    pub(crate) messages: Option<Box<RawValue>>,
    pub(crate) tools: Option<Box<RawValue>>,
    pub(crate) tool_choice: Option<Box<RawValue>>,
    /// Another message in front, of the system.
    pub(crate) instructions: Option<String>,
    pub(crate) add_generation_prompt: bool,
    pub(crate) continue_final_message: bool,
    /// Further names for the template.
    pub(crate) extra: Option<Box<RawValue>>,
}

/// What a model is given, and how its answer is to be read.
#[derive(Debug)]
pub(crate) struct Prepared {
    pub(crate) prompt: Prompt,
    /// How calls of tools are written, where the model may make any.
    pub(crate) tools: Option<ToolFormat>,
    /// What the answer begins with already, and has to look like: a call that was asked for.
    pub(crate) forced: Option<(String, Format)>,
}

/// Renders the conversation, in the CPU pool.
///
/// # Errors
/// What is wrong with the messages or the tools, that the model has no template, or what its template
/// says.
pub(crate) async fn prepare(shared: &Shared, writing: &Arc<Writing>, asked: Asked) -> Result<Prepared, ApiError> {
    let writing = Arc::clone(writing);
    shared.pool.run(move || render(&writing, asked)).await?
}

fn render(writing: &Writing, asked: Asked) -> Result<Prepared, ApiError> {
    let Some(chat) = &writing.chat else {
        let text = format!(
            "the model {:?} has no chat template; POST to /v1/completions, or name a template in the project file (`generate.chat_template`)",
            writing.name.as_str()
        );
        return Err(ApiError::invalid(text).with_param("model"));
    };
    let messages = asked.messages.ok_or_else(|| ApiError::invalid("`messages` is missing").with_param("messages"))?;
    let mut messages = read_messages(parsed(&messages, "messages")?).map_err(refused)?;
    if let Some(instructions) = asked.instructions {
        messages.insert(0, serde_json::json!({ "role": "system", "content": instructions }));
    }
    let tools = asked.tools.as_deref().map(|tools| parsed(tools, "tools")).transpose()?;
    let tools = read_tools(tools).map_err(refused)?;
    let choice = asked.tool_choice.as_deref().map(|choice| parsed(choice, "tool_choice")).transpose()?;
    let choice = read_tool_choice(choice, tools.as_ref()).map_err(refused)?;
    let tools = tools.filter(|_| choice != ToolChoice::None);
    let format = chat.tool_format().filter(|_| tools.is_some());
    if tools.is_some() && format.is_none() {
        let text =
            format!("the chat template of {:?} teaches no calls of tools; leave `tools` out", writing.name.as_str());
        return Err(ApiError::new(Fault::Unsupported, text).with_param("tools"));
    }
    let forced = tools.as_ref().zip(format).and_then(|(tools, format)| format.forced_call(tools, &choice));
    let conversation = Conversation {
        messages,
        tools,
        add_generation_prompt: asked.add_generation_prompt,
        continue_final_message: asked.continue_final_message,
        extra: asked
            .extra
            .as_deref()
            .map(|extra| parsed(extra, "chat_template_kwargs"))
            .transpose()?
            .unwrap_or_default(),
        now: None,
    };
    let mut prompt = chat.render(&conversation).map_err(refused)?;
    if let Some(forced) = &forced {
        prompt.push_str(&forced.prefix);
    }
    let forced = forced.map(|forced| (forced.prefix, Format::JsonSchema(forced.schema)));
    Ok(Prepared { prompt: Prompt::Rendered(prompt), tools: format, forced })
}

/// A part of a request that may have any form, but not any number of elements.
pub(crate) fn parsed<T: DeserializeOwned>(raw: &RawValue, param: &'static str) -> Result<T, ApiError> {
    if bounded::elements(raw.get()) > bounded::ELEMENTS_MAX {
        let text = format!("`{param}` has more than {} elements; send less", bounded::ELEMENTS_MAX);
        return Err(ApiError::new(Fault::TooLarge, text).with_param(param));
    }
    serde_json::from_str(raw.get()).map_err(|error| ApiError::invalid(format!("`{param}`: {error}")).with_param(param))
}

fn refused(error: halny_chat::ChatError) -> ApiError {
    let param = error.param().map(str::to_owned);
    let error = ApiError::from(error);
    match param {
        Some(param) => error.with_param(param),
        None => error,
    }
}
