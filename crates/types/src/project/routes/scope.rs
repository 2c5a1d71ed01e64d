//! What can be read in a route, and what kind of value it is.

use std::collections::BTreeMap;

use super::kind::{Kind, Record, Slot};
use super::step::{Action, Payload, ReadFeatures, Step};
use super::template::no_such_name;
use super::{Field, Mapping, Part, Reference, Route, Template, Trouble, instead_of};
use crate::project::features::{Catalogue, ChosenFeatures, FeatureType, Scalar};

/// The names that references begin with, and what is behind each.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Scope {
    /// Nothing where the fields of the request are not known, for what is wrong with them.
    request: Option<Record>,
    /// Nothing where a step's outputs are not known, for what is wrong with it.
    steps: BTreeMap<String, Option<Given>>,
}

/// What a step gives.
#[derive(Clone, Debug, PartialEq)]
struct Given {
    action: &'static str,
    outputs: Record,
}

impl Scope {
    /// What can be read in a route that was checked, of a project with these features.
    #[must_use]
    pub fn of(route: &Route, features: &Catalogue) -> Scope {
        let steps: Vec<(&str, Option<&Step>)> =
            route.steps.iter().map(|step| (step.name.as_str(), Some(step))).collect();
        Scope::new(Some(Field::record(&route.request)), &steps, features)
    }

    /// The same of a route of which parts cannot be read: whatever is read of those is believed.
    pub(super) fn new(request: Option<Record>, steps: &[(&str, Option<&Step>)], features: &Catalogue) -> Scope {
        let mut scope = Scope { request, steps: BTreeMap::new() };
        for (name, _) in steps {
            scope.steps.insert((*name).to_owned(), None);
        }
        // What a rerank gives depends on what it reads, which may be what another gives; a chain is no longer
        // than there are steps, and what is in a circle stays unknown.
        for _ in steps {
            let mut settled = true;
            for (name, step) in steps {
                if scope.steps.get(*name).is_some_and(Option::is_some) {
                    continue;
                }
                let Some(action) = step.and_then(Step::action) else { continue };
                if let Some(outputs) = scope.outputs(action, features) {
                    settled = false;
                    scope.steps.insert((*name).to_owned(), Some(Given { action: action.name(), outputs }));
                }
            }
            if settled {
                break;
            }
        }
        scope
    }

    /// What a step gives, once what decides it is known.
    fn outputs(&self, action: Action<'_>, features: &Catalogue) -> Option<Record> {
        Some(match action {
            Action::Embed(embed) if embed.texts.is_some() => Record::of([("vectors", Kind::Vector.list())]),
            Action::Embed(_) => Record::of([("vector", Kind::Vector)]),
            Action::Search(search) => {
                let mut point = point(&search.with_payload);
                point.fields.insert("score".to_owned(), Slot::of(Kind::Number));
                Record::of([("points", Kind::Record(point).list())])
            }
            Action::FetchPayload(fetch) => Record::of([("points", Kind::Record(point(&fetch.with_payload)).list())]),
            Action::Rerank(rerank) => {
                let document = [("index", Kind::Integer), ("text", Kind::Text), ("score", Kind::Number)];
                let mut outputs = Record::of([("documents", Kind::Record(Record::of(document)).list())]);
                if let Some(points) = self.reranked(&rerank.documents)? {
                    outputs.fields.insert("points".to_owned(), Slot::of(points));
                }
                outputs
            }
            Action::Classify(classify) => {
                let scores = Record { fields: BTreeMap::new(), rest: Some(Box::new(Kind::Number)) };
                let one =
                    Record::of([("label", Kind::Text), ("score", Kind::Number), ("scores", Kind::Record(scores))]);
                if classify.texts.is_some() { Record::of([("results", Kind::Record(one).list())]) } else { one }
            }
            Action::Generate(_) => Record::of([
                ("text", Kind::Text),
                ("finish_reason", Kind::Text),
                ("prompt_tokens", Kind::Integer),
                ("written_tokens", Kind::Integer),
            ]),
            Action::Join(_) => Record::of([("text", Kind::Text)]),
            Action::Features(read) => {
                let chosen = chosen(read, features).ok()??;
                let slot = |(name, of): (String, FeatureType)| {
                    let optional = !read.default.contains_key(&name);
                    (name, Slot { of: kind_of_feature(of), optional })
                };
                let fields = chosen.named(read.full_feature_names).ok()?.into_iter().map(slot).collect();
                Record { fields, rest: None }
            }
        })
    }

