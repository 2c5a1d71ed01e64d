//! What a step sees: the request, what other steps gave, and within a list an item.

use std::collections::BTreeMap;
use std::sync::Arc;

use halny_types::Fault;
use halny_types::project::routes::{Count, Mapping, Part, Piece, Reference, Template};
use serde_json::{Map, Value as Json};

use crate::value::outputs_to_json;
use crate::{Outputs, StepError, Value, Vector};

/// The longest text that references make, in bytes: what a language model reads at most is far less.
pub(crate) const TEXT_BYTES_MAX: usize = 4 << 20;

/// What can be read.
pub(crate) struct Seen<'a> {
    pub(crate) request: &'a Json,
    pub(crate) steps: BTreeMap<&'a str, Arc<Outputs>>,
}

/// What a reference found.
pub(crate) enum Found<'a> {
    /// Nothing: the request left it out, or a payload does not have it.
    Missing,
    One(&'a Json),
    /// A field of each item of a list; some may lack it.
    Each(Vec<Option<&'a Json>>),
    Vector(&'a Vector),
    Vectors(&'a [Vector]),
    /// Everything a step gives.
    Step(&'a Outputs),
    /// The place of an item.
    Number(usize),
}

/// An item of a list, and its place, counted from 1.
#[derive(Clone, Copy)]
pub(crate) struct Item<'a> {
    pub(crate) value: &'a Json,
    pub(crate) number: usize,
}

fn not_what_it_should_be(reference: &Reference, is: &str, needed: &str) -> StepError {
    // What a payload holds is not known before it is there.
    StepError::new(Fault::Ours, format!("{reference} is {is}, and {needed} is needed there"))
}

impl<'a> Seen<'a> {
    /// What a reference reads.
    ///
    /// # Errors
    /// When its way leads through something that has no such parts.
    pub(crate) fn read(&'a self, reference: &Reference, item: Option<Item<'a>>) -> Result<Found<'a>, StepError> {
        let (start, path) = match (reference.root.as_str(), item) {
            ("request", _) => (self.request, reference.path.as_slice()),
            ("item", Some(item)) => (item.value, reference.path.as_slice()),
            ("number", Some(item)) => return Ok(Found::Number(item.number)),
            (root, _) => {
                let lost = || StepError::new(Fault::Ours, format!("{reference} reads a step that did not run"));
                let outputs = self.steps.get(root).ok_or_else(lost)?;
                let Some((Part::Name(name), rest)) = reference.path.split_first() else {
                    return Ok(Found::Step(outputs));
                };
                match outputs.get(name) {
                    None => return Ok(Found::Missing),
                    Some(Value::Vector(vector)) => return Ok(Found::Vector(vector)),
                    Some(Value::Vectors(vectors)) => return Ok(Found::Vectors(vectors)),
                    Some(Value::Json(json)) => (json, rest),
                }
            }
        };
        walk(start, path, reference)
    }

    /// A text with references, as it reads now.
    ///
    /// # Errors
    /// When what is read is no text, or the text becomes too long.
    pub(crate) fn text(&'a self, template: &Template, item: Option<Item<'a>>) -> Result<String, StepError> {
        let mut text = String::new();
        for piece in &template.pieces {
            match piece {
                Piece::Text(plain) => text.push_str(plain),
                Piece::Read(reference) => self.read(reference, item)?.plain(reference, &mut text)?,
            }
            if text.len() > TEXT_BYTES_MAX {
                let wrong = format!("a text of more than {TEXT_BYTES_MAX} bytes; read less, or cut it in a join");
                return Err(StepError::new(Fault::TooLarge, wrong));
            }
        }
        Ok(text)
    }

    /// A list of texts.
    ///
    /// # Errors
    /// When what is read is no list of texts, or the texts are too long together.
    pub(crate) fn texts(&'a self, reference: &Reference) -> Result<Vec<String>, StepError> {
        let mut bytes = 0;
        let mut texts = Vec::new();
        for item in self.items(reference)? {
            let mut text = String::new();
            item.map_or(Found::Missing, Found::One).plain(reference, &mut text)?;
            bytes += text.len();
            if bytes > TEXT_BYTES_MAX {
                let wrong = format!("texts of more than {TEXT_BYTES_MAX} bytes together; read fewer or shorter ones");
                return Err(StepError::new(Fault::TooLarge, wrong));
            }
            texts.push(text);
        }
        Ok(texts)
    }

    /// The items of a list.
    ///
    /// # Errors
    /// When what is read is no list.
    pub(crate) fn items(&'a self, reference: &Reference) -> Result<Vec<Option<&'a Json>>, StepError> {
        match self.read(reference, None)? {
            Found::One(Json::Array(items)) => Ok(items.iter().map(Some).collect()),
            Found::Each(items) => Ok(items),
            Found::Missing | Found::One(Json::Null) => Ok(Vec::new()),
            other => Err(not_what_it_should_be(reference, other.kind(), "a list")),
        }
    }

    /// How many, within what is allowed.
    ///
    /// # Errors
    /// When it is no whole number, or not one of these.
    pub(crate) fn count(&'a self, count: &CountOf, most: usize) -> Result<usize, StepError> {
        let (number, name) = match count {
            CountOf::Number(number) => (Some(*number), String::new()),
            CountOf::Read(reference) => match self.read(reference, None)? {
                Found::One(json) => (json.as_u64(), reference.to_string()),
                _ => (None, reference.to_string()),
            },
        };
        let number =
            number.and_then(|number| usize::try_from(number).ok()).filter(|number| (1..=most).contains(number));
        number.ok_or_else(|| {
            StepError::new(Fault::Caller, format!("{name} may be a whole number from 1 to {most} there"))
        })
    }

    /// A vector.
    ///
    /// # Errors
    /// When what is read is none.
    pub(crate) fn vector(&'a self, reference: &Reference) -> Result<Vector, StepError> {
        let found = self.read(reference, None)?;
        let numbers = match &found {
            Found::Vector(vector) => return Ok((*vector).clone()),
            Found::One(Json::Array(items)) => {
                items.iter().map(|item| item.as_f64().map(|number| number as f32)).collect::<Option<Vec<f32>>>()
            }
            _ => None,
        };
        let wrong = || not_what_it_should_be(reference, found.kind(), "a vector");
        Ok(Vector { numbers: numbers.ok_or_else(wrong)?.into(), space: None })
    }

    /// A value with references. Nothing where a reference found nothing: within a list such a part is left out
    /// with `Absent::LeaveOut`, and is null with `Absent::Null`; within a table its name is missing.
    ///
    /// # Errors
    /// When what is read is not what it should be.
    pub(crate) fn json(&'a self, mapping: &Mapping, absent: Absent) -> Result<Option<Json>, StepError> {
        Ok(match mapping {
            Mapping::Literal(value) => Some(value.clone()),
            Mapping::Read(reference) => self.read(reference, None)?.to_json(),
            Mapping::Text(template) => {
                let mut text = String::new();
                for piece in &template.pieces {
                    match piece {
                        Piece::Text(plain) => text.push_str(plain),
                        Piece::Read(reference) => match self.read(reference, None)? {
                            Found::Missing if absent == Absent::LeaveOut => return Ok(None),
                            found => found.plain(reference, &mut text)?,
                        },
                    }
                }
                Some(Json::String(text))
            }
            Mapping::List(items) => {
                let mut list = Vec::with_capacity(items.len());
                for item in items {
                    match self.json(item, absent)? {
                        Some(value) => list.push(value),
                        None if absent == Absent::Null => list.push(Json::Null),
                        None => {}
                    }
                }
                Some(Json::Array(list))
            }
            Mapping::Table(fields) => {
                let mut table = Map::new();
                for (name, field) in fields {
                    match self.json(field, absent)? {
                        Some(value) => drop(table.insert(name.clone(), value)),
                        // A condition without what it compares with is none.
                        None if absent == Absent::LeaveOut => return Ok(None),
                        None => {}
                    }
                }
                Some(Json::Object(table))
            }
        })
    }

    /// One output of a fallback, as what it stands for.
    ///
    /// # Errors
    /// When what is read is not what it should be.
    pub(crate) fn value(&'a self, mapping: &Mapping) -> Result<Value, StepError> {
        if let Mapping::Read(reference) = mapping {
            match self.read(reference, None)? {
                Found::Vector(vector) => return Ok(Value::Vector(vector.clone())),
                Found::Vectors(vectors) => return Ok(Value::Vectors(vectors.to_vec())),
                _ => {}
            }
        }
        Ok(Value::Json(self.json(mapping, Absent::Null)?.unwrap_or(Json::Null)))
    }
}

/// What becomes of a part of a value that reads what is not there.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Absent {
    /// It goes, with what it is a part of, up to an item of a list: for conditions of filters.
    LeaveOut,
    /// It is null in a list, and missing in a table: for answers.
    Null,
}

/// How many, by a number or a reference.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum CountOf {
    Number(u64),
    Read(Reference),
}

impl CountOf {
    pub(crate) fn of(count: &Count) -> Result<CountOf, String> {
        match count {
            Count::Number(number) => Ok(CountOf::Number(*number)),
            Count::Read(text) => single(text).map(CountOf::Read),
        }
    }
}

/// The one reference that a text is.
pub(crate) fn single(text: &str) -> Result<Reference, String> {
    let template = Template::parse(text).map_err(|trouble| trouble.to_string())?;
    template.single().cloned().ok_or_else(|| format!("{text:?} is not one reference"))
}

fn walk<'a>(start: &'a Json, path: &[Part], reference: &Reference) -> Result<Found<'a>, StepError> {
    let mut here = Some(start);
    for (at, part) in path.iter().enumerate() {
        let Some(value) = here else { return Ok(Found::Missing) };
        match (part, value) {
            (_, Json::Null) => return Ok(Found::Missing),
            (Part::Name(name), Json::Object(fields)) => here = fields.get(name),
            (Part::Name(_), other) => {
                return Err(not_what_it_should_be(reference, Found::One(other).kind(), "a table"));
            }
            (Part::Each, Json::Array(items)) => {
                let rest = path.get(at + 1..).unwrap_or_default();
                let field = |item| match walk(item, rest, reference)? {
                    Found::One(value) => Ok(Some(value)),
                    _ => Ok(None),
                };
                return Ok(Found::Each(items.iter().map(field).collect::<Result<_, StepError>>()?));
            }
            (Part::Each, other) => return Err(not_what_it_should_be(reference, Found::One(other).kind(), "a list")),
        }
    }
    Ok(here.map_or(Found::Missing, Found::One))
}

