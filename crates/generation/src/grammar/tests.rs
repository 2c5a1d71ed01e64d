//! What is written through a mask keeps to its format; what is made to explode ends in an error.

use halny_engine::testsuite::decoder::{END, FakeLanguage, VOCABULARY};
use rand_chacha::ChaCha8Rng;
use rand_chacha::rand_core::{RngCore, SeedableRng};
use serde_json::json;

use super::*;
use crate::sampling::{Sampler, SamplingOptions};

fn grammars() -> Grammars {
    Grammars::new(Arc::new(FakeLanguage::default()))
}

/// Text that a sampler writes through the mask, from random logits: `letters` bytes at random, then the
/// shortest way to an end.
fn write(mut grammar: Grammar, seed: u64, letters: usize) -> String {
    let mut random = ChaCha8Rng::seed_from_u64(seed);
    let options = SamplingOptions { seed: Some(seed), ..SamplingOptions::default() };
    let mut sampler = Sampler::new(&options, &[], 0);
    let mut bytes = Vec::new();
    let mut logits = vec![0.0f32; VOCABULARY];
    while !grammar.is_complete() {
        logits.iter_mut().for_each(|logit| *logit = random.next_u32() as f32 / u32::MAX as f32);
        // Strings are not to be all there is: what builds JSON is more probable than other bytes.
        b"\"{}[],:0123456789.eEtfn".iter().for_each(|byte| logits[usize::from(*byte)] += 2.5);
        let mask = grammar.mask().unwrap();
        if bytes.len() > letters {
            // Within a string nearly every byte is allowed: there, the quotation mark is the way out.
            let way_out = if mask.num_set() > 60 { [34, 34, 34] } else { [125, 93, 34] };
            for (place, token) in [END].into_iter().chain(way_out).enumerate() {
                logits[token as usize] = logits[token as usize].max(80.0 - 15.0 * place as f32);
            }
        }
        let token = sampler.pick(&logits, Some(mask)).unwrap().token;
        grammar.accept(token).unwrap();
        bytes.extend(u8::try_from(token));
        assert!(bytes.len() < letters + 5_000, "no end to {:?}", String::from_utf8_lossy(&bytes));
    }
    String::from_utf8(bytes).unwrap()
}

fn compile(format: Format) -> Result<Grammar, GrammarError> {
    grammars().compile(&format)
}

/// Whether a text can be written, and may end there.
fn writes(grammar: &Grammar, text: &str) -> bool {
    let mut grammar = grammar.clone();
    text.bytes().all(|byte| grammar.accept(TokenId::from(byte)).is_ok()) && grammar.accept(END).is_ok()
}

#[test]
fn json_mode_writes_what_serde_json_reads() {
    let grammar = compile(Format::JsonObject).unwrap();
    for seed in 0..150 {
        let text = write(grammar.clone(), seed, 40 + seed as usize * 4);
        let value: Value = serde_json::from_str(&text).unwrap_or_else(|error| panic!("{error} in {text}"));
        assert!(value.is_object());
    }
}

#[test]
fn json_mode_allows_what_models_write_and_ends_what_never_would() {
    let grammar = compile(Format::JsonObject).unwrap();
    for text in [
        "{}",
        "{\n  \"a\": [1, -2.5e10, true, null],\r\n\t\"b\": {\"c\": \"x\\n\\u00e9\\ud83d\\ude00\u{e9}\u{1f600}\"}\n}",
        "{\"a\":1}",
        "{\"slash\":\"\\/\"}",
    ] {
        assert!(writes(&grammar, text), "{text}");
    }
    let deep = |levels: usize| format!("{}{}{}", "{\"a\":".repeat(levels - 1), "{}", "}".repeat(levels - 1));
    assert!(writes(&grammar, &deep(json_object::DEPTH)));
    for text in [
        "[]",
        "1",
        " {}",
        "{\"a\":1,}",
        "{\"a\":\"\\ud800\"}",
        "{\"a\":1e999}",
        "{\"a\":01}",
        "{\"a\":\"\n\"}",
        &format!("{{{}}}", " ".repeat(65)),
        &deep(json_object::DEPTH + 1),
    ] {
        assert!(!writes(&grammar, text), "{text}");
    }
}