    /// What becomes of the points that documents were read from: nothing where they were read from none, and
    /// `None` where that is not known.
    fn reranked(&self, documents: &str) -> Option<Option<Kind>> {
        let template = Template::parse(documents).ok()?;
        let documents = template.single()?;
        let Some(list) = documents.list() else {
            return if self.knows(&documents.root) { self.resolve(documents, None).ok().map(|_| None) } else { None };
        };
        if self.steps.get(&list.root).is_some_and(Option::is_none) {
            return None;
        }
        Some(match self.resolve(&list, None).ok()?.of {
            Kind::List(items) => match *items {
                Kind::Record(mut record) => {
                    record.fields.insert("score".to_owned(), Slot::of(Kind::Number));
                    Some(Kind::Record(record).list())
                }
                Kind::Any => Some(Kind::Any.list()),
                _ => None,
            },
            Kind::Any => Some(Kind::Any.list()),
            _ => None,
        })
    }

    /// Everything that a step gives, by name; nothing where it is not known.
    #[must_use]
    pub fn outputs_of(&self, step: &str) -> Option<&Record> {
        self.steps.get(step).and_then(Option::as_ref).map(|given| &given.outputs)
    }

    /// Whether what is behind a name is known, so that what is read of it can be checked.
    pub(super) fn knows(&self, root: &str) -> bool {
        match self.steps.get(root) {
            Some(step) => step.is_some(),
            None => root != "request" || self.request.is_some(),
        }
    }

    /// The kind of value that a reference reads; `item` is what the items are that a join goes through.
    ///
    /// # Errors
    /// When it reads what nobody writes.
    pub fn resolve(&self, reference: &Reference, item: Option<&Kind>) -> Result<Slot, Trouble> {
        let mut owner = format!("{:?}", reference.root);
        let start = match (reference.root.as_str(), item) {
            ("request", _) => {
                "the request".clone_into(&mut owner);
                self.request.clone().map_or(Kind::Any, Kind::Record)
            }
            ("item", Some(item)) => item.clone(),
            ("number", Some(_)) => Kind::Integer,
            (root, _) => match self.steps.get(root) {
                Some(Some(given)) => {
                    owner = format!("the {} step {root:?}", given.action);
                    Kind::Record(given.outputs.clone())
                }
                Some(None) => Kind::Any,
                None => return Err(self.no_such_root(reference, item.is_some())),
            },
        };
        let (mut here, mut optional, mut each) = (start, false, false);
        for part in &reference.path {
            here = match (here, part) {
                (Kind::Any, Part::Name(_)) => Kind::Any,
                (Kind::Any, Part::Each) => {
                    each = true;
                    Kind::Any
                }
                (Kind::List(items), Part::Each) => {
                    each = true;
                    *items
                }
                (Kind::Record(record), Part::Name(name)) => {
                    let Some(slot) = record.get(name) else {
                        let known = record.fields.keys().map(String::as_str);
                        return Err(no_such_name(reference, name, &owner, known));
                    };
                    optional |= slot.optional;
                    slot.of
                }
                (other, part) => return Err(no_such_way(reference, &other, part)),
            };
            if let Part::Name(name) = part {
                owner = format!("{name:?}");
            }
        }
        if !each {
            return Ok(Slot { of: here, optional });
        }
        // An item that lacks the field gives nothing in its place.
        Ok(Slot::of(if optional { Kind::Any } else { here }.list()))
    }

    fn no_such_root(&self, reference: &Reference, in_list: bool) -> Trouble {
        let root = &reference.root;
        if root == "item" || root == "number" {
            let wrong = format!("\"{reference}\" reads an item of a list, and there is none here");
            return Trouble::new(wrong, "write it in the `each` of a join, or read the list");
        }
        let wrong = format!("\"{reference}\" reads {root:?}, and no step is called so");
        let more = if in_list { ["request", "item", "number"].as_slice() } else { &["request"] };
        let known = self.steps.keys().map(String::as_str).chain(more.iter().copied());
        Trouble::new(wrong, instead_of(root, known))
    }

