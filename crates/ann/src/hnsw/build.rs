//! Building a graph, with several threads.

use std::sync::atomic::{AtomicUsize, Ordering};

use half::f16;
use parking_lot::Mutex;
use rand::{Rng, SeedableRng};
use rand_chacha::ChaCha8Rng;

use super::walk::{Compare, Near, OnRows, Scratch, descend, spread};
use super::{Graph, GraphOptions, Numbers, Precision};
use crate::codes::Codes;
use crate::equal::Groups;
use crate::{Cancelled, Metric, Progress, Rows, exact};

/// No graph that fits in memory has more.
const LAYERS_MAX: usize = 16;

/// A graph while it grows.
struct Growing<'a> {
    rows: Rows<'a>,
    metric: Metric,
    options: GraphOptions,
    /// The row that stands for each node.
    first_rows: Vec<u32>,
    layers: Vec<usize>,
    /// For each node its neighbours in each of its layers.
    links: Vec<Mutex<Vec<Vec<u32>>>>,
    entry: Mutex<(u32, usize)>,
}

pub(super) fn build(
    rows: Rows<'_>,
    metric: Metric,
    options: &GraphOptions,
    threads: usize,
    progress: &Progress,
) -> Result<Graph, Cancelled> {
    progress.expect(rows.len() as u64);
    // Equal rows are one node.
    let groups = Groups::of(rows, progress)?;
    let first_rows = groups.firsts();
    let mut chance = ChaCha8Rng::seed_from_u64(options.seed);
    let per_layer = 1.0 / (options.m.max(2) as f64).ln();
    let layer = |_: &u32| ((-(1.0 - chance.random::<f64>()).ln() * per_layer) as usize).min(LAYERS_MAX - 1);
    let layers: Vec<usize> = first_rows.iter().map(layer).collect();
    let links = layers.iter().map(|layer| Mutex::new(vec![Vec::new(); layer + 1])).collect();
    let entry = Mutex::new((0, layers.first().copied().unwrap_or(0)));
    let growing = Growing { rows, metric, options: *options, first_rows, layers, links, entry };
    let next = AtomicUsize::new(1);
    std::thread::scope(|scope| {
        let work = || growing.work(&next, progress);
        let workers: Vec<_> = (0..threads).map(|_| scope.spawn(work)).collect();
        workers.into_iter().try_for_each(|worker| worker.join().unwrap_or(Err(Cancelled)))
    })?;
    Ok(growing.freeze(groups.starts, groups.rows))
}

