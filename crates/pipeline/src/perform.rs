//! One step of one request: what it reads made into what it asks, and what comes of it into what it gives.

use halny_types::project::routes::{Reference, Template};
use halny_types::{Fault, RequestContext};
use serde_json::{Map, Value as Json, json};

use crate::capabilities::{
    FeaturesRequest, FetchRequest, GenerateRequest, Inputs, PromptText, SearchFor, SearchRequest,
};
use crate::plan::{Featuring, Generating, Near, Prompting, Searching, TextOf, Work};
use crate::seen::{Absent, CountOf, Item, Seen};
use crate::value::number_to_json;
use crate::{Capabilities, Classified, Outputs, StepError, Tell, Value};

/// The most points that one search gives.
const POINTS_MAX: usize = 10_000;
/// The most inputs that one step works on.
const INPUTS_MAX: usize = 10_000;
/// The most points that one search takes as examples of either kind.
const EXAMPLES_MAX: usize = 1_000;
/// The most tokens that one step writes.
const TOKENS_MAX: usize = 1_000_000;

impl Work {
    /// Does it.
    ///
    /// # Errors
    /// When what is read is not what it should be, and what the capability says.
    pub(crate) async fn perform<C: Capabilities>(
        &self,
        capabilities: &C,
        context: &RequestContext,
        seen: &Seen<'_>,
        tell: Tell,
    ) -> Result<Outputs, StepError> {
        match self {
            Work::Embed { model, texts: TextOf::One(text) } => {
                let texts = vec![seen.text(text, None)?];
                let vector = capabilities.embed(context, model, texts).await?.pop().ok_or_else(too_few)?;
                Ok(Outputs::from([("vector".to_owned(), Value::Vector(vector))]))
            }
            Work::Embed { model, texts: TextOf::Many(list) } => {
                let texts = few(seen.texts(list)?, list)?;
                let count = texts.len();
                let vectors = if count == 0 { Vec::new() } else { capabilities.embed(context, model, texts).await? };
                same(count, vectors.len())?;
                Ok(Outputs::from([("vectors".to_owned(), Value::Vectors(vectors))]))
            }
            Work::Search(search) => search.perform(capabilities, context, seen).await,
            Work::Rerank { model, query, documents, top } => {
                let query = seen.text(query, None)?;
                let texts = few(seen.texts(documents)?, documents)?;
                let top = top.as_ref().map(|top| seen.count(top, INPUTS_MAX)).transpose()?;
                let count = texts.len();
                let scores = match count {
                    0 => Vec::new(),
                    _ => capabilities.rerank(context, model, query, texts.clone()).await?,
                };
                same(count, scores.len())?;
                reranked(seen, documents, texts, &scores, top.unwrap_or(count))
            }
            Work::Classify { model, texts: TextOf::One(text) } => {
                let inputs = Inputs::Texts(vec![seen.text(text, None)?]);
                let classified = capabilities.classify(context, model, inputs).await?.pop().ok_or_else(too_few)?;
                Ok(labelled(classified).into_iter().map(|(name, value)| (name, Value::Json(value))).collect())
            }
            Work::Classify { model, texts: TextOf::Many(list) } => {
                let texts = few(seen.texts(list)?, list)?;
                let count = texts.len();
                let results = match count {
                    0 => Vec::new(),
                    _ => capabilities.classify(context, model, Inputs::Texts(texts)).await?,
                };
                same(count, results.len())?;
                let results = results.into_iter().map(|one| Json::Object(labelled(one))).collect();
                Ok(Outputs::from([("results".to_owned(), Value::Json(Json::Array(results)))]))
            }
            Work::ClassifyImage { model, image } => {
                let image = seen.text(&whole(image), None)?;
                let classified =
                    capabilities.classify(context, model, Inputs::Image(image)).await?.pop().ok_or_else(too_few)?;
                Ok(labelled(classified).into_iter().map(|(name, value)| (name, Value::Json(value))).collect())
            }
            Work::Generate(generate) => generate.perform(capabilities, context, seen, tell).await,
            Work::Fetch { collection, ids, payload } => {
                let ids: Vec<Json> = seen.items(ids)?.into_iter().flatten().cloned().collect();
                if ids.len() > POINTS_MAX {
                    let text = format!("{} points are asked for, one step reads {POINTS_MAX} at most", ids.len());
                    return Err(StepError::new(Fault::TooLarge, text));
                }
                let request = FetchRequest { collection: collection.clone(), ids, payload: payload.clone() };
                let points = match request.ids.is_empty() {
                    true => Vec::new(),
                    false => capabilities.fetch(context, request).await?,
                };
                let points = points.into_iter().map(|point| point_of(point.id, None, point.payload)).collect();
                Ok(Outputs::from([("points".to_owned(), Value::Json(Json::Array(points)))]))
            }
            Work::Join { items, each, separator, characters_max } => {
                let text = joined(seen, items, each, separator, *characters_max)?;
                Ok(Outputs::from([("text".to_owned(), Value::Json(Json::String(text)))]))
            }
            Work::Features(features) => features.perform(capabilities, context, seen).await,
        }
    }
}

