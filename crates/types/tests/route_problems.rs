//! Broken routes and what the check says of them, line by line.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use halny_types::project::{Checked, Problem, check};

/// Lines 1 to 22: the models, and the head of a route.
const HEAD: &str = r#"[[models]]
name = "minilm"
source = "a"
task = "embed"
[[models]]
name = "reranker"
source = "b"
task = "rerank"
[[models]]
name = "gemma"
source = "c"
task = "generate"
generate = { adapters = [{ name = "terse", file = "t.gguf" }] }
[[routes]]
name = "ask"
path = "/ask"
[routes.request]
question = { type = "string", min_length = 1, max_length = 500 }
limit = { type = "integer", minimum = 1, maximum = 20, default = 5 }
category = { type = "string", optional = true }
"#;

/// Steps that are right, from line 21 on.
const STEPS: &str = r#"[[routes.steps]]
name = "query"
embed = { model = "minilm", text = "${request.question}" }
[[routes.steps]]
name = "hits"
[routes.steps.search]
collection = "packages"
vector = "${query.vector}"
limit = 50
with_payload = ["name", "description"]
filter = { must = [{ key = "category", match = { value = "${request.category}" } }] }
[[routes.steps]]
name = "best"
fallback = { points = "${hits.points}" }
rerank = { model = "reranker", query = "${request.question}", documents = "${hits.points[*].payload.description}", top = "${request.limit}" }
[[routes.steps]]
name = "context"
join = { items = "${best.points}", each = "${number}. ${item.payload.name}: ${item.payload.description}" }
[[routes.steps]]
name = "answer"
timeout_ms = 15000
generate = { model = "gemma", prompt = "${context.text} ${request.question}", max_tokens = 128, stop = ["\n\n"] }
"#;

/// From line 43 on.
const RESPONSE: &str = r#"[routes.response]
question = "${request.question}"
sources = "${best.points}"
answer = "${answer.text}"
"#;

fn rendered(text: &str) -> String {
    let lines = |problems: &[Problem]| -> String {
        problems.iter().map(|problem| problem.render("halny.toml") + "\n").collect::<String>()
    };
    match check(text) {
        Ok(Checked { warnings, .. }) => format!("accepted\n{}", lines(&warnings)),
        Err(problems) => lines(&problems),
    }
}

fn whole() -> String {
    format!("{HEAD}{STEPS}{RESPONSE}")
}

/// The right file with one text replaced.
fn with(from: &str, to: &str) -> String {
    let text = whole();
    assert_eq!(text.matches(from).count(), 1, "{from:?} is not there once");
    text.replace(from, to)
}

/// Every case is tried before the test fails, so that a change of words is seen whole.
fn assert_all(cases: &[(&str, &str, &str)]) {
    let mut wrong = String::new();
    for (from, to, expected) in cases {
        let actual = rendered(&with(from, to));
        if actual != *expected {
            wrong += &format!("--- {from} -> {to}\n--- expected\n{expected}--- actual\n{actual}\n");
        }
    }
    assert!(wrong.is_empty(), "{wrong}");
}

#[test]
fn the_example_is_right() {
    assert_eq!(rendered(&whole()), "accepted\n");
}

#[test]
fn what_nobody_writes_cannot_be_read() {
    assert_all(&[
        (
            "vector = \"${query.vector}\"",
            "vector = \"${qury.vector}\"",
            "halny.toml:21:1: routes[0].steps[0]: nobody reads what the step \"query\" gives, so it would never run; read it in a step or under response, or take the step out\n\
             halny.toml:28:10: routes[0].steps[1].search.vector: \"${qury.vector}\" reads \"qury\", and no step is called so; write query\n",
        ),
        (
            "vector = \"${query.vector}\"",
            "vector = \"${query.vectr}\"",
            "halny.toml:28:10: routes[0].steps[1].search.vector: \"${query.vectr}\" reads \"vectr\", which the embed step \"query\" does not have; write vector\n",
        ),
        (
            "text = \"${request.question}\"",
            "text = \"${request.qestion}\"",
            "halny.toml:23:36: routes[0].steps[0].embed.text: \"${request.qestion}\" reads \"qestion\", which the request does not have; write question\n",
        ),
        (
            "${hits.points[*].payload.description}",
            "${hits.points[*].payload.summary}",
            "halny.toml:35:75: routes[0].steps[2].rerank.documents: \"${hits.points[*].payload.summary}\" reads \"summary\", which \"payload\" does not have; write one of description, name\n",
        ),
        (
            "${item.payload.name}",
            "${item.payload.title}",
            "halny.toml:38:43: routes[0].steps[3].join.each: \"${item.payload.title}\" reads \"title\", which \"payload\" does not have; write one of description, name\n",
        ),
        (
            "${request.question}\", max_tokens",
            "${item.name}\", max_tokens",
            "halny.toml:42:40: routes[0].steps[4].generate.prompt: \"${item.name}\" reads an item of a list, and there is none here; write it in the `each` of a join, or read the list\n",
        ),
        (
            "sources = \"${best.points}\"",
            "sources = { all = [\"${best.point}\"] }",
            "halny.toml:45:20: routes[0].response.sources.all[0]: \"${best.point}\" reads \"point\", which the rerank step \"best\" does not have; write points\n",
        ),
    ]);
}

