//! What Python does with texts, for filters and methods alike.
//!
//! Whatever writes more than it reads writes into a [`Draft`], or makes sure of the room first.

use std::rc::Rc;

use super::budget::{Budget, Stop};
use super::draft::Draft;
use super::value::{Items, Value};

/// A changed copy that is at most three times as long: no character's upper or lower case is longer.
fn changed(budget: &Rc<Budget>, text: &str, change: impl FnOnce(&str) -> String) -> Result<Value, Stop> {
    // Changing letters takes about as long as 8 expressions for each 64 bytes.
    budget.read(text.len().saturating_mul(8))?;
    let room = budget.hold(text.len().saturating_mul(3))?;
    let text = change(text);
    drop(room);
    Value::text(budget, text)
}

pub(crate) fn upper(budget: &Rc<Budget>, text: &str) -> Result<Value, Stop> {
    changed(budget, text, str::to_uppercase)
}

pub(crate) fn lower(budget: &Rc<Budget>, text: &str) -> Result<Value, Stop> {
    changed(budget, text, str::to_lowercase)
}

fn capital(word: &str) -> String {
    let mut rest = word.chars();
    match rest.next() {
        Some(first) => first.to_uppercase().chain(rest.as_str().to_lowercase().chars()).collect(),
        None => String::new(),
    }
}

pub(crate) fn capitalize(budget: &Rc<Budget>, text: &str) -> Result<Value, Stop> {
    changed(budget, text, capital)
}

/// Words begin with a capital. The filter takes what follows spaces and brackets for a word, the
/// method what follows anything but a letter.
pub(crate) fn title(budget: &Rc<Budget>, text: &str, filter: bool) -> Result<Value, Stop> {
    let separates = |c: char| {
        if filter { c.is_whitespace() || matches!(c, '-' | '(' | '{' | '[' | '<') } else { !c.is_alphabetic() }
    };
    changed(budget, text, |text| text.split_inclusive(separates).map(capital).collect())
}

/// What is stripped from the ends: whitespace, or any of some characters.
pub(crate) fn strip<'a>(text: &'a str, characters: Option<&str>, begin: bool, end: bool) -> &'a str {
    let strips = |c: char| characters.map_or(c.is_whitespace(), |characters| characters.contains(c));
    let text = if begin { text.trim_start_matches(strips) } else { text };
    if end { text.trim_end_matches(strips) } else { text }
}

pub(crate) fn replace(
    budget: &Rc<Budget>,
    text: &str,
    from: &str,
    to: &str,
    count: Option<i64>,
) -> Result<Value, Stop> {
    let most = count.and_then(|count| usize::try_from(count).ok()).unwrap_or(usize::MAX);
    budget.read(text.len())?;
    let mut draft = Draft::new(budget)?;
    let mut rest = 0;
    for (at, found) in text.match_indices(from).take(most) {
        budget.spend(1)?;
        draft.push(&text[rest..at])?;
        draft.push(to)?;
        rest = at + found.len();
    }
    draft.push(&text[rest..])?;
    Ok(draft.value())
}

/// Python's `split` and, `from_end`, `rsplit`.
pub(crate) fn split(
    budget: &Rc<Budget>,
    text: &str,
    separator: Option<&str>,
    most: Option<i64>,
    from_end: bool,
) -> Result<Value, Stop> {
    budget.read(text.len())?;
    let most = most.and_then(|most| usize::try_from(most).ok()).unwrap_or(usize::MAX);
    let mut items = Items::new(budget)?;
    let mut push = |piece: &str| Value::text(budget, piece).and_then(|value| items.push(value));
    match separator {
        Some("") => return Err(Stop::wrong("a separator is not empty")),
        Some(separator) if from_end => text.rsplitn(most.saturating_add(1), separator).try_for_each(push)?,
        Some(separator) => text.splitn(most.saturating_add(1), separator).try_for_each(push)?,
        None => {
            let mut rest = text.trim();
            for _ in 0..most {
                let Some(at) =
                    (if from_end { rest.rfind(char::is_whitespace) } else { rest.find(char::is_whitespace) })
                else {
                    break;
                };
                let (before, after) = rest.split_at(at);
                if from_end {
                    push(after.trim_start())?;
                    rest = before.trim_end();
                } else {
                    push(before)?;
                    rest = after.trim_start();
                }
            }
            if !rest.is_empty() {
                push(rest)?;
            }
        }
    }
    if from_end {
        items.items().reverse();
    }
    items.list()
}

/// The lines of a text, as Python's `splitlines` finds them.
pub(crate) fn lines(text: &str, keep_ends: bool) -> impl Iterator<Item = &str> {
    let ends_line = |c: char| {
        matches!(c, '\n' | '\r' | '\x0b' | '\x0c' | '\x1c' | '\x1d' | '\x1e' | '\u{85}' | '\u{2028}' | '\u{2029}')
    };
    let mut rest = text;
    std::iter::from_fn(move || {
        if rest.is_empty() {
            return None;
        }
        let at = rest.find(ends_line);
        let end = at.map_or(rest.len(), |at| {
            at + if rest[at..].starts_with("\r\n") { 2 } else { rest[at..].chars().next().map_or(0, char::len_utf8) }
        });
        let line = &rest[..if keep_ends { end } else { at.unwrap_or(end) }];
        rest = &rest[end..];
        Some(line)
    })
}

