//! How large a format may be.

use std::collections::HashMap;
use std::io::{self, Write};

use llguidance::api::ParserLimits;
use serde_json::Value;

use super::{Format, GrammarError};

/// What a format may hold. The defaults allow what OpenAI's structured outputs allow (5 levels and 100
/// properties, later 10 and 5,000) several times over in depth, and keep compiling within a second.
#[derive(Clone, Debug)]
pub struct Limits {
    /// Bytes of a schema, written without white space.
    pub schema_bytes: usize,
    /// How deep objects and arrays lie in each other in a schema's own text; a property of an object
    /// takes two levels.
    pub depth: usize,
    /// Objects and arrays in a schema.
    pub nodes: usize,
    /// Properties, of all objects together.
    pub properties: usize,
    /// Values in `enum`s, all together.
    pub enum_values: usize,
    /// Options in `anyOf`, `oneOf`, `allOf` and `prefixItems`, all together.
    pub options: usize,
    /// `$ref`s.
    pub references: usize,
    /// Bytes of a regular expression.
    pub pattern_bytes: usize,
    /// Bytes of all regular expressions of a schema.
    pub patterns_bytes: usize,
    /// Regular expressions (`pattern` and `format`) that one text may have to match at once, through
    /// `allOf`, `$ref` with siblings and the like. llguidance multiplies out the alternatives of all of
    /// them in one go, whatever its own limits say: 100 took more than 12 GB and did not end.
    pub intersections: usize,
    /// Texts of a choice.
    pub choices: usize,
    /// Bytes of all texts of a choice.
    pub choice_bytes: usize,
    /// Work and memory of compiling and of each token.
    pub work: ParserLimits,
}

impl Default for Limits {
    fn default() -> Limits {
        Limits {
            schema_bytes: 64 << 10,
            depth: 32,
            nodes: 4_096,
            properties: 1_000,
            enum_values: 1_000,
            options: 256,
            references: 256,
            pattern_bytes: 4 << 10,
            patterns_bytes: 16 << 10,
            intersections: 2,
            choices: 1_000,
            choice_bytes: 64 << 10,
            work: ParserLimits {
                // 50,000 a millisecond.
                initial_lexer_fuel: 1_000_000,
                // 14,000 a millisecond: one format must not hold up everyone's next token.
                step_lexer_fuel: 200_000,
                // 1 to 2 kB each.
                max_lexer_states: 50_000,
                max_grammar_size: 200_000,
                // An object of 1,000 optional properties has 4,007.
                max_items_in_row: 10_000,
                ..ParserLimits::default()
            },
        }
    }
}

impl Limits {
    /// Measures a format.
    ///
    /// # Errors
    /// [`GrammarError::Limit`] for what is exceeded first; [`GrammarError::Refused`] for what is not
    /// even the beginning of a format.
    pub fn check(&self, format: &Format) -> Result<(), GrammarError> {
        match format {
            Format::JsonObject => Ok(()),
            Format::JsonSchema(schema) => self.check_schema(schema),
            Format::Regex(pattern) => self.check_pattern("regex", pattern),
            Format::Choice(texts) => self.check_choice(texts),
        }
    }

    fn check_choice(&self, texts: &[String]) -> Result<(), GrammarError> {
        at_most("texts to choose from", texts.len(), self.choices)?;
        at_most("bytes in texts to choose from", texts.iter().map(String::len).sum(), self.choice_bytes)?;
        if texts.is_empty() || texts.iter().any(String::is_empty) {
            return Err(refused("choice", "there must be a text, and none may be empty"));
        }
        Ok(())
    }

    fn check_pattern(&self, format: &'static str, pattern: &str) -> Result<(), GrammarError> {
        at_most("bytes in a regular expression", pattern.len(), self.pattern_bytes)?;
        if pattern.is_empty() {
            return Err(refused(format, "a regular expression is empty"));
        }
        if pattern.bytes().rev().take_while(|byte| *byte == b'\\').count() % 2 == 1 {
            return Err(refused(format, "a regular expression ends in a backslash"));
        }
        // llguidance gives a group of this name a meaning of its own.
        if pattern.contains("<stop>") {
            return Err(refused(format, "a group in a regular expression is named stop"));
        }
        Ok(())
    }

    fn check_schema(&self, schema: &Value) -> Result<(), GrammarError> {
        if !schema.is_object() {
            return Err(refused("json_schema", "a schema is an object"));
        }
        let mut count = Count::default();
        self.walk(schema, 1, &mut count)?;
        // After the depth is known to be small: writing is recursive.
        let mut bytes = Bytes { written: 0, limit: self.schema_bytes };
        let _ = serde_json::to_writer(&mut bytes, schema);
        at_most("bytes in its schema", bytes.written, self.schema_bytes)
    }

    /// Counts keywords wherever they stand: a property that is called `enum` counts as one, which only
    /// makes the limits a little stricter.
    fn walk(&self, value: &Value, depth: usize, count: &mut Count) -> Result<(), GrammarError> {
        let (members, items): (_, &[Value]) = match value {
            Value::Object(members) => (Some(members), &[]),
            Value::Array(items) => (None, items),
            _ => return Ok(()),
        };
        at_most("levels in its schema", depth, self.depth)?;
        count.nodes += 1;
        at_most("objects and arrays in its schema", count.nodes, self.nodes)?;
        for (name, member) in members.into_iter().flatten() {
            self.count(name, member, count)?;
            self.walk(member, depth + 1, count)?;
        }
        items.iter().try_for_each(|item| self.walk(item, depth + 1, count))
    }

