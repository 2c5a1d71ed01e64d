//! What a template computes with.
//!
//! Values cannot be changed once made, as in the sandbox that Hugging Face renders in, and cannot
//! hold what would lead back to themselves: namespaces, macros and loops are numbers into tables of
//! the rendering. So every value is a finite tree, whose size and depth are known when it is made.
//! A tree may share branches (`[x, x]`): its size counts them each time, as whatever walks it does.

use std::cmp::Ordering;
use std::rc::Rc;
use std::sync::Arc;

use super::budget::{Budget, Held, Stop};
use super::draft::Draft;

/// How deep lists and maps may be nested. A tool's schema may have 32 levels, JSON 128.
pub(crate) const NESTING_MAX: u16 = 160;

/// Bytes that a text takes beside its own, and a list or map beside its items.
const OVERHEAD: usize = 96;

#[derive(Clone)]
pub(crate) enum Value {
    Undefined,
    None,
    Bool(bool),
    Int(i64),
    Float(f64),
    Text(Text),
    List(Rc<List>),
    Map(Rc<Map>),
    /// A number into the rendering's namespaces.
    Namespace(usize),
    /// A number into the rendering's macros.
    Macro(usize),
    /// A loop that runs or ran, by its number.
    Loop(u64),
    /// A function of the environment.
    Function(&'static str),
    /// A method that was named and not called.
    Method(&'static str),
}

/// A text that the template has in its source, or that was made.
#[derive(Clone)]
pub(crate) enum Text {
    Fixed(Arc<str>),
    Made(Rc<Made>),
}

/// A text that was made, and the bytes it holds.
pub(crate) struct Made {
    text: String,
    _held: Held,
}

/// Values in order: a list, or a tuple.
pub(crate) struct List {
    pub(crate) items: Vec<Value>,
    pub(crate) tuple: bool,
    size: u64,
    depth: u16,
    _held: Held,
}

/// Values by their keys, in the order they were put in.
pub(crate) struct Map {
    pub(crate) entries: Vec<(Value, Value)>,
    /// Places of `entries` in the order of keys.
    order: Vec<u32>,
    size: u64,
    depth: u16,
    _held: Held,
}

impl Text {
    /// A text whose bytes are not yet held.
    pub(crate) fn made(budget: &Rc<Budget>, text: impl Into<String>) -> Result<Text, Stop> {
        let text = text.into();
        budget.read(text.len())?;
        let held = budget.hold(text.capacity() + OVERHEAD)?;
        Ok(Text::holding(text, held))
    }

    /// A text whose bytes are held already.
    pub(crate) fn holding(text: String, held: Held) -> Text {
        Text::Made(Rc::new(Made { text, _held: held }))
    }

    pub(crate) fn as_str(&self) -> &str {
        match self {
            Text::Fixed(text) => text,
            Text::Made(made) => &made.text,
        }
    }
}

impl From<&'static str> for Text {
    fn from(text: &'static str) -> Text {
        Text::Fixed(Arc::from(text))
    }
}

/// Items of a list that is being made.
pub(crate) struct Items {
    items: Vec<Value>,
    held: Held,
}

impl Items {
    pub(crate) fn new(budget: &Rc<Budget>) -> Result<Items, Stop> {
        Ok(Items { items: Vec::new(), held: budget.hold(OVERHEAD)? })
    }

    /// Makes room for `more` items, or refuses.
    pub(crate) fn reserve(&mut self, more: usize) -> Result<(), Stop> {
        let wanted = self.items.len().saturating_add(more);
        if wanted > self.items.capacity() {
            let capacity = wanted.max(self.items.capacity().saturating_mul(2)).max(4);
            self.held.grow((capacity - self.items.capacity()).saturating_mul(size_of::<Value>()))?;
            self.items.reserve_exact(capacity - self.items.len());
        }
        Ok(())
    }

    pub(crate) fn push(&mut self, value: Value) -> Result<(), Stop> {
        self.held.budget().spend(1)?;
        self.reserve(1)?;
        self.items.push(value);
        Ok(())
    }

    pub(crate) fn extend(&mut self, values: impl IntoIterator<Item = Value>) -> Result<(), Stop> {
        values.into_iter().try_for_each(|value| self.push(value))
    }

    pub(crate) fn len(&self) -> usize {
        self.items.len()
    }

    pub(crate) fn items(&mut self) -> &mut Vec<Value> {
        &mut self.items
    }

    pub(crate) fn list(self) -> Result<Value, Stop> {
        self.finish(false).map(Value::List)
    }

    pub(crate) fn tuple(self) -> Result<Value, Stop> {
        self.finish(true).map(Value::List)
    }

