//! The whole check: text to a [`Project`], or to every problem of the text.

use std::collections::HashSet;
use std::fmt;

use serde::Deserialize;
use toml::Spanned;
use toml::de::DeTable;

use super::locate::{Anchor, Lines, place};
use super::{Profile, Project, json, rules, shape};

/// The largest project file, in bytes.
pub const FILE_BYTES_MAX: usize = 1 << 20;
/// The most problems that are reported; of the rest only the number is told.
pub const PROBLEMS_MAX: usize = 100;

/// One thing that is wrong with a project file, and what would be right.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Problem {
    /// The line, counted from 1.
    pub line: usize,
    /// The column in characters, counted from 1.
    pub column: usize,
    /// The setting, such as `models[0].name`; empty when the whole file is meant.
    pub at: String,
    /// What is wrong.
    pub wrong: String,
    /// What would be right.
    pub right: String,
}

impl Problem {
    /// The problem in one line, with the file's name as the user gave it: editors and terminals
    /// make a link of it.
    #[must_use]
    pub fn render(&self, file: &str) -> String {
        format!("{file}:{self}")
    }
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}: ", self.line, self.column)?;
        if !self.at.is_empty() {
            write!(f, "{}: ", self.at)?;
        }
        write!(f, "{}; {}", self.wrong, self.right)
    }
}

impl std::error::Error for Problem {}

/// A project file in which nothing is wrong.
#[derive(Clone, Debug, PartialEq)]
pub struct Checked {
    /// What the file says. Every model has at least one profile: one without gets
    /// [`Profile::default`].
    pub project: Project,
    /// What is allowed but perhaps not meant.
    pub warnings: Vec<Problem>,
}

/// Checks a project file whole.
///
/// # Errors
/// Every problem that was found, in the order of the lines, at most [`PROBLEMS_MAX`] and then one
/// that tells how many more there are. A file that is not TOML gets its syntax errors only.
pub fn check(text: &str) -> Result<Checked, Vec<Problem>> {
    if text.len() > FILE_BYTES_MAX {
        let wrong = format!("the file has {} bytes", text.len());
        return Err(vec![Problem::of_file(wrong, format!("write at most {FILE_BYTES_MAX}"))]);
    }
    let lines = Lines::new(text);
    let (root, errors) = DeTable::parse_recoverable(text);
    if !errors.is_empty() {
        return Err(syntax(&errors, &lines));
    }
    let mut found = Found::default();
    let mut warned = Found::default();
    if let Some(document) = json::to_json(root.get_ref(), &mut found) {
        shape::check(&document, &mut found);
        rules::check(&document, &mut found);
        rules::warn(&document, &mut warned);
    }
    if !found.problems.is_empty() {
        return Err(found.located(root.get_ref(), &lines));
    }
    let warnings = warned.located(root.get_ref(), &lines);
    let mut project = read(root, &lines).map_err(|problem| vec![problem])?;
    for model in project.models.iter_mut().filter(|model| model.profiles.is_empty()) {
        model.profiles.push(Profile::default());
    }
    Ok(Checked { project, warnings })
}

/// A problem that somebody else found in a file that [`check`] lets pass, at the place that the JSON pointer names: an
/// expression that does not compile, as only its compiler knows.
#[must_use]
pub fn problem_at(text: &str, pointer: &str, wrong: String, right: String) -> Problem {
    let (root, _) = DeTable::parse_recoverable(text);
    let place = place(root.get_ref(), pointer, Anchor::Value);
    let (line, column) = Lines::new(text).position(place.offset);
    Problem { line, column, at: place.path, wrong, right }
}

/// The document as a [`Project`]. The schema is made from the same types, so serde refuses nothing
/// here that it let pass; should it ever, that is a problem with a line too.
fn read(root: Spanned<DeTable<'_>>, lines: &Lines<'_>) -> Result<Project, Problem> {
    Project::deserialize(toml::Deserializer::from(root)).map_err(|error| {
        let (line, column) = lines.position(error.span().map_or(0, |span| span.start));
        let wrong = error.message().lines().next().unwrap_or("the file cannot be read").to_owned();
        Problem { line, column, at: String::new(), wrong, right: "correct this value".to_owned() }
    })
}

fn syntax(errors: &[toml::de::Error], lines: &Lines<'_>) -> Vec<Problem> {
    let offset = |error: &toml::de::Error| error.span().map_or(0, |span| span.start);
    let mut errors: Vec<&toml::de::Error> = errors.iter().collect();
    errors.sort_by_key(|error| offset(error));
    let mut problems: Vec<Problem> = Vec::new();
    for error in errors {
        let (line, column) = lines.position(offset(error));
        // What follows an error on its line is seldom an error of its own.
        if problems.last().is_some_and(|last| last.line == line) {
            continue;
        }
        let message = error.message();
        problems.push(if lines.ends_at(offset(error)) && message.starts_with("string values must be quoted") {
            syntax_problem("a value is missing, expected a value", line, column)
        } else {
            syntax_problem(message, line, column)
        });
        // A bracket or a long text that stays open makes an error of every line after it.
        let in_array = message.contains("array") && !message.contains("array table");
        if in_array || message.contains("inline table") || message.contains("multi-line") {
            break;
        }
    }
    limited(problems)
}

