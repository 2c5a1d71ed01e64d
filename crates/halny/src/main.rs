//! The halny binary: one file a verb, and no logic of its own.

mod background;
mod bench;
mod check;
mod engines;
mod feature_stores;
mod features;
mod jobs;
mod operator;
mod project;
mod serve;
mod starts;
mod store;
mod vectors;
mod watch;

use std::process::ExitCode;

use clap::{Parser, Subcommand};

/// Puts machine-learning models behind web APIs, on GPUs.
#[derive(Parser)]
#[command(name = "halny", version, about, arg_required_else_help = true)]
struct Cli {
    #[command(subcommand)]
    verb: Verb,
}

#[derive(Subcommand)]
enum Verb {
    /// Serve the models of a project
    Serve(serve::ServeArgs),
    /// Check a project file and say what is wrong, or print its JSON Schema
    Check(check::CheckArgs),
    /// Send load to a server and report throughput, latency and refusals
    Bench(Box<bench::BenchArgs>),
    /// Work on the features of a running server
    Features(features::FeaturesArgs),
    /// Look at the jobs of a running server, and act on them
    Jobs(jobs::JobsArgs),
    /// Move what is known of jobs and files to another database
    Store(store::StoreArgs),
    /// Work on the collections of vectors of a running server
    Vectors(vectors::VectorsArgs),
}

fn main() -> ExitCode {
    let outcome = match Cli::parse().verb {
        Verb::Serve(args) => serve::run(&args),
        Verb::Check(args) => check::run(&args),
        Verb::Features(args) => features::run(args),
        Verb::Jobs(args) => jobs::run(args),
        Verb::Store(args) => store::run(args),
        Verb::Vectors(args) => vectors::run(args),
        Verb::Bench(args) => tokio::runtime::Runtime::new()
            .map_err(anyhow::Error::from)
            .and_then(|runtime| runtime.block_on(bench::run(*args))),
    };
    match outcome {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            #[expect(clippy::print_stderr, reason = "the last word of a command-line program")]
            {
                eprintln!("halny: {error:#}");
            }
            ExitCode::FAILURE
        }
    }
}
