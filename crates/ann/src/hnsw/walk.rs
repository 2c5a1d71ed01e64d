//! Walking a graph towards a query.

use std::cell::RefCell;
use std::cmp::{Ordering, Reverse};
use std::collections::BinaryHeap;

use half::f16;

use super::{Graph, Numbers, SearchParams};
use crate::codes::{CodedQuery, Codes};
use crate::{Found, Metric, Rows, exact, kernels};

/// A node and how near it seems: greater is nearer. Of two equally near the lower number is greater.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct Near {
    pub(super) similarity: f32,
    pub(super) node: u32,
}

impl Eq for Near {}

impl PartialOrd for Near {
    fn partial_cmp(&self, other: &Near) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl Ord for Near {
    fn cmp(&self, other: &Near) -> Ordering {
        self.similarity.total_cmp(&other.similarity).then(other.node.cmp(&self.node))
    }
}

/// What a walk needs, kept from one to the next so that none has to ask for memory.
#[derive(Default)]
pub(super) struct Scratch {
    /// The walk in which a node was last seen.
    seen: Vec<u32>,
    walk: u32,
    candidates: BinaryHeap<Near>,
    pub(super) kept: BinaryHeap<Reverse<Near>>,
    fresh: Vec<u32>,
    similarities: Vec<f32>,
    products: Vec<i32>,
    query: CodedQuery,
}

thread_local! {
    static SCRATCH: RefCell<Scratch> = RefCell::default();
}

/// Where similarities come from.
pub(super) trait Compare {
    /// Brings numbers near that will be compared.
    fn prefetch(&self, node: u32);
    /// How near these nodes seem.
    fn compare(&self, nodes: &[u32], products: &mut Vec<i32>, similarities: &mut Vec<f32>);
}

/// On the rows themselves.
pub(super) struct OnRows<'a> {
    pub(super) rows: Rows<'a>,
    pub(super) metric: Metric,
    /// The row that stands for a node.
    pub(super) row_of: &'a (dyn Fn(u32) -> u32 + Sync),
    pub(super) query: &'a [f32],
}

impl Compare for OnRows<'_> {
    fn prefetch(&self, node: u32) {
        let row = self.rows.row((self.row_of)(node));
        kernels::prefetch(row.get(..32).unwrap_or(row));
    }

    fn compare(&self, nodes: &[u32], _: &mut Vec<i32>, similarities: &mut Vec<f32>) {
        let similarity = |node: &u32| exact::similarity(self.metric, self.query, self.rows.row((self.row_of)(*node)));
        similarities.extend(nodes.iter().map(similarity));
    }
}

struct OnHalf<'a> {
    table: &'a [f16],
    metric: Metric,
    query: &'a [f32],
}

impl OnHalf<'_> {
    fn row(&self, node: u32) -> &[f16] {
        let start = node as usize * self.query.len();
        self.table.get(start..start + self.query.len()).unwrap_or_default()
    }
}

impl Compare for OnHalf<'_> {
    fn prefetch(&self, node: u32) {
        let row = self.row(node);
        kernels::prefetch(row.get(..64).unwrap_or(row));
    }

    fn compare(&self, nodes: &[u32], _: &mut Vec<i32>, similarities: &mut Vec<f32>) {
        similarities.extend(nodes.iter().map(|node| match self.metric {
            Metric::Dot => kernels::dot_half(self.query, self.row(*node)),
            Metric::Euclid => -kernels::squared_euclid_half(self.query, self.row(*node)),
        }));
    }
}

struct OnCodes<'a> {
    codes: &'a Codes,
    query: &'a CodedQuery,
}

impl Compare for OnCodes<'_> {
    fn prefetch(&self, node: u32) {
        kernels::prefetch(self.codes.row(node));
    }

    fn compare(&self, nodes: &[u32], products: &mut Vec<i32>, similarities: &mut Vec<f32>) {
        kernels::dots_int8(&self.query.codes, &self.codes.table, nodes, products);
        let similarity = |(node, product): (&u32, &i32)| self.codes.similarity(self.query, *node, *product);
        similarities.extend(nodes.iter().zip(products.iter()).map(similarity));
    }
}

pub(super) fn search(
    graph: &Graph,
    rows: Rows<'_>,
    query: &[f32],
    k: usize,
    params: &SearchParams,
    allowed: Option<&dyn Fn(u32) -> bool>,
) -> Vec<Found> {
    SCRATCH.with_borrow_mut(|scratch| {
        let passes = |node: u32| match allowed {
            None => true,
            Some(allowed) => graph.rows_of(node).iter().any(|row| allowed(*row)),
        };
        let wanted = ((k as f32 * params.oversampling.max(1.0)) as usize).max(k);
        let ef = params.ef.max(wanted);
        match &graph.numbers {
            Numbers::Rows => {
                let row_of = |node: u32| graph.rows_of(node).first().copied().unwrap_or(u32::MAX);
                let on_rows = OnRows { rows, metric: graph.metric, row_of: &row_of, query };
                walk(graph, scratch, &on_rows, ef, &passes);
            }
            Numbers::Half(table) => walk(graph, scratch, &OnHalf { table, metric: graph.metric, query }, ef, &passes),
            Numbers::Codes(codes) => {
                let mut coded = std::mem::take(&mut scratch.query);
                coded.set(query, codes.stride);
                walk(graph, scratch, &OnCodes { codes, query: &coded }, ef, &passes);
                scratch.query = coded;
            }
        }
        // The worst are on top: they go until as many are left as are compared again.
        while scratch.kept.len() > wanted {
            scratch.kept.pop();
        }
        let nodes = scratch.kept.drain().map(|Reverse(near)| near.node);
        let candidates = nodes.flat_map(|node| graph.rows_of(node).iter().copied());
        let candidates = candidates.filter(|row| allowed.is_none_or(|allowed| allowed(*row)));
        exact::search(rows, graph.metric, query, k, candidates)
    })
}