#[test]
fn kinds_have_to_fit() {
    assert_all(&[
        (
            "${context.text} ",
            "${best.points} ",
            "halny.toml:36:1: routes[0].steps[3]: nobody reads what the step \"context\" gives, so it would never run; read it in a step or under response, or take the step out\n\
             halny.toml:42:40: routes[0].steps[4].generate.prompt: \"${best.points}\" is a list of points, and text is needed here; make one text of it in a step with join, and read that\n",
        ),
        (
            "vector = \"${query.vector}\"",
            "vector = \"${request.question}\"",
            "halny.toml:21:1: routes[0].steps[0]: nobody reads what the step \"query\" gives, so it would never run; read it in a step or under response, or take the step out\n\
             halny.toml:28:10: routes[0].steps[1].search.vector: \"${request.question}\" is text, and a vector is needed here; make a vector of it in a step with embed, and read that\n",
        ),
        (
            "limit = 50",
            "limit = \"${request.question}\"",
            "halny.toml:29:9: routes[0].steps[1].search.limit: \"${request.question}\" is text, and a whole number is needed here; write a reference to one, such as ${request.limit}\n",
        ),
        (
            "limit = 50",
            "limit = \"${request.limit} points\"",
            "halny.toml:29:9: routes[0].steps[1].search.limit: \"${request.limit} points\" is text, and a whole number is needed here; write one reference, such as ${request.limit}\n",
        ),
        (
            "limit = 50",
            "limit = 50000",
            "halny.toml:29:9: routes[0].steps[1].search.limit: 50000 is out of range; write a whole number from 1 to 10000, or a reference\n",
        ),
        (
            "${hits.points[*].payload.description}",
            "${hits.points[*].payload}",
            "halny.toml:35:75: routes[0].steps[2].rerank.documents: \"${hits.points[*].payload}\" is a list, and a list of texts is needed here; read a field of each item, such as ${hits.points[*].payload.text}\n",
        ),
        (
            "${hits.points[*].payload.description}",
            "${hits.points.payload.description}",
            "halny.toml:35:75: routes[0].steps[2].rerank.documents: \"${hits.points.payload.description}\" reads \"payload\" of a list of points; write [*].payload to read it of each item\n",
        ),
        (
            "text = \"${request.question}\"",
            "text = \"${request.category}\"",
            "halny.toml:23:36: routes[0].steps[0].embed.text: \"${request.category}\" may be left out of a request, and a value is needed here; write a default for that field instead of optional\n",
        ),
        (
            "[{ key = \"category\", match = { value = \"${request.category}\" } }] }",
            "{ key = \"category\", match = { value = \"${request.category}\" } } }",
            "halny.toml:31:57: routes[0].steps[1].search.filter.must.match.value: \"${request.category}\" may be left out of a request, and a value is needed here; write a default for that field instead of optional\n",
        ),
        (
            "question = \"${request.question}\"",
            "question = \"you asked ${best.points}\"",
            "halny.toml:44:12: routes[0].response.question: \"${best.points}\" is a list of points, and text is needed here; make one text of it in a step with join, and read that\n",
        ),
    ]);
}

