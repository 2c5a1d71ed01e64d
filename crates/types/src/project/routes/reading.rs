//! What a step reads, where, and what has to be there.

use super::kind::{Kind, Slot};
use super::scope::{Scope, plain, present};
use super::step::{Action, Count, Step};
use super::{Mapping, Reference, Template, Trouble};
use crate::project::locate::join;

/// What has to be in a place.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Wanted {
    /// What can be written into a text.
    Plain,
    /// What can be written into a text, of which one item may be read.
    PlainOfItem,
    /// A list of what can be written into a text.
    Texts,
    /// A text, whole.
    Text,
    /// A whole number.
    Count,
    /// A vector.
    Vector,
    /// A list of ids.
    Ids,
    /// A list of anything.
    Items,
    /// What a filter compares with: one value, or several.
    Compared,
    /// What features are asked for with, whose types are told where they are known.
    Given,
    /// Whatever there is.
    Anything,
}

/// A reference in a step.
#[derive(Clone, Debug)]
pub(super) struct Reading {
    /// Where it stands: a JSON pointer from the step.
    pub(super) pointer: String,
    /// What it says.
    pub(super) reference: Reference,
    /// What has to be there.
    pub(super) wanted: Wanted,
    /// Whether it stands in the fallback, so that it is read only when the step fails.
    pub(super) in_fallback: bool,
}

/// What a step reads, and what is wrong with the texts that say so.
#[derive(Clone, Debug, Default)]
pub(super) struct Readings {
    pub(super) all: Vec<Reading>,
    /// Each with where it stands: a JSON pointer from the step.
    pub(super) troubles: Vec<(String, Trouble)>,
}

impl Readings {
    pub(super) fn of(step: &Step) -> Readings {
        let mut readings = Readings::default();
        for action in step.actions() {
            readings.action(action);
        }
        for (name, value) in step.fallback.iter().flatten() {
            readings.mapping(&join("/fallback", name), value, Wanted::Anything);
        }
        for reading in readings.all.iter_mut().filter(|reading| reading.pointer.starts_with("/fallback/")) {
            reading.in_fallback = true;
        }
        readings
    }

    fn action(&mut self, action: Action<'_>) {
        let at = |setting: &str| format!("/{}/{setting}", action.name());
        match action {
            Action::Embed(embed) => {
                self.optional_template(&at("text"), embed.text.as_deref(), Wanted::Plain);
                self.optional_single(&at("texts"), embed.texts.as_deref(), Wanted::Texts);
            }
            Action::Search(search) => {
                self.optional_single(&at("vector"), search.vector.as_deref(), Wanted::Vector);
                self.optional_template(&at("text"), search.text.as_deref(), Wanted::Plain);
                self.optional_single(&at("positive"), search.positive.as_deref(), Wanted::Ids);
                self.optional_single(&at("negative"), search.negative.as_deref(), Wanted::Ids);
                self.count(&at("limit"), Some(&search.limit));
                if let Some(filter) = &search.filter {
                    self.mapping(&at("filter"), filter, Wanted::Compared);
                }
            }
            Action::Rerank(rerank) => {
                self.optional_template(&at("query"), Some(&rerank.query), Wanted::Plain);
                self.optional_single(&at("documents"), Some(&rerank.documents), Wanted::Texts);
                self.count(&at("top"), rerank.top.as_ref());
            }
            Action::Classify(classify) => {
                self.optional_template(&at("text"), classify.text.as_deref(), Wanted::Plain);
                self.optional_single(&at("texts"), classify.texts.as_deref(), Wanted::Texts);
                self.optional_single(&at("image"), classify.image.as_deref(), Wanted::Text);
            }
            Action::Generate(generate) => {
                self.optional_template(&at("prompt"), generate.prompt.as_deref(), Wanted::Plain);
                for (place, message) in generate.messages.iter().flatten().enumerate() {
                    let pointer = at(&format!("messages/{place}/content"));
                    self.optional_template(&pointer, Some(&message.content), Wanted::Plain);
                }
                self.count(&at("max_tokens"), generate.max_tokens.as_ref());
            }
            Action::FetchPayload(fetch) => self.optional_single(&at("ids"), Some(&fetch.ids), Wanted::Ids),
            Action::Join(join) => {
                self.optional_single(&at("items"), Some(&join.items), Wanted::Items);
                self.optional_template(&at("each"), Some(&join.each), Wanted::PlainOfItem);
            }
            Action::Features(read) => {
                for (setting, values) in [("entities", &read.entities), ("request", &read.request)] {
                    for (name, value) in values {
                        self.mapping(&join(&at(setting), name), value, Wanted::Given);
                    }
                }
            }
        }
    }

    fn optional_template(&mut self, pointer: &str, text: Option<&str>, wanted: Wanted) {
        match text.map(Template::parse) {
            None => {}
            Some(Ok(template)) => {
                for reference in template.references() {
                    self.read(pointer, reference.clone(), wanted);
                }
            }
            Some(Err(trouble)) => self.troubles.push((pointer.to_owned(), trouble)),
        }
    }

