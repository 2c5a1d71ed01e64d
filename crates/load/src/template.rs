//! Request bodies of any JSON shape, from a template with placeholders.
//!
//! The template is parsed as JSON first and filled afterwards, value by value: a text cannot leave
//! the string it was put in, whatever characters it holds. A text that is JSON itself, a vector for
//! instance, takes the place of the string `{json}` as the value that it is.

use serde_json::Value;

use crate::{LoadError, options::limits};

const TEXT: &str = "{text}";
const TEXTS: &str = "{texts}";
const JSON: &str = "{json}";

/// A JSON document with `{text}` inside strings, or strings that are exactly `{texts}` or `{json}`.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Template(Value);

impl Template {
    pub(crate) fn parse(template: &str) -> Result<Self, LoadError> {
        let refuse = |reason: String| Err(LoadError::Template { reason });
        if template.len() > limits::TEMPLATE_BYTES_MAX {
            return refuse(format!("it has {} bytes, the limit is {}", template.len(), limits::TEMPLATE_BYTES_MAX));
        }
        match serde_json::from_str(template) {
            Ok(value) => Ok(Self(value)),
            Err(error) => refuse(format!(
                "it is not JSON ({error}); write for example {{\"inputs\": \"{{text}}\"}}, with the placeholder inside a string"
            )),
        }
    }

    /// Checks that the template can carry this many texts.
    pub(crate) fn check(&self, texts_per_request: usize) -> Result<(), LoadError> {
        let (single, list) = placeholders(&self.0);
        let reason = match (single, list) {
            (false, false) => {
                "it holds no placeholder: put {text} inside a string, or the string \"{texts}\" where a list belongs, or the string \"{json}\" where texts are JSON"
            }
            (true, _) if texts_per_request > 1 => {
                "{text} and {json} stand for one text, and more than one text a request was asked for: use the string \"{texts}\", which stands for the list"
            }
            _ => return Ok(()),
        };
        Err(LoadError::Template { reason: reason.to_owned() })
    }

    /// The document with `texts` in the places of the placeholders.
    ///
    /// # Errors
    /// When a text that takes the place of `{json}` is not JSON.
    pub(crate) fn fill(&self, texts: &[&str]) -> Result<Value, LoadError> {
        fill(&self.0, texts).map_err(|error| LoadError::Template {
            reason: format!("it holds {{json}}, and a text is not JSON ({error}); write one JSON value a line"),
        })
    }
}

fn placeholders(value: &Value) -> (bool, bool) {
    let both = |(single, list): (bool, bool), (other_single, other_list): (bool, bool)| {
        (single || other_single, list || other_list)
    };
    match value {
        Value::String(text) if text == TEXTS => (false, true),
        Value::String(text) => (text == JSON || text.contains(TEXT), false),
        Value::Array(values) => values.iter().map(placeholders).fold((false, false), both),
        Value::Object(values) => values.values().map(placeholders).fold((false, false), both),
        _ => (false, false),
    }
}

fn fill(value: &Value, texts: &[&str]) -> serde_json::Result<Value> {
    let first = texts.first().copied().unwrap_or_default();
    Ok(match value {
        Value::String(text) if text == TEXTS => texts.iter().copied().collect(),
        Value::String(text) if text == JSON => serde_json::from_str(first)?,
        Value::String(text) => Value::String(text.replace(TEXT, first)),
        Value::Array(values) => values.iter().map(|value| fill(value, texts)).collect::<serde_json::Result<_>>()?,
        Value::Object(values) => {
            let filled = values.iter().map(|(key, value)| Ok((key.clone(), fill(value, texts)?)));
            Value::Object(filled.collect::<serde_json::Result<_>>()?)
        }
        other => other.clone(),
    })
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn a_text_comes_back_whole_from_the_string_it_was_put_in(text in any::<String>()) {
            let template = Template::parse(r#"{"a": [{"q": "query: {text}"}], "n": 3}"#).unwrap();
            let body = serde_json::to_string(&template.fill(&[&text]).unwrap()).unwrap();
            let parsed: Value = serde_json::from_str(&body).unwrap();
            prop_assert_eq!(&parsed["a"][0]["q"], &Value::String(format!("query: {text}")));
            prop_assert_eq!(&parsed["n"], &Value::from(3));
            prop_assert_eq!(parsed.as_object().unwrap().len(), 2);
        }

        #[test]
        fn a_list_of_texts_comes_back_in_order(texts in prop::collection::vec(any::<String>(), 1..8)) {
            let template = Template::parse(r#"{"inputs": "{texts}"}"#).unwrap();
            let borrowed: Vec<&str> = texts.iter().map(String::as_str).collect();
            let body = serde_json::to_string(&template.fill(&borrowed).unwrap()).unwrap();
            let parsed: Value = serde_json::from_str(&body).unwrap();
            prop_assert_eq!(&parsed["inputs"], &Value::from(texts));
        }
    }

    #[test]
    fn a_text_that_is_json_comes_in_as_the_value_that_it_is() {
        let template = Template::parse(r#"{"query": "{json}", "limit": 10}"#).unwrap();
        assert!(template.check(1).is_ok() && template.check(2).is_err());
        let filled = template.fill(&["[0.5, -1e-3]"]).unwrap();
        assert_eq!(filled, serde_json::json!({"query": [0.5, -1e-3], "limit": 10}));
        assert!(template.fill(&["[0.5"]).unwrap_err().to_string().contains("one JSON value a line"));
    }

    #[test]
    fn templates_that_cannot_carry_the_texts_are_refused() {
        assert!(Template::parse(r#"{"a": {text}}"#).is_err());
        assert!(Template::parse(r#"{"a": 1}"#).unwrap().check(1).is_err());
        assert!(Template::parse(r#""{text}""#).unwrap().check(2).is_err());
        assert!(Template::parse(r#""{text}""#).unwrap().check(1).is_ok());
        assert!(Template::parse(r#"["{texts}"]"#).unwrap().check(64).is_ok());
        assert!(Template::parse(&"[".repeat(100_000)).is_err());
    }
}
