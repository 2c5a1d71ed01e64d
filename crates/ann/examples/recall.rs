//! How many of the ten nearest an index finds, and how many queries it answers in a second.
//!
//! `cargo run --release --example recall -- ROWS.f32 DIMENSIONS [int8|f16|f32]` for a graph, or
//! `... [ivf4|ivf8] [LISTS] [SUBSPACES]` for lists of codes: rows of 32-bit numbers, one after the
//! other, of length 1. A thousand of them are taken out and asked for. A row as near as the tenth
//! counts as found, whichever it is.

use std::time::Instant;

use halny_ann::{
    CodeBits, Found, Graph, GraphOptions, Ivf, IvfOptions, IvfParams, Metric, Precision, Progress, Rows, SearchParams,
    exact,
};

const QUERIES: usize = 1_000;
const K: usize = 10;
const THREADS: usize = 2;

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let [path, dimensions, options @ ..] = arguments.as_slice() else {
        return Err("usage: recall ROWS.f32 DIMENSIONS [int8|f16|f32|ivf4|ivf8] [LISTS] [SUBSPACES]".into());
    };
    let dimensions: usize = dimensions.parse()?;
    let bytes = std::fs::read(path)?;
    let (values, _) = bytes.as_chunks::<4>();
    let all: Vec<f32> = values.iter().map(|value| f32::from_le_bytes(*value)).collect();
    let (table, queries) = split(&all, dimensions);
    let rows = Rows::new(&table, dimensions);
    let asked = Asked { rows, queries: &queries, tenths: tenths(rows, &queries) };
    let kind = options.first().map_or("int8", String::as_str);
    let number = |place: usize| options.get(place).map(|number| number.parse::<usize>()).transpose();
    match kind {
        "ivf4" | "ivf8" => {
            let bits = if kind == "ivf4" { CodeBits::Four } else { CodeBits::Eight };
            lists(&asked, &IvfOptions { bits, lists: number(1)?, subspaces: number(2)?, ..IvfOptions::default() })
        }
        "f32" => graph(&asked, Precision::F32),
        "f16" => graph(&asked, Precision::F16),
        _ => graph(&asked, Precision::Int8),
    }
}

/// What is asked of an index, and how near the tenth nearest row is.
struct Asked<'a> {
    rows: Rows<'a>,
    queries: &'a [f32],
    tenths: Vec<f32>,
}

impl Asked<'_> {
    /// Queries a second, the best of three rounds, and the share of the ten nearest that is found.
    fn ask(&self, search: impl Fn(&[f32]) -> Vec<Found>) -> (f64, f64) {
        let (mut hits, mut least_s) = (0, f64::INFINITY);
        for _ in 0..3 {
            let began = Instant::now();
            hits = 0;
            for (query, tenth) in self.queries.chunks_exact(self.rows.dimensions()).zip(&self.tenths) {
                hits += search(query).iter().filter(|found| found.similarity >= *tenth).count();
            }
            least_s = least_s.min(began.elapsed().as_secs_f64());
        }
        (self.tenths.len() as f64 / least_s, hits as f64 / (self.tenths.len() * K) as f64)
    }

    fn say_built(&self, began: Instant, bytes: usize) -> std::io::Result<()> {
        let (count, built_s) = (self.rows.len(), began.elapsed().as_secs_f64());
        write(&format!("{count} rows, built in {built_s:.1} s, {:.1} bytes a row\n", bytes as f64 / count as f64))
    }
}

fn graph(asked: &Asked<'_>, precision: Precision) -> Result<(), Box<dyn std::error::Error>> {
    let began = Instant::now();
    let options = GraphOptions { precision, ..GraphOptions::default() };
    let graph = Graph::build(asked.rows, Metric::Dot, &options, THREADS, &Progress::default())?;
    asked.say_built(began, graph.memory_bytes())?;
    write("  ef  oversampling  queries/s  recall@10\n")?;
    for ef in [24, 32, 48, 64, 96, 128, 192, 256] {
        for oversampling in [1.5, 2.0, 3.0] {
            let params = SearchParams { ef, oversampling };
            let (per_second, recall) = asked.ask(|query| graph.search(asked.rows, query, K, &params, None));
            write(&format!("{ef:>4}  {oversampling:>12}  {per_second:>9.0}  {recall:>9.4}\n"))?;
        }
    }
    Ok(())
}

fn lists(asked: &Asked<'_>, options: &IvfOptions) -> Result<(), Box<dyn std::error::Error>> {
    let began = Instant::now();
    let ivf = Ivf::build(asked.rows, Metric::Dot, options, THREADS, &Progress::default())?;
    asked.say_built(began, ivf.memory_bytes())?;
    write(&format!("{} lists, {} of them by default\n", ivf.lists(), ivf.nprobe()))?;
    write("nprobe  oversampling  queries/s  recall@10\n")?;
    for nprobe in [16, 24, 32, 48, 64, 96, 128, 192, 256, 384, 512] {
        for oversampling in [1.0, 2.0, 3.0, 4.0, 6.0, 10.0] {
            let params = IvfParams { nprobe: Some(nprobe), oversampling };
            let (per_second, recall) = asked.ask(|query| ivf.search(asked.rows, query, K, &params, None));
            write(&format!("{nprobe:>6}  {oversampling:>12}  {per_second:>9.0}  {recall:>9.4}\n"))?;
        }
    }
    Ok(())
}

/// How near the tenth nearest row is to each query.
fn tenths(rows: Rows<'_>, queries: &[f32]) -> Vec<f32> {
    let tenth = |query: &[f32]| {
        let found = exact::search(rows, Metric::Dot, query, K, 0..rows.len() as u32);
        found.last().map_or(f32::NEG_INFINITY, |tenth| tenth.similarity - 1e-6)
    };
    queries.chunks_exact(rows.dimensions()).map(tenth).collect()
}

/// The rows without those that are asked for, and those.
fn split(all: &[f32], dimensions: usize) -> (Vec<f32>, Vec<f32>) {
    let count = all.len() / dimensions.max(1);
    let step = (count / QUERIES).max(2);
    let (mut table, mut queries) = (Vec::with_capacity(all.len()), Vec::new());
    for (number, row) in all.chunks_exact(dimensions).enumerate() {
        let asked = number % step == 0 && queries.len() < QUERIES * dimensions;
        if asked { queries.extend_from_slice(row) } else { table.extend_from_slice(row) }
    }
    (table, queries)
}

fn write(text: &str) -> std::io::Result<()> {
    std::io::Write::write_all(&mut std::io::stdout(), text.as_bytes())
}