pub(crate) fn indent(budget: &Rc<Budget>, text: &str, width: &Value, first: bool, blank: bool) -> Result<Value, Stop> {
    let mut by = Draft::new(budget)?;
    match (width, width.integer()) {
        (Value::Text(text), _) => by.push(text.as_str())?,
        (_, Some(width)) => by.repeat(" ", usize::try_from(width).unwrap_or(0))?,
        _ => return Err(Stop::wrong("a text is indented by a number or a text")),
    }
    budget.read(text.len())?;
    let mut draft = Draft::new(budget)?;
    // An empty text is one empty line; a newline at the end begins one more.
    let ends = text.is_empty() || lines(text, true).last().is_some_and(|line| lines(line, false).next() != Some(line));
    for (place, line) in lines(text, false).chain(ends.then_some("")).enumerate() {
        draft.push(if place == 0 { "" } else { "\n" })?;
        if if place == 0 { first } else { blank || !line.is_empty() } {
            draft.push(by.as_str())?;
        }
        draft.push(line)?;
    }
    Ok(draft.value())
}

/// A text with `fill` around it, `width` characters long; `left` of what is missing goes before it.
pub(crate) fn pad(
    budget: &Rc<Budget>,
    text: &str,
    width: usize,
    fill: &str,
    left: impl Fn(usize) -> usize,
) -> Result<Value, Stop> {
    budget.read(text.len())?;
    let missing = width.saturating_sub(text.chars().count());
    let before = left(missing);
    let mut draft = Draft::new(budget)?;
    draft.repeat(fill, before)?;
    draft.push(text)?;
    draft.repeat(fill, missing - before)?;
    Ok(draft.value())
}

pub(crate) fn truncate(
    budget: &Rc<Budget>,
    text: &str,
    length: usize,
    cut_words: bool,
    end: &str,
    leeway: usize,
) -> Result<Value, Stop> {
    budget.read(text.len())?;
    if text.chars().count() <= length.saturating_add(leeway) {
        return Value::text(budget, text);
    }
    let kept = length.saturating_sub(end.chars().count());
    let mut kept = text.char_indices().nth(kept).map_or(text, |(at, _)| &text[..at]);
    if !cut_words {
        kept = kept.rsplit_once(' ').map_or(kept, |(before, _)| before);
    }
    let mut draft = Draft::new(budget)?;
    draft.push(kept)?;
    draft.push(end)?;
    Ok(draft.value())
}

/// A text that is safe in HTML.
pub(crate) fn escape(budget: &Rc<Budget>, text: &str) -> Result<Value, Stop> {
    let mut draft = Draft::new(budget)?;
    for c in text.chars() {
        match c {
            '&' => draft.push("&amp;")?,
            '<' => draft.push("&lt;")?,
            '>' => draft.push("&gt;")?,
            '"' => draft.push("&#34;")?,
            '\'' => draft.push("&#39;")?,
            c => draft.push_char(c)?,
        }
    }
    budget.read(text.len().saturating_mul(4))?;
    Ok(draft.value())
}

/// A text that is safe in a URL.
pub(crate) fn urlencode(budget: &Rc<Budget>, text: &str) -> Result<Value, Stop> {
    let mut draft = Draft::new(budget)?;
    for byte in text.bytes() {
        if byte.is_ascii_alphanumeric() || b"_.-~/".contains(&byte) {
            draft.push_char(char::from(byte))?;
        } else {
            draft.push(&format!("%{byte:02X}"))?;
        }
    }
    budget.read(text.len().saturating_mul(8))?;
    Ok(draft.value())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn budget() -> Rc<Budget> {
        Budget::new(1_000_000, 1 << 20)
    }

    fn written(value: Result<Value, Stop>) -> String {
        let mut draft = Draft::new(&budget()).unwrap();
        draft.write(&value.unwrap()).unwrap();
        draft.into_string()
    }

    #[test]
    fn texts_are_split_as_python_splits_them() {
        let budget = budget();
        let split = |text, separator, most, from_end| written(split(&budget, text, separator, most, from_end));
        assert_eq!(split(" a  b c ", None, None, false), "['a', 'b', 'c']");
        assert_eq!(split(" a  b c ", None, Some(1), false), "['a', 'b c']");
        assert_eq!(split(" a  b c ", None, Some(1), true), "['a  b', 'c']");
        assert_eq!(split("", None, None, false), "[]");
        assert_eq!(split("a,b,c", Some(","), Some(1), false), "['a', 'b,c']");
        assert_eq!(split("a,b,c", Some(","), Some(1), true), "['a,b', 'c']");
        assert_eq!(split("", Some(","), None, false), "['']");
        assert_eq!(lines("a\r\nb\u{2028}c\n\nd", false).collect::<Vec<_>>(), ["a", "b", "c", "", "d"]);
        assert_eq!(lines("a\nb\n", true).collect::<Vec<_>>(), ["a\n", "b\n"]);
    }

    #[test]
    fn texts_are_indented_and_padded_as_jinja_does() {
        let budget = budget();
        let indent = |text, first, blank| written(indent(&budget, text, &Value::Int(2), first, blank));
        assert_eq!(indent("a\n\nb", false, false), "a\n\n  b");
        assert_eq!(indent("a\n\nb\n", true, true), "  a\n  \n  b\n  ");
        assert_eq!(indent("a\n", false, false), "a\n");
        assert_eq!(indent("", true, false), "  ");
        assert_eq!(written(pad(&budget, "ab", 5, " ", |missing| missing / 2)), " ab  ");
        assert_eq!(written(truncate(&budget, "foo bar baz qux", 9, false, "...", 0)), "foo...");
        assert_eq!(written(title(&budget, "it's a-b (c) D", true)), "It's A-B (C) D");
        assert_eq!(written(title(&budget, "it's 3rd", false)), "It'S 3Rd");
        assert_eq!(written(replace(&budget, "aaa", "a", "bb", Some(2))), "bbbba");
        assert_eq!(written(replace(&budget, "ab", "", "-", None)), "-a-b-");
    }
}
