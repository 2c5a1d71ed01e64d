//! What one small request costs the generator in processor time.
//!
//! The server is a process of its own, so that the figure is the client's alone; it comes from the
//! process clock, which counts what `getrusage` counts, to the nanosecond.
//!
//! `cargo run --release -p halny-load --example client_cost`
#![expect(clippy::print_stdout, reason = "the figures are the point of this program")]

use std::io::{BufRead, BufReader};
use std::process::{Command, Stdio};
use std::time::Duration;

use axum::Router;
use axum::routing::post;
use halny_load::{Api, Arrivals, Load, Options, Stop};

type Failure = Box<dyn std::error::Error>;

fn main() -> Result<(), Failure> {
    if std::env::args().nth(1).as_deref() == Some("serve") {
        return serve();
    }
    let mut server =
        Command::new(std::env::current_exe()?).arg("serve").stdin(Stdio::piped()).stdout(Stdio::piped()).spawn()?;
    let mut address = String::new();
    BufReader::new(server.stdout.take().ok_or("no standard output")?).read_line(&mut address)?;
    let measured = measure(address.trim());
    // The server ends with its standard input.
    drop(server.stdin.take());
    server.wait()?;
    measured
}

fn measure(address: &str) -> Result<(), Failure> {
    let open = |rate_per_s| Load::Open { rate_per_s, arrivals: Arrivals::Poisson, connections_max: 256 };
    for (name, load) in [
        ("closed, 1 connection", Load::Closed { connections: 1 }),
        ("closed, 64 connections", Load::Closed { connections: 64 }),
        ("Poisson, 500/s", open(500.0)),
        ("Poisson, 5000/s", open(5000.0)),
    ] {
        let api = Api::OpenAi { model: "m".into(), dimensions: None, base64: false };
        let mut options = Options::new(format!("http://{address}"), api);
        options.load = load;
        options.duration = Duration::from_secs(3);
        let report = halny_load::run(&options, &Stop::default(), &mut |_| {})?;
        println!(
            "{name}: {:.1} us of client processor time a request at {:.0} requests/s, P50 {:.3} ms, late by {:.3} ms at P99",
            report.generator.cpu_us_per_request.unwrap_or_default(),
            report.requests_per_s,
            report.latency_ms.map_or(0.0, |latency| latency.p50),
            report.generator.lateness_ms.map_or(0.0, |late| late.p99),
        );
    }
    Ok(())
}

fn serve() -> Result<(), Failure> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    // Blocks a thread until the parent is gone.
    let parent_gone = std::thread::spawn(|| std::io::copy(&mut std::io::stdin(), &mut std::io::sink()));
    let (gone, wait) = tokio::sync::oneshot::channel();
    std::thread::spawn(move || {
        let _ = parent_gone.join();
        let _ = gone.send(());
    });
    runtime.block_on(async {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await?;
        println!("{}", listener.local_addr()?);
        let app = Router::new().route("/v1/embeddings", post(|| async { "{}" }));
        tokio::select! {
            served = axum::serve(listener, app) => served?,
            _ = wait => {}
        }
        Ok(())
    })
}
