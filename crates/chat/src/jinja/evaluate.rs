//! Expressions: what a template computes.

use super::budget::Stop;
use super::draft::Draft;
use super::run::{Passed, Run};
use super::tree::{Arguments, Choice, Comparison, Expr, Step};
use super::value::{Items, Map, Text, Value};
use super::{filters, functions, methods, operators, tests};

impl<'t> Run<'t> {
    /// The value of an expression.
    pub(super) fn value(&mut self, expr: &'t Expr) -> Result<Value, Stop> {
        self.budget.spend(1)?;
        match expr {
            Expr::None => Ok(Value::None),
            Expr::Bool(truth) => Ok(Value::Bool(*truth)),
            Expr::Int(number) => Ok(Value::Int(*number)),
            Expr::Float(number) => Ok(Value::Float(*number)),
            Expr::Text(text) => Ok(Value::Text(Text::Fixed(text.clone()))),
            Expr::Name(name) => Ok(self.lookup(name)),
            other => self.deeper(|run| run.composed(other)),
        }
    }

    fn composed(&mut self, expr: &'t Expr) -> Result<Value, Stop> {
        match expr {
            Expr::List(items) => self.several(items)?.list(),
            Expr::Tuple(items) => self.several(items)?.tuple(),
            Expr::Map(entries) => self.map(entries),
            Expr::Not(inner) => Ok(Value::Bool(!self.value(inner)?.is_true())),
            Expr::Negative(inner) => operators::negative(&self.value(inner)?),
            Expr::Positive(inner) => match self.value(inner)? {
                number if number.number().is_some() => Ok(number),
                other => Err(Stop::wrong(format!("{} has no sign", other.kind()))),
            },
            Expr::All(parts) => self.first_that_decides(parts, false),
            Expr::Any(parts) => self.first_that_decides(parts, true),
            Expr::Compare(first, rest) => self.compare(first, rest),
            Expr::Arithmetic(first, rest) => {
                let mut left = self.value(first)?;
                for (operator, right) in rest {
                    let right = self.value(right)?;
                    left = operators::apply(&self.budget, *operator, &left, &right)?;
                }
                Ok(left)
            }
            Expr::Concat(parts) => {
                let mut draft = Draft::new(&self.budget)?;
                for part in parts {
                    let value = self.value(part)?;
                    draft.write(&value)?;
                }
                Ok(draft.value())
            }
            Expr::If(choice) => self.choose(choice),
            Expr::Steps(base, steps) => self.steps(base, steps, None),
            simple => self.value(simple),
        }
    }

    fn several(&mut self, exprs: &'t [Expr]) -> Result<Items, Stop> {
        let mut items = Items::new(&self.budget)?;
        items.reserve(exprs.len())?;
        for expr in exprs {
            let value = self.value(expr)?;
            items.push(value)?;
        }
        Ok(items)
    }

    fn map(&mut self, entries: &'t [(Expr, Expr)]) -> Result<Value, Stop> {
        let mut values = Vec::with_capacity(entries.len());
        for (key, value) in entries {
            values.push((self.value(key)?, self.value(value)?));
        }
        Map::make(&self.budget, values)
    }

    /// `and` and `or`: the first value whose truth decides, or the last.
    fn first_that_decides(&mut self, parts: &'t [Expr], decides: bool) -> Result<Value, Stop> {
        let mut value = Value::None;
        for part in parts {
            value = self.value(part)?;
            if value.is_true() == decides {
                break;
            }
        }
        Ok(value)
    }

    fn compare(&mut self, first: &'t Expr, rest: &'t [(Comparison, Expr)]) -> Result<Value, Stop> {
        let mut left = self.value(first)?;
        for (comparison, right) in rest {
            let right = self.value(right)?;
            if !operators::compare(&self.budget, *comparison, &left, &right)? {
                return Ok(Value::Bool(false));
            }
            left = right;
        }
        Ok(Value::Bool(true))
    }

    fn choose(&mut self, choice: &'t Choice) -> Result<Value, Stop> {
        if self.value(&choice.condition)?.is_true() {
            return self.value(&choice.then);
        }
        choice.otherwise.as_ref().map_or(Ok(Value::Undefined), |otherwise| self.value(otherwise))
    }

