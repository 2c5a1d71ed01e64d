//! Broken project files and what the check says of them, line by line.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use halny_types::project::{Checked, PROBLEMS_MAX, Problem, check};

const MODEL: &str = "[[models]]\nname = \"a\"\nsource = \"x\"\ntask = \"embed\"\n";

fn rendered(text: &str) -> String {
    let lines = |problems: &[Problem]| -> String {
        problems.iter().map(|problem| problem.render("halny.toml") + "\n").collect::<String>()
    };
    match check(text) {
        Ok(Checked { warnings, .. }) => format!("accepted\n{}", lines(&warnings)),
        Err(problems) => lines(&problems),
    }
}

/// Every case is tried before the test fails, so that a change of words is seen whole.
fn assert_all(cases: &[(&str, &str)]) {
    let mut wrong = String::new();
    for (text, expected) in cases {
        let actual = rendered(text);
        if actual != *expected {
            wrong += &format!("--- file\n{text}\n--- expected\n{expected}--- actual\n{actual}\n");
        }
    }
    assert!(wrong.is_empty(), "{wrong}");
}

fn after_model(text: &str) -> String {
    format!("{MODEL}{text}")
}

fn after_server(text: &str) -> String {
    format!("[server]\n{text}\n{MODEL}")
}

fn after_profile(text: &str) -> String {
    format!("{MODEL}[[models.profiles]]\n{text}")
}

fn assert_all_in(wrap: fn(&str) -> String, cases: &[(&str, &str)]) {
    let wrapped: Vec<(String, &str)> = cases.iter().map(|(text, expected)| (wrap(text), *expected)).collect();
    assert_all(&wrapped.iter().map(|(text, expected)| (text.as_str(), *expected)).collect::<Vec<_>>());
}

#[test]
fn syntax_errors_have_lines_and_do_not_cascade() {
    assert_all(&[
        (
            "a = \nb = # nothing\n",
            "halny.toml:1:5: this is not TOML: a value is missing; write a value\n\
             halny.toml:2:5: this is not TOML: a value is missing; write a value\n",
        ),
        (
            "[server]\naddress = 127.0.0.1:80\n[[models]\nname = \"a\"\n",
            "halny.toml:2:16: this is not TOML: invalid float; write a number, or put the text in quotes\n\
             halny.toml:3:10: this is not TOML: unclosed array table; write `]`\n",
        ),
        ("a = 1\na = 2\n", "halny.toml:2:1: this is not TOML: duplicate key; write each name once in a table\n"),
        (
            "a = [1, 2\nb = 3\nc = 4\nd = 5\n",
            "halny.toml:2:1: this is not TOML: missing comma between array elements; write `,`\n",
        ),
        (
            "a = \"x\nb = 3\n",
            "halny.toml:1:7: this is not TOML: invalid basic string; end the text with a quote on its line, and write control characters as escapes\n",
        ),
        (
            "\u{feff}a = 1 2",
            "halny.toml:1:6: this is not TOML: string values must be quoted; write the text in quotes\n",
        ),
        (
            "a = 1\r\nb = \"\u{1}\"\r\n",
            "halny.toml:2:6: this is not TOML: invalid basic string; end the text with a quote on its line, and write control characters as escapes\n",
        ),
    ]);
}

