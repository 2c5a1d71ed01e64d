//! OpenAI's messages and tools, from JSON to what chat templates read.
//!
//! What comes out is what Hugging Face's templates expect: contents are texts, `developer` is
//! `system`, the arguments of earlier calls are objects. What is not understood is refused by name:
//! a message that silently lost a part would get an answer to another question.

use std::collections::{HashMap, HashSet};

use serde_json::{Map, Value, json};

use crate::ChatError;

/// The most messages of a conversation.
pub const MESSAGES_MAX: usize = 4096;

/// The most tools of a request, and the most calls of a message.
pub const TOOLS_MAX: usize = 128;

/// The longest name of a tool.
pub const TOOL_NAME_BYTES_MAX: usize = 64;

/// The largest schema of a tool, as JSON.
pub const TOOL_SCHEMA_BYTES_MAX: usize = 64 * 1024;

/// How deep a tool's schema may be nested.
pub const TOOL_SCHEMA_DEPTH_MAX: usize = 32;

/// Which tools a model may, must or must not call.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum ToolChoice {
    /// It calls one when it sees fit.
    #[default]
    Auto,
    /// It calls none.
    None,
    /// It calls any one.
    Required,
    /// It calls this one.
    Function(String),
}

/// Whether `name` can be the name of a tool.
pub(crate) fn is_tool_name(name: &str) -> bool {
    (1..=TOOL_NAME_BYTES_MAX).contains(&name.len())
        && name.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"_-".contains(&byte))
}

/// Reads `messages`.
///
/// # Errors
/// [`ChatError::Parameter`] with the place of what is wrong.
pub fn read_messages(messages: Value) -> Result<Vec<Value>, ChatError> {
    let Value::Array(messages) = messages else {
        return Err(ChatError::parameter("messages", "is not an array"));
    };
    if messages.is_empty() || messages.len() > MESSAGES_MAX {
        let what = format!("has {} messages, a conversation has 1 to {MESSAGES_MAX}", messages.len());
        return Err(ChatError::parameter("messages", what));
    }
    let mut reader = Reader::default();
    messages
        .into_iter()
        .enumerate()
        .map(|(place, message)| reader.message(message, &format!("messages[{place}]")))
        .collect()
}

#[derive(Default)]
struct Reader {
    /// The names of tools by the ids of calls: templates often want a result to name its tool.
    called: HashMap<String, String>,
}

impl Reader {
    fn message(&mut self, message: Value, at: &str) -> Result<Value, ChatError> {
        let mut message = object(message, at)?;
        let role = text(&mut message, "role", at)?.ok_or_else(|| missing(at, "role"))?;
        let role = match role.as_str() {
            "developer" => "system",
            "system" | "user" | "assistant" | "tool" => &role,
            _ => {
                let what = "is none of system, developer, user, assistant and tool";
                return Err(ChatError::parameter(format!("{at}.role"), what));
            }
        };
        if message.get("function_call").is_some_and(|call| !call.is_null()) {
            let what = "is not supported; use `tool_calls`";
            return Err(ChatError::parameter(format!("{at}.function_call"), what));
        }
        let mut read = Map::new();
        read.insert("role".to_owned(), Value::from(role));
        let mut content = content(message.remove("content"), role, at)?;
        if role == "assistant" {
            let refusal = text(&mut message, "refusal", at)?;
            content = content.or(refusal);
            if let Some(reasoning) = text(&mut message, "reasoning_content", at)? {
                read.insert("reasoning_content".to_owned(), Value::from(reasoning));
            }
        }
        let calls = message.remove("tool_calls").filter(|calls| !calls.is_null());
        if content.is_none() && (calls.is_none() || role != "assistant") {
            return Err(missing(at, "content"));
        }
        read.insert("content".to_owned(), content.map_or(Value::Null, Value::from));
        if let Some(name) = text(&mut message, "name", at)? {
            read.insert("name".to_owned(), Value::from(name));
        }
        if let Some(calls) = calls {
            if role != "assistant" {
                let what = "belongs to a message of the assistant";
                return Err(ChatError::parameter(format!("{at}.tool_calls"), what));
            }
            read.insert("tool_calls".to_owned(), self.calls(calls, &format!("{at}.tool_calls"))?);
        }
        if role == "tool" {
            let id = text(&mut message, "tool_call_id", at)?.ok_or_else(|| missing(at, "tool_call_id"))?;
            if let Some(name) = self.called.get(&id).filter(|_| !read.contains_key("name")) {
                read.insert("name".to_owned(), Value::from(name.as_str()));
            }
            read.insert("tool_call_id".to_owned(), Value::from(id));
        }
        Ok(Value::Object(read))
    }

