use serde_json::{Value, json};

use super::*;

fn refusal(messages: Value) -> (String, String) {
    let error = read_messages(messages).unwrap_err();
    (error.param().unwrap().to_owned(), error.to_string())
}

fn tool(name: &str, parameters: Value) -> Value {
    json!({ "type": "function", "function": { "name": name, "parameters": parameters } })
}

#[test]
fn messages_come_out_as_templates_read_them() {
    let read = read_messages(json!([
        { "role": "developer", "content": "Be brief." },
        { "role": "user", "content": [{ "type": "text", "text": "a" }, { "type": "text", "text": "b" }], "name": "eva" },
        { "role": "assistant", "content": null, "tool_calls": [
            { "id": "1", "type": "function", "function": { "name": "f", "arguments": "{\"z\": 1, \"a\": [2]}" } },
            { "id": "2", "function": { "name": "g", "arguments": "" } }
        ] },
        { "role": "tool", "tool_call_id": "1", "content": "ok" },
        { "role": "assistant", "content": null, "refusal": "No.", "unknown": 5 }
    ]))
    .unwrap();
    assert_eq!(
        Value::Array(read).to_string(),
        json!([
            { "role": "system", "content": "Be brief." },
            { "role": "user", "content": "ab", "name": "eva" },
            { "role": "assistant", "content": null, "tool_calls": [
                { "id": "1", "type": "function", "function": { "name": "f", "arguments": { "z": 1, "a": [2] } } },
                { "id": "2", "type": "function", "function": { "name": "g", "arguments": {} } }
            ] },
            { "role": "tool", "content": "ok", "name": "f", "tool_call_id": "1" },
            { "role": "assistant", "content": "No." }
        ])
        .to_string(),
        "the order of keys is the client's"
    );
}

#[test]
fn what_is_wrong_is_named_in_openais_way() {
    let user = |content: Value| json!([{ "role": "user", "content": content }]);
    let assistant = |calls: Value| json!([{ "role": "assistant", "tool_calls": calls }]);
    for (messages, param) in [
        (json!("Hi"), "messages"),
        (json!([]), "messages"),
        (json!(["Hi"]), "messages[0]"),
        (json!([{ "content": "Hi" }]), "messages[0].role"),
        (json!([{ "role": 5 }]), "messages[0].role"),
        (json!([{ "role": "function", "content": "x" }]), "messages[0].role"),
        (user(Value::Null), "messages[0].content"),
        (user(json!(5)), "messages[0].content"),
        (user(json!([{ "text": "Hi" }])), "messages[0].content[0].type"),
        (user(json!([{ "type": "text" }])), "messages[0].content[0].text"),
        (user(json!([{ "type": "refusal", "refusal": "x" }])), "messages[0].content[0].type"),
        (json!([{ "role": "assistant" }]), "messages[0].content"),
        (assistant(json!([])), "messages[0].tool_calls"),
        (assistant(json!([{ "function": { "name": "f" } }])), "messages[0].tool_calls[0].id"),
        (assistant(json!([{ "id": "1" }])), "messages[0].tool_calls[0].function"),
        (assistant(json!([{ "id": "1", "type": "custom" }])), "messages[0].tool_calls[0].type"),
        (assistant(json!([{ "id": "1", "function": { "name": "a b" } }])), "messages[0].tool_calls[0].function.name"),
        (
            assistant(json!([{ "id": "1", "function": { "name": "f", "arguments": "[1]" } }])),
            "messages[0].tool_calls[0].function.arguments",
        ),
        (json!([{ "role": "user", "content": "x", "tool_calls": [] }]), "messages[0].tool_calls"),
        (json!([{ "role": "tool", "content": "x" }]), "messages[0].tool_call_id"),
        (json!([{ "role": "assistant", "content": "x", "function_call": {} }]), "messages[0].function_call"),
    ] {
        assert_eq!(refusal(messages.clone()).0, param, "{messages}");
    }
}

#[test]
fn a_part_that_is_no_text_is_refused_by_its_type_and_place() {
    let parts = json!([{ "type": "text", "text": "What is this?" }, { "type": "image_url", "image_url": {} }]);
    let (param, text) = refusal(json!([{ "role": "system", "content": "x" }, { "role": "user", "content": parts }]));
    assert_eq!(param, "messages[1].content[1].type");
    assert_eq!(text, "`messages[1].content[1].type` is `image_url` in part 1: this model reads text only");
    let (_, text) = refusal(json!([{ "role": "user", "content": [{ "type": "x".repeat(100_000) }] }]));
    assert!(text.len() < 200, "a client's text is not sent back at length");
}

