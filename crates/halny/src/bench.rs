//! `halny bench`: load against any OpenAI or Open Inference Protocol server, and what came of it.

use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::Context;
use clap::{ArgGroup, Args, ValueEnum};
use halny_load::{Api, Arrivals, Idle, IdleKind, Lengths, Load, Options, Report, ServerSampling, Stop, Texts};

/// A run that ends by its count still ends.
const DURATION_WITH_COUNT: Duration = Duration::from_secs(3600);
const DURATION: Duration = Duration::from_secs(10);

/// Sends load to a server and reports throughput, latency and refusals.
#[derive(Debug, Args)]
#[command(group = ArgGroup::new("source").args(["texts", "lengths"]))]
pub(crate) struct BenchArgs {
    /// The server, such as http://127.0.0.1:8080 (plain http)
    url: String,

    /// The protocol; `template` sends the JSON of --template to --path
    #[arg(long, value_enum, default_value = "openai")]
    api: ApiName,

    /// The model's name
    #[arg(long, required_unless_present = "template")]
    model: Option<String>,

    /// Asks for vectors of this many dimensions (openai)
    #[arg(long)]
    dimensions: Option<u32>,

    /// Asks for vectors in base64 (openai)
    #[arg(long)]
    base64: bool,

    /// The input tensor's name (oip)
    #[arg(long, default_value = "text")]
    input: String,

    /// Sends a tensor of shape [texts, 1] instead of [texts] (oip)
    #[arg(long)]
    column: bool,

    /// The path of a request, with --template
    #[arg(long, requires = "template")]
    path: Option<String>,

    /// A JSON body with "{text}" inside a string, the string "{texts}" for the list, or the string "{json}" for a
    /// text that is JSON; @FILE reads it
    #[arg(long, requires = "path")]
    template: Option<String>,

    /// A header added to each request, NAME: VALUE; may be given again
    #[arg(long = "header", value_name = "NAME: VALUE", value_parser = header)]
    headers: Vec<(String, String)>,

    /// Connections: all in use in the closed loop, at most in the open loop [default: 16, open loop 4096]
    #[arg(long, short)]
    connections: Option<usize>,

    /// Requests a second: makes the loop open
    #[arg(long)]
    rate: Option<f64>,

    /// Arrivals of the open loop
    #[arg(long, value_enum, default_value = "poisson", requires = "rate")]
    arrivals: ArrivalsName,

    /// A file with one text a line
    #[arg(long)]
    texts: Option<PathBuf>,

    /// Shuffles the file's texts, with --seed
    #[arg(long, requires = "texts")]
    shuffle: bool,

    /// Made-up texts: fixed:N, uniform:A:B, lognormal:MEDIAN:SIGMA or quantiles:FILE, in tokens [default: fixed:16]
    #[arg(long, value_parser = str::parse::<Lengths>)]
    lengths: Option<Lengths>,

    /// Texts in each request
    #[arg(long, default_value_t = 1)]
    texts_per_request: usize,

    /// The seed of arrivals, lengths, words and shuffling
    #[arg(long, default_value_t = 1)]
    seed: u64,

    /// Length of the measured window [default: 10, with --count 3600]
    #[arg(long, value_name = "SECONDS", value_parser = seconds)]
    duration: Option<Duration>,

    /// Measured requests at most
    #[arg(long)]
    count: Option<u64>,

    /// Load before the measured window
    #[arg(long, value_name = "SECONDS", value_parser = seconds, default_value = "1")]
    warm_up: Duration,

    /// How long a request may take, from the time it was due
    #[arg(long, value_name = "MILLISECONDS", default_value_t = 30_000)]
    timeout_ms: u64,

    /// Answers later than this are no goodput
    #[arg(long, value_name = "MILLISECONDS")]
    deadline_ms: Option<u64>,

    /// Threads of the generator
    #[arg(long, default_value_t = 1)]
    threads: usize,

    /// Samples processor time and memory of this process, the server's
    #[arg(long, value_name = "PID")]
    server_pid: Option<u32>,

    /// Counts the processes that the server started too
    #[arg(long, requires = "server_pid")]
    server_descendants: bool,

    /// Holds this many connections open without load
    #[arg(long, value_name = "N")]
    idle_connections: Option<usize>,

    /// Idle connections send half of a request's head first
    #[arg(long, requires = "idle_connections")]
    idle_partial_head: bool,

    /// Prints one JSON object instead of the table
    #[arg(long)]
    json: bool,

