//! The hub as a source, against a local server that answers as the hub does, well and badly.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod support;

use std::{path::Path, time::Duration};

use halny_registry::{
    FileFilter, HubOptions, Limits, ModelFolder, OpenOptions, RegistryError, RetryPolicy, SourceRef, Token, open,
    progress::Silent, testsuite::gguf::Builder,
};
use halny_types::project::Precision;
use support::{COMMIT, Reply, Repository, Seen, Server, small_onnx};
use tempfile::TempDir;

const TOKEN: &str = "hf_secret";

/// A hub, its CDN on another port, and an empty cache.
struct Hub {
    hub: Server,
    cdn: Server,
    cache: TempDir,
}

type Twist = fn(&Seen, Reply) -> Reply;

fn as_it_is(_: &Seen, reply: Reply) -> Reply {
    reply
}

impl Hub {
    async fn start(repository: Repository, at_hub: Twist, at_cdn: Twist) -> Self {
        let files = repository.clone();
        let cdn = Server::start(move |seen| at_cdn(seen, files.cdn_answer(seen))).await;
        let address = cdn.address.clone();
        let hub = Server::start(move |seen| at_hub(seen, repository.answer(seen, &address))).await;
        Self { hub, cdn, cache: tempfile::tempdir().unwrap() }
    }

    fn options(&self) -> OpenOptions {
        let mut options = OpenOptions::new(self.cache.path());
        options.hub = HubOptions {
            endpoint: self.hub.address.clone(),
            token: Some(Token::new(TOKEN)),
            offline: false,
            retry: RetryPolicy {
                attempts: 3,
                first_wait: Duration::from_millis(1),
                longest_wait: Duration::from_secs(2),
            },
            lock_wait: Duration::from_secs(60),
        };
        options
    }

    async fn fetch_from(&self, source: &str, options: &OpenOptions) -> Result<ModelFolder, RegistryError> {
        let source: SourceRef = source.parse().unwrap();
        open(&source, options).fetch(&FileFilter::onnx([Precision::Fp32]), &Silent).await
    }

    async fn fetch_filtered(&self, wanted: &FileFilter) -> Result<ModelFolder, RegistryError> {
        open(&"hf://owner/name".parse::<SourceRef>().unwrap(), &self.options()).fetch(wanted, &Silent).await
    }

    async fn fetch(&self) -> Result<ModelFolder, RegistryError> {
        self.fetch_from("hf://owner/name", &self.options()).await
    }

    async fn fetch_pinned(&self) -> Result<ModelFolder, RegistryError> {
        self.fetch_from(&format!("hf://owner/name@{COMMIT}"), &self.options()).await
    }

    fn requests(&self) -> usize {
        self.hub.seen().len() + self.cdn.seen().len()
    }
}

/// All regular files below a folder that are neither locks nor notes.
fn model_files(folder: &Path) -> Vec<String> {
    let mut found = Vec::new();
    let mut left = vec![folder.to_owned()];
    while let Some(folder) = left.pop() {
        for entry in std::fs::read_dir(folder).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                left.push(path);
            } else if path.to_str().unwrap().contains("/snapshots/") {
                found.push(path.file_name().unwrap().to_str().unwrap().to_owned());
            }
        }
    }
    found
}

#[tokio::test]
async fn a_model_comes_through_redirects_and_has_the_version_of_its_folder() {
    let repository = Repository::model();
    let hub = Hub::start(repository.clone(), as_it_is, as_it_is).await;
    let model = hub.fetch().await.unwrap();
    let names: Vec<&str> = model.files.iter().map(|file| file.path.as_str()).collect();
    let expected = ["config.json", "onnx/model.onnx", "onnx/model.onnx_data", "tokenizer.json"];
    assert_eq!(names, expected);
    for name in expected {
        assert_eq!(std::fs::read(model.path(name).unwrap()).unwrap(), repository.files[name]);
    }
    let copy = hub.fetch_from(model.root.to_str().unwrap(), &hub.options()).await.unwrap();
    assert_eq!(copy.version, model.version);
    assert_eq!(hub.hub.count("pytorch_model.bin") + hub.hub.count("README"), 0);
}

