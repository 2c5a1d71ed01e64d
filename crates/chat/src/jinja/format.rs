//! `'%s' % value` and `'{}'.format(value)`: the part of Python's two formatting languages that
//! templates use. Widths are paid for before anything is padded.

use std::rc::Rc;

use super::budget::{Budget, Stop};
use super::draft::Draft;
use super::run::Passed;
use super::value::Value;

/// How one value is written.
#[derive(Default)]
struct Spec {
    fill: Option<char>,
    align: Option<char>,
    sign: bool,
    zero: bool,
    width: usize,
    precision: Option<usize>,
    kind: Option<char>,
}

/// The longest fraction of a number. Python's own is bounded by memory alone.
const PRECISION_MAX: usize = 100;

/// Python's `pattern % values`.
pub(crate) fn percent(budget: &Rc<Budget>, pattern: &str, values: &Value) -> Result<Value, Stop> {
    let several = match values {
        Value::List(list) if list.tuple => list.items.clone(),
        one => vec![one.clone()],
    };
    let mut next = several.iter();
    let mut draft = Draft::new(budget)?;
    let mut rest = pattern;
    while let Some(at) = rest.find('%') {
        draft.push(&rest[..at])?;
        rest = &rest[at + 1..];
        if let Some(after) = rest.strip_prefix('%') {
            draft.push("%")?;
            rest = after;
            continue;
        }
        let mut key = None;
        if let Some((name, after)) = rest.strip_prefix('(').and_then(|after| after.split_once(')')) {
            key = Some(name);
            rest = after;
        }
        let spec = percent_spec(&mut rest)?;
        let value = match (key, values) {
            (Some(key), Value::Map(map)) => map.get_text(key),
            (Some(_), _) => return Err(Stop::wrong("a format with names needs a map")),
            (None, _) => next.next(),
        };
        let Some(value) = value else { return Err(Stop::wrong("a format has more places than values")) };
        write(budget, &mut draft, value, &spec)?;
    }
    if next.next().is_some() && !matches!(values, Value::Map(_)) && !several.is_empty() {
        return Err(Stop::wrong("a format has fewer places than values"));
    }
    draft.push(rest)?;
    Ok(draft.value())
}

fn percent_spec(rest: &mut &str) -> Result<Spec, Stop> {
    let mut spec = Spec { align: Some('>'), ..Spec::default() };
    while let Some(flag) = rest.chars().next().filter(|flag| matches!(flag, '-' | '+' | '0' | ' ' | '#')) {
        match flag {
            '-' => spec.align = Some('<'),
            '+' => spec.sign = true,
            '0' => spec.zero = true,
            _ => {}
        }
        *rest = &rest[1..];
    }
    spec.width = digits(rest).unwrap_or(0);
    if let Some(after) = rest.strip_prefix('.') {
        *rest = after;
        spec.precision = Some(digits(rest).unwrap_or(0));
    }
    spec.kind = rest.chars().next();
    match spec.kind {
        Some(kind @ ('s' | 'r' | 'd' | 'i' | 'u' | 'f' | 'x' | 'X' | 'o')) => {
            *rest = &rest[kind.len_utf8()..];
            Ok(spec)
        }
        _ => Err(Stop::wrong("a format has a `%` without a type")),
    }
}

fn digits(rest: &mut &str) -> Option<usize> {
    let length = rest.bytes().take_while(u8::is_ascii_digit).count();
    let (number, after) = rest.split_at(length);
    *rest = after;
    // A width that fits no integer fits no memory either.
    if number.is_empty() { None } else { Some(number.parse().unwrap_or(usize::MAX)) }
}

/// Python's `pattern.format(...)`.
pub(crate) fn braces(budget: &Rc<Budget>, pattern: &str, passed: &Passed) -> Result<Value, Stop> {
    let mut draft = Draft::new(budget)?;
    let mut rest = pattern;
    let mut place = 0;
    while let Some(at) = rest.find(['{', '}']) {
        draft.push(&rest[..at])?;
        let brace = &rest[at..at + 1];
        rest = &rest[at + 1..];
        if let Some(after) = rest.strip_prefix(brace) {
            draft.push(brace)?;
            rest = after;
            continue;
        }
        let Some((field, after)) = rest.split_once('}').filter(|_| brace == "{") else {
            return Err(Stop::wrong("a format has a brace without its other half"));
        };
        rest = after;
        let (name, spec) = field.split_once(':').unwrap_or((field, ""));
        let value = if name.is_empty() {
            place += 1;
            passed.positional.get(place - 1)
        } else if let Ok(number) = name.parse::<usize>() {
            passed.positional.get(number)
        } else {
            passed.named.iter().find(|(given, _)| given.as_str() == name).map(|(_, value)| value)
        };
        let Some(value) = value else { return Err(Stop::wrong("a format names a value that was not given")) };
        write(budget, &mut draft, value, &brace_spec(spec)?)?;
    }
    draft.push(rest)?;
    Ok(draft.value())
}

