//! Tests: `value is test`.

use super::budget::Stop;
use super::operators;
use super::run::{Passed, Run};
use super::tree::Comparison;
use super::value::Value;

/// The tests there are.
pub(crate) const NAMES: [&str; 39] = [
    "boolean",
    "callable",
    "defined",
    "divisibleby",
    "eq",
    "equalto",
    "escaped",
    "even",
    "false",
    "float",
    "ge",
    "greaterthan",
    "gt",
    "in",
    "integer",
    "iterable",
    "le",
    "lessthan",
    "lower",
    "lt",
    "mapping",
    "ne",
    "none",
    "number",
    "odd",
    "sameas",
    "sequence",
    "string",
    "true",
    "undefined",
    "upper",
    "==",
    "!=",
    "<",
    "<=",
    ">",
    ">=",
    "filter",
    "test",
];

pub(crate) fn holds(run: &mut Run<'_>, name: &str, value: &Value, passed: Passed) -> Result<bool, Stop> {
    let [other] = passed.read(name, ["other"])?;
    let other = || other.clone().ok_or_else(|| Stop::wrong(format!("the test `{name}` needs an argument")));
    let compared = |comparison| operators::compare(&run.budget, comparison, value, &other()?);
    Ok(match name {
        "defined" => !matches!(value, Value::Undefined),
        "undefined" => matches!(value, Value::Undefined),
        "none" => matches!(value, Value::None),
        "boolean" => matches!(value, Value::Bool(_)),
        "true" => matches!(value, Value::Bool(true)),
        "false" => matches!(value, Value::Bool(false)),
        "integer" => matches!(value, Value::Int(_)),
        "float" => matches!(value, Value::Float(_)),
        "number" => value.number().is_some(),
        "string" => matches!(value, Value::Text(_)),
        "mapping" => matches!(value, Value::Map(_)),
        // What has a length and items: for Python a string has, and so has an undefined value.
        "sequence" | "iterable" => {
            matches!(value, Value::List(_) | Value::Map(_) | Value::Text(_) | Value::Undefined)
                || (name == "iterable" && matches!(value, Value::Loop(_)))
        }
        "callable" => matches!(value, Value::Macro(_) | Value::Function(_) | Value::Method(_) | Value::Loop(_)),
        "escaped" => false,
        "even" | "odd" => {
            let number = integer(value)?;
            (number % 2 == 0) == (name == "even")
        }
        "divisibleby" => match integer(&other()?)? {
            0 => return Err(Stop::wrong("a number is divided by zero")),
            divisor => integer(value)?.checked_rem(divisor).unwrap_or(0) == 0,
        },
        "lower" | "upper" => {
            let text = value.to_text(&run.budget)?;
            run.budget.read(text.as_str().len().saturating_mul(8))?;
            is_cased(text.as_str(), name == "upper")
        }
        "sameas" => {
            let other = other()?;
            std::mem::discriminant(value) == std::mem::discriminant(&other) && value.equals(&other, &run.budget)?
        }
        "eq" | "equalto" | "==" => compared(Comparison::Equal)?,
        "ne" | "!=" => compared(Comparison::Unequal)?,
        "lt" | "lessthan" | "<" => compared(Comparison::Less)?,
        "le" | "<=" => compared(Comparison::LessEqual)?,
        "gt" | "greaterthan" | ">" => compared(Comparison::Greater)?,
        "ge" | ">=" => compared(Comparison::GreaterEqual)?,
        "in" => compared(Comparison::In)?,
        "filter" => value.as_str().is_some_and(|name| super::filters::NAMES.contains(&name)),
        "test" => value.as_str().is_some_and(|name| NAMES.contains(&name)),
        _ => return Err(Stop::wrong(format!("there is no test `{}`", super::shortened(name, 40)))),
    })
}

fn integer(value: &Value) -> Result<i64, Stop> {
    value.integer().ok_or_else(|| Stop::wrong(format!("an integer is needed, not {}", value.kind())))
}

/// Python's `isupper` and `islower`.
pub(crate) fn is_cased(text: &str, upper: bool) -> bool {
    let is = |c: char| if upper { c.is_uppercase() } else { c.is_lowercase() };
    let is_not = |c: char| if upper { c.is_lowercase() } else { c.is_uppercase() };
    text.chars().any(is) && !text.chars().any(is_not)
}