#[tokio::test]
async fn a_pinned_revision_in_the_cache_needs_no_request() {
    let hub = Hub::start(Repository::model(), as_it_is, as_it_is).await;
    let first = hub.fetch_pinned().await.unwrap();
    let requests = hub.requests();
    assert_eq!(hub.fetch_pinned().await.unwrap(), first);
    assert_eq!(hub.requests(), requests);
    // A branch is asked for again, its files are not.
    assert_eq!(hub.fetch().await.unwrap(), first);
    assert_eq!(hub.requests(), requests + 1);
}

#[tokio::test]
async fn off_line_use_makes_no_request_and_says_what_is_missing() {
    let hub = Hub::start(Repository::model(), as_it_is, as_it_is).await;
    let mut options = hub.options();
    options.hub.offline = true;
    let error = hub.fetch_from("hf://owner/name", &options).await.unwrap_err();
    assert!(error.to_string().contains("not in the cache"), "{error}");
    assert_eq!(hub.requests(), 0);
    let first = hub.fetch().await.unwrap();
    let requests = hub.requests();
    assert_eq!(hub.fetch_from("hf://owner/name", &options).await.unwrap(), first);
    assert_eq!(hub.requests(), requests);
}

#[tokio::test]
async fn the_token_goes_to_the_hub_and_to_nobody_else() {
    let hub = Hub::start(Repository::model(), as_it_is, as_it_is).await;
    hub.fetch().await.unwrap();
    let bearer = format!("Bearer {TOKEN}");
    assert!(hub.hub.seen().iter().all(|seen| seen.authorization.as_ref() == Some(&bearer)));
    assert!(!hub.cdn.seen().is_empty());
    assert!(hub.cdn.seen().iter().all(|seen| seen.authorization.is_none()));
    assert!(!format!("{:?}", hub.options()).contains(TOKEN));
}

#[tokio::test]
async fn a_download_that_breaks_off_is_resumed_where_it_stopped() {
    let hub = Hub::start(Repository::model(), as_it_is, |seen, reply| match seen.nth {
        0 | 1 => reply.broken_off_after(100_000),
        _ => reply,
    })
    .await;
    let model = hub.fetch().await.unwrap();
    let starts: Vec<usize> = hub.cdn.seen().iter().map(|seen| seen.from).collect();
    assert_eq!(starts, [0, 100_000, 200_000]);
    assert!(model.path("onnx/model.onnx_data").is_some());
}

#[tokio::test]
async fn a_download_that_broke_off_is_resumed_by_the_next_start() {
    let hub = Hub::start(Repository::model(), as_it_is, |seen, reply| match seen.nth {
        0..3 => reply.broken_off_after(1000),
        _ => reply,
    })
    .await;
    let error = hub.fetch().await.unwrap_err();
    assert!(matches!(error, RegistryError::Truncated { .. } | RegistryError::Network { .. }), "{error}");
    hub.fetch().await.unwrap();
    assert_eq!(hub.cdn.seen().last().unwrap().from, 3000);
}

#[tokio::test]
async fn a_server_without_ranges_sends_the_file_anew() {
    let hub = Hub::start(Repository::model(), as_it_is, |seen, reply| match seen.nth {
        0 => reply.broken_off_after(1000),
        _ => Repository::model().cdn_answer(&Seen { from: 0, ..seen.clone() }),
    })
    .await;
    hub.fetch().await.unwrap();
    assert_eq!(hub.cdn.seen().len(), 2);
}

#[tokio::test]
async fn content_with_the_wrong_digest_is_discarded_after_one_more_try() {
    let spoil: Twist = |_, mut reply| {
        if let Some(byte) = reply.body.last_mut() {
            *byte ^= 1;
        }
        reply
    };
    let hub = Hub::start(Repository::model(), as_it_is, spoil).await;
    let error = hub.fetch().await.unwrap_err();
    assert!(matches!(&error, RegistryError::WrongDigest { file, .. } if file == "onnx/model.onnx_data"));
    assert_eq!(hub.cdn.seen().len(), 2);
    assert!(!model_files(hub.cache.path()).contains(&"model.onnx_data".to_owned()));
}