#[test]
fn references_have_a_form() {
    assert_all(&[
        (
            "vector = \"${query.vector}\"",
            "vector = \"${query.vector\"",
            "halny.toml:21:1: routes[0].steps[0]: nobody reads what the step \"query\" gives, so it would never run; read it in a step or under response, or take the step out\n\
             halny.toml:28:10: routes[0].steps[1].search.vector: the reference \"${query.vector\" is not closed; end it with a brace, or write $${ for the text ${\n",
        ),
        (
            "sources = \"${best.points}\"",
            "sources = \"${best.points[0]}\"",
            "halny.toml:45:11: routes[0].response.sources: \"${best.points[0]}\" is not a reference; write [*] for every item; single ones have no reference\n",
        ),
    ]);
}

#[test]
fn steps_are_reached_go_in_no_circle_and_do_one_thing() {
    assert_all(&[
        (
            "answer = \"${answer.text}\"",
            "answer = \"fixed\"",
            "halny.toml:36:1: routes[0].steps[3]: nobody reads what the step \"context\" gives, so it would never run; read it in a step or under response, or take the step out\n\
             halny.toml:39:1: routes[0].steps[4]: nobody reads what the step \"answer\" gives, so it would never run; read it in a step or under response, or take the step out\n",
        ),
        (
            "text = \"${request.question}\"",
            "text = \"${answer.text}\"",
            "halny.toml:21:1: routes[0].steps[0]: the steps query, answer, context, best, hits wait for each other; take one of these references out\n",
        ),
        (
            "name = \"context\"",
            "name = \"context\"\ngenerate = { model = \"gemma\", prompt = \"x\" }",
            "halny.toml:39:1: routes[0].steps[3].join: the step does two things, generate and join; write a step of its own for each\n",
        ),
        (
            "join = { items = \"${best.points}\", each = \"${number}. ${item.payload.name}: ${item.payload.description}\" }",
            "",
            "halny.toml:36:1: routes[0].steps[3]: the step says nothing of what it does; add one of embed, search, rerank, classify, generate, fetch-payload, join, features\n",
        ),
        (
            "name = \"query\"",
            "name = \"request\"",
            "halny.toml:22:8: routes[0].steps[0].name: \"request\" means something else in references; write another name\n\
             halny.toml:28:10: routes[0].steps[1].search.vector: \"${query.vector}\" reads \"query\", and no step is called so; write one of answer, best, context, hits, request\n",
        ),
        (
            "name = \"context\"",
            "name = \"best\"",
            "halny.toml:37:8: routes[0].steps[3].name: step 2 has the name \"best\" too; write a name that no other step has\n\
             halny.toml:42:40: routes[0].steps[4].generate.prompt: \"${context.text}\" reads \"context\", and no step is called so; write one of answer, best, hits, query, request\n",
        ),
    ]);
}

#[test]
fn models_are_there_and_do_what_is_asked() {
    assert_all(&[
        (
            "model = \"minilm\"",
            "model = \"minilmm\"",
            "halny.toml:23:19: routes[0].steps[0].embed.model: no model is called \"minilmm\"; write minilm\n",
        ),
        (
            "model = \"reranker\"",
            "model = \"gemma\"",
            "halny.toml:35:20: routes[0].steps[2].rerank.model: the model \"gemma\" is for \"generate\", and one for \"rerank\" is needed here; write reranker\n",
        ),
        (
            "model = \"gemma\"",
            "model = \"gemma:terze\"",
            "halny.toml:42:22: routes[0].steps[4].generate.model: the model \"gemma\" has no adapter \"terze\"; write terse\n",
        ),
        ("model = \"gemma\"", "model = \"gemma:terse\"", "accepted\n"),
        (
            "join = { items",
            "classify = { model = \"labels\", text = \"x\" }\njoin = { items",
            "halny.toml:39:1: routes[0].steps[3].join: the step does two things, classify and join; write a step of its own for each\n",
        ),
    ]);
}

