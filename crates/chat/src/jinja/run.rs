//! Statements: what a template does, one after the other.

use std::collections::HashMap;
use std::rc::Rc;
use std::time::SystemTime;

use super::budget::{Budget, Held, Stop};
use super::draft::Draft;
use super::tree::{Body, Expr, For, Kind, Macro, Statement, Step, Target};
use super::value::{Items, List, Text, Value};

/// How deep calls and expressions may go together. So many fit into 768 KiB of stack in a development
/// build (`tests/bombs.rs`): far from a thread's 2 MiB.
const LEVELS_MAX: u32 = 600;

/// Bytes that a namespace or macro takes in its table, and an attribute in a namespace.
const ENTRY_BYTES: usize = 128;

/// A rendering.
pub(crate) struct Run<'t> {
    pub(super) budget: Rc<Budget>,
    /// What the caller gave by name.
    globals: HashMap<String, Value>,
    frames: Vec<HashMap<&'t str, Value>>,
    pub(super) namespaces: Vec<Namespace>,
    macros: Vec<DefinedMacro<'t>>,
    /// What the table of macros takes: it only grows.
    tables: Held,
    pub(super) loops: Vec<Loop>,
    loops_begun: u64,
    /// The prompt, and what is captured on top of it.
    out: Vec<Draft>,
    output_max: usize,
    levels: u32,
    pub(super) now: SystemTime,
}

pub(crate) struct Namespace {
    pub(crate) attributes: Vec<(Text, Value)>,
    held: Held,
}

#[derive(Clone, Copy)]
struct DefinedMacro<'t> {
    definition: &'t Macro,
    /// Frames that were there when it was defined: what its body sees.
    frames: usize,
}

/// A loop that runs.
pub(crate) struct Loop {
    number: u64,
    pub(crate) items: Rc<List>,
    pub(crate) place: usize,
    /// What `loop.changed` was given last.
    pub(crate) changed: Option<Value>,
}

/// Where a body goes on.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Flow {
    Next,
    Break,
    Continue,
}

/// Arguments of a call, evaluated.
#[derive(Default)]
pub(crate) struct Passed {
    pub(crate) positional: Vec<Value>,
    pub(crate) named: Vec<(Text, Value)>,
}