#[test]
fn every_structural_problem_is_told_at_once() {
    assert_all(&[
        (
            "[server]\nadress = \"x\"\nmax_conections = 5\nmax_batch_size = 3\nfoo = 1\n[[model]]\n",
            "halny.toml:2:1: server.adress: there is no such setting; write address\n\
             halny.toml:3:1: server.max_conections: there is no such setting; write max_connections\n\
             halny.toml:4:1: server.max_batch_size: there is no such setting; write max_batch_size under [[models.profiles]]\n\
             halny.toml:5:1: server.foo: there is no such setting; write one of address, admin_address, body_timeout_ms, cpu_threads, drain_timeout_ms, header_timeout_ms, max_bodies, max_body, max_concurrent_requests, max_connections, max_inputs_per_request, metrics_on_data_port\n\
             halny.toml:6:3: model: there is no such setting; write models\n",
        ),
        (
            "[[models]]\nname = \"a b\"\ntask = \"embedd\"\npreload = \"yes\"\n[models.text]\nmax_tokens = 0\npooling = 3\n\
          [[models.profiles]]\ndevice = \"gpu\"\nthreads = \"many\"\ninstances = 0\nmax_queue = \"12 parsecs\"\n\
          max_batch_size = 4.0\ndeadline_ms = -1\n",
            "halny.toml:1:1: models[0]: source is missing; add source, text such as \"models/minilm\", \"hf://owner/name\" or \"s3://bucket/prefix\"\n\
             halny.toml:2:8: models[0].name: \"a b\" is not a name; write a name: 1 to 96 letters, digits, `.`, `_` and `-`, the first a letter or a digit\n\
             halny.toml:3:8: models[0].task: \"embedd\" is not a task; write one of \"embed\", \"classify-text\", \"rerank\", \"classify-image\", \"tensor\", \"generate\"\n\
             halny.toml:4:11: models[0].preload: \"yes\" is text; write true or false\n\
             halny.toml:6:14: models[0].text.max_tokens: 0 is out of range; write a whole number from 1 to 1048576\n\
             halny.toml:7:11: models[0].text.pooling: 3 is a whole number; write one of \"mean\", \"cls\", \"last\"\n\
             halny.toml:9:10: models[0].profiles[0].device: \"gpu\" is not a device; write text such as \"auto\", \"cpu\", \"cuda:0\" or \"tensorrt:0\"\n\
             halny.toml:10:11: models[0].profiles[0].threads: \"many\" is not a number of threads; write \"auto\" or a whole number from 1 to 1024\n\
             halny.toml:11:13: models[0].profiles[0].instances: 0 is out of range; write \"auto\" or a whole number from 1 to 1024\n\
             halny.toml:12:13: models[0].profiles[0].max_queue: \"12 parsecs\" is not a size; write a size: text such as \"16MiB\" or \"2GB\", or a whole number of bytes\n\
             halny.toml:13:18: models[0].profiles[0].max_batch_size: 4.0 is a number with a decimal point; write a whole number from 1 to 65536\n\
             halny.toml:14:15: models[0].profiles[0].deadline_ms: -1 is out of range; write a whole number from 1 to 3600000\n",
        ),
        (
            "models = 3\nserver = []\ncache = { folder = \"\" }\n",
            "halny.toml:1:10: models: 3 is a whole number; write a list of at most 1024 tables\n\
             halny.toml:2:10: server: this is a list; write a table\n\
             halny.toml:3:20: cache.folder: the text is empty; write text of 1 to 4096 characters\n",
        ),
        (
            "[[models]]\n[[models]]\nname = \"\"\nsource = \"\"\ntask = {}\nprofiles = [{ naem = \"x\" }, 4]\n",
            "halny.toml:1:1: models[0]: name is missing; add name, a name: 1 to 96 letters, digits, `.`, `_` and `-`, the first a letter or a digit\n\
             halny.toml:1:1: models[0]: source is missing; add source, text such as \"models/minilm\", \"hf://owner/name\" or \"s3://bucket/prefix\"\n\
             halny.toml:1:1: models[0]: task is missing; add task, one of \"embed\", \"classify-text\", \"rerank\", \"classify-image\", \"tensor\", \"generate\"\n\
             halny.toml:3:8: models[1].name: the text is empty; write a name: 1 to 96 letters, digits, `.`, `_` and `-`, the first a letter or a digit\n\
             halny.toml:4:10: models[1].source: the text is empty; write text such as \"models/minilm\", \"hf://owner/name\" or \"s3://bucket/prefix\"\n\
             halny.toml:5:8: models[1].task: this is a table; write one of \"embed\", \"classify-text\", \"rerank\", \"classify-image\", \"tensor\", \"generate\"\n\
             halny.toml:6:15: models[1].profiles[0].naem: there is no such setting; write name\n\
             halny.toml:6:29: models[1].profiles[1]: 4 is a whole number; write a table\n",
        ),
        (
            "\"a b\" = 1\n\"x\\u0000y\" = 2\n",
            "halny.toml:1:1: \"a b\": there is no such setting; write one of cache, commands, entities, feature_services, feature_views, features, jobs, models, on_demand_views, onnxruntime, queues, routes, schedules, server, store, vectors, webhooks\n\
             halny.toml:2:1: \"x\\0y\": there is no such setting; write one of cache, commands, entities, feature_services, feature_views, features, jobs, models, on_demand_views, onnxruntime, queues, routes, schedules, server, store, vectors, webhooks\n",
        ),
    ]);
}

