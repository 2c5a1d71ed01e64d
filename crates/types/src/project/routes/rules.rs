//! What is wrong with the routes of a project file beyond their shape.

use std::collections::{BTreeMap, BTreeSet, HashMap};

use serde::de::DeserializeOwned;
use serde_json::Value;

use super::feature_rules::FeaturesRead;
use super::field::Field;
use super::field_rules::check_fields;
use super::kind::{Kind, Record};
use super::reading::{Reading, Readings, Wanted};
use super::scope::Scope;
use super::step::{Action, Step};
use super::{Mapping, Template, Trouble, instead_of, is_name, is_reserved};
use crate::project::check::Found;
use crate::project::features::Catalogue;
use crate::project::locate::join;
use crate::project::quote::{abbreviated, alternatives};
use crate::project::rules::{items, unique_names};
use crate::project::{TaskKind, routes::step::Count};

/// Names that references begin with and steps cannot have.
const TAKEN: [&str; 3] = ["request", "item", "number"];
/// The field of every request that asks for events.
const STREAM: &str = "stream";
/// The most points that one search gives.
const SEARCH_MAX: u64 = 10_000;

/// Puts every broken rule of the routes into `found`.
pub(in crate::project) fn check(document: &Value, found: &mut Found) {
    let routes = items(document, "routes");
    unique_names(routes, "/routes", "route", found);
    paths(routes, found);
    let (models, features) = (Models::of(document), Catalogue::of_document(document));
    for (at, route) in routes.iter().enumerate().filter(|(_, route)| route.is_object()) {
        let pointer = format!("/routes/{at}");
        Checked::of(route, &pointer, &features, found).check(&models, found);
    }
}

/// What clients have to send and nobody reads.
pub(in crate::project) fn warn(document: &Value, found: &mut Found) {
    let features = Catalogue::of_document(document);
    for (at, route) in items(document, "routes").iter().enumerate() {
        let pointer = format!("/routes/{at}");
        let checked = Checked::of(route, &pointer, &features, found);
        let read = checked.readings.iter().flat_map(|readings| &readings.all).chain(&checked.answer.all);
        let names: Vec<Option<&super::Part>> = read
            .filter(|reading| reading.reference.root == "request")
            .map(|reading| reading.reference.path.first())
            .collect();
        if names.contains(&None) {
            continue;
        }
        for name in route.get("request").and_then(Value::as_object).into_iter().flat_map(|fields| fields.keys()) {
            let is_read = names.iter().flatten().any(|part| matches!(part, super::Part::Name(read) if read == name));
            if !is_read {
                let wrong = format!("no step and no answer reads the field {name:?} of the request");
                let right = format!("read it as ${{request.{name}}}, or take it out");
                found.key(&join(&format!("{pointer}/request"), name), wrong, right);
            }
        }
    }
}

