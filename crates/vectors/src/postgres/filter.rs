//! Filters as SQL over `jsonb`.
//!
//! The SQL passes every point that [`Filter::matches`] passes, and maybe others: then it is not exact,
//! and each point has to be asked. Exact are values that are compared, ranges of numbers, beginnings and parts
//! of texts, counts, what is empty or null, ids, vectors, and what is made of these. Not exact are
//! words, times and places on the globe: how a text becomes words or a time is Rust's affair.
//!
//! Paths are followed by JSON paths in strict mode, where each step first asks whether it can be made: so
//! none of them ever ends in an error, which would swallow what others found.

use halny_payload::{Condition, Filter, JsonPath, Match, PointId, Range, Scalar, Step};
use serde_json::{Value, json};

use super::wire::{Sql, id_bytes};

/// A condition in SQL, which is never null.
pub(super) struct Known {
    pub(super) sql: String,
    /// Whether it passes no point that the filter does not.
    pub(super) exact: bool,
}

/// What conditions look at.
#[derive(Clone, Copy)]
struct Subject<'a> {
    /// The `jsonb` that paths begin in.
    payload: &'a str,
    /// Whether that is a point's payload, and no object within one.
    whole: bool,
}

/// Makes SQL of filters.
pub(super) struct Translator<'a> {
    /// The collection's vectors, in the order of their columns.
    pub(super) vectors: &'a [String],
    /// Whether an index of the payload answers that it contains something.
    pub(super) contains: &'a dyn Fn(&JsonPath) -> bool,
    /// What is bound.
    pub(super) into: &'a mut Sql,
    /// Names in use.
    pub(super) names: usize,
}

/// Values of one condition that are looked for in an index, one after the other.
const CONTAINED_MAX: usize = 16;
/// No list has an item in a place beyond that, and a JSON path can name none.
const INDEX_MAX: usize = i32::MAX as usize;

const PASSES: &str = "true";
const FAILS: &str = "false";

fn exact(sql: impl Into<String>) -> Known {
    Known { sql: sql.into(), exact: true }
}

fn inexact(sql: impl Into<String>) -> Known {
    Known { sql: sql.into(), exact: false }
}

fn joined(parts: &[String], with: &str, empty: &str) -> String {
    if parts.is_empty() { empty.to_owned() } else { format!("({})", parts.join(with)) }
}

