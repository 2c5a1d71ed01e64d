//! What is told of expressions that cannot be right: the line, what is wrong, and what would be right.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use halny_features::Definitions;
use halny_types::project::check;

const TOML: &str = r#"[[entities]]
name = "user"
[[feature_views]]
name = "clicks"
entities = ["user"]
features = [{ name = "count", type = "int64" }, { name = "name", type = "string" }]
source = { push = true }
[[on_demand_views]]
name = "rates"
sources = ["clicks"]
request = { shown = "float64" }
features = [
    { name = "rate", type = "float64", expression = "double(clicks.count) / request.shown" },
]
"#;

fn told(expression: &str) -> String {
    let text = TOML.replace("double(clicks.count) / request.shown", expression);
    let project = check(&text).unwrap().project;
    match Definitions::new(&project) {
        Ok(_) => "accepted".to_owned(),
        Err(problems) => problems
            .into_iter()
            .map(|problem| problem.located(&text).render("halny.toml"))
            .collect::<Vec<_>>()
            .join("\n"),
    }
}

#[test]
fn an_expression_is_told_with_its_line_and_the_fix() {
    const AT: &str = "halny.toml:13:53: on_demand_views[0].features[0].expression: ";
    for (expression, expected) in [
        ("clicks.cont * 2", "the view \"clicks\" has no feature \"cont\"; it has count, name; write one of them"),
        (
            "request.show",
            "the request has no field \"show\"; declare it in request = { show = \\\"...\\\" }, or write one of shown",
        ),
        ("views.count", "\"views\" is no source of this view; write \"views\" into sources, or read one of clicks"),
        ("clicks.count / request.shown", "the expression cannot be evaluated"),
        (
            "clicks.name",
            "the expression gives string, and the feature is float64; write another type, or convert it, such as int(...)",
        ),
        ("clicks.count +", "the expression cannot be read at character"),
    ] {
        let told = told(expression);
        assert!(
            told.starts_with(&format!("{AT}{}", expected.replace("\\\"", "\""))),
            "{expression}\n{told}\n{expected}"
        );
    }
    assert_eq!(told("double(clicks.count) / request.shown"), "accepted");
}
