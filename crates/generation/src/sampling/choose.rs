//! Which tokens may be drawn, and which one is.

use std::cmp::Ordering;

use halny_engine::TokenId;

use super::SamplingOptions;
use super::scan::{self, BLOCK, WEIGHT_LEAST_LOG2, WEIGHT_MOST};

/// Temperatures below this are 0: their quotients would overflow. vLLM's bound.
const TEMPERATURE_LEAST: f32 = 1e-5;

/// Candidates are counted into this many buckets to find a border.
const BUCKETS: usize = 512;

/// So few are sorted instead.
const SORTED: usize = 1_024;

/// The filters of one sequence, worked out once.
#[derive(Clone, Copy, Debug)]
pub(super) struct Filters {
    greedy: bool,
    /// log2(e) divided by the temperature.
    scale: f32,
    /// How far below the largest a logit may lie, by min-p; infinite for any.
    depth: f32,
    /// 0 for all.
    top_k: usize,
    /// 1 for all.
    top_p: f64,
}

impl Filters {
    pub(super) fn new(options: &SamplingOptions) -> Filters {
        let depth = if options.min_p > 0.0 {
            (-f64::from(options.min_p).ln() * f64::from(options.temperature)) as f32
        } else {
            f32::INFINITY
        };
        Filters {
            greedy: options.temperature < TEMPERATURE_LEAST || options.top_k == 1,
            scale: std::f32::consts::LOG2_E / options.temperature,
            depth,
            top_k: options.top_k as usize,
            top_p: f64::from(options.top_p),
        }
    }
}

/// Chooses tokens. It holds what was found out about the logits it looked at last, and room for
/// candidates: tokens in the order of their ids, with their logits and weights.
#[derive(Default)]
pub(super) struct Chooser {
    /// The largest of each block, and of all.
    most_of: Vec<f32>,
    most: f32,
    /// The sum of each block's weights.
    weight_of: Vec<u64>,
    tokens: Vec<TokenId>,
    logits: Vec<f32>,
    weights: Vec<u32>,
    /// Candidates among which a border is, by their place.
    border: Vec<u32>,
}

impl Chooser {
    /// Looks at logits for the first time, and gives the largest.
    pub(super) fn look(&mut self, logits: &[f32]) -> f32 {
        self.most_of.clear();
        self.most_of.extend(logits.chunks(BLOCK).map(scan::most));
        self.most = scan::most(&self.most_of);
        self.most
    }

    /// Chooses among the logits that were looked at last. `None` when there are none above minus
    /// infinity.
    pub(super) fn choose(
        &mut self,
        logits: &[f32],
        filters: &Filters,
        random: impl FnOnce() -> u64,
    ) -> Option<TokenId> {
        if self.most == f32::NEG_INFINITY {
            return None;
        }
        if filters.greedy {
            return self.first_of_the_largest(logits);
        }
        let top_k = filters.top_k > 0 && filters.top_k < logits.len();
        let mut total = None;
        if top_k || filters.depth < f32::INFINITY {
            let bound = if top_k { self.lower_bound(filters.top_k) } else { f32::MIN };
            self.collect(logits, bound, filters);
            if top_k {
                self.keep_first(filters.top_k as u64, |_| 1);
            }
        } else {
            let sum = self.weigh(logits, filters);
            if filters.top_p >= 1.0 {
                return self.draw_from_all(logits, filters, below(random(), sum));
            }
            total = Some(sum);
            self.collect_nucleus(logits, sum, filters);
        }
        if filters.top_p < 1.0 {
            let total = total.unwrap_or_else(|| self.total());
            self.keep_first(share(filters.top_p, total), u64::from);
        }
        let drawn = below(random(), self.total());
        position(&self.weights, drawn).map(|place| self.tokens[place])
    }

