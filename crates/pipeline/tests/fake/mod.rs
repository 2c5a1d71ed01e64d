//! Models and collections that take as long as a test says, and remember what was asked of them.
#![allow(dead_code, clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use halny_pipeline::{
    Capabilities, Classified, Event, FeaturesRequest, FetchRequest, Fetched, GenerateRequest, Inputs, Plan, Point,
    PromptText, RouteError, Running, SearchFor, SearchRequest, StepError, Tell, Vector, Wrote, response_schema,
};
use halny_types::project::check;
use halny_types::project::features::Catalogue;
use halny_types::{Fault, RequestContext, TenantId, Tick};
use parking_lot::Mutex;
use serde_json::{Map, Value, json};

/// How one model or collection behaves.
#[derive(Clone, Debug, Default)]
pub(crate) struct Behaviour {
    pub(crate) takes: Duration,
    pub(crate) fails: Option<Fault>,
    /// Pieces that a language model writes, `takes` before each.
    pub(crate) writes: Vec<&'static str>,
}

#[derive(Default)]
pub(crate) struct Fake {
    pub(crate) behaviours: HashMap<&'static str, Behaviour>,
    /// `begin NAME`, `end NAME`, `drop NAME`, in their order.
    pub(crate) log: Arc<Mutex<Vec<String>>>,
    /// The time each call had, by name.
    pub(crate) budgets: Mutex<HashMap<String, Duration>>,
    /// What was asked, by name.
    pub(crate) asked: Mutex<HashMap<String, String>>,
}

/// Notes when a call is dropped before its end.
struct Call {
    name: String,
    log: Arc<Mutex<Vec<String>>>,
    ended: bool,
}

impl Drop for Call {
    fn drop(&mut self) {
        let how = if self.ended { "end" } else { "drop" };
        self.log.lock().push(format!("{how} {}", self.name));
    }
}