    /// A place for exactly one reference.
    fn optional_single(&mut self, pointer: &str, text: Option<&str>, wanted: Wanted) {
        let Some(text) = text else { return };
        match Template::parse(text) {
            Ok(template) => match template.single() {
                Some(reference) => self.read(pointer, reference.clone(), wanted),
                None => {
                    let wrong = format!(
                        "{} is text, and {} is needed here",
                        crate::project::quote::abbreviated(text),
                        wanted.described()
                    );
                    let right = format!("write one reference, such as {}", wanted.example());
                    self.troubles.push((pointer.to_owned(), Trouble::new(wrong, right)));
                }
            },
            Err(trouble) => self.troubles.push((pointer.to_owned(), trouble)),
        }
    }

    fn count(&mut self, pointer: &str, count: Option<&Count>) {
        if let Some(Count::Read(text)) = count {
            self.optional_single(pointer, Some(text), Wanted::Count);
        }
    }

    pub(super) fn mapping(&mut self, pointer: &str, value: &serde_json::Value, wanted: Wanted) {
        match Mapping::parse(value) {
            Ok(mapping) => {
                for (rest, reference) in mapping.references() {
                    self.read(&format!("{pointer}{rest}"), reference.clone(), wanted);
                }
            }
            Err((rest, trouble)) => self.troubles.push((format!("{pointer}{rest}"), trouble)),
        }
    }

    fn read(&mut self, pointer: &str, reference: Reference, wanted: Wanted) {
        self.all.push(Reading { pointer: pointer.to_owned(), reference, wanted, in_fallback: false });
    }
}

impl Wanted {
    /// In words, with an article.
    fn described(self) -> &'static str {
        match self {
            Wanted::Plain | Wanted::PlainOfItem | Wanted::Text => "text",
            Wanted::Texts => "a list of texts",
            Wanted::Count => "a whole number",
            Wanted::Vector => "a vector",
            Wanted::Ids => "a list of ids",
            Wanted::Items => "a list",
            Wanted::Compared => "a value or a list of values",
            Wanted::Given | Wanted::Anything => "a value",
        }
    }

    fn example(self) -> &'static str {
        match self {
            Wanted::Texts => "${hits.points[*].payload.text}",
            Wanted::Count => "${request.limit}",
            Wanted::Vector => "${query.vector}",
            Wanted::Ids => "${hits.points[*].id}",
            Wanted::Items => "${hits.points}",
            _ => "${request.text}",
        }
    }
}

impl Reading {
    /// Whether what is read is what has to be there; `items` is the list that a join goes through.
    pub(super) fn check(&self, scope: &Scope, items: Option<&Kind>) -> Result<(), Trouble> {
        let item = items.map(|items| match items {
            Kind::List(item) => item.as_ref().clone(),
            _ => Kind::Any,
        });
        let of_item = item.as_ref().filter(|_| self.wanted == Wanted::PlainOfItem);
        let slot = scope.resolve(&self.reference, of_item)?;
        let reference = &self.reference;
        if !scope.knows(&reference.root) {
            return Ok(());
        }
        match self.wanted {
            Wanted::Anything => return Ok(()),
            // A condition that stands in a list is left out with what it compares with.
            Wanted::Compared if self.stands_in_list() => {}
            _ => present(reference, &slot)?,
        }
        let fits = match self.wanted {
            Wanted::Plain | Wanted::PlainOfItem => return plain(reference, &slot),
            Wanted::Anything => true,
            Wanted::Given => !slot.of.holds_vectors(),
            Wanted::Text => slot.of.fits(&Kind::Text),
            Wanted::Texts | Wanted::Ids => match &slot.of {
                Kind::List(items) => items.is_plain(),
                Kind::Any => true,
                _ => false,
            },
            Wanted::Count => slot.of.fits(&Kind::Integer),
            Wanted::Vector => slot.of.fits(&Kind::Vector),
            Wanted::Items => matches!(slot.of, Kind::List(_) | Kind::Any),
            Wanted::Compared => match &slot.of {
                Kind::List(items) => items.is_plain(),
                one => one.is_plain(),
            },
        };
        if fits { Ok(()) } else { Err(self.mismatch(&slot)) }
    }

    fn mismatch(&self, slot: &Slot) -> Trouble {
        let (is, needed) = (slot.of.described(), self.wanted.described());
        let wrong = format!("\"{}\" is {is}, and {needed} is needed here", self.reference);
        let right = match (self.wanted, &slot.of) {
            (Wanted::Texts | Wanted::Ids, Kind::List(_)) => {
                format!("read a field of each item, such as {}", self.wanted.example())
            }
            (Wanted::Vector, Kind::Text) => "make a vector of it in a step with embed, and read that".to_owned(),
            _ => format!("write a reference to one, such as {}", self.wanted.example()),
        };
        Trouble::new(wrong, right)
    }

    /// Whether a list of conditions is around it.
    fn stands_in_list(&self) -> bool {
        self.pointer.split('/').any(|segment| segment.parse::<usize>().is_ok())
    }
}
