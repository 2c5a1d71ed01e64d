//! Texts with references: `${hits.points}` by itself, or among other text.

use super::{Trouble, instead_of, is_name};

/// References in one text.
const REFERENCES_MAX: usize = 64;
/// Names in one reference.
const PARTS_MAX: usize = 16;
/// Characters of a reference that a problem shows.
const SHOWN_CHARS: usize = 60;

/// A text, cut up at its references.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Template {
    /// What it is made of.
    pub pieces: Vec<Piece>,
}

/// A part of a text.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Piece {
    /// What stands there.
    Text(String),
    /// What is read from somewhere.
    Read(Reference),
}

/// Where a value is read from: `request`, a step, or within a list `item` and `number`, and a way into it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Reference {
    /// The name it begins with.
    pub root: String,
    /// The way from there.
    pub path: Vec<Part>,
}

/// A part of the way.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Part {
    /// The value of that name.
    Name(String),
    /// Each item of a list: what follows is read of every one.
    Each,
}

impl std::fmt::Display for Reference {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "${{{}", self.root)?;
        for part in &self.path {
            match part {
                Part::Each => write!(f, "[*]")?,
                Part::Name(name) if is_name(name) => write!(f, ".{name}")?,
                Part::Name(name) => write!(f, "[{name:?}]")?,
            }
        }
        write!(f, "}}")
    }
}

impl Template {
    /// Reads a text. `$${` stands for `${` itself.
    ///
    /// # Errors
    /// What is wrong with the first reference that cannot be read.
    pub fn parse(text: &str) -> Result<Template, Trouble> {
        let (mut pieces, mut plain, mut rest, mut references) = (Vec::new(), String::new(), text, 0);
        while let Some(at) = rest.find("${") {
            let before = rest.get(..at).unwrap_or_default();
            let after = rest.get(at + 2..).unwrap_or_default();
            if let Some(escaped) = before.strip_suffix('$') {
                plain.push_str(escaped);
                plain.push_str("${");
                rest = after;
                continue;
            }
            plain.push_str(before);
            let Some((inside, behind)) = split_at_end(after) else {
                let wrong = format!("the reference {} is not closed", shown(rest.get(at..).unwrap_or_default()));
                return Err(Trouble::new(wrong, "end it with a brace, or write $${ for the text ${"));
            };
            if !plain.is_empty() {
                pieces.push(Piece::Text(std::mem::take(&mut plain)));
            }
            pieces.push(Piece::Read(Reference::parse(inside)?));
            references += 1;
            if references > REFERENCES_MAX {
                let wrong = format!("the text has more than {REFERENCES_MAX} references");
                return Err(Trouble::new(wrong, "write fewer, or join a list in a step of its own"));
            }
            rest = behind;
        }
        plain.push_str(rest);
        if !plain.is_empty() || pieces.is_empty() {
            pieces.push(Piece::Text(plain));
        }
        Ok(Template { pieces })
    }

    /// The reference that the whole text is, if it is one.
    #[must_use]
    pub fn single(&self) -> Option<&Reference> {
        match self.pieces.as_slice() {
            [Piece::Read(reference)] => Some(reference),
            _ => None,
        }
    }

    /// What it reads.
    pub fn references(&self) -> impl Iterator<Item = &Reference> {
        self.pieces.iter().filter_map(|piece| match piece {
            Piece::Read(reference) => Some(reference),
            Piece::Text(_) => None,
        })
    }
}

/// Cuts a text at the brace that ends a reference: braces in quotes are part of a name.
fn split_at_end(text: &str) -> Option<(&str, &str)> {
    let mut quoted = false;
    for (at, c) in text.char_indices() {
        match c {
            '"' => quoted = !quoted,
            '}' if !quoted => return Some((text.get(..at)?, text.get(at + 1..)?)),
            _ => {}
        }
    }
    None
}

fn shown(text: &str) -> String {
    match text.char_indices().nth(SHOWN_CHARS) {
        Some((end, _)) => format!("{:?}...", text.get(..end).unwrap_or_default()),
        None => format!("{text:?}"),
    }
}

