//! Arithmetic, comparisons and slices, as Python does them.

use std::rc::Rc;

use super::budget::{Budget, Stop};
use super::draft::Draft;
use super::format;
use super::tree::{Comparison, Operator};
use super::value::{Items, Value};

fn too_large() -> Stop {
    Stop::wrong("a number is too large")
}

pub(crate) fn negative(value: &Value) -> Result<Value, Stop> {
    match (value.integer(), value.number()) {
        (Some(number), _) => number.checked_neg().map(Value::Int).ok_or_else(too_large),
        (None, Some(number)) => Ok(Value::Float(-number)),
        (None, None) => Err(Stop::wrong(format!("{} has no sign", value.kind()))),
    }
}

pub(crate) fn apply(budget: &Rc<Budget>, operator: Operator, left: &Value, right: &Value) -> Result<Value, Stop> {
    match (operator, left, right) {
        (Operator::Add, Value::Text(a), Value::Text(b)) => {
            let mut draft = Draft::new(budget)?;
            draft.push(a.as_str())?;
            draft.push(b.as_str())?;
            Ok(draft.value())
        }
        (Operator::Add, Value::List(a), Value::List(b)) if a.tuple == b.tuple => {
            let mut items = Items::new(budget)?;
            items.reserve(a.items.len().saturating_add(b.items.len()))?;
            items.extend(a.items.iter().chain(&b.items).cloned())?;
            if a.tuple { items.tuple() } else { items.list() }
        }
        (Operator::Multiply, Value::Text(_) | Value::List(_), times)
        | (Operator::Multiply, times, Value::Text(_) | Value::List(_))
            if times.integer().is_some() =>
        {
            let repeated = if matches!(left, Value::Text(_) | Value::List(_)) { left } else { right };
            let times = usize::try_from(times.integer().unwrap_or(0)).unwrap_or(0);
            repeat(budget, repeated, times)
        }
        (Operator::Remainder, Value::Text(pattern), _) => format::percent(budget, pattern.as_str(), right),
        _ => match (left.integer(), right.integer(), left.number(), right.number()) {
            (Some(a), Some(b), ..) => integers(operator, a, b),
            (.., Some(a), Some(b)) => floats(operator, a, b),
            _ => Err(Stop::wrong(format!(
                "`{}` does not work on {} and {}",
                sign(operator),
                described(left),
                described(right)
            ))),
        },
    }
}

fn described(value: &Value) -> &'static str {
    value.kind()
}

fn sign(operator: Operator) -> &'static str {
    match operator {
        Operator::Add => "+",
        Operator::Subtract => "-",
        Operator::Multiply => "*",
        Operator::Divide => "/",
        Operator::FloorDivide => "//",
        Operator::Remainder => "%",
        Operator::Power => "**",
    }
}

fn repeat(budget: &Rc<Budget>, repeated: &Value, times: usize) -> Result<Value, Stop> {
    match repeated {
        Value::Text(text) => {
            let mut draft = Draft::new(budget)?;
            draft.repeat(text.as_str(), times)?;
            Ok(draft.value())
        }
        Value::List(list) => {
            let mut items = Items::new(budget)?;
            items.reserve(list.items.len().saturating_mul(times))?;
            for _ in 0..if list.items.is_empty() { 0 } else { times } {
                items.extend(list.items.iter().cloned())?;
            }
            if list.tuple { items.tuple() } else { items.list() }
        }
        other => Err(Stop::wrong(format!("{} cannot be repeated", other.kind()))),
    }
}

fn integers(operator: Operator, a: i64, b: i64) -> Result<Value, Stop> {
    let whole = match operator {
        Operator::Add => a.checked_add(b),
        Operator::Subtract => a.checked_sub(b),
        Operator::Multiply => a.checked_mul(b),
        Operator::Divide => return floats(operator, a as f64, b as f64),
        Operator::FloorDivide | Operator::Remainder if b == 0 => {
            return Err(Stop::wrong("a number is divided by zero"));
        }
        Operator::FloorDivide => {
            a.checked_div(b).map(|quotient| quotient - i64::from(a % b != 0 && (a < 0) != (b < 0)))
        }
        Operator::Remainder => {
            a.checked_rem(b).map(|rest| if rest != 0 && (rest < 0) != (b < 0) { rest + b } else { rest })
        }
        Operator::Power if b < 0 => return floats(operator, a as f64, b as f64),
        Operator::Power => u32::try_from(b).ok().and_then(|b| a.checked_pow(b)),
    };
    whole.map(Value::Int).ok_or_else(too_large)
}

fn floats(operator: Operator, a: f64, b: f64) -> Result<Value, Stop> {
    let divides = matches!(operator, Operator::Divide | Operator::FloorDivide | Operator::Remainder);
    if divides && b == 0.0 {
        return Err(Stop::wrong("a number is divided by zero"));
    }
    Ok(Value::Float(match operator {
        Operator::Add => a + b,
        Operator::Subtract => a - b,
        Operator::Multiply => a * b,
        Operator::Divide => a / b,
        Operator::FloorDivide => (a / b).floor(),
        Operator::Remainder => a - b * (a / b).floor(),
        Operator::Power => a.powf(b),
    }))
}