fn syntax_problem(message: &str, line: usize, column: usize) -> Problem {
    let (wrong, expected) = message.split_once(", expected ").unwrap_or((message, ""));
    let right = match (wrong, expected) {
        (wrong, _) if wrong.starts_with("string values must be quoted") => "write the text in quotes".to_owned(),
        (wrong, _) if wrong.starts_with("invalid basic string") => {
            "end the text with a quote on its line, and write control characters as escapes".to_owned()
        }
        (wrong, _) if wrong.starts_with("duplicate key") => "write each name once in a table".to_owned(),
        (_, "nothing") => "write a number, or put the text in quotes".to_owned(),
        (_, "") => "see https://toml.io for how TOML is written".to_owned(),
        (_, expected) => format!("write {}", expected.replace(", ", " or ").replace(['\r', '\n'], " ")),
    };
    Problem { line, column, at: String::new(), wrong: format!("this is not TOML: {wrong}"), right }
}

fn limited(mut problems: Vec<Problem>) -> Vec<Problem> {
    let rest = problems.len().saturating_sub(PROBLEMS_MAX);
    if rest > 0 {
        let next = problems.swap_remove(PROBLEMS_MAX);
        problems.truncate(PROBLEMS_MAX);
        problems.push(Problem::rest(rest, next.line, next.column));
    }
    problems
}

impl Problem {
    fn of_file(wrong: String, right: String) -> Problem {
        Problem { line: 1, column: 1, at: String::new(), wrong, right }
    }

    fn rest(count: usize, line: usize, column: usize) -> Problem {
        let wrong = format!("from here on there are {count} more problems");
        Problem { line, column, at: String::new(), wrong, right: "correct the ones above first".to_owned() }
    }
}

/// Problems while they are collected: where each is is worked out at the end, for those reported.
#[derive(Default)]
pub(super) struct Found {
    problems: Vec<Unplaced>,
    /// Pointers of the values that have a problem: one each, and no rule reads them.
    broken: HashSet<String>,
    /// Pointers of the numbers that the file writes with a decimal point.
    pub(super) fractions: Vec<String>,
}

struct Unplaced {
    pointer: String,
    anchor: Anchor,
    wrong: String,
    right: String,
}

impl Found {
    /// A problem of a value; only the first of each value counts.
    pub(super) fn value(&mut self, pointer: &str, wrong: impl Into<String>, right: String) {
        if self.broken.insert(pointer.to_owned()) {
            self.push(pointer, Anchor::Value, wrong.into(), right);
        }
    }

    /// A problem of a value that JSON has no word for.
    pub(super) fn no_json(&mut self, pointer: &str, wrong: String) {
        self.value(pointer, wrong, format!("write {}", shape::expected(pointer)));
    }

    /// A problem of a name.
    pub(super) fn key(&mut self, pointer: &str, wrong: String, right: String) {
        self.push(pointer, Anchor::Key, wrong, right);
    }

    /// A setting that the table at `pointer` lacks.
    pub(super) fn missing(&mut self, pointer: &str, wrong: String, right: String) {
        self.push(pointer, Anchor::Value, wrong, right);
    }

    /// Whether the value has a problem already.
    pub(super) fn is_broken(&self, pointer: &str) -> bool {
        self.broken.contains(pointer)
    }

    fn push(&mut self, pointer: &str, anchor: Anchor, wrong: String, right: String) {
        self.problems.push(Unplaced { pointer: pointer.to_owned(), anchor, wrong, right });
    }

    /// The problems by line. Lines are counted only for those that are reported: counting columns
    /// in one line of a mebibyte, for each of 100,000 problems in it, would take minutes.
    fn located(self, root: &DeTable<'_>, lines: &Lines<'_>) -> Vec<Problem> {
        let places = self.problems.into_iter().map(|problem| (place(root, &problem.pointer, problem.anchor), problem));
        let mut placed: Vec<_> = places.collect();
        placed.sort_by(|(a, _), (b, _)| (a.offset, &a.path).cmp(&(b.offset, &b.path)));
        let rest = placed.len().saturating_sub(PROBLEMS_MAX);
        let mut problems = Vec::with_capacity(placed.len().min(PROBLEMS_MAX + 1));
        for (count, (place, problem)) in placed.into_iter().take(PROBLEMS_MAX + 1).enumerate() {
            let (line, column) = lines.position(place.offset);
            problems.push(if count == PROBLEMS_MAX {
                Problem::rest(rest, line, column)
            } else {
                Problem { line, column, at: place.path, wrong: problem.wrong, right: problem.right }
            });
        }
        problems
    }
}
