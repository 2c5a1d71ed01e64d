//! How many of the ten nearest a graph finds, and how many queries it answers in a second.
//!
//! `cargo run --release --example recall -- ROWS.f32 DIMENSIONS [int8|f16|f32]`: rows of 32-bit
//! numbers, one after the other, of length 1. A thousand of them are taken out and asked for. A
//! row as near as the tenth counts as found, whichever it is.

use std::time::Instant;

use halny_ann::{Graph, GraphOptions, Metric, Precision, Progress, Rows, SearchParams, exact};

const QUERIES: usize = 1_000;
const K: usize = 10;

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let mut arguments = std::env::args().skip(1);
    let (Some(path), Some(dimensions)) = (arguments.next(), arguments.next()) else {
        return Err("usage: recall ROWS.f32 DIMENSIONS [int8|f16|f32]".into());
    };
    let precision = match arguments.next().as_deref() {
        Some("f32") => Precision::F32,
        Some("f16") => Precision::F16,
        _ => Precision::Int8,
    };
    let dimensions: usize = dimensions.parse()?;
    let bytes = std::fs::read(path)?;
    let (values, _) = bytes.as_chunks::<4>();
    let all: Vec<f32> = values.iter().map(|value| f32::from_le_bytes(*value)).collect();
    let (table, queries) = split(&all, dimensions);
    let rows = Rows::new(&table, dimensions);
    let truth: Vec<f32> = queries
        .chunks_exact(dimensions)
        .map(|query| {
            let found = exact::search(rows, Metric::Dot, query, K, 0..rows.len() as u32);
            found.last().map_or(f32::NEG_INFINITY, |tenth| tenth.similarity - 1e-6)
        })
        .collect();
    let began = Instant::now();
    let options = GraphOptions { precision, ..GraphOptions::default() };
    let graph = Graph::build(rows, Metric::Dot, &options, 2, &Progress::default())?;
    let (built, bytes) = (began.elapsed().as_secs_f64(), graph.memory_bytes());
    write(&format!("{} rows, built in {built:.1} s, {} bytes a row\n", rows.len(), bytes / rows.len().max(1)))?;
    write("  ef  oversampling  queries/s  recall@10\n")?;
    for ef in [24, 32, 48, 64, 96, 128, 192, 256] {
        for oversampling in [1.5, 2.0, 3.0] {
            let params = SearchParams { ef, oversampling };
            let (mut hits, began) = (0, Instant::now());
            for (query, tenth) in queries.chunks_exact(dimensions).zip(&truth) {
                let found = graph.search(rows, query, K, &params, None);
                hits += found.iter().filter(|found| found.similarity >= *tenth).count();
            }
            let per_second = truth.len() as f64 / began.elapsed().as_secs_f64();
            let recall = hits as f64 / (truth.len() * K) as f64;
            write(&format!("{ef:>4}  {oversampling:>12}  {per_second:>9.0}  {recall:>9.4}\n"))?;
        }
    }
    Ok(())
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