/// Schemas of the kinds that callers send.
fn schemas() -> Vec<Value> {
    vec![
        json!({
            "type": "object",
            "properties": {
                "name": {"type": "string", "minLength": 1, "maxLength": 20},
                "age": {"type": "integer", "minimum": 0, "maximum": 150},
                "score": {"type": "number", "minimum": -1.5, "exclusiveMaximum": 2},
                "tags": {"type": "array", "items": {"enum": ["a", "b\"c", 3, null, {"x": [1]}]}, "minItems": 1, "maxItems": 4},
                "ok": {"type": "boolean"}
            },
            "required": ["name", "age", "tags"],
            "additionalProperties": false
        }),
        json!({
            "$schema": "https://json-schema.org/draft/2020-12/schema",
            "type": "object",
            "properties": {"tree": {"$ref": "#/$defs/node"}},
            "required": ["tree"],
            "additionalProperties": false,
            "$defs": {"node": {
                "type": "object",
                "properties": {
                    "value": {"type": "integer"},
                    "children": {"type": "array", "items": {"$ref": "#/$defs/node"}, "maxItems": 2}
                },
                "required": ["value", "children"],
                "additionalProperties": false
            }}
        }),
        json!({
            "type": "object",
            "properties": {
                "shape": {"oneOf": [
                    {"type": "object", "properties": {"kind": {"const": "circle"}, "r": {"type": "number"}},
                     "required": ["kind", "r"], "additionalProperties": false},
                    {"type": "object", "properties": {"kind": {"const": "square"}, "side": {"type": "number"}},
                     "required": ["kind", "side"], "additionalProperties": false}
                ]},
                "when": {"type": "string", "format": "date"},
                "code": {"type": "string", "pattern": "^[A-Z]{2}-\\d{3,5}$"},
                "maybe": {"anyOf": [{"type": "string", "maxLength": 3}, {"type": "null"}]}
            },
            "required": ["shape", "when", "code", "maybe"],
            "additionalProperties": false
        }),
        json!({"type": "array", "prefixItems": [{"type": "integer"}, {"type": "boolean"}], "items": false, "minItems": 2}),
        json!({"type": "object", "patternProperties": {"^x_": {"type": "integer"}}, "additionalProperties": {"type": "null"}}),
        json!({"allOf": [{"type": "object", "properties": {"a": {"type": "integer"}}, "required": ["a"]},
                         {"type": "object", "properties": {"b": {"type": "string"}}, "required": ["b"]}]}),
        json!({"type": "integer", "multipleOf": 7, "minimum": -50, "maximum": 1_000_000}),
    ]
}

#[test]
fn what_is_written_by_a_schema_is_valid_by_it() {
    let grammars = grammars();
    for schema in schemas() {
        let validator = jsonschema::options().should_validate_formats(true).build(&schema).unwrap();
        let grammar = grammars.compile(&Format::JsonSchema(schema.clone())).unwrap();
        for seed in 0..40 {
            let text = write(grammar.clone(), seed, 30 + seed as usize * 5);
            let value: Value = match serde_json::from_str(&text) {
                // JSON has no largest number, this reader has.
                Err(error) if error.to_string().contains("number out of range") => continue,
                read => read.unwrap_or_else(|error| panic!("{error} in {text} by {schema}")),
            };
            assert!(validator.is_valid(&value), "{text} by {schema}");
        }
    }
}