#[test]
fn what_json_cannot_say_is_told_in_words() {
    assert_all_in(
        after_profile,
        &[
            (
                "max_batch_size = 2024-01-01\n",
                "halny.toml:6:18: models[0].profiles[0].max_batch_size: 2024-01-01 is a date or a time; write a whole number from 1 to 65536\n",
            ),
            (
                "deadline_ms = inf\n",
                "halny.toml:6:15: models[0].profiles[0].deadline_ms: inf is not a finite number; write a whole number from 1 to 3600000\n",
            ),
            (
                "deadline_ms = nan\n",
                "halny.toml:6:15: models[0].profiles[0].deadline_ms: nan is not a finite number; write a whole number from 1 to 3600000\n",
            ),
            (
                "deadline_ms = 99999999999999999999\n",
                "halny.toml:6:15: models[0].profiles[0].deadline_ms: 99999999999999999999 is too large a number; write a whole number from 1 to 3600000\n",
            ),
            (
                "deadline_ms = 1_0\u{1}00_000\n",
                "halny.toml:6:15: models[0].profiles[0].deadline_ms: 10\\u{1}00000 is not a number; write a whole number from 1 to 3600000\n",
            ),
            (
                "deadline_ms = 1e400\n",
                "halny.toml:6:15: models[0].profiles[0].deadline_ms: 1e400 is not a finite number; write a whole number from 1 to 3600000\n",
            ),
        ],
    );
}

#[test]
fn rules_inside_a_profile_are_checked() {
    assert_all_in(
        after_profile,
        &[
            (
                "max_batch_delay_ms = 50\ndeadline_ms = 50\n",
                "halny.toml:6:22: models[0].profiles[0].max_batch_delay_ms: waiting 50 ms for a batch leaves nothing of a deadline of 50 ms; write max_batch_delay_ms smaller than 50, or a longer deadline_ms\n",
            ),
            (
                "deadline_ms = 5\n",
                "halny.toml:6:15: models[0].profiles[0].deadline_ms: waiting 5 ms for a batch leaves nothing of a deadline of 5 ms; write max_batch_delay_ms smaller than 5, or a longer deadline_ms\n",
            ),
            (
                "max_batch_size = 100\nmax_queue_items = 99\n",
                "halny.toml:6:18: models[0].profiles[0].max_batch_size: a queue of 99 items (max_queue_items) never fills a batch of 100; write max_batch_size = 99 or less, or a larger max_queue_items\n",
            ),
            (
                "instances = 100\nthreads = 41\n",
                "halny.toml:6:13: models[0].profiles[0].instances: 100 instances of 41 threads are 4100 threads; write instances and threads whose product is at most 4096\n",
            ),
            (
                "max_queue = 0\n",
                "halny.toml:6:13: models[0].profiles[0].max_queue: 0 is out of range; write a size from \"64KiB\" to \"1TiB\"\n",
            ),
            (
                "[[models.profiles]]\nname = \"default\"\n",
                "halny.toml:7:8: models[0].profiles[1].name: profile 0 has the name \"default\" too; write a name that no other profile has\n",
            ),
            (
                "name = \"a\"\n[[models.profiles]]\nname = \"A\"\n",
                "halny.toml:8:8: models[0].profiles[1].name: \"A\" differs from the name of profile 0, \"a\", only by case; write a name that no other profile has\n",
            ),
            (
                "max_batch_tokens = 100\n[models.text]\nmax_tokens = 512\n",
                "halny.toml:6:20: models[0].profiles[0].max_batch_tokens: a text of 512 tokens (max_tokens) fits into no batch of 100 (max_batch_tokens); write max_batch_tokens = 512 or more, or a smaller max_tokens\n",
            ),
        ],
    );
}

