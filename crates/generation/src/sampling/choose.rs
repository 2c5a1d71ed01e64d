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
            let bound = self.nucleus_bound(logits.len(), sum, filters);
            self.collect(logits, bound, filters);
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
            logits
                .chunks(BLOCK)
                .zip(&self.most_of)
                .map(|(block, most)| if *most < least { 0 } else { scan::weigh(block, self.most, filters.scale) }),
        );
        self.weight_of.iter().sum()
    }

    /// A logit below which no token is among the most probable ones that hold `top_p` of `sum`: all
    /// tokens of the weight `spare / tokens` and less together do not weigh more than is left over.
    fn nucleus_bound(&self, tokens: usize, sum: u64, filters: &Filters) -> f32 {
        let spare = (sum - share(filters.top_p, sum)) / tokens as u64;
        let power = if spare == 0 {
            WEIGHT_LEAST_LOG2
        } else {
            // The margin is a hundred times what the weights are off by.
            (spare as f32 / WEIGHT_MOST as f32).log2() - 1e-3
        };
        self.most + power / filters.scale
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
        self.weights.iter().map(|weight| u64::from(*weight)).sum()
    }

    /// Keeps the candidates with the largest logits, and of equal ones those with lower ids, until
    /// their measures make up `need`; all of them if they do not.
    fn keep_first(&mut self, mut need: u64, measure: impl Fn(u32) -> u64) {
        self.border.clear();
        self.border.extend(0..self.weights.len() as u32);
        loop {
            let mut logits = self.border.iter().map(|place| self.logits[*place as usize]);
            let Some(first) = logits.next() else { return };
            let (least, most) = logits.fold((first, first), |(least, most), x| (least.min(x), most.max(x)));
            if self.border.len() <= SORTED || least == most {
                break;
            }
            // The first and the last bucket have something in them, so the border gets smaller. In
            // 64 bits: the difference of two logits may be more than 32 bits hold.
            let step = (BUCKETS - 1) as f64 / (f64::from(most) - f64::from(least));
            let bucket = |logit: f32| ((f64::from(most) - f64::from(logit)) * step) as usize;
            let mut buckets = [0u64; BUCKETS];
            for place in &self.border {
                let place = *place as usize;
                buckets[bucket(self.logits[place]).min(BUCKETS - 1)] += measure(self.weights[place]);
            }
            let mut chosen = None;
            for (place, held) in buckets.into_iter().enumerate() {
                if need <= held {
                    chosen = Some(place);
                    break;
                }
                need -= held;
            }
            let Some(chosen) = chosen else { return };
            let logits = &self.logits;
            self.border.retain(|place| bucket(logits[*place as usize]).min(BUCKETS - 1) == chosen);
        }
        let logits = &self.logits;
        self.border.sort_by(|one, other| descending(logits[*one as usize], logits[*other as usize]));
        let last = self.border.iter().find(|place| {
            let held = measure(self.weights[**place as usize]);
            need = need.saturating_sub(held);
            need == 0
        });
        if let Some(last) = last.map(|place| *place as usize) {
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
                let mut weights = [0; BLOCK];
                for (weight, logit) in weights.iter_mut().zip(block) {
                    *weight = scan::weight(*logit, self.most, filters.scale);
                }
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