impl Fake {
    pub(crate) fn of<const N: usize>(behaviours: [(&'static str, Behaviour); N]) -> Arc<Fake> {
        Arc::new(Fake { behaviours: behaviours.into_iter().collect(), ..Fake::default() })
    }

    fn behaviour(&self, name: &str) -> Behaviour {
        self.behaviours.get(name).cloned().unwrap_or_default()
    }

    fn begin(&self, name: &str, context: &RequestContext, asked: String) -> Call {
        self.log.lock().push(format!("begin {name}"));
        self.budgets.lock().insert(name.to_owned(), context.arrived.until(context.deadline));
        self.asked.lock().insert(name.to_owned(), asked);
        Call { name: name.to_owned(), log: Arc::clone(&self.log), ended: false }
    }

    async fn work(&self, name: &str, context: &RequestContext, asked: String) -> Result<(), StepError> {
        let mut call = self.begin(name, context, asked);
        let behaviour = self.behaviour(name);
        tokio::time::sleep(behaviour.takes).await;
        call.ended = true;
        behaviour.fails.map_or(Ok(()), |fault| Err(StepError::new(fault, format!("{name} failed"))))
    }

    pub(crate) fn log(&self) -> Vec<String> {
        self.log.lock().clone()
    }
}

/// A text's vector: its length, so that what belongs to which text shows.
fn vector(text: &str) -> Vector {
    Vector { numbers: vec![text.len() as f32, 1.0].into(), space: None }
}

impl Capabilities for Fake {
    async fn embed(&self, context: &RequestContext, model: &str, texts: Vec<String>) -> Result<Vec<Vector>, StepError> {
        self.work(model, context, texts.join("|")).await?;
        Ok(texts.iter().map(|text| vector(text)).collect())
    }

    async fn search(&self, context: &RequestContext, request: SearchRequest) -> Result<Vec<Point>, StepError> {
        let near = match &request.near {
            SearchFor::Vector(vector) => format!("{}", vector.numbers[0]),
            SearchFor::Text(text) => text.clone(),
            SearchFor::Points { positive, negative } => format!("{positive:?} not {negative:?}"),
        };
        let filter = request.filter.map(|filter| filter.to_string()).unwrap_or_default();
        self.work(&request.collection, context, format!("{near} {filter}")).await?;
        let point = |number: usize| Point {
            id: json!(number),
            score: 1.0 / (number + 1) as f32,
            payload: Some(Map::from_iter([("text".to_owned(), json!(format!("{near}-{number}")))])),
        };
        Ok((0..request.limit.min(4)).map(point).collect())
    }

    async fn rerank(
        &self,
        context: &RequestContext,
        model: &str,
        query: String,
        documents: Vec<String>,
    ) -> Result<Vec<f32>, StepError> {
        self.work(model, context, format!("{query}: {}", documents.join("|"))).await?;
        // The last is the best.
        Ok((0..documents.len()).map(|place| place as f32).collect())
    }

    async fn classify(
        &self,
        context: &RequestContext,
        model: &str,
        inputs: Inputs,
    ) -> Result<Vec<Classified>, StepError> {
        let texts = match inputs {
            Inputs::Texts(texts) => texts,
            Inputs::Image(image) => vec![image],
        };
        self.work(model, context, texts.join("|")).await?;
        let classified = |text: &String| vec![("short".to_owned(), 0.25), (format!("of {text}"), 0.75)];
        Ok(texts.iter().map(classified).collect())
    }

    async fn generate(
        &self,
        context: &RequestContext,
        request: GenerateRequest,
        mut tell: Tell,
    ) -> Result<Wrote, StepError> {
        let asked = match request.prompt {
            PromptText::Text(text) => text,
            PromptText::Messages(messages) => format!("{messages:?}"),
        };
        let mut call = self.begin(&request.model, context, asked);
        let behaviour = self.behaviour(&request.model);
        let mut text = String::new();
        for piece in &behaviour.writes {
            tokio::time::sleep(behaviour.takes).await;
            tell(piece);
            text.push_str(piece);
        }
        call.ended = true;
        match behaviour.fails {
            Some(fault) => Err(StepError::new(fault, format!("{} failed", request.model))),
            None => Ok(Wrote { text, finish_reason: "stop", prompt_tokens: 1, written_tokens: behaviour.writes.len() }),
        }
    }

    async fn fetch(&self, context: &RequestContext, request: FetchRequest) -> Result<Vec<Fetched>, StepError> {
        self.work(&request.collection, context, json!(request.ids).to_string()).await?;
        let fetched =
            |id: &Value| Fetched { id: id.clone(), payload: Some(Map::from_iter([("of".to_owned(), id.clone())])) };
        Ok(request.ids.iter().map(fetched).collect())
    }

    async fn features(
        &self,
        context: &RequestContext,
        request: FeaturesRequest,
    ) -> Result<Map<String, Value>, StepError> {
        self.work("features", context, format!("{:?} {}", request.asked, Value::Object(request.given))).await?;
        let name = |name: &str| if request.full_names { format!("clicks__{name}") } else { name.to_owned() };
        Ok(Map::from_iter([(name("count"), json!(3)), (name("recent"), Value::Null), (name("score"), json!(0.5))]))
    }
}

/// Models of all tasks, whose names tests use.
const MODELS: &str = r#"
models = [
  { name = "a", source = "x", task = "embed" },
  { name = "b", source = "x", task = "embed" },
  { name = "ranker", source = "x", task = "rerank" },
  { name = "labels", source = "x", task = "classify-text" },
  { name = "writer", source = "x", task = "generate" },
  { name = "spare", source = "x", task = "generate" },
]
"#;

/// Features, whose names tests use.
const FEATURES: &str = r#"
[[entities]]
name = "user"
join_key = "user_id"
value_type = "int64"
[[feature_views]]
name = "clicks"
entities = ["user"]
features = [{ name = "count", type = "int64" }, { name = "recent", type = "list<int64>" }, { name = "score", type = "float64" }]
source = { push = true }
[[feature_services]]
name = "taste"
features = ["clicks"]
"#;

/// The plan of one route: what stands after its name and path.
pub(crate) fn plan(route: &str) -> Arc<Plan> {
    let text = format!("{MODELS}\n{FEATURES}\n[[routes]]\nname = \"r\"\npath = \"/r\"\n{route}");
    let checked = check(&text).unwrap_or_else(|problems| panic!("{problems:#?}"));
    Arc::new(Plan::new(checked.project.routes[0].clone(), &Catalogue::of(&checked.project)).unwrap())
}

/// Begins a request that has so much time.
pub(crate) fn begin(plan: &Arc<Plan>, fake: &Arc<Fake>, body: Value, budget_ms: u64) -> Running {
    let asked = plan.read(body).unwrap();
    let context = RequestContext::new(TenantId::anonymous(), Tick::now(), Duration::from_millis(budget_ms));
    Running::start(plan, fake, asked, context, "test")
}

/// Runs a request, and checks its answer against what the route promises of it.
pub(crate) async fn run(plan: &Arc<Plan>, fake: &Arc<Fake>, body: Value) -> Result<Value, RouteError> {
    let answer = Value::Object(begin(plan, fake, body, 10_000).whole().await?);
    let schema = response_schema(plan);
    assert!(jsonschema::draft202012::is_valid(&schema, &answer), "{answer} is not {schema}");
    Ok(answer)
}

/// All events of a request.
pub(crate) async fn events(mut running: Running) -> Vec<Event> {
    let mut events = Vec::new();
    while let Some(event) = running.next().await {
        events.push(event);
    }
    events
}

pub(crate) fn ms(ms: u64) -> Duration {
    Duration::from_millis(ms)
}

pub(crate) fn takes(time_ms: u64) -> Behaviour {
    Behaviour { takes: ms(time_ms), ..Behaviour::default() }
}

pub(crate) fn fails(fault: Fault) -> Behaviour {
    Behaviour { fails: Some(fault), ..Behaviour::default() }
}