#[test]
fn a_regular_expression_matches_the_whole_text() {
    for (pattern, yes, no) in [
        ("[a-c]+", vec!["a", "cab"], vec!["", "d", "ad"]),
        ("^a|b$", vec!["a", "b"], vec!["ab"]),
        ("a*", vec!["", "aaa"], vec!["b"]),
        (r"\d{4}/\d{2}", vec!["2024/07"], vec!["2024-07"]),
        (r"a\\/b\n", vec!["a\\/b\n"], vec!["a/b\n"]),
        ("\u{e9}(\u{1f600}|x)", vec!["\u{e9}\u{1f600}", "\u{e9}x"], vec!["\u{e9}"]),
    ] {
        let grammar =
            compile(Format::Regex(pattern.to_owned())).unwrap_or_else(|error| panic!("{error} for {pattern}"));
        yes.iter().for_each(|text| assert!(writes(&grammar, text), "{text} by {pattern}"));
        no.iter().for_each(|text| assert!(!writes(&grammar, text), "{text} by {pattern}"));
    }
}

#[test]
fn a_choice_may_begin_another() {
    let choices = ["yes", "yes, but", "no\n\"quoted\"", "\u{17c}\u{f3}\u{142}w", "/a\\/"];
    let grammar = compile(Format::Choice(choices.map(str::to_owned).to_vec())).unwrap();
    choices.iter().for_each(|text| assert!(writes(&grammar, text), "{text}"));
    ["ye", "yes,", "maybe", ""].iter().for_each(|text| assert!(!writes(&grammar, text), "{text}"));
    // Nothing can follow the longer one; the shorter one may go on.
    let mut grammar = grammar;
    "yes".bytes().for_each(|byte| grammar.accept(byte.into()).unwrap());
    assert!(!grammar.is_complete());
    assert!(allows(grammar.mask().unwrap(), END));
    ", but".bytes().for_each(|byte| grammar.accept(byte.into()).unwrap());
    assert!(grammar.is_complete());
    let only_end: Vec<TokenId> = grammar.mask().unwrap().iter().collect();
    assert_eq!(only_end, [END]);
}

#[test]
fn a_token_that_may_not_come_is_refused_and_changes_nothing() {
    let mut grammar = compile(Format::JsonObject).unwrap();
    for token in [TokenId::from(b'x'), END, 257, 258, u32::MAX] {
        assert_eq!(grammar.accept(token), Err(GrammarError::NotAllowed { token }));
    }
    let mut clone = grammar.clone();
    assert!(writes(&grammar, "{}"));
    clone.accept(TokenId::from(b'{')).unwrap();
    grammar.accept(TokenId::from(b'{')).unwrap();
    assert_eq!(grammar.mask(), clone.mask());
}

#[test]
fn grammars_may_go_to_other_threads() {
    fn sends<T: Send + Sync>() {}
    fn moves<T: Send>() {}
    sends::<Grammars>();
    moves::<Grammar>();
}

/// Whose fault it is, if it ends in an error: compiling, or one of 300 tokens. The error's
/// text tells nothing about us.
fn fault_of(format: Format) -> Option<Fault> {
    let grammar = compile(format);
    let steps = grammar.and_then(|mut grammar| {
        for step in 0..300 {
            if grammar.is_complete() {
                break;
            }
            let allowed: Vec<TokenId> = grammar.mask()?.iter().collect();
            grammar.accept(allowed[step * 7 % allowed.len()])?;
        }
        Ok(())
    });
    let error = steps.err()?;
    let text = error.to_string();
    assert!(text.len() < 600 && !text.contains('\n') && !text.contains(".rs"), "{text}");
    Some(error.fault())
}

