//! Work in pieces that do not depend on each other: the same result whatever the number of threads.

use std::ops::Range;
use std::sync::atomic::{AtomicUsize, Ordering};

use crate::{Cancelled, Progress};

/// Rows of a piece.
const PIECE: usize = 512;

/// Runs `job` for each number below `jobs`; results are in the order of the numbers.
pub(super) fn each<T: Send>(
    jobs: usize,
    threads: usize,
    progress: &Progress,
    job: impl Fn(usize) -> T + Sync,
) -> Result<Vec<T>, Cancelled> {
    let next = AtomicUsize::new(0);
    let work = || {
        let mut done = Vec::new();
        loop {
            let number = next.fetch_add(1, Ordering::Relaxed);
            if number >= jobs {
                return Ok(done);
            }
            progress.check()?;
            done.push((number, job(number)));
        }
    };
    let mut all: Vec<(usize, T)> = Vec::with_capacity(jobs);
    std::thread::scope(|scope| {
        let workers: Vec<_> = (0..threads.min(jobs)).map(|_| scope.spawn(work)).collect();
        for worker in workers {
            all.extend(worker.join().unwrap_or(Err(Cancelled))?);
        }
        Ok(())
    })?;
    all.sort_unstable_by_key(|(number, _)| *number);
    Ok(all.into_iter().map(|(_, result)| result).collect())
}

/// Runs `job` for pieces of `0..count`, each of which gives a result for every number in it; each
/// number that is done counts as a step.
pub(super) fn pieces<T: Send>(
    count: usize,
    threads: usize,
    progress: &Progress,
    job: impl Fn(Range<usize>) -> Vec<T> + Sync,
) -> Result<Vec<T>, Cancelled> {
    let done = each(count.div_ceil(PIECE), threads, progress, |piece| {
        let range = piece * PIECE..((piece + 1) * PIECE).min(count);
        let steps = range.len() as u64;
        let results = job(range);
        progress.advance(steps);
        results
    })?;
    Ok(done.into_iter().flatten().collect())
}