#[tokio::test]
async fn small_files_are_checked_by_gits_digest() {
    let spoil: Twist = |seen, mut reply| {
        if seen.path.ends_with("config.json") {
            reply.body = br#"{"hidden_size":385}"#.to_vec();
        }
        reply
    };
    let hub = Hub::start(Repository::model(), spoil, as_it_is).await;
    let error = hub.fetch().await.unwrap_err();
    assert!(matches!(&error, RegistryError::WrongDigest { file, .. } if file == "config.json"));
}

#[tokio::test]
async fn digests_are_taken_from_headers_where_the_listing_has_none() {
    let bare: Twist = |seen, mut reply| {
        if seen.path.starts_with("/api/") {
            let names = Repository::model().files.into_keys();
            let siblings: Vec<_> = names.map(|name| serde_json::json!({ "rfilename": name })).collect();
            let listing = serde_json::json!({"sha": COMMIT, "siblings": siblings});
            reply.body = listing.to_string().into_bytes();
        }
        reply
    };
    let good = Hub::start(Repository::model(), bare, as_it_is).await;
    good.fetch().await.unwrap();
    let spoil: Twist = |_, mut reply| {
        reply.body[0] ^= 1;
        reply
    };
    let bad = Hub::start(Repository::model(), bare, spoil).await;
    assert!(matches!(bad.fetch().await, Err(RegistryError::WrongDigest { .. })));
}

#[tokio::test]
async fn a_file_spoiled_in_the_cache_is_fetched_again() {
    let hub = Hub::start(Repository::model(), as_it_is, as_it_is).await;
    let first = hub.fetch_pinned().await.unwrap();
    let path = first.path("onnx/model.onnx_data").unwrap();
    let mut content = std::fs::read(&path).unwrap();
    content[5] ^= 1;
    std::fs::write(&path, content).unwrap();
    assert_eq!(hub.fetch_pinned().await.unwrap(), first);
    assert_eq!(hub.cdn.seen().len(), 2);
}

#[tokio::test]
async fn two_fetches_at_once_download_each_file_once() {
    let hub = Hub::start(Repository::model(), as_it_is, as_it_is).await;
    let (a, b) = tokio::join!(hub.fetch(), hub.fetch());
    assert_eq!(a.unwrap(), b.unwrap());
    assert_eq!(hub.cdn.seen().len(), 1);
    assert_eq!(hub.hub.count("/resolve/"), 4);
}

#[tokio::test]
async fn refusals_are_not_repeated_and_say_what_to_do() {
    let cases: [(Twist, &str); 4] = [
        (|_, _| Reply::status(401), "set HF_TOKEN"),
        (|_, _| Reply::status(403), "accept the model's terms"),
        (|_, _| Reply::status(404), "no revision main in owner/name"),
        (|_, _| Reply::status(418), "status 418"),
    ];
    for (twist, reason) in cases {
        let hub = Hub::start(Repository::model(), twist, as_it_is).await;
        let error = hub.fetch().await.unwrap_err().to_string();
        assert!(error.contains(reason), "{error}");
        assert!(!error.contains(TOKEN) && !error.contains("127.0.0.1"), "{error}");
        assert_eq!(hub.requests(), 1);
    }
}

#[tokio::test]
async fn a_busy_hub_is_asked_again_as_it_wishes_and_not_without_end() {
    let briefly: Twist = |seen, reply| match seen.nth {
        0 => Reply::status(429).header("Retry-After", "0"),
        1 => Reply::status(503),
        _ => reply,
    };
    let hub = Hub::start(Repository::model(), briefly, as_it_is).await;
    hub.fetch().await.unwrap();

    let long: Twist = |_, _| Reply::status(429).header("Retry-After", "3600");
    let hub = Hub::start(Repository::model(), long, as_it_is).await;
    let error = hub.fetch().await.unwrap_err();
    assert!(matches!(error, RegistryError::RateLimited { retry_after_s: 3600, .. }), "{error}");
    assert_eq!(hub.requests(), 1);

    let hub = Hub::start(Repository::model(), |_, _| Reply::status(500), as_it_is).await;
    let error = hub.fetch().await.unwrap_err();
    assert!(matches!(error, RegistryError::HubStatus { status: 500 }), "{error}");
    assert_eq!(hub.requests(), 3);
}