#[test]
fn regular_expressions_that_explode_cost_no_more_than_others() {
    let bounded = [
        "((a{1000}){1000}){1000}".to_owned(),
        "(a|b)*a(a|b){1000}".to_owned(),
        "(a?){4000}a{4000}".to_owned(),
        "(.*a){50}".to_owned(),
        "(((((.*)*)*)*)*)*x".to_owned(),
        r"(\w+\s?)+".to_owned(),
        r"\p{L}".repeat(800),
        r"(?i)\w{900}".to_owned(),
        r"(\w*\d\p{L}*){200}".to_owned(),
        r"[\w--\d]&&".repeat(300),
        "(.{0,1000}a.{0,1000}|.{0,999}b.{0,999}){0,1000}c".to_owned(),
        (0..250).map(|n| format!("(.*{n:03})?")).collect::<String>() + "x",
        "a".repeat(4_000),
        "[a-z]{4294967295}".to_owned(),
        "a/b/\nstart: \"x\"".to_owned(),
    ];
    let wrong = [
        "(".repeat(2_000) + &")".repeat(2_000),
        "(a".repeat(100) + &"|b)*".repeat(100),
        "x{99999999999}".to_owned(),
        "(?P<stop>a)b".to_owned(),
        "a\\".to_owned(),
        "(?=a)b".to_owned(),
        "(a)\\1".to_owned(),
        "[".to_owned(),
        String::new(),
        "[^\\x00-\\x{10ffff}]".to_owned(),
    ];
    for pattern in bounded {
        assert_eq!(fault_of(Format::Regex(pattern.clone())), None, "{pattern}");
    }
    for pattern in wrong {
        assert_eq!(fault_of(Format::Regex(pattern.clone())), Some(Fault::Caller), "{pattern}");
    }
    assert_eq!(
        compile(Format::Regex("a".repeat(5_000))).err(),
        Some(GrammarError::Limit { what: "bytes in a regular expression", count: 5_000, limit: 4_096 })
    );
}

/// A chain of definitions, each of which refers to the next.
fn chain(length: usize, around: impl Fn(Value) -> Value) -> Value {
    let mut definitions = serde_json::Map::new();
    for link in 0..length {
        let next = json!({"$ref": format!("#/$defs/d{}", (link + 1) % length)});
        definitions.insert(format!("d{link}"), around(next));
    }
    json!({"$defs": definitions, "$ref": "#/$defs/d0"})
}

fn nested(levels: usize, around: impl Fn(Value) -> Value, innermost: Value) -> Value {
    (0..levels).fold(innermost, |inner, _| around(inner))
}