#[test]
fn paths_belong_to_one_route_and_not_to_halny() {
    let belongs = |path: &str| {
        format!("halny.toml:16:8: routes[0].path: {path:?} belongs to Halny itself; write a path such as \"/ask\"\n")
    };
    for path in ["/v1/ask", "/v2", "/collections/a/b", "/halny/x", "/health", "/rerank", "/openapi.json"] {
        assert_eq!(rendered(&with("path = \"/ask\"", &format!("path = {path:?}"))), belongs(path));
    }
    for path in ["ask", "/ask/", "//ask", "/a/../b", "/a b", "/a%20b", "/a?b", "/{a}", "/ü"] {
        let actual = rendered(&with("path = \"/ask\"", &format!("path = {path:?}")));
        assert!(
            actual.starts_with("halny.toml:16:8: routes[0].path: ") && actual.contains("is not a path of"),
            "{actual}"
        );
    }
    let second = "[[routes]]\nname = \"Ask\"\npath = \"/Ask\"\nsteps = []\nresponse = {}\n";
    assert_eq!(
        rendered(&(whole() + second)),
        "halny.toml:48:8: routes[1].name: \"Ask\" differs from the name of route 0, \"ask\", only by case; write a name that no other route has\n\
         halny.toml:49:8: routes[1].path: route 0 has the path \"/Ask\" too, but for case perhaps; write a path that no other route has\n\
         halny.toml:50:9: routes[1].steps: this list has 0 items; write a list of at most 32 tables\n\
         halny.toml:51:12: routes[1].response: this is not a response; write a table\n"
    );
    assert!(rendered(&with("path = \"/ask\"", "path = \"/v1x\"")).starts_with("accepted"));
}

#[test]
fn fields_of_a_request_agree_with_themselves() {
    let field = "limit = { type = \"integer\", minimum = 1, maximum = 20, default = 5 }";
    assert_all(&[
        (
            field,
            "limit = { type = \"integer\", minimum = 1, maximum = 20, default = 50 }",
            "halny.toml:19:66: routes[0].request.limit.default: the default 50 is none that the field accepts; write one that a request may have\n",
        ),
        (
            field,
            "limit = { type = \"integer\", max_length = 3, default = 5 }",
            "halny.toml:19:29: routes[0].request.limit.max_length: max_length belongs to the type \"string\", and this is \"integer\"; take it out, or write type = \"string\"\n",
        ),
        (
            field,
            "limit = { type = \"integer\", minimum = 9, maximum = 2 }",
            "halny.toml:19:39: routes[0].request.limit.minimum: minimum is 9 and maximum is 2, so nothing is accepted; write minimum = 2 or less\n",
        ),
        (
            field,
            "limit = { type = \"integer\", minumum = 9 }",
            "halny.toml:19:29: routes[0].request.limit.minumum: there is no such setting; write minimum\n",
        ),
        (
            field,
            "limit = { type = \"int\", default = 5 }",
            "halny.toml:19:18: routes[0].request.limit.type: \"int\" is not a type; write one of \"string\", \"integer\", \"number\", \"boolean\", \"array\", \"object\"\n",
        ),
        (
            field,
            "limit = { type = \"integer\", default = 5 }\ntags = { type = \"array\", default = [] }",
            "halny.toml:20:8: routes[0].request.tags: items is missing; add items, such as items = { type = \"string\" }\n",
        ),
        (
            field,
            "limit = { type = \"integer\", default = 5, optional = true }\nstream = { type = \"boolean\" }",
            "halny.toml:19:42: routes[0].request.limit.optional: a field with a default is never missing, so optional means nothing; take optional or default out\n\
             halny.toml:20:1: routes[0].request.stream: \"stream\" is a field of every request: it asks for the answer as events; write another name\n",
        ),
        (
            field,
            "limit = { type = \"integer\", default = 5 }\n\"a.b\" = { type = \"boolean\" }",
            "halny.toml:20:1: routes[0].request.\"a.b\": \"a.b\" is not the name of a field; write letters, digits, `_` and `-`, the first a letter or `_`\n",
        ),
        (
            field,
            "limit = { type = \"integer\", default = 5 }\nlang = { type = \"string\", default = \"en\" }",
            "accepted\nhalny.toml:20:1: routes[0].request.lang: no step and no answer reads the field \"lang\" of the request; read it as ${request.lang}, or take it out\n",
        ),
    ]);
}

