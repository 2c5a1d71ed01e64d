//! The kinds of values that steps pass to each other.

use std::collections::BTreeMap;

use serde_json::{Map, Value, json};

/// What a value is, as far as it is known before anything runs.
#[derive(Clone, Debug, PartialEq)]
pub enum Kind {
    /// A text.
    Text,
    /// A whole number.
    Integer,
    /// A number.
    Number,
    /// True or false.
    Boolean,
    /// Whatever a payload holds; what it is shows when it is there.
    Any,
    /// A vector, with what made it.
    Vector,
    /// Values of one kind.
    List(Box<Kind>),
    /// Values by name.
    Record(Record),
}

/// Values by name.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Record {
    /// Those that are known.
    pub fields: BTreeMap<String, Slot>,
    /// What others are, where there may be others.
    pub rest: Option<Box<Kind>>,
}

/// A place for a value.
#[derive(Clone, Debug, PartialEq)]
pub struct Slot {
    /// What it is.
    pub of: Kind,
    /// Whether it may be missing.
    pub optional: bool,
}

impl Slot {
    /// A value that is always there.
    #[must_use]
    pub fn of(kind: Kind) -> Slot {
        Slot { of: kind, optional: false }
    }
}

impl Record {
    /// Values that are always there.
    pub fn of<const N: usize>(fields: [(&str, Kind); N]) -> Record {
        Record {
            fields: fields.into_iter().map(|(name, kind)| (name.to_owned(), Slot::of(kind))).collect(),
            rest: None,
        }
    }

    /// The value of that name.
    #[must_use]
    pub fn get(&self, name: &str) -> Option<Slot> {
        let rest = || self.rest.as_ref().map(|kind| Slot::of(kind.as_ref().clone()));
        self.fields.get(name).cloned().or_else(rest)
    }
}

impl Kind {
    /// A list of these.
    #[must_use]
    pub fn list(self) -> Kind {
        Kind::List(Box::new(self))
    }

    /// Whether it is written into a text as it is: a text, a number, true or false, or what a payload holds.
    #[must_use]
    pub fn is_plain(&self) -> bool {
        matches!(self, Kind::Text | Kind::Integer | Kind::Number | Kind::Boolean | Kind::Any)
    }

    /// Whether it can stand where `wanted` is. What a payload holds is believed until it is there.
    #[must_use]
    pub fn fits(&self, wanted: &Kind) -> bool {
        match (self, wanted) {
            (Kind::Any, Kind::Vector) => false,
            (Kind::Any, _) | (Kind::Integer, Kind::Number) => true,
            (given, Kind::Any) => !given.holds_vectors(),
            (Kind::List(given), Kind::Vector) => matches!(given.as_ref(), Kind::Integer | Kind::Number),
            (Kind::List(given), Kind::List(wanted)) => given.fits(wanted),
            (Kind::Record(given), Kind::Record(wanted)) => given.fits(wanted),
            (given, wanted) => given == wanted,
        }
    }

    /// Whether a vector is somewhere in it.
    #[must_use]
    pub fn holds_vectors(&self) -> bool {
        match self {
            Kind::Vector => true,
            Kind::List(items) => items.holds_vectors(),
            Kind::Record(record) => record.fields.values().any(|slot| slot.of.holds_vectors()),
            _ => false,
        }
    }

    /// The kind of a value that stands in the file.
    #[must_use]
    pub fn of_value(value: &Value) -> Kind {
        match value {
            Value::String(_) => Kind::Text,
            Value::Bool(_) => Kind::Boolean,
            Value::Number(number) if number.is_f64() => Kind::Number,
            Value::Number(_) => Kind::Integer,
            Value::Null => Kind::Any,
            Value::Array(items) => Kind::common(items.iter().map(Kind::of_value)).list(),
            Value::Object(fields) => {
                let fields = fields.iter().map(|(name, value)| (name.clone(), Slot::of(Kind::of_value(value))));
                Kind::Record(Record { fields: fields.collect(), rest: None })
            }
        }
    }

    /// What all of these are, or `Any` where they differ, or where there are none.
    pub fn common(kinds: impl IntoIterator<Item = Kind>) -> Kind {
        let mut kinds = kinds.into_iter();
        let first = kinds.next().unwrap_or(Kind::Any);
        kinds.fold(first, |all, kind| match (all, kind) {
            (all, kind) if all == kind => all,
            (Kind::Number, Kind::Integer) | (Kind::Integer, Kind::Number) => Kind::Number,
            _ => Kind::Any,
        })
    }