#[test]
fn rules_between_and_inside_models_are_checked() {
    assert_all_in(
        after_model,
        &[
            (
                "text = { max_tokens = 20000 }\n",
                "halny.toml:5:23: models[0].text.max_tokens: a text of 20000 tokens (max_tokens) fits into no batch of 16384 (max_batch_tokens); write max_batch_tokens = 20000 or more, or a smaller max_tokens\n",
            ),
            (
                "[[models]]\nname = \"a\"\nsource = \"y\"\ntask = \"rerank\"\n",
                "halny.toml:6:8: models[1].name: model 0 has the name \"a\" too; write a name that no other model has\n",
            ),
            (
                "[[models]]\nname = \"A\"\nsource = \"y\"\ntask = \"rerank\"\n",
                "halny.toml:6:8: models[1].name: \"A\" differs from the name of model 0, \"a\", only by case; write a name that no other model has\n",
            ),
            (
                "[[models]]\nname = \"b\"\nsource = \"y\"\ntask = \"classify-image\"\ntext = {}\n",
                "halny.toml:9:8: models[1].text: a \"classify-image\" model reads no texts, so these options mean nothing; take the text options out, or write another task\n",
            ),
            (
                "[[models]]\nname = \"b\"\nsource = \"ftp://h/x\"\ntask = \"tensor\"\n",
                "halny.toml:7:10: models[1].source: \"ftp://h/x\" has an unknown scheme; write a folder, hf://owner/name[@revision] or s3://bucket/prefix\n",
            ),
            (
                "[[models]]\nname = \"b\"\nsource = \"hf://owner\"\ntask = \"tensor\"\n",
                "halny.toml:7:10: models[1].source: \"hf://owner\" does not say owner/name; write a folder, hf://owner/name[@revision] or s3://bucket/prefix\n",
            ),
            (
                "[[models]]\nname = \"b\"\nsource = \" \"\ntask = \"tensor\"\n",
                "halny.toml:7:10: models[1].source: \" \" is blank; write a folder, hf://owner/name[@revision] or s3://bucket/prefix\n",
            ),
            (
                "[[models]]\nname = \"b\"\nsource = \"a\\u0000b\"\ntask = \"tensor\"\n",
                "halny.toml:7:10: models[1].source: \"a\\0b\" holds the control character U+0000; write text without control characters\n",
            ),
        ],
    );
}

