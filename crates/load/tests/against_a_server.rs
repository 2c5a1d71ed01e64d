//! The generator against servers whose behaviour the test controls.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use axum::Router;
use axum::extract::Request;
use axum::http::StatusCode;
use axum::routing::post;
use halny_load::{Api, Arrivals, Idle, IdleKind, Lengths, Load, LoadError, Options, Report, Stop, Texts, run};
use tokio::sync::{Barrier, Notify, Semaphore};

/// An axum server on a free port, with a thread of its own, stopped when dropped.
struct Server {
    address: SocketAddr,
    stop: Arc<Notify>,
    thread: Option<std::thread::JoinHandle<()>>,
}

impl Server {
    fn start(app: Router) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        listener.set_nonblocking(true).unwrap();
        let address = listener.local_addr().unwrap();
        let stop = Arc::new(Notify::new());
        let stopped = Arc::clone(&stop);
        let thread = std::thread::spawn(move || {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
            runtime.block_on(async {
                let listener = tokio::net::TcpListener::from_std(listener).unwrap();
                tokio::select! {
                    served = axum::serve(listener, app) => served.unwrap(),
                    () = stopped.notified() => {}
                }
            });
        });
        Self { address, stop, thread: Some(thread) }
    }

    fn options(&self) -> Options {
        let mut options = Options::new(format!("http://{}", self.address), openai());
        options.warm_up = Duration::ZERO;
        options.duration = Duration::from_secs(60);
        options.texts = Texts::Given(vec!["one".into(), "two".into(), "three".into()]);
        options
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.stop.notify_one();
        let _ = self.thread.take().unwrap().join();
    }
}

fn openai() -> Api {
    Api::OpenAi { model: "m".into(), dimensions: None, base64: false }
}

fn measure(options: &Options) -> Report {
    run(options, &Stop::default(), &mut |_| {}).unwrap()
}

/// Counts requests and answers each with `status`.
fn counting(status: impl Fn(u64) -> StatusCode + Clone + Send + Sync + 'static) -> (Router, Arc<AtomicU64>) {
    let seen = Arc::new(AtomicU64::new(0));
    let counter = Arc::clone(&seen);
    let answer = move || {
        let status = status(counter.fetch_add(1, Ordering::Relaxed));
        async move { (status, "{}") }
    };
    (Router::new().route("/v1/embeddings", post(answer)), seen)
}

#[test]
fn closed_loop_sends_exactly_the_count_over_exactly_its_connections() {
    // The first answers wait for each other: on a busy machine one thread could else be done with
    // the count before another has opened its connections.
    let (seen, all_there) = (Arc::new(AtomicU64::new(0)), Arc::new(Barrier::new(8)));
    let counter = Arc::clone(&seen);
    let answer = move || {
        let (first, all_there) = (counter.fetch_add(1, Ordering::Relaxed) < 8, Arc::clone(&all_there));
        async move {
            if first {
                all_there.wait().await;
            }
            "{}"
        }
    };
    let server = Server::start(Router::new().route("/v1/embeddings", post(answer)));
    for threads in [1, 3] {
        seen.store(0, Ordering::Relaxed);
        let mut options = server.options();
        options.load = Load::Closed { connections: 8 };
        options.threads = threads;
        options.count = Some(1_003);
        options.texts_per_request = 2;
        let report = measure(&options);
        assert_eq!(seen.load(Ordering::Relaxed), 1_003);
        assert_eq!((report.requests, report.ok, report.failed), (1_003, 1_003, 0));
        assert_eq!(report.generator.connections_opened, 8);
        assert!((report.texts_per_s - 2.0 * report.requests_per_s).abs() < 1e-6);
    }
}

#[test]
fn open_loop_sends_exactly_the_count_and_the_schedule_sets_the_length() {
    let (app, seen) = counting(|_| StatusCode::OK);
    let server = Server::start(app);
    for arrivals in [Arrivals::Fixed, Arrivals::Poisson] {
        seen.store(0, Ordering::Relaxed);
        let mut options = server.options();
        options.load = Load::Open { rate_per_s: 2_000.0, arrivals, connections_max: 64 };
        options.threads = 2;
        options.count = Some(500);
        let report = measure(&options);
        assert_eq!((seen.load(Ordering::Relaxed), report.ok), (500, 500));
        // The last of 500 requests is due a quarter of a second after the first, give or take the
        // spread of a Poisson process (six standard deviations), and no answer comes before it is.
        assert!(report.window_s > 0.18, "{}", report.window_s);
        assert!(report.generator.lateness_ms.is_some());
    }
}

