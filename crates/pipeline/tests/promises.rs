//! What a plan promises, on models that are made up and a clock that a test winds.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod fake;

use std::sync::Arc;

use fake::{Behaviour, Fake, begin, events, fails, ms, plan, run, takes};
use halny_pipeline::{Event, Outcome, Plan};
use halny_types::{Blame, Fault};
use proptest::prelude::*;
use serde_json::{Value, json};
use tokio::time::Instant;

/// Two embeddings that do not need each other, and a rerank that needs nothing of them but their hits.
const SIDE_BY_SIDE: &str = r#"
request = { text = { type = "string" } }
steps = [
  { name = "one", embed = { model = "a", text = "${request.text}" } },
  { name = "two", embed = { model = "b", text = "${request.text}" } },
  { name = "left", search = { collection = "c", vector = "${one.vector}" } },
  { name = "right", search = { collection = "d", vector = "${two.vector}" } },
]
response = { left = "${left.points[*].id}", right = "${right.points[*].id}" }
"#;

#[tokio::test(start_paused = true)]
async fn steps_that_do_not_read_each_other_run_side_by_side() {
    let fake = Fake::of([("a", takes(100)), ("b", takes(130)), ("c", takes(50)), ("d", takes(10))]);
    let began = Instant::now();
    run(&plan(SIDE_BY_SIDE), &fake, json!({ "text": "x" })).await.unwrap();
    // 100 + 50 beside 130 + 10; one after another they would take 290.
    assert!(began.elapsed() >= ms(150) && began.elapsed() < ms(155), "{:?}", began.elapsed());
    let log = fake.log();
    let at = |entry: &str| log.iter().position(|own| own == entry).unwrap();
    assert!(at("begin b") < at("end a") && at("begin c") < at("end b"), "{log:?}");
    assert!(at("end a") < at("begin c") && at("end b") < at("begin d"), "{log:?}");
}

#[tokio::test(start_paused = true)]
async fn a_step_that_many_read_runs_once() {
    let plan = plan(
        r#"
request = { text = { type = "string" } }
steps = [
  { name = "v", embed = { model = "a", text = "${request.text}" } },
  { name = "p", search = { collection = "c", vector = "${v.vector}" } },
  { name = "q", search = { collection = "d", vector = "${v.vector}" } },
]
response = { p = "${p.points}", q = "${q.points}", v = "${v.vector}", whole = "${v}" }
"#,
    );
    let fake = Fake::of([("a", takes(5))]);
    let answer = run(&plan, &fake, json!({ "text": "four" })).await.unwrap();
    assert_eq!(fake.log().iter().filter(|entry| *entry == "begin a").count(), 1);
    assert_eq!((&answer["v"], &answer["whole"]), (&json!([4.0, 1.0]), &json!({ "vector": [4.0, 1.0] })));
}

const CHAIN: &str = r#"
request = { text = { type = "string" } }
deadline_ms = 1000
steps = [
  { name = "v", embed = { model = "a", text = "${request.text}" } },
  { name = "hits", search = { collection = "c", vector = "${v.vector}", limit = 3 } },
  { name = "best", timeout_ms = 200, fallback = { points = "${hits.points}" }, rerank = { model = "ranker", query = "${request.text}", documents = "${hits.points[*].payload.text}", top = 2 } },
]
response = { points = "${best.points}" }
"#;

#[tokio::test(start_paused = true)]
async fn each_step_sees_what_is_left_of_the_deadline_and_no_more_than_its_own() {
    let fake = Fake::of([("a", takes(300)), ("c", takes(100))]);
    begin(&plan(CHAIN), &fake, json!({ "text": "x" }), 1_000).whole().await.unwrap();
    let budgets = fake.budgets.lock();
    let near = |name: &str, budget: u64| {
        let is = budgets[name];
        assert!(is <= ms(budget) && is + ms(5) > ms(budget), "{name} had {is:?} instead of {budget} ms");
    };
    near("a", 1_000);
    near("c", 700);
    near("ranker", 200);
}

#[tokio::test(start_paused = true)]
async fn a_reranked_point_keeps_what_it_had_and_has_its_new_score() {
    let answer = run(&plan(CHAIN), &Fake::of([]), json!({ "text": "abc" })).await.unwrap();
    let expected = json!([
        { "id": 2, "score": 2.0, "payload": { "text": "3-2" } },
        { "id": 1, "score": 1.0, "payload": { "text": "3-1" } },
    ]);
    assert_eq!(answer["points"], expected);
}