/// What comes of a repository that lists `names` besides an honest model.
async fn with_siblings(names: &[&str]) -> Result<ModelFolder, RegistryError> {
    let repository = Repository::default().with("model.onnx", small_onnx()).with("config.json", "{}");
    let mut listing = repository.listing();
    for name in names {
        let sibling = serde_json::json!({"rfilename": name, "size": 2});
        listing["siblings"].as_array_mut().unwrap().push(sibling);
    }
    let listing = listing.to_string().into_bytes();
    let hub = Server::start(move |seen| match seen.path.starts_with("/api/") {
        true => Reply { body: listing.clone(), ..Reply::status(200) },
        false => repository.answer(seen, ""),
    })
    .await;
    let hub = Hub { hub, cdn: Server::start(|_| Reply::status(404)).await, cache: tempfile::tempdir().unwrap() };
    hub.fetch().await
}

#[tokio::test]
async fn listings_with_hostile_names_are_refused() {
    with_siblings(&["other.json", "README.md", "readme.md"]).await.unwrap();
    let long = "a".repeat(10_000);
    for name in [
        "../x",
        "a/../../x",
        "/etc/passwd",
        "a\0b",
        "a\\b",
        "",
        "a//b",
        ".",
        &long,
        "Config.json",
        "MODEL.onnx",
        "model.onnx",
    ] {
        let error = with_siblings(&[name]).await.unwrap_err().to_string();
        assert!(error.contains("refused") || error.contains("case only"), "{error}");
        assert!(error.len() < 400, "{error}");
    }
}