/// The models of the project, as far as they can be read.
struct Models<'a>(HashMap<&'a str, (Option<TaskKind>, Vec<&'a str>)>);

impl<'a> Models<'a> {
    fn of(document: &'a Value) -> Models<'a> {
        let model = |model: &'a Value| {
            let task = model.get("task").and_then(|task| serde_json::from_value(task.clone()).ok());
            let adapters = model.get("generate").map_or(&[] as &[Value], |options| items(options, "adapters"));
            let adapters = adapters.iter().filter_map(|adapter| adapter.get("name")?.as_str()).collect();
            Some((model.get("name")?.as_str()?, (task, adapters)))
        };
        Models(items(document, "models").iter().filter_map(model).collect())
    }

    /// What is wrong with a step that asks this model for one of these tasks.
    fn trouble(&self, name: &str, wanted: TaskKind) -> Option<Trouble> {
        let of_task = || self.0.iter().filter(|(_, (task, _))| *task == Some(wanted)).map(|(name, _)| *name);
        let right = || match of_task().next() {
            Some(_) => instead_of(name, of_task()),
            None => format!("declare a model with task = {:?}", wanted.as_str()),
        };
        let (base, adapter) = match name.split_once(':') {
            Some((base, adapter)) if wanted == TaskKind::Generate => (base, Some(adapter)),
            _ => (name, None),
        };
        let Some((task, adapters)) = self.0.get(base) else {
            return Some(Trouble::new(format!("no model is called {}", abbreviated(base)), right()));
        };
        match (task, adapter) {
            (Some(task), _) if *task != wanted => {
                let wrong = format!(
                    "the model {base:?} is for {:?}, and one for {:?} is needed here",
                    task.as_str(),
                    wanted.as_str()
                );
                Some(Trouble::new(wrong, right()))
            }
            (_, Some(adapter)) if !adapters.contains(&adapter) => {
                let wrong = format!("the model {base:?} has no adapter {}", abbreviated(adapter));
                Some(Trouble::new(wrong, instead_of(adapter, adapters.iter().copied())))
            }
            _ => None,
        }
    }
}

/// Paths: their form, that none is Halny's own, that no two routes have the same.
fn paths(routes: &[Value], found: &mut Found) {
    let mut seen: HashMap<String, usize> = HashMap::new();
    for (at, route) in routes.iter().enumerate() {
        let pointer = format!("/routes/{at}/path");
        let Some(path) = route.get("path").and_then(Value::as_str).filter(|_| !found.is_broken(&pointer)) else {
            continue;
        };
        let right = "write a path such as \"/ask\"".to_owned();
        let is_segment = |segment: &str| {
            !matches!(segment, "" | "." | "..")
                && segment.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"._~-".contains(&byte))
        };
        let well_formed = path.strip_prefix('/').is_some_and(|rest| rest.split('/').all(is_segment));
        if !well_formed {
            let wrong =
                format!("{} is not a path of letters, digits, `.`, `_`, `~` and `-` behind slashes", abbreviated(path));
            found.value(&pointer, wrong, right);
        } else if is_reserved(path) {
            found.value(&pointer, format!("{} belongs to Halny itself", abbreviated(path)), right);
        } else if let Some(first) = seen.get(&path.to_ascii_lowercase()) {
            let wrong = format!("route {first} has the path {} too, but for case perhaps", abbreviated(path));
            found.value(&pointer, wrong, "write a path that no other route has".to_owned());
        } else {
            seen.insert(path.to_ascii_lowercase(), at);
        }
    }
}

/// A route, as far as it can be read.
struct Checked<'a> {
    pointer: &'a str,
    route: &'a Value,
    steps: Vec<(&'a str, Option<Step>)>,
    readings: Vec<Readings>,
    answer: Readings,
    scope: Scope,
    features: &'a Catalogue,
}

fn read<T: DeserializeOwned>(value: &Value) -> Option<T> {
    serde_json::from_value(value.clone()).ok()
}

