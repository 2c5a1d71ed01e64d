//! What is asked of each point, and the point that an answer has.

use std::collections::BTreeMap;
use std::sync::Arc;

use halny_payload::{Condition, FieldKind, Filter, JsonPath, Match, PointId, Scalar, Step, Subject, Written};
use serde::Deserialize;
use serde_json::{Map, Value, json, value::RawValue};

use super::error::broken;
use crate::{CollectionConfig, Named, Payload, PayloadSelect, Record, Select, VectorSelect, VectorsError};

/// A point in an answer. Vectors are read where they lie.
#[derive(Deserialize)]
pub(super) struct Answered<'a> {
    pub(super) id: PointId,
    pub(super) score: Option<f32>,
    payload: Option<Payload>,
    #[serde(borrow)]
    vector: Option<&'a RawValue>,
}

/// What is read of each point, and whether it passes where the cluster does not know.
pub(super) struct Reading<'a> {
    pub(super) config: Arc<CollectionConfig>,
    select: &'a Select,
    filter: Option<&'a Filter>,
    written: Option<Written>,
    /// Whether the space has vectors that are not to be read.
    others: bool,
}

impl<'a> Reading<'a> {
    pub(super) fn new(
        config: Arc<CollectionConfig>,
        others: bool,
        select: &'a Select,
        filter: Option<&'a Filter>,
    ) -> Reading<'a> {
        let written = filter.map(|filter| filter.write(&|condition| is_known(condition, &config.fields)));
        Reading { config, select, filter, written, others }
    }

    /// Whether some points that the cluster passes may not pass.
    pub(super) fn asks(&self) -> bool {
        self.written.as_ref().is_some_and(|written| !written.exact)
    }

    /// Bytes of the vectors of one point in JSON, about.
    pub(super) fn vector_bytes(&self) -> usize {
        // Ten digits, a sign, a comma, and often an exponent.
        let dimensions =
            self.vectors().filter_map(|name| self.config.vectors.get(name)).map(|vector| vector.dimensions);
        dimensions.sum::<usize>() * 14
    }

    /// A request for points that pass, with what is read of each.
    pub(super) fn request(&self) -> Map<String, Value> {
        let mut request = Map::new();
        if let Some(written) = &self.written {
            request.insert("filter".to_owned(), written.json.clone());
        }
        request.insert("with_payload".to_owned(), self.with_payload());
        request.insert("with_vector".to_owned(), self.with_vector());
        request
    }

    /// The vectors that are read.
    fn vectors(&self) -> impl Iterator<Item = &String> {
        // Which vectors a point has, it tells by giving them.
        let asked = self.asks() && self.filter.is_some_and(names_vectors);
        self.config.vectors.keys().filter(move |name| asked || self.select.vectors.takes(name))
    }

    fn with_vector(&self) -> Value {
        let names: Vec<&String> = self.vectors().collect();
        match &names[..] {
            [] => json!(false),
            all if all.len() == self.config.vectors.len() && !self.others => json!(true),
            // The one without a name is asked for by none.
            some if some.iter().any(|name| name.is_empty()) => json!(true),
            some => json!(some),
        }
    }

    fn with_payload(&self) -> Value {
        if self.asks() {
            return json!(true);
        }
        let said = |paths: &[JsonPath]| -> Option<Vec<String>> {
            paths.iter().map(|path| is_plain(path).then(|| path.quoted())).collect()
        };
        match &self.select.payload {
            PayloadSelect::None => json!(false),
            PayloadSelect::Include(paths) if paths.is_empty() => json!(false),
            PayloadSelect::Include(paths) => said(paths).map_or(json!(true), |paths| json!({ "include": paths })),
            PayloadSelect::Exclude(paths) if paths.is_empty() => json!(true),
            PayloadSelect::Exclude(paths) => said(paths).map_or(json!(true), |paths| json!({ "exclude": paths })),
            PayloadSelect::All => json!(true),
        }
    }

    /// The point in an answer, if it passes.
    pub(super) fn record(&self, point: Answered<'_>) -> Result<Option<Record>, VectorsError> {
        let mut vectors = self.read_vectors(point.vector)?;
        let payload = point.payload.unwrap_or_default();
        if let Some(filter) = self.filter.filter(|_| self.asks()) {
            let has_vector = |name: &str| vectors.contains_key(name);
            let fields = &self.config.fields;
            if !filter.matches(&Subject { id: point.id, payload: &payload, has_vector: &has_vector, fields }) {
                return Ok(None);
            }
        }
        vectors.retain(|name, _| self.select.vectors.takes(name));
        let payload = (!self.select.payload.is_none()).then(|| self.select.payload.of(Arc::new(payload)));
        Ok(Some(Record { id: point.id, payload, vectors }))
    }

    /// One without a name comes as it is, others by name; those that Halny does not have are passed over.
    fn read_vectors(&self, raw: Option<&RawValue>) -> Result<Named, VectorsError> {
        let Some(raw) = raw.map(RawValue::get) else { return Ok(Named::new()) };
        let numbers =
            |text: &str| serde_json::from_str::<Vec<f32>>(text).map_err(|error| broken("read a vector", &error));
        let mut read = Named::new();
        if raw.starts_with('[') {
            if self.config.vectors.contains_key("") {
                read.insert(String::new(), numbers(raw)?);
            }
        } else if raw.starts_with('{') {
            let named: BTreeMap<String, &RawValue> =
                serde_json::from_str(raw).map_err(|error| broken("read vectors", &error))?;
            for (name, vector) in named.into_iter().filter(|(name, _)| self.config.vectors.contains_key(name)) {
                read.insert(name, numbers(vector.get())?);
            }
        }
        Ok(read)
    }
}

