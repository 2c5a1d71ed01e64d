//! The engine before a server that answers what it is told to: late, in pieces, too much, or nonsense.

use std::collections::BTreeMap;
use std::io::{BufRead, BufReader, Read, Write as _};
use std::net::{TcpListener, TcpStream};
use std::sync::Arc;
use std::time::Duration;

use halny_payload::PointId;
use parking_lot::Mutex;
use serde_json::{Value, json};

use super::client::Client;
use super::error::told;
use super::{Qdrant, check_version};
use crate::{Collections, Points, Select, VectorsError};

/// A request that came.
struct Came {
    /// Method and path.
    what: String,
    head: String,
    body: Value,
}

/// What is sent back.
enum Answer {
    Json(u16, Value),
    /// These bytes, and the end of the connection.
    Bytes(String),
    /// Nothing, until the client goes.
    Silence,
}

/// A server in threads of its own, which end with its listener's process.
struct Teller {
    url: String,
    came: Arc<Mutex<Vec<Came>>>,
}

impl Teller {
    fn new(answer: impl Fn(&str, &Value) -> Answer + Send + Sync + 'static) -> Teller {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let url = format!("http://{}", listener.local_addr().unwrap());
        let came = Arc::new(Mutex::new(Vec::new()));
        let (seen, answer) = (Arc::clone(&came), Arc::new(answer));
        std::thread::spawn(move || {
            for stream in listener.incoming() {
                let (seen, answer) = (Arc::clone(&seen), Arc::clone(&answer));
                std::thread::spawn(move || serve(stream.unwrap(), &seen, &*answer));
            }
        });
        Teller { url, came }
    }
}

fn serve(mut stream: TcpStream, seen: &Mutex<Vec<Came>>, answer: &dyn Fn(&str, &Value) -> Answer) {
    let mut reader = BufReader::new(stream.try_clone().unwrap());
    let mut head = String::new();
    while !head.ends_with("\r\n\r\n") {
        if reader.read_line(&mut head).unwrap_or(0) == 0 {
            return;
        }
    }
    let length = head.lines().find_map(|line| line.strip_prefix("content-length: ")?.parse().ok()).unwrap_or(0);
    let mut body = vec![0; length];
    reader.read_exact(&mut body).unwrap();
    let body = serde_json::from_slice(&body).unwrap_or_default();
    let what = head.split(' ').take(2).collect::<Vec<_>>().join(" ");
    let told = answer(&what, &body);
    seen.lock().push(Came { what, head, body });
    let bytes = match told {
        Answer::Json(status, json) => {
            let body = json.to_string();
            format!("HTTP/1.1 {status} X\r\ncontent-length: {}\r\nconnection: close\r\n\r\n{body}", body.len())
        }
        Answer::Bytes(bytes) => bytes,
        Answer::Silence => {
            let _ = reader.read(&mut [0]);
            return;
        }
    };
    let _ = stream.write_all(bytes.as_bytes());
}

/// What a cluster answers where a test has nothing to say.
fn usual(what: &str) -> Answer {
    let vectors = json!({ "size": 2, "distance": "Dot" });
    let info = json!({
        "status": "green", "payload_schema": {},
        "config": { "params": { "vectors": vectors }, "hnsw_config": { "m": 16, "ef_construct": 100 } },
    });
    let result = match what {
        "GET /" => return Answer::Json(200, json!({ "version": "1.16.0" })),
        "GET /collections" => json!({ "collections": [{ "name": "c" }] }),
        "GET /aliases" => json!({ "aliases": [] }),
        "GET /collections/c" => info,
        _ => return Answer::Json(404, json!({ "status": { "error": "Not found: secret-host" } })),
    };
    Answer::Json(200, json!({ "result": result }))
}

fn run<T>(work: impl Future<Output = T>) -> T {
    tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap().block_on(work)
}

/// The collection `c` of a server whose answers about its points are these.
async fn collection(answer: impl Fn(&str, &Value) -> Answer + Send + Sync + 'static) -> (Teller, Arc<dyn Points>) {
    let teller = Teller::new(move |what, body| match what.contains("/points") {
        true => answer(what, body),
        false => usual(what),
    });
    let engine = Qdrant::connect(&teller.url, None).await.unwrap();
    let space = engine.get("c").await.unwrap().active();
    (teller, space)
}

