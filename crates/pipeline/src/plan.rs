//! From a route as the project file says it to what is run: every text read once, every name found.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use halny_types::project::features::Catalogue;
use halny_types::project::routes::{Action, Mapping, Part, Payload, Reference, Route, Scope, Template};
use serde_json::Value as Json;

use crate::seen::{CountOf, single};
use crate::{FeaturesAsked, PlanError, Sampling};

/// A route that can be run.
#[derive(Debug)]
pub struct Plan {
    pub(crate) route: Route,
    pub(crate) scope: Scope,
    pub(crate) steps: Vec<Planned>,
    /// The steps in an order in which each comes behind all that it reads.
    pub(crate) order: Vec<usize>,
    /// The fields of the answer.
    pub(crate) answer: Vec<Answered>,
}

/// A field of the answer.
#[derive(Debug)]
pub(crate) struct Answered {
    pub(crate) name: String,
    pub(crate) mapping: Mapping,
    pub(crate) needs: Vec<usize>,
    /// The step whose text it is, piece by piece where a client wants it so.
    pub(crate) written_by: Option<usize>,
}

/// A step that can be run.
#[derive(Debug)]
pub(crate) struct Planned {
    pub(crate) name: String,
    pub(crate) work: Work,
    pub(crate) needs: Vec<usize>,
    pub(crate) fallback: Option<Fallback>,
    pub(crate) timeout: Option<Duration>,
}

/// What stands in for what a step gives.
#[derive(Debug)]
pub(crate) struct Fallback {
    pub(crate) outputs: BTreeMap<String, Mapping>,
    /// Read only when the step has failed.
    pub(crate) needs: Vec<usize>,
}

/// One text, or a list of them.
#[derive(Debug)]
pub(crate) enum TextOf {
    One(Template),
    Many(Reference),
}

/// What a step does.
#[derive(Debug)]
pub(crate) enum Work {
    Embed { model: String, texts: TextOf },
    Search(Box<Searching>),
    Rerank { model: String, query: Template, documents: Reference, top: Option<CountOf> },
    Classify { model: String, texts: TextOf },
    ClassifyImage { model: String, image: Reference },
    Generate(Box<Generating>),
    Fetch { collection: String, ids: Reference, payload: Payload },
    Join { items: Reference, each: Template, separator: String, characters_max: usize },
    Features(Box<Featuring>),
}

#[derive(Debug)]
pub(crate) struct Searching {
    pub(crate) collection: String,
    pub(crate) near: Near,
    pub(crate) using: Option<String>,
    pub(crate) limit: CountOf,
    pub(crate) filter: Option<Mapping>,
    pub(crate) payload: Payload,
    pub(crate) threshold: Option<f32>,
    pub(crate) exact: bool,
}

#[derive(Debug)]
pub(crate) enum Near {
    Vector(Reference),
    Text(Template),
    Points { positive: Reference, negative: Option<Reference> },
}

#[derive(Debug)]
pub(crate) struct Featuring {
    pub(crate) asked: FeaturesAsked,
    /// Join keys and fields of the request.
    pub(crate) given: BTreeMap<String, Mapping>,
    pub(crate) default: BTreeMap<String, Json>,
    pub(crate) full_names: bool,
}

#[derive(Debug)]
pub(crate) struct Generating {
    pub(crate) model: String,
    pub(crate) prompt: Prompting,
    pub(crate) max_tokens: Option<CountOf>,
    pub(crate) stop: Vec<String>,
    pub(crate) sampling: Sampling,
}

#[derive(Debug)]
pub(crate) enum Prompting {
    Text(Template),
    Messages(Vec<(String, Template)>),
}

impl Plan {
    /// Makes a plan of a route, in a project that has these features.
    ///
    /// # Errors
    /// When the route is not one that [`check`](halny_types::project::check) lets pass.
    pub fn new(route: Route, features: &Catalogue) -> Result<Plan, PlanError> {
        let refused = |wrong: String| PlanError { route: route.name.to_string(), wrong };
        let places: BTreeMap<&str, usize> =
            route.steps.iter().enumerate().map(|(at, step)| (step.name.as_str(), at)).collect();
        let mut steps = Vec::with_capacity(route.steps.len());
        for step in &route.steps {
            let action =
                step.action().ok_or_else(|| refused(format!("the step {:?} does not do one thing", step.name)));
            let (work, reads) = work(action?).map_err(refused)?;
            let needs = needs(reads.iter(), &places, &refused)?;
            let fallback = step.fallback.as_ref().map(|fallback| {
                let outputs = mappings(fallback).map_err(refused)?;
                let reads = outputs.values().flat_map(Mapping::references).map(|(_, reference)| reference);
                let needs = self::needs(reads, &places, &refused)?;
                Ok(Fallback { outputs, needs })
            });
            let fallback = fallback.transpose()?;
            let timeout = step.timeout_ms.map(Duration::from_millis);
            steps.push(Planned { name: step.name.clone(), work, needs, fallback, timeout });
        }
        let mut answer = Vec::with_capacity(route.response.len());
        for (name, mapping) in mappings(&route.response).map_err(refused)? {
            let needs = needs(mapping.references().into_iter().map(|(_, reference)| reference), &places, &refused)?;
            let written_by = written_by(&mapping, &steps, &places);
            answer.push(Answered { name, mapping, needs, written_by });
        }
        let order = order(&steps).ok_or_else(|| refused("its steps wait for each other".to_owned()))?;
        let scope = Scope::of(&route, features);
        Ok(Plan { scope, steps, order, answer, route })
    }

