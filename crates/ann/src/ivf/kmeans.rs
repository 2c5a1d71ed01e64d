//! k-means: centres that many points are near to (Lloyd, 1982; begun as in Arthur and Vassilvitskii, 2007).

use rand::{Rng, SeedableRng};
use rand_chacha::ChaCha8Rng;

use crate::kernels;

/// What is put into clusters: parts of rows.
pub(super) trait Points {
    fn len(&self) -> usize;
    fn dimensions(&self) -> usize;
    /// One point; empty where there is none of that number.
    fn point(&self, number: usize) -> &[f32];
}

/// Centres, `[count, dimensions]`, and half of each one's squared length.
#[derive(Clone, Debug, Default)]
pub(super) struct Centres {
    pub(super) values: Vec<f32>,
    pub(super) halves: Vec<f32>,
    pub(super) dimensions: usize,
}

impl Centres {
    pub(super) fn new(values: Vec<f32>, dimensions: usize) -> Centres {
        let mut centres = Centres { values, halves: Vec::new(), dimensions };
        centres.measure();
        centres
    }

    pub(super) fn len(&self) -> usize {
        self.halves.len()
    }

    pub(super) fn centre(&self, number: usize) -> &[f32] {
        let start = number * self.dimensions;
        self.values.get(start..start + self.dimensions).unwrap_or_default()
    }

    fn measure(&mut self) {
        self.halves =
            self.values.chunks_exact(self.dimensions.max(1)).map(|row| kernels::dot(row, row) / 2.0).collect();
    }

    /// Of these centres the nearest one, and how near: `p · c - |c|² / 2`, greater is nearer. Of two
    /// equally near the one that comes first; the first of all where no number can be compared.
    pub(super) fn nearest(&self, point: &[f32], among: impl Iterator<Item = usize>) -> (usize, f32) {
        let mut best = None;
        for centre in among {
            let half = self.halves.get(centre).copied().unwrap_or(f32::INFINITY);
            let near = kernels::dot(point, self.centre(centre)) - half;
            if best.is_none_or(|(_, nearest)| near > nearest) {
                best = Some((centre, near));
            }
        }
        best.unwrap_or((0, f32::NEG_INFINITY))
    }

    /// Moves each centre to the mean of its points. `near` says for each point its centre and how near
    /// it is. A centre without points takes that of another centre which is farthest from it.
    pub(super) fn move_to_means(&mut self, points: &impl Points, near: &[(usize, f32)]) {
        let (mut sums, mut counts) = (vec![0.0f64; self.values.len()], vec![0usize; self.len()]);
        for (number, (centre, _)) in near.iter().enumerate() {
            let start = centre * self.dimensions;
            let sum = sums.get_mut(start..start + self.dimensions).unwrap_or_default();
            sum.iter_mut().zip(points.point(number)).for_each(|(sum, value)| *sum += f64::from(*value));
            if let Some(count) = counts.get_mut(*centre) {
                *count += 1;
            }
        }
        let mut far = Far::new(points, near);
        for (centre, count) in counts.iter().enumerate() {
            let place = centre * self.dimensions..(centre + 1) * self.dimensions;
            let (Some(values), Some(sum)) = (self.values.get_mut(place.clone()), sums.get(place)) else { continue };
            if *count > 0 {
                let mean = sum.iter().map(|sum| (sum / *count as f64) as f32);
                values
                    .iter_mut()
                    .zip(mean)
                    .filter(|(_, mean)| mean.is_finite())
                    .for_each(|(value, mean)| *value = mean);
            } else if let Some(point) = far.next(&counts) {
                values.copy_from_slice(points.point(point));
            }
        }
        self.measure();
    }
}

/// Points, the farthest from its centre first; found only once one is asked for.
struct Far<'a, P> {
    points: &'a P,
    near: &'a [(usize, f32)],
    farthest_last: Option<Vec<usize>>,
}

impl<'a, P: Points> Far<'a, P> {
    fn new(points: &'a P, near: &'a [(usize, f32)]) -> Far<'a, P> {
        Far { points, near, farthest_last: None }
    }

    fn next(&mut self, counts: &[usize]) -> Option<usize> {
        let (points, near) = (self.points, self.near);
        let farthest_last = self.farthest_last.get_or_insert_with(|| {
            let distance = |number: usize| {
                let point = points.point(number);
                kernels::dot(point, point) - 2.0 * near.get(number).map_or(0.0, |(_, near)| *near)
            };
            let crowded = |number: &usize| near.get(*number).is_some_and(|(centre, _)| counts.get(*centre) > Some(&1));
            let mut all: Vec<(f32, usize)> =
                (0..near.len()).filter(crowded).map(|number| (distance(number), number)).collect();
            all.retain(|(distance, _)| distance.is_finite());
            all.sort_unstable_by(|a, b| a.0.total_cmp(&b.0).then(b.1.cmp(&a.1)));
            all.into_iter().map(|(_, number)| number).collect()
        });
        farthest_last.pop()
    }
}

/// Puts points into `count` clusters, or one for each where there are fewer points.
pub(super) fn cluster(points: &impl Points, count: usize, rounds: usize, seed: u64) -> Centres {
    let mut centres = Centres::new(scattered(points, count.min(points.len()), seed), points.dimensions());
    for _ in 0..rounds {
        let nearest = |number: usize| centres.nearest(points.point(number), 0..centres.len());
        let near: Vec<(usize, f32)> = (0..points.len()).map(nearest).collect();
        centres.move_to_means(points, &near);
    }
    centres
}

/// Points that lie apart: each next one is taken by chance, the likelier the farther from those before.
fn scattered(points: &impl Points, count: usize, seed: u64) -> Vec<f32> {
    let mut chance = ChaCha8Rng::seed_from_u64(seed);
    let mut values = Vec::with_capacity(count * points.dimensions());
    let mut distances = vec![f32::INFINITY; points.len()];
    let mut chosen = if points.len() == 0 { 0 } else { chance.random_range(0..points.len()) };
    for _ in 0..count {
        let centre = points.point(chosen);
        values.extend_from_slice(centre);
        let mut total = 0.0f64;
        for (number, distance) in distances.iter_mut().enumerate() {
            let to = kernels::squared_euclid(points.point(number), centre);
            // What cannot be compared is as good as taken.
            *distance = if to.is_finite() { distance.min(to) } else { 0.0 };
            total += f64::from(*distance);
        }
        let mut rest = chance.random::<f64>() * total;
        // Where all that is left is equal to what was taken, whichever comes next.
        chosen = if total > 0.0 { 0 } else { (chosen + 1) % points.len().max(1) };
        if total > 0.0 {
            for (number, distance) in distances.iter().enumerate() {
                if *distance > 0.0 {
                    chosen = number;
                    rest -= f64::from(*distance);
                    if rest <= 0.0 {
                        break;
                    }
                }
            }
        }
    }
    values
}
