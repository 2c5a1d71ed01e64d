//! Queries by examples: from points and vectors that are named to a score for every other.

use std::sync::Arc;

use halny_payload::PointId;

use super::{Lookup, Query, VectorInput};
use crate::{Distance, Points, VectorConfig, VectorsError};

/// The least difference that counts: that of two 32-bit numbers at 1.
const EPSILON: f32 = f32::EPSILON;
/// The most examples of one query: every point of the collection is compared with each.
const EXAMPLES_MAX: usize = 1_000;

/// How good and bad examples are weighed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Strategy {
    /// The mean of the good ones, as far again from the mean of the bad ones: one vector, which is looked for.
    #[default]
    AverageVector,
    /// How near the nearest good one is, if no bad one is nearer.
    BestScore,
    /// The sum of the scores with the good ones less that with the bad ones.
    SumScores,
}

/// A good and a bad example.
#[derive(Clone, Debug, PartialEq)]
pub struct Pair<T> {
    /// The good one.
    pub positive: T,
    /// The bad one.
    pub negative: T,
}

/// What a query looks for.
pub(super) struct Aim {
    pub(super) goal: Goal,
    /// Points of the collection that the query names: they are not among the results.
    pub(super) mentioned: Vec<PointId>,
}

/// The score of a vector: greater is better.
type Score = Box<dyn Fn(&[f32]) -> f32>;

pub(super) enum Goal {
    /// What is near this.
    Near(Arc<[f32]>),
    /// What has the greatest score.
    Best(Score),
}

/// Where examples are taken from.
pub(super) struct Examples<'a> {
    pub(super) space: &'a dyn Points,
    pub(super) using: &'a str,
    pub(super) lookup: Option<&'a Lookup>,
}

impl Examples<'_> {
    pub(super) fn aim(&self, query: &Query) -> Result<Aim, VectorsError> {
        let mut mentioned = Vec::new();
        let goal = self.goal(query, &mut mentioned)?;
        Ok(Aim { goal, mentioned })
    }

    fn goal(&self, query: &Query, mentioned: &mut Vec<PointId>) -> Result<Goal, VectorsError> {
        let config = self.space.config();
        let config = config.vector(self.using)?;
        let distance = config.distance;
        match query {
            Query::Nearest(input) => Ok(Goal::Near(self.vector(input, mentioned)?.into())),
            Query::Recommend { positive, negative, strategy } => {
                let named = positive.len() + negative.len();
                if named == 0 || (*strategy == Strategy::AverageVector && positive.is_empty()) {
                    let text = "a recommendation needs at least one example in `positive`";
                    return Err(VectorsError::Invalid(text.to_owned()));
                }
                if *strategy == Strategy::AverageVector {
                    // As they are given: what is longer counts for more.
                    let positive = self.vectors(positive, mentioned, Self::given)?;
                    let negative = self.vectors(negative, mentioned, Self::given)?;
                    return average(config, &positive, &negative).map(|vector| Goal::Near(vector.into()));
                }
                let positive = self.vectors(positive, mentioned, Self::vector)?;
                let negative = self.vectors(negative, mentioned, Self::vector)?;
                Ok(recommending(distance, *strategy, positive, negative))
            }
            Query::Discover { target, context } => {
                let target = self.vector(target, mentioned)?;
                let pairs = self.pairs(context, mentioned)?;
                Ok(Goal::Best(Box::new(move |vector| {
                    let rank = |pair: &Pair<Vec<f32>>| {
                        let (good, bad) = similarities(distance, pair, vector);
                        if good > bad {
                            1.0
                        } else if good < bad {
                            -1.0
                        } else {
                            0.0
                        }
                    };
                    pairs.iter().map(rank).sum::<f32>() + scaled_sigmoid(similarity(distance, &target, vector))
                })))
            }
            Query::Context(context) => {
                let pairs = self.pairs(context, mentioned)?;
                Ok(Goal::Best(Box::new(move |vector| {
                    let loss = |pair: &Pair<Vec<f32>>| {
                        let (good, bad) = similarities(distance, pair, vector);
                        sigmoid((good - bad - EPSILON).min(0.0))
                    };
                    pairs.iter().map(loss).sum()
                })))
            }
            Query::OrderBy(_) | Query::Fusion(_) | Query::Sample => {
                Err(VectorsError::Invalid("this query has no examples".to_owned()))
            }
        }
    }

    fn vectors(
        &self,
        inputs: &[VectorInput],
        mentioned: &mut Vec<PointId>,
        vector: impl Fn(&Self, &VectorInput, &mut Vec<PointId>) -> Result<Vec<f32>, VectorsError>,
    ) -> Result<Vec<Vec<f32>>, VectorsError> {
        if inputs.len() > EXAMPLES_MAX {
            let text = format!("a query has at most {EXAMPLES_MAX} examples, this one {}", inputs.len());
            return Err(VectorsError::Invalid(text));
        }
        inputs.iter().map(|input| vector(self, input, mentioned)).collect()
    }

    fn pairs(
        &self,
        context: &[Pair<VectorInput>],
        mentioned: &mut Vec<PointId>,
    ) -> Result<Vec<Pair<Vec<f32>>>, VectorsError> {
        if context.len() > EXAMPLES_MAX {
            let text = format!("a query has at most {EXAMPLES_MAX} pairs, this one {}", context.len());
            return Err(VectorsError::Invalid(text));
        }
        let pair = |pair: &Pair<VectorInput>| {
            let positive = self.vector(&pair.positive, mentioned)?;
            Ok(Pair { positive, negative: self.vector(&pair.negative, mentioned)? })
        };
        context.iter().map(pair).collect()
    }

    /// The vector that an input means, as it would be stored.
    fn vector(&self, input: &VectorInput, mentioned: &mut Vec<PointId>) -> Result<Vec<f32>, VectorsError> {
        let mut vector = self.given(input, mentioned)?;
        self.space.config().prepare_one(self.using, &mut vector)?;
        Ok(vector)
    }

    /// The vector that an input means, as it is given.
    fn given(&self, input: &VectorInput, mentioned: &mut Vec<PointId>) -> Result<Vec<f32>, VectorsError> {
        let vector = match (input, self.lookup) {
            (VectorInput::Vector(vector), _) => vector.clone(),
            (VectorInput::Id(id), Some(lookup)) => lookup.space.vector_of(id, &lookup.vector)?,
            (VectorInput::Id(id), None) => {
                mentioned.push(*id);
                self.space.vector_of(id, self.using)?
            }
        };
        self.space.config().check_one(self.using, &vector)?;
        Ok(vector)
    }
}