    /// Writes latency and throughput as an SVG picture
    #[arg(long, value_name = "FILE.svg")]
    plot: Option<PathBuf>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum ApiName {
    Openai,
    OipJson,
    OipBinary,
    Template,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum ArrivalsName {
    Fixed,
    Poisson,
}

/// Runs the load; the first Ctrl-C ends it early with a report of what was measured.
pub(crate) async fn run(args: BenchArgs) -> anyhow::Result<()> {
    let (json, plot) = (args.json, args.plot.clone());
    let options = options(args)?;
    let stop = Stop::default();
    let stopper = stop.clone();
    let mut load = tokio::task::spawn_blocking(move || {
        let mut bar = halny_load::terminal_bar(&options);
        halny_load::run(&options, &stop, &mut bar)
    });
    let report = tokio::select! {
        report = &mut load => report,
        _ = tokio::signal::ctrl_c() => {
            stopper.stop();
            load.await
        }
    };
    let report = report.context("the load generator's thread ended without a result")??;
    if let Some(path) = plot {
        std::fs::write(&path, halny_load::svg(&report))
            .with_context(|| format!("cannot write the plot to {}", path.display()))?;
    }
    print(&report, json)
}

#[expect(clippy::print_stdout, reason = "the report is this verb's output")]
fn print(report: &Report, json: bool) -> anyhow::Result<()> {
    if json {
        println!("{}", serde_json::to_string(report)?);
    } else {
        print!("{}", halny_load::table(report));
    }
    Ok(())
}

fn options(args: BenchArgs) -> anyhow::Result<Options> {
    let api = api(&args)?;
    let mut options = Options::new(args.url, api);
    options.headers = args.headers;
    options.load = match args.rate {
        None => Load::Closed { connections: args.connections.unwrap_or(16) },
        Some(rate_per_s) => Load::Open {
            rate_per_s,
            arrivals: match args.arrivals {
                ArrivalsName::Fixed => Arrivals::Fixed,
                ArrivalsName::Poisson => Arrivals::Poisson,
            },
            connections_max: args.connections.unwrap_or(4096),
        },
    };
    if let Some(path) = args.texts {
        options.texts = Texts::File { path, shuffled: args.shuffle };
    } else if let Some(lengths) = args.lengths {
        options.texts = Texts::Synthetic { lengths, distinct: 4096 };
    }
    options.texts_per_request = args.texts_per_request;
    options.seed = args.seed;
    let duration = if args.count.is_some() { DURATION_WITH_COUNT } else { DURATION };
    options.duration = args.duration.unwrap_or(duration);
    options.count = args.count;
    options.warm_up = args.warm_up;
    options.timeout = Duration::from_millis(args.timeout_ms);
    options.deadline = args.deadline_ms.map(Duration::from_millis);
    options.threads = args.threads;
    options.server = args.server_pid.map(|pid| ServerSampling { pid, descendants: args.server_descendants });
    let kind = if args.idle_partial_head { IdleKind::PartialHead } else { IdleKind::Silent };
    options.idle = args.idle_connections.map(|connections| Idle { connections, kind });
    Ok(options)
}

fn api(args: &BenchArgs) -> anyhow::Result<Api> {
    if let (Some(path), Some(template)) = (&args.path, &args.template) {
        let template = match template.strip_prefix('@') {
            Some(file) => {
                std::fs::read_to_string(Path::new(file)).with_context(|| format!("cannot read the template {file}"))?
            }
            None => template.clone(),
        };
        return Ok(Api::Template { path: path.clone(), template });
    }
    let model = args.model.clone().unwrap_or_default();
    Ok(match args.api {
        ApiName::Openai => Api::OpenAi { model, dimensions: args.dimensions, base64: args.base64 },
        ApiName::OipJson | ApiName::OipBinary => Api::OpenInference {
            model,
            input: args.input.clone(),
            column: args.column,
            binary: args.api == ApiName::OipBinary,
        },
        ApiName::Template => anyhow::bail!("--api template needs --path and --template"),
    })
}

fn seconds(text: &str) -> Result<Duration, String> {
    text.parse::<f64>()
        .ok()
        .and_then(|seconds| Duration::try_from_secs_f64(seconds).ok())
        .ok_or_else(|| format!("{text:?} is not a number of seconds, such as 30 or 0.5"))
}

fn header(text: &str) -> Result<(String, String), String> {
    let (name, value) = text.split_once(':').ok_or("a header is written NAME: VALUE, with a colon")?;
    Ok((name.trim().to_owned(), value.trim().to_owned()))
}
