//! Vectors as clients write them: numbers, the id of a point, or a text for the collection's model.

use std::fmt;

use halny_payload::PointId;
use halny_vectors::VectorsError;
use serde::de::{self, Deserialize, Deserializer, IgnoredAny, MapAccess, SeqAccess, Visitor};

/// A vector, or what stands for one.
#[derive(Clone, Debug, PartialEq)]
pub(super) enum Input {
    /// Its numbers.
    Numbers(Vec<f32>),
    /// The vector of a point.
    Point(PointId),
    /// What the collection's model makes of a text.
    Text(Document),
    /// Something that Qdrant has and Halny has not, by the field's name.
    Unsupported(&'static str),
}

/// A text, and the model that is meant where it is said.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Document {
    pub(super) text: String,
    pub(super) model: Option<String>,
}

/// All vectors of a point.
#[derive(Clone, Debug, PartialEq)]
pub(super) enum Vectors {
    /// The one without a name.
    One(Input),
    /// By name.
    Named(Vec<(String, Input)>),
}

impl Vectors {
    /// By name, where the empty name is that of the one without.
    pub(super) fn named(self) -> Vec<(String, Input)> {
        match self {
            Vectors::One(input) => vec![(String::new(), input)],
            Vectors::Named(named) => named,
        }
    }
}

/// Numbers, or a list of lists of them. Read as they come, without a value of JSON in between: a request
/// of a thousand vectors is half a million numbers.
enum List {
    Numbers(Vec<f32>),
    Lists,
}

impl<'de> Deserialize<'de> for List {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<List, D::Error> {
        struct Items;
        impl<'de> Visitor<'de> for Items {
            type Value = List;
            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a list of numbers")
            }
            fn visit_seq<A: SeqAccess<'de>>(self, mut items: A) -> Result<List, A::Error> {
                let mut numbers = Vec::with_capacity(items.size_hint().unwrap_or(384).min(4_096));
                while let Some(item) = items.next_element::<NumberOrList>()? {
                    match item {
                        NumberOrList::Number(number) => numbers.push(number),
                        NumberOrList::List => {
                            while items.next_element::<IgnoredAny>()?.is_some() {}
                            return Ok(List::Lists);
                        }
                    }
                }
                Ok(List::Numbers(numbers))
            }
        }
        deserializer.deserialize_seq(Items)
    }
}

enum NumberOrList {
    Number(f32),
    List,
}

impl<'de> Deserialize<'de> for NumberOrList {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<NumberOrList, D::Error> {
        struct Item;
        impl<'de> Visitor<'de> for Item {
            type Value = NumberOrList;
            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a number")
            }
            fn visit_f64<E>(self, number: f64) -> Result<NumberOrList, E> {
                Ok(NumberOrList::Number(number as f32))
            }
            fn visit_i64<E>(self, number: i64) -> Result<NumberOrList, E> {
                Ok(NumberOrList::Number(number as f32))
            }
            fn visit_u64<E>(self, number: u64) -> Result<NumberOrList, E> {
                Ok(NumberOrList::Number(number as f32))
            }
            fn visit_seq<A: SeqAccess<'de>>(self, mut items: A) -> Result<NumberOrList, A::Error> {
                while items.next_element::<IgnoredAny>()?.is_some() {}
                Ok(NumberOrList::List)
            }
        }
        deserializer.deserialize_any(Item)
    }
}

impl From<List> for Input {
    fn from(list: List) -> Input {
        match list {
            List::Numbers(numbers) => Input::Numbers(numbers),
            List::Lists => Input::Unsupported("multivector"),
        }
    }
}

/// The fields of an object that stands for a vector, as they come.
#[derive(Default)]
struct Parts {
    text: Option<String>,
    model: Option<String>,
    indices: bool,
    values: bool,
    unsupported: Option<&'static str>,
}

impl Parts {
    /// Takes a field; gives its name back if no such object has it.
    fn take<'de, A: MapAccess<'de>>(&mut self, key: &str, map: &mut A) -> Result<bool, A::Error> {
        match key {
            "text" => self.text = Some(map.next_value()?),
            "model" => self.model = map.next_value()?,
            "options" => {
                map.next_value::<IgnoredAny>()?;
            }
            "indices" => {
                map.next_value::<IgnoredAny>()?;
                self.indices = true;
            }
            "values" => {
                map.next_value::<IgnoredAny>()?;
                self.values = true;
            }
            "image" => {
                map.next_value::<IgnoredAny>()?;
                self.unsupported = Some("image");
            }
            "object" => {
                map.next_value::<IgnoredAny>()?;
                self.unsupported = Some("object");
            }
            _ => return Ok(false),
        }
        Ok(true)
    }

    fn input<E: de::Error>(self) -> Result<Input, E> {
        match self {
            Parts { unsupported: Some(name), .. } => Ok(Input::Unsupported(name)),
            Parts { text: Some(text), model, .. } => Ok(Input::Text(Document { text, model })),
            Parts { indices: true, values: true, .. } => Ok(Input::Unsupported("sparse_vectors")),
            _ => Err(E::custom("a vector is a list of numbers, the id of a point, or an object with `text`")),
        }
    }
}