pub(crate) fn compare(budget: &Rc<Budget>, comparison: Comparison, left: &Value, right: &Value) -> Result<bool, Stop> {
    Ok(match comparison {
        Comparison::Equal => left.equals(right, budget)?,
        Comparison::Unequal => !left.equals(right, budget)?,
        Comparison::Less => left.order(right, budget)?.is_lt(),
        Comparison::LessEqual => left.order(right, budget)?.is_le(),
        Comparison::Greater => left.order(right, budget)?.is_gt(),
        Comparison::GreaterEqual => left.order(right, budget)?.is_ge(),
        Comparison::In => contains(budget, right, left)?,
        Comparison::NotIn => !contains(budget, right, left)?,
    })
}

/// Whether `item in container`.
pub(crate) fn contains(budget: &Rc<Budget>, container: &Value, item: &Value) -> Result<bool, Stop> {
    match (container, item) {
        (Value::Text(text), Value::Text(part)) => {
            budget.read(text.as_str().len())?;
            Ok(text.as_str().contains(part.as_str()))
        }
        (Value::List(list), _) => {
            for candidate in &list.items {
                if candidate.equals(item, budget)? {
                    return Ok(true);
                }
            }
            Ok(false)
        }
        (Value::Map(map), key) => Ok(map.get(key).is_some()),
        (Value::Undefined, _) => Ok(false),
        _ => Err(Stop::wrong(format!("`in` does not work on {} and {}", item.kind(), container.kind()))),
    }
}

/// `value[from:to:step]`.
pub(crate) fn slice(budget: &Rc<Budget>, value: &Value, bounds: [Option<i64>; 3]) -> Result<Value, Stop> {
    match value {
        Value::List(list) => {
            let places = places(list.items.len(), bounds)?;
            let mut items = Items::new(budget)?;
            items.reserve(places.len())?;
            items.extend(places.filter_map(|place| list.items.get(place).cloned()))?;
            if list.tuple { items.tuple() } else { items.list() }
        }
        Value::Text(text) => {
            let text = text.as_str();
            budget.read(text.len().saturating_mul(4))?;
            let _room = budget.hold(text.len().saturating_mul(size_of::<char>()))?;
            let chars: Vec<char> = text.chars().collect();
            let mut draft = Draft::new(budget)?;
            for place in places(chars.len(), bounds)? {
                draft.push_char(chars[place])?;
            }
            Ok(draft.value())
        }
        Value::Undefined => Ok(Value::Undefined),
        other => Err(Stop::wrong(format!("{} cannot be cut", other.kind()))),
    }
}

/// The places that Python's `slice.indices` gives.
fn places(length: usize, [from, to, step]: [Option<i64>; 3]) -> Result<impl ExactSizeIterator<Item = usize>, Stop> {
    let length = length as i64;
    let step = step.unwrap_or(1);
    let (lowest, highest) = if step < 0 { (-1, length - 1) } else { (0, length) };
    let clamped = |place: i64| (if place < 0 { place.saturating_add(length) } else { place }).clamp(lowest, highest);
    let (first, last) = if step < 0 { (highest, lowest) } else { (lowest, highest) };
    let (from, to) = (from.map_or(first, clamped), to.map_or(last, clamped));
    let stride = step.unsigned_abs();
    if stride == 0 {
        return Err(Stop::wrong("the step of a slice is not zero"));
    }
    let span = if step < 0 { from - to } else { to - from };
    let count = u64::try_from(span).unwrap_or(0).div_ceil(stride) as usize;
    Ok((0..count).map(move |number| (from + number as i64 * step) as usize))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn cut(length: usize, bounds: [Option<i64>; 3]) -> Vec<usize> {
        places(length, bounds).unwrap().collect()
    }

    #[test]
    fn slices_take_what_python_takes() {
        assert_eq!(cut(5, [Some(1), None, None]), [1, 2, 3, 4]);
        assert_eq!(cut(5, [None, Some(-1), None]), [0, 1, 2, 3]);
        assert_eq!(cut(5, [None, None, Some(-1)]), [4, 3, 2, 1, 0]);
        assert_eq!(cut(5, [Some(-100), Some(100), Some(2)]), [0, 2, 4]);
        assert_eq!(cut(5, [Some(3), Some(0), Some(-2)]), [3, 1]);
        assert_eq!(cut(5, [Some(4), Some(1), None]), [0usize; 0]);
        assert_eq!(cut(5, [None, None, Some(i64::MIN)]), [4]);
        assert_eq!(cut(0, [Some(i64::MIN), Some(i64::MAX), Some(i64::MAX)]), [0usize; 0]);
        assert!(places(5, [None, None, Some(0)]).is_err());
    }

    #[test]
    fn whole_numbers_are_divided_downwards() {
        let apply = |operator, a, b| integers(operator, a, b).ok().and_then(|value| value.integer());
        assert_eq!(apply(Operator::FloorDivide, -7, 2), Some(-4));
        assert_eq!(apply(Operator::Remainder, -7, 2), Some(1));
        assert_eq!(apply(Operator::Remainder, 7, -2), Some(-1));
        assert_eq!(apply(Operator::FloorDivide, i64::MIN, -1), None);
        assert_eq!(apply(Operator::Power, 2, 64), None);
        assert_eq!(apply(Operator::Remainder, 1, 0), None);
    }
}
