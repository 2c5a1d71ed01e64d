//! How a model writes that it calls a tool.

use serde_json::{Value, json};

use crate::messages::ToolChoice;

/// A way of writing calls of tools.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum ToolFormat {
    /// `<tool_call>{"name": ..., "arguments": {...}}</tool_call>`: Hermes, Qwen 2.5 and 3.
    Hermes,
    /// `{"name": ..., "parameters": {...}}` as the whole answer: Llama 3.1 to 3.3.
    LlamaJson,
    /// `[TOOL_CALLS][{"name": ..., "arguments": {...}}]`: Mistral up to its tokenizer's version 7.
    Mistral,
}

/// What a model has to write so that it calls a tool: `prefix`, JSON that fits `schema`, `suffix`.
#[derive(Clone, Debug, PartialEq)]
pub struct ForcedCall {
    /// What stands before the JSON.
    pub prefix: String,
    /// The JSON Schema of the call.
    pub schema: Value,
    /// What stands after the JSON.
    pub suffix: String,
}

impl ToolFormat {
    /// The way that a template teaches, where it teaches one of these.
    #[must_use]
    pub fn detect(source: &str) -> Option<ToolFormat> {
        let has = |part: &str| source.contains(part);
        if !ToolFormat::mentions_tools(source) {
            return None;
        }
        // The same markers stand around XML (Qwen3-Coder, GLM, MiniMax) and around bare names (Mistral
        // since version 11 of its tokenizer): taking those for JSON would lose every call.
        if ["<function=", "<arg_key>", "<parameter", "<invoke", "[ARGS]", "[CALL_ID]"].into_iter().any(has) {
            return None;
        }
        if has("<tool_call>") {
            return has("\"name\"").then_some(ToolFormat::Hermes);
        }
        if has("[TOOL_CALLS]") {
            return Some(ToolFormat::Mistral);
        }
        let teaches = has("\"parameters\": ") && (has("\"name\": function name") || has("{\"name\": \""));
        (has("<|python_tag|>") || (teaches && has("<|eot_id|>"))).then_some(ToolFormat::LlamaJson)
    }

    /// Whether a template does anything with tools.
    pub(crate) fn mentions_tools(source: &str) -> bool {
        let is_name = |c: char| c.is_alphanumeric() || c == '_';
        source.match_indices("tools").any(|(at, word)| {
            let (before, after) = (&source[..at], &source[at + word.len()..]);
            let code = before.rfind("{%").max(before.rfind("{{")) > before.rfind("%}").max(before.rfind("}}"));
            code && !before.ends_with(is_name) && !after.starts_with(is_name)
        })
    }

    /// What has the model call one of `tools`, as [`read_tools`](crate::read_tools) gives them. `None`
    /// when `choice` asks for no call or names no tool.
    #[must_use]
    pub fn forced_call(self, tools: &Value, choice: &ToolChoice) -> Option<ForcedCall> {
        let wanted = match choice {
            ToolChoice::Auto | ToolChoice::None => return None,
            ToolChoice::Required => None,
            ToolChoice::Function(name) => Some(name.as_str()),
        };
        let named = |tool: &Value| Some(tool.get("function")?.get("name")?.as_str()?.to_owned());
        let tools: Vec<(String, &Value)> = tools
            .as_array()?
            .iter()
            .filter_map(|tool| Some((named(tool)?, tool.get("function")?.get("parameters")?)))
            .filter(|(name, _)| wanted.is_none_or(|wanted| wanted == name))
            .collect();
        let inner = if self == ToolFormat::Mistral { "#/items" } else { "#" };
        let call = match tools.as_slice() {
            [] => return None,
            [(name, schema)] => self.call_schema(name, schema, inner),
            several => {
                let each = several.iter().enumerate();
                let each = each
                    .map(|(place, (name, schema))| self.call_schema(name, schema, &format!("{inner}/anyOf/{place}")));
                json!({ "anyOf": each.collect::<Vec<_>>() })
            }
        };
        let (prefix, schema, suffix) = match self {
            ToolFormat::Hermes => ("<tool_call>\n", call, "\n</tool_call>"),
            ToolFormat::LlamaJson => ("", call, ""),
            ToolFormat::Mistral => {
                ("[TOOL_CALLS]", json!({ "type": "array", "items": call, "minItems": 1, "maxItems": 1 }), "")
            }
        };
        Some(ForcedCall { prefix: prefix.to_owned(), schema, suffix: suffix.to_owned() })
    }

    /// The schema of a call of one tool, which stands at `at` in the whole schema.
    fn call_schema(self, name: &str, schema: &Value, at: &str) -> Value {
        let key = if self == ToolFormat::LlamaJson { "parameters" } else { "arguments" };
        let mut schema = schema.clone();
        move_references(&mut schema, &format!("{at}/properties/{key}"));
        json!({
            "type": "object",
            "properties": { "name": { "const": name }, key: schema },
            "required": ["name", key],
            "additionalProperties": false,
        })
    }
}

/// Has references from a schema's root go on from where that root now stands.
fn move_references(schema: &mut Value, root: &str) {
    match schema {
        Value::Object(object) => {
            for (key, value) in object {
                match value.as_str().and_then(|target| target.strip_prefix('#')) {
                    Some(rest) if key == "$ref" && (rest.is_empty() || rest.starts_with('/')) => {
                        *value = Value::from(format!("{root}{rest}"));
                    }
                    _ => move_references(value, root),
                }
            }
        }
        Value::Array(items) => items.iter_mut().for_each(|item| move_references(item, root)),
        _ => {}
    }
}

#[cfg(test)]
mod tests;