    pub(crate) fn finish(self, tuple: bool) -> Result<Rc<List>, Stop> {
        let size = self.items.iter().fold(1, |sum: u64, item| sum.saturating_add(item.size()));
        let depth = deeper(self.items.iter())?;
        Ok(Rc::new(List { items: self.items, tuple, size, depth, _held: self.held }))
    }
}

impl Map {
    /// A map of `entries`; of two with the same key the first gives the place, the second the value.
    pub(crate) fn make(budget: &Rc<Budget>, entries: Vec<(Value, Value)>) -> Result<Value, Stop> {
        let length = entries.len();
        let bytes = length.saturating_mul(size_of::<(Value, Value)>() + size_of::<u32>()).saturating_add(OVERHEAD);
        let held = budget.hold(bytes)?;
        budget.spend(length as u64 * u64::from(usize::BITS - length.leading_zeros()))?;
        if let Some((key, _)) = entries.iter().find(|(key, _)| key.key_rank().is_none()) {
            return Err(Stop::wrong(format!("{} cannot be the key of a map", key.kind())));
        }
        let mut order: Vec<u32> = (0..length as u32).collect();
        order.sort_by(|a, b| key_order(&entries[*a as usize].0, &entries[*b as usize].0));
        let mut entries = entries;
        let twice = |a: u32, b: u32, of: &[(Value, Value)]| key_order(&of[a as usize].0, &of[b as usize].0).is_eq();
        if order.windows(2).any(|pair| twice(pair[0], pair[1], &entries)) {
            // The sort is stable: equal keys stand in the order they were given in.
            let mut last_of: Vec<Option<u32>> = vec![None; length];
            for group in order.chunk_by(|a, b| twice(*a, *b, &entries)) {
                last_of[group[0] as usize] = group.last().copied();
            }
            entries = last_of
                .iter()
                .enumerate()
                .filter_map(|(first, last)| Some((entries[first].0.clone(), entries[(*last)? as usize].1.clone())))
                .collect();
            order = (0..entries.len() as u32).collect();
            order.sort_by(|a, b| key_order(&entries[*a as usize].0, &entries[*b as usize].0));
        }
        let size = entries
            .iter()
            .fold(1, |sum: u64, (key, value)| sum.saturating_add(key.size()).saturating_add(value.size()));
        let depth = deeper(entries.iter().map(|(_, value)| value))?;
        Ok(Value::Map(Rc::new(Map { entries, order, size, depth, _held: held })))
    }

    pub(crate) fn get(&self, key: &Value) -> Option<&Value> {
        key.key_rank()?;
        self.find(|entry| key_order(entry, key))
    }

    pub(crate) fn get_text(&self, key: &str) -> Option<&Value> {
        self.find(|entry| match entry {
            Value::Text(text) => text.as_str().cmp(key),
            // Texts come after all other keys.
            _ => Ordering::Less,
        })
    }

    fn find(&self, compare: impl Fn(&Value) -> Ordering) -> Option<&Value> {
        let place = self.order.binary_search_by(|place| compare(&self.entries[*place as usize].0)).ok()?;
        Some(&self.entries[self.order[place] as usize].1)
    }
}

/// One level more than the deepest of `values`, where that is allowed.
fn deeper<'v>(values: impl Iterator<Item = &'v Value>) -> Result<u16, Stop> {
    let depth = values.map(Value::depth).max().unwrap_or(0) + 1;
    if depth > NESTING_MAX { Err(Stop::Nesting) } else { Ok(depth) }
}

/// The order of keys; keys that Python takes for equal are equal.
fn key_order(a: &Value, b: &Value) -> Ordering {
    match (a, b) {
        (Value::Text(a), Value::Text(b)) => a.as_str().cmp(b.as_str()),
        _ => match (a.number(), b.number()) {
            (Some(a), Some(b)) => a.total_cmp(&b),
            _ => a.key_rank().cmp(&b.key_rank()),
        },
    }
}

impl Value {
    pub(crate) fn text(budget: &Rc<Budget>, text: impl Into<String>) -> Result<Value, Stop> {
        Text::made(budget, text).map(Value::Text)
    }

    /// Nodes and 64-byte pieces of text in this tree: what walking it costs.
    pub(crate) fn size(&self) -> u64 {
        match self {
            Value::Text(text) => 1 + text.as_str().len() as u64 / 64,
            Value::List(list) => list.size,
            Value::Map(map) => map.size,
            _ => 1,
        }
    }

    fn depth(&self) -> u16 {
        match self {
            Value::List(list) => list.depth,
            Value::Map(map) => map.depth,
            _ => 0,
        }
    }

