use proptest::prelude::*;

use super::*;

/// The pieces of a text that comes in `parts`, with neighbours of the same kind joined.
fn parsed<'t>(format: ToolFormat, parts: impl IntoIterator<Item = &'t str>) -> Vec<Piece> {
    let mut parser = ToolParser::new(format, 7);
    let mut pieces: Vec<Piece> = Vec::new();
    let mut add = |more: Vec<Piece>| {
        for piece in more {
            match (pieces.last_mut(), piece) {
                (Some(Piece::Content(before)), Piece::Content(text)) => before.push_str(&text),
                (_, piece) => pieces.push(piece),
            }
        }
    };
    for part in parts {
        add(parser.push(part));
    }
    add(parser.finish());
    pieces
}

/// A text's pieces in short: content as it is, calls as `name(arguments)`.
fn short(format: ToolFormat, text: &str) -> Vec<String> {
    let mut out = Vec::new();
    for piece in parsed(format, [text]) {
        match piece {
            Piece::Content(text) => out.push(text),
            Piece::CallBegin { name, .. } => out.push(name),
            Piece::CallArguments { fragment, .. } => {
                if let Some(call) = out.last_mut() {
                    *call = format!("{call}({fragment})");
                }
            }
            Piece::CallEnd { .. } => {}
        }
    }
    out
}

#[test]
fn calls_between_markers_are_found_and_the_rest_is_content() {
    let hermes = |text: &str| short(ToolFormat::Hermes, text);
    let f = "<tool_call>\n{\"name\": \"f\", \"arguments\": {\"a\": \"}</tool_call>\"}}\n</tool_call>";
    let f_read = "f({\"a\": \"}</tool_call>\"})";
    assert_eq!(hermes("Hello <b>you</b> "), ["Hello <b>you</b> "]);
    assert_eq!(hermes(f), [f_read]);
    assert_eq!(hermes(&format!("Let me see.\n\n{f}\n{f}\n")), ["Let me see.", f_read, f_read]);
    assert_eq!(hermes(&format!("{f}\n and more")), [f_read, "\n and more"]);
    assert_eq!(hermes("<tool_call>{\"name\":\"f\"}"), ["f({})"], "the end may be cut off");
    assert_eq!(hermes("<tool_call>{\"name\":\"f\",\"arguments\":\"{\\\"a\\\":1}\"}</tool_call>"), ["f({\"a\":1})"]);
}

#[test]
fn what_proves_to_be_no_call_is_content_to_the_last_byte() {
    for text in [
        "a <tool_call> b",
        "a <tool_cal",
        "<tool_call>{\"name\": \"f\", </tool_call>",
        "<tool_call>{\"name\": \"f\"",
        "<tool_call>{\"name\": \"f g\", \"arguments\": {}}</tool_call>",
        "<tool_call>{\"arguments\": {}}</tool_call>",
        "<tool_call>{\"name\": \"f\", \"arguments\": [1]}</tool_call>",
        "<tool_call>{]}</tool_call>",
        "  \n<tool_call>",
    ] {
        assert_eq!(short(ToolFormat::Hermes, text), [text]);
    }
    for text in [
        "Hi {\"name\": \"f\", \"parameters\": {}}",
        "{\"name\": \"f\"}",
        "{\"answer\": 42}\n",
        "<|python_tag|>print(1)",
        "<|python",
        " ; {\"name\": \"f\", \"parameters\": {}}",
    ] {
        assert_eq!(short(ToolFormat::LlamaJson, text), [text]);
    }
    for text in ["[TOOL_CALLS]", "[TOOL_CALLS][]", "[TOOL_CALLS] f{}", "[TOOL", "[1, 2] [TOOL_CALLS] [1]"] {
        assert_eq!(short(ToolFormat::Mistral, text), [text]);
    }
}

#[test]
fn llamas_calls_are_the_whole_answer() {
    let llama = |text: &str| short(ToolFormat::LlamaJson, text);
    assert_eq!(llama("{\"name\": \"f\", \"parameters\": {\"a\": 1}}"), ["f({\"a\": 1})"]);
    assert_eq!(llama("\n<|python_tag|>{\"name\": \"f\", \"parameters\": {}}\n"), ["f({})"]);
    let two = "{\"name\": \"f\", \"parameters\": {}}; {\"type\": \"function\", \"name\": \"g\", \"parameters\": {}}";
    assert_eq!(llama(two), ["f({})", "g({})"]);
    assert_eq!(llama("{\"name\": \"f\", \"parameters\": {}} is what I would call"), ["f({})", " is what I would call"]);
}