fn ask<T>(space: &Arc<dyn Points>, read: impl FnOnce(&dyn Points) -> T) -> T {
    tokio::task::block_in_place(|| read(space.as_ref()))
}

#[test]
fn releases_without_metadata_are_refused_by_their_version() {
    for version in ["1.16.0", "1.20.3", "2.0.0-rc1", "10.0"] {
        assert!(check_version(Some(version)).is_ok(), "{version}");
    }
    for version in ["1.15.5", "0.11.0", "", "new"] {
        let refused = check_version(Some(version)).unwrap_err().to_string();
        assert!(refused.contains("1.16") && refused.contains(version), "{refused}");
    }
}

#[test]
fn a_server_that_is_too_old_or_none_is_refused_with_what_to_do() {
    for (answer, wanted) in [
        (Answer::Json(200, json!({ "version": "1.15.4" })), "1.16 or later"),
        (Answer::Json(200, json!({ "name": "something else" })), "does not tell a version"),
        (Answer::Json(401, json!({ "status": { "error": "no" } })), "refuses the API key"),
    ] {
        let answer = Mutex::new(Some(answer));
        let teller = Teller::new(move |_, _| answer.lock().take().unwrap_or(Answer::Silence));
        let refused = run(Qdrant::connect(&teller.url, None)).err().unwrap();
        assert!(matches!(&refused, VectorsError::Config(text) if text.contains(wanted)), "{refused}");
    }
    let forbidden = Teller::new(|what, _| match what {
        "GET /" => usual(what),
        _ => Answer::Json(403, json!({ "status": { "error": "forbidden" } })),
    });
    let refused = run(Qdrant::connect(&forbidden.url, Some("hunter2"))).err().unwrap();
    assert!(matches!(&refused, VectorsError::Config(text) if text.contains("refuses the API key")), "{refused}");
    assert!(!format!("{refused:?}").contains("hunter2"));
}

#[test]
fn a_key_goes_with_every_request_and_into_no_log() {
    let log = Arc::new(Mutex::new(Vec::new()));
    let written = Arc::clone(&log);
    struct Into(Arc<Mutex<Vec<u8>>>);
    impl std::io::Write for Into {
        fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
            self.0.lock().extend_from_slice(bytes);
            Ok(bytes.len())
        }
        fn flush(&mut self) -> std::io::Result<()> {
            Ok(())
        }
    }
    let subscriber = tracing_subscriber::fmt()
        .with_max_level(tracing::Level::TRACE)
        .with_writer(move || Into(Arc::clone(&written)))
        .finish();
    // One thread alone: the subscriber is this one's.
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    tracing::subscriber::with_default(subscriber, || {
        let teller = Teller::new(|what, _| match what {
            "GET /collections/broken" => Answer::Json(500, json!({ "status": { "error": "disk of node 3" } })),
            "GET /collections/late" => Answer::Bytes("HTTP/1.1 200 OK\r\ncontent-length: 9\r\n\r\n{".to_owned()),
            what => usual(what),
        });
        runtime.block_on(async {
            let engine = Qdrant::connect(&teller.url, Some("hunter2")).await.unwrap();
            engine.get("c").await.unwrap();
            for name in ["broken", "late", "none"] {
                let refused = engine.get(name).await.err().unwrap();
                let shown = format!("{refused} {refused:?}");
                assert!(
                    !shown.contains("hunter2") && !shown.contains("node 3") && !shown.contains("secret"),
                    "{shown}"
                );
            }
        });
        let came = teller.came.lock();
        assert!(came.len() >= 8);
        for request in came.iter() {
            assert!(request.head.contains("api-key: hunter2\r\n"), "{}", request.what);
        }
    });
    let log = String::from_utf8(log.lock().clone()).unwrap();
    assert!(log.contains("disk of node 3"), "what the cluster said is in the log");
    assert!(!log.contains("hunter2"), "{log}");
}