#[test]
fn schemas_that_explode_end_in_an_error_or_are_bounded() {
    let property = |inner: Value| json!({"type": "object", "properties": {"a": inner}});
    let options = |count: usize| -> Vec<Value> {
        (0..count).map(|n| json!({"type": "object", "properties": {format!("p{n}"): {"type": "integer"}}})).collect()
    };
    let many: serde_json::Map<String, Value> =
        (0..1_000).map(|n| (format!("p{n}"), json!({"type": "integer"}))).collect();
    let (caller, too_large) = (Some(Fault::Caller), Some(Fault::TooLarge));
    let schemas = [
        (None, "chain of references", chain(250, property)),
        (caller, "chain of bare references", chain(250, |next| next)),
        (caller, "chain of allOf", chain(120, |next| json!({"allOf": [next, {"type": "object"}]}))),
        (
            None,
            "chain with deep links",
            chain(100, |next| json!({"anyOf": [{"properties": {"x": {"items": {"items": next}}}}]})),
        ),
        (None, "longest chain", chain(250, |next| nested(13, |inner| json!({"items": inner}), next))),
        (too_large, "longest chain of options", chain(120, |next| nested(14, |inner| json!({"anyOf": [inner]}), next))),
        (caller, "itself", json!({"$ref": "#"})),
        (caller, "itself twice", json!({"allOf": [{"$ref": "#"}, {"$ref": "#"}]})),
        (
            None,
            "nested anyOf",
            nested(15, |inner| json!({"anyOf": [inner, {"type": "null"}]}), json!({"type": "integer"})),
        ),
        (
            too_large,
            "nested allOf of anyOf",
            json!({"allOf": (0..12).map(|_| json!({"anyOf": options(12)})).collect::<Vec<_>>()}),
        ),
        (caller, "wide oneOf", json!({"oneOf": options(250)})),
        (None, "wide anyOf", json!({"anyOf": options(250)})),
        (None, "many optional properties", json!({"type": "object", "properties": many})),
        (
            None,
            "large bounds",
            json!({"type": "array", "items": {"type": "string", "maxLength": 1_000_000_000}, "minItems": 1_000_000_000}),
        ),
        (caller, "huge length", json!({"type": "string", "minLength": u64::MAX})),
        (caller, "huge multiple", json!({"type": "number", "multipleOf": 0.000_000_000_123_456_789})),
        (
            caller,
            "multiples of primes",
            json!({"allOf": [{"type": "integer", "multipleOf": 99_999_989}, {"multipleOf": 99_999_971}]}),
        ),
        (caller, "multiple of nothing", json!({"type": "integer", "multipleOf": 0})),
        (None, "nested repetitions", json!({"type": "string", "pattern": "((a{1000}){1000}){1000}"})),
        (too_large, "states", json!({"type": "string", "pattern": "(a|b)*a(a|b){500}c", "minLength": 10_000})),
        (
            None,
            "many patterns",
            json!({"anyOf": (0..200).map(|n| json!({"pattern": format!("^.*{n}.*{n}.*$")})).collect::<Vec<_>>()}),
        ),
        (
            too_large,
            "patterns that all hold",
            json!({"allOf": (0..100).map(|n| json!({"type": "string", "pattern": format!("a.*{n}")})).collect::<Vec<_>>()}),
        ),
        (
            None,
            "long unicode patterns",
            json!({"anyOf": (0..4).map(|n| json!({"pattern": format!("{}{n}", r"\p{L}".repeat(800))})).collect::<Vec<_>>()}),
        ),
        (None, "large enum", json!({"enum": (0..1_000).map(|n| format!("value {n}")).collect::<Vec<_>>()})),
        (
            None,
            "patterns that overlap",
            json!({"patternProperties": {"^(a|b)*a(a|b){20}$": {}, "^(a|b)*b(a|b){20}$": {}}}),
        ),
        (None, "minProperties", json!({"type": "object", "minProperties": 1_000_000})),
        (caller, "text where numbers should be", json!({"type": "integer", "minimum": "\u{e9}".repeat(200)})),
        (None, "options of llguidance", json!({"x-guidance": {"whitespace_pattern": "(a|b)*"}, "type": "integer"})),
        (caller, "remote reference", json!({"$ref": "http://localhost:1/schema.json"})),
        (caller, "file reference", json!({"$ref": "file:///etc/passwd"})),
        (caller, "reference to nothing", json!({"$ref": "#/$defs/missing"})),
        (caller, "no such type", json!({"type": "strange"})),
        (caller, "not", json!({"not": {"type": "integer"}})),
        (caller, "nothing", json!({"type": "integer", "minimum": 3, "maximum": 2})),
    ];
    for (fault, name, schema) in schemas {
        assert_eq!(fault_of(Format::JsonSchema(schema)), fault, "{name}");
    }
}

