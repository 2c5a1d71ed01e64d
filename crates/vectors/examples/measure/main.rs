//! A collection that is measured from outside: `make bench-vectors` talks to it in lines of JSON.
//!
//! `cargo run --release --package halny-vectors --example measure`; one command a line on standard
//! input, one answer a line on standard output. Searches are the product's own (`Space::search`), one
//! after the other in one thread; the loop is here and not where the lines come from, so that no
//! figure owes anything to how the two talk.
//!
//! ```text
//! {"do": "load", "folder": ..., "threads": ..., "config": {...}, "rows": FILE, "payloads": FILE or null}
//! {"do": "search", "queries": FILE, "limit": 10, "params": {"ef": 64, ...}, "filter": {...} or null}
//! {"do": "rebuild", "queries": FILE, "rows": FILE, "first_id": ..., "points_per_s": ..., "idle_s": ..., "params": {...}}
//! {"do": "status"}
//! ```
//!
//! Files of rows hold 32-bit numbers, one row after the other; ids count from 0. A file of payloads
//! has one JSON object a line. An answer is an object; one that holds `error` is why there is none.

mod ask;
mod load;
mod rebuild;

use std::io::{BufRead, Write as _};
use std::path::PathBuf;
use std::sync::Arc;

use halny_vectors::CollectionConfig;
use halny_vectors::embedded::{Space, Store};
use serde::Deserialize;
use serde_json::{Value, json};

/// The vector that is measured: the one without a name.
const VECTOR: &str = "";

/// Anything that goes wrong ends up as a line of text.
type Outcome<T> = Result<T, Box<dyn std::error::Error>>;

#[derive(Deserialize)]
#[serde(tag = "do", rename_all = "lowercase", deny_unknown_fields)]
enum Command {
    /// Makes a collection and waits until nothing is left to be built.
    Load { folder: PathBuf, threads: usize, config: CollectionConfig, rows: PathBuf, payloads: Option<PathBuf> },
    /// Asks every query once.
    Search(ask::Ask),
    /// Searches while points are written and indexes are built.
    Rebuild(rebuild::Rebuild),
    /// How the collection stands.
    Status,
}

struct Measured {
    store: Store,
    space: Arc<Space>,
}

fn main() -> Outcome<()> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build()?;
    let mut measured: Option<Measured> = None;
    for line in std::io::stdin().lock().lines() {
        let line = line?;
        let answer = obey(&line, &mut measured, &runtime).unwrap_or_else(|error| json!({"error": error.to_string()}));
        let mut output = std::io::stdout().lock();
        writeln!(output, "{answer}")?;
        output.flush()?;
    }
    if let Some(Measured { store, .. }) = measured {
        store.close();
    }
    Ok(())
}

fn obey(line: &str, measured: &mut Option<Measured>, runtime: &tokio::runtime::Runtime) -> Outcome<Value> {
    let command: Command = serde_json::from_str(line)?;
    if let Command::Load { folder, threads, config, rows, payloads } = command {
        if measured.is_some() {
            return Err("there is a collection already; start another process for another one".into());
        }
        let loaded = load::load(&folder, threads, &config, &rows, payloads.as_deref());
        let (made, answer) = runtime.block_on(loaded)?;
        *measured = Some(made);
        return Ok(answer);
    }
    let space = &measured.as_ref().ok_or("there is no collection yet; load one first")?.space;
    match command {
        Command::Search(ask) => ask.run(space),
        Command::Rebuild(rebuild) => runtime.block_on(rebuild.run(space)),
        Command::Status | Command::Load { .. } => load::status(space),
    }
}
