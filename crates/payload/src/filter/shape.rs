//! What a filter asks about, without the values that it asks for: filters of one shape are alike to plan
//! and to measure.

use std::fmt::Write;

use super::Filter;
use crate::Condition;

/// Shapes longer than this, in characters, are cut: they stand in metrics.
const SHAPE_CHARS_MAX: usize = 120;

impl Filter {
    /// The filter's clauses with the kinds of their conditions and the fields that they are about, in
    /// an order that does not depend on how it was written: `must(match lang, range year)`. Values
    /// are left out. Cut to 120 characters.
    #[must_use]
    pub fn shape(&self) -> String {
        self.whole_shape().chars().take(SHAPE_CHARS_MAX).collect()
    }

    fn whole_shape(&self) -> String {
        let least = self.min_should.as_ref().map_or(&[] as &[Condition], |(conditions, _)| conditions);
        let clauses =
            [("must", &*self.must), ("should", &self.should), ("must_not", &self.must_not), ("min_should", least)];
        let mut shape = String::new();
        for (clause, conditions) in clauses.into_iter().filter(|(_, conditions)| !conditions.is_empty()) {
            let mut kinds: Vec<String> = conditions.iter().map(kind).collect();
            kinds.sort();
            kinds.dedup();
            let space = if shape.is_empty() { "" } else { " " };
            // Writing into a `String` cannot fail.
            let _ = write!(shape, "{space}{clause}({})", kinds.join(", "));
        }
        shape
    }
}

fn kind(condition: &Condition) -> String {
    match condition {
        Condition::Match(path, _) => format!("match {path}"),
        Condition::Range(path, _) => format!("range {path}"),
        Condition::Datetime(path, _) => format!("datetime {path}"),
        Condition::Geo(path, _) => format!("geo {path}"),
        Condition::Count(path, _) => format!("count {path}"),
        Condition::IsEmpty(path) => format!("is_empty {path}"),
        Condition::IsNull(path) => format!("is_null {path}"),
        Condition::HasId(_) => "has_id".to_owned(),
        Condition::HasVector(name) => format!("has_vector {name}"),
        Condition::Nested(path, filter) => format!("nested {path} {}", filter.whole_shape()),
        Condition::Filter(filter) => filter.whole_shape(),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn shape(filter: serde_json::Value) -> String {
        Filter::read(&filter).unwrap_or_default().shape()
    }

    #[test]
    fn filters_that_differ_in_values_and_order_have_one_shape() {
        let year = |from: u32| json!({ "key": "year", "range": { "gte": from } });
        let lang = |code: &str| json!({ "key": "lang", "match": { "value": code } });
        let one = shape(json!({ "must": [year(1999), lang("en")], "must_not": [{ "has_id": [1] }] }));
        let other = shape(json!({ "must_not": [{ "has_id": [2, 3] }], "must": [lang("pl"), year(7), year(8)] }));
        assert_eq!(one, "must(match lang, range year) must_not(has_id)");
        assert_eq!(one, other);
        assert_ne!(one, shape(json!({ "should": [lang("en")] })));
    }

    #[test]
    fn a_shape_is_short_however_long_the_filter() {
        let fields: Vec<_> = (0..50).map(|n| json!({ "is_null": { "key": format!("field-{n}") } })).collect();
        assert!(shape(json!({ "must": fields })).chars().count() <= SHAPE_CHARS_MAX);
    }
}
