//! `halny vectors tune`: asks a running server how thoroughly a collection has to be searched, and has it use that.

use anyhow::{Context, bail};
use clap::{Args, Subcommand};
use indicatif::{ProgressBar, ProgressStyle};
use serde_json::{Value, json};

use crate::operator::{Operator, last_line};

/// Works on the collections of a running server.
#[derive(Args)]
pub(crate) struct VectorsArgs {
    #[command(subcommand)]
    verb: Verb,
}

#[derive(Subcommand)]
enum Verb {
    /// Find the quickest setting that finds enough of the nearest, and use it from now on
    Tune(TuneArgs),
}

#[derive(Args)]
struct TuneArgs {
    /// The collection, or an alias of it
    collection: String,

    /// The share of the nearest that is to be found, above 0 and at most 1
    #[arg(long, default_value_t = 0.99)]
    recall: f64,

    /// Which of its vectors, where they have names
    #[arg(long, default_value = "")]
    vector: String,

    /// How many nearest a search wants
    #[arg(long, default_value_t = 10)]
    limit: usize,

    /// Only say what was found, and change nothing
    #[arg(long)]
    dry_run: bool,

    #[command(flatten)]
    operator: Operator,
}

pub(crate) fn run(args: VectorsArgs) -> anyhow::Result<()> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    match args.verb {
        Verb::Tune(args) => runtime.block_on(tune(args)),
    }
}

async fn tune(args: TuneArgs) -> anyhow::Result<()> {
    // JSON has no form for what is no number.
    if !args.recall.is_finite() {
        bail!("`recall` is {}, it may be above 0 and at most 1", args.recall);
    }
    let path = ["halny", "v1", "collections", args.collection.as_str(), "tune"];
    let wanted = json!({
        "recall": args.recall, "vector": args.vector, "limit": args.limit, "apply": !args.dry_run,
    });
    let answer = args.operator.server()?.post(&path, &wanted).await?;
    let bar = ProgressBar::new(1_000);
    bar.set_style(ProgressStyle::with_template("{elapsed} {wide_bar} {percent} %")?);
    let found = last_line(answer, |line| {
        if let Some(done) = line["done"].as_f64() {
            bar.set_position((done * 1e3) as u64);
        }
    });
    let found = found.await?;
    bar.finish_and_clear();
    show(&found, args.recall)
}

#[expect(clippy::print_stdout, reason = "the answer of a command-line program")]
fn show(found: &Value, recall: f64) -> anyhow::Result<()> {
    let trials = found["trials"].as_array().context("the server ended before it had an answer")?;
    let (queries, from) = (&found["queries"], found["queries_from"].as_str().unwrap_or_default());
    println!("{queries} queries of {from}");
    if from != "clients" {
        println!("they are easier than others: tune again once clients have asked some thousand");
    }
    let setting = found["setting"].as_str().unwrap_or("ef");
    println!("{setting:>7}  {:>8}  {:>8}", "recall", "ms");
    for trial in trials {
        let (share, took) = (trial["recall"].as_f64().unwrap_or(0.0), trial["query_ms"].as_f64().unwrap_or(0.0));
        println!("{:>7}  {share:>8.4}  {took:>8.3}", trial["ef"]);
    }
    match (found["ef"].as_u64(), found["applied"].as_bool()) {
        (Some(ef), Some(true)) => println!("{setting} {ef} is used from now on"),
        (Some(ef), _) => println!("{setting} {ef} would do; nothing was changed"),
        (None, _) if setting == "nprobe" => {
            bail!("no setting found {recall} of the nearest; take codes with more bytes")
        }
        (None, _) => bail!("no setting found {recall} of the nearest; index with a greater `m` and `ef_construct`"),
    }
    Ok(())
}
