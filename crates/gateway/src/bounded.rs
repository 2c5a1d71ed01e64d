//! Lists in JSON, refused while they are read where they have too many elements.
//!
//! An empty text takes three bytes in a body and ten times as many in memory. How many inputs a
//! request may have is a setting, and is checked with a better sentence once they are read; that
//! there is a bound at all is checked here.

use std::fmt;
use std::marker::PhantomData;

use serde::de::{Deserialize, Deserializer, Error, MapAccess, SeqAccess, Visitor};

/// Elements of any list: the most that `server.max_inputs_per_request` may say.
pub(crate) const ELEMENTS_MAX: usize = 100_000;

/// How many values a JSON text has at most: what it may unfold to is in proportion.
pub(crate) fn elements(json: &str) -> usize {
    let (mut count, mut in_string, mut escaped) = (1, false, false);
    for byte in json.bytes() {
        match byte {
            _ if escaped => escaped = false,
            b'\\' if in_string => escaped = true,
            b'"' => in_string = !in_string,
            b',' | b'[' | b'{' if !in_string => count += 1,
            _ => {}
        }
    }
    count
}

/// What a list says that is too long.
pub(crate) fn too_many<E: Error>() -> E {
    E::custom(format!("a list of more than {ELEMENTS_MAX} elements; send several requests"))
}

/// A list that is not endless.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Bounded<T>(pub(crate) Vec<T>);

impl<'de, T: Deserialize<'de>> Deserialize<'de> for Bounded<T> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Bounded<T>, D::Error> {
        struct List<T>(PhantomData<T>);

        impl<'de, T: Deserialize<'de>> Visitor<'de> for List<T> {
            type Value = Bounded<T>;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a list")
            }

            fn visit_seq<A: SeqAccess<'de>>(self, mut elements: A) -> Result<Bounded<T>, A::Error> {
                let mut list = Vec::new();
                while let Some(element) = elements.next_element()? {
                    if list.len() == ELEMENTS_MAX {
                        return Err(too_many());
                    }
                    list.push(element);
                }
                Ok(Bounded(list))
            }
        }

        deserializer.deserialize_seq(List(PhantomData))
    }
}

/// The entries of an object that is not endless, in their order; a name may be there twice.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Pairs<T>(pub(crate) Vec<(String, T)>);

impl<'de, T: Deserialize<'de>> Deserialize<'de> for Pairs<T> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Pairs<T>, D::Error> {
        struct Object<T>(PhantomData<T>);

        impl<'de, T: Deserialize<'de>> Visitor<'de> for Object<T> {
            type Value = Pairs<T>;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("an object")
            }

            fn visit_map<A: MapAccess<'de>>(self, mut entries: A) -> Result<Pairs<T>, A::Error> {
                let mut pairs = Vec::new();
                while let Some(entry) = entries.next_entry()? {
                    if pairs.len() == ELEMENTS_MAX {
                        return Err(too_many());
                    }
                    pairs.push(entry);
                }
                Ok(Pairs(pairs))
            }
        }

        deserializer.deserialize_map(Object(PhantomData))
    }
}

/// One text, or a list of them.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Texts(pub(crate) Vec<String>);

// Written out because serde's untagged enums copy the whole input before they try a form.
impl<'de> Deserialize<'de> for Texts {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Texts, D::Error> {
        struct OneOrMany;

        impl<'de> Visitor<'de> for OneOrMany {
            type Value = Texts;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a string or an array of strings")
            }

            fn visit_str<E: Error>(self, text: &str) -> Result<Texts, E> {
                Ok(Texts(vec![text.to_owned()]))
            }

            fn visit_string<E: Error>(self, text: String) -> Result<Texts, E> {
                Ok(Texts(vec![text]))
            }

            fn visit_seq<A: SeqAccess<'de>>(self, elements: A) -> Result<Texts, A::Error> {
                let list = Bounded::deserialize(serde::de::value::SeqAccessDeserializer::new(elements))?;
                Ok(Texts(list.0))
            }
        }

        deserializer.deserialize_any(OneOrMany)
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn a_list_ends_where_its_bound_is() {
        let json = |count: usize| format!("[{}]", vec!["\"\""; count].join(","));
        assert_eq!(serde_json::from_str::<Texts>(&json(ELEMENTS_MAX)).unwrap().0.len(), ELEMENTS_MAX);
        let refusal = serde_json::from_str::<Texts>(&json(ELEMENTS_MAX + 1)).unwrap_err();
        assert!(refusal.to_string().contains("100000"), "{refusal}");
    }

    #[test]
    fn elements_in_texts_are_not_counted() {
        assert_eq!(elements("[1, {\"a\": [2, 3]}]"), 6);
        assert_eq!(elements(r#""a,b,[\"{,""#), 1);
    }

    #[test]
    fn one_text_is_a_list_of_one() {
        let read = |json: &str| serde_json::from_str::<Texts>(json);
        assert_eq!(read("\"a\"").unwrap().0, ["a"]);
        assert_eq!(read("[\"a\", \"b\\n\"]").unwrap().0, ["a", "b\n"]);
        for bad in ["1", "null", "{}", "[1]", "[[\"a\"]]"] {
            assert!(read(bad).is_err(), "{bad} was accepted");
        }
    }
}