    /// The `count` largest logits of those that were looked at last, in order.
    pub(super) fn largest(&mut self, logits: &[f32], count: usize) -> Vec<(TokenId, f32)> {
        let bound = self.lower_bound(count);
        self.gather(logits, bound);
        self.weights.clear();
        self.weights.resize(self.logits.len(), 0);
        self.keep_first(count as u64, |_| 1);
        let mut largest: Vec<(TokenId, f32)> = self.tokens.iter().copied().zip(self.logits.iter().copied()).collect();
        // What was gathered is in the order of ids, and this sort keeps it among equals.
        largest.sort_by(|one, other| other.1.total_cmp(&one.1));
        largest.truncate(count);
        largest
    }

    fn first_of_the_largest(&self, logits: &[f32]) -> Option<TokenId> {
        let block = self.most_of.iter().position(|most| *most == self.most)?;
        let place = logits.chunks(BLOCK).nth(block)?.iter().position(|logit| *logit == self.most)?;
        Some((block * BLOCK + place) as TokenId)
    }

    /// A logit that at least `count` tokens reach: the `count`-th largest of the blocks' largest.
    fn lower_bound(&mut self, count: usize) -> f32 {
        if count == 0 || count > self.most_of.len() {
            return f32::MIN;
        }
        // The candidates' room is free now.
        self.logits.clone_from(&self.most_of);
        *self.logits.select_nth_unstable_by(count - 1, |one, other| other.total_cmp(one)).1
    }

    /// The sum of all weights.
    fn weigh(&mut self, logits: &[f32], filters: &Filters) -> u64 {
        let least = self.most + WEIGHT_LEAST_LOG2 / filters.scale;
        self.weight_of.clear();
        self.weight_of.extend(
            logits.chunks(BLOCK).zip(&self.most_of).map(|(block, most)| {
                if *most < least { 0 } else { sum(&scan::weights(block, self.most, filters.scale)) }
            }),
        );
        self.weight_of.iter().sum()
    }

    /// Gathers at least the most probable tokens that hold `top_p` of `sum`. These are few most of the
    /// time, and close to the most probable one: so it is tried with those first.
    fn collect_nucleus(&mut self, logits: &[f32], sum: u64, filters: &Filters) {
        let need = share(filters.top_p, sum);
        // All tokens of the weight `spare / tokens` and less together do not weigh more than is left
        // over. The margin is a hundred times what weights are off by.
        let spare = (sum - need) / logits.len() as u64;
        let last = if spare == 0 { WEIGHT_LEAST_LOG2 } else { (spare as f32 / WEIGHT_MOST as f32).log2() - 1e-3 };
        for power in [-6.0, -12.0, last] {
            self.collect(logits, self.most + power / filters.scale, filters);
            if self.total() >= need {
                return;
            }
        }
    }

    /// Gathers the tokens with logits of at least `bound` that min-p allows, and their weights.
    fn collect(&mut self, logits: &[f32], bound: f32, filters: &Filters) {
        self.gather(logits, bound.max(self.most - filters.depth));
        let (most, scale) = (self.most, filters.scale);
        self.weights.clear();
        self.weights.extend(self.logits.iter().map(|logit| scan::weight(*logit, most, scale)));
    }

    fn gather(&mut self, logits: &[f32], bound: f32) {
        // Minus infinity is no candidate.
        let bound = bound.max(f32::MIN);
        self.tokens.clear();
        self.logits.clear();
        for (place, (block, most)) in logits.chunks(BLOCK).zip(&self.most_of).enumerate() {
            if *most < bound {
                continue;
            }
            for (token, logit) in (place * BLOCK..).zip(block) {
                if *logit >= bound {
                    self.tokens.push(token as TokenId);
                    self.logits.push(*logit);
                }
            }
        }
    }

    fn total(&self) -> u64 {
        sum(&self.weights)
    }