#[test]
fn addresses_are_parsed_and_the_admin_port_stays_on_this_machine() {
    assert_all_in(
        after_server,
        &[
            (
                "address = \"8080\"\nadmin_address = \"localhost\"",
                "halny.toml:2:11: server.address: \"8080\" is not host:port; write an address such as \"127.0.0.1:8080\"\n\
             halny.toml:3:17: server.admin_address: \"localhost\" is not host:port; write an address such as \"127.0.0.1:8081\"\n",
            ),
            (
                "address = \"127.0.0.1:8081\"",
                "halny.toml:2:11: server.address: the admin port is the clients' port too; write another port in admin_address or in address\n",
            ),
            ("address = \"127.0.0.1:0\"\nadmin_address = \"127.0.0.1:0\"", "accepted\n"),
            (
                "admin_address = \"0.0.0.0:8081\"",
                "halny.toml:2:17: server.admin_address: the admin port has no credentials yet, so other machines must not reach it; write a loopback address such as \"127.0.0.1:8081\"\n",
            ),
            (
                "admin_address = \"gpu.example.org:8081\"",
                "halny.toml:2:17: server.admin_address: the admin port has no credentials yet, so other machines must not reach it; write a loopback address such as \"127.0.0.1:8081\"\n",
            ),
            (
                "max_body = 0",
                "halny.toml:2:12: server.max_body: 0 is out of range; write a size from \"1KiB\" to \"4GiB\"\n",
            ),
            (
                "max_body = \"99999999999TiB\"",
                "halny.toml:2:12: server.max_body: \"99999999999TiB\" is out of range; write a size from \"1KiB\" to \"4GiB\"\n",
            ),
            (
                "max_body = \"5GiB\"",
                "halny.toml:2:12: server.max_body: \"5GiB\" is out of range; write a size from \"1KiB\" to \"4GiB\"\n",
            ),
        ],
    );
}

#[test]
fn a_broken_setting_does_not_hide_the_rules_of_others() {
    assert_all_in(
        after_profile,
        &[(
            "max_batch_size = \"many\"\nmax_queue_items = 1\nmax_batch_delay_ms = 9\ndeadline_ms = 9\n",
            "halny.toml:6:18: models[0].profiles[0].max_batch_size: \"many\" is text; write a whole number from 1 to 65536\n\
             halny.toml:8:22: models[0].profiles[0].max_batch_delay_ms: waiting 9 ms for a batch leaves nothing of a deadline of 9 ms; write max_batch_delay_ms smaller than 9, or a longer deadline_ms\n",
        )],
    );
}

#[test]
fn a_file_without_models_is_accepted_with_a_warning() {
    assert_all(&[
        (
            "",
            "accepted\n\
             halny.toml:1:1: models: no model is declared, so nothing is served; write a [[models]] table with name, source and task\n",
        ),
        (
            "[server]\n\n",
            "accepted\n\
             halny.toml:1:1: models: no model is declared, so nothing is served; write a [[models]] table with name, source and task\n",
        ),
        (
            "# only words\nmodels = []\n",
            "accepted\n\
             halny.toml:2:1: models: no model is declared, so nothing is served; write a [[models]] table with name, source and task\n",
        ),
        ("[[commands]]\nname = \"train\"\nprogram = [\"true\"]\n", "accepted\n"),
    ]);
}

#[test]
fn limits_hold_for_files_that_are_too_large_deep_or_wrong() {
    let large = format!("# {}", "x".repeat(1 << 20));
    assert_eq!(rendered(&large), "halny.toml:1:1: the file has 1048578 bytes; write at most 1048576\n");

    let deep = format!("a = {}1{}", "[".repeat(60), "]".repeat(60));
    assert_eq!(rendered(&deep).lines().count(), 1, "{}", rendered(&deep));
    assert!(rendered(&deep).contains("this is nested too deep; write at most 32 levels"), "{}", rendered(&deep));
    let deeper = format!("a = {}1{}", "[".repeat(100_000), "]".repeat(100_000));
    assert!(!check(&deeper).unwrap_err().is_empty());

    let wrong: String = (0..250).map(|at| format!("wrong_{at} = 1\n")).collect();
    let problems = check(&wrong).unwrap_err();
    assert_eq!(problems.len(), PROBLEMS_MAX + 1);
    assert_eq!(
        problems.last().unwrap().to_string(),
        "101:1: from here on there are 150 more problems; correct the ones above first"
    );
    assert!(problems.is_sorted_by_key(|problem| (problem.line, problem.column)));
}