    /// The call of a `{% call %}` block, with what it passes as `caller`.
    pub(super) fn call_with(&mut self, call: &'t Expr, caller: Value) -> Result<Value, Stop> {
        match call {
            Expr::Steps(base, steps) => self.steps(base, steps, Some(caller)),
            other => self.value(other),
        }
    }

    fn steps(&mut self, base: &'t Expr, steps: &'t [Step], mut caller: Option<Value>) -> Result<Value, Stop> {
        let mut value = self.value(base)?;
        let mut at = 0;
        while let Some(step) = steps.get(at) {
            self.budget.spend(1)?;
            if matches!(value, Value::Undefined) && !matches!(step, Step::Filter(..) | Step::Test { .. }) {
                return Err(Stop::wrong(format!("`{}` is undefined", named(base, &steps[..at]))));
            }
            value = match (step, steps.get(at + 1)) {
                (Step::Attribute(name), Some(Step::Call(arguments))) => {
                    at += 1;
                    let passed = self.passed(arguments)?;
                    methods::call(self, &value, name, passed)?
                }
                (Step::Call(arguments), _) => {
                    let passed = self.passed(arguments)?;
                    let last = at + 1 == steps.len();
                    let with = if last { caller.take() } else { None };
                    self.call(&value, passed, with, base)?
                }
                _ => self.step(value, step)?,
            };
            at += 1;
        }
        Ok(value)
    }

    fn call(&mut self, value: &Value, passed: Passed, caller: Option<Value>, base: &'t Expr) -> Result<Value, Stop> {
        match value {
            Value::Macro(number) => self.call_macro(*number, passed, caller),
            Value::Function(name) => functions::call(self, name, passed),
            Value::Loop(_) => Err(Stop::wrong("loops that call themselves are not supported")),
            other => Err(Stop::wrong(format!("`{}` is {}, not a function", named(base, &[]), other.kind()))),
        }
    }

    /// One step that is no call.
    pub(super) fn step(&mut self, value: Value, step: &'t Step) -> Result<Value, Stop> {
        match step {
            Step::Attribute(name) => self.attribute(&value, name),
            Step::Item(item) => {
                let item = self.value(item)?;
                self.item(&value, &item)
            }
            Step::Slice(parts) => {
                let mut bounds = [None; 3];
                for (bound, part) in bounds.iter_mut().zip(parts.iter()) {
                    *bound = match part.as_ref().map(|part| self.value(part)).transpose()? {
                        None | Some(Value::None) => None,
                        Some(value) => {
                            let bad = || Stop::wrong("the bounds of a slice are integers");
                            Some(value.integer().ok_or_else(bad)?)
                        }
                    };
                }
                operators::slice(&self.budget, &value, bounds)
            }
            Step::Filter(name, arguments) => {
                let passed = self.passed(arguments)?;
                filters::apply(self, name, value, passed)
            }
            Step::Test { name, negated, arguments } => {
                let passed = self.passed(arguments)?;
                Ok(Value::Bool(tests::holds(self, name, &value, passed)? != *negated))
            }
            Step::Call(_) => Err(Stop::wrong("a call stands where none can be made")),
        }
    }

    fn passed(&mut self, arguments: &'t Arguments) -> Result<Passed, Stop> {
        let mut passed = Passed::default();
        for argument in &arguments.positional {
            passed.positional.push(self.value(argument)?);
        }
        for (name, argument) in &arguments.named {
            passed.named.push((Text::Fixed(name.clone()), self.value(argument)?));
        }
        if let Some(spread) = &arguments.spread {
            let values = self.value(spread)?;
            let items = self.items_of(&values)?;
            self.budget.spend(items.items.len() as u64)?;
            let _room = self.budget.hold(items.items.len() * size_of::<Value>())?;
            passed.positional.extend(items.items.iter().cloned());
        }
        if let Some(spread) = &arguments.spread_named {
            let Value::Map(map) = self.value(spread)? else { return Err(Stop::wrong("`**` needs a map")) };
            self.budget.spend(map.entries.len() as u64)?;
            let _room = self.budget.hold(map.entries.len() * size_of::<(Text, Value)>())?;
            for (key, value) in &map.entries {
                let Value::Text(key) = key else { return Err(Stop::wrong("`**` needs a map with names as keys")) };
                passed.named.push((key.clone(), value.clone()));
            }
        }
        Ok(passed)
    }