#[tokio::test(start_paused = true)]
async fn a_step_that_fails_or_takes_too_long_is_replaced_by_its_fallback() {
    for behaviour in
        [fails(Fault::Ours), fails(Fault::Overload), fails(Fault::Missing), fails(Fault::Caller), takes(201)]
    {
        let fake = Fake::of([("ranker", behaviour.clone())]);
        let plan = plan(CHAIN);
        let mut running = begin(&plan, &fake, json!({ "text": "abc" }), 1_000);
        let answer = running.whole().await.unwrap();
        assert_eq!(answer["points"].as_array().unwrap().len(), 3, "{behaviour:?}");
        let trace = running.trace();
        assert_eq!(trace.fallbacks().map(|step| plan.step_name(step)).collect::<Vec<_>>(), ["best"], "{behaviour:?}");
        assert!(trace.steps.iter().all(|step| step.ended.is_some()));
    }
    let fake = Fake::of([("ranker", takes(199))]);
    let mut running = begin(&plan(CHAIN), &fake, json!({ "text": "abc" }), 1_000);
    running.whole().await.unwrap();
    assert_eq!(running.trace().fallbacks().count(), 0, "in time is in time");
}

#[tokio::test(start_paused = true)]
async fn a_step_that_took_too_long_is_dropped() {
    let fake = Fake::of([("ranker", takes(10_000))]);
    begin(&plan(CHAIN), &fake, json!({ "text": "abc" }), 1_000).whole().await.unwrap();
    assert!(fake.log().contains(&"drop ranker".to_owned()), "{:?}", fake.log());
}

#[tokio::test(start_paused = true)]
async fn what_the_request_itself_has_wrong_is_hidden_by_no_fallback() {
    let plan = plan(
        r#"
request = { text = { type = "string" } }
steps = [
  { name = "v", fallback = { vector = [0.0, 0.0] }, embed = { model = "a", text = "${request.text}" } },
  { name = "hits", fallback = { points = [] }, search = { collection = "c", vector = "${v.vector}" } },
]
response = { points = "${hits.points}" }
"#,
    );
    for fault in [Fault::Caller, Fault::TooLarge] {
        let failed = run(&plan, &Fake::of([("a", fails(fault))]), json!({ "text": "x" })).await.unwrap_err();
        assert_eq!((failed.step.as_str(), failed.fault(), failed.of_request), ("v", fault, true));
        assert_eq!(failed.to_string(), "the step \"v\": a failed");
    }
    let fake = Fake::of([("a", fails(Fault::Ours))]);
    let answer = run(&plan, &fake, json!({ "text": "x" })).await.unwrap();
    assert_eq!(answer["points"].as_array().unwrap().len(), 4);
    assert_eq!(fake.asked.lock()["c"], "0 ", "the fallback's vector is searched with");
}

const SPARE: &str = r#"
request = { text = { type = "string" } }
steps = [
  { name = "answer", fallback = { text = "${short.text}" }, generate = { model = "writer", prompt = "${request.text}" } },
  { name = "short", timeout_ms = 500, fallback = { text = "sorry" }, generate = { model = "spare", prompt = "short: ${request.text}" } },
]
response = { answer = "${answer.text}" }
"#;