    fn calls(&mut self, calls: Value, at: &str) -> Result<Value, ChatError> {
        let Value::Array(calls) = calls else { return Err(ChatError::parameter(at, "is not an array")) };
        if calls.is_empty() || calls.len() > TOOLS_MAX {
            let what = format!("has {} calls, a message has 1 to {TOOLS_MAX}", calls.len());
            return Err(ChatError::parameter(at, what));
        }
        let calls = calls.into_iter().enumerate().map(|(place, call)| self.call(call, &format!("{at}[{place}]")));
        calls.collect::<Result<Vec<_>, _>>().map(Value::Array)
    }

    fn call(&mut self, call: Value, at: &str) -> Result<Value, ChatError> {
        let mut call = object(call, at)?;
        is_function(&mut call, at)?;
        let id = text(&mut call, "id", at)?.ok_or_else(|| missing(at, "id"))?;
        let function_at = format!("{at}.function");
        let mut function = object(call.remove("function").unwrap_or(Value::Null), &function_at)?;
        let name = tool_name(&mut function, &function_at)?;
        let arguments = match function.remove("arguments") {
            None | Some(Value::Null) => Value::Object(Map::new()),
            Some(Value::String(text)) if text.trim().is_empty() => Value::Object(Map::new()),
            Some(Value::String(text)) => serde_json::from_str(&text).unwrap_or(Value::Null),
            Some(other) => other,
        };
        if !arguments.is_object() {
            let what = "is not a JSON object, written as a string";
            return Err(ChatError::parameter(format!("{function_at}.arguments"), what));
        }
        self.called.insert(id.clone(), name.clone());
        Ok(json!({ "id": id, "type": "function", "function": { "name": name, "arguments": arguments } }))
    }
}

/// The text of a message: all of its parts, one after the other.
fn content(content: Option<Value>, role: &str, at: &str) -> Result<Option<String>, ChatError> {
    let parts = match content {
        None | Some(Value::Null) => return Ok(None),
        Some(Value::String(text)) => return Ok(Some(text)),
        Some(Value::Array(parts)) => parts,
        Some(_) => {
            let what = "is neither a string nor an array of parts";
            return Err(ChatError::parameter(format!("{at}.content"), what));
        }
    };
    let mut whole = String::new();
    for (place, part) in parts.into_iter().enumerate() {
        let at = format!("{at}.content[{place}]");
        let mut part = object(part, &at)?;
        let kind = text(&mut part, "type", &at)?.ok_or_else(|| missing(&at, "type"))?;
        let field = match kind.as_str() {
            "text" => "text",
            "refusal" if role == "assistant" => "refusal",
            other => {
                let other = crate::jinja::shortened(other, 40);
                let what = format!("is `{other}` in part {place}: this model reads text only");
                return Err(ChatError::parameter(format!("{at}.type"), what));
            }
        };
        whole.push_str(&text(&mut part, field, &at)?.ok_or_else(|| missing(&at, field))?);
    }
    Ok(Some(whole))
}

/// Reads `tools`; none and an empty array are the same.
///
/// # Errors
/// [`ChatError::Parameter`] with the place of what is wrong.
pub fn read_tools(tools: Option<Value>) -> Result<Option<Value>, ChatError> {
    let tools = match tools {
        None | Some(Value::Null) => return Ok(None),
        Some(Value::Array(tools)) => tools,
        Some(_) => return Err(ChatError::parameter("tools", "is not an array")),
    };
    if tools.len() > TOOLS_MAX {
        return Err(ChatError::parameter("tools", format!("has {} tools, at most {TOOLS_MAX} are read", tools.len())));
    }
    let mut names = HashSet::new();
    let mut read = Vec::with_capacity(tools.len());
    for (place, tool) in tools.into_iter().enumerate() {
        let at = format!("tools[{place}]");
        let mut tool = object(tool, &at)?;
        is_function(&mut tool, &at)?;
        let at = format!("{at}.function");
        let mut function = object(tool.remove("function").unwrap_or(Value::Null), &at)?;
        let name = tool_name(&mut function, &at)?;
        if !names.insert(name.clone()) {
            return Err(ChatError::parameter(format!("{at}.name"), "is the name of another tool, too"));
        }
        let mut kept = Map::new();
        kept.insert("name".to_owned(), Value::from(name));
        if let Some(description) = text(&mut function, "description", &at)? {
            kept.insert("description".to_owned(), Value::from(description));
        }
        let schema = match function.remove("parameters") {
            None | Some(Value::Null) => json!({ "type": "object", "properties": {} }),
            Some(schema) => checked_schema(schema, &format!("{at}.parameters"))?,
        };
        kept.insert("parameters".to_owned(), schema);
        read.push(json!({ "type": "function", "function": kept }));
    }
    Ok(if read.is_empty() { None } else { Some(Value::Array(read)) })
}