impl Featuring {
    async fn perform<C: Capabilities>(
        &self,
        capabilities: &C,
        context: &RequestContext,
        seen: &Seen<'_>,
    ) -> Result<Outputs, StepError> {
        let mut given = Map::new();
        for (name, mapping) in &self.given {
            given.insert(name.clone(), seen.json(mapping, Absent::Null)?.unwrap_or(Json::Null));
        }
        let request = FeaturesRequest { asked: self.asked.clone(), given, full_names: self.full_names };
        let values = capabilities.features(context, request).await?;
        let or_default = |(name, value): (String, Json)| {
            let default = self.default.get(&name).filter(|_| value.is_null()).cloned();
            (name, Value::Json(default.unwrap_or(value)))
        };
        Ok(values.into_iter().map(or_default).collect())
    }
}

impl Searching {
    async fn perform<C: Capabilities>(
        &self,
        capabilities: &C,
        context: &RequestContext,
        seen: &Seen<'_>,
    ) -> Result<Outputs, StepError> {
        let filter = self.filter.as_ref().map(|filter| seen.json(filter, Absent::LeaveOut)).transpose()?;
        let request = SearchRequest {
            collection: self.collection.clone(),
            near: match &self.near {
                Near::Vector(vector) => SearchFor::Vector(seen.vector(vector)?),
                Near::Text(text) => SearchFor::Text(seen.text(text, None)?),
                Near::Points { positive, negative } => {
                    let ids = |list: &Reference| -> Result<Vec<Json>, StepError> {
                        let ids: Vec<Json> = seen.items(list)?.into_iter().flatten().cloned().collect();
                        if ids.len() > EXAMPLES_MAX {
                            let text = format!("{list} has {} points, a search takes {EXAMPLES_MAX}", ids.len());
                            return Err(StepError::new(Fault::TooLarge, text));
                        }
                        Ok(ids)
                    };
                    let negative = negative.as_ref().map(ids).transpose()?.unwrap_or_default();
                    SearchFor::Points { positive: ids(positive)?, negative }
                }
            },
            using: self.using.clone(),
            limit: seen.count(&self.limit, POINTS_MAX)?,
            filter: filter.flatten(),
            payload: self.payload.clone(),
            threshold: self.threshold,
            exact: self.exact,
        };
        // Nothing is near to no points.
        let nothing = matches!(&request.near, SearchFor::Points { positive, .. } if positive.is_empty());
        let points = if nothing { Vec::new() } else { capabilities.search(context, request).await? };
        let points = points.into_iter().map(|point| point_of(point.id, Some(point.score), point.payload)).collect();
        Ok(Outputs::from([("points".to_owned(), Value::Json(Json::Array(points)))]))
    }
}

impl Generating {
    async fn perform<C: Capabilities>(
        &self,
        capabilities: &C,
        context: &RequestContext,
        seen: &Seen<'_>,
        tell: Tell,
    ) -> Result<Outputs, StepError> {
        let prompt = match &self.prompt {
            Prompting::Text(prompt) => PromptText::Text(seen.text(prompt, None)?),
            Prompting::Messages(messages) => {
                let message = |(role, content): &(String, Template)| Ok((role.clone(), seen.text(content, None)?));
                PromptText::Messages(messages.iter().map(message).collect::<Result<_, StepError>>()?)
            }
        };
        let request = GenerateRequest {
            model: self.model.clone(),
            prompt,
            max_tokens: self.max_tokens.as_ref().map(|count: &CountOf| seen.count(count, TOKENS_MAX)).transpose()?,
            stop: self.stop.clone(),
            sampling: self.sampling,
        };
        let wrote = capabilities.generate(context, request, tell).await?;
        Ok([
            ("text", json!(wrote.text)),
            ("finish_reason", json!(wrote.finish_reason)),
            ("prompt_tokens", json!(wrote.prompt_tokens)),
            ("written_tokens", json!(wrote.written_tokens)),
        ]
        .into_iter()
        .map(|(name, value)| (name.to_owned(), Value::Json(value)))
        .collect())
    }
}