impl Found<'_> {
    /// What it is, in words.
    fn kind(&self) -> &'static str {
        match self {
            Found::Missing | Found::One(Json::Null) => "missing",
            Found::One(Json::Bool(_)) => "true or false",
            Found::One(Json::Number(_)) | Found::Number(_) => "a number",
            Found::One(Json::String(_)) => "text",
            Found::One(Json::Array(_)) | Found::Each(_) | Found::Vectors(_) => "a list",
            Found::One(Json::Object(_)) | Found::Step(_) => "a table",
            Found::Vector(_) => "a vector",
        }
    }

    /// Writes it into a text; what is missing leaves nothing there.
    fn plain(&self, reference: &Reference, text: &mut String) -> Result<(), StepError> {
        match self {
            Found::Missing | Found::One(Json::Null) => {}
            Found::One(Json::String(plain)) => text.push_str(plain),
            Found::One(Json::Number(number)) => text.push_str(&number.to_string()),
            Found::One(Json::Bool(truth)) => text.push_str(if *truth { "true" } else { "false" }),
            Found::Number(number) => text.push_str(&number.to_string()),
            other => return Err(not_what_it_should_be(reference, other.kind(), "text")),
        }
        Ok(())
    }

    /// The value in JSON; nothing where nothing was found.
    fn to_json(&self) -> Option<Json> {
        Some(match self {
            Found::Missing => return None,
            Found::One(value) => (*value).clone(),
            Found::Each(items) => Json::Array(items.iter().map(|item| item.cloned().unwrap_or(Json::Null)).collect()),
            Found::Vector(vector) => Value::Vector((*vector).clone()).to_json(),
            Found::Vectors(vectors) => Value::Vectors(vectors.to_vec()).to_json(),
            Found::Step(outputs) => outputs_to_json(outputs),
            Found::Number(number) => Json::from(*number),
        })
    }
}
