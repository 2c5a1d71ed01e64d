//! Making a collection of files, and waiting until all that follows from it is built.

use std::io::{BufRead, BufReader};
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use halny_payload::PointId;
use halny_types::CollectionName;
use halny_vectors::embedded::{Space, Store};
use halny_vectors::{CollectionConfig, Payload, Point, Write};
use serde_json::{Value, json};

use crate::{Measured, Outcome, VECTOR};

/// Points of one write.
const BATCH: usize = 500;
const LOOK_EVERY: Duration = Duration::from_millis(50);
/// The builder merges once more after two seconds without a write, later where others have the
/// processors; when nothing has changed for so long, nothing will.
const QUIET: Duration = Duration::from_secs(10);

pub(crate) async fn load(
    folder: &Path,
    threads: usize,
    config: &CollectionConfig,
    rows: &Path,
    payloads: Option<&Path>,
) -> Outcome<(Measured, Value)> {
    let dimensions = config.vector(VECTOR)?.dimensions;
    let rows = read_rows(rows, dimensions)?;
    let payloads = match payloads {
        Some(path) => read_payloads(path)?,
        None => vec![Arc::default(); rows.len()],
    };
    if payloads.len() != rows.len() {
        return Err(format!("there are {} rows and {} payloads", rows.len(), payloads.len()).into());
    }
    let store = Store::open(folder, threads)?;
    // As the server does where its project says nothing.
    store.keep_warm(halny_types::project::Vectors::default().warm.as_usize());
    let name = CollectionName::new("measured")?;
    store.create(name, config).await?;
    let space = store.get("measured")?.active();
    let began = Instant::now();
    let points = rows.into_iter().zip(payloads).zip(0..).map(|((row, payload), id)| point(id, row, payload));
    write(&space, points.collect(), None).await?;
    let written_s = began.elapsed().as_secs_f64();
    let settled = settle(&space).await?;
    let mut answer = status(&space)?;
    answer["written_s"] = json!(written_s);
    answer["built_s"] = json!(settled.duration_since(began).as_secs_f64());
    Ok((Measured { store, space }, answer))
}

/// Writes points in batches, each answered once it is on disk; at most so many a second, or as fast as they are taken.
pub(crate) async fn write(space: &Space, points: Vec<Point>, points_per_s: Option<f64>) -> Outcome<()> {
    let began = Instant::now();
    let batch = if points_per_s.is_some() { BATCH / 5 } else { BATCH };
    let mut written = 0;
    let mut points = points.into_iter().peekable();
    while points.peek().is_some() {
        if let Some(points_per_s) = points_per_s {
            let due = began + Duration::from_secs_f64(written as f64 / points_per_s);
            tokio::time::sleep_until(due.into()).await;
        }
        let next: Vec<Point> = points.by_ref().take(batch).collect();
        written += next.len();
        space.write(vec![Write::Upsert(next)], true).await?;
    }
    Ok(())
}

/// Waits until nothing is left to be built; tells when the last of it was done.
pub(crate) async fn settle(space: &Space) -> Outcome<Instant> {
    let mut ticks = tokio::time::interval(LOOK_EVERY);
    let (mut busy, mut segments) = (Instant::now(), 0);
    loop {
        ticks.tick().await;
        let status = space.status();
        if status.building.is_some() || status.unfinished > 0 || status.segments != segments {
            (busy, segments) = (Instant::now(), status.segments);
        }
        if busy.elapsed() > QUIET {
            return Ok(busy);
        }
    }
}

pub(crate) fn status(space: &Space) -> Outcome<Value> {
    let status = space.status();
    let vector = status.vectors.get(VECTOR).copied().unwrap_or_default();
    Ok(json!({
        "points": status.points,
        "segments": status.segments,
        "vectors": vector.vectors,
        "indexed": vector.indexed,
        "index_bytes": vector.index_bytes,
        "vector_bytes": vector.vector_bytes,
    }))
}

pub(crate) fn point(id: u64, row: Vec<f32>, payload: Arc<Payload>) -> Point {
    Point { id: PointId::Number(id), vectors: [(VECTOR.to_owned(), row)].into(), payload }
}

pub(crate) fn read_rows(path: &Path, dimensions: usize) -> Outcome<Vec<Vec<f32>>> {
    let bytes = std::fs::read(path)?;
    let (numbers, rest) = bytes.as_chunks::<4>();
    if !rest.is_empty() || dimensions == 0 || numbers.len() % dimensions != 0 {
        return Err(format!("{} is no file of rows of {dimensions} 32-bit numbers", path.display()).into());
    }
    let row = |row: &[[u8; 4]]| row.iter().map(|number| f32::from_le_bytes(*number)).collect();
    Ok(numbers.chunks_exact(dimensions).map(row).collect())
}

fn read_payloads(path: &Path) -> Outcome<Vec<Arc<Payload>>> {
    let lines = BufReader::new(std::fs::File::open(path)?).lines();
    lines.map(|line| Ok(Arc::new(serde_json::from_str(&line?)?))).collect()
}
