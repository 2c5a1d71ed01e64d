use serde_json::json;

use super::*;

const USES: &str = "{% if tools %}{{ tools | tojson }}{% endif %}";

#[test]
fn a_format_is_known_by_what_the_template_teaches() {
    let detect = |rest: &str| ToolFormat::detect(&format!("{USES}{rest}"));
    assert_eq!(detect("<tool_call>\n{\"name\": <function-name>}\n</tool_call>"), Some(ToolFormat::Hermes));
    assert_eq!(detect("[TOOL_CALLS] ["), Some(ToolFormat::Mistral));
    assert_eq!(detect("<|python_tag|>"), Some(ToolFormat::LlamaJson));
    assert_eq!(detect("<|eot_id|>{\"name\": function name, \"parameters\": dictionary}"), Some(ToolFormat::LlamaJson));
    assert_eq!(detect("nothing of the kind"), None);
}

#[test]
fn markers_around_something_else_than_json_are_not_taken_for_it() {
    let detect = |rest: &str| ToolFormat::detect(&format!("{USES}{rest}"));
    assert_eq!(detect("<tool_call>\n<function=f>\n<parameter=a>"), None);
    assert_eq!(detect("<tool_call>f\n<arg_key>a</arg_key>"), None);
    assert_eq!(detect("<tool_call><invoke name=\"f\">"), None);
    assert_eq!(detect("[TOOL_CALLS]f[ARGS]{}"), None);
    assert_eq!(detect("<|python_tag|> or <function=f>{}</function>"), None);
    assert_eq!(ToolFormat::detect("<tool_call> {# tools #} my_tools {{ my_tools }}"), None, "it has no use for tools");
}

#[test]
fn a_forced_call_is_read_as_a_call_again() {
    let tools = json!([
        { "type": "function", "function": { "name": "f", "parameters": { "type": "object" } } },
        { "type": "function", "function": { "name": "g", "parameters": { "type": "object" } } }
    ]);
    let g = ToolChoice::Function("g".to_owned());
    for (format, json, key) in [
        (ToolFormat::Hermes, "{\"name\": \"g\", \"arguments\": {\"a\": 1}}", "arguments"),
        (ToolFormat::LlamaJson, "{\"name\": \"g\", \"parameters\": {\"a\": 1}}", "parameters"),
        (ToolFormat::Mistral, "[{\"name\": \"g\", \"arguments\": {\"a\": 1}}]", "arguments"),
    ] {
        let forced = format.forced_call(&tools, &g).unwrap();
        let call = if format == ToolFormat::Mistral { &forced.schema["items"] } else { &forced.schema };
        assert_eq!(
            call.to_string(),
            format!(
                "{{\"type\":\"object\",\"properties\":{{\"name\":{{\"const\":\"g\"}},\"{key}\":{{\"type\":\"object\"}}}},\
                 \"required\":[\"name\",\"{key}\"],\"additionalProperties\":false}}"
            ),
            "the name comes first, as templates teach"
        );
        let mut parser = crate::ToolParser::new(format, 0);
        let mut pieces = parser.push(&format!("{}{json}{}", forced.prefix, forced.suffix));
        pieces.extend(parser.finish());
        let arguments = crate::Piece::CallArguments { index: 0, fragment: "{\"a\": 1}".to_owned() };
        assert!(pieces.len() == 3 && pieces[1] == arguments, "{pieces:?}");
    }
    let any = ToolFormat::Hermes.forced_call(&tools, &ToolChoice::Required).unwrap();
    assert_eq!(any.schema["anyOf"].as_array().unwrap().len(), 2);
    assert_eq!(ToolFormat::Hermes.forced_call(&tools, &ToolChoice::Auto), None);
    assert_eq!(ToolFormat::Hermes.forced_call(&tools, &ToolChoice::Function("h".to_owned())), None);
}

#[test]
fn references_within_a_tools_schema_still_lead_to_their_targets() {
    let parameters = json!({
        "type": "object",
        "properties": { "a": { "$ref": "#/$defs/a" }, "$ref": { "type": "string" }, "self": { "$ref": "#" } },
        "$defs": { "a": { "type": "integer" } },
    });
    let tool = |name: &str| json!({ "type": "function", "function": { "name": name, "parameters": parameters } });
    let tools = json!([tool("f"), tool("g")]);
    for (format, choice) in [
        (ToolFormat::Hermes, ToolChoice::Required),
        (ToolFormat::Mistral, ToolChoice::Required),
        (ToolFormat::LlamaJson, ToolChoice::Function("g".to_owned())),
    ] {
        let schema = format.forced_call(&tools, &choice).unwrap().schema;
        let text = schema.to_string();
        let targets: Vec<&str> = text.split("\"$ref\":\"#").skip(1).filter_map(|rest| rest.split('"').next()).collect();
        assert!(targets.len() >= 2);
        for target in targets {
            let found = schema.pointer(target).unwrap();
            assert!(found == &parameters["$defs"]["a"] || found.get("$defs").is_some(), "{target}");
        }
    }
}