/// A text that is one reference.
fn whole(reference: &Reference) -> Template {
    Template { pieces: vec![halny_types::project::routes::Piece::Read(reference.clone())] }
}

/// A capability that gives fewer answers than it had inputs breaks its promise.
fn too_few() -> StepError {
    StepError::new(Fault::Ours, "the model did not answer every input")
}

fn same(asked: usize, given: usize) -> Result<(), StepError> {
    if asked == given { Ok(()) } else { Err(too_few()) }
}

fn few(texts: Vec<String>, list: &Reference) -> Result<Vec<String>, StepError> {
    if texts.len() > INPUTS_MAX {
        let text = format!("{list} has {} items, one step works on {INPUTS_MAX} at most", texts.len());
        return Err(StepError::new(Fault::TooLarge, text));
    }
    Ok(texts)
}

fn point_of(id: Json, score: Option<f32>, payload: Option<Map<String, Json>>) -> Json {
    let mut point = Map::new();
    point.insert("id".to_owned(), id);
    if let Some(score) = score {
        point.insert("score".to_owned(), number_to_json(score));
    }
    if let Some(payload) = payload {
        point.insert("payload".to_owned(), Json::Object(payload));
    }
    Json::Object(point)
}

/// A model's labels: the best, and all.
fn labelled(classified: Classified) -> Map<String, Json> {
    let best = classified.iter().max_by(|(_, a), (_, b)| a.total_cmp(b));
    let mut labelled = Map::new();
    labelled.insert("label".to_owned(), json!(best.map_or("", |(label, _)| label)));
    labelled.insert("score".to_owned(), number_to_json(best.map_or(0.0, |(_, score)| *score)));
    let scores = classified.iter().map(|(label, score)| (label.clone(), number_to_json(*score))).collect();
    labelled.insert("scores".to_owned(), Json::Object(scores));
    labelled
}

/// The best documents, the best first, and the items they were read from, where they were read from a list.
fn reranked(
    seen: &Seen<'_>,
    documents: &Reference,
    texts: Vec<String>,
    scores: &[f32],
    top: usize,
) -> Result<Outputs, StepError> {
    let mut places: Vec<(usize, f32)> = scores.iter().copied().enumerate().collect();
    places.sort_by(|(i, a), (j, b)| b.total_cmp(a).then(i.cmp(j)));
    places.truncate(top);
    let text = |place: usize| texts.get(place).map_or("", String::as_str);
    let document = |(index, score): &(usize, f32)| json!({ "index": index, "text": text(*index), "score": number_to_json(*score) });
    let documents_out: Vec<Json> = places.iter().map(document).collect();
    let mut outputs = Outputs::from([("documents".to_owned(), Value::Json(Json::Array(documents_out)))]);
    if let Some(list) = documents.list() {
        let items = seen.items(&list)?;
        let point = |(place, score): &(usize, f32)| {
            let mut point = items.get(*place).copied().flatten().cloned()?;
            point.as_object_mut()?.insert("score".to_owned(), number_to_json(*score));
            Some(point)
        };
        let points: Vec<Json> = places.iter().filter_map(point).collect();
        outputs.insert("points".to_owned(), Value::Json(Json::Array(points)));
    }
    Ok(outputs)
}

/// One text of a list. What would make it longer than it may be is left out, by whole items.
fn joined(
    seen: &Seen<'_>,
    items: &Reference,
    each: &Template,
    separator: &str,
    characters_max: usize,
) -> Result<String, StepError> {
    let (mut text, mut characters) = (String::new(), 0);
    let separating = separator.chars().count();
    for (at, item) in seen.items(items)?.into_iter().enumerate() {
        let item = Item { value: item.unwrap_or(&Json::Null), number: at + 1 };
        let written = seen.text(each, Some(item))?;
        let more = written.chars().count() + if text.is_empty() { 0 } else { separating };
        if characters + more > characters_max {
            break;
        }
        if !text.is_empty() {
            text.push_str(separator);
        }
        text.push_str(&written);
        characters += more;
    }
    Ok(text)
}