#[test]
fn fallbacks_give_what_is_read_and_times_leave_room() {
    assert_all(&[
        (
            "fallback = { points = \"${hits.points}\" }",
            "fallback = { documents = [] }",
            "halny.toml:34:12: routes[0].steps[2].fallback: the fallback gives no \"points\", which others read of \"best\"; add points to it\n",
        ),
        (
            "fallback = { points = \"${hits.points}\" }",
            "fallback = { points = \"${hits.points}\", poins = [] }",
            "halny.toml:34:41: routes[0].steps[2].fallback.poins: the step gives no \"poins\"; write points\n",
        ),
        (
            "fallback = { points = \"${hits.points}\" }",
            "fallback = { points = [{ id = 1 }] }",
            "halny.toml:34:23: routes[0].steps[2].fallback.points: a list stands for \"points\", which is a list of points; write a list of tables with id, payload, score\n",
        ),
        ("fallback = { points = \"${hits.points}\" }", "fallback = { points = [] }", "accepted\n"),
        (
            "timeout_ms = 15000",
            "timeout_ms = 45000",
            "halny.toml:41:14: routes[0].steps[4].timeout_ms: 45000 ms are more than the route has (30000 ms, deadline_ms); write timeout_ms = 30000 or less, or a longer deadline_ms\n",
        ),
        (
            "path = \"/ask\"",
            "path = \"/ask\"\ndeadline_ms = 20000\nslo = { latency_ms = 20001 }",
            "halny.toml:18:22: routes[0].slo.latency_ms: 20001 ms are more than the route has (20000 ms, deadline_ms); write latency_ms = 20000 or less, or a longer deadline_ms\n",
        ),
        (
            "path = \"/ask\"",
            "path = \"/ask\"\nslo = { latency_ms = 2000, quantile = 95 }",
            "halny.toml:17:39: routes[0].slo.quantile: 95 is out of range; write a number\n",
        ),
    ]);
}

#[test]
fn a_step_says_once_what_it_works_on() {
    assert_all(&[
        (
            "max_tokens = 128",
            "messages = [{ role = \"user\", content = \"x\" }]",
            "halny.toml:42:79: routes[0].steps[4].generate.messages: prompt and messages both say what is worked on; write prompt or messages alone\n",
        ),
        (
            "prompt = \"${context.text} ${request.question}\", ",
            "",
            "halny.toml:36:1: routes[0].steps[3]: nobody reads what the step \"context\" gives, so it would never run; read it in a step or under response, or take the step out\n\
             halny.toml:42:12: routes[0].steps[4].generate: prompt or messages is missing; add prompt or messages\n",
        ),
        (
            "filter = { must =",
            "filter = { musst =",
            "halny.toml:31:12: routes[0].steps[1].search.filter.musst: a filter has no \"musst\"; write must\n",
        ),
    ]);
    let messages = "messages = [{ role = \"user\", content = \"${context.text} ${request.qestion}\" }], ";
    assert_eq!(
        rendered(&with("prompt = \"${context.text} ${request.question}\", ", messages)),
        "halny.toml:42:70: routes[0].steps[4].generate.messages[0].content: \"${request.qestion}\" reads \"qestion\", which the request does not have; write question\n"
    );
}

#[test]
fn a_stream_needs_something_that_is_written() {
    assert_all(&[
        ("path = \"/ask\"", "path = \"/ask\"\nstream = true", "accepted\n"),
        ("answer = \"${answer.text}\"", "answer = \"Hm: ${answer.text}\"", "accepted\n"),
    ]);
    let text = with("answer = \"${answer.text}\"", "answer = \"Hm: ${answer.text}\"");
    let text = text.replace("path = \"/ask\"", "path = \"/ask\"\nstream = true");
    assert_eq!(
        rendered(&text),
        "halny.toml:17:10: routes[0].stream: no field of the answer is the text of a generate step, so there is nothing to stream; take stream out, or write a field such as answer = \"${answer.text}\" under response\n"
    );
}

#[test]
fn a_route_without_an_answer_is_none() {
    let text = format!("{HEAD}{STEPS}");
    assert_eq!(rendered(&text), "halny.toml:14:1: routes[0]: response is missing; add response, a table\n");
}

#[test]
fn what_cannot_be_read_hides_nothing_else() {
    let text = with("embed = { model = \"minilm\", text = \"${request.question}\" }", "embed = { model = 3 }");
    let text = text.replace("${item.payload.name}", "${item.payload.title}");
    assert_eq!(
        rendered(&text),
        "halny.toml:23:19: routes[0].steps[0].embed.model: 3 is a whole number; write a name: 1 to 96 letters, digits, `.`, `_` and `-`, the first a letter or a digit\n\
         halny.toml:38:43: routes[0].steps[3].join.each: \"${item.payload.title}\" reads \"title\", which \"payload\" does not have; write one of description, name\n"
    );
}
