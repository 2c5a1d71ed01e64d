//! A model's chat template, and the prompt it makes of a conversation.

use std::time::SystemTime;

use serde_json::{Map, Value};

use crate::ChatError;
use crate::jinja::{Limits, Stop, Template};
use crate::tool_format::ToolFormat;

/// The longest source that is read. The longest of 71 published templates has 18 KiB.
pub const SOURCE_BYTES_MAX: usize = 256 * 1024;

/// The longest prompt.
pub const PROMPT_BYTES_MAX: usize = 16 * 1024 * 1024;

/// Steps of a rendering: what 4,096 messages need in a template that goes through them a few times, and
/// less than half a second of one core.
const STEPS: u64 = 8_000_000;

/// What a rendering may hold beside its conversation. Growing a text takes half as much again for a
/// moment, so that the process grows by less than 64 MiB.
const WORKING_BYTES: usize = 24 * 1024 * 1024;

/// Names that a template is given by us, and that `extra` may not replace.
const OWN_NAMES: [&str; 6] = ["messages", "tools", "documents", "add_generation_prompt", "bos_token", "eos_token"];

/// The special tokens that templates write out.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Specials {
    /// The token that begins a text; empty when there is none.
    pub bos: String,
    /// The token that ends a text; empty when there is none.
    pub eos: String,
}

/// What is turned into a prompt.
#[derive(Clone, Debug, Default)]
pub struct Conversation {
    /// The messages, as [`read_messages`](crate::read_messages) gives them.
    pub messages: Vec<Value>,
    /// The tools, as [`read_tools`](crate::read_tools) gives them.
    pub tools: Option<Value>,
    /// Whether the prompt ends where the assistant begins to speak.
    pub add_generation_prompt: bool,
    /// Whether the prompt ends within the last message, which the model then goes on with.
    pub continue_final_message: bool,
    /// More variables for the template: `chat_template_kwargs`.
    pub extra: Map<String, Value>,
    /// The time that `strftime_now` tells, in UTC; `None` for the clock's.
    pub now: Option<SystemTime>,
}

/// A chat template that was read. Any thread may render with it, as often as it likes.
#[derive(Debug)]
pub struct ChatTemplate {
    template: Template,
    specials: Specials,
    tool_format: Option<ToolFormat>,
    uses_tools: bool,
}

impl ChatTemplate {
    /// Reads a template in Jinja's language.
    ///
    /// # Errors
    /// [`ChatError::SourceTooLarge`] and [`ChatError::Template`], which are the fault of whoever
    /// configured the model.
    pub fn compile(source: &str, specials: Specials) -> Result<ChatTemplate, ChatError> {
        if source.len() > SOURCE_BYTES_MAX {
            return Err(ChatError::SourceTooLarge(source.len()));
        }
        Ok(ChatTemplate {
            template: Template::read(source)?,
            specials,
            tool_format: ToolFormat::detect(source),
            uses_tools: ToolFormat::mentions_tools(source),
        })
    }

    /// How the template has the model write calls of tools, where that is known.
    #[must_use]
    pub fn tool_format(&self) -> Option<ToolFormat> {
        self.tool_format
    }

    /// Whether the template does anything with tools.
    #[must_use]
    pub fn uses_tools(&self) -> bool {
        self.uses_tools
    }

    /// The prompt of a conversation. Takes less than a second and less than 64 MiB beside the
    /// conversation, whatever the template does.
    ///
    /// # Errors
    /// [`ChatError::Refused`] and [`ChatError::Unrenderable`] when the messages do not fit the
    /// template, [`ChatError::TooMuch`] when rendering takes too much, [`ChatError::Parameter`] when
    /// `extra` names what is not its own, [`ChatError::Continue`] when there is nothing to go on with.
    pub fn render(&self, conversation: &Conversation) -> Result<String, ChatError> {
        if let Some(name) = conversation.extra.keys().find(|name| OWN_NAMES.contains(&name.as_str())) {
            let what = "is set by the request itself and cannot be passed to the template";
            return Err(ChatError::parameter(format!("chat_template_kwargs.{name}"), what));
        }
        if conversation.continue_final_message && conversation.add_generation_prompt {
            return Err(ChatError::Continue("and `add_generation_prompt` exclude each other"));
        }
        let prompt = self.render_as_needed(conversation)?;
        if conversation.continue_final_message { continued(prompt, &conversation.messages) } else { Ok(prompt) }
    }