impl<'de> Deserialize<'de> for Input {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Input, D::Error> {
        struct Any;
        impl<'de> Visitor<'de> for Any {
            type Value = Input;
            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a vector: a list of numbers, the id of a point, or an object with `text`")
            }
            fn visit_u64<E>(self, id: u64) -> Result<Input, E> {
                Ok(Input::Point(PointId::Number(id)))
            }
            fn visit_str<E: de::Error>(self, id: &str) -> Result<Input, E> {
                let id: Result<PointId, E> = PointId::deserialize(de::value::StrDeserializer::new(id));
                id.map(Input::Point).map_err(|_| {
                    E::custom(
                        "a point's id is a whole number or a UUID; a text to embed is written {\"text\": \"...\"}",
                    )
                })
            }
            fn visit_seq<A: SeqAccess<'de>>(self, items: A) -> Result<Input, A::Error> {
                List::deserialize(de::value::SeqAccessDeserializer::new(items)).map(Input::from)
            }
            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Input, A::Error> {
                let mut parts = Parts::default();
                while let Some(key) = map.next_key::<String>()? {
                    if !parts.take(&key, &mut map)? {
                        return Err(de::Error::custom(format!("a vector has no field {key:?}")));
                    }
                }
                parts.input()
            }
        }
        deserializer.deserialize_any(Any)
    }
}

impl<'de> Deserialize<'de> for Vectors {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Vectors, D::Error> {
        struct Any;
        impl<'de> Visitor<'de> for Any {
            type Value = Vectors;
            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a list of numbers, or vectors by name")
            }
            fn visit_seq<A: SeqAccess<'de>>(self, items: A) -> Result<Vectors, A::Error> {
                let list = List::deserialize(de::value::SeqAccessDeserializer::new(items))?;
                Ok(Vectors::One(list.into()))
            }
            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Vectors, A::Error> {
                // An object with a text is one vector; anything else are vectors by name, which may be called `text`.
                let mut named: Vec<(String, TextOr)> = Vec::new();
                while let Some(entry) = map.next_entry()? {
                    named.push(entry);
                }
                if named.iter().any(|(_, value)| matches!(value, TextOr::Text(_))) {
                    return one_of(named).map(Vectors::One);
                }
                let vector = |(name, value)| match value {
                    TextOr::Input(input) => Some((name, input)),
                    _ => None,
                };
                Ok(Vectors::Named(named.into_iter().filter_map(vector).collect()))
            }
        }
        deserializer.deserialize_any(Any)
    }
}

/// A field of what may be a text or vectors by name.
enum TextOr {
    Text(String),
    Input(Input),
    /// Options of a model.
    Null,
}

impl<'de> Deserialize<'de> for TextOr {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<TextOr, D::Error> {
        struct Any;
        impl<'de> Visitor<'de> for Any {
            type Value = TextOr;
            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a vector")
            }
            fn visit_str<E>(self, text: &str) -> Result<TextOr, E> {
                Ok(TextOr::Text(text.to_owned()))
            }
            fn visit_unit<E>(self) -> Result<TextOr, E> {
                Ok(TextOr::Null)
            }
            fn visit_seq<A: SeqAccess<'de>>(self, items: A) -> Result<TextOr, A::Error> {
                let list = List::deserialize(de::value::SeqAccessDeserializer::new(items))?;
                Ok(TextOr::Input(list.into()))
            }
            fn visit_map<A: MapAccess<'de>>(self, map: A) -> Result<TextOr, A::Error> {
                Input::deserialize(de::value::MapAccessDeserializer::new(map)).map(TextOr::Input)
            }
        }
        deserializer.deserialize_any(Any)
    }
}

fn one_of<E: de::Error>(fields: Vec<(String, TextOr)>) -> Result<Input, E> {
    let mut parts = Parts::default();
    for (name, value) in fields {
        match (name.as_str(), value) {
            ("text", TextOr::Text(text)) => parts.text = Some(text),
            ("model", TextOr::Text(model)) => parts.model = Some(model),
            ("image", _) => parts.unsupported = Some("image"),
            ("object", _) => parts.unsupported = Some("object"),
            (_, TextOr::Null) | ("options", _) => {}
            _ => return Err(E::custom(format!("a text to embed has `text` and `model`, no field {name:?}"))),
        }
    }
    parts.input()
}

impl Input {
    /// Its numbers, where it has some already.
    ///
    /// # Errors
    /// When it is something that Halny does not have, or no vector that can be stored.
    pub(super) fn stored(self) -> Result<Result<Vec<f32>, Document>, VectorsError> {
        match self {
            Input::Numbers(numbers) => Ok(Ok(numbers)),
            Input::Text(document) => Ok(Err(document)),
            Input::Unsupported(name) => Err(VectorsError::Unsupported(name.to_owned())),
            Input::Point(_) => {
                Err(VectorsError::Invalid("a vector is a list of numbers, or an object with `text`".to_owned()))
            }
        }
    }
}
