//! What holds for every project file, not only for those someone thought of.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use std::path::PathBuf;

use halny_types::project::{
    Adapter, Cache, CellFormat, CpuThreads, GenerateOptions, GenerateProfile, Model, OnnxRuntime, PROBLEMS_MAX,
    Packing, Pooling, Precision, Profile, Project, Server, TaskKind, TextOptions, VectorEngine, Vectors, check, schema,
};
use halny_types::{ByteSize, ModelName, ProfileName};
use proptest::option::of;
use proptest::prelude::*;
use proptest::sample::select;

const VALID: &str = r#"# A comment
[server]
address = "0.0.0.0:8080"
max_body = "32MiB"
cpu_threads = "auto"

[cache]
folder = "/var/cache/halny"

[[models]]
name = "minilm"
source = "hf://sentence-transformers/all-MiniLM-L6-v2"
task = "embed"
text = { max_tokens = 256, truncate = true, pooling = "mean" }

  [[models.profiles]]
  device = "cpu"
  precision = "int8"
  threads = 2
  max_queue = 1_000_000

[[models]]
name = "bilder"
source = "models/größe"
task = "classify-image"
profiles = [{ name = "a", max_batch_delay_ms = 0 }, { name = "b", device = "cuda:0" }]
"#;

/// A route that needs no models.
const ROUTE: &str = r#"
[[routes]]
name = "find"
path = "/find"
description = "Finds."
deadline_ms = 900
slo = { latency_ms = 50, quantile = 0.9, errors = 0.001 }
[routes.request]
text = { type = "string", enum = ["a", "b"], description = "What." }
near = { type = "array", items = { type = "number", minimum = -1.0 }, max_items = 3, optional = true }
page = { type = "object", fields = { size = { type = "integer", default = 5 } }, default = {} }
[[routes.steps]]
name = "hits"
timeout_ms = 100
fallback = { points = [] }
search = { collection = "c", text = "${request.text}", limit = "${request.page.size}", with_payload = ["name"], exact = true }
[[routes.steps]]
name = "more"
fetch-payload = { collection = "d", ids = "${hits.points[*].id}", with_payload = false }
[[routes.steps]]
name = "joined"
[routes.steps.join]
items = "${more.points}"
each = """
${number}: $${literal}
"""
[routes.response]
text = "${joined.text}"
names = ["${hits.points[*].payload.name}", { near = "${request.near}", one = 1 }]
"#;

/// Features that need no models.
/// Jobs, and where they are kept.
const JOBS: &str = r#"
[store]
engine = "postgres"
url_env = "HALNY_STORE_URL"
password_env = "HALNY_STORE_PASSWORD"
blobs = "s3://bucket/prefix"
[jobs]
slots = 8
keep_days = 30
[[queues]]
name = "nightly"
concurrency = 2
rate_per_s = 0.5
backoff_ms = 10
[[schedules]]
name = "train"
cron = "30 3 * * *"
timezone = "Europe/Warsaw"
queue = "nightly"
kind = "command"
payload = { command = "train", deep = [{ a = 1.5 }, "x"] }
[[commands]]
name = "train"
program = ["python3", "train.py"]
folder = "jobs"
env = { MODE = "all" }
memory = "2GiB"
cpu_s = 60
[[webhooks]]
name = "app"
url = "https://app.example.com/hooks"
secret_env = "HALNY_WEBHOOK_SECRET"
"#;

const FEATURES: &str = r#"
[features]
engine = "redis"
url = "redis://cache:6379"
[[entities]]
name = "user"
join_key = "user_id"
description = "Who."
[[feature_views]]
name = "clicks"
entities = ["user"]
ttl_s = 60
features = [{ name = "count", type = "int64" }, { name = "tags", type = "list<string>", description = "What." }]
source = { push = true, batch = { path = "clicks", created = "made", mapping = { n = "count" } } }
tags = { owner = "me" }
[[on_demand_views]]
name = "rates"
sources = ["clicks"]
request = { shown = "float64" }
features = [{ name = "rate", type = "float64", expression = "double(clicks.count) / request.shown" }]
[[feature_services]]
name = "rank"
version = 7
features = ["clicks:count", "rates"]
log_sample = 0.25
"#;

