//! A graph as bytes, and back. What comes back is a stranger's: every number is checked before it is used.

use std::io::{self, Write};

use bytes::{Buf, Bytes};
use half::f16;

use super::{Graph, Numbers};
use crate::codes::{Codes, stride};
use crate::{Malformed, Metric};

const MAGIC: &[u8; 16] = b"halny hnsw 1\n\0\0\0";

impl Graph {
    /// Writes it, with a checksum at its end.
    ///
    /// # Errors
    /// What `into` says.
    pub fn write_to(&self, into: &mut impl Write) -> io::Result<()> {
        let mut checked = Checked { into, crc: crc32fast::Hasher::new() };
        checked.write_all(MAGIC)?;
        let metric = if self.metric == Metric::Dot { 0u64 } else { 1 };
        let numbers = match &self.numbers {
            Numbers::Rows => 0u64,
            Numbers::Half(_) => 1,
            Numbers::Codes(_) => 2,
        };
        let sizes = [self.rows, self.dimensions, self.m, self.entry as usize, self.top, self.nodes(), self.upper.len()];
        for value in [metric, numbers].into_iter().chain(sizes.map(|size| size as u64)) {
            checked.write_all(&value.to_le_bytes())?;
        }
        for table in [&self.base, &self.upper_starts, &self.upper, &self.row_starts, &self.node_rows] {
            checked.write_all(bytemuck::cast_slice(table))?;
        }
        match &self.numbers {
            Numbers::Rows => {}
            Numbers::Half(half) => checked.write_all(bytemuck::cast_slice(half))?,
            Numbers::Codes(codes) => {
                checked.write_all(bytemuck::cast_slice(&codes.table))?;
                checked.write_all(bytemuck::cast_slice(&codes.scales))?;
                checked.write_all(bytemuck::cast_slice(&codes.norms))?;
            }
        }
        let crc = checked.crc.finalize();
        into.write_all(&crc.to_le_bytes())
    }

    /// Reads what [`Graph::write_to`] wrote.
    ///
    /// # Errors
    /// [`Malformed`] when it is anything else.
    pub fn open(bytes: Bytes) -> Result<Graph, Malformed> {
        let refused = || Malformed::new("a graph");
        let (content, crc) = bytes.split_last_chunk::<4>().ok_or_else(refused)?;
        if u32::from_le_bytes(*crc) != crc32fast::hash(content) {
            return Err(refused());
        }
        let graph = read(content).ok_or_else(refused)?;
        if graph.is_sound() { Ok(graph) } else { Err(refused()) }
    }

    /// Whether every number in it leads to something that is there.
    fn is_sound(&self) -> bool {
        let nodes = self.nodes();
        let ascending = |starts: &[u32], end: usize| {
            starts.first() == Some(&0)
                && starts.windows(2).all(|pair| matches!(pair, [a, b] if a <= b))
                && starts.last().is_some_and(|last| *last as usize == end)
        };
        let lists = |table: &[u32], width: usize| {
            table.chunks_exact(1 + width).all(|list| match list.split_first() {
                Some((count, list)) => {
                    *count as usize <= width && list.iter().take(*count as usize).all(|node| (*node as usize) < nodes)
                }
                None => false,
            })
        };
        let width = 1 + self.m;
        let layers = |node: usize| match (self.upper_starts.get(node), self.upper_starts.get(node + 1)) {
            (Some(start), Some(end)) => end.saturating_sub(*start) as usize / width,
            _ => 0,
        };
        let entry_is_there = nodes == 0 || ((self.entry as usize) < nodes && layers(self.entry as usize) >= self.top);
        ascending(&self.row_starts, self.node_rows.len())
            && ascending(&self.upper_starts, self.upper.len())
            && self.upper_starts.iter().all(|start| (*start as usize).is_multiple_of(width))
            && lists(&self.base, 2 * self.m)
            && lists(&self.upper, self.m)
            && self.node_rows.iter().all(|row| (*row as usize) < self.rows)
            && entry_is_there
    }
}

fn read(mut content: &[u8]) -> Option<Graph> {
    content = content.strip_prefix(MAGIC.as_slice())?;
    let mut number = || usize::try_from(content.try_get_u64_le().ok()?).ok();
    let (metric, kind) = (number()?, number()?);
    let (rows, dimensions, m, entry, top) = (number()?, number()?, number()?, number()?, number()?);
    let (nodes, upper) = (number()?, number()?);
    // What is behind has to be as long as this says, so that nothing is set aside on its word alone.
    if m == 0 || m > 4_096 || top > 64 || nodes > rows || rows > u32::MAX as usize {
        return None;
    }
    let base = words(&mut content, nodes.checked_mul(1 + 2 * m)?)?;
    let upper_starts = words(&mut content, nodes.checked_add(1)?)?;
    let upper = words(&mut content, upper)?;
    let row_starts = words(&mut content, nodes + 1)?;
    let node_rows = words(&mut content, rows)?;
    let numbers = match kind {
        0 => Numbers::Rows,
        1 => Numbers::Half(
            values::<u16>(&mut content, nodes.checked_mul(dimensions)?)?.into_iter().map(f16::from_bits).collect(),
        ),
        2 => {
            let stride = stride(dimensions);
            let table = values::<i8>(&mut content, nodes.checked_mul(stride)?)?;
            let scales = values::<f32>(&mut content, nodes)?;
            let norms = values::<f32>(&mut content, if metric == 0 { 0 } else { nodes })?;
            Numbers::Codes(Codes { table, scales, norms, stride })
        }
        _ => return None,
    };
    let metric = match metric {
        0 => Metric::Dot,
        1 => Metric::Euclid,
        _ => return None,
    };
    let entry = u32::try_from(entry).ok()?;
    let graph =
        Graph { metric, rows, dimensions, m, entry, top, base, upper_starts, upper, row_starts, node_rows, numbers };
    content.is_empty().then_some(graph)
}

fn words(content: &mut &[u8], count: usize) -> Option<Vec<u32>> {
    values(content, count)
}

fn values<T: bytemuck::Pod>(content: &mut &[u8], count: usize) -> Option<Vec<T>> {
    let (bytes, rest) = content.split_at_checked(count.checked_mul(size_of::<T>())?)?;
    *content = rest;
    // The bytes may lie anywhere, the values not.
    let mut values = vec![T::zeroed(); count];
    bytemuck::cast_slice_mut(&mut values).copy_from_slice(bytes);
    Some(values)
}

/// Writes and keeps the checksum of what was written.
struct Checked<'a, W> {
    into: &'a mut W,
    crc: crc32fast::Hasher,
}

impl<W: Write> Write for Checked<'_, W> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let count = self.into.write(bytes)?;
        self.crc.update(bytes.get(..count).unwrap_or_default());
        Ok(count)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.into.flush()
    }
}