/// Whether a path is one that is cut out of payloads alike on both sides: keys, and lists as wholes.
fn is_plain(path: &JsonPath) -> bool {
    path.steps().iter().all(|step| !matches!(step, Step::Index(_)))
}

/// Whether Qdrant has the condition and means the same by it.
fn is_known(condition: &Condition, fields: &BTreeMap<String, FieldKind>) -> bool {
    match condition {
        // Without an index of words Qdrant looks for parts of texts.
        Condition::Match(path, Match::Words(_) | Match::AnyWord(_)) => {
            matches!(fields.get(&path.to_string()), Some(FieldKind::Text(_)))
        }
        // Phrases are found by indexes that were made for them alone, else there are none; beginnings came with
        // 1.19; parts of texts are Halny's own.
        Condition::Match(_, Match::Phrase(_) | Match::Prefix(_) | Match::Substring(_)) => false,
        // It leaves out texts and whole numbers alone.
        Condition::Match(_, Match::Except(scalars)) => {
            !scalars.is_empty() && !scalars.iter().any(|scalar| matches!(scalar, Scalar::Bool(_)))
        }
        // Indexes are of fields of the payload, not of what is within an item; and there Qdrant knows no ids or vectors.
        Condition::Nested(_, filter) => of_each(filter, &|inner| {
            !matches!(inner, Condition::HasId(_) | Condition::HasVector(_)) && is_known(inner, &BTreeMap::new())
        }),
        _ => true,
    }
}

/// Whether the filter asks which vectors a point has.
fn names_vectors(filter: &Filter) -> bool {
    !of_each(filter, &|condition| !matches!(condition, Condition::HasVector(_)))
}

/// Whether something holds of every condition in a filter, at every level.
fn of_each(filter: &Filter, holds: &dyn Fn(&Condition) -> bool) -> bool {
    let least = filter.min_should.iter().flat_map(|(conditions, _)| conditions);
    filter.must.iter().chain(&filter.should).chain(&filter.must_not).chain(least).all(|condition| {
        holds(condition)
            && match condition {
                Condition::Filter(inner) | Condition::Nested(_, inner) => of_each(inner, holds),
                _ => true,
            }
    })
}

/// What is wanted of nothing but ids.
pub(super) const IDS: Select = Select { payload: PayloadSelect::None, vectors: VectorSelect::None };

#[cfg(test)]
mod tests {
    use halny_payload::TextOptions;

    use super::*;

    #[test]
    fn what_qdrant_means_otherwise_is_asked_here() {
        let fields = BTreeMap::from([("text".to_owned(), FieldKind::Text(TextOptions::default()))]);
        let asks = |condition: Value| {
            let filter = Filter::read(&json!({ "must": [condition] })).unwrap();
            !filter.write(&|condition| is_known(condition, &fields)).exact
        };
        let of = |key: &str, how: &str| json!({ "key": key, "match": { how: "a b" } });
        let nested = |inner: Value| json!({ "nested": { "key": "items", "filter": { "must": [inner] } } });
        for known in [of("text", "text"), of("text", "text_any"), of("other", "value"), json!({ "has_id": [1] })] {
            assert!(!asks(known.clone()), "{known}");
        }
        assert!(!asks(nested(of("other", "value"))));
        // Words in a field without an index, or in items; phrases, which need an index of their own; ids in items.
        for unknown in [
            of("other", "text"),
            nested(of("text", "text")),
            of("text", "phrase"),
            nested(json!({ "has_id": [1] })),
            nested(json!({ "has_vector": "a" })),
        ] {
            assert!(asks(unknown.clone()), "{unknown}");
        }
    }
}