    /// What an error calls this.
    pub(crate) fn kind(&self) -> &'static str {
        match self {
            Value::Undefined => "an undefined value",
            Value::None => "none",
            Value::Bool(_) => "a boolean",
            Value::Int(_) | Value::Float(_) => "a number",
            Value::Text(_) => "a string",
            Value::List(list) if list.tuple => "a tuple",
            Value::List(_) => "a list",
            Value::Map(_) => "a map",
            Value::Namespace(_) => "a namespace",
            Value::Macro(_) | Value::Function(_) | Value::Method(_) => "a function",
            Value::Loop(_) => "a loop",
        }
    }

    pub(crate) fn is_true(&self) -> bool {
        match self {
            Value::Undefined | Value::None => false,
            Value::Bool(truth) => *truth,
            Value::Int(number) => *number != 0,
            Value::Float(number) => *number != 0.0,
            Value::Text(text) => !text.as_str().is_empty(),
            Value::List(list) => !list.items.is_empty(),
            Value::Map(map) => !map.entries.is_empty(),
            _ => true,
        }
    }

    pub(crate) fn as_str(&self) -> Option<&str> {
        match self {
            Value::Text(text) => Some(text.as_str()),
            _ => None,
        }
    }

    /// An integer; booleans are 0 and 1, as in Python.
    pub(crate) fn integer(&self) -> Option<i64> {
        match self {
            Value::Int(number) => Some(*number),
            Value::Bool(truth) => Some(i64::from(*truth)),
            _ => None,
        }
    }

    pub(crate) fn number(&self) -> Option<f64> {
        match self {
            Value::Float(number) => Some(*number),
            other => other.integer().map(|number| number as f64),
        }
    }

    fn key_rank(&self) -> Option<u8> {
        match self {
            Value::None => Some(0),
            Value::Bool(_) | Value::Int(_) | Value::Float(_) => Some(1),
            Value::Text(_) => Some(2),
            _ => None,
        }
    }

    /// Whether Python takes both for equal. Pay for the smaller one's size first: see [`Value::equals`].
    fn same(&self, other: &Value) -> bool {
        match (self, other) {
            (Value::Undefined, Value::Undefined) | (Value::None, Value::None) => true,
            (Value::Text(a), Value::Text(b)) => a.as_str() == b.as_str(),
            (Value::List(a), Value::List(b)) => {
                a.tuple == b.tuple
                    && a.items.len() == b.items.len()
                    && a.items.iter().zip(&b.items).all(|(a, b)| a.same(b))
            }
            (Value::Map(a), Value::Map(b)) => {
                a.entries.len() == b.entries.len()
                    && a.entries.iter().all(|(key, value)| b.get(key).is_some_and(|other| value.same(other)))
            }
            (Value::Namespace(a), Value::Namespace(b)) | (Value::Macro(a), Value::Macro(b)) => a == b,
            (Value::Loop(a), Value::Loop(b)) => a == b,
            (Value::Function(a), Value::Function(b)) | (Value::Method(a), Value::Method(b)) => a == b,
            _ => match (self.integer(), other.integer()) {
                (Some(a), Some(b)) => a == b,
                _ => self.number().is_some() && self.number() == other.number(),
            },
        }
    }

    pub(crate) fn equals(&self, other: &Value, budget: &Budget) -> Result<bool, Stop> {
        // A map looks each key up: a few steps more for each entry.
        budget.spend(self.size().min(other.size()).saturating_mul(2))?;
        Ok(self.same(other))
    }

    /// The order of two values, where Python has one.
    pub(crate) fn order(&self, other: &Value, budget: &Budget) -> Result<Ordering, Stop> {
        budget.spend(self.size().min(other.size()))?;
        self.ordering(other).ok_or_else(|| Stop::wrong(format!("{} and {} have no order", self.kind(), other.kind())))
    }

    fn ordering(&self, other: &Value) -> Option<Ordering> {
        match (self, other) {
            (Value::Text(a), Value::Text(b)) => Some(a.as_str().cmp(b.as_str())),
            (Value::List(a), Value::List(b)) => {
                for (a, b) in a.items.iter().zip(&b.items) {
                    let order = a.ordering(b)?;
                    if order.is_ne() {
                        return Some(order);
                    }
                }
                Some(a.items.len().cmp(&b.items.len()))
            }
            _ => match (self.integer(), other.integer()) {
                (Some(a), Some(b)) => Some(a.cmp(&b)),
                _ => self.number()?.partial_cmp(&other.number()?),
            },
        }
    }

    /// What the value is as text: itself where it is one.
    pub(crate) fn to_text(&self, budget: &Rc<Budget>) -> Result<Text, Stop> {
        if let Value::Text(text) = self {
            return Ok(text.clone());
        }
        let mut draft = Draft::new(budget)?;
        draft.write(self)?;
        Ok(draft.text())
    }

    /// The value of a piece of JSON.
    pub(crate) fn from_json(budget: &Rc<Budget>, json: &serde_json::Value, depth: u16) -> Result<Value, Stop> {
        if depth > NESTING_MAX {
            return Err(Stop::Nesting);
        }
        budget.spend(1)?;
        Ok(match json {
            serde_json::Value::Null => Value::None,
            serde_json::Value::Bool(truth) => Value::Bool(*truth),
            serde_json::Value::Number(number) => match (number.as_i64(), number.as_f64()) {
                (Some(number), _) => Value::Int(number),
                (None, Some(number)) => Value::Float(number),
                (None, None) => Value::None,
            },
            serde_json::Value::String(text) => Value::text(budget, text.as_str())?,
            serde_json::Value::Array(array) => {
                let mut items = Items::new(budget)?;
                items.reserve(array.len())?;
                for item in array {
                    items.push(Value::from_json(budget, item, depth + 1)?)?;
                }
                items.list()?
            }
            serde_json::Value::Object(object) => {
                let mut entries = Vec::with_capacity(object.len());
                for (key, value) in object {
                    entries.push((Value::text(budget, key.as_str())?, Value::from_json(budget, value, depth + 1)?));
                }
                Map::make(budget, entries)?
            }
        })
    }
}