fn count() -> impl Strategy<Value = CpuThreads> {
    prop_oneof![Just(CpuThreads::Auto), (1_usize..=64).prop_map(CpuThreads::Count)]
}

fn path() -> impl Strategy<Value = PathBuf> {
    "[a-zA-Z0-9 ü\"'\\\\./_-]{1,40}".prop_map(PathBuf::from)
}

prop_compose! {
    fn server()(
        ports in (1_u16..30_000, 30_000_u16..=65_535),
        host in select(vec!["127.0.0.1", "0.0.0.0", "[::1]", "localhost", "gpu-1.example.org"]),
        max_body in (1_u64 << 10)..=(4 << 30),
        numbers in (1_usize..=1_000_000, 1_usize..=1_000_000, 1_usize..=100_000),
        times in (1_u64..=600_000, 1_u64..=600_000, 0_u64..=3_600_000),
        metrics_on_data_port: bool,
        cpu_threads in count(),
    ) -> Server {
        Server {
            address: format!("{host}:{}", ports.0),
            admin_address: format!("127.0.0.1:{}", ports.1),
            max_body: ByteSize(max_body),
            max_bodies: ByteSize(max_body * 2),
            max_concurrent_requests: numbers.0,
            max_connections: numbers.1,
            max_inputs_per_request: numbers.2,
            header_timeout_ms: times.0,
            body_timeout_ms: times.1,
            drain_timeout_ms: times.2,
            metrics_on_data_port,
            cpu_threads,
        }
    }
}

prop_compose! {
    fn profile()(
        device in "auto|cpu|cuda:[0-9]|tensorrt:[0-9]{1,4}",
        precision in select(vec![Precision::Fp32, Precision::Fp16, Precision::Int8]),
        packing in select(vec![Packing::Length, Packing::Arrival]),
        instances in count(),
        threads in count(),
        max_batch_size in 1_usize..=65_536,
        max_batch_tokens in 10_000_usize..=16_777_216,
        more_items in 0_usize..=9_000_000,
        max_queue in (64_u64 << 10)..=(1 << 40),
        max_batch_delay_ms in 0_u64..=60_000,
        more_time in 1_u64..=3_000_000,
    ) -> Profile {
        Profile {
            name: ProfileName::new("default").unwrap(),
            device,
            precision,
            instances,
            threads,
            max_batch_size,
            max_batch_tokens,
            max_batch_delay_ms,
            max_queue_items: max_batch_size + more_items,
            max_queue: ByteSize(max_queue),
            deadline_ms: Some(max_batch_delay_ms + more_time),
            packing,
            generate: None,
        }
    }
}

prop_compose! {
    fn text()(
        file in of("[a-z]{1,8}\\.gguf"),
        max_tokens in of(1_usize..=10_000),
        truncate: bool,
        pooling in of(select(vec![Pooling::Mean, Pooling::Cls, Pooling::Last])),
        normalise in of(any::<bool>()),
    ) -> TextOptions {
        TextOptions { file, max_tokens, truncate, pooling, normalise }
    }
}

prop_compose! {
    fn generate_profile()(
        cells in 256_usize..=16_777_216,
        cell_format in select(vec![CellFormat::F16, CellFormat::Q8, CellFormat::Q4]),
        max_running in 1_usize..=192,
        more_tokens in 16_usize..=60_000,
        stretch in 2_u32..=100,
        device_layers in of(0_u32..=10_000),
        flash_attention in of(any::<bool>()),
        repack: bool,
        max_waiting in 1_usize..=1_000_000,
        max_wait_ms in 1_u64..=3_600_000,
    ) -> GenerateProfile {
        GenerateProfile {
            cells,
            cell_format,
            max_running,
            step_tokens: max_running + more_tokens,
            stretch: f64::from(stretch),
            device_layers,
            flash_attention,
            repack,
            max_waiting,
            max_wait_ms,
        }
    }
}