    /// The route as the project file says it.
    #[must_use]
    pub fn route(&self) -> &Route {
        &self.route
    }

    /// Whether it is the plan of this route still, in a project that has these features.
    #[must_use]
    pub fn is_of(&self, route: &Route, features: &Catalogue) -> bool {
        self.route == *route && self.scope == Scope::of(route, features)
    }

    /// Whether a request may ask for its answer as events.
    #[must_use]
    pub fn streams(&self) -> bool {
        self.route.stream.unwrap_or(true) && self.answer.iter().any(|field| field.written_by.is_some())
    }

    /// The name of the step in that place.
    #[must_use]
    pub fn step_name(&self, step: usize) -> &str {
        self.steps.get(step).map_or("", |step| &step.name)
    }

    /// What the step in that place needs: the places of those it reads, not counting its fallback.
    #[must_use]
    pub fn needs(&self, step: usize) -> &[usize] {
        self.steps.get(step).map_or(&[], |step| &step.needs)
    }
}

fn mappings(values: &BTreeMap<String, Json>) -> Result<BTreeMap<String, Mapping>, String> {
    let parsed = |(name, value): (&String, &Json)| {
        let mapping = Mapping::parse(value).map_err(|(at, trouble)| format!("{name}{at}: {trouble}"))?;
        Ok((name.clone(), mapping))
    };
    values.iter().map(parsed).collect()
}

/// The places of the steps that are read, each once.
fn needs<'a>(
    reads: impl Iterator<Item = &'a Reference>,
    places: &BTreeMap<&str, usize>,
    refused: &dyn Fn(String) -> PlanError,
) -> Result<Vec<usize>, PlanError> {
    let mut needs = BTreeSet::new();
    for reference in reads.filter(|reference| !["request", "item", "number"].contains(&reference.root.as_str())) {
        let place = places.get(reference.root.as_str());
        needs.insert(*place.ok_or_else(|| refused(format!("{reference} reads no step")))?);
    }
    Ok(needs.into_iter().collect())
}

fn written_by(mapping: &Mapping, steps: &[Planned], places: &BTreeMap<&str, usize>) -> Option<usize> {
    let Mapping::Read(reference) = mapping else { return None };
    let place = *places.get(reference.root.as_str())?;
    let generates = matches!(steps.get(place)?.work, Work::Generate(_));
    (generates && reference.path == [Part::Name("text".to_owned())]).then_some(place)
}

/// Each step behind all that it and its fallback read; `None` when some wait for each other.
fn order(steps: &[Planned]) -> Option<Vec<usize>> {
    let mut order: Vec<usize> = Vec::with_capacity(steps.len());
    while order.len() < steps.len() {
        let ready = |(at, step): (usize, &Planned)| {
            let fallback = step.fallback.iter().flat_map(|fallback| &fallback.needs);
            let waits = step.needs.iter().chain(fallback).any(|need| !order.contains(need));
            (!order.contains(&at) && !waits).then_some(at)
        };
        let next = steps.iter().enumerate().find_map(ready)?;
        order.push(next);
    }
    Some(order)
}