#[test]
fn mistrals_calls_are_an_array() {
    let mistral = |text: &str| short(ToolFormat::Mistral, text);
    let text =
        "Well.[TOOL_CALLS] [{\"name\": \"f\", \"arguments\": {}}, {\"arguments\": {\"b\": [1]}, \"name\": \"g\"}]";
    assert_eq!(mistral(text), ["Well.", "f({})", "g({\"b\": [1]})"]);
}

#[test]
fn ids_are_nine_letters_and_digits_and_differ() {
    let text = "[TOOL_CALLS][{\"name\": \"f\", \"arguments\": {}}, {\"name\": \"f\", \"arguments\": {}}]";
    let ids = |seed: u64| -> Vec<String> {
        let pieces = ToolParser::new(ToolFormat::Mistral, seed).push(text);
        pieces
            .into_iter()
            .filter_map(|piece| if let Piece::CallBegin { id, .. } = piece { Some(id) } else { None })
            .collect()
    };
    let (first, second) = (ids(1), ids(2));
    assert!(first.iter().chain(&second).all(|id| id.len() == 9 && id.bytes().all(|byte| byte.is_ascii_alphanumeric())));
    assert!(first[0] != first[1] && first[0] != second[0]);
    assert_eq!(first, ids(1));
}

#[test]
fn a_call_that_does_not_end_is_given_up_at_its_limit() {
    let text = format!("<tool_call>{{\"name\": \"{}", "é".repeat(CALL_BYTES_MAX));
    let mut parser = ToolParser::new(ToolFormat::Hermes, 0);
    let mut held = 0;
    let mut content = String::new();
    let mut at = 0;
    while at < text.len() {
        let mut end = (at + 4099).min(text.len());
        while !text.is_char_boundary(end) {
            end += 1;
        }
        for piece in parser.push(&text[at..end]) {
            if let Piece::Content(more) = piece {
                content.push_str(&more);
            }
        }
        held = held.max(parser.held.len());
        at = end;
    }
    assert!(held < CALL_BYTES_MAX + 8192, "{held}");
    for piece in parser.finish() {
        if let Piece::Content(more) = piece {
            content.push_str(&more);
        }
    }
    assert!(content == text, "nothing is lost");
}

/// Texts made of what matters to some format.
fn texts() -> impl Strategy<Value = String> {
    let parts = prop::sample::select(vec![
        "<tool_call>",
        "</tool_call>",
        "[TOOL_CALLS]",
        "<|python_tag|>",
        "{",
        "}",
        "[",
        "]",
        ";",
        " ",
        "\n",
        "é",
        "<",
        "word",
        "\"",
        "\\",
        "{\"name\": \"f\", \"arguments\": {\"a\": \"x\"}}",
        "{\"name\": \"g\", \"parameters\": {}}",
        "[{\"name\": \"h\", \"arguments\": {}}]",
        "\t",
        "<tool",
    ]);
    let space = (0usize..2100).prop_map(|length| " \n".repeat(length / 2));
    prop::collection::vec(prop_oneof![12 => parts.prop_map(str::to_owned), 1 => space], 0..14)
        .prop_map(|parts| parts.concat())
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(1500))]

    #[test]
    fn however_a_text_is_cut_its_pieces_are_the_same(
        text in texts(),
        sizes in prop::collection::vec(1usize..40, 1..20),
        format in prop::sample::select(vec![ToolFormat::Hermes, ToolFormat::LlamaJson, ToolFormat::Mistral]),
    ) {
        let whole = parsed(format, [text.as_str()]);
        let mut parts = Vec::new();
        let mut rest = text.as_str();
        for size in sizes.iter().cycle() {
            if rest.is_empty() {
                break;
            }
            let end = rest.char_indices().nth(*size).map_or(rest.len(), |(at, _)| at);
            parts.push(&rest[..end]);
            rest = &rest[end..];
        }
        prop_assert_eq!(&whole, &parsed(format, parts));
        let letters: Vec<String> = text.chars().map(String::from).collect();
        prop_assert_eq!(&whole, &parsed(format, letters.iter().map(String::as_str)));
        if !whole.iter().any(|piece| matches!(piece, Piece::CallBegin { .. })) {
            let content: Vec<Piece> = if text.is_empty() { Vec::new() } else { vec![Piece::Content(text)] };
            prop_assert_eq!(whole, content, "without a call nothing is dropped");
        }
    }
}
