//! Routes as their clients' tools read them: JSON Schema (draft 2020-12) and OpenAPI 3.1.

use std::collections::BTreeMap;

use halny_types::project::routes::{Field, Kind, Record, Slot};
use serde_json::{Map, Value as Json, json};

use crate::Plan;

/// The JSON Schema of a route's requests.
#[must_use]
pub fn request_schema(plan: &Plan) -> Json {
    let mut schema = Field::object_schema(&plan.route.request);
    if plan.streams() {
        let stream = json!({
            "type": "boolean",
            "default": false,
            "description": "Whether the answer is told as events, text as it is written.",
        });
        schema["properties"]["stream"] = stream;
    } else {
        schema["properties"]["stream"] = json!({ "const": false });
    }
    schema
}

/// The JSON Schema of a route's answers.
#[must_use]
pub fn response_schema(plan: &Plan) -> Json {
    let slot = |mapping| plan.scope.kind_of(mapping).unwrap_or_else(|_| Slot::of(Kind::Any));
    let fields: BTreeMap<String, Slot> =
        plan.answer.iter().map(|answered| (answered.name.clone(), slot(&answered.mapping))).collect();
    Record { fields, rest: None }.json_schema()
}

/// One OpenAPI 3.1 document of several routes.
pub fn openapi<'a>(plans: impl IntoIterator<Item = &'a Plan>) -> Json {
    let paths: Map<String, Json> =
        plans.into_iter().map(|plan| (plan.route.path.clone(), json!({ "post": operation(plan) }))).collect();
    json!({
        "openapi": "3.1.0",
        "info": {
            "title": "Routes of a Halny project",
            "version": env!("CARGO_PKG_VERSION"),
            "description": "What this server answers at paths of its own project, beside what every Halny does.",
        },
        "jsonSchemaDialect": "https://json-schema.org/draft/2020-12/schema",
        "paths": paths,
        "components": { "schemas": { "Error": error(), "Event": event() } },
    })
}

fn operation(plan: &Plan) -> Json {
    let mut content = json!({ "application/json": { "schema": response_schema(plan) } });
    if plan.streams() {
        content["text/event-stream"] = json!({ "schema": { "$ref": "#/components/schemas/Event" } });
    }
    let refused = |text: &str| {
        json!({
            "description": text,
            "content": { "application/json": { "schema": { "$ref": "#/components/schemas/Error" } } },
        })
    };
    let mut operation = json!({
        "operationId": plan.route.name.as_str(),
        "requestBody": {
            "required": true,
            "content": { "application/json": { "schema": request_schema(plan) } },
        },
        "responses": {
            "200": {
                "description": "The answer.",
                "headers": {
                    "server-timing": {
                        "description": "The time of each step in milliseconds (W3C Server Timing).",
                        "schema": { "type": "string" },
                    },
                    "x-halny-fallback": {
                        "description": "The steps whose fallbacks stand in for them, where there are any.",
                        "schema": { "type": "string" },
                    },
                },
                "content": content,
            },
            "400": refused("The request is not what the route takes."),
            "404": refused("A model or a collection that a step needs is not there."),
            "413": refused("The request is too large."),
            "503": refused("There is more work than can be done in time; `retry-after` says when to try again."),
            "504": refused("The deadline passed."),
            "default": refused("Something broke."),
        },
    });
    if let Some(description) = &plan.route.description {
        operation["summary"] = json!(description);
    }
    operation
}

fn error() -> Json {
    json!({
        "type": "object",
        "properties": {
            "error": {
                "type": "object",
                "properties": {
                    "message": { "type": "string" },
                    "type": { "type": "string" },
                    "param": { "type": ["string", "null"] },
                    "code": { "type": "string" },
                },
                "required": ["message", "type", "param", "code"],
            },
        },
        "required": ["error"],
    })
}

/// What the data of each event is.
fn event() -> Json {
    json!({
        "description": "The data of one event; its name is `field`, `text`, `done` or `error`.",
        "oneOf": [
            {
                "title": "field",
                "type": "object",
                "properties": { "name": { "type": "string" }, "value": {} },
                "required": ["name", "value"],
            },
            {
                "title": "text",
                "type": "object",
                "properties": { "name": { "type": "string" }, "text": { "type": "string" } },
                "required": ["name", "text"],
            },
            {
                "title": "done",
                "type": "object",
                "properties": { "steps": { "type": "array" }, "fallbacks": { "type": "array" } },
                "required": ["steps", "fallbacks"],
            },
            { "$ref": "#/components/schemas/Error" },
        ],
    })
}