/// Reads `tool_choice`, against the tools that [`read_tools`] gave.
///
/// # Errors
/// [`ChatError::Parameter`] when it has another form or names a tool that is not there.
pub fn read_tool_choice(choice: Option<Value>, tools: Option<&Value>) -> Result<ToolChoice, ChatError> {
    let at = "tool_choice";
    let choice = match choice {
        None | Some(Value::Null) => ToolChoice::Auto,
        Some(Value::String(word)) => match word.as_str() {
            "auto" => ToolChoice::Auto,
            "none" => ToolChoice::None,
            "required" => ToolChoice::Required,
            _ => return Err(ChatError::parameter(at, "is none of auto, none, required and a function")),
        },
        Some(choice) => {
            let mut choice = object(choice, at)?;
            is_function(&mut choice, at)?;
            let function_at = format!("{at}.function");
            let mut function = object(choice.remove("function").unwrap_or(Value::Null), &function_at)?;
            let name = tool_name(&mut function, &function_at)?;
            if !names_of(tools).any(|tool| tool == name) {
                return Err(ChatError::parameter(format!("{function_at}.name"), "is the name of no tool of `tools`"));
            }
            ToolChoice::Function(name)
        }
    };
    if choice == ToolChoice::Required && tools.is_none() {
        return Err(ChatError::parameter(at, "asks for a call, and `tools` has nothing to call"));
    }
    Ok(choice)
}

/// The names of tools that [`read_tools`] gave.
fn names_of(tools: Option<&Value>) -> impl Iterator<Item = &str> {
    let tools = tools.and_then(Value::as_array).map_or(&[] as &[Value], Vec::as_slice);
    tools.iter().filter_map(|tool| tool.get("function")?.get("name")?.as_str())
}

fn checked_schema(schema: Value, at: &str) -> Result<Value, ChatError> {
    if !schema.is_object() {
        return Err(ChatError::parameter(at, "is not an object"));
    }
    if deeper_than(&schema, TOOL_SCHEMA_DEPTH_MAX) {
        return Err(ChatError::parameter(at, format!("is nested deeper than {TOOL_SCHEMA_DEPTH_MAX}")));
    }
    let bytes = schema.to_string().len();
    if bytes > TOOL_SCHEMA_BYTES_MAX {
        return Err(ChatError::parameter(at, format!("has {bytes} bytes, at most {TOOL_SCHEMA_BYTES_MAX} are read")));
    }
    Ok(schema)
}

/// Whether a piece of JSON has more than `levels` arrays and objects within each other.
fn deeper_than(json: &Value, levels: usize) -> bool {
    let nested = |inner: &Value| levels == 0 || deeper_than(inner, levels - 1);
    match json {
        Value::Array(items) => levels == 0 || items.iter().any(nested),
        Value::Object(object) => levels == 0 || object.values().any(nested),
        _ => false,
    }
}

fn object(json: Value, at: &str) -> Result<Map<String, Value>, ChatError> {
    match json {
        Value::Object(object) => Ok(object),
        Value::Null => Err(ChatError::parameter(at, "is missing")),
        _ => Err(ChatError::parameter(at, "is not an object")),
    }
}

/// Takes a text out; null is none.
fn text(object: &mut Map<String, Value>, field: &str, at: &str) -> Result<Option<String>, ChatError> {
    match object.remove(field) {
        None | Some(Value::Null) => Ok(None),
        Some(Value::String(text)) => Ok(Some(text)),
        Some(_) => Err(ChatError::parameter(format!("{at}.{field}"), "is not a string")),
    }
}

fn missing(at: &str, field: &str) -> ChatError {
    ChatError::parameter(format!("{at}.{field}"), "is missing")
}

/// That `type` is `function`, which it is when nothing is said.
fn is_function(object: &mut Map<String, Value>, at: &str) -> Result<(), ChatError> {
    match text(object, "type", at)?.as_deref() {
        None | Some("function") => Ok(()),
        Some(_) => Err(ChatError::parameter(format!("{at}.type"), "is not `function`; no others are supported")),
    }
}

fn tool_name(function: &mut Map<String, Value>, at: &str) -> Result<String, ChatError> {
    let name = text(function, "name", at)?.ok_or_else(|| missing(at, "name"))?;
    if !is_tool_name(&name) {
        let what = format!("is not made of 1 to {TOOL_NAME_BYTES_MAX} letters, digits, `_` and `-`");
        return Err(ChatError::parameter(format!("{at}.name"), what));
    }
    Ok(name)
}

#[cfg(test)]
mod tests;