fn brace_spec(text: &str) -> Result<Spec, Stop> {
    let mut spec = Spec::default();
    let mut rest = text;
    let is_align = |c: &char| matches!(c, '<' | '>' | '^');
    let mut chars = text.chars();
    match (chars.next(), chars.next()) {
        (Some(fill), Some(align)) if is_align(&align) => {
            (spec.fill, spec.align) = (Some(fill), Some(align));
            rest = chars.as_str();
        }
        (Some(align), _) if is_align(&align) => {
            spec.align = Some(align);
            rest = &text[1..];
        }
        _ => {}
    }
    if let Some(after) = rest.strip_prefix('+') {
        spec.sign = true;
        rest = after;
    }
    spec.zero = rest.starts_with('0');
    spec.width = digits(&mut rest).unwrap_or(0);
    if let Some(after) = rest.strip_prefix('.') {
        rest = after;
        spec.precision = Some(digits(&mut rest).unwrap_or(0));
    }
    let mut chars = rest.chars();
    spec.kind = chars.next();
    match (spec.kind, chars.next()) {
        (None | Some('s' | 'd' | 'f' | 'x' | 'X' | 'o'), None) => Ok(spec),
        _ => Err(Stop::wrong("a format has a type that is not supported")),
    }
}

fn write(budget: &Rc<Budget>, draft: &mut Draft, value: &Value, spec: &Spec) -> Result<(), Stop> {
    let text = match spec.kind {
        Some('d' | 'i' | 'u' | 'x' | 'X' | 'o') => number(spec, whole(value)?),
        Some('f') => {
            let number = value.number().ok_or_else(|| not_a_number(value))?;
            let precision = spec.precision.unwrap_or(6);
            if precision > PRECISION_MAX {
                return Err(Stop::wrong(format!("a format asks for more than {PRECISION_MAX} digits")));
            }
            signed(spec, format!("{number:.precision$}"))
        }
        kind => {
            let mut whole = Draft::new(budget)?;
            if kind == Some('r') {
                whole.write_repr(value)?
            } else {
                whole.write(value)?
            }
            match spec.precision {
                Some(precision) => whole.as_str().chars().take(precision).collect(),
                None => whole.into_string(),
            }
        }
    };
    let numeric = kind_is_number(spec) || value.number().is_some();
    let missing = spec.width.saturating_sub(text.chars().count());
    if spec.zero && numeric && spec.align != Some('<') {
        let sign = text.len() - text.trim_start_matches(['-', '+']).len();
        draft.push(&text[..sign])?;
        draft.repeat("0", missing)?;
        return draft.push(&text[sign..]);
    }
    let mut buffer = [0; 4];
    let fill = spec.fill.unwrap_or(' ').encode_utf8(&mut buffer);
    let before = match spec.align {
        Some('>') => missing,
        Some('^') => missing / 2,
        None if numeric => missing,
        _ => 0,
    };
    draft.repeat(fill, before)?;
    draft.push(&text)?;
    draft.repeat(fill, missing - before)
}

fn kind_is_number(spec: &Spec) -> bool {
    spec.kind.is_some_and(|kind| !matches!(kind, 's' | 'r'))
}

fn not_a_number(value: &Value) -> Stop {
    Stop::wrong(format!("a format needs a number, not {}", value.kind()))
}

fn whole(value: &Value) -> Result<i64, Stop> {
    match value {
        Value::Float(number) if number.abs() < 9e18 => Ok(*number as i64),
        other => other.integer().ok_or_else(|| not_a_number(value)),
    }
}

fn number(spec: &Spec, number: i64) -> String {
    let size = number.unsigned_abs();
    let digits = match spec.kind {
        Some('x') => format!("{size:x}"),
        Some('X') => format!("{size:X}"),
        Some('o') => format!("{size:o}"),
        _ => size.to_string(),
    };
    signed(spec, if number < 0 { format!("-{digits}") } else { digits })
}

fn signed(spec: &Spec, text: String) -> String {
    if spec.sign && !text.starts_with('-') { format!("+{text}") } else { text }
}