#[test]
fn a_server_that_is_late_gone_torn_or_says_nonsense_is_told_apart() {
    let kind = |answer: fn() -> Answer| {
        run(async move {
            let teller = Teller::new(move |_, _| answer());
            let client = Client::within(&teller.url, None, Duration::from_millis(200)).unwrap();
            told(client.get::<Value>(&["collections"]).await.unwrap_err())
        })
    };
    let late = kind(|| Answer::Silence);
    assert!(matches!(late, VectorsError::TooSlow("Qdrant")), "{late:?}");
    for torn in [
        || Answer::Bytes("HTTP/1.1 200 OK\r\ncontent-length: 100\r\n\r\n{\"result\": ".to_owned()),
        || Answer::Bytes(String::new()),
        || Answer::Bytes("HTTP/1.1 2".to_owned()),
        || Answer::Json(503, json!({ "status": { "error": "no leader" } })),
        || Answer::Json(429, json!({ "status": { "error": "too many requests" } })),
    ] {
        let torn = kind(torn);
        assert!(matches!(torn, VectorsError::Unavailable("Qdrant")), "{torn:?}");
    }
    for nonsense in [
        || Answer::Bytes("HTTP/1.1 200 OK\r\ncontent-length: 3\r\n\r\n<b>".to_owned()),
        || Answer::Json(200, json!({ "time": 0.1 })),
        || Answer::Json(500, json!({ "status": { "error": "Service internal error" } })),
        || Answer::Json(302, json!({})),
    ] {
        let nonsense = kind(nonsense);
        assert!(matches!(nonsense, VectorsError::Engine("Qdrant")), "{nonsense:?}");
    }
    let strict = kind(|| Answer::Json(400, json!({ "status": { "error": "Index required but not found" } })));
    assert!(matches!(&strict, VectorsError::Invalid(text) if text.contains("Index required")), "{strict:?}");
    let full = kind(|| Answer::Json(500, json!({ "status": { "error": "IO: No space left on device" } })));
    assert!(matches!(full, VectorsError::NoRoom), "{full:?}");
    let large = kind(|| Answer::Bytes("HTTP/1.1 200 OK\r\ncontent-length: 1000000000000\r\n\r\n{".to_owned()));
    assert!(matches!(large, VectorsError::Invalid(_)), "{large:?}");
    let nobody = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    let gone = run(Qdrant::connect(&format!("http://{nobody}"), None)).err().unwrap();
    assert!(matches!(gone, VectorsError::Unavailable("Qdrant")), "{gone:?}");
}

#[test]
fn a_page_that_is_too_large_is_asked_for_in_halves() {
    run(async {
        let (teller, space) = collection(|_, body| {
            let (limit, from) = (body["limit"].as_u64().unwrap(), body["offset"].as_u64().unwrap_or(0));
            if limit > 130 {
                return Answer::Bytes("HTTP/1.1 200 OK\r\ncontent-length: 999999999\r\n\r\n{".to_owned());
            }
            let to = (from + limit).min(300);
            let points: Vec<Value> =
                (from..to).map(|id| json!({ "id": id, "payload": null, "vector": [1, 2] })).collect();
            let next = if to < 300 { json!(to) } else { Value::Null };
            Answer::Json(200, json!({ "result": { "points": points, "next_page_offset": next } }))
        })
        .await;
        let mut seen = Vec::new();
        ask(&space, |space| space.each(None, &Select::default(), &mut |record| seen.push(record.id))).unwrap();
        assert_eq!(seen, (0..300).map(PointId::Number).collect::<Vec<_>>());
        let asked: Vec<u64> = teller
            .came
            .lock()
            .iter()
            .filter(|came| came.what.ends_with("/scroll"))
            .map(|came| came.body["limit"].as_u64().unwrap())
            .collect();
        assert_eq!(asked, [1_000, 500, 250, 125, 125, 125]);
    });
}

