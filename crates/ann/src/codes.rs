//! Rows in bytes: every number of a row as a whole number from -127 to 127 times the row's own scale.

use crate::{Metric, Rows, kernels};

/// Bytes of a cache line: a row begins with one.
const LINE: usize = 64;

/// Rows in bytes.
#[derive(Clone, Debug, Default, PartialEq)]
pub(crate) struct Codes {
    /// `[rows, stride]`, zeros behind the numbers of a row.
    pub(crate) table: Vec<i8>,
    /// What a step of a row's numbers is worth.
    pub(crate) scales: Vec<f32>,
    /// The square of each row's length; nothing where only dot products are wanted.
    pub(crate) norms: Vec<f32>,
    pub(crate) stride: usize,
}

/// A query in bytes.
#[derive(Debug, Default)]
pub(crate) struct CodedQuery {
    pub(crate) codes: Vec<i8>,
    pub(crate) scale: f32,
    norm: f32,
}

/// How long a row of so many dimensions is in the table.
pub(crate) fn stride(dimensions: usize) -> usize {
    dimensions.div_ceil(LINE) * LINE
}

impl Codes {
    /// Puts the rows that `which` names into bytes, in its order.
    pub(crate) fn of(rows: Rows<'_>, metric: Metric, which: impl ExactSizeIterator<Item = u32>) -> Codes {
        let stride = stride(rows.dimensions());
        let mut codes = Codes { stride, ..Codes::default() };
        codes.table.reserve_exact(stride * which.len());
        which.for_each(|row| codes.push(rows.row(row), metric));
        codes
    }

    /// Puts one more row into bytes.
    pub(crate) fn push(&mut self, row: &[f32], metric: Metric) {
        let scale = append(row, self.stride, &mut self.table);
        self.scales.push(scale);
        if metric == Metric::Euclid {
            self.norms.push(kernels::dot(row, row));
        }
    }

    /// How near a row seems, of the product of its bytes with those of the query.
    pub(crate) fn similarity(&self, query: &CodedQuery, row: u32, product: i32) -> f32 {
        let row = row as usize;
        let dot = product as f32 * query.scale * self.scales.get(row).copied().unwrap_or(0.0);
        match self.norms.get(row) {
            Some(norm) => 2.0 * dot - norm - query.norm,
            None => dot,
        }
    }

    pub(crate) fn row(&self, row: u32) -> &[i8] {
        let start = row as usize * self.stride;
        self.table.get(start..start + self.stride).unwrap_or_default()
    }

    pub(crate) fn memory_bytes(&self) -> usize {
        self.table.len() + (self.scales.len() + self.norms.len()) * 4
    }
}

impl CodedQuery {
    /// Puts a query into bytes, in the place of the one that was there.
    pub(crate) fn set(&mut self, query: &[f32], stride: usize) {
        self.codes.clear();
        self.scale = append(query, stride, &mut self.codes);
        self.norm = kernels::dot(query, query);
    }
}

/// Appends a row's bytes; gives what a step of them is worth.
fn append(row: &[f32], stride: usize, table: &mut Vec<i8>) -> f32 {
    let greatest = row.iter().fold(0.0f32, |greatest, value| greatest.max(value.abs()));
    let scale = if greatest > 0.0 && greatest.is_finite() { greatest / 127.0 } else { 1.0 };
    let end = table.len() + stride;
    // A number that is none becomes 0, and an infinite one the greatest: `as` saturates.
    table.extend(row.iter().map(|value| (value / scale).round() as i8));
    table.resize(end, 0);
    scale
}
