//! The `input` of OpenAI's API: a text, texts, a list of tokens, or lists of tokens.

use std::fmt;

use serde::de::{Deserialize, Deserializer, Error, SeqAccess, Visitor};

use crate::bounded::{ELEMENTS_MAX, too_many};

/// One thing to embed or classify.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum TextInput {
    /// A text, to be tokenised.
    Text(String),
    /// Token ids of the model's own vocabulary.
    Tokens(Vec<u32>),
}

impl TextInput {
    /// About how many bytes of work it is.
    #[must_use]
    pub fn bytes(&self) -> usize {
        match self {
            TextInput::Text(text) => text.len(),
            TextInput::Tokens(tokens) => tokens.len(),
        }
    }
}

/// One input or several.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct TextInputs(pub(super) Vec<TextInput>);

const EXPECTED: &str = "a string, an array of strings, an array of token ids, or an array of arrays of token ids";

/// Written out because serde's untagged enums copy the whole input once for each form they try.
impl<'de> Deserialize<'de> for TextInputs {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<TextInputs, D::Error> {
        struct Inputs;

        impl<'de> Visitor<'de> for Inputs {
            type Value = TextInputs;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(EXPECTED)
            }

            fn visit_str<E: Error>(self, text: &str) -> Result<TextInputs, E> {
                Ok(TextInputs(vec![TextInput::Text(text.to_owned())]))
            }

            fn visit_seq<A: SeqAccess<'de>>(self, mut elements: A) -> Result<TextInputs, A::Error> {
                let mut inputs = Vec::new();
                let mut tokens = Vec::new();
                while let Some(element) = elements.next_element::<Element>()? {
                    if inputs.len() == ELEMENTS_MAX {
                        return Err(too_many());
                    }
                    match element {
                        Element::Token(token) if inputs.is_empty() => tokens.push(token),
                        Element::Input(input) if tokens.is_empty() => inputs.push(input),
                        _ => return Err(A::Error::custom(format!("a mixed array; expected {EXPECTED}"))),
                    }
                }
                if !tokens.is_empty() {
                    inputs.push(TextInput::Tokens(tokens));
                }
                Ok(TextInputs(inputs))
            }
        }

        deserializer.deserialize_any(Inputs)
    }
}

enum Element {
    Token(u32),
    Input(TextInput),
}

impl<'de> Deserialize<'de> for Element {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Element, D::Error> {
        struct One;

        impl<'de> Visitor<'de> for One {
            type Value = Element;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a string, a token id, or an array of token ids")
            }

            fn visit_str<E: Error>(self, text: &str) -> Result<Element, E> {
                Ok(Element::Input(TextInput::Text(text.to_owned())))
            }

            fn visit_string<E: Error>(self, text: String) -> Result<Element, E> {
                Ok(Element::Input(TextInput::Text(text)))
            }

            fn visit_u64<E: Error>(self, token: u64) -> Result<Element, E> {
                let token =
                    u32::try_from(token).map_err(|_| E::custom(format!("{token} is too large for a token id")))?;
                Ok(Element::Token(token))
            }

            fn visit_seq<A: SeqAccess<'de>>(self, mut elements: A) -> Result<Element, A::Error> {
                let mut tokens = Vec::new();
                while let Some(token) = elements.next_element::<u32>()? {
                    tokens.push(token);
                }
                Ok(Element::Input(TextInput::Tokens(tokens)))
            }
        }

        deserializer.deserialize_any(One)
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn every_form_is_read_and_mixtures_are_refused() {
        let read = |json: &str| serde_json::from_str::<TextInputs>(json);
        let text = |text: &str| TextInput::Text(text.to_owned());
        assert_eq!(read("\"a\\u00e9\"").unwrap().0, [text("aé")]);
        assert_eq!(read("[\"a\", \"b\"]").unwrap().0, [text("a"), text("b")]);
        assert_eq!(read("[1, 2]").unwrap().0, [TextInput::Tokens(vec![1, 2])]);
        assert_eq!(read("[[1], [2, 3]]").unwrap().0, [TextInput::Tokens(vec![1]), TextInput::Tokens(vec![2, 3])]);
        assert_eq!(read("[]").unwrap().0, []);
        for bad in
            ["1", "null", "{}", "[1, \"a\"]", "[\"a\", 1]", "[-1]", "[1.5]", "[5000000000]", "[[\"a\"]]", "[[[1]]]"]
        {
            assert!(read(bad).is_err(), "{bad} was accepted");
        }
    }
}