#[tokio::test]
async fn listings_that_are_none_are_refused() {
    let cases: [Twist; 5] = [
        |_, _| Reply { body: b"<html>".to_vec(), ..Reply::status(200) },
        |_, _| Reply { body: "[".repeat(1_000_000).into_bytes(), ..Reply::status(200) },
        |_, _| Reply { body: vec![b' '; 17 << 20], ..Reply::status(200) },
        |_, _| Reply { body: br#"{"sha":"../../x","siblings":[]}"#.to_vec(), ..Reply::status(200) },
        |_, _| Reply { body: br#"{"siblings":[]}"#.to_vec(), ..Reply::status(200) },
    ];
    for twist in cases {
        let hub = Hub::start(Repository::model(), twist, as_it_is).await;
        let error = hub.fetch().await.unwrap_err();
        assert!(matches!(error, RegistryError::BadListing { .. }), "{error}");
    }
}

#[tokio::test]
async fn a_listing_of_another_commit_than_the_pinned_one_is_refused() {
    let hub = Hub::start(Repository::model(), as_it_is, as_it_is).await;
    let other = format!("hf://owner/name@{}", "f".repeat(40));
    let error = hub.fetch_from(&other, &hub.options()).await.unwrap_err();
    assert!(matches!(error, RegistryError::BadListing { .. }), "{error}");
}

#[tokio::test]
async fn redirects_without_end_or_to_other_schemes_are_refused() {
    let cases: [Twist; 4] = [
        |seen, _| Reply::redirect(&seen.path),
        |_, _| Reply::redirect("file:///etc/passwd"),
        |_, _| Reply::redirect("http://169.254.169.254/latest/meta-data"),
        |_, _| Reply::status(302),
    ];
    for twist in cases {
        let hub = Hub::start(Repository::model(), twist, as_it_is).await;
        let error = hub.fetch().await.unwrap_err();
        assert!(matches!(error, RegistryError::BadRedirect { .. }), "{error}");
        assert!(hub.requests() <= 6);
    }
}

#[tokio::test]
async fn files_over_the_limit_or_longer_than_announced_are_refused() {
    let hub = Hub::start(Repository::model(), as_it_is, as_it_is).await;
    let mut options = hub.options();
    options.limits = Limits { max_file_bytes: 399_999, ..Limits::default() };
    let error = hub.fetch_from("hf://owner/name", &options).await.unwrap_err();
    assert!(matches!(error, RegistryError::TooLarge { .. }), "{error}");
    assert_eq!(hub.cdn.seen().len(), 0);

    let longer: Twist = |_, mut reply| {
        reply.body.push(0);
        reply
    };
    let hub = Hub::start(Repository::model(), as_it_is, longer).await;
    let error = hub.fetch().await.unwrap_err();
    assert!(matches!(error, RegistryError::TooLarge { .. }), "{error}");
}

#[tokio::test]
async fn pickles_are_neither_asked_for_nor_accepted_under_another_name() {
    let only = Repository::default().with("pytorch_model.bin", "PK\u{3}\u{4}");
    let hub = Hub::start(only, as_it_is, as_it_is).await;
    assert!(hub.fetch().await.unwrap_err().to_string().contains("format is refused"));
    assert_eq!(hub.hub.count("/resolve/"), 0);

    for (name, content) in [("model.onnx", "PK\u{3}\u{4}"), ("model.onnx", "\u{1f}not ONNX")] {
        let hub = Hub::start(Repository::default().with(name, content), as_it_is, as_it_is).await;
        assert!(hub.fetch().await.is_err());
    }
    let named = Repository::default().with("model.onnx", support::onnx("weights.bin", 4)).with("weights.bin", [0; 4]);
    let hub = Hub::start(named, as_it_is, as_it_is).await;
    assert!(matches!(hub.fetch().await, Err(RegistryError::RefusedFormat { .. })));
    assert_eq!(hub.hub.count("weights.bin"), 0);
}

#[tokio::test]
async fn a_hub_that_is_not_there_is_reported_without_its_address() {
    let hub = Hub::start(Repository::model(), as_it_is, as_it_is).await;
    let mut options = hub.options();
    let free = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap().local_addr().unwrap();
    options.hub.endpoint = format!("http://{free}");
    let error = hub.fetch_from("hf://owner/name", &options).await.unwrap_err().to_string();
    assert!(error.contains("in 3 attempts") && !error.contains("127.0.0.1"), "{error}");
    for endpoint in ["", "hub", "ftp://hub", "file:///x"] {
        options.hub.endpoint = endpoint.to_owned();
        let error = hub.fetch_from("hf://owner/name", &options).await.unwrap_err();
        assert!(matches!(error, RegistryError::BadEndpoint { .. }), "{endpoint}: {error}");
    }
}

#[tokio::test]
async fn a_gguf_file_is_fetched_alone_and_refused_if_its_header_lies() {
    let repository = Repository::default()
        .with("Test.Q4_K_M.gguf", Builder::model().build())
        .with("mmproj-Test.gguf", "not fetched")
        .with("Q8_0/Test.Q8_0.gguf", Builder::model().set("llama.block_count", 0_u32).build())
        .with("config.json", "{}")
        .with("model.safetensors", "not fetched");
    let hub = Hub::start(repository, as_it_is, as_it_is).await;
    let wanted = FileFilter::gguf();
    let model = hub.fetch_filtered(&wanted).await.unwrap();
    assert_eq!(model.weights(&wanted, Precision::Fp32), model.path("Test.Q4_K_M.gguf"));
    assert_eq!(model.gguf.as_ref().unwrap().summary.tensors, 11);
    assert_eq!(hub.fetch_filtered(&wanted).await.unwrap(), model);
    assert_eq!(hub.cdn.seen().len(), 1);
    assert_eq!(hub.hub.count("/resolve/"), 2);
    let error = hub.fetch_filtered(&FileFilter::gguf_file("Q8_0/Test.Q8_0.gguf")).await.unwrap_err().to_string();
    assert!(error.contains("llama.block_count is 0, where 1 to 512 are possible"), "{error}");
}