    /// The kind of value that a mapping makes.
    ///
    /// # Errors
    /// What is wrong with the first reference that reads what nobody writes or what cannot stand there, and where
    /// it is: a JSON pointer from here.
    pub fn kind_of(&self, mapping: &Mapping) -> Result<Slot, (String, Trouble)> {
        let here = |trouble| (String::new(), trouble);
        match mapping {
            Mapping::Literal(value) => Ok(Slot::of(Kind::of_value(value))),
            Mapping::Read(reference) => self.resolve(reference, None).map_err(here),
            Mapping::Text(template) => {
                for reference in template.references() {
                    plain(reference, &self.resolve(reference, None).map_err(here)?).map_err(here)?;
                }
                Ok(Slot::of(Kind::Text))
            }
            Mapping::List(items) => {
                let item = |(at, item): (usize, &Mapping)| {
                    let slot = self.kind_of(item).map_err(|(rest, trouble)| (format!("/{at}{rest}"), trouble))?;
                    Ok(if slot.optional { Kind::Any } else { slot.of })
                };
                let kinds = items.iter().enumerate().map(item).collect::<Result<Vec<_>, (String, Trouble)>>()?;
                Ok(Slot::of(Kind::common(kinds).list()))
            }
            Mapping::Table(fields) => {
                let field = |(name, field): (&String, &Mapping)| {
                    let within =
                        |(rest, trouble)| (format!("{}{rest}", crate::project::locate::join("", name)), trouble);
                    Ok((name.clone(), self.kind_of(field).map_err(within)?))
                };
                let fields = fields.iter().map(field).collect::<Result<_, (String, Trouble)>>()?;
                Ok(Slot::of(Kind::Record(Record { fields, rest: None })))
            }
        }
    }
}

/// Whether what a reference reads can be written into a text.
pub(super) fn plain(reference: &Reference, slot: &Slot) -> Result<(), Trouble> {
    present(reference, slot)?;
    if slot.of.is_plain() {
        return Ok(());
    }
    let wrong = format!("\"{reference}\" is {}, and text is needed here", slot.of.described());
    let right = match slot.of {
        Kind::List(_) => "make one text of it in a step with join, and read that",
        Kind::Vector => "read a text or a number",
        _ => "read one of its fields",
    };
    Err(Trouble::new(wrong, right))
}

/// Whether what a reference reads is always there.
pub(super) fn present(reference: &Reference, slot: &Slot) -> Result<(), Trouble> {
    if !slot.optional {
        return Ok(());
    }
    if reference.root != "request" {
        let wrong = format!("\"{reference}\" may be missing, and a value is needed here");
        return Err(Trouble::new(wrong, "write a default for it in the step that gives it"));
    }
    let wrong = format!("\"{reference}\" may be left out of a request, and a value is needed here");
    Err(Trouble::new(wrong, "write a default for that field instead of optional"))
}

fn no_such_way(reference: &Reference, kind: &Kind, part: &Part) -> Trouble {
    let is = kind.described();
    match (kind, part) {
        (Kind::List(_), Part::Name(name)) => {
            let wrong = format!("\"{reference}\" reads {name:?} of {is}");
            Trouble::new(wrong, format!("write [*].{name} to read it of each item"))
        }
        (_, Part::Name(name)) => {
            Trouble::new(format!("\"{reference}\" reads {name:?} of {is}"), "write a reference that ends before it")
        }
        (_, Part::Each) => {
            Trouble::new(format!("\"{reference}\" reads the items of {is}"), "write [*] behind a list only")
        }
    }
}

/// The features that a step reads; nothing where they cannot be told.
pub(super) fn chosen(read: &ReadFeatures, features: &Catalogue) -> Result<Option<ChosenFeatures>, Trouble> {
    match (&read.service, &read.list) {
        (Some(service), _) => features.of_service(service),
        (None, Some(list)) => features.of_features(list),
        (None, None) => Ok(None),
    }
}

/// The kind of a feature's values: bytes are base64, moments are seconds since 1970.
pub(super) fn kind_of_feature(of: FeatureType) -> Kind {
    let one = match of.of {
        Scalar::Int32 | Scalar::Int64 => Kind::Integer,
        Scalar::Float32 | Scalar::Float64 | Scalar::UnixTimestamp => Kind::Number,
        Scalar::Bool => Kind::Boolean,
        Scalar::String | Scalar::Bytes => Kind::Text,
    };
    if of.list { one.list() } else { one }
}

/// A point of which this part of the payload is read.
fn point(payload: &Payload) -> Record {
    let mut point = Record::of([("id", Kind::Any)]);
    let payload = match payload {
        Payload::Whole(false) => return point,
        Payload::Whole(true) => Record { fields: BTreeMap::new(), rest: Some(Box::new(Kind::Any)) },
        Payload::Only(paths) => {
            // A path into the payload gives what it leads to in its place: the first name is what is there.
            let first = |path: &String| path.split(['.', '[']).next().unwrap_or_default().trim_matches('"').to_owned();
            let optional = |name| (name, Slot::of(Kind::Any));
            Record { fields: paths.iter().map(first).map(optional).collect(), rest: None }
        }
    };
    point.fields.insert("payload".to_owned(), Slot::of(Kind::Record(payload)));
    point
}