fn average(config: &VectorConfig, positive: &[Vec<f32>], negative: &[Vec<f32>]) -> Result<Vec<f32>, VectorsError> {
    let mean = |vectors: &[Vec<f32>], place: usize| {
        let sum: f32 = vectors.iter().filter_map(|vector| vector.get(place)).sum();
        sum / vectors.len() as f32
    };
    let value = |place| match mean(positive, place) {
        good if negative.is_empty() => good,
        good => good + good - mean(negative, place),
    };
    let mut vector: Vec<f32> = (0..config.dimensions).map(value).collect();
    if vector.iter().any(|value| !value.is_finite()) {
        return Err(VectorsError::Invalid("the mean of these examples is too large for a number".to_owned()));
    }
    config.distance.prepare(&mut vector);
    Ok(vector)
}

fn recommending(distance: Distance, strategy: Strategy, positive: Vec<Vec<f32>>, negative: Vec<Vec<f32>>) -> Goal {
    let best = move |examples: &[Vec<f32>], vector: &[f32]| {
        examples.iter().map(|example| similarity(distance, example, vector)).fold(f32::NEG_INFINITY, f32::max)
    };
    let sum = move |examples: &[Vec<f32>], vector: &[f32]| -> f32 {
        examples.iter().map(|example| similarity(distance, example, vector)).sum()
    };
    Goal::Best(match strategy {
        Strategy::SumScores => Box::new(move |vector| sum(&positive, vector) - sum(&negative, vector)),
        _ => Box::new(move |vector| match (best(&positive, vector), best(&negative, vector)) {
            (good, bad) if good > bad => scaled_sigmoid(good),
            (_, bad) => -scaled_sigmoid(bad),
        }),
    })
}

fn similarities(distance: Distance, pair: &Pair<Vec<f32>>, vector: &[f32]) -> (f32, f32) {
    (similarity(distance, &pair.positive, vector), similarity(distance, &pair.negative, vector))
}

/// How near, where greater is nearer: for the distance of Euclid the negative of its square.
fn similarity(distance: Distance, a: &[f32], b: &[f32]) -> f32 {
    halny_ann::similarity(distance.metric(), a, b)
}

fn sigmoid(x: f32) -> f32 {
    x / (1.0 + x.abs())
}

fn scaled_sigmoid(x: f32) -> f32 {
    0.5 * (sigmoid(x) + 1.0)
}
