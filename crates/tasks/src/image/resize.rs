//! Resizing as Pillow does it, level for level.
//!
//! Two passes, across and down, each a weighted mean of the pixels under a window that widens when the
//! image shrinks. Models are trained and tested with Pillow's levels, and where a model is unsure one level
//! more moves its score by a thousandth; so what Pillow rounds is rounded here, at the same places. Followed
//! is `Image.resize` of Pillow 13 (`src/libImaging/Resample.c`; of `Geometry.c` what it does for "nearest"):
//!
//! - windows, and weights as doubles, in the order of its arithmetic;
//! - weights rounded to 22 bits, half away from zero; sums in 32 bits; levels rounded after each pass;
//! - across first, or down first where the height loses more than twice the pixels that the width loses
//!   (new in 13; before it, always across first).
//!
//! Not `fast_image_resize`: its weights have 16 bits and it always goes down first, which makes a tenth to a
//! third of the levels differ, those of noise under Lanczos by up to 41.
//!
//! A part of the result is computed alone, from the rows and columns it needs, and is what cropping the
//! whole result would give. Beside the image and the result only the rows under one window are held, which
//! take less than the image: across comes first only where the width shrinks too, or a window has 7 rows.

use image::RgbImage;

use super::convolve::{self, Columns, ONE};
use super::spec::Filter;

/// One side of an image: its length, the length it is resized to, and the part of that which is wanted.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Axis {
    pub(crate) source: u32,
    pub(crate) resized: u32,
    pub(crate) start: u32,
    pub(crate) wanted: u32,
}

impl Axis {
    fn scale(self) -> f64 {
        f64::from(self.source) / f64::from(self.resized)
    }
}

/// For each place of a result along an axis, the places of the source under its window, and their weights.
pub(super) struct Weights {
    windows: Vec<(usize, usize)>,
    /// Of all windows, each at a multiple of `longest`; [`ONE`] is 1.
    values: Vec<i32>,
    longest: usize,
}

impl Weights {
    pub(super) fn new(filter: Filter, axis: Axis) -> Weights {
        let (support, kernel): (f64, fn(f64) -> f64) = match filter {
            Filter::Nearest => return Weights::nearest(axis),
            Filter::Bilinear => (1.0, bilinear),
            Filter::Bicubic => (2.0, bicubic),
            Filter::Lanczos => (3.0, lanczos),
        };
        let stretch = axis.scale().max(1.0);
        let (support, narrowed) = (support * stretch, 1.0 / stretch);
        let longest = (support.ceil() as usize * 2 + 1).min(axis.source as usize);
        let mut weights = Weights::with_capacity(axis, longest);
        let mut exact = Vec::with_capacity(longest);
        for place in axis.start..axis.start + axis.wanted {
            let centre = (f64::from(place) + 0.5) * axis.scale();
            // Casts cut fractions off, and what is below 0 to 0.
            let end = ((centre + support + 0.5) as usize).min(axis.source as usize);
            let first = ((centre - support + 0.5) as usize).min(end);
            exact.clear();
            exact.extend((first..end).map(|x| kernel((x as f64 - centre + 0.5) * narrowed)));
            let sum: f64 = exact.iter().sum();
            let fixed = exact.iter().map(|weight| {
                let weight = if sum == 0.0 { *weight } else { weight / sum } * f64::from(ONE);
                (weight + 0.5_f64.copysign(weight)) as i32
            });
            weights.push(first, fixed);
        }
        weights
    }

    /// Pillow adds the scale up from place to place, so that its error grows; so does this.
    fn nearest(axis: Axis) -> Weights {
        let mut weights = Weights::with_capacity(axis, 1);
        let mut centre = axis.scale() * 0.5;
        for place in 0..axis.start + axis.wanted {
            if place >= axis.start {
                weights.push((centre as usize).min(axis.source as usize - 1), [ONE]);
            }
            centre += axis.scale();
        }
        weights
    }

