//! The rows that are searched, and what is found among them.

/// What makes two vectors near.
///
/// Whoever wants cosine similarity normalises rows and queries to length 1, and asks for [`Dot`](Metric::Dot).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Metric {
    /// The dot product `q · v`; it is the similarity.
    Dot,
    /// The distance of Euclid; the similarity is `-|q - v|²`.
    Euclid,
}

/// A table of vectors, `[rows, dimensions]`, row after row.
#[derive(Clone, Copy, Debug)]
pub struct Rows<'a> {
    values: &'a [f32],
    dimensions: usize,
}

impl<'a> Rows<'a> {
    /// The table that `values` holds; what does not make a whole row at the end is left out.
    ///
    /// No dimensions, or more rows than a `u32` can number, make an empty table.
    #[must_use]
    pub fn new(values: &'a [f32], dimensions: usize) -> Rows<'a> {
        let count = values.len().checked_div(dimensions).filter(|count| u32::try_from(*count).is_ok()).unwrap_or(0);
        Rows { values: values.get(..count * dimensions).unwrap_or_default(), dimensions }
    }

    /// How many rows there are.
    #[must_use]
    pub fn len(&self) -> usize {
        self.values.len().checked_div(self.dimensions).unwrap_or(0)
    }

    /// Whether there are none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.values.is_empty()
    }

    /// How many numbers a row has.
    #[must_use]
    pub fn dimensions(&self) -> usize {
        self.dimensions
    }

    /// All numbers, row after row.
    #[must_use]
    pub fn values(&self) -> &'a [f32] {
        self.values
    }

    /// One row; empty where there is none of that number.
    #[must_use]
    pub fn row(&self, row: u32) -> &'a [f32] {
        let start = row as usize * self.dimensions;
        self.values.get(start..start + self.dimensions).unwrap_or_default()
    }
}

/// A row that was found.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Found {
    /// Its number.
    pub row: u32,
    /// How near it is, computed on the row itself: greater is nearer.
    pub similarity: f32,
}