prop_compose! {
    fn generate()(
        file in of("[a-z]{1,20}\\.gguf"),
        chat_template in of(path()),
        max_tokens in of(1_usize..=1_048_576),
        scales in prop::collection::vec(0_u32..=100, 0..3),
    ) -> GenerateOptions {
        let adapter = |(at, scale): (usize, u32)| Adapter {
            name: ModelName::new(&format!("a{at}")).unwrap(),
            file: format!("a{at}.gguf").into(),
            scale: scale as f32,
        };
        GenerateOptions { file, chat_template, max_tokens, adapters: scales.into_iter().enumerate().map(adapter).collect() }
    }
}

prop_compose! {
    fn model()(
        name in "[a-z0-9][a-z0-9._-]{0,40}",
        source in prop_oneof![
            "[a-zA-Z0-9 ü\"'\\\\./_-]{0,20}[a-z]",
            "hf://[a-z]{1,9}/[A-Za-z0-9]{1,9}(@[a-z0-9]{1,9})?",
            "s3://[a-z0-9]{3,9}(/[a-z]{1,4}){0,3}",
        ],
        task in select(vec![
            TaskKind::Embed, TaskKind::ClassifyText, TaskKind::Rerank, TaskKind::ClassifyImage, TaskKind::Tensor,
            TaskKind::Generate,
        ]),
        generate in of(generate()),
        generate_profile in of(generate_profile()),
        text in of(text()),
        preload: bool,
        profiles in prop::collection::vec(profile(), 0..4),
    ) -> Model {
        let named = profiles.into_iter().enumerate();
        Model {
            name: ModelName::new(&name).unwrap(),
            source,
            task,
            text: text.filter(|_| task.takes_text()),
            generate: generate.filter(|_| task == TaskKind::Generate),
            preload,
            profiles: named.map(|(at, p)| Profile {
                name: ProfileName::new(&format!("p{at}")).unwrap(),
                generate: generate_profile.clone().filter(|_| task == TaskKind::Generate),
                ..p
            }).collect(),
        }
    }
}

fn vectors() -> impl Strategy<Value = Vectors> {
    let elsewhere = (of(Just("PASSWORD".to_owned())), "[a-z]{1,9}").prop_map(|(password_env, host)| Vectors {
        engine: VectorEngine::Postgres,
        url: Some(format!("postgres://halny@{host}:5432/halny")),
        password_env,
        ..Vectors::default()
    });
    let cluster = (of(Just("QDRANT_API_KEY".to_owned())), "[a-z]{1,9}").prop_map(|(api_key_env, host)| Vectors {
        engine: VectorEngine::Qdrant,
        url: Some(format!("https://{host}:6333")),
        api_key_env,
        ..Vectors::default()
    });
    prop_oneof![path().prop_map(|folder| Vectors { folder, ..Vectors::default() }), elsewhere, cluster]
}

prop_compose! {
    fn project()(
        server in server(),
        library in of(path()),
        folder in of(path()),
        vectors in vectors(),
        warm in (0u64..4_096).prop_map(ByteSize::mib),
        mut models in prop::collection::vec(model(), 0..5),
        routed: bool,
        featured: bool,
        worked: bool,
    ) -> Project {
        let routes = if routed { check(ROUTE).unwrap().project.routes } else { Vec::new() };
        let more = [(featured, FEATURES), (worked, JOBS)].map(|(wanted, text)| if wanted { text } else { "" }).concat();
        let more = check(&more).unwrap().project;
        models.sort_by(|a, b| a.name.cmp(&b.name));
        models.dedup_by(|a, b| a.name == b.name);
        let vectors = Vectors { warm, ..vectors };
        Project { server, onnxruntime: OnnxRuntime { library }, cache: Cache { folder }, vectors, models, routes, ..more }
    }
}