#[test]
fn conversations_are_read_up_to_their_limit() {
    let of = |count: usize| Value::Array(vec![json!({ "role": "user", "content": "x" }); count]);
    assert_eq!(read_messages(of(MESSAGES_MAX)).unwrap().len(), MESSAGES_MAX);
    assert_eq!(refusal(of(MESSAGES_MAX + 1)).0, "messages");
}

#[test]
fn arguments_nested_too_deep_for_json_are_refused() {
    let arguments = format!("{{\"a\":{}{}}}", "[".repeat(100_000), "]".repeat(100_000));
    let call = json!([{ "id": "1", "function": { "name": "f", "arguments": arguments } }]);
    assert!(refusal(json!([{ "role": "assistant", "tool_calls": call }])).0.ends_with("arguments"));
}

#[test]
fn tools_come_out_whole_and_without_what_templates_do_not_know() {
    assert_eq!(read_tools(None), Ok(None));
    assert_eq!(read_tools(Some(json!([]))), Ok(None));
    let given = json!([
        { "type": "function", "strict": true, "function": {
            "strict": true, "description": "d", "name": "f", "parameters": { "type": "object", "a": 1 } } },
        { "function": { "name": "g" } }
    ]);
    let wanted = json!([
        { "type": "function", "function": { "name": "f", "description": "d", "parameters": { "type": "object", "a": 1 } } },
        { "type": "function", "function": { "name": "g", "parameters": { "type": "object", "properties": {} } } }
    ]);
    assert_eq!(read_tools(Some(given)).unwrap().unwrap().to_string(), wanted.to_string());
}

#[test]
fn tools_beyond_a_limit_are_refused_by_name() {
    let mut deep = json!({});
    for _ in 0..TOOL_SCHEMA_DEPTH_MAX {
        deep = json!({ "properties": deep });
    }
    let names: Vec<Value> = (0..=TOOLS_MAX).map(|number| tool(&format!("t{number}"), json!({}))).collect();
    for (tools, param) in [
        (json!({}), "tools"),
        (Value::Array(names), "tools"),
        (json!([{ "type": "retrieval" }]), "tools[0].type"),
        (json!([{ "type": "function" }]), "tools[0].function"),
        (json!([tool("", json!({}))]), "tools[0].function.name"),
        (json!([tool(&"n".repeat(65), json!({}))]), "tools[0].function.name"),
        (json!([tool("../etc", json!({}))]), "tools[0].function.name"),
        (json!([tool("a", json!({})), tool("a", json!({}))]), "tools[1].function.name"),
        (json!([tool("a", json!([]))]), "tools[0].function.parameters"),
        (json!([tool("a", deep.clone())]), "tools[0].function.parameters"),
        (json!([tool("a", json!({ "title": "x".repeat(TOOL_SCHEMA_BYTES_MAX) }))]), "tools[0].function.parameters"),
    ] {
        assert_eq!(read_tools(Some(tools)).unwrap_err().param(), Some(param));
    }
    assert!(read_tools(Some(json!([tool("a", deep["properties"].clone())]))).is_ok(), "the limit itself is allowed");
}

#[test]
fn a_choice_names_a_tool_that_is_there() {
    let tools = json!([tool("f", json!({}))]);
    let read = |choice: Value| read_tool_choice(Some(choice), Some(&tools));
    assert_eq!(read_tool_choice(None, None), Ok(ToolChoice::Auto));
    assert_eq!(read(json!("none")), Ok(ToolChoice::None));
    assert_eq!(read(json!("required")), Ok(ToolChoice::Required));
    let function = |name: &str| json!({ "type": "function", "function": { "name": name } });
    assert_eq!(read(function("f")), Ok(ToolChoice::Function("f".to_owned())));
    assert_eq!(read(function("g")).unwrap_err().param(), Some("tool_choice.function.name"));
    assert_eq!(read(json!("any")).unwrap_err().param(), Some("tool_choice"));
    assert_eq!(read_tool_choice(Some(json!("required")), None).unwrap_err().param(), Some("tool_choice"));
}