impl Growing<'_> {
    /// Takes nodes in until there are none left.
    fn work(&self, next: &AtomicUsize, progress: &Progress) -> Result<(), Cancelled> {
        let mut scratch = Scratch::default();
        loop {
            let node = next.fetch_add(1, Ordering::Relaxed);
            if node >= self.first_rows.len() {
                return Ok(());
            }
            progress.check()?;
            self.insert(node as u32, &mut scratch);
            progress.advance(1);
        }
    }

    fn row_of(&self, node: u32) -> u32 {
        self.first_rows.get(node as usize).copied().unwrap_or(u32::MAX)
    }

    fn row(&self, node: u32) -> &[f32] {
        self.rows.row(self.row_of(node))
    }

    fn similarity(&self, a: u32, b: u32) -> f32 {
        exact::similarity(self.metric, self.row(a), self.row(b))
    }

    fn insert(&self, node: u32, scratch: &mut Scratch) {
        let row_of = |node: u32| self.row_of(node);
        let compare = OnRows { rows: self.rows, metric: self.metric, row_of: &row_of, query: self.row(node) };
        let own = self.layers.get(node as usize).copied().unwrap_or(0);
        // Whoever makes a new top layer does so alone: nobody may enter it half made.
        let mut entry = self.entry.lock();
        let (start, top) = *entry;
        let held = if own > top { Some(&mut entry) } else { None };
        let mut best = scratch.one(&compare, start);
        if held.is_none() {
            drop(entry);
            self.link(node, &mut best, own, top, &compare, scratch);
        } else {
            self.link(node, &mut best, own, top, &compare, scratch);
            *entry = (node, own);
        }
    }

    fn link(&self, node: u32, best: &mut Near, own: usize, top: usize, compare: &impl Compare, scratch: &mut Scratch) {
        for layer in (own + 1..=top).rev() {
            *best = descend(scratch, compare, *best, |of, fresh| self.neighbours(of, layer, fresh));
        }
        for layer in (0..=own.min(top)).rev() {
            scratch.begin(self.first_rows.len());
            let ef = self.options.ef_construct.max(self.options.m);
            let others = |other: u32| other != node;
            spread(scratch, compare, *best, ef, &others, |of, fresh| self.neighbours(of, layer, fresh));
            let mut found: Vec<Near> = scratch.kept.drain().map(|kept| kept.0).collect();
            found.sort_unstable_by(|a, b| b.cmp(a));
            if let Some(nearest) = found.first() {
                *best = *nearest;
            }
            let chosen = self.choose(found, self.options.m);
            self.set(node, layer, &chosen);
            chosen.iter().for_each(|other| self.add(*other, layer, node));
        }
    }

    fn neighbours(&self, node: u32, layer: usize, into: &mut Vec<u32>) {
        if let Some(links) = self.links.get(node as usize) {
            into.extend(links.lock().get(layer).into_iter().flatten());
        }
    }

    /// Of candidates, the nearest first, those that are nearer than to any that was chosen before: so
    /// that neighbours lie in all directions (Malkov and Yashunin, algorithm 4).
    fn choose(&self, candidates: Vec<Near>, most: usize) -> Vec<u32> {
        let mut chosen: Vec<u32> = Vec::with_capacity(most);
        for candidate in candidates {
            if chosen.len() == most {
                break;
            }
            let apart = |other: &u32| self.similarity(candidate.node, *other) < candidate.similarity;
            if chosen.iter().all(apart) {
                chosen.push(candidate.node);
            }
        }
        chosen
    }

    fn set(&self, node: u32, layer: usize, neighbours: &[u32]) {
        if let Some(links) = self.links.get(node as usize) {
            // Another thread may have found this node already and linked itself.
            if let Some(list) = links.lock().get_mut(layer) {
                list.extend(neighbours.iter().filter(|other| !list.contains(other)).copied().collect::<Vec<_>>());
            }
        }
    }

    /// Adds a neighbour to a node's list, and chooses anew when it is full.
    fn add(&self, node: u32, layer: usize, neighbour: u32) {
        let most = self.most(layer);
        let Some(links) = self.links.get(node as usize) else { return };
        let mut links = links.lock();
        let Some(list) = links.get_mut(layer) else { return };
        if list.contains(&neighbour) {
            return;
        }
        list.push(neighbour);
        if list.len() > most {
            let near = |other: &u32| Near { similarity: self.similarity(node, *other), node: *other };
            let mut all: Vec<Near> = list.iter().map(near).collect();
            all.sort_unstable_by(|a, b| b.cmp(a));
            *list = self.choose(all, most);
        }
    }

    fn most(&self, layer: usize) -> usize {
        if layer == 0 { self.options.m * 2 } else { self.options.m }
    }

    /// Puts the lists into tables.
    fn freeze(self, row_starts: Vec<u32>, node_rows: Vec<u32>) -> Graph {
        let m = self.options.m;
        let mut base = Vec::with_capacity(self.links.len() * (1 + 2 * m));
        let (mut upper_starts, mut upper) = (vec![0], Vec::new());
        let put = |table: &mut Vec<u32>, list: &[u32], width: usize| {
            let end = table.len() + 1 + width;
            table.push(list.len().min(width) as u32);
            table.extend(list.iter().take(width));
            table.resize(end, 0);
        };
        for links in self.links {
            let links = links.into_inner();
            for (layer, list) in links.iter().enumerate() {
                if layer == 0 { put(&mut base, list, 2 * m) } else { put(&mut upper, list, m) }
            }
            upper_starts.push(upper.len() as u32);
        }
        let numbers = match self.options.precision {
            Precision::F32 => Numbers::Rows,
            Precision::F16 => {
                let values = self.first_rows.iter().flat_map(|row| self.rows.row(*row));
                Numbers::Half(values.map(|value| f16::from_f32(*value)).collect())
            }
            Precision::Int8 => Numbers::Codes(Codes::of(self.rows, self.metric, self.first_rows.iter().copied())),
        };
        let (entry, top) = self.entry.into_inner();
        let (rows, dimensions) = (self.rows.len(), self.rows.dimensions());
        Graph {
            metric: self.metric,
            rows,
            dimensions,
            m,
            entry,
            top,
            base,
            upper_starts,
            upper,
            row_starts,
            node_rows,
            numbers,
        }
    }
}