    /// What it is, in words, with an article.
    #[must_use]
    pub fn described(&self) -> String {
        match self {
            Kind::Text => "text".to_owned(),
            Kind::Integer => "a whole number".to_owned(),
            Kind::Number => "a number".to_owned(),
            Kind::Boolean => "true or false".to_owned(),
            Kind::Any => "what a payload holds".to_owned(),
            Kind::Vector => "a vector".to_owned(),
            Kind::List(items) => match items.as_ref() {
                Kind::Text => "a list of texts".to_owned(),
                Kind::Integer | Kind::Number => "a list of numbers".to_owned(),
                Kind::Vector => "a list of vectors".to_owned(),
                Kind::Record(record) if record.fields.contains_key("payload") => "a list of points".to_owned(),
                _ => "a list".to_owned(),
            },
            Kind::Record(_) => "a table".to_owned(),
        }
    }

    /// The JSON Schema (draft 2020-12) of such a value in an answer.
    #[must_use]
    pub fn json_schema(&self) -> Value {
        match self {
            Kind::Text => json!({ "type": "string" }),
            Kind::Integer => json!({ "type": "integer" }),
            Kind::Number => json!({ "type": "number" }),
            Kind::Boolean => json!({ "type": "boolean" }),
            Kind::Any => json!({}),
            Kind::Vector => json!({ "type": "array", "items": { "type": "number" } }),
            Kind::List(items) => json!({ "type": "array", "items": items.json_schema() }),
            Kind::Record(record) => record.json_schema(),
        }
    }
}

impl Record {
    fn fits(&self, wanted: &Record) -> bool {
        wanted.fields.iter().all(|(name, slot)| match self.get(name) {
            Some(given) => given.of.fits(&slot.of) && (slot.optional || !given.optional),
            None => slot.optional,
        })
    }

    /// The JSON Schema (draft 2020-12) of such a value in an answer.
    #[must_use]
    pub fn json_schema(&self) -> Value {
        let properties: Map<String, Value> =
            self.fields.iter().map(|(name, slot)| (name.clone(), slot.of.json_schema())).collect();
        let required: Vec<&String> =
            self.fields.iter().filter(|(_, slot)| !slot.optional).map(|(name, _)| name).collect();
        let mut schema = json!({ "type": "object", "properties": properties });
        if !required.is_empty() {
            schema["required"] = json!(required);
        }
        schema["additionalProperties"] = self.rest.as_ref().map_or(json!(false), |rest| rest.json_schema());
        schema
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn kind() -> impl Strategy<Value = Kind> {
        let leaf = prop_oneof![
            Just(Kind::Text),
            Just(Kind::Integer),
            Just(Kind::Number),
            Just(Kind::Boolean),
            Just(Kind::Any),
            Just(Kind::Vector),
        ];
        leaf.prop_recursive(3, 24, 4, |inner| {
            let fields = prop::collection::btree_map("[a-c]", (inner.clone(), any::<bool>()), 0..3);
            prop_oneof![
                inner.clone().prop_map(Kind::list),
                (fields, prop::option::of(inner)).prop_map(|(fields, rest)| {
                    let slot = |(name, (of, optional))| (name, Slot { of, optional });
                    Kind::Record(Record { fields: fields.into_iter().map(slot).collect(), rest: rest.map(Box::new) })
                }),
            ]
        })
    }

    proptest! {
        #[test]
        fn what_fits_nothing_else_fits_itself(kind in kind()) {
            prop_assert!(kind.fits(&kind), "{kind:?}");
        }

        #[test]
        fn fitting_holds_through_lists(a in kind(), b in kind()) {
            // Numbers in a list may be a vector, which a list of lists of numbers is not.
            prop_assume!(b != Kind::Vector);
            prop_assert_eq!(a.fits(&b), a.clone().list().fits(&b.clone().list()));
        }

        #[test]
        fn the_schema_of_a_kind_is_one(kind in kind()) {
            prop_assert!(jsonschema::meta::is_valid(&kind.json_schema()));
        }
    }
}