impl<'t> Run<'t> {
    pub(crate) fn new(
        budget: Rc<Budget>,
        globals: HashMap<String, Value>,
        output_max: usize,
        now: SystemTime,
    ) -> Result<Run<'t>, Stop> {
        let out = vec![Draft::new(&budget)?];
        Ok(Run {
            tables: budget.hold(0)?,
            budget,
            globals,
            frames: vec![HashMap::new()],
            namespaces: Vec::new(),
            macros: Vec::new(),
            loops: Vec::new(),
            loops_begun: 0,
            out,
            output_max,
            levels: 0,
            now,
        })
    }

    /// The prompt.
    pub(crate) fn render(mut self, body: &'t Body) -> Result<String, Stop> {
        self.body(body)?;
        Ok(self.out.pop().map(Draft::into_string).unwrap_or_default())
    }

    /// Does what goes one level deeper.
    pub(super) fn deeper<T>(&mut self, inner: impl FnOnce(&mut Run<'t>) -> Result<T, Stop>) -> Result<T, Stop> {
        if self.levels >= LEVELS_MAX {
            return Err(Stop::Nesting);
        }
        self.levels += 1;
        let found = inner(self);
        self.levels -= 1;
        found
    }

    fn body(&mut self, body: &'t Body) -> Result<Flow, Stop> {
        self.deeper(|run| {
            for statement in body {
                run.budget.spend(1)?;
                let flow = run.statement(statement).map_err(|stop| stop.at(statement.line))?;
                if flow != Flow::Next {
                    return Ok(flow);
                }
            }
            Ok(Flow::Next)
        })
    }

    fn statement(&mut self, statement: &'t Statement) -> Result<Flow, Stop> {
        match &statement.kind {
            Kind::Data(text) => self.write(text)?,
            Kind::Print(expr) => {
                let value = self.value(expr)?;
                self.write_value(&value)?;
            }
            Kind::For(inner) => return self.for_loop(inner),
            Kind::If { branches, otherwise } => {
                for (condition, body) in branches {
                    if self.value(condition)?.is_true() {
                        return self.body(body);
                    }
                }
                return self.body(otherwise);
            }
            Kind::Set { target, value } => {
                let value = self.value(value)?;
                self.assign(target, value)?;
            }
            Kind::Capture { target, filters, body } => {
                let text = self.captured(body)?;
                let value = self.filtered(text, filters)?;
                self.assign(target, value)?;
            }
            Kind::With { assignments, body } => return self.with(assignments, body),
            Kind::Filter { filters, body } => {
                let text = self.captured(body)?;
                let value = self.filtered(text, filters)?;
                self.write_value(&value)?;
            }
            Kind::Macro(definition) => {
                let value = self.define(definition)?;
                self.set(&definition.name, value)?;
            }
            Kind::Call { caller, call } => {
                let caller = self.define(caller)?;
                let value = self.call_with(call, caller)?;
                self.write_value(&value)?;
            }
            Kind::Generation(body) => {
                let text = self.captured(body)?;
                self.write_value(&text)?;
            }
            Kind::Break => return Ok(Flow::Break),
            Kind::Continue => return Ok(Flow::Continue),
        }
        Ok(Flow::Next)
    }

    fn write(&mut self, text: &str) -> Result<(), Stop> {
        if let Some(out) = self.out.last_mut() {
            out.push(text)?;
        }
        self.check_output()
    }

    fn write_value(&mut self, value: &Value) -> Result<(), Stop> {
        if let Some(out) = self.out.last_mut() {
            out.write(value)?;
        }
        self.check_output()
    }

    fn check_output(&self) -> Result<(), Stop> {
        let long = self.out.last().is_some_and(|out| out.as_str().len() > self.output_max);
        if long { Err(Stop::Output) } else { Ok(()) }
    }

    /// Does what sees and sets variables of its own.
    fn framed<T>(&mut self, inner: impl FnOnce(&mut Run<'t>) -> Result<T, Stop>) -> Result<T, Stop> {
        self.frames.push(HashMap::new());
        let found = inner(self);
        self.frames.pop();
        found
    }

    /// What a body writes, as a value.
    fn captured(&mut self, body: &'t Body) -> Result<Value, Stop> {
        let draft = Draft::new(&self.budget)?;
        self.out.push(draft);
        let done = self.framed(|run| run.body(body));
        let draft = self.out.pop();
        done?;
        Ok(draft.map_or(Value::Undefined, Draft::value))
    }

    fn filtered(&mut self, text: Value, filters: &'t [Step]) -> Result<Value, Stop> {
        filters.iter().try_fold(text, |value, filter| self.step(value, filter))
    }

    fn with(&mut self, assignments: &'t [(Target, Expr)], body: &'t Body) -> Result<Flow, Stop> {
        // The values see what is outside, as in Jinja since 2.9.
        let mut values = Vec::with_capacity(assignments.len());
        for (_, value) in assignments {
            values.push(self.value(value)?);
        }
        self.framed(|run| {
            for ((target, _), value) in assignments.iter().zip(values) {
                run.assign(target, value)?;
            }
            run.body(body)
        })
    }

    fn for_loop(&mut self, inner: &'t For) -> Result<Flow, Stop> {
        let items = self.value(&inner.items)?;
        let mut items = self.items_of(&items)?;
        if let Some(condition) = &inner.condition {
            let mut kept = Items::new(&self.budget)?;
            for item in &items.items {
                let keeps = self.framed(|run| {
                    run.assign(&inner.target, item.clone())?;
                    run.value(condition)
                })?;
                if keeps.is_true() {
                    kept.push(item.clone())?;
                }
            }
            items = kept.finish(false)?;
        }
        if items.items.is_empty() {
            return self.framed(|run| run.body(&inner.otherwise));
        }
        self.loops_begun += 1;
        let depth = self.loops.len();
        let number = self.loops_begun;
        self.loops.push(Loop { number, items: Rc::clone(&items), place: 0, changed: None });
        let done = self.each(inner, &items, number);
        self.loops.truncate(depth);
        done
    }

    fn each(&mut self, inner: &'t For, items: &Rc<List>, number: u64) -> Result<Flow, Stop> {
        for (place, item) in items.items.iter().enumerate() {
            self.budget.spend(1)?;
            if let Some(here) = self.loops.last_mut() {
                here.place = place;
            }
            let flow = self.framed(|run| {
                run.set("loop", Value::Loop(number))?;
                run.assign(&inner.target, item.clone())?;
                run.body(&inner.body)
            })?;
            if flow == Flow::Break {
                break;
            }
        }
        Ok(Flow::Next)
    }

    /// A loop by its number, while it runs.
    pub(super) fn loop_of(&mut self, number: u64) -> Option<&mut Loop> {
        self.loops.iter_mut().rev().find(|one| one.number == number)
    }

    fn define(&mut self, definition: &'t Macro) -> Result<Value, Stop> {
        self.tables.grow(ENTRY_BYTES)?;
        self.macros.push(DefinedMacro { definition, frames: self.frames.len() });
        Ok(Value::Macro(self.macros.len() - 1))
    }

    /// What a macro writes.
    pub(super) fn call_macro(&mut self, number: usize, passed: Passed, caller: Option<Value>) -> Result<Value, Stop> {
        let Some(DefinedMacro { definition, frames }) = self.macros.get(number).copied() else {
            return Err(Stop::wrong("a macro is called that is gone"));
        };
        let hidden = self.frames.split_off(frames.min(self.frames.len()));
        let draft = Draft::new(&self.budget)?;
        self.out.push(draft);
        let done = self.framed(|run| {
            if let Some(caller) = caller {
                run.set("caller", caller)?;
            }
            run.set_parameters(definition, passed)?;
            run.body(&definition.body)
        });
        let draft = self.out.pop();
        self.frames.extend(hidden);
        done?;
        Ok(draft.map_or(Value::Undefined, Draft::value))
    }

    fn set_parameters(&mut self, definition: &'t Macro, passed: Passed) -> Result<(), Stop> {
        let name = &definition.name;
        if passed.positional.len() > definition.parameters.len() {
            return Err(Stop::wrong(format!("macro `{name}` takes {} arguments", definition.parameters.len())));
        }
        let known = |given: &Text| definition.parameters.iter().any(|(parameter, _)| parameter == given.as_str());
        if let Some((unknown, _)) = passed.named.iter().find(|(given, _)| !known(given)) {
            return Err(Stop::wrong(format!(
                "macro `{name}` has no parameter `{}`",
                super::shortened(unknown.as_str(), 40)
            )));
        }
        let mut positional = passed.positional.into_iter();
        for (parameter, default) in &definition.parameters {
            let named = passed.named.iter().find(|(given, _)| given.as_str() == parameter);
            let value = match (positional.next(), named, default) {
                (Some(value), ..) => value,
                (None, Some((_, value)), _) => value.clone(),
                (None, None, Some(default)) => self.value(default)?,
                (None, None, None) => Value::Undefined,
            };
            self.set(parameter, value)?;
        }
        Ok(())
    }

    fn set(&mut self, name: &'t str, value: Value) -> Result<(), Stop> {
        if let Some(frame) = self.frames.last_mut() {
            frame.insert(name, value);
        }
        Ok(())
    }

    fn assign(&mut self, target: &'t Target, value: Value) -> Result<(), Stop> {
        match target {
            Target::Name(name) => self.set(name, value),
            Target::Attribute(name, attribute) => {
                let Value::Namespace(number) = self.lookup(name) else {
                    return Err(Stop::wrong(format!("`{name}` is no namespace: its attributes cannot be set")));
                };
                let attribute = Text::made(&self.budget, attribute.as_str())?;
                self.set_attribute(number, attribute, value)
            }
            Target::Several(targets) => {
                let items = self.items_of(&value)?;
                if items.items.len() != targets.len() {
                    let (wanted, found) = (targets.len(), items.items.len());
                    return Err(Stop::wrong(format!("{wanted} values are needed to assign, {found} are there")));
                }
                for (target, item) in targets.iter().zip(&items.items) {
                    self.assign(target, item.clone())?;
                }
                Ok(())
            }
        }
    }

    pub(super) fn new_namespace(&mut self) -> Result<usize, Stop> {
        let held = self.budget.hold(ENTRY_BYTES)?;
        self.namespaces.push(Namespace { attributes: Vec::new(), held });
        Ok(self.namespaces.len() - 1)
    }

    pub(super) fn set_attribute(&mut self, number: usize, attribute: Text, value: Value) -> Result<(), Stop> {
        let Some(namespace) = self.namespaces.get_mut(number) else { return Ok(()) };
        self.budget.spend(namespace.attributes.len() as u64 / 8)?;
        match namespace.attributes.iter_mut().find(|(name, _)| name.as_str() == attribute.as_str()) {
            Some(entry) => entry.1 = value,
            None => {
                namespace.held.grow(ENTRY_BYTES)?;
                namespace.attributes.push((attribute, value));
            }
        }
        Ok(())
    }

    /// What a name means here.
    pub(super) fn lookup(&self, name: &str) -> Value {
        let local = self.frames.iter().rev().find_map(|frame| frame.get(name));
        match local.or_else(|| self.globals.get(name)) {
            Some(value) => value.clone(),
            None => super::functions::NAMES
                .into_iter()
                .find(|function| *function == name)
                .map_or(Value::Undefined, Value::Function),
        }
    }

    /// What a loop over a value visits.
    pub(super) fn items_of(&self, value: &Value) -> Result<Rc<List>, Stop> {
        let mut items = Items::new(&self.budget)?;
        match value {
            Value::List(list) => return Ok(Rc::clone(list)),
            Value::Map(map) => {
                items.reserve(map.entries.len())?;
                items.extend(map.entries.iter().map(|(key, _)| key.clone()))?;
            }
            Value::Text(text) => {
                for c in text.as_str().chars() {
                    items.push(Value::text(&self.budget, c)?)?;
                }
            }
            Value::Undefined => {}
            other => return Err(Stop::wrong(format!("{} has no items to go through", other.kind()))),
        }
        items.finish(false)
    }
}
