//! Values with references in them, nested as they are to be: filters, answers, fallbacks.

use std::collections::BTreeMap;

use serde_json::Value;

use super::{Reference, Template, Trouble};
use crate::project::locate::join;

/// How deep values may be in each other.
const DEPTH_MAX: usize = 16;

/// A value that is made when its references can be read.
#[derive(Clone, Debug, PartialEq)]
pub enum Mapping {
    /// A value as it stands.
    Literal(Value),
    /// What one reference reads, whatever it is.
    Read(Reference),
    /// A text with references.
    Text(Template),
    /// Several.
    List(Vec<Mapping>),
    /// By name.
    Table(BTreeMap<String, Mapping>),
}

impl Mapping {
    /// Reads a value.
    ///
    /// # Errors
    /// What is wrong with the first reference that cannot be read, and where it is: a JSON pointer from here.
    pub fn parse(value: &Value) -> Result<Mapping, (String, Trouble)> {
        Mapping::at(value, "", 0)
    }

    fn at(value: &Value, pointer: &str, depth: usize) -> Result<Mapping, (String, Trouble)> {
        if depth > DEPTH_MAX {
            let right = format!("write at most {DEPTH_MAX} levels");
            return Err((pointer.to_owned(), Trouble::new("this is nested too deep", right)));
        }
        Ok(match value {
            Value::String(text) => {
                let template = Template::parse(text).map_err(|trouble| (pointer.to_owned(), trouble))?;
                match template.single() {
                    Some(reference) => Mapping::Read(reference.clone()),
                    None if template.references().next().is_some() => Mapping::Text(template),
                    None => Mapping::Literal(Value::String(plain(&template))),
                }
            }
            Value::Array(items) => {
                let item = |(at, item)| Mapping::at(item, &format!("{pointer}/{at}"), depth + 1);
                Mapping::List(items.iter().enumerate().map(item).collect::<Result<_, _>>()?)
            }
            Value::Object(fields) => {
                let field = |(name, value): (&String, &Value)| {
                    Ok((name.clone(), Mapping::at(value, &join(pointer, name), depth + 1)?))
                };
                Mapping::Table(fields.iter().map(field).collect::<Result<_, _>>()?)
            }
            other => Mapping::Literal(other.clone()),
        })
    }

    /// What it reads, each with where it stands: a JSON pointer from here.
    #[must_use]
    pub fn references(&self) -> Vec<(String, &Reference)> {
        let mut all = Vec::new();
        self.collect("", &mut all);
        all
    }

    fn collect<'a>(&'a self, pointer: &str, all: &mut Vec<(String, &'a Reference)>) {
        match self {
            Mapping::Literal(_) => {}
            Mapping::Read(reference) => all.push((pointer.to_owned(), reference)),
            Mapping::Text(template) => {
                all.extend(template.references().map(|reference| (pointer.to_owned(), reference)));
            }
            Mapping::List(items) => {
                for (at, item) in items.iter().enumerate() {
                    item.collect(&format!("{pointer}/{at}"), all);
                }
            }
            Mapping::Table(fields) => {
                for (name, field) in fields {
                    field.collect(&join(pointer, name), all);
                }
            }
        }
    }
}

/// A text without references, its escapes undone.
fn plain(template: &Template) -> String {
    template
        .pieces
        .iter()
        .map(|piece| match piece {
            super::Piece::Text(text) => text.as_str(),
            super::Piece::Read(_) => "",
        })
        .collect()
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use serde_json::json;

    #[test]
    fn references_are_found_wherever_they_are() {
        let value = json!({ "a": ["${x}", 1, { "b/c": "t ${y.z}" }], "d": "$${e}" });
        let mapping = Mapping::parse(&value).unwrap();
        let found: Vec<(String, String)> =
            mapping.references().into_iter().map(|(at, reference)| (at, reference.to_string())).collect();
        let expected = [("/a/0", "${x}"), ("/a/2/b~1c", "${y.z}")];
        assert_eq!(found, expected.map(|(at, reference)| (at.to_owned(), reference.to_owned())));
        let Mapping::Table(fields) = mapping else { unreachable!() };
        assert_eq!(fields["d"], Mapping::Literal(json!("${e}")));
        let (at, _) = Mapping::parse(&json!({ "a": ["${"] })).unwrap_err();
        assert_eq!(at, "/a/0");
    }
}