/// The work of a step, and what it reads.
fn work(action: Action<'_>) -> Result<(Work, Vec<Reference>), String> {
    let mut reads = Vec::new();
    let work = match action {
        Action::Embed(embed) => Work::Embed {
            model: embed.model.to_string(),
            texts: reads.texts(embed.text.as_deref(), embed.texts.as_deref())?,
        },
        Action::Search(search) => Work::Search(Box::new(Searching {
            collection: search.collection.to_string(),
            near: match (&search.vector, &search.text) {
                (Some(vector), _) => Near::Vector(reads.single(vector)?),
                (None, Some(text)) => Near::Text(reads.template(text)?),
                (None, None) => {
                    let nothing = || "a search has neither vector nor text nor positive".to_owned();
                    let positive = reads.single(search.positive.as_deref().ok_or_else(nothing)?)?;
                    let negative = search.negative.as_deref().map(|list| reads.single(list)).transpose()?;
                    Near::Points { positive, negative }
                }
            },
            using: search.using.clone(),
            limit: reads.count(&search.limit)?,
            filter: search.filter.as_ref().map(|filter| reads.mapping(filter)).transpose()?,
            payload: search.with_payload.clone(),
            threshold: search.score_threshold.map(|threshold| threshold as f32),
            exact: search.exact,
        })),
        Action::Rerank(rerank) => Work::Rerank {
            model: rerank.model.to_string(),
            query: reads.template(&rerank.query)?,
            documents: reads.single(&rerank.documents)?,
            top: rerank.top.as_ref().map(|top| reads.count(top)).transpose()?,
        },
        Action::Classify(classify) => match &classify.image {
            Some(image) => Work::ClassifyImage { model: classify.model.to_string(), image: reads.single(image)? },
            None => Work::Classify {
                model: classify.model.to_string(),
                texts: reads.texts(classify.text.as_deref(), classify.texts.as_deref())?,
            },
        },
        Action::Generate(generate) => {
            let message = |message: &halny_types::project::routes::Message| {
                Ok((message.role.clone(), reads.template(&message.content)?))
            };
            let prompt = match (&generate.prompt, &generate.messages) {
                (Some(prompt), _) => Prompting::Text(reads.template(prompt)?),
                (None, Some(messages)) => {
                    Prompting::Messages(messages.iter().map(message).collect::<Result<_, String>>()?)
                }
                (None, None) => return Err("a generate has neither prompt nor messages".to_owned()),
            };
            let max_tokens = generate.max_tokens.as_ref().map(|count| reads.count(count)).transpose()?;
            let (temperature, top_p) = (generate.temperature, generate.top_p);
            let sampling = Sampling { temperature, top_p, top_k: generate.top_k, seed: generate.seed };
            let (model, stop) = (generate.model.clone(), generate.stop.clone());
            Work::Generate(Box::new(Generating { model, prompt, max_tokens, stop, sampling }))
        }
        Action::FetchPayload(fetch) => Work::Fetch {
            collection: fetch.collection.to_string(),
            ids: reads.single(&fetch.ids)?,
            payload: fetch.with_payload.clone(),
        },
        Action::Join(join) => Work::Join {
            items: reads.single(&join.items)?,
            each: reads.template(&join.each)?,
            separator: join.separator.clone(),
            characters_max: join.max_characters,
        },
        Action::Features(read) => Work::Features(Box::new(Featuring {
            asked: match (&read.service, &read.list) {
                (Some(service), _) => FeaturesAsked::Service(service.clone()),
                (None, Some(list)) => FeaturesAsked::List(list.clone()),
                (None, None) => return Err("a step has neither a service nor a list of features".to_owned()),
            },
            given: (read.entities.iter().chain(&read.request))
                .map(|(name, value)| Ok((name.clone(), reads.mapping(value)?)))
                .collect::<Result<_, String>>()?,
            default: read.default.clone(),
            full_names: read.full_feature_names,
        })),
    };
    Ok((work, reads))
}

/// Texts that are read, and what they read collected.
trait Reads {
    fn template(&mut self, text: &str) -> Result<Template, String>;
    fn single(&mut self, text: &str) -> Result<Reference, String>;
    fn count(&mut self, count: &halny_types::project::routes::Count) -> Result<CountOf, String>;
    fn mapping(&mut self, value: &Json) -> Result<Mapping, String>;
    fn texts(&mut self, one: Option<&str>, many: Option<&str>) -> Result<TextOf, String>;
}

impl Reads for Vec<Reference> {
    fn template(&mut self, text: &str) -> Result<Template, String> {
        let template = Template::parse(text).map_err(|trouble| trouble.to_string())?;
        self.extend(template.references().cloned());
        Ok(template)
    }

    fn single(&mut self, text: &str) -> Result<Reference, String> {
        let reference = single(text)?;
        self.push(reference.clone());
        Ok(reference)
    }

    fn count(&mut self, count: &halny_types::project::routes::Count) -> Result<CountOf, String> {
        let count = CountOf::of(count)?;
        if let CountOf::Read(reference) = &count {
            self.push(reference.clone());
        }
        Ok(count)
    }

    fn mapping(&mut self, value: &Json) -> Result<Mapping, String> {
        let mapping = Mapping::parse(value).map_err(|(at, trouble)| format!("{at}: {trouble}"))?;
        self.extend(mapping.references().into_iter().map(|(_, reference)| reference.clone()));
        Ok(mapping)
    }

    fn texts(&mut self, one: Option<&str>, many: Option<&str>) -> Result<TextOf, String> {
        match (one, many) {
            (Some(text), _) => self.template(text).map(TextOf::One),
            (None, Some(list)) => self.single(list).map(TextOf::Many),
            (None, None) => Err("a step has neither text nor texts".to_owned()),
        }
    }
}