impl Reference {
    /// Reads what stands between the braces.
    fn parse(inside: &str) -> Result<Reference, Trouble> {
        let refused = |right: &str| {
            let wrong = format!("{} is not a reference", shown(&format!("${{{inside}}}")));
            Err(Trouble::new(wrong, right))
        };
        const FORM: &str = "write ${request.FIELD}, ${STEP.FIELD}, or ${STEP.LIST[*].FIELD} for a field of each item";
        let end = inside.find(['.', '[']).unwrap_or(inside.len());
        let (root, mut rest) = inside.split_at(end);
        if !is_name(root) {
            return refused(FORM);
        }
        let mut path = Vec::new();
        while !rest.is_empty() {
            let (part, after) = if let Some(named) = rest.strip_prefix('.') {
                let (name, after) = named.split_at(named.find(['.', '[']).unwrap_or(named.len()));
                if !is_name(name) {
                    return refused(FORM);
                }
                (Part::Name(name.to_owned()), after)
            } else if let Some(after) = rest.strip_prefix("[*]") {
                (Part::Each, after)
            } else if let Some((name, after)) = rest.strip_prefix("[\"").and_then(|quoted| quoted.split_once("\"]")) {
                (Part::Name(name.to_owned()), after)
            } else if rest.starts_with('[') {
                return refused("write [*] for every item; single ones have no reference");
            } else {
                return refused(FORM);
            };
            path.push(part);
            rest = after;
        }
        if path.len() > PARTS_MAX {
            return refused("write a shorter one");
        }
        if path.iter().filter(|part| **part == Part::Each).count() > 1 {
            return refused("write [*] once: lists of lists are not taken apart");
        }
        Ok(Reference { root: root.to_owned(), path })
    }

    /// The part of the way up to the items of a list, where it goes through one.
    #[must_use]
    pub fn list(&self) -> Option<Reference> {
        let at = self.path.iter().position(|part| *part == Part::Each)?;
        Some(Reference { root: self.root.clone(), path: self.path.get(..at)?.to_vec() })
    }
}

/// What to say of a name that is not in a table.
pub(super) fn no_such_name<'a>(
    reference: &Reference,
    name: &str,
    owner: &str,
    known: impl IntoIterator<Item = &'a str>,
) -> Trouble {
    let wrong = format!("{} reads {name:?}, which {owner} does not have", shown(&reference.to_string()));
    Trouble::new(wrong, instead_of(name, known))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn a_text_is_cut_at_its_references() {
        let template = Template::parse("a ${x.y} b$${c} $ {d} ${p.q[*].r[\"s }t\"]}").unwrap();
        assert_eq!(template.pieces.len(), 4, "{template:?}");
        assert_eq!(template.pieces[2], Piece::Text(" b${c} $ {d} ".to_owned()));
        let Piece::Read(last) = &template.pieces[3] else { unreachable!() };
        assert_eq!(last.to_string(), "${p.q[*].r[\"s }t\"]}");
        assert_eq!(last.list().unwrap().to_string(), "${p.q}");
        assert!(template.single().is_none());
        assert!(Template::parse("${x}").unwrap().single().is_some());
        assert_eq!(Template::parse("").unwrap().pieces, [Piece::Text(String::new())]);
    }

    #[test]
    fn what_is_no_reference_is_refused() {
        for bad in [
            "${",
            "${}",
            "${.a}",
            "${a.}",
            "${a..b}",
            "${a[0]}",
            "${a[*}",
            "${a[*].b[*]}",
            "${a b}",
            "${a.b c}",
            "${ a }",
            "${a[\"b]}",
            "x ${a",
            "${ü}",
            "${a}${b",
            "${a]}",
        ] {
            assert!(Template::parse(bad).is_err(), "{bad:?} was read as {:?}", Template::parse(bad));
        }
    }

    proptest! {
        #[test]
        fn any_text_is_read_or_refused(text in ".{0,80}") {
            let _ = Template::parse(&text);
        }

        #[test]
        fn a_reference_survives_being_written(
            root in "[a-z_][a-z0-9_-]{0,9}",
            names in prop::collection::vec("[a-z]{1,5}|[a-z0-9 .{}ü]{1,8}", 0..4),
            each in prop::option::of(0_usize..4),
        ) {
            let mut path: Vec<Part> = names.into_iter().map(Part::Name).collect();
            if let Some(at) = each {
                path.insert(at.min(path.len()), Part::Each);
            }
            let reference = Reference { root, path };
            let read = Template::parse(&reference.to_string()).unwrap();
            prop_assert_eq!(read.single(), Some(&reference));
        }

        #[test]
        fn a_text_without_references_is_itself(text in "[a-z ${}$]{0,30}") {
            prop_assume!(!text.contains("${"));
            prop_assert_eq!(Template::parse(&text).unwrap().pieces, [Piece::Text(text)]);
        }
    }
}