    /// `value.name`, for a value that is defined.
    pub(super) fn attribute(&mut self, value: &Value, name: &str) -> Result<Value, Stop> {
        Ok(match value {
            // Python finds a method before a key: `schema.items` is a method, `schema['items']` a key.
            Value::Map(map) => match methods::name_of(value, name) {
                Some(method) => Value::Method(method),
                None => map.get_text(name).cloned().unwrap_or(Value::Undefined),
            },
            Value::Namespace(number) => self.namespaces.get(*number).map_or(Value::Undefined, |namespace| {
                let found = namespace.attributes.iter().find(|(attribute, _)| attribute.as_str() == name);
                found.map_or(Value::Undefined, |(_, value)| value.clone())
            }),
            Value::Loop(number) => self.loop_attribute(*number, name)?,
            Value::Undefined => return Err(Stop::wrong(format!("`{name}` is asked of an undefined value"))),
            other => methods::name_of(other, name).map_or(Value::Undefined, Value::Method),
        })
    }

    fn loop_attribute(&mut self, number: u64, name: &str) -> Result<Value, Stop> {
        let Some(one) = self.loop_of(number) else { return Ok(Value::Undefined) };
        let (place, length) = (one.place, one.items.items.len());
        let item = |place: Option<usize>| {
            place.and_then(|place| one.items.items.get(place)).cloned().unwrap_or(Value::Undefined)
        };
        let count = |number: usize| Value::Int(number as i64);
        Ok(match name {
            "index" => count(place + 1),
            "index0" => count(place),
            "revindex" => count(length - place),
            "revindex0" => count(length - place - 1),
            "first" => Value::Bool(place == 0),
            "last" => Value::Bool(place + 1 == length),
            "length" => count(length),
            // How deep a loop called itself, which none can here.
            "depth" => count(1),
            "depth0" => count(0),
            "previtem" => item(place.checked_sub(1)),
            "nextitem" => item(Some(place + 1)),
            _ => Value::Undefined,
        })
    }

    /// `value[item]`, for a value that is defined.
    pub(super) fn item(&mut self, value: &Value, item: &Value) -> Result<Value, Stop> {
        let place = |length: usize| {
            let place = item.integer()?;
            usize::try_from(if place < 0 { place.checked_add_unsigned(length as u64)? } else { place }).ok()
        };
        Ok(match (value, item) {
            (Value::Map(map), key) => match (map.get(key), key.as_str()) {
                (Some(found), _) => found.clone(),
                (None, Some(name)) => methods::name_of(value, name).map_or(Value::Undefined, Value::Method),
                (None, None) => Value::Undefined,
            },
            (Value::List(list), _) if item.integer().is_some() => {
                place(list.items.len()).and_then(|place| list.items.get(place)).cloned().unwrap_or(Value::Undefined)
            }
            (Value::Text(text), _) if item.integer().is_some() => {
                let text = text.as_str();
                self.budget.read(text.len().saturating_mul(4))?;
                let length = if text.is_ascii() { text.len() } else { text.chars().count() };
                match place(length).and_then(|place| text.chars().nth(place)) {
                    Some(c) => Value::text(&self.budget, c)?,
                    None => Value::Undefined,
                }
            }
            (_, Value::Text(name)) => {
                let name = name.clone();
                self.attribute(value, name.as_str())?
            }
            _ => Value::Undefined,
        })
    }
}

/// How an error names a value: `message.tool_calls`.
fn named(base: &Expr, steps: &[Step]) -> String {
    let mut name = match base {
        Expr::Name(name) => name.clone(),
        _ => "(...)".to_owned(),
    };
    for step in steps {
        match step {
            Step::Attribute(attribute) => name = format!("{name}.{attribute}"),
            Step::Item(Expr::Text(key)) => name = format!("{name}.{key}"),
            Step::Item(_) | Step::Slice(_) => name.push_str("[...]"),
            Step::Call(_) => name.push_str("(...)"),
            Step::Filter(filter, _) => name = format!("{name} | {filter}"),
            Step::Test { .. } => {}
        }
    }
    super::shortened(&name, 80)
}