    fn with_capacity(axis: Axis, longest: usize) -> Weights {
        let places = axis.wanted as usize;
        Weights { windows: Vec::with_capacity(places), values: Vec::with_capacity(places * longest), longest }
    }

    fn push(&mut self, first: usize, values: impl IntoIterator<Item = i32>) {
        let start = self.values.len();
        self.values.extend(values);
        self.windows.push((first, self.values.len() - start));
        self.values.resize(start + self.longest, 0);
    }

    /// The first place under each window, and the weights from there on.
    pub(super) fn windows(&self) -> impl Iterator<Item = (usize, &[i32])> {
        let values = self.values.chunks_exact(self.longest);
        self.windows.iter().zip(values).map(|((first, count), values)| (*first, &values[..*count]))
    }

    /// The first place under any window, and the place behind the last. Windows only move forward.
    pub(super) fn reach(&self) -> (usize, usize) {
        let first = self.windows.first().map_or(0, |(first, _)| *first);
        (first, self.windows.last().map_or(first, |(first, count)| first + count))
    }
}

fn bilinear(x: f64) -> f64 {
    (1.0 - x.abs()).max(0.0)
}

/// Keys' cubic with a = -1/2.
fn bicubic(x: f64) -> f64 {
    const A: f64 = -0.5;
    match x.abs() {
        x if x < 1.0 => ((A + 2.0) * x - (A + 3.0)) * x * x + 1.0,
        x if x < 2.0 => (((x - 5.0) * x + 8.0) * x - 4.0) * A,
        _ => 0.0,
    }
}

fn lanczos(x: f64) -> f64 {
    if x.abs() < 3.0 { sinc(x) * sinc(x / 3.0) } else { 0.0 }
}

fn sinc(x: f64) -> f64 {
    let turned = x * std::f64::consts::PI;
    if turned == 0.0 { 1.0 } else { turned.sin() / turned }
}

/// Whether the pass down comes before the pass across.
fn down_first(x: Axis, y: Axis) -> bool {
    let lost = |axis: Axis| i64::from(axis.source) - i64::from(axis.resized);
    lost(y) > 0 && lost(y) > 2 * lost(x)
}

/// The wanted part of the resized image, `[height, width, rgb]`.
pub(crate) fn resize(image: &RgbImage, filter: Filter, x: Axis, y: Axis) -> Vec<u8> {
    let rows = Weights::new(filter, y);
    let columns = Columns::new(Weights::new(filter, x));
    let (left, right) = columns.reach();
    let stride = image.width() as usize * 3;
    // Of a row, the levels that any window covers.
    let source = |row: usize| &image.as_raw()[row * stride..][left * 3..right * 3];
    let width = x.wanted as usize * 3;
    let mut line = columns.line();
    let mut result = vec![0; width * y.wanted as usize];
    let results = rows.windows().zip(result.chunks_exact_mut(width));

    if down_first(x, y) {
        let mut sums = vec![0; source(0).len()];
        for ((first, weights), result) in results {
            convolve::down(weights, |row| source(first + row), &mut sums, &mut line);
            columns.across(&line, result);
        }
    } else {
        let mut sums = vec![0; width];
        // Row `n` of the source, when it has gone through the pass across, is held at `n` modulo the rows held.
        let mut held = vec![0; width * rows.longest];
        let place = |row: usize| row % rows.longest * width;
        let mut done = 0;
        for ((first, weights), result) in results {
            for row in first.max(done)..first + weights.len() {
                let start = row * stride + left * 3;
                // Only the last rows lack, behind them, what a line has.
                let levels = image.as_raw().get(start..start + line.len()).unwrap_or_else(|| {
                    line[..source(row).len()].copy_from_slice(source(row));
                    &line
                });
                columns.across(levels, &mut held[place(row)..][..width]);
            }
            done = first + weights.len();
            convolve::down(weights, |row| &held[place(first + row)..][..width], &mut sums, result);
        }
    }
    result
}