impl Translator<'_> {
    /// The filter over the column `payload`.
    pub(super) fn whole(&mut self, filter: &Filter) -> Known {
        self.filter(filter, Subject { payload: "payload", whole: true })
    }

    fn filter(&mut self, filter: &Filter, subject: Subject<'_>) -> Known {
        let mut all = Vec::new();
        let mut whole = true;
        for condition in &filter.must {
            let known = self.condition(condition, subject);
            whole &= known.exact;
            all.push(known.sql);
        }
        for condition in &filter.must_not {
            match self.condition(condition, subject) {
                Known { sql, exact: true } => all.push(format!("NOT {sql}")),
                // What may not pass may pass: nothing is known.
                Known { exact: false, .. } => whole = false,
            }
        }
        let each = |this: &mut Self, conditions: &[Condition], whole: &mut bool| -> Vec<String> {
            let known: Vec<Known> = conditions.iter().map(|condition| this.condition(condition, subject)).collect();
            *whole &= known.iter().all(|known| known.exact);
            known.into_iter().map(|known| known.sql).collect()
        };
        if !filter.should.is_empty() {
            let any = each(self, &filter.should, &mut whole);
            all.push(joined(&any, " OR ", FAILS));
        }
        if let Some((conditions, least)) = filter.min_should.as_ref().filter(|(_, least)| *least > 0) {
            let counted: Vec<String> =
                each(self, conditions, &mut whole).into_iter().map(|sql| format!("({sql})::int")).collect();
            all.push(format!("({} >= {least})", joined(&counted, " + ", "0")));
        }
        Known { sql: joined(&all, " AND ", PASSES), exact: whole }
    }

    fn condition(&mut self, condition: &Condition, subject: Subject<'_>) -> Known {
        match condition {
            Condition::Filter(filter) => self.filter(filter, subject),
            Condition::Match(path, wanted) => self.matches(path, wanted, subject),
            Condition::Range(path, range) => {
                let sql = self.any_value(path, subject, |value, this| {
                    let number = this.in_range(&format!("({value} #>> '{{}}')::float8"), range);
                    // PostgreSQL promises an order within CASE alone, and other texts are no numbers.
                    format!("CASE WHEN jsonb_typeof({value}) = 'number' THEN {number} ELSE false END")
                });
                exact(sql)
            }
            Condition::Datetime(path, _) => inexact(self.any_value(path, subject, |value, _| is(value, "string"))),
            Condition::Geo(path, _) => inexact(self.any_value(path, subject, |value, _| is(value, "object"))),
            Condition::Count(path, range) => {
                let places = self.any_place(path, subject, |place, _| {
                    let count = format!(
                        "CASE jsonb_typeof({place}) WHEN 'null' THEN 0 WHEN 'array' THEN jsonb_array_length({place}) \
                         ELSE 1 END"
                    );
                    counted(&count, range)
                });
                let none = self.any_place(path, subject, |_, _| PASSES.to_owned());
                let of_none = if range.holds(0) { format!("NOT {none}") } else { FAILS.to_owned() };
                exact(format!("({of_none} OR {places})"))
            }
            Condition::IsEmpty(path) => {
                let filled =
                    |place: &str, _: &mut Self| format!("NOT ({place} = 'null'::jsonb OR {place} = '[]'::jsonb)");
                let filled = self.any_place(path, subject, filled);
                exact(format!("NOT {filled}"))
            }
            Condition::IsNull(path) => exact(self.any_place(path, subject, |place, _| {
                format!(
                    "({place} = 'null'::jsonb OR CASE WHEN {} THEN {place} @> '[null]'::jsonb ELSE false END)",
                    is(place, "array")
                )
            })),
            Condition::HasId(ids) => {
                let mut ids: Vec<&PointId> = ids.iter().collect();
                ids.sort();
                let ids = self.into.bind(ids.into_iter().map(id_bytes).collect::<Vec<_>>());
                exact(format!("(id = ANY({ids}))"))
            }
            Condition::HasVector(name) => match self.vectors.iter().position(|known| known == name) {
                Some(column) if subject.whole => exact(format!("(v{column} IS NOT NULL)")),
                _ => exact(FAILS),
            },
            Condition::Nested(path, filter) => {
                let mut steps = path.steps();
                if let [rest @ .., Step::All] = steps
                    && !rest.is_empty()
                {
                    steps = rest;
                }
                let Some(path) = self.json_path(steps) else { return exact(FAILS) };
                let (place, item) = (self.name(), self.name());
                let inner = self.filter(filter, Subject { payload: &format!("{item}.x"), whole: false });
                let list =
                    format!("CASE WHEN {} THEN {place}.x ELSE '[]'::jsonb END", is(&format!("{place}.x"), "array"));
                let sql = format!(
                    "EXISTS (SELECT FROM jsonb_path_query({}, {path}, '{{}}', true) AS {place}(x), \
                     jsonb_array_elements({list}) AS {item}(x) WHERE {} AND {})",
                    subject.payload,
                    is(&format!("{item}.x"), "object"),
                    inner.sql
                );
                Known { sql, exact: inner.exact }
            }
        }
    }

    fn matches(&mut self, path: &JsonPath, wanted: &Match, subject: Subject<'_>) -> Known {
        let text = |value: &str| format!("({value} #>> '{{}}')");
        match wanted {
            Match::Any(wanted) => {
                let wanted = Scalars::of(wanted);
                let contained = self.contained(path, &wanted, subject);
                let sql = self.any_value(path, subject, |value, this| this.one_of(value, &wanted));
                exact(format!("({contained}{sql})"))
            }
            Match::Except(unwanted) => {
                let unwanted = Scalars::of(unwanted);
                exact(self.any_value(path, subject, |value, this| {
                    let unwanted = this.one_of(value, &unwanted);
                    format!("({value} <> 'null'::jsonb AND NOT {unwanted})")
                }))
            }
            Match::Prefix(prefix) if prefix.contains('\0') => exact(FAILS),
            Match::Substring(part) if part.contains('\0') => exact(FAILS),
            Match::Prefix(prefix) => exact(self.any_value(path, subject, |value, this| {
                let prefix = this.into.bind(prefix.clone());
                format!("({} AND starts_with({}, {prefix}))", is(value, "string"), text(value))
            })),
            Match::Substring(part) => exact(self.any_value(path, subject, |value, this| {
                let part = this.into.bind(part.clone());
                format!("({} AND strpos({}, {part}) > 0)", is(value, "string"), text(value))
            })),
            Match::Words(_) | Match::AnyWord(_) | Match::Phrase(_) => {
                inexact(self.any_value(path, subject, |value, _| is(value, "string")))
            }
        }
    }

    /// Whether a value is one of these. A number is compared as its text: `1.0` is no whole number.
    fn one_of(&mut self, value: &str, wanted: &Scalars) -> String {
        let mut any = Vec::new();
        for (kind, texts) in [("string", &wanted.texts), ("number", &wanted.integers), ("boolean", &wanted.bools)] {
            if !texts.is_empty() {
                let texts = self.into.bind(texts.clone());
                any.push(format!("({} AND ({value} #>> '{{}}') = ANY({texts}))", is(value, kind)));
            }
        }
        joined(&any, " OR ", FAILS)
    }

    /// What an index of the whole payload can tell: that one of the values is in it, at the path or in a list there.
    fn contained(&mut self, path: &JsonPath, wanted: &Scalars, subject: Subject<'_>) -> String {
        let few = (1..=CONTAINED_MAX).contains(&wanted.values.len());
        if !subject.whole || !few || !(self.contains)(path) {
            return String::new();
        }
        let mut any = Vec::new();
        for value in &wanted.values {
            for inner in [value.clone(), json!([value])] {
                let within = path.steps().iter().rev().fold(inner, |inner, step| match step {
                    Step::Key(key) => json!({ key: inner }),
                    Step::Index(_) | Step::All => json!([inner]),
                });
                let within = self.into.bind(within.to_string());
                any.push(format!("payload @> {within}::jsonb"));
            }
        }
        format!("{} AND ", joined(&any, " OR ", FAILS))
    }

    fn in_range(&mut self, number: &str, range: &Range<f64>) -> String {
        let mut all = Vec::new();
        for (bound, operator) in [(range.gt, ">"), (range.gte, ">="), (range.lt, "<"), (range.lte, "<=")] {
            if let Some(bound) = bound {
                let bound = self.into.bind(bound);
                all.push(format!("{number} {operator} {bound}"));
            }
        }
        joined(&all, " AND ", PASSES)
    }

    /// Whether a value at the path, where a list stands for its items, meets a condition.
    fn any_value(
        &mut self,
        path: &JsonPath,
        subject: Subject<'_>,
        condition: impl FnOnce(&str, &mut Self) -> String,
    ) -> String {
        let Some(path) = self.json_path(path.steps()) else { return FAILS.to_owned() };
        let (place, value) = (self.name(), self.name());
        let condition = condition(&format!("{value}.x"), self);
        // In lax mode `[*]` takes a list apart, once, and leaves everything else as it is.
        format!(
            "EXISTS (SELECT FROM jsonb_path_query({}, {path}, '{{}}', true) AS {place}(x), \
             jsonb_path_query({place}.x, 'lax $[*]') AS {value}(x) WHERE {condition})",
            subject.payload
        )
    }

    /// Whether what is at the path, a list as it is, meets a condition.
    fn any_place(
        &mut self,
        path: &JsonPath,
        subject: Subject<'_>,
        condition: impl FnOnce(&str, &mut Self) -> String,
    ) -> String {
        let Some(path) = self.json_path(path.steps()) else { return FAILS.to_owned() };
        let place = self.name();
        let condition = condition(&format!("{place}.x"), self);
        format!(
            "EXISTS (SELECT FROM jsonb_path_query({}, {path}, '{{}}', true) AS {place}(x) WHERE {condition})",
            subject.payload
        )
    }

    /// A bound JSON path; nothing where no payload in PostgreSQL can have such a place.
    fn json_path(&mut self, steps: &[Step]) -> Option<String> {
        let mut path = "strict $".to_owned();
        for step in steps {
            match step {
                Step::Key(key) if key.contains('\0') => return None,
                Step::Key(key) => {
                    let key = Value::String(key.clone());
                    path.push_str(&format!(" ? (exists(@.{key})).{key}"));
                }
                Step::Index(index) if *index >= INDEX_MAX => return None,
                Step::Index(index) => {
                    path.push_str(&format!(" ? (@.type() == \"array\" && @.size() > {index})[{index}]"));
                }
                Step::All => path.push_str(" ? (@.type() == \"array\")[*]"),
            }
        }
        Some(format!("{}::jsonpath", self.into.bind(path)))
    }

    fn name(&mut self) -> String {
        self.names += 1;
        format!("x{}", self.names)
    }
}

