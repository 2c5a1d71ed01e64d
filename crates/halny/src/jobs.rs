//! `halny jobs`: looks at the jobs of a running server, and acts on them.

use std::time::Duration;

use anyhow::{Context, bail};
use clap::{Args, Subcommand};
use indicatif::{ProgressBar, ProgressStyle};
use reqwest::Method;
use serde_json::{Value, json};

use crate::operator::{Operator, Server};

/// How often a job is looked at that is followed.
const LOOK_EVERY: Duration = Duration::from_millis(250);

/// Looks at jobs, and acts on them.
#[derive(Args)]
pub(crate) struct JobsArgs {
    #[command(flatten)]
    operator: Operator,
    #[command(subcommand)]
    verb: Verb,
}

#[derive(Subcommand)]
enum Verb {
    /// List jobs, the latest first
    List(ListArgs),
    /// Show a job, and follow it until it ends
    Show(ShowArgs),
    /// Submit a job
    Submit(SubmitArgs),
    /// Try a dead or cancelled job again
    Retry {
        /// The job
        id: String,
    },
    /// Cancel a job that waits or runs
    Cancel {
        /// The job
        id: String,
    },
    /// List the dead jobs of a queue, try them again, or forget them
    Dead(DeadArgs),
    /// Show where queues stand
    Queues,
    /// Start nothing of a queue any more, and wait until what runs has ended
    Drain {
        /// The queue
        queue: String,
        /// Only say so, and do not wait
        #[arg(long)]
        no_wait: bool,
    },
    /// Start jobs of a drained queue again
    Resume {
        /// The queue
        queue: String,
    },
}

#[derive(Args)]
struct ListArgs {
    /// Of this queue
    #[arg(long)]
    queue: Option<String>,
    /// Of this kind
    #[arg(long)]
    kind: Option<String>,
    /// That stand so: delayed, ready, running, done, dead, cancelled
    #[arg(long)]
    state: Option<String>,
    /// How many
    #[arg(long, default_value_t = 20)]
    limit: usize,
    /// As JSON
    #[arg(long)]
    json: bool,
}

#[derive(Args)]
struct ShowArgs {
    /// The job
    id: String,
    /// Show how far it is until it ends
    #[arg(long, short)]
    follow: bool,
}

#[derive(Args)]
struct SubmitArgs {
    /// What the job does: embed-collection, materialize, rerank-refresh, batch, webhook, command
    kind: String,
    /// What it is told, as JSON
    #[arg(default_value = "{}")]
    payload: String,
    /// The queue
    #[arg(long)]
    queue: Option<String>,
    /// Among those of its queue the higher goes first
    #[arg(long, default_value_t = 0, allow_hyphen_values = true)]
    priority: i32,
    /// It starts no earlier than so many milliseconds from now
    #[arg(long, default_value_t = 0)]
    delay_ms: u64,
    /// Show how far it is until it ends
    #[arg(long, short)]
    follow: bool,
}

#[derive(Args)]
struct DeadArgs {
    /// The queue
    queue: String,
    /// Try all of them again
    #[arg(long, conflicts_with = "purge")]
    retry: bool,
    /// Forget all of them
    #[arg(long)]
    purge: bool,
}

pub(crate) fn run(args: JobsArgs) -> anyhow::Result<()> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    runtime.block_on(act(args))
}

async fn act(args: JobsArgs) -> anyhow::Result<()> {
    let server = args.operator.server()?;
    match args.verb {
        Verb::List(args) => list(&server, &args).await,
        Verb::Show(args) if args.follow => follow(&server, &args.id).await,
        Verb::Show(args) => {
            say(&pretty(&server.ask(Method::GET, &["halny", "v1", "jobs", &args.id], &[], None).await?));
            Ok(())
        }
        Verb::Submit(args) => submit(&server, &args).await,
        Verb::Retry { id } => state_of(&server, Method::POST, &["halny", "v1", "jobs", &id, "retry"]).await,
        Verb::Cancel { id } => state_of(&server, Method::POST, &["halny", "v1", "jobs", &id, "cancel"]).await,
        Verb::Dead(args) => dead(&server, &args).await,
        Verb::Queues => queues(&server).await,
        Verb::Drain { queue, no_wait } => drain(&server, &queue, no_wait).await,
        Verb::Resume { queue } => {
            server.ask(Method::POST, &["halny", "v1", "queues", &queue, "resume"], &[], None).await?;
            say(&format!("jobs of {queue} start again"));
            Ok(())
        }
    }
}

#[expect(clippy::print_stdout, reason = "the answer of a command-line program")]
fn say(text: &str) {
    println!("{text}");
}

fn pretty(value: &Value) -> String {
    serde_json::to_string_pretty(value).unwrap_or_default()
}

async fn list(server: &Server, args: &ListArgs) -> anyhow::Result<()> {
    let mut query = vec![("limit", args.limit.to_string())];
    for (name, value) in [("queue", &args.queue), ("kind", &args.kind), ("state", &args.state)] {
        query.extend(value.clone().map(|value| (name, value)));
    }
    let found = server.ask(Method::GET, &["halny", "v1", "jobs"], &query, None).await?;
    if args.json {
        say(&pretty(&found["jobs"]));
        return Ok(());
    }
    table(&found["jobs"]);
    Ok(())
}