#[test]
fn a_stalled_server_does_not_stop_the_schedule_and_the_stall_shows_in_the_latency() {
    // 200 requests at 400/s: the last is due 497.5 ms after the first. The gate opens only when the
    // server has seen all of them, which a generator that waits for answers would never reach.
    let gate = Arc::new(Semaphore::new(0));
    let seen = Arc::new(AtomicU64::new(0));
    let answer = move || {
        let gate = Arc::clone(&gate);
        if seen.fetch_add(1, Ordering::Relaxed) + 1 == 200 {
            gate.add_permits(200);
        }
        async move {
            gate.acquire().await.unwrap().forget();
            "{}"
        }
    };
    let server = Server::start(Router::new().route("/v1/embeddings", post(answer)));
    let mut options = server.options();
    options.load = Load::Open { rate_per_s: 400.0, arrivals: Arrivals::Fixed, connections_max: 256 };
    options.count = Some(200);
    let report = measure(&options);
    assert_eq!((report.ok, report.failed), (200, 0));
    let latency = report.latency_ms.unwrap();
    assert!(latency.max >= 497.0, "{latency:?}");
    assert!(latency.p99 >= 490.0, "{latency:?}");
    assert!(latency.p50 >= 245.0, "{latency:?}");
    assert_eq!(report.generator.connections_peak, 200);
}

#[test]
fn waiting_for_a_connection_counts_as_latency_and_is_reported() {
    // One connection, and a server whose first answer waits for a signal of the test: the others
    // queue behind it in the generator, which no server can see.
    let gate = Arc::new(Semaphore::new(0));
    let seen = Arc::new(AtomicU64::new(0));
    let answer = {
        let (gate, seen) = (Arc::clone(&gate), Arc::clone(&seen));
        move || {
            let gate = Arc::clone(&gate);
            seen.fetch_add(1, Ordering::Relaxed);
            async move {
                let _permit = gate.acquire().await.unwrap();
                "{}"
            }
        }
    };
    let server = Server::start(Router::new().route("/v1/embeddings", post(answer)));
    let mut options = server.options();
    options.load = Load::Open { rate_per_s: 400.0, arrivals: Arrivals::Fixed, connections_max: 1 };
    options.count = Some(80);
    // All 80 are due within 200 ms; the gate opens at the first progress call after 400 ms.
    let report = run(&options, &Stop::default(), &mut |progress| {
        if progress.elapsed >= Duration::from_millis(400) {
            gate.add_permits(1 << 20);
        }
    })
    .unwrap();
    assert_eq!((report.ok, seen.load(Ordering::Relaxed)), (80, 80));
    assert_eq!(report.generator.waited_for_connection, 79);
    assert_eq!(report.generator.connections_opened, 1);
    assert!(!report.generator.kept_up);
    assert!(report.generator.notes.iter().any(|note| note.contains("waited")));
    // Sent late, so quick by the server's clock; the latency knows better.
    let (latency, service) = (report.latency_ms.unwrap(), report.service_ms.unwrap());
    assert!(latency.p50 >= 250.0, "{latency:?}");
    assert!(service.p50 < latency.p50, "{service:?}");
}

#[test]
fn refusals_are_neither_successes_nor_failures() {
    let (app, _) = counting(|index| match index % 4 {
        0 => StatusCode::OK,
        1 => StatusCode::TOO_MANY_REQUESTS,
        2 => StatusCode::SERVICE_UNAVAILABLE,
        _ => StatusCode::BAD_REQUEST,
    });
    let server = Server::start(app);
    let mut options = server.options();
    options.count = Some(400);
    let report = measure(&options);
    assert_eq!((report.ok, report.refused, report.failed), (100, 200, 100));
    for status in ["status_429", "status_503", "status_400"] {
        assert_eq!(report.errors[status], 100);
        assert_eq!(report.error_samples[status], "{}");
    }
    assert!(report.refused_latency_ms.is_some() && report.failed_latency_ms.is_some());
}

#[test]
fn answers_after_the_timeout_are_failures_and_nothing_hangs() {
    let app = Router::new().route("/v1/embeddings", post(|| async { std::future::pending::<&str>().await }));
    let server = Server::start(app);
    for load in [
        Load::Closed { connections: 4 },
        Load::Open { rate_per_s: 1_000.0, arrivals: Arrivals::Poisson, connections_max: 2 },
    ] {
        let mut options = server.options();
        options.load = load;
        options.count = Some(10);
        options.timeout = Duration::from_millis(50);
        let report = measure(&options);
        assert_eq!((report.ok, report.failed), (0, 10), "{load:?}");
        assert!(report.latency_ms.is_none());
    }
}