/// What a value is compared with, by kind.
struct Scalars {
    texts: Vec<String>,
    integers: Vec<String>,
    bools: Vec<String>,
    values: Vec<Value>,
}

impl Scalars {
    fn of<'a>(wanted: impl IntoIterator<Item = &'a Scalar>) -> Scalars {
        let mut scalars = Scalars { texts: Vec::new(), integers: Vec::new(), bools: Vec::new(), values: Vec::new() };
        for scalar in wanted {
            match scalar {
                // No text in PostgreSQL has it.
                Scalar::Text(text) if text.contains('\0') => continue,
                Scalar::Text(text) => scalars.texts.push(text.clone()),
                Scalar::Integer(number) => scalars.integers.push(number.to_string()),
                Scalar::Bool(value) => scalars.bools.push(value.to_string()),
            }
            scalars.values.push(match scalar {
                Scalar::Text(text) => json!(text),
                Scalar::Integer(number) => json!(number),
                Scalar::Bool(value) => json!(value),
            });
        }
        scalars
    }
}

fn is(value: &str, kind: &str) -> String {
    format!("jsonb_typeof({value}) = '{kind}'")
}

fn counted(count: &str, range: &Range<u64>) -> String {
    let bounds = [(range.gt, ">"), (range.gte, ">="), (range.lt, "<"), (range.lte, "<=")];
    let all: Vec<String> =
        bounds.into_iter().filter_map(|(bound, operator)| Some(format!("({count}) {operator} {}", bound?))).collect();
    joined(&all, " AND ", PASSES)
}