#[test]
fn limits_are_named() {
    let limit = |schema: Value| match compile(Format::JsonSchema(schema)) {
        Err(error @ GrammarError::Limit { what, .. }) => {
            assert_eq!(error.fault(), Fault::TooLarge);
            what
        }
        other => panic!("{:?}", other.err()),
    };
    let object = |inner: Value| json!({"items": inner});
    assert_eq!(limit(nested(40, object, json!(true))), "levels in its schema");
    assert_eq!(limit(nested(120, object, json!(true))), "levels in its schema");
    assert_eq!(limit(json!({"description": "x".repeat(70_000)})), "bytes in its schema");
    assert_eq!(limit(json!({"enum": vec![1; 1_001]})), "enum values in its schema");
    assert_eq!(limit(json!({"const": vec![vec![1; 1]; 5_000]})), "objects and arrays in its schema");
    assert_eq!(
        limit(json!({"anyOf": vec![true; 257]})),
        "options of anyOf, oneOf, allOf and prefixItems in its schema"
    );
    assert_eq!(limit(chain(257, |next| next)), "$refs in its schema");
    let text = json!({"type": "string", "pattern": "a"});
    let three = [
        json!({"allOf": [text, text, text]}),
        json!({"$defs": {"t": text}, "allOf": [{"$ref": "#/$defs/t", "format": "date"}, {"properties": {"a": text}}]}),
        json!({"$defs": {"a": {"pattern": "a", "$ref": "#/$defs/b"}, "b": {"pattern": "b", "$ref": "#/$defs/c"}, "c": text},
               "$ref": "#/$defs/a"}),
        json!({"pattern": "a", "anyOf": [text], "oneOf": [true, text]}),
        json!({"properties": {"a": text}, "patternProperties": {"a": {"items": {"pattern": "b", "format": "date"}}}}),
    ];
    for schema in three {
        assert_eq!(limit(schema), "regular expressions for one text in its schema");
    }
    assert_eq!(limit(json!({"pattern": "a".repeat(5_000)})), "bytes in a regular expression");
    let properties: serde_json::Map<String, Value> = (0..1_001).map(|n| (n.to_string(), json!(true))).collect();
    assert_eq!(limit(json!({"properties": properties})), "properties in its schema");
    for format in [
        Format::JsonSchema(json!(true)),
        Format::JsonSchema(json!("string")),
        Format::Choice(vec![]),
        Format::Choice(vec![String::new()]),
        Format::Regex(String::new()),
    ] {
        assert_eq!(compile(format).err().map(|error| error.fault()), Some(Fault::Caller));
    }
    assert_eq!(compile(Format::Choice(vec!["x".to_owned(); 1_001])).err().map(|e| e.fault()), Some(Fault::TooLarge));
}

/// A model with few tokens, of which none ends a text.
struct Endless(halny_engine::LanguageCard);

impl LanguageModel for Endless {
    fn card(&self) -> &halny_engine::LanguageCard {
        &self.0
    }
    fn tokenise(&self, _: &str, _: halny_engine::Specials, _: bool) -> Vec<TokenId> {
        Vec::new()
    }
    fn piece(&self, token: TokenId) -> &[u8] {
        [&b"ab"[..], b"a", b"abc", &[b' '; 2_000]].get(token as usize).copied().unwrap_or_default()
    }
    fn special(&self, _: TokenId) -> Option<&str> {
        None
    }
    fn ends(&self, _: TokenId) -> bool {
        false
    }
}

#[test]
fn a_model_without_an_end_or_without_letters_is_served_as_far_as_it_goes() {
    let card = halny_engine::LanguageCard { vocabulary: 5, ..Default::default() };
    let grammars = Grammars::new(Arc::new(Endless(card)));
    let mut grammar = grammars.compile(&Format::Choice(vec!["aab".to_owned()])).unwrap();
    assert_eq!(grammar.mask().unwrap().iter().collect::<Vec<_>>(), [1]);
    grammar.accept(1).unwrap();
    assert_eq!(grammar.mask().unwrap().iter().collect::<Vec<_>>(), [0, 1]);
    grammar.accept(0).unwrap();
    assert!(grammar.is_complete());
    assert!(grammar.mask().unwrap().is_zero());
    let lost = grammars.compile(&Format::Choice(vec!["b".to_owned()])).err();
    assert_eq!(lost, Some(GrammarError::DeadEnd { format: "choice" }));
    let none = Grammars::new(Arc::new(Endless(Default::default())));
    assert_eq!(none.prepare().map_err(|error| error.fault()), Err(Fault::Unsupported));
}
