//! The part of Jinja that chat templates are written in, with work and memory bounded.
//!
//! What a template does is what Jinja 3.1 does with the settings of Hugging Face's
//! `apply_chat_template`: `trim_blocks`, `lstrip_blocks`, loop controls, values that cannot be
//! changed, no way to files or to the environment. Compared by hand on 71 published templates and 411
//! expressions. What differs, knowingly:
//!
//! - Refused: reading other templates, and loops that call themselves.
//! - `safe` marks nothing: there, a text joined to a safe one is escaped for HTML.
//! - Filters give lists where they give generators there, so `tojson` and `length` work on them.
//! - Integers have 64 bits. `strftime_now` tells UTC.

mod budget;
mod draft;
mod evaluate;
mod expressions;
mod filters;
mod format;
mod functions;
mod lexer;
mod methods;
mod operators;
mod parser;
mod run;
mod sequences;
mod tests;
mod text;
mod tree;
mod value;

use std::collections::HashMap;
use std::rc::Rc;
use std::time::SystemTime;

pub(crate) use budget::Stop;

use budget::Budget;
use run::Run;
use value::Value;

/// The longest text of `raise_exception` that is passed on.
pub(crate) const RAISED_CHARACTERS_MAX: usize = 300;

/// What is wrong with a template's source.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct SyntaxError {
    pub(crate) line: u32,
    pub(crate) what: String,
}

/// A template that was read.
#[derive(Debug)]
pub(crate) struct Template {
    body: tree::Body,
}

/// What one rendering may use.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Limits {
    pub(crate) steps: u64,
    /// Bytes of values alive at once, the prompt included.
    pub(crate) bytes: usize,
    /// Bytes of the prompt.
    pub(crate) output: usize,
}

impl Template {
    pub(crate) fn read(source: &str) -> Result<Template, SyntaxError> {
        Ok(Template { body: parser::parse(source)? })
    }

    /// Renders with `variables`, and takes the steps that took from `limits`.
    pub(crate) fn render<'v>(
        &self,
        variables: impl IntoIterator<Item = (&'v str, &'v serde_json::Value)>,
        limits: &mut Limits,
        now: SystemTime,
    ) -> Result<String, Stop> {
        let budget = Budget::new(limits.steps, limits.bytes);
        let done = self.render_within(&budget, variables, limits.output, now);
        limits.steps = budget.steps_left();
        done
    }

    fn render_within<'v>(
        &self,
        budget: &Rc<Budget>,
        variables: impl IntoIterator<Item = (&'v str, &'v serde_json::Value)>,
        output_max: usize,
        now: SystemTime,
    ) -> Result<String, Stop> {
        let mut globals = HashMap::new();
        for (name, json) in variables {
            globals.insert(name.to_owned(), Value::from_json(budget, json, 0)?);
        }
        Run::new(Rc::clone(budget), globals, output_max, now)?.render(&self.body)
    }
}

/// A text of at most `characters` characters, its end cut where it was longer.
pub(crate) fn shortened(text: &str, characters: usize) -> String {
    match text.char_indices().nth(characters) {
        Some((end, _)) => format!("{}...", &text[..end]),
        None => text.to_owned(),
    }
}