#[test]
fn connections_closed_in_the_middle_of_an_answer_are_errors_and_nothing_hangs() {
    for answer in [
        "",
        "HTTP/1.1 200 OK\r\nContent-Le",
        "HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\nshort",
        "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nab",
        "not HTTP at all\r\n\r\n",
    ] {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        let server = std::thread::spawn(move || {
            // The probe's connection, then the requests'. The last is the test's own.
            for stream in listener.incoming() {
                let mut stream = stream.unwrap();
                let mut buffer = [0; 4096];
                let length = stream.read(&mut buffer).unwrap_or(0);
                if buffer[..length] == *b"end" {
                    return;
                }
                let _ = stream.write_all(answer.as_bytes());
            }
        });
        let mut options = Options::new(format!("http://{address}"), openai());
        options.warm_up = Duration::ZERO;
        options.load = Load::Closed { connections: 2 };
        options.count = Some(20);
        let report = measure(&options);
        std::net::TcpStream::connect(address).unwrap().write_all(b"end").unwrap();
        server.join().unwrap();
        assert_eq!((report.ok, report.failed), (0, 20), "{answer:?}");
        assert!(report.errors.keys().all(|kind| kind == "closed_by_server" || kind == "protocol"));
    }
}

#[test]
fn every_protocol_reaches_its_path_with_its_body_and_headers() {
    let (log, seen) = std::sync::mpsc::channel();
    let app = Router::new().fallback(move |request: Request| {
        let log = log.clone();
        async move {
            let (parts, body) = request.into_parts();
            let body = axum::body::to_bytes(body, 1 << 20).await.unwrap();
            let header = |name: &str| parts.headers.get(name).map(|value| value.to_str().unwrap().to_owned());
            log.send((
                parts.uri.to_string(),
                header("authorization"),
                header("inference-header-content-length"),
                body.len(),
            ))
            .unwrap();
            "{}"
        }
    });
    let server = Server::start(app);
    let oip = |binary| Api::OpenInference { model: "m".into(), input: "text".into(), column: false, binary };
    let template = Api::Template { path: "/predict?v=1".into(), template: r#"{"q": "{text}"}"#.into() };
    for (api, path) in [
        (openai(), "/v1/embeddings"),
        (oip(false), "/v2/models/m/infer"),
        (oip(true), "/v2/models/m/infer"),
        (template, "/predict?v=1"),
    ] {
        let mut options = server.options();
        options.api = api.clone();
        options.headers = vec![("Authorization".into(), "Bearer t".into())];
        options.count = Some(3);
        assert_eq!(measure(&options).ok, 3);
        let requests: Vec<_> = seen.try_iter().collect();
        assert_eq!(requests.len(), 3);
        for (uri, authorization, json_length, length) in requests {
            assert_eq!(uri, path);
            assert_eq!(authorization.as_deref(), Some("Bearer t"));
            let binary = matches!(api, Api::OpenInference { binary: true, .. });
            assert_eq!(json_length.is_some(), binary);
            assert!(length > 10);
        }
    }
}

#[test]
fn idle_connections_are_held_through_the_run_and_counted() {
    let (app, _) = counting(|_| StatusCode::OK);
    let server = Server::start(app);
    for kind in [IdleKind::Silent, IdleKind::PartialHead] {
        let mut options = server.options();
        options.idle = Some(Idle { connections: 300, kind });
        options.count = Some(50);
        let report = measure(&options);
        let idle = report.idle.unwrap();
        assert_eq!((idle.connections_opened, idle.connections_open_at_end), (300, 300));
        assert_eq!(report.ok, 50);
    }
}

#[test]
fn a_report_survives_json_and_its_table_and_plot_are_whole() {
    let (app, _) = counting(|index| if index % 3 == 0 { StatusCode::TOO_MANY_REQUESTS } else { StatusCode::OK });
    let server = Server::start(app);
    let mut options = server.options();
    options.load = Load::Open { rate_per_s: 1_000.0, arrivals: Arrivals::Poisson, connections_max: 64 };
    options.count = Some(200);
    options.deadline = Some(Duration::from_secs(5));
    options.server = Some(halny_load::ServerSampling { pid: std::process::id(), descendants: false });
    let report = measure(&options);
    let json = serde_json::to_string(&report).unwrap();
    assert_eq!(serde_json::from_str::<Report>(&json).unwrap(), report);
    assert!(report.server.unwrap().rss_max_bytes.unwrap() > 0);
    assert_eq!(report.ok_within_deadline, report.ok);

    let table = halny_load::table(&report);
    for word in ["throughput", "goodput", "P99", "refused", "status_429", "generator"] {
        assert!(table.contains(word), "{word} is missing in\n{table}");
    }
    let svg = halny_load::svg(&report);
    for part in ["latency (ms)", "percentile of requests", "requests/s", "window (s)", "</svg>"] {
        assert!(svg.contains(part), "{part} is missing");
    }
    assert!(!svg.contains("NaN") && !svg.contains("inf"));
}

#[test]
fn a_stopped_run_ends_with_the_report_of_what_was_measured() {
    let app = Router::new().route("/v1/embeddings", post(|| async { std::future::pending::<&str>().await }));
    let server = Server::start(app);
    let stop = Stop::default();
    let report = run(&server.options(), &stop, &mut |_| stop.stop()).unwrap();
    assert!(report.interrupted);
    assert_eq!((report.requests, report.latency_ms), (0, None));
    assert!(!halny_load::svg(&report).contains("NaN"));
    assert!(halny_load::table(&report).contains("interrupted"));
}

#[test]
fn bad_options_are_refused_before_the_server_is_touched() {
    let refused = |change: &dyn Fn(&mut Options)| {
        // Nothing listens on port 1, and nobody asks it.
        let mut options = Options::new("http://127.0.0.1:1", openai());
        change(&mut options);
        match run(&options, &Stop::default(), &mut |_| {}) {
            Err(LoadError::Connect { .. }) => panic!("the server was asked"),
            Err(error) => error.to_string(),
            Ok(_) => panic!("accepted"),
        }
    };
    for rate_per_s in [0.0, -1.0, f64::NAN, f64::INFINITY, 1e12] {
        let load = Load::Open { rate_per_s, arrivals: Arrivals::Poisson, connections_max: 1 };
        assert!(refused(&|options| options.load = load).contains("the rate"), "{rate_per_s}");
    }
    assert!(refused(&|o| o.load = Load::Closed { connections: 0 }).contains("connections"));
    assert!(refused(&|o| o.load = Load::Closed { connections: 1 << 30 }).contains("between"));
    assert!(refused(&|o| o.threads = 0).contains("threads"));
    assert!(refused(&|o| o.texts_per_request = 0).contains("texts a request"));
    assert!(refused(&|o| o.count = Some(0)).contains("number of requests"));
    assert!(refused(&|o| o.duration = Duration::ZERO).contains("duration"));
    assert!(refused(&|o| o.timeout = Duration::MAX).contains("timeout"));
    assert!(refused(&|o| o.deadline = Some(Duration::MAX)).contains("deadline"));
    assert!(refused(&|o| o.url = "127.0.0.1:80".into()).contains("no scheme"));
    assert!(refused(&|o| o.url = "https://localhost".into()).contains("https"));
    assert!(refused(&|o| o.headers = vec![("a b".into(), "c".into())]).contains("header"));
    let synthetic = |lengths| Texts::Synthetic { lengths, distinct: 10 };
    assert!(refused(&|o| o.texts = synthetic(Lengths::Fixed(0))).contains("length"));
    let template = |template: &str| Api::Template { path: "/".into(), template: template.into() };
    assert!(refused(&|o| o.api = template("{}")).contains("placeholder"));
    assert!(refused(&|o| o.api = template("{\"a\": {text}}")).contains("not JSON"));
}

#[test]
fn text_files_that_hold_no_texts_are_refused_and_nothing_listening_is_said() {
    let file = |bytes: &[u8]| {
        let mut file = tempfile::NamedTempFile::new().unwrap();
        file.write_all(bytes).unwrap();
        file
    };
    let outcome = |path: &std::path::Path| {
        let mut options = Options::new("http://127.0.0.1:1", openai());
        options.texts = Texts::File { path: path.to_owned(), shuffled: true };
        run(&options, &Stop::default(), &mut |_| {}).unwrap_err()
    };
    assert!(matches!(outcome(file(b"\n \n\r\n").path()), LoadError::NoTexts { .. }));
    assert!(matches!(outcome(file(b"one\ntwo \xff\n").path()), LoadError::NotUtf8 { line: 2, .. }));
    assert!(matches!(outcome(std::path::Path::new("/absent")), LoadError::Read { .. }));
    assert!(matches!(outcome(file(b"one\ntwo\n").path()), LoadError::Connect { .. }));
}