/// Walks to the nearest nodes that pass, and leaves them in `scratch.kept`.
fn walk(graph: &Graph, scratch: &mut Scratch, compare: &impl Compare, ef: usize, passes: &dyn Fn(u32) -> bool) {
    scratch.kept.clear();
    if graph.nodes() == 0 {
        return;
    }
    let mut entry = scratch.one(compare, graph.entry);
    for layer in (1..=graph.top).rev() {
        entry = descend(scratch, compare, entry, |node, fresh| fresh.extend_from_slice(graph.neighbours(node, layer)));
    }
    scratch.begin(graph.nodes());
    spread(scratch, compare, entry, ef, passes, |node, fresh| fresh.extend_from_slice(graph.neighbours(node, 0)));
}

/// Goes from node to node as long as a neighbour is nearer.
pub(super) fn descend(
    scratch: &mut Scratch,
    compare: &impl Compare,
    mut best: Near,
    neighbours: impl Fn(u32, &mut Vec<u32>),
) -> Near {
    loop {
        let mut around = std::mem::take(&mut scratch.fresh);
        around.clear();
        neighbours(best.node, &mut around);
        let nearest = scratch.nearest(compare, &around);
        scratch.fresh = around;
        match nearest.filter(|nearest| nearest.similarity > best.similarity) {
            Some(nearer) => best = nearer,
            None => return best,
        }
    }
}

/// Looks at neighbours of the nearest, and theirs, until none can be among the `ef` best any more.
pub(super) fn spread(
    scratch: &mut Scratch,
    compare: &impl Compare,
    entry: Near,
    ef: usize,
    passes: &dyn Fn(u32) -> bool,
    neighbours: impl Fn(u32, &mut Vec<u32>),
) {
    scratch.candidates.clear();
    scratch.kept.clear();
    scratch.see(entry.node);
    scratch.candidates.push(entry);
    if passes(entry.node) {
        scratch.kept.push(Reverse(entry));
    }
    while let Some(nearest) = scratch.candidates.pop() {
        if scratch.kept.len() >= ef && scratch.kept.peek().is_some_and(|Reverse(worst)| nearest < *worst) {
            return;
        }
        scratch.look_at(compare, nearest.node, &neighbours);
        for place in 0..scratch.fresh.len() {
            let (Some(node), Some(similarity)) = (scratch.fresh.get(place), scratch.similarities.get(place)) else {
                break;
            };
            let near = Near { similarity: *similarity, node: *node };
            let full = scratch.kept.len() >= ef;
            if full && scratch.kept.peek().is_some_and(|Reverse(worst)| near < *worst) {
                continue;
            }
            scratch.candidates.push(near);
            if passes(near.node) {
                if full {
                    scratch.kept.pop();
                }
                scratch.kept.push(Reverse(near));
            }
        }
    }
}

impl Scratch {
    /// Begins a walk in which no node has been seen.
    pub(super) fn begin(&mut self, nodes: usize) {
        if self.seen.len() < nodes {
            self.seen.resize(nodes, 0);
        }
        self.walk = self.walk.wrapping_add(1);
        if self.walk == 0 {
            self.seen.fill(0);
            self.walk = 1;
        }
    }

    /// Whether the node is seen for the first time.
    fn see(&mut self, node: u32) -> bool {
        match self.seen.get_mut(node as usize) {
            Some(seen) if *seen != self.walk => {
                *seen = self.walk;
                true
            }
            _ => false,
        }
    }

    /// Compares the neighbours of a node that were not seen before.
    fn look_at(&mut self, compare: &impl Compare, node: u32, neighbours: &impl Fn(u32, &mut Vec<u32>)) {
        let mut fresh = std::mem::take(&mut self.fresh);
        fresh.clear();
        neighbours(node, &mut fresh);
        fresh.retain(|neighbour| self.see(*neighbour));
        fresh.iter().for_each(|neighbour| compare.prefetch(*neighbour));
        self.similarities.clear();
        compare.compare(&fresh, &mut self.products, &mut self.similarities);
        self.fresh = fresh;
    }

    pub(super) fn one(&mut self, compare: &impl Compare, node: u32) -> Near {
        self.nearest(compare, &[node]).unwrap_or(Near { similarity: f32::NEG_INFINITY, node })
    }

    fn nearest(&mut self, compare: &impl Compare, nodes: &[u32]) -> Option<Near> {
        self.similarities.clear();
        nodes.iter().for_each(|node| compare.prefetch(*node));
        compare.compare(nodes, &mut self.products, &mut self.similarities);
        let near = |(node, similarity): (&u32, &f32)| Near { similarity: *similarity, node: *node };
        nodes.iter().zip(&self.similarities).map(near).max()
    }
}
