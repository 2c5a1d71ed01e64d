//! Templates in the style of those that models come with, and the prompts they make.
//!
//! The prompts were compared with those of Jinja 3.1 in Hugging Face's settings.

#![allow(clippy::unwrap_used, clippy::panic)]

use std::time::{Duration, UNIX_EPOCH};

use halny_chat::{ChatError, ChatTemplate, Conversation, Specials, ToolFormat, read_messages, read_tools};
use halny_types::{Blame, Fault};
use serde_json::{Value, json};

const CHATML: &str = "\
{%- for message in messages %}
    {%- if loop.first and message['role'] != 'system' %}
        {{- '<|im_start|>system\\nYou help.<|im_end|>\\n' }}
    {%- endif %}
    {{- '<|im_start|>' + message['role'] + '\\n' + message['content'] + '<|im_end|>' + '\\n' }}
{%- endfor %}
{%- if add_generation_prompt %}
    {{- '<|im_start|>assistant\\n' }}
    {%- if enable_thinking is defined and enable_thinking is false %}
        {{- '<think>\\n\\n</think>\\n\\n' }}
    {%- endif %}
{%- endif %}
";

const LLAMA: &str = "\
{{- bos_token }}
{%- if not date_string is defined %}
    {%- set date_string = strftime_now(\"%d %b %Y\") %}
{%- endif %}
{#- A system message, or none #}
{%- if messages[0].role == 'system' %}
    {%- set system = messages[0].content | trim %}
    {%- set messages = messages[1:] %}
{%- else %}
    {%- set system = '' %}
{%- endif %}
{{- '<|start_header_id|>system<|end_header_id|>\\n\\nToday: ' ~ date_string ~ '\\n\\n' }}
{%- if tools is not none %}
    {{- 'Answer with {\"name\": function name, \"parameters\": dictionary}.\\n\\n' }}
    {%- for tool in tools %}
        {{- tool | tojson(indent=4) }}
        {{- '\\n\\n' }}
    {%- endfor %}
{%- endif %}
{{- system + '<|eot_id|>' }}
{%- for message in messages %}
    {%- if not (message.role == 'tool' or 'tool_calls' in message) %}
        {{- '<|start_header_id|>' + message.role + '<|end_header_id|>\\n\\n' + message.content | trim + '<|eot_id|>' }}
    {%- elif 'tool_calls' in message %}
        {%- if message.tool_calls | length != 1 %}
            {{- raise_exception('This model calls one tool at a time!') }}
        {%- endif %}
        {%- set call = message.tool_calls[0].function %}
        {{- '<|start_header_id|>assistant<|end_header_id|>\\n\\n' }}
        {{- '{\"name\": \"' + call.name + '\", \"parameters\": ' }}
        {{- call.arguments | tojson }}
        {{- '}<|eot_id|>' }}
    {%- else %}
        {{- '<|start_header_id|>ipython<|end_header_id|>\\n\\n' + message.content + '<|eot_id|>' }}
    {%- endif %}
{%- endfor %}
{%- if add_generation_prompt %}
    {{- '<|start_header_id|>assistant<|end_header_id|>\\n\\n' }}
{%- endif %}
";

const GEMMA: &str = "\
{{ bos_token }}
{%- if messages[0]['role'] == 'system' %}
    {% set first_prefix = messages[0]['content'] + '\\n\\n' %}
    {% set turns = messages[1:] %}
{% else %}
    {% set first_prefix = '' %}
    {% set turns = messages %}
{% endif %}
{%- for message in turns -%}
    {%- if (message['role'] == 'user') != (loop.index0 % 2 == 0) -%}
        {{ raise_exception('Roles must alternate: user, assistant, user, ...') }}
    {%- endif -%}
    {%- set role = 'model' if message['role'] == 'assistant' else message['role'] -%}
    {{ '<start_of_turn>' + role + '\\n' + (first_prefix if loop.first else '') }}
    {%- if message['content'] is string -%}
        {{ message['content'] | trim }}
    {%- else -%}
        {{ raise_exception('Content is no text') }}
    {%- endif -%}
    {{ '<end_of_turn>\\n' }}
{%- endfor -%}
{%- if add_generation_prompt -%}
    {{ '<start_of_turn>model\\n' }}
{%- endif -%}
";

fn compiled(source: &str) -> ChatTemplate {
    ChatTemplate::compile(source, Specials { bos: "<bos>".to_owned(), eos: "<eos>".to_owned() }).unwrap()
}

fn conversation(messages: Value) -> Conversation {
    Conversation {
        messages: read_messages(messages).unwrap(),
        add_generation_prompt: true,
        now: Some(UNIX_EPOCH + Duration::from_secs(1_721_692_805)),
        ..Conversation::default()
    }
}

fn says(role: &str, content: &str) -> Value {
    json!({ "role": role, "content": content })
}

fn call(content: Value) -> Value {
    let function = json!({ "name": "weather", "arguments": "{\"city\": \"Kraków\", \"days\": 2}" });
    json!({ "role": "assistant", "content": content, "tool_calls": [{ "id": "a1", "type": "function", "function": function }] })
}

fn result() -> Value {
    json!({ "role": "tool", "tool_call_id": "a1", "content": "{\"sky\": \"<clear>\"}" })
}

fn tools() -> Option<Value> {
    let parameters = json!({ "type": "object", "properties": { "city": { "type": "string" } }, "required": ["city"] });
    let function = json!({ "name": "weather", "description": "Sky & \"wind\" <today>", "parameters": parameters });
    read_tools(Some(json!([{ "type": "function", "function": function }]))).unwrap()
}

#[test]
fn chatml_is_written_turn_by_turn() {
    let template = compiled(CHATML);
    let mut said = conversation(json!([says("user", " Hi\n"), says("assistant", "Yo"), says("user", "2 < 3?")]));
    let turns = "<|im_start|>system\nYou help.<|im_end|>\n<|im_start|>user\n Hi\n<|im_end|>\n\
                 <|im_start|>assistant\nYo<|im_end|>\n<|im_start|>user\n2 < 3?<|im_end|>\n";
    assert_eq!(template.render(&said).unwrap(), format!("{turns}<|im_start|>assistant\n"));
    said.extra.insert("enable_thinking".to_owned(), json!(false));
    assert_eq!(template.render(&said).unwrap(), format!("{turns}<|im_start|>assistant\n<think>\n\n</think>\n\n"));
    said.add_generation_prompt = false;
    assert_eq!(template.render(&said).unwrap(), turns);
    assert!(!template.uses_tools());
    assert_eq!(template.tool_format(), None);
}

#[test]
fn llama_is_told_of_tools_and_calls_one_at_a_time() {
    let template = compiled(LLAMA);
    let mut said =
        conversation(json!([says("developer", "Be brief. "), says("user", "Rain?"), call(Value::Null), result(),]));
    said.tools = tools();
    assert_eq!(
        template.render(&said).unwrap(),
        r#"<bos><|start_header_id|>system<|end_header_id|>

Today: 23 Jul 2024

Answer with {"name": function name, "parameters": dictionary}.

{
    "type": "function",
    "function": {
        "name": "weather",
        "description": "Sky & \"wind\" <today>",
        "parameters": {
            "type": "object",
            "properties": {
                "city": {
                    "type": "string"
                }
            },
            "required": [
                "city"
            ]
        }
    }
}

Be brief.<|eot_id|><|start_header_id|>user<|end_header_id|>

Rain?<|eot_id|><|start_header_id|>assistant<|end_header_id|>

{"name": "weather", "parameters": {"city": "Kraków", "days": 2}}<|eot_id|><|start_header_id|>ipython<|end_header_id|>

{"sky": "<clear>"}<|eot_id|><|start_header_id|>assistant<|end_header_id|>

"#
    );
    assert!(template.uses_tools());
    assert_eq!(template.tool_format(), Some(ToolFormat::LlamaJson));
    let calls = &mut said.messages[2]["tool_calls"];
    let again = calls[0].clone();
    calls.as_array_mut().unwrap().push(again);
    let error = template.render(&said).unwrap_err();
    assert_eq!(error, ChatError::Refused("This model calls one tool at a time!".to_owned()));
    assert_eq!((error.fault(), error.param()), (Fault::Caller, Some("messages")));
}

#[test]
fn gemma_folds_the_system_message_into_the_first_turn() {
    let template = compiled(GEMMA);
    let said = conversation(json!([
        says("system", "Be brief."),
        says("user", " A? "),
        says("assistant", "B."),
        says("user", "C?")
    ]));
    assert_eq!(
        template.render(&said).unwrap(),
        "<bos><start_of_turn>user\nBe brief.\n\nA?<end_of_turn>\n<start_of_turn>model\nB.<end_of_turn>\n\
         <start_of_turn>user\nC?<end_of_turn>\n<start_of_turn>model\n"
    );
    let error = template.render(&conversation(json!([says("assistant", "B.")]))).unwrap_err();
    assert_eq!(
        error.to_string(),
        "the model's chat template refuses these messages: Roles must alternate: user, assistant, user, ..."
    );
}

#[test]
fn a_generation_block_is_what_is_in_it() {
    let source = "{% for m in messages %}{% if m.role == 'assistant' %}{% generation %}{{ m.content }}{{ eos_token }}\
                  {% set x = 1 %}{% endgeneration %}{{ x is defined }}{% else %}{{ m.content }}{% endif %}{% endfor %}";
    let said = conversation(json!([says("user", "a"), says("assistant", "b")]));
    assert_eq!(compiled(source).render(&said).unwrap(), "ab<eos>False");
}

#[test]
fn the_last_message_is_gone_on_with_where_its_text_ends() {
    let mut said = conversation(json!([says("user", "Hi"), says("assistant", "Yo ")]));
    said.add_generation_prompt = false;
    said.continue_final_message = true;
    let chatml = compiled(CHATML).render(&said).unwrap();
    assert!(chatml.ends_with("<|im_start|>assistant\nYo "), "{chatml}");
    let gemma = compiled(GEMMA).render(&said).unwrap();
    assert!(gemma.ends_with("<start_of_turn>model\nYo"), "what the template trims stays trimmed: {gemma}");
    assert!(matches!(compiled("{{ bos_token }}").render(&said), Err(ChatError::Continue(_))));
    said.add_generation_prompt = true;
    assert_eq!(compiled(CHATML).render(&said).unwrap_err().param(), Some("continue_final_message"));
    said.add_generation_prompt = false;
    said.messages[1]["content"] = json!(" ");
    assert!(matches!(compiled(CHATML).render(&said), Err(ChatError::Continue(_))));
}

#[test]
fn a_call_beside_null_is_rendered_by_templates_that_expect_text() {
    let said = conversation(json!([says("user", "a"), call(Value::Null), result()]));
    let adds_content = "{% for m in messages %}{{ m.role + ':' + m.content }}{% for c in m.tool_calls %}{{ c.function.arguments | tojson }}{% endfor %};{% endfor %}";
    assert_eq!(
        compiled(adds_content).render(&said).unwrap(),
        "user:a;assistant:{\"city\": \"Kraków\", \"days\": 2};tool:{\"sky\": \"<clear>\"};"
    );
    let adds_arguments = "{% for m in messages %}{% if m.content is none %}{{ m.tool_calls[0].function.arguments + '!' }}{% endif %}{% endfor %}";
    assert_eq!(compiled(adds_arguments).render(&said).unwrap(), "{\"city\":\"Kraków\",\"days\":2}!");
}

#[test]
fn a_template_that_is_none_is_the_operators_error() {
    for (source, text) in [
        ("a\n{% if x %}", "the chat template is broken on line 2: `{% endif %}` is missing"),
        ("{{ a b }}", "the chat template is broken on line 1: unexpected `b`"),
        ("{{ a | nope }}", "the chat template is broken on line 1: there is no filter `nope`"),
        ("{{ a is nope }}", "the chat template is broken on line 1: there is no test `nope`"),
        ("{% break %}", "the chat template is broken on line 1: `break` stands outside of a loop"),
        (
            "{% include '/etc/passwd' %}",
            "the chat template is broken on line 1: `include` reads other templates, which a chat template may not",
        ),
    ] {
        let error = ChatTemplate::compile(source, Specials::default()).unwrap_err();
        assert_eq!((error.to_string().as_str(), error.fault(), error.param()), (text, Fault::Ours, None));
    }
    assert!(ChatTemplate::compile("{% if x %}{{ a | nope }}{% endif %}", Specials::default()).is_ok(), "as in Jinja");
}

#[test]
fn what_a_template_cannot_do_is_told_with_its_line() {
    let said = conversation(json!([says("user", "a")]));
    for (source, text) in [
        ("\n{{ messages[0].tool_calls[0].id }}", "`messages[...].tool_calls` is undefined (line 2 of the template)"),
        ("{{ nothing.here }}", "`nothing` is undefined (line 1 of the template)"),
        ("{{ 'a' + 1 }}", "`+` does not work on a string and a number (line 1 of the template)"),
        (
            "{{ messages.append(1) }}",
            "`append` is refused: a list cannot be changed in a template (line 1 of the template)",
        ),
        (
            "{{ messages[0].pop('role') }}",
            "`pop` is refused: a map cannot be changed in a template (line 1 of the template)",
        ),
        ("{{ bos_token() }}", "`bos_token` is a string, not a function (line 1 of the template)"),
        ("{{ undefined | tojson }}", "an undefined value has no JSON form (line 1 of the template)"),
    ] {
        let error = compiled(source).render(&said).unwrap_err();
        assert_eq!(error.to_string(), format!("the model's chat template cannot render these messages: {text}"));
        assert_eq!(error.fault(), Fault::Caller);
    }
}

#[test]
fn nothing_leads_out_of_the_template() {
    let said = conversation(json!([says("user", "a")]));
    for source in [
        "{{ ''.__class__ }}",
        "{{ ''.__class__.__mro__ }}",
        "{{ messages.__init__.__globals__ }}",
        "{{ self }}",
        "{{ self.__init__ }}",
        "{{ cycler.__init__.__globals__.os.popen('id').read() }}",
        "{{ lipsum.__globals__ }}",
        "{{ config }}{{ request }}{{ env }}{{ environ }}",
        "{{ ''|attr('__class__') }}",
        "{{ range.__globals__ }}",
    ] {
        let prompt = compiled(source).render(&said).unwrap_or_default();
        assert_eq!(prompt, "", "{source}");
    }
}

#[test]
fn what_a_template_raises_is_passed_on_shortened() {
    let said = conversation(json!([says("user", &"long ".repeat(1000))]));
    let ChatError::Refused(text) = compiled("{{ raise_exception(messages[0].content) }}").render(&said).unwrap_err()
    else {
        panic!("refused");
    };
    assert_eq!(text.chars().count(), 303);
}

#[test]
fn a_client_cannot_replace_what_the_request_sets() {
    let mut said = conversation(json!([says("user", "a")]));
    said.extra.insert("messages".to_owned(), json!([]));
    let error = compiled(CHATML).render(&said).unwrap_err();
    assert_eq!((error.param(), error.fault()), (Some("chat_template_kwargs.messages"), Fault::Caller));
}

#[test]
fn a_long_conversation_is_rendered_whole() {
    let turns: Vec<Value> =
        (0..4096).map(|turn| says(if turn % 2 == 0 { "user" } else { "assistant" }, &"word ".repeat(50))).collect();
    for source in [CHATML, LLAMA, GEMMA] {
        let prompt = compiled(source).render(&conversation(Value::Array(turns.clone()))).unwrap();
        assert!(prompt.len() > 1_000_000);
    }
}