#[test]
fn one_line_of_many_problems_is_checked_in_bounded_work() {
    let many = format!("models = [{}]", "{},".repeat(300_000));
    let problems = check(&many).unwrap_err();
    assert!(problems.iter().any(|problem| problem.wrong.contains("this list has 300000 items")), "{:?}", problems[0]);
    let wide = format!("x = [{}]", "[0],".repeat(200_000));
    assert!(check(&wide).is_err());
}

#[test]
fn a_model_without_profiles_gets_the_default_one() {
    let project = check(MODEL).unwrap().project;
    assert_eq!(project.models[0].profiles, [halny_types::project::Profile::default()]);
}

fn after_vectors(text: &str) -> String {
    format!("[vectors]\n{text}\n{MODEL}")
}

#[test]
fn an_engine_of_vectors_has_its_own_settings_and_no_secrets() {
    assert_all_in(
        after_vectors,
        &[
            ("folder = \"v\"", "accepted\n"),
            (
                "engine = \"postgres\"\nurl = \"postgres://halny@db:5432/halny?sslmode=require\"\npassword_env = \"PW\"",
                "accepted\n",
            ),
            ("engine = \"postgres\"\nurl_env = \"DATABASE_URL\"", "accepted\n"),
            ("engine = \"qdrant\"\nurl = \"https://qdrant:6333\"\napi_key_env = \"KEY\"", "accepted\n"),
            ("engine = \"qdrant\"\nurl_env = \"QDRANT_URL\"", "accepted\n"),
        ],
    );
    for (text, place, told) in [
        ("url = \"postgres://db/x\"", ":2:1: vectors.url", "`url` means nothing to the engine \"embedded\""),
        ("engine = \"postgres\"", "", "the engine \"postgres\" needs to know where its server is"),
        ("engine = \"postgres\"\nurl = \"postgres://db/x\"\nurl_env = \"U\"", ":4:1:", "`url` and `url_env` both say"),
        ("engine = \"postgres\"\nurl = \"postgres://h:secret@db/x\"", ":3:7:", "the URL holds a password"),
        ("engine = \"postgres\"\nurl = \"postgres://db/x?password=secret\"", ":3:7:", "the URL holds a password"),
        (
            "engine = \"postgres\"\nurl = \"mysql://h:secret@db/x\"",
            ":3:7:",
            "this is no URL of the engine \"postgres\"",
        ),
        ("engine = \"postgres\"\nurl_env = \"1 X\"", ":3:11:", "\"1 X\" is no name of an environment variable"),
        ("engine = \"mysql\"\nurl_env = \"U\"", ":2:10:", "mysql"),
        ("api_key_env = \"K\"", ":2:1:", "take it out, or write engine = \"qdrant\""),
        ("engine = \"postgres\"\nurl_env = \"U\"\napi_key_env = \"K\"", ":4:1:", "`api_key_env` means nothing"),
        ("engine = \"qdrant\"\nurl_env = \"U\"\npassword_env = \"K\"", ":4:1:", "write engine = \"postgres\""),
        ("engine = \"qdrant\"", "", "the engine \"qdrant\" needs to know where its server is"),
        ("engine = \"qdrant\"\nurl = \"qdrant://db\"", ":3:7:", "begins with http:// or https://"),
        ("engine = \"qdrant\"\nurl = \"https://secret@db:6333\"", ":3:7:", "the URL holds more than where it is"),
        ("engine = \"qdrant\"\nurl = \"https://me:secret@db:6333\"", ":3:7:", "name the variable"),
        ("engine = \"qdrant\"\nurl = \"https://db:6333/?api-key=secret\"", ":3:7:", "in api_key_env"),
        (
            "engine = \"qdrant\"\nurl_env = \"U\"\napi_key_env = \"a b\"",
            ":4:15:",
            "is no name of an environment variable",
        ),
    ] {
        let said = rendered(&after_vectors(text));
        assert!(said.contains(place) && said.contains(told), "{text}\n{said}");
        assert!(!said.contains("secret@") && !said.contains("=secret"), "{said}");
    }
}
