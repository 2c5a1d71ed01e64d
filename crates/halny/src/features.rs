//! `halny features`: what a running server has of features, and whether what it served is what the past says.

use anyhow::Context;
use clap::{Args, Subcommand};
use indicatif::{ProgressBar, ProgressStyle};
use serde_json::{Value, json};

use crate::operator::{Operator, last_line};

/// Works on the features of a running server.
#[derive(Args)]
pub(crate) struct FeaturesArgs {
    #[command(subcommand)]
    verb: Verb,
}

#[derive(Subcommand)]
enum Verb {
    /// List views and services
    List(ListArgs),
    /// Read files into the online store: whatever was not read yet, or all rows from a time on
    Materialize(MaterializeArgs),
    /// Compute what a service was logged to have served again, and report where it differs
    Replay(ReplayArgs),
}

#[derive(Args)]
struct ListArgs {
    #[command(flatten)]
    operator: Operator,
}

#[derive(Args)]
struct MaterializeArgs {
    /// Views; all of them without any
    views: Vec<String>,

    /// All rows from this time on, read before or not, such as 2026-01-02T03:04:05Z
    #[arg(long)]
    start: Option<String>,

    /// Rows until this time; now without it
    #[arg(long)]
    end: Option<String>,

    #[command(flatten)]
    operator: Operator,
}

#[derive(Args)]
struct ReplayArgs {
    /// The service, as `name` for its highest version, or `name@version`
    service: String,

    /// What was served from this time on, such as 2026-01-02T03:04:05Z
    #[arg(long)]
    start: Option<String>,

    /// What was served before this time
    #[arg(long)]
    end: Option<String>,

    #[command(flatten)]
    operator: Operator,
}

pub(crate) fn run(args: FeaturesArgs) -> anyhow::Result<()> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    runtime.block_on(async {
        match args.verb {
            Verb::List(args) => list(&args).await,
            Verb::Materialize(args) => materialise(args).await,
            Verb::Replay(args) => replay(args).await,
        }
    })
}

#[expect(clippy::print_stdout, reason = "the answer of a command-line program")]
async fn list(args: &ListArgs) -> anyhow::Result<()> {
    let told: Value = args.operator.server()?.get(&["halny", "v1", "features"]).await?.json().await?;
    let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
    for (kind, list) in [("view", "feature_views"), ("on demand", "on_demand_views")] {
        for view in told[list].as_array().into_iter().flatten() {
            let keys: Vec<String> =
                view["join_keys"].as_array().into_iter().flatten().map(|it| text(&it["name"])).collect();
            let of = if keys.is_empty() { String::new() } else { format!(" of {}", keys.join(", ")) };
            println!("{kind:<10} {}{of}", text(&view["name"]));
            for feature in view["features"].as_array().into_iter().flatten() {
                println!("{:<10}   {} ({})", "", text(&feature["name"]), text(&feature["type"]));
            }
        }
    }
    for service in told["feature_services"].as_array().into_iter().flatten() {
        let count = service["features"].as_array().map_or(0, Vec::len);
        println!("{:<10} {}@{}: {count} features", "service", text(&service["name"]), service["version"]);
    }
    Ok(())
}

#[expect(clippy::print_stdout, reason = "the answer of a command-line program")]
async fn materialise(args: MaterializeArgs) -> anyhow::Result<()> {
    let views = (!args.views.is_empty()).then_some(args.views);
    let wanted = json!({ "feature_views": views, "start": args.start, "end": args.end });
    let bar = spinner("materialising")?;
    let answer = args.operator.server()?.post(&["halny", "v1", "features", "materialize"], &wanted).await?;
    let told: Value = answer.json().await?;
    bar.finish_and_clear();
    println!("{:>12}  {:>12}  {:>12}  {:>8}  view", "files", "rows", "served", "skipped");
    for view in told["feature_views"].as_array().into_iter().flatten() {
        let count = |name: &str| view[name].as_u64().unwrap_or(0);
        let name = view["view"].as_str().unwrap_or_default();
        let (files, rows, served, skipped) = (count("files"), count("rows"), count("served"), count("skipped"));
        println!("{files:>12}  {rows:>12}  {served:>12}  {skipped:>8}  {name}");
    }
    Ok(())
}

async fn replay(args: ReplayArgs) -> anyhow::Result<()> {
    let wanted = json!({ "service": args.service, "start": args.start, "end": args.end });
    let answer = args.operator.server()?.post(&["halny", "v1", "features", "replay"], &wanted).await?;
    let bar = spinner("rows")?;
    let found = last_line(answer, |line| {
        if let Some(rows) = line["rows"].as_u64() {
            bar.set_position(rows);
        }
    });
    let found = found.await?;
    bar.finish_and_clear();
    show(&found)
}

/// What shows that something is under way, and how far it has come.
fn spinner(what: &'static str) -> anyhow::Result<ProgressBar> {
    let bar = ProgressBar::new_spinner();
    bar.set_style(ProgressStyle::with_template("{spinner} {elapsed} {human_pos} {msg}")?);
    bar.set_message(what);
    Ok(bar)
}

#[expect(clippy::print_stdout, reason = "the answer of a command-line program")]
fn show(found: &Value) -> anyhow::Result<()> {
    let features = found["features"].as_array().context("the server ended before it had an answer")?;
    println!("{} served rows were computed again", found["replayed"]);
    println!("{:>10}  {:>10}  feature", "equal", "different");
    for feature in features {
        let (equal, different) = (&feature["equal"], &feature["different"]);
        println!("{equal:>10}  {different:>10}  {}", feature["name"].as_str().unwrap_or_default());
    }
    for feature in features {
        for example in feature["examples"].as_array().into_iter().flatten() {
            let (name, at) = (feature["name"].as_str().unwrap_or_default(), example["at"].as_str().unwrap_or_default());
            let (keys, served, joined) = (&example["keys"], &example["served"], &example["joined"]);
            println!("{name} of {keys} at {at}: served {served}, the past says {joined}");
        }
    }
    Ok(())
}