    fn count(&self, name: &str, member: &Value, count: &mut Count) -> Result<(), GrammarError> {
        let size = match member {
            Value::Object(members) => members.len(),
            Value::Array(items) => items.len(),
            _ => 1,
        };
        match name {
            "properties" | "patternProperties" | "required" => {
                // What is required is a property again, though not one more.
                count.properties += if name == "required" { 0 } else { size };
                at_most("properties in its schema", count.properties.max(size), self.properties)?;
                let patterns = member.as_object().filter(|_| name == "patternProperties");
                for pattern in patterns.into_iter().flat_map(|members| members.keys()) {
                    self.count_pattern(pattern, count)?;
                }
            }
            "pattern" => {
                if let Some(pattern) = member.as_str() {
                    self.count_pattern(pattern, count)?;
                }
            }
            "enum" => {
                count.enum_values += size;
                at_most("enum values in its schema", count.enum_values, self.enum_values)?;
            }
            "anyOf" | "oneOf" | "allOf" | "prefixItems" => {
                count.options += size;
                at_most("options of anyOf, oneOf, allOf and prefixItems in its schema", count.options, self.options)?;
            }
            "$ref" => {
                count.references += 1;
                at_most("$refs in its schema", count.references, self.references)?;
            }
            _ => {}
        }
        Ok(())
    }

    /// Checks how many regular expressions meet. Follows `$ref`s, so that it needs as much stack as
    /// compiling does. The schema has been checked otherwise.
    pub(super) fn check_intersections(&self, schema: &Value) -> Result<(), GrammarError> {
        let count = Intersections { root: schema, references: HashMap::new() }.of(schema);
        at_most("regular expressions for one text in its schema", count, self.intersections)
    }

    fn count_pattern(&self, pattern: &str, count: &mut Count) -> Result<(), GrammarError> {
        self.check_pattern("json_schema", pattern)?;
        count.patterns_bytes += pattern.len();
        at_most("bytes in the regular expressions of its schema", count.patterns_bytes, self.patterns_bytes)
    }
}

#[derive(Default)]
struct Count {
    nodes: usize,
    properties: usize,
    enum_values: usize,
    options: usize,
    references: usize,
    patterns_bytes: usize,
}

/// Counts the regular expressions that may meet in one text of a schema: at most so many, often fewer.
struct Intersections<'a> {
    root: &'a Value,
    /// What was found behind each `$ref`; 0 while it is looked for, since a reference to oneself adds
    /// nothing that llguidance would not refuse.
    references: HashMap<&'a str, usize>,
}

impl<'a> Intersections<'a> {
    /// The most for any text in this schema, at any depth: which of its texts meet which is not asked.
    fn of(&mut self, schema: &'a Value) -> usize {
        let Some(members) = schema.as_object() else { return 0 };
        let own = usize::from(members.contains_key("pattern")) + usize::from(members.contains_key("format"));
        let mut items = 0;
        for name in ["items", "additionalItems", "additionalProperties"] {
            items = items.max(members.get(name).map_or(0, |member| self.of(member)));
        }
        for name in ["items", "prefixItems"] {
            items = items.max(self.largest(members.get(name)));
        }
        // A property may also be one of `patternProperties`.
        let properties = self.largest(members.get("properties")) + self.largest(members.get("patternProperties"));
        let all: usize =
            members.get("allOf").and_then(Value::as_array).into_iter().flatten().map(|option| self.of(option)).sum();
        let some = self.largest(members.get("anyOf")) + self.largest(members.get("oneOf"));
        let reference = members.get("$ref").and_then(Value::as_str).map_or(0, |reference| self.behind(reference));
        own.max(items).max(properties) + all + some + reference
    }

    fn largest(&mut self, schemas: Option<&'a Value>) -> usize {
        match schemas {
            Some(Value::Object(schemas)) => schemas.values().map(|schema| self.of(schema)).max().unwrap_or(0),
            Some(Value::Array(schemas)) => schemas.iter().map(|schema| self.of(schema)).max().unwrap_or(0),
            _ => 0,
        }
    }

    fn behind(&mut self, reference: &'a str) -> usize {
        if let Some(count) = self.references.get(reference) {
            return *count;
        }
        self.references.insert(reference, 0);
        // As llguidance reads it: names stand as they are, without escapes.
        let mut place = Some(self.root);
        for name in reference.strip_prefix("#/").unwrap_or_default().split('/').filter(|name| !name.is_empty()) {
            place = place.and_then(|place| match place {
                Value::Array(items) => name.parse::<usize>().ok().and_then(|item| items.get(item)),
                other => other.get(name),
            });
        }
        let count = place.map_or(0, |schema| self.of(schema));
        self.references.insert(reference, count);
        count
    }
}

fn at_most(what: &'static str, count: usize, limit: usize) -> Result<(), GrammarError> {
    if count > limit { Err(GrammarError::Limit { what, count, limit }) } else { Ok(()) }
}

fn refused(format: &'static str, reason: &str) -> GrammarError {
    GrammarError::Refused { format, reason: reason.to_owned() }
}

/// Counts bytes, a little beyond the limit.
struct Bytes {
    written: usize,
    limit: usize,
}

impl Write for Bytes {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.written += bytes.len();
        if self.written > self.limit { Err(io::ErrorKind::WriteZero.into()) } else { Ok(bytes.len()) }
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}