fn writes(time_ms: u64, writes: &[&'static str]) -> Behaviour {
    Behaviour { takes: ms(time_ms), writes: writes.to_vec(), ..Behaviour::default() }
}

#[tokio::test(start_paused = true)]
async fn a_step_that_only_fallbacks_read_runs_only_when_one_is_used() {
    let fake = Fake::of([("writer", writes(1, &["well"])), ("spare", writes(1, &["so"]))]);
    assert_eq!(run(&plan(SPARE), &fake, json!({ "text": "x" })).await.unwrap(), json!({ "answer": "well" }));
    assert!(!fake.log().contains(&"begin spare".to_owned()), "{:?}", fake.log());

    let fake = Fake::of([("writer", fails(Fault::Overload)), ("spare", writes(1, &["so"]))]);
    assert_eq!(run(&plan(SPARE), &fake, json!({ "text": "x" })).await.unwrap(), json!({ "answer": "so" }));

    let fake = Fake::of([("writer", fails(Fault::Overload)), ("spare", writes(600, &["so"]))]);
    assert_eq!(run(&plan(SPARE), &fake, json!({ "text": "x" })).await.unwrap(), json!({ "answer": "sorry" }));
}

#[tokio::test(start_paused = true)]
async fn when_the_deadline_passes_the_step_that_was_at_work_is_named() {
    let fake = Fake::of([("c", takes(2_000))]);
    let mut running = begin(&plan(CHAIN), &fake, json!({ "text": "x" }), 700);
    let failed = running.whole().await.unwrap_err();
    assert_eq!((failed.step.as_str(), failed.fault()), ("hits", Fault::Late));
    assert_eq!(fake.log(), ["begin a", "end a", "begin c", "drop c"]);
    let outcomes: Vec<Outcome> = running.trace().steps.iter().map(|step| step.outcome).collect();
    assert_eq!(outcomes, [Outcome::Done, Outcome::Failed(Fault::Late)]);
}

#[tokio::test(start_paused = true)]
async fn who_goes_takes_every_step_at_work_along_and_none_begins() {
    let fake = Fake::of([("a", takes(10)), ("b", takes(1_000)), ("c", takes(1_000))]);
    let running = begin(&plan(SIDE_BY_SIDE), &fake, json!({ "text": "x" }), 10_000);
    let mut running = running;
    assert!(tokio::time::timeout(ms(100), running.next()).await.is_err());
    drop(running);
    tokio::time::sleep(ms(5_000)).await;
    let mut log = fake.log();
    let gone = log.split_off(log.len() - 2);
    assert_eq!(log, ["begin a", "begin b", "end a", "begin c"]);
    assert!(gone.contains(&"drop b".to_owned()) && gone.contains(&"drop c".to_owned()), "{gone:?}");
}

#[tokio::test(start_paused = true)]
async fn one_failure_gives_up_what_runs_beside_it() {
    let late = Behaviour { fails: Some(Fault::Ours), ..takes(5) };
    let fake = Fake::of([("a", late), ("b", takes(1_000))]);
    let failed = run(&plan(SIDE_BY_SIDE), &fake, json!({ "text": "x" })).await.unwrap_err();
    assert_eq!(failed.step, "one");
    assert!(fake.log().contains(&"drop b".to_owned()), "{:?}", fake.log());
}

#[tokio::test(start_paused = true)]
async fn a_request_that_nobody_waits_for_does_nothing() {
    let fake = Fake::of([]);
    drop(begin(&plan(CHAIN), &fake, json!({ "text": "x" }), 1_000));
    assert!(fake.log().is_empty());
}

fn told(events: &[Event]) -> Vec<String> {
    let one = |event: &Event| match event {
        Event::Field { name, value } => format!("{name} = {value}"),
        Event::Text { name, text } => format!("{name} + {text}"),
        Event::Ended(outcome) => format!("{:?}", outcome.as_ref().map_err(ToString::to_string)),
    };
    events.iter().map(one).collect()
}

const STREAMED: &str = r#"
request = { text = { type = "string" } }
steps = [
  { name = "hits", search = { collection = "c", text = "${request.text}", limit = 1 } },
  { name = "answer", fallback = { text = "sorry" }, generate = { model = "writer", prompt = "${request.text}" } },
]
response = { question = "${request.text}", ids = "${hits.points[*].id}", answer = "${answer.text}" }
"#;

#[tokio::test(start_paused = true)]
async fn a_stream_tells_fields_when_they_are_ready_and_text_as_it_is_written() {
    let plan = plan(STREAMED);
    let body = json!({ "text": "hm", "stream": true });
    let fake = Fake::of([("c", takes(15)), ("writer", writes(10, &["wa", "it"]))]);
    let all = events(begin(&plan, &fake, body.clone(), 1_000)).await;
    assert_eq!(told(&all), ["question = \"hm\"", "answer + wa", "ids = [0]", "answer + it", "Ok(())"]);

    // What was not told piece by piece is told whole.
    let fake = Fake::of([("writer", writes(10, &[]))]);
    let all = events(begin(&plan, &fake, body.clone(), 1_000)).await;
    assert!(told(&all).contains(&"answer = \"\"".to_owned()), "{all:?}");
    let fake = Fake::of([("writer", fails(Fault::Ours))]);
    let all = events(begin(&plan, &fake, body.clone(), 1_000)).await;
    assert!(told(&all).contains(&"answer = \"sorry\"".to_owned()), "{all:?}");

    // Half a text that was shown is not replaced.
    let half = Behaviour { fails: Some(Fault::Ours), ..writes(10, &["wa"]) };
    let all = events(begin(&plan, &Fake::of([("writer", half)]), body, 1_000)).await;
    assert_eq!(told(&all).last().unwrap(), "Err(\"the step \\\"answer\\\": writer failed\")");
}

#[tokio::test(start_paused = true)]
async fn without_a_stream_half_a_text_is_replaced() {
    let half = Behaviour { fails: Some(Fault::Ours), ..writes(10, &["wa"]) };
    let answer = run(&plan(STREAMED), &Fake::of([("writer", half)]), json!({ "text": "hm" })).await.unwrap();
    assert_eq!(answer["answer"], "sorry");
}

#[tokio::test(start_paused = true)]
async fn every_kind_of_step_gives_what_it_promises() {
    let plan = plan(
        r#"
request = { texts = { type = "array", items = { type = "string" } }, note = { type = "string", optional = true } }
steps = [
  { name = "vs", embed = { model = "a", texts = "${request.texts}" } },
  { name = "all", classify = { model = "labels", texts = "${request.texts}" } },
  { name = "ranked", rerank = { model = "ranker", query = "q", documents = "${request.texts}" } },
  { name = "read", fetch-payload = { collection = "c", ids = "${request.texts[*]}" } },
  { name = "list", join = { items = "${ranked.documents}", each = "${number}) ${item.text}", separator = "; ", max_characters = 12 } },
  { name = "chat", generate = { model = "writer", messages = [{ role = "user", content = "${list.text}" }] } },
]
[routes.response]
vectors = "${vs.vectors}"
labels = "${all.results[*].label}"
ranked = "${ranked.documents}"
read = "${read.points}"
list = "${list.text}"
chat = "${chat}"
note = "${request.note}"
mixed = [1, "${request.note}", { note = "${request.note}", text = "<${list.text}>" }]
"#,
    );
    let fake = Fake::of([("writer", writes(1, &["ok"]))]);
    let answer = run(&plan, &fake, json!({ "texts": ["x", "yy", "zzz"] })).await.unwrap();
    assert_eq!(answer["vectors"], json!([[1.0, 1.0], [2.0, 1.0], [3.0, 1.0]]));
    assert_eq!(answer["labels"], json!(["of x", "of yy", "of zzz"]));
    assert_eq!(answer["ranked"][0], json!({ "index": 2, "text": "zzz", "score": 2.0 }));
    assert_eq!(answer["read"][1], json!({ "id": "yy", "payload": { "of": "yy" } }));
    assert_eq!(answer["list"], "1) zzz", "what does not fit is left out whole: 1) zzz; 2) yy has 13 characters");
    assert_eq!(answer["chat"]["text"], "ok");
    assert!(fake.asked.lock()["writer"].contains("1) zzz"));
    assert_eq!(answer.get("note"), None);
    assert_eq!(answer["mixed"], json!([1, null, { "text": "<1) zzz>" }]));

    // Of nothing, nothing is asked.
    let fake = Fake::of([("writer", writes(1, &["ok"]))]);
    let answer = run(&plan, &fake, json!({ "texts": [], "note": "n" })).await.unwrap();
    assert_eq!((&answer["vectors"], &answer["ranked"], &answer["note"]), (&json!([]), &json!([]), &json!("n")));
    assert_eq!(fake.log(), ["begin writer", "end writer"]);
}

#[tokio::test(start_paused = true)]
async fn a_condition_on_what_the_request_left_out_is_left_out() {
    let plan = plan(
        r#"
request = { kind = { type = "string", optional = true }, tags = { type = "array", items = { type = "string" }, optional = true } }
[[routes.steps]]
name = "hits"
[routes.steps.search]
collection = "c"
text = "x"
filter = { must = [{ key = "kind", match = { value = "${request.kind}" } }, { key = "tag", match = { any = "${request.tags}" } }, { key = "on", match = { value = true } }] }
[routes.response]
ids = "${hits.points[*].id}"
"#,
    );
    for (body, filter) in [
        (json!({}), r#"{"must":[{"key":"on","match":{"value":true}}]}"#),
        (
            json!({ "kind": "a", "tags": ["b"] }),
            r#"{"must":[{"key":"kind","match":{"value":"a"}},{"key":"tag","match":{"any":["b"]}},{"key":"on","match":{"value":true}}]}"#,
        ),
    ] {
        let fake = Fake::of([]);
        run(&plan, &fake, body).await.unwrap();
        assert_eq!(fake.asked.lock()["c"], format!("x {filter}"));
    }
}

#[tokio::test(start_paused = true)]
async fn what_a_payload_has_wrong_is_the_steps_failure() {
    let plan = plan(
        r#"
request = { text = { type = "string" } }
steps = [
  { name = "hits", search = { collection = "c", text = "${request.text}" } },
  { name = "best", rerank = { model = "ranker", query = "q", documents = "${hits.points[*].payload.text.inner}" } },
]
response = { best = "${best.points}" }
"#,
    );
    let failed = run(&plan, &Fake::of([]), json!({ "text": "x" })).await.unwrap_err();
    assert_eq!((failed.step.as_str(), failed.fault()), ("best", Fault::Ours));
    assert!(failed.to_string().contains("is text, and a table is needed there"), "{failed}");
}

fn unmixed() -> Arc<Plan> {
    let read = "text = \"${request.text}\", left = \"${left.points[*].payload.text}\"";
    plan(&SIDE_BY_SIDE.replace("left = \"${left.points[*].id}\"", read))
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 32, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn requests_beside_each_other_never_see_each_others_values(
        lengths in prop::collection::vec(1_usize..40, 1..20),
        times in prop::array::uniform4(0_u64..30),
        gaps in prop::collection::vec(0_u64..20, 20),
    ) {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_time().start_paused(true).build().unwrap();
        runtime.block_on(async {
            let [a, b, c, d] = times.map(takes);
            let fake = Fake::of([("a", a), ("b", b), ("c", c), ("d", d)]);
            let plan = unmixed();
            let one = |(length, gap): (&usize, &u64)| {
                let (plan, fake, text, gap) = (Arc::clone(&plan), Arc::clone(&fake), "x".repeat(*length), *gap);
                async move {
                    tokio::time::sleep(ms(gap)).await;
                    (text.clone(), run(&plan, &fake, json!({ "text": text })).await.unwrap())
                }
            };
            for (text, answer) in futures::future::join_all(lengths.iter().zip(&gaps).map(one)).await {
                let first = format!("{}-0", text.len());
                assert_eq!((&answer["text"], &answer["left"][0]), (&json!(text), &json!(first)));
            }
        });
    }
}

#[test]
fn a_plan_waits_for_what_it_reads_and_for_nothing_else() {
    let plan = plan(CHAIN);
    assert_eq!((plan.needs(0), plan.needs(1), plan.needs(2)), (&[][..], &[0][..], &[1][..]));
    let value: Value = halny_pipeline::openapi([plan.as_ref()]);
    assert_eq!(value["paths"]["/r"]["post"]["operationId"], "r");
}

const TASTE: &str = r#"
[routes.request]
user = { type = "integer" }
[[routes.steps]]
name = "user"
[routes.steps.features]
service = "taste"
entities = { user_id = "${request.user}" }
default = { recent = [7] }
[[routes.steps]]
name = "hits"
search = { collection = "notes", positive = "${user.recent}", limit = 1 }
[routes.response]
count = "${user.count}"
score = "${user.score}"
near = "${hits.points[*].payload.text}"
"#;

#[tokio::test(start_paused = true)]
async fn features_are_read_by_name_and_defaults_stand_for_what_is_missing() {
    let (plan, fake) = (plan(TASTE), Fake::of([]));
    let answer = run(&plan, &fake, json!({ "user": 5 })).await.unwrap();
    assert_eq!(answer, json!({ "count": 3, "score": 0.5, "near": ["[Number(7)] not []-0"] }));
    assert_eq!(fake.asked.lock()["features"], r#"Service("taste") {"user_id":5}"#);
}

#[tokio::test(start_paused = true)]
async fn nothing_is_near_to_no_points() {
    let plan = plan(&TASTE.replace("[7]", "[]"));
    let fake = Fake::of([]);
    assert_eq!(run(&plan, &fake, json!({ "user": 5 })).await.unwrap()["near"], json!([]));
    assert!(!fake.log().iter().any(|line| line.contains("notes")), "the collection was asked");
}