#[test]
fn vectors_that_halny_does_not_have_are_left_out_and_refused_where_they_are_named() {
    run(async {
        let teller = Teller::new(|what, _| match what {
            "GET /collections/c" => {
                let vectors = json!({
                    "near": { "size": 2, "distance": "Cosine" },
                    "blocks": { "size": 2, "distance": "Manhattan" },
                    "many": { "size": 2, "distance": "Dot", "multivector_config": { "comparator": "max_sim" } },
                });
                let params = json!({ "vectors": vectors, "sparse_vectors": { "words": {} } });
                let config =
                    json!({ "params": params, "hnsw_config": { "m": 0 }, "quantization_config": { "binary": {} } });
                Answer::Json(200, json!({ "result": { "status": "grey", "config": config } }))
            }
            "POST /collections/c/points" => {
                let vector = json!({ "near": [1, 0], "blocks": [1, 2], "many": [[1, 2], [3, 4]],
                                     "words": { "indices": [1], "values": [0.5] } });
                Answer::Json(200, json!({ "result": [{ "id": 1, "payload": {}, "vector": vector }] }))
            }
            what => usual(what),
        });
        let engine = Qdrant::connect(&teller.url, None).await.unwrap();
        let space = engine.get("c").await.unwrap().active();
        assert_eq!(space.config().vectors.keys().collect::<Vec<_>>(), ["near"]);
        let all = Select { vectors: crate::VectorSelect::All, ..Select::default() };
        let found = ask(&space, |space| space.retrieve(&[PointId::Number(1)], &all)).unwrap();
        assert_eq!(found[0].vectors, [("near".to_owned(), vec![1.0, 0.0])].into());
        for (name, what) in [("blocks", "Manhattan"), ("many", "multivector_config"), ("words", "sparse_vectors")] {
            let search = crate::Search {
                vector: name.to_owned(),
                query: [1.0, 0.0].as_slice().into(),
                limit: 1,
                filter: None,
                params: crate::SearchParams::default(),
                threshold: None,
            };
            let refused = ask(&space, |space| space.search(&search, &all)).unwrap_err();
            assert!(matches!(&refused, VectorsError::Unsupported(told) if told == what), "{name}: {refused}");
        }
    });
}

/// The two spaces of a collection.
const ONE: &str = "notes.halny-0123456789abcdef";
const TWO: &str = "notes.halny-fedcba9876543210";

/// What a cluster tells of a space of `notes`.
fn space(name: &str) -> Value {
    let mark = json!({ "version": 1, "collection": "notes", "name": name, "vectors": {}, "at": 0 });
    json!({
        "status": "green", "payload_schema": {},
        "config": {
            "params": { "vectors": { "size": 2, "distance": "Dot" } },
            "hnsw_config": { "m": 16, "ef_construct": 100 },
            "metadata": { super::settings::MARK: mark },
        },
    })
}

/// What a cluster answers that has these collections, while the alias `notes` is on one and tells of another.
fn cluster(what: &str, collections: &[&str], on: &str, told_of: Option<&str>) -> Answer {
    let result = match (what, told_of) {
        ("GET /collections", _) => {
            json!({ "collections": collections.iter().map(|name| json!({ "name": name })).collect::<Vec<_>>() })
        }
        ("GET /aliases", _) => json!({ "aliases": [{ "alias_name": "notes", "collection_name": on }] }),
        ("GET /collections/notes", Some(name)) => space(name),
        _ => match what.strip_prefix("GET /collections/notes.").map(|key| format!("notes.{key}")) {
            Some(name) => space(&name),
            None => return usual(what),
        },
    };
    Answer::Json(200, json!({ "result": result }))
}

#[test]
fn names_that_are_changed_while_they_are_read_are_read_again() {
    let halves: [(&[&str], &str, Option<&str>); 4] =
        [(&[ONE], TWO, Some(ONE)), (&[ONE, TWO], TWO, Some(ONE)), (&[ONE, TWO], ONE, None), (&[TWO], ONE, Some(TWO))];
    for (collections, on, told_of) in halves {
        let counts = Mutex::new(BTreeMap::<String, usize>::new());
        let teller = Teller::new(move |what, _| {
            let times = *counts.lock().entry(what.to_owned()).and_modify(|times| *times += 1).or_insert(1);
            // Connecting asks for the collections once.
            match times - usize::from(what == "GET /collections") {
                0..=2 => cluster(what, collections, on, told_of),
                _ => cluster(what, &[ONE, TWO], TWO, Some(TWO)),
            }
        });
        run(async {
            let engine = Qdrant::connect(&teller.url, None).await.unwrap();
            assert_eq!(engine.get("notes").await.unwrap().spaces().len(), 2, "{collections:?} {on} {told_of:?}");
        });
        // And no more often than it took.
        let asked = teller.came.lock().iter().filter(|came| came.what == "GET /aliases").count();
        assert_eq!(asked, 3, "{collections:?} {on} {told_of:?}");
    }
}

#[test]
fn names_that_never_fit_together_are_told_as_they_are() {
    let teller = Teller::new(|what, _| cluster(what, &[ONE], TWO, Some(ONE)));
    run(async {
        let engine = Qdrant::connect(&teller.url, None).await.unwrap();
        assert!(matches!(engine.get("notes").await.err(), Some(VectorsError::NoCollection(_))));
        assert!(engine.names().await.unwrap().is_empty());
    });
}