    /// Renders the messages as they are, or else in the forms that older templates need.
    ///
    /// Some add `content` to a text without asking whether there is one (OpenAI's clients send null
    /// beside calls of tools), some add `arguments` as if they were text. Arguments go first: a
    /// template that stumbles on them reads a call only while its content is null.
    fn render_as_needed(&self, conversation: &Conversation) -> Result<String, Stop> {
        let input = conversation.messages.iter().chain(&conversation.tools).chain(conversation.extra.values());
        let input: usize = input.map(weight).sum();
        let mut limits = Limits {
            steps: STEPS,
            bytes: WORKING_BYTES + input.saturating_mul(4),
            output: (input.saturating_mul(4) + 1024 * 1024).min(PROMPT_BYTES_MAX),
        };
        let messages = &conversation.messages;
        let first = match self.render_messages(conversation, messages, &mut limits) {
            Err(stop @ Stop::Wrong { .. }) => stop,
            done => return done,
        };
        for (arguments, contents) in [(true, false), (false, true), (true, true)] {
            let Some(changed) = with_texts(messages, arguments, contents) else { continue };
            match self.render_messages(conversation, &changed, &mut limits) {
                Err(Stop::Wrong { .. }) => {}
                done => return done,
            }
        }
        Err(first)
    }

    fn render_messages(
        &self,
        conversation: &Conversation,
        messages: &[Value],
        limits: &mut Limits,
    ) -> Result<String, Stop> {
        let messages = Value::Array(messages.to_vec());
        let tools = conversation.tools.clone().unwrap_or(Value::Null);
        let begins = Value::Bool(conversation.add_generation_prompt);
        let (bos, eos) = (Value::from(self.specials.bos.as_str()), Value::from(self.specials.eos.as_str()));
        let own = [&messages, &tools, &Value::Null, &begins, &bos, &eos];
        let extra = conversation.extra.iter().map(|(name, value)| (name.as_str(), value));
        let variables = OWN_NAMES.into_iter().zip(own).chain(extra);
        self.template.render(variables, limits, conversation.now.unwrap_or_else(SystemTime::now))
    }
}

/// About how many bytes a piece of JSON takes: its texts, and 64 for each value.
fn weight(json: &Value) -> usize {
    64 + match json {
        Value::String(text) => text.len(),
        Value::Array(items) => items.iter().map(weight).sum(),
        Value::Object(object) => object.iter().map(|(key, value)| 64 + key.len() + weight(value)).sum(),
        _ => 0,
    }
}

/// The messages with texts for the `arguments` of calls, and for `contents` that are null; `None` when
/// there is none of what was asked for.
fn with_texts(messages: &[Value], arguments: bool, contents: bool) -> Option<Vec<Value>> {
    let mut messages = messages.to_vec();
    let (mut arguments_changed, mut contents_changed) = (!arguments, !contents);
    for message in &mut messages {
        if contents && let Some(content @ Value::Null) = message.get_mut("content") {
            *content = Value::from("");
            contents_changed = true;
        }
        let calls = message.get_mut("tool_calls").filter(|_| arguments).and_then(Value::as_array_mut);
        for call in calls.into_iter().flatten() {
            if let Some(object @ Value::Object(_)) = call.pointer_mut("/function/arguments") {
                *object = Value::from(object.to_string());
                arguments_changed = true;
            }
        }
    }
    (arguments_changed && contents_changed).then_some(messages)
}

/// The prompt up to the end of the last message's text, as `apply_chat_template` cuts it.
fn continued(mut prompt: String, messages: &[Value]) -> Result<String, ChatError> {
    let last = messages.last().and_then(|message| message.get("content")).and_then(Value::as_str).unwrap_or("");
    if last.trim().is_empty() {
        return Err(ChatError::Continue("needs a last message with text"));
    }
    let Some(at) = prompt.rfind(last.trim()) else {
        return Err(ChatError::Continue("cannot be used: the model's chat template changes the last message"));
    };
    // Whitespace at the end of the message stays where the template left it.
    let whole = last.trim_start();
    let kept = if prompt[at..].starts_with(whole) { whole } else { last.trim() };
    prompt.truncate(at + kept.len());
    Ok(prompt)
}