/// Checks, and asserts what holds for every answer.
fn check_sanely(text: &str) -> Result<(), TestCaseError> {
    let lines = text.split('\n').count();
    let problems = match check(text) {
        Ok(checked) => checked.warnings,
        Err(problems) => {
            prop_assert!(!problems.is_empty(), "refused without a reason");
            problems
        }
    };
    prop_assert!(problems.len() <= PROBLEMS_MAX + 1);
    prop_assert!(problems.is_sorted_by_key(|problem| problem.line));
    for problem in problems {
        prop_assert!((1..=lines).contains(&problem.line), "{problem:?} of {lines} lines");
        let width = text.split('\n').nth(problem.line - 1).unwrap().chars().count();
        prop_assert!((1..=width + 1).contains(&problem.column), "{problem:?} in a line of {width}");
        let shown = problem.render("halny.toml");
        prop_assert!(!shown.contains(char::is_control), "{shown:?}");
        for jargon in ["schema", "oneOf", "anyOf", "$ref", "invalid type", "null", "{}"] {
            prop_assert!(!shown.contains(jargon) || text.contains(jargon), "{shown}");
        }
    }
    Ok(())
}

#[test]
fn the_valid_file_is_valid() {
    let checked = check(VALID).unwrap();
    assert_eq!((checked.project.models.len(), checked.warnings.len()), (2, 0));
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn a_project_survives_being_written_and_checked(mut project in project()) {
        let text = toml::to_string(&project).unwrap();
        let checked = check(&text).map_err(|problems| TestCaseError::fail(format!("{problems:?}\n{text}")))?;
        for model in project.models.iter_mut().filter(|model| model.profiles.is_empty()) {
            model.profiles.push(Profile::default());
        }
        prop_assert_eq!(checked.project, project);
    }

    #[test]
    fn what_the_schema_accepts_serde_reads(project in project()) {
        let text = toml::to_string(&project).unwrap();
        let json: serde_json::Value = toml::from_str(&text).unwrap();
        prop_assert!(jsonschema::draft202012::is_valid(&schema(), &json), "{text}");
        prop_assert_eq!(serde_json::from_value::<Project>(json).unwrap(), project);
    }

    #[test]
    fn any_text_is_answered(text in ".{0,200}") {
        check_sanely(&text)?;
    }

    #[test]
    fn any_heap_of_toml_is_answered(words in prop::collection::vec(select(vec![
        "[", "]", "[[", "]]", "{", "}", "=", ",", ".", "\n", "\"", "'", "\"\"\"", "#", "\r\n", "models", "server", "profiles",
        "text", "name", "a", "\"x\"", "1", "-1", "0x", "1.5", "inf", "true", "2024-01-01", "\u{0}", "\u{feff}", "ü", "~/",
        "[[routes]]\n", "steps", "request", "response", "\"${a.b}\"", "embed", "[models]\n", "[[models]]\n", "[server]\n", "name = \"a\"\n", "max_batch_size = 3\n", "address = \"a:1\"\n",
    ]), 0..40)) {
        check_sanely(&words.concat())?;
    }

    #[test]
    fn a_valid_file_that_was_damaged_is_answered(
        cuts in prop::collection::vec((any::<prop::sample::Index>(), 0_usize..4, select(vec![
            "", "=", "[", "]", "{", "\"", "\n", "9", "x", "\u{1}", "-", ".", "ü", "[[models]]\n", "inf", "1979-05-27",
        ])), 1..4),
    ) {
        let mut chars: Vec<char> = VALID.chars().chain(ROUTE.chars()).chain(FEATURES.chars()).collect();
        for (at, removed, inserted) in cuts {
            let at = at.index(chars.len());
            let end = (at + removed).min(chars.len());
            chars.splice(at..end, inserted.chars());
        }
        check_sanely(&chars.into_iter().collect::<String>())?;
    }
}