impl<'a> Checked<'a> {
    fn of(route: &'a Value, pointer: &'a str, features: &'a Catalogue, found: &Found) -> Checked<'a> {
        let fields = match route.get("request") {
            None => Some(BTreeMap::new()),
            Some(fields) => read::<BTreeMap<String, Field>>(fields),
        };
        let step = |(at, step): (usize, &'a Value)| {
            let name = step.get("name").and_then(Value::as_str).unwrap_or_default();
            let known = !found.is_broken(&format!("{pointer}/steps/{at}/name"));
            (name, read::<Step>(step).filter(|step| known && step.action().is_some()))
        };
        let steps: Vec<(&str, Option<Step>)> = items(route, "steps").iter().enumerate().map(step).collect();
        let readings = steps.iter().map(|(_, step)| step.as_ref().map(Readings::of).unwrap_or_default()).collect();
        let mut answer = Readings::default();
        for (name, value) in route.get("response").and_then(Value::as_object).into_iter().flatten() {
            answer.mapping(&join("/response", name), value, Wanted::Anything);
        }
        let borrowed: Vec<(&str, Option<&Step>)> = steps.iter().map(|(name, step)| (*name, step.as_ref())).collect();
        let scope = Scope::new(fields.map(|fields| Field::record(&fields)), &borrowed, features);
        Checked { pointer, route, steps, readings, answer, scope, features }
    }

    fn check(&self, models: &Models<'_>, found: &mut Found) {
        self.request(found);
        self.times(found);
        self.names(found);
        for (at, _) in self.steps.iter().enumerate() {
            self.step(at, models, found);
        }
        self.response(found);
        let circles = self.circles(found);
        if !circles {
            self.reachable(found);
        }
    }

    fn at(&self, rest: &str) -> String {
        format!("{}{rest}", self.pointer)
    }

    fn number(&self, name: &str, found: &Found) -> Option<u64> {
        let written = self.route.pointer(name).filter(|_| !found.is_broken(&self.at(name)));
        written.and_then(Value::as_u64)
    }

    fn request(&self, found: &mut Found) {
        let Some(fields) = self.route.get("request").and_then(Value::as_object) else { return };
        if fields.contains_key(STREAM) {
            let wrong = format!("{STREAM:?} is a field of every request: it asks for the answer as events");
            found.key(&self.at("/request/stream"), wrong, "write another name".to_owned());
        }
        check_fields(fields, &self.at("/request"), 0, found);
    }

    /// Times that leave room for each other.
    fn times(&self, found: &mut Found) {
        let Some(deadline) =
            self.number("/deadline_ms", found).or(self.route.get("deadline_ms").is_none().then_some(30_000))
        else {
            return;
        };
        let beyond = |pointer: &str, name: &str, time: Option<u64>, found: &mut Found| {
            if let Some(time) = time.filter(|time| *time > deadline) {
                let wrong = format!("{time} ms are more than the route has ({deadline} ms, deadline_ms)");
                found.value(pointer, wrong, format!("write {name} = {deadline} or less, or a longer deadline_ms"));
            }
        };
        beyond(&self.at("/slo/latency_ms"), "latency_ms", self.number("/slo/latency_ms", found), found);
        for at in 0..self.steps.len() {
            let name = format!("/steps/{at}/timeout_ms");
            beyond(&self.at(&name), "timeout_ms", self.number(&name, found), found);
        }
    }

    /// The names of the steps, and that each does one thing.
    fn names(&self, found: &mut Found) {
        let steps = items(self.route, "steps");
        unique_names(steps, &self.at("/steps"), "step", found);
        for (at, step) in steps.iter().enumerate().filter(|(_, step)| step.is_object()) {
            let pointer = self.at(&format!("/steps/{at}"));
            let name = step.get("name").and_then(Value::as_str);
            if let Some(name) = name.filter(|_| !found.is_broken(&format!("{pointer}/name"))) {
                let right = "write letters, digits, `_` and `-`, the first a letter or `_`".to_owned();
                if TAKEN.contains(&name) {
                    let wrong = format!("{name:?} means something else in references");
                    found.value(&format!("{pointer}/name"), wrong, "write another name".to_owned());
                } else if !is_name(name) {
                    found.value(
                        &format!("{pointer}/name"),
                        format!("{} is not the name of a step", abbreviated(name)),
                        right,
                    );
                }
            }
            let written: Vec<&str> = Action::NAMES.into_iter().filter(|name| step.get(*name).is_some()).collect();
            match written.as_slice() {
                [_] => {}
                [] => {
                    let right = format!("add one of {}", Action::NAMES.join(", "));
                    found.missing(&pointer, "the step says nothing of what it does".to_owned(), right);
                }
                [_, second, ..] => {
                    let wrong = format!("the step does two things, {}", written.join(" and "));
                    found.key(&format!("{pointer}/{second}"), wrong, "write a step of its own for each".to_owned());
                }
            }
        }
    }

    fn step(&self, at: usize, models: &Models<'_>, found: &mut Found) {
        let (Some((name, Some(step))), Some(readings)) = (self.steps.get(at), self.readings.get(at)) else { return };
        let Some(action) = step.action() else { return };
        let pointer = self.at(&format!("/steps/{at}"));
        for (setting, name, wanted) in models_of(action) {
            if let Some(trouble) = models.trouble(name, wanted) {
                found.value(&format!("{pointer}{setting}"), trouble.wrong, trouble.right);
            }
        }
        alternatives_of(action, &pointer, found);
        counts(action, &pointer, found);
        if let Action::Search(search) = action
            && let Some(filter) = &search.filter
        {
            filter_keys(filter, &format!("{pointer}/search/filter"), found);
        }
        if let Action::Features(read) = action {
            FeaturesRead { read, scope: &self.scope, pointer: &format!("{pointer}/features") }
                .check(self.features, found);
        }
        if let Action::Search(search) = action
            && search.negative.is_some()
            && search.positive.is_none()
        {
            let wrong = "negative says what to be far from, and positive what to be near to".to_owned();
            found.missing(&format!("{pointer}/search"), wrong, "add positive".to_owned());
        }
        self.readings(&pointer, readings, items_of(action, &self.scope).as_ref(), found);
        self.fallback(name, step, &pointer, found);
    }

    fn readings(&self, pointer: &str, readings: &Readings, list: Option<&Kind>, found: &mut Found) {
        for (rest, trouble) in &readings.troubles {
            found.value(&format!("{pointer}{rest}"), trouble.wrong.clone(), trouble.right.clone());
        }
        for reading in &readings.all {
            if let Err(trouble) = reading.check(&self.scope, list) {
                found.value(&format!("{pointer}{}", reading.pointer), trouble.wrong, trouble.right);
            }
        }
    }

    /// That a fallback gives what others read of the step, each of the right kind.
    fn fallback(&self, name: &str, step: &Step, pointer: &str, found: &mut Found) {
        let (Some(fallback), Some(outputs)) = (&step.fallback, self.scope.outputs_of(name)) else { return };
        for (field, value) in fallback {
            let pointer = join(&format!("{pointer}/fallback"), field);
            let Some(slot) = outputs.fields.get(field) else {
                let wrong = format!("the step gives no {field:?}");
                found.key(&pointer, wrong, instead_of(field, outputs.fields.keys().map(String::as_str)));
                continue;
            };
            let Ok(mapping) = Mapping::parse(value) else { continue };
            match self.scope.kind_of(&mapping) {
                Ok(given) if !given.optional && given.of.fits(&slot.of) => {}
                Ok(given) => {
                    let is = if given.optional { "what may be missing".to_owned() } else { given.of.described() };
                    let wrong = format!("{is} stands for {field:?}, which is {}", slot.of.described());
                    found.value(&pointer, wrong, format!("write {}", described_with_fields(&slot.of)));
                }
                // Told where it is read.
                Err((rest, trouble)) => found.value(&format!("{pointer}{rest}"), trouble.wrong, trouble.right),
            }
        }
        let given: BTreeSet<&str> = fallback.keys().map(String::as_str).collect();
        for missing in self.read_of(name, outputs).into_iter().filter(|field| !given.contains(field.as_str())) {
            let wrong = format!("the fallback gives no {missing:?}, which others read of {name:?}");
            found.missing(&format!("{pointer}/fallback"), wrong, format!("add {missing} to it"));
        }
    }

    /// The outputs of a step that someone reads.
    fn read_of(&self, name: &str, outputs: &Record) -> BTreeSet<String> {
        let everyone = self.readings.iter().flat_map(|readings| &readings.all).chain(&self.answer.all);
        let mut read = BTreeSet::new();
        for reading in everyone.filter(|reading| reading.reference.root == name) {
            match reading.reference.path.first() {
                Some(super::Part::Name(field)) if !outputs.fields.contains_key(field) => {}
                Some(super::Part::Name(field)) => drop(read.insert(field.clone())),
                _ => read.extend(outputs.fields.keys().cloned()),
            }
        }
        read
    }

    fn response(&self, found: &mut Found) {
        self.readings(self.pointer, &self.answer, None, found);
        let fields = self.route.get("response").and_then(Value::as_object);
        let mut streams = false;
        for (name, value) in fields.into_iter().flatten() {
            let pointer = join(&self.at("/response"), name);
            if !is_name(name) {
                let right = "write letters, digits, `_` and `-`, the first a letter or `_`".to_owned();
                found.key(&pointer, format!("{} is not the name of a field", abbreviated(name)), right);
            }
            let Ok(mapping) = Mapping::parse(value) else { continue };
            streams |= self.is_written(&mapping);
            // What a reference alone has wrong with it is told already.
            if let Err((rest, trouble)) = self.scope.kind_of(&mapping) {
                found.value(&format!("{pointer}{rest}"), trouble.wrong, trouble.right);
            }
        }
        let asked = self.route.get("stream").and_then(Value::as_bool) == Some(true);
        if asked && !streams && self.steps.iter().all(|(_, step)| step.is_some()) {
            let wrong =
                "no field of the answer is the text of a generate step, so there is nothing to stream".to_owned();
            let right =
                "take stream out, or write a field such as answer = \"${answer.text}\" under response".to_owned();
            found.value(&self.at("/stream"), wrong, right);
        }
    }

    /// Whether a field of the answer is the text of a generate step.
    fn is_written(&self, mapping: &Mapping) -> bool {
        let Mapping::Read(reference) = mapping else { return false };
        let generates = |(name, step): &(&str, Option<Step>)| {
            *name == reference.root && step.as_ref().is_some_and(|step| step.generate.is_some())
        };
        self.steps.iter().any(generates) && reference.path == [super::Part::Name("text".to_owned())]
    }

    /// Steps by their names: the first of each.
    fn places(&self) -> HashMap<&str, usize> {
        let named = self.steps.iter().enumerate().rev().filter(|(_, (name, _))| !TAKEN.contains(name));
        named.map(|(at, (name, _))| (*name, at)).collect()
    }

    fn next<'s>(&'s self, at: usize, places: &'s HashMap<&str, usize>) -> impl Iterator<Item = usize> + 's {
        let all = self.readings.get(at).map_or(&[] as &[Reading], |readings| &readings.all);
        all.iter().filter_map(|reading| places.get(reading.reference.root.as_str()).copied())
    }

    /// Tells each circle of steps that wait for each other once; whether there is one.
    fn circles(&self, found: &mut Found) -> bool {
        let places = self.places();
        let mut done = vec![false; self.steps.len()];
        let mut any = false;
        for start in 0..self.steps.len() {
            let mut way = Vec::new();
            any |= self.walk(start, &places, &mut done, &mut way, found);
        }
        any
    }

    fn walk(
        &self,
        at: usize,
        places: &HashMap<&str, usize>,
        done: &mut [bool],
        way: &mut Vec<usize>,
        found: &mut Found,
    ) -> bool {
        if let Some(begin) = way.iter().position(|step| *step == at) {
            let name = |at: &usize| self.steps.get(*at).map_or("", |(name, _)| *name).to_owned();
            let names: Vec<String> = way.iter().skip(begin).map(name).collect();
            let wrong = match names.as_slice() {
                [only] => format!("the step {only:?} reads what it gives itself"),
                names => format!("the steps {} wait for each other", names.join(", ")),
            };
            let right = "take one of these references out".to_owned();
            found.missing(&self.at(&format!("/steps/{at}")), wrong, right);
            return true;
        }
        if done.get(at).copied().unwrap_or(true) {
            return false;
        }
        way.push(at);
        let mut any = false;
        let mut seen = BTreeSet::new();
        for next in self.next(at, places) {
            if seen.insert(next) {
                any |= self.walk(next, places, done, way, found);
            }
        }
        way.pop();
        if let Some(done) = done.get_mut(at) {
            *done = true;
        }
        any
    }

    /// Steps that neither the answer nor a step it needs reads.
    fn reachable(&self, found: &mut Found) {
        let response = self.route.get("response").and_then(Value::as_object);
        if self.steps.iter().any(|(_, step)| step.is_none()) || response.is_none() || !self.answer.troubles.is_empty() {
            return;
        }
        let places = self.places();
        let mut open: Vec<usize> =
            self.answer.all.iter().filter_map(|reading| places.get(reading.reference.root.as_str()).copied()).collect();
        let mut reached = BTreeSet::new();
        while let Some(at) = open.pop() {
            if reached.insert(at) {
                open.extend(self.next(at, &places));
            }
        }
        for (at, (name, _)) in self.steps.iter().enumerate().filter(|(at, _)| !reached.contains(at)) {
            // A second step of the same name is told as such.
            if places.get(name) != Some(&at) || TAKEN.contains(name) {
                continue;
            }
            let wrong = format!("nobody reads what the step {name:?} gives, so it would never run");
            let right = "read it in a step or under response, or take the step out".to_owned();
            found.missing(&self.at(&format!("/steps/{at}")), wrong, right);
        }
    }
}

/// A kind in words, and of points also what each has to have.
fn described_with_fields(kind: &Kind) -> String {
    match kind {
        Kind::List(items) => match items.as_ref() {
            Kind::Record(record) => {
                let names: Vec<&str> = record.fields.keys().map(String::as_str).collect();
                format!("a list of tables with {}", names.join(", "))
            }
            _ => kind.described(),
        },
        _ => kind.described(),
    }
}

/// What a join goes through.
fn items_of(action: Action<'_>, scope: &Scope) -> Option<Kind> {
    let Action::Join(join) = action else { return None };
    let template = Template::parse(&join.items).ok();
    let items = template.as_ref().and_then(Template::single).and_then(|list| scope.resolve(list, None).ok());
    Some(items.map_or(Kind::Any, |slot| slot.of))
}

/// The models that a step asks, where it says so, and what for.
fn models_of(action: Action<'_>) -> Vec<(&'static str, &str, TaskKind)> {
    match action {
        Action::Embed(embed) => vec![("/embed/model", embed.model.as_str(), TaskKind::Embed)],
        Action::Rerank(rerank) => vec![("/rerank/model", rerank.model.as_str(), TaskKind::Rerank)],
        Action::Classify(classify) => {
            let task = if classify.image.is_some() { TaskKind::ClassifyImage } else { TaskKind::ClassifyText };
            vec![("/classify/model", classify.model.as_str(), task)]
        }
        Action::Generate(generate) => vec![("/generate/model", generate.model.as_str(), TaskKind::Generate)],
        Action::Search(_) | Action::FetchPayload(_) | Action::Join(_) | Action::Features(_) => Vec::new(),
    }
}

/// Of several ways to say what a step works on, exactly one.
fn alternatives_of(action: Action<'_>, pointer: &str, found: &mut Found) {
    let ways: Vec<(&str, bool)> = match action {
        Action::Embed(embed) => vec![("text", embed.text.is_some()), ("texts", embed.texts.is_some())],
        Action::Search(search) => vec![
            ("vector", search.vector.is_some()),
            ("text", search.text.is_some()),
            ("positive", search.positive.is_some()),
        ],
        Action::Features(read) => vec![("service", read.service.is_some()), ("list", read.list.is_some())],
        Action::Classify(classify) => vec![
            ("text", classify.text.is_some()),
            ("texts", classify.texts.is_some()),
            ("image", classify.image.is_some()),
        ],
        Action::Generate(generate) => {
            vec![("prompt", generate.prompt.is_some()), ("messages", generate.messages.is_some())]
        }
        Action::Rerank(_) | Action::FetchPayload(_) | Action::Join(_) => return,
    };
    let names = alternatives(&ways.iter().map(|(name, _)| (*name).to_owned()).collect::<Vec<_>>());
    let pointer = format!("{pointer}/{}", action.name());
    let written: Vec<&str> = ways.iter().filter(|(_, written)| *written).map(|(name, _)| *name).collect();
    match written.as_slice() {
        [_] => {}
        [] => found.missing(&pointer, format!("{names} is missing"), format!("add {names}")),
        [first, second, ..] => {
            let wrong = format!("{first} and {second} both say what is worked on");
            found.key(&format!("{pointer}/{second}"), wrong, format!("write {names} alone"));
        }
    }
}

/// Counts that are written as numbers.
fn counts(action: Action<'_>, pointer: &str, found: &mut Found) {
    if let Action::Search(search) = action
        && let Count::Number(limit) = search.limit
        && limit > SEARCH_MAX
    {
        let right = format!("write a whole number from 1 to {SEARCH_MAX}, or a reference");
        found.value(&format!("{pointer}/search/limit"), format!("{limit} is out of range"), right);
    }
}

/// The names at the top of a filter: what is in them is read with the first request.
fn filter_keys(filter: &Value, pointer: &str, found: &mut Found) {
    const KNOWN: [&str; 4] = ["must", "should", "must_not", "min_should"];
    for name in filter.as_object().into_iter().flat_map(|fields| fields.keys()) {
        if !KNOWN.contains(&name.as_str()) {
            let wrong = format!("a filter has no {}", abbreviated(name));
            found.key(&join(pointer, name), wrong, instead_of(name, KNOWN));
        }
    }
}
