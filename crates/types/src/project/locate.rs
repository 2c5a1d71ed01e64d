//! From a place in the document to a line and column of the text.

use std::borrow::Cow;
use std::ops::Range;

use toml::Spanned;
use toml::de::{DeTable, DeValue};

use super::quote::abbreviated;

/// Which part of a setting a problem points at.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Anchor {
    /// The name: for names that are unknown.
    Key,
    /// The value, or the header of a table.
    Value,
}

/// Where something stands.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Place {
    /// Bytes from the start of the text.
    pub(super) offset: usize,
    /// The path as a person writes it: `models[0].name`.
    pub(super) path: String,
}

/// The parts of a JSON pointer (RFC 6901).
pub(super) fn segments(pointer: &str) -> impl Iterator<Item = Cow<'_, str>> {
    pointer.split('/').skip(1).map(|segment| {
        if segment.contains('~') {
            Cow::Owned(segment.replace("~1", "/").replace("~0", "~"))
        } else {
            Cow::Borrowed(segment)
        }
    })
}

/// One part more at the end of a JSON pointer.
pub(super) fn join(pointer: &str, segment: &str) -> String {
    format!("{pointer}/{}", segment.replace('~', "~0").replace('/', "~1"))
}

enum Node<'a, 'i> {
    Table(&'a DeTable<'i>),
    Array(&'a [Spanned<DeValue<'i>>]),
    /// A plain value, or nothing: the rest of the path is not written in the file.
    Leaf,
}

impl<'a, 'i> Node<'a, 'i> {
    fn of(value: &'a DeValue<'i>) -> Node<'a, 'i> {
        match value {
            DeValue::Table(table) => Node::Table(table),
            DeValue::Array(items) => Node::Array(items),
            _ => Node::Leaf,
        }
    }

    /// The child, with the spans of its name (an item of a list has none) and of its value.
    fn child(&self, segment: &str) -> Option<(Option<Range<usize>>, &'a Spanned<DeValue<'i>>)> {
        match self {
            Node::Table(table) => table.get_key_value(segment).map(|(key, value)| (Some(key.span()), value)),
            Node::Array(items) => items.get(segment.parse::<usize>().ok()?).map(|item| (None, item)),
            Node::Leaf => None,
        }
    }
}

/// Where the thing stands that a JSON pointer names. What is not written in the file (a missing
/// setting) stands where the innermost table around it starts.
pub(super) fn place(root: &DeTable<'_>, pointer: &str, anchor: Anchor) -> Place {
    let mut node = Node::Table(root);
    let mut place = Place { offset: 0, path: String::new() };
    let mut segments = segments(pointer).peekable();
    while let Some(segment) = segments.next() {
        if matches!(node, Node::Array(_)) {
            place.path.push_str(&format!("[{segment}]"));
        } else {
            if !place.path.is_empty() {
                place.path.push('.');
            }
            place.path.push_str(&bare_or_quoted(&segment));
        }
        match node.child(&segment) {
            Some((key, value)) => {
                place.offset = match (anchor, key) {
                    (Anchor::Key, Some(key)) if segments.peek().is_none() => key.start,
                    _ => value.span().start,
                };
                node = Node::of(value.get_ref());
            }
            None => node = Node::Leaf,
        }
    }
    place
}

fn bare_or_quoted(key: &str) -> Cow<'_, str> {
    let bare =
        !key.is_empty() && key.len() <= 64 && key.bytes().all(|b| b.is_ascii_alphanumeric() || b"_-".contains(&b));
    if bare { Cow::Borrowed(key) } else { Cow::Owned(abbreviated(key)) }
}

/// The lines of a text.
pub(super) struct Lines<'t> {
    text: &'t str,
    starts: Vec<usize>,
}

impl<'t> Lines<'t> {
    pub(super) fn new(text: &'t str) -> Lines<'t> {
        let breaks = text.bytes().enumerate().filter(|(_, byte)| *byte == b'\n').map(|(at, _)| at + 1);
        Lines { text, starts: std::iter::once(0).chain(breaks).collect() }
    }

    /// Whether nothing but blanks and a comment follows on the line of this byte.
    pub(super) fn ends_at(&self, offset: usize) -> bool {
        let rest = self.text.get(offset..).and_then(|rest| rest.lines().next()).unwrap_or_default().trim_start();
        rest.is_empty() || rest.starts_with('#')
    }

    /// Line and column of a byte, both counted from 1; columns count characters. What lies behind
    /// the end is at the end.
    pub(super) fn position(&self, offset: usize) -> (usize, usize) {
        let offset = (0..=offset.min(self.text.len())).rev().find(|at| self.text.is_char_boundary(*at)).unwrap_or(0);
        let line = self.starts.partition_point(|start| *start <= offset).max(1);
        let start = self.starts.get(line - 1).copied().unwrap_or(0);
        let column = self.text.get(start..offset).map_or(0, |before| before.chars().count()) + 1;
        (line, column)
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    const TEXT: &str = "top = 1\n[server]\nadresse = \"ü\"\n\n[[models]]\nname = \"a\"\n  [[models.profiles]]\n  max = 3\n\
                        [[models]]\nprofiles = [{ max = 4 }, { \"a/b~\" = 5 }]\n";

    fn position(pointer: &str, anchor: Anchor) -> (usize, usize, String) {
        let root = DeTable::parse(TEXT).unwrap();
        let place = place(root.get_ref(), pointer, anchor);
        let (line, column) = Lines::new(TEXT).position(place.offset);
        (line, column, place.path)
    }

    #[test]
    fn keys_values_headers_and_items_are_found() {
        for (pointer, anchor, line, column, path) in [
            ("", Anchor::Value, 1, 1, ""),
            ("/top", Anchor::Value, 1, 7, "top"),
            ("/server", Anchor::Value, 2, 1, "server"),
            ("/server/adresse", Anchor::Key, 3, 1, "server.adresse"),
            ("/server/adresse", Anchor::Value, 3, 11, "server.adresse"),
            ("/models/0", Anchor::Value, 5, 1, "models[0]"),
            ("/models/0/profiles/0", Anchor::Value, 7, 3, "models[0].profiles[0]"),
            ("/models/0/profiles/0/max", Anchor::Value, 8, 9, "models[0].profiles[0].max"),
            ("/models/1/profiles/0/max", Anchor::Key, 10, 15, "models[1].profiles[0].max"),
            ("/models/1/profiles/1/a~1b~0", Anchor::Value, 10, 37, "models[1].profiles[1].\"a/b~\""),
            ("/models/1/name", Anchor::Value, 9, 1, "models[1].name"),
            ("/models/7/name/x", Anchor::Key, 5, 1, "models[7].name.x"),
        ] {
            assert_eq!(position(pointer, anchor), (line, column, path.to_owned()), "{pointer}");
        }
    }

    #[test]
    fn a_byte_behind_the_end_is_at_the_end() {
        assert_eq!(Lines::new("ab\ncü").position(100), (2, 3));
        assert_eq!(Lines::new("ab\ncü").position(5), (2, 2), "inside a character is at its start");
        assert_eq!(Lines::new("").position(0), (1, 1));
    }
}
