#![allow(clippy::unwrap_used)]
use super::*;

const INPUTS: [(&str, FeatureType); 5] = [
    ("count", FeatureType::one(Scalar::Int64)),
    ("price", FeatureType::one(Scalar::Float64)),
    ("name", FeatureType::one(Scalar::String)),
    ("tags", FeatureType::list(Scalar::String)),
    ("sizes", FeatureType::list(Scalar::Int64)),
];

fn compile(text: &str, value_type: FeatureType) -> Result<Expression, (String, String)> {
    Expression::compile(text, value_type, &|owner, name| {
        let at = INPUTS.iter().position(|(known, _)| *known == name && owner == "v");
        let at = at.ok_or_else(|| (format!("no {owner}.{name}"), "write another".to_owned()))?;
        Ok((at, INPUTS[at].1))
    })
}

fn evaluate(text: &str, of: Scalar, values: [Value; 5]) -> Result<Value, Failed> {
    let expression = compile(text, FeatureType::one(of)).unwrap_or_else(|(wrong, _)| panic!("{text}: {wrong}"));
    expression.evaluate(&values.iter().collect::<Vec<_>>())
}

fn values() -> [Value; 5] {
    let tags = ["a", "b"].map(|tag| Value::String(tag.to_owned()));
    [
        Value::Int64(4),
        Value::Float64(2.5),
        Value::String("b".to_owned()),
        Value::List(tags.to_vec()),
        Value::List(vec![Value::Int64(1), Value::Int64(5)]),
    ]
}

#[test]
fn expressions_are_evaluated() {
    for (text, of, expected) in [
        ("double(v.count) * v.price", Scalar::Float64, Value::Float64(10.0)),
        ("v.count + 1", Scalar::Float64, Value::Float64(5.0)),
        ("v.name in v.tags", Scalar::Bool, Value::Bool(true)),
        ("v.name.startsWith('b') ? 1 : 0", Scalar::Int32, Value::Int32(1)),
        ("size(v.sizes.filter(x, x > v.count))", Scalar::Int64, Value::Int64(1)),
        ("v.tags.exists(x, x == v.name)", Scalar::Bool, Value::Bool(true)),
        ("has(v.count) && v.count > 3", Scalar::Bool, Value::Bool(true)),
        ("v.sizes.map(x, x * 2)[1]", Scalar::Int64, Value::Int64(10)),
        ("v.name + '-' + string(v.count)", Scalar::String, Value::String("b-4".to_owned())),
    ] {
        assert_eq!(evaluate(text, of, values()), Ok(expected), "{text}");
    }
}

#[test]
fn what_cannot_be_computed_fails_and_what_is_null_can_be_asked_for() {
    let null = || [Value::Null, Value::Float64(0.0), Value::Null, Value::Null, Value::Null];
    assert_eq!(evaluate("v.count + 1", Scalar::Int64, null()), Err(Failed));
    assert_eq!(evaluate("has(v.count) ? v.count : 7", Scalar::Int64, null()), Ok(Value::Int64(7)));
    assert_eq!(evaluate("v.count == null ? 7 : v.count", Scalar::Int64, null()), Ok(Value::Int64(7)));
    let mut zero = values();
    zero[0] = Value::Int64(0);
    assert_eq!(evaluate("10 / v.count", Scalar::Int64, zero), Err(Failed));
    let mut large = values();
    large[0] = Value::Int64(i64::MAX);
    assert_eq!(evaluate("v.count + 1", Scalar::Int64, large.clone()), Err(Failed));
    assert_eq!(evaluate("v.count", Scalar::Int32, large), Err(Failed));
}

#[test]
fn expressions_that_cannot_be_right_or_bounded_are_refused() {
    let long = "v.count + ".repeat(400) + "1";
    for (text, part) in [
        ("v.count +", "cannot be read"),
        ("v.cuont", "no v.cuont"),
        ("w.count", "no w.count"),
        ("count", "alone"),
        ("v.count / v.price", "cannot be evaluated"),
        ("v.name", "the feature is int64"),
        ("v.price", "the feature is int64"),
        ("size(v.tags.map(x, v.tags.map(y, y)))", "loop within a loop"),
        ("size(v.sizes.map(x, v.tags))", "every turn"),
        ("size(v.sizes.map(x, v.name + v.name))", "every turn"),
        ("v.name.matches('(a+)+$') ? 1 : 0", "no function \"matches\""),
        ("__0", "alone"),
        ("size(v.sizes.map(__0, 1))", "name of a variable"),
        (&long, "more than 500 parts"),
        (&"(".repeat(2_000), "cannot be read"),
    ] {
        let (wrong, _) = compile(text, FeatureType::one(Scalar::Int64)).expect_err(text);
        assert!(wrong.contains(part), "{text}: {wrong}");
    }
}

#[test]
fn texts_and_lists_that_are_too_long_are_not_evaluated() {
    let mut long = values();
    long[2] = Value::String("x".repeat(TEXT_BYTES_MAX + 1));
    long[4] = Value::List(vec![Value::Int64(1); LIST_ITEMS_MAX + 1]);
    assert_eq!(evaluate("size(v.name)", Scalar::Int64, long.clone()), Err(Failed));
    assert_eq!(evaluate("size(v.sizes)", Scalar::Int64, long.clone()), Err(Failed));
    assert_eq!(evaluate("size(v.tags)", Scalar::Int64, long), Ok(Value::Int64(2)), "what is not read does not matter");
}

mod by_chance {
    use super::*;
    use proptest::prelude::*;
    use proptest::sample::select;

    const PARTS: [&str; 40] = [
        "v.count",
        "v.price",
        "v.name",
        "v.tags",
        "v.sizes",
        "x",
        "1",
        "2.5",
        "'a'",
        "b'c'",
        "null",
        "true",
        "[",
        "]",
        "(",
        ")",
        "{",
        "}",
        "+",
        "-",
        "*",
        "/",
        "%",
        "==",
        "<",
        "&&",
        "||",
        "!",
        "?",
        ":",
        ",",
        ".",
        " in ",
        "size(",
        ".map(x, ",
        ".filter(x, ",
        ".all(x, ",
        "has(",
        "int(",
        "double(",
    ];

    proptest! {
        #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

        #[test]
        fn any_text_is_compiled_or_refused(text in "\\PC{0,60}") {
            let _ = compile(&text, FeatureType::one(Scalar::Int64));
        }

        #[test]
        fn whatever_compiles_is_computed_or_fails(parts in prop::collection::vec(select(PARTS.to_vec()), 1..14), of in select(Scalar::ALL.to_vec())) {
            if let Ok(expression) = compile(&parts.concat(), FeatureType::one(of)) {
                for values in [values(), Default::default()] {
                    if let Ok(value) = expression.evaluate(&values.iter().collect::<Vec<_>>()) {
                        prop_assert!(value.is_of(FeatureType::one(of)), "{:?} of {}", value, parts.concat());
                    }
                }
            }
        }
    }
}