    /// Keeps the candidates with the largest logits, and of equal ones those with lower ids, until
    /// their measures make up `need`; all of them if they do not.
    fn keep_first(&mut self, mut need: u64, measure: impl Fn(u32) -> u64) {
        let Chooser { border, logits, weights, .. } = self;
        border.clear();
        border.extend(0..logits.len() as u32);
        loop {
            let (least, most) = range(border.iter().map(|place| logits[*place as usize]));
            if border.len() <= SORTED || least >= most {
                break;
            }
            let bucket = Buckets::new(least, most);
            let mut held = [0u64; BUCKETS];
            for place in border.iter().map(|place| *place as usize) {
                held[bucket.of(logits[place])] += measure(weights[place]);
            }
            let chosen = held.iter().position(|held| {
                let here = need <= *held;
                need -= if here { 0 } else { *held };
                here
            });
            let Some(chosen) = chosen else { return };
            // The first and the last bucket have something in them, so the border gets smaller; unless
            // the logits are so small that their halves are equal.
            let before = border.len();
            border.retain(|place| bucket.of(logits[*place as usize]) == chosen);
            if border.len() == before {
                break;
            }
        }
        border.sort_by(|one, other| descending(logits[*one as usize], logits[*other as usize]));
        let last = border.iter().map(|place| *place as usize).find(|place| {
            need = need.saturating_sub(measure(weights[*place]));
            need == 0
        });
        if let Some(last) = last {
            self.keep_up_to(last);
        }
    }

    /// Keeps the candidates that come before the `last`-th in the order of logits, and itself.
    fn keep_up_to(&mut self, last: usize) {
        let border = self.logits[last];
        let mut kept = 0;
        for place in 0..self.tokens.len() {
            let logit = self.logits[place];
            if logit > border || (logit == border && place <= last) {
                self.tokens[kept] = self.tokens[place];
                self.logits[kept] = logit;
                self.weights[kept] = self.weights[place];
                kept += 1;
            }
        }
        self.tokens.truncate(kept);
        self.logits.truncate(kept);
        self.weights.truncate(kept);
    }

    fn draw_from_all(&self, logits: &[f32], filters: &Filters, mut drawn: u64) -> Option<TokenId> {
        for (place, (block, held)) in logits.chunks(BLOCK).zip(&self.weight_of).enumerate() {
            if drawn < *held {
                let weights = scan::weights(block, self.most, filters.scale);
                return position(&weights, drawn).map(|within| (place * BLOCK + within) as TokenId);
            }
            drawn -= held;
        }
        None
    }

    #[cfg(test)]
    pub(super) fn kept(&self) -> Vec<(TokenId, u32)> {
        self.tokens.iter().copied().zip(self.weights.iter().copied()).collect()
    }
}

/// Cuts a range of logits into buckets of equal width, the largest logits first.
struct Buckets {
    most: f32,
    step: f32,
}

impl Buckets {
    fn new(least: f32, most: f32) -> Buckets {
        // Halves: the difference of two logits may be more than 32 bits hold.
        Buckets { most: most / 2.0, step: (BUCKETS - 1) as f32 / (most / 2.0 - least / 2.0) }
    }

    /// A larger logit is never in a later bucket: subtraction and multiplication keep the order.
    fn of(&self, logit: f32) -> usize {
        (((self.most - logit / 2.0) * self.step) as usize).min(BUCKETS - 1)
    }
}

fn range(logits: impl Iterator<Item = f32>) -> (f32, f32) {
    logits.fold((f32::INFINITY, f32::NEG_INFINITY), |(least, most), logit| (least.min(logit), most.max(logit)))
}

fn sum(weights: &[u32]) -> u64 {
    weights.iter().map(|weight| u64::from(*weight)).sum()
}

fn descending(one: f32, other: f32) -> Ordering {
    other.partial_cmp(&one).unwrap_or(Ordering::Equal)
}

/// The part of a weight that top-p asks for: at least 1, so that one token is kept.
fn share(top_p: f64, total: u64) -> u64 {
    ((top_p * total as f64).ceil() as u64).clamp(1, total.max(1))
}

/// A random number from 0 to `limit`, which is left out. Off by less than one part in 2^16 even for the
/// largest sum of weights there can be.
pub(super) fn below(random: u64, limit: u64) -> u64 {
    ((u128::from(random) * u128::from(limit)) >> 64) as u64
}

/// Where in a row of weights the `drawn`-th unit lies.
fn position(weights: &[u32], mut drawn: u64) -> Option<usize> {
    weights.iter().position(|weight| {
        let weight = u64::from(*weight);
        let here = drawn < weight;
        drawn = drawn.saturating_sub(weight);
        here
    })
}