fn table(jobs: &Value) {
    say(&format!("{:32}  {:12}  {:16}  {:9}  {:>8}  what", "job", "queue", "kind", "state", "tries"));
    for job in jobs.as_array().into_iter().flatten() {
        let text = |name: &str| job[name].as_str().unwrap_or_default().to_owned();
        let progress = &job["progress"];
        let what = match (job["error"].as_str(), progress["done"].as_u64()) {
            (Some(error), _) => error.chars().take(60).collect(),
            (None, Some(done)) => match progress["total"].as_u64() {
                Some(total) => format!("{done} of {total}"),
                None => done.to_string(),
            },
            (None, None) => String::new(),
        };
        let tries = format!("{}/{}", job["failures"], job["max_attempts"]);
        let (id, queue, kind, state) = (text("id"), text("queue"), text("kind"), text("state"));
        say(&format!("{id:32}  {queue:12}  {kind:16}  {state:9}  {tries:>8}  {what}"));
    }
}

async fn state_of(server: &Server, method: Method, path: &[&str]) -> anyhow::Result<()> {
    let job = server.ask(method, path, &[], None).await?;
    say(job["state"].as_str().unwrap_or_default());
    Ok(())
}

async fn submit(server: &Server, args: &SubmitArgs) -> anyhow::Result<()> {
    let payload: Value = serde_json::from_str(&args.payload).context("what the job is told is no JSON")?;
    let mut form = json!({
        "kind": args.kind, "payload": payload, "priority": args.priority, "delay_ms": args.delay_ms,
    });
    if let Some(queue) = &args.queue {
        form["queue"] = json!(queue);
    }
    let job = server.ask(Method::POST, &["halny", "v1", "jobs"], &[], Some(&form)).await?;
    let id = job["id"].as_str().context("the server's answer names no job")?;
    say(id);
    if args.follow { follow(server, id).await } else { Ok(()) }
}

/// Shows how far a job is until it ends. One that did not end well makes the command fail.
async fn follow(server: &Server, id: &str) -> anyhow::Result<()> {
    let bar = ProgressBar::new(0);
    bar.set_style(ProgressStyle::with_template("{elapsed} {wide_bar} {pos}/{len} {msg}")?);
    loop {
        let job = server.ask(Method::GET, &["halny", "v1", "jobs", id], &[], None).await?;
        let progress = &job["progress"];
        bar.set_length(progress["total"].as_u64().unwrap_or(0));
        bar.set_position(progress["done"].as_u64().unwrap_or(0));
        let state = job["state"].as_str().unwrap_or_default().to_owned();
        bar.set_message(format!("{state} {}", progress["message"].as_str().unwrap_or_default()));
        match state.as_str() {
            "done" => {
                bar.finish_and_clear();
                say(&pretty(&job["result"]));
                return Ok(());
            }
            "dead" | "cancelled" => {
                bar.finish_and_clear();
                bail!("the job is {state}: {}", job["error"].as_str().unwrap_or("nobody says why"));
            }
            _ => tokio::time::sleep(LOOK_EVERY).await,
        }
    }
}

async fn dead(server: &Server, args: &DeadArgs) -> anyhow::Result<()> {
    let path = ["halny", "v1", "queues", &args.queue, "dead"];
    if args.retry {
        let path: Vec<&str> = path.into_iter().chain(["retry"]).collect();
        let done = server.ask(Method::POST, &path, &[], None).await?;
        say(&format!("{} are tried again", done["retried"]));
    } else if args.purge {
        let path: Vec<&str> = path.into_iter().chain(["purge"]).collect();
        let done = server.ask(Method::POST, &path, &[], None).await?;
        say(&format!("{} are forgotten", done["purged"]));
    } else {
        table(&server.ask(Method::GET, &path, &[], None).await?["jobs"]);
    }
    Ok(())
}

async fn queues(server: &Server) -> anyhow::Result<()> {
    let found = server.ask(Method::GET, &["halny", "v1", "queues"], &[], None).await?;
    say(&format!("{:16}  {:>8}  {:>8}  {:>8}  {:>8}  oldest", "queue", "ready", "delayed", "running", "dead"));
    for queue in found["queues"].as_array().into_iter().flatten() {
        let name = queue["name"].as_str().unwrap_or_default();
        let drained = if queue["is_drained"] == true { "  drained" } else { "" };
        let oldest = queue["oldest_ready_ms"].as_f64().unwrap_or(0.0) / 1e3;
        let number = |name: &str| queue[name].as_u64().unwrap_or(0);
        say(&format!(
            "{name:16}  {:>8}  {:>8}  {:>8}  {:>8}  {oldest:.1} s{drained}",
            number("ready"),
            number("delayed"),
            number("running"),
            number("dead")
        ));
    }
    Ok(())
}

async fn drain(server: &Server, queue: &str, no_wait: bool) -> anyhow::Result<()> {
    let mut stands = server.ask(Method::POST, &["halny", "v1", "queues", queue, "drain"], &[], None).await?;
    let bar = ProgressBar::new_spinner();
    while !no_wait && stands["running"].as_u64().unwrap_or(0) > 0 {
        bar.set_message(format!("{} still run", stands["running"]));
        tokio::time::sleep(LOOK_EVERY).await;
        let all = server.ask(Method::GET, &["halny", "v1", "queues"], &[], None).await?;
        let named = |stands: &&Value| stands["name"].as_str() == Some(queue);
        stands = all["queues"].as_array().into_iter().flatten().find(named).cloned().unwrap_or_default();
    }
    bar.finish_and_clear();
    say(&format!("nothing of {queue} starts until `halny jobs resume {queue}`"));
    Ok(())
}
