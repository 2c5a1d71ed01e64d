//! Lists as bytes, which are searched where they lie. What is opened is a stranger's: what it says is
//! checked before it is used, and what cannot be checked leads nowhere but to a wrong row.

use std::io::{self, Write};
use std::ops::Range;

use bytes::{Buf, Bytes};

use super::Ivf;
use super::blocks::{LANES, block_bytes};
use super::quantiser::{CodeBits, Parts};
use crate::codes::stride;
use crate::{Malformed, Metric};

const MAGIC: &[u8; 16] = b"halny ivf 1\n\0\0\0\0";
/// Sections begin at a multiple of it.
const LINE: usize = 64;

/// What there is, and from it where it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Sizes {
    pub(super) metric: Metric,
    pub(super) parts: Parts,
    pub(super) rows: usize,
    /// Rows that differ.
    pub(super) entries: usize,
    pub(super) lists: usize,
}

/// Where the sections are.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Sections {
    pub(super) codebooks: Range<usize>,
    pub(super) list_starts: Range<usize>,
    /// Centres of lists in bytes, what a step of each is worth, and the squares of their lengths.
    pub(super) centres: Range<usize>,
    pub(super) scales: Range<usize>,
    pub(super) norms: Range<usize>,
    pub(super) row_starts: Range<usize>,
    pub(super) rows: Range<usize>,
    pub(super) blocks: Range<usize>,
    pub(super) terms: Range<usize>,
    pub(super) end: usize,
}

/// The sections' contents when they are written.
pub(super) struct Contents<'a> {
    pub(super) codebooks: &'a [f32],
    pub(super) list_starts: &'a [u32],
    pub(super) centres: &'a [i8],
    pub(super) scales: &'a [f32],
    pub(super) norms: &'a [f32],
    pub(super) row_starts: &'a [u32],
    pub(super) rows: &'a [u32],
    pub(super) blocks: &'a [u8],
    pub(super) terms: &'a [f32],
}

impl Sizes {
    /// Where sections are; nothing when that is no number.
    pub(super) fn sections(&self) -> Option<Sections> {
        let mut end: usize = LINE * 2;
        let mut section = |count: usize, bytes: usize| {
            let start = end.checked_next_multiple_of(LINE)?;
            end = start.checked_add(count.checked_mul(bytes)?)?;
            Some(start..end)
        };
        let block = block_bytes(self.parts);
        let terms = |count: usize| if self.metric == Metric::Euclid { count } else { 0 };
        Some(Sections {
            codebooks: section(self.parts.dimensions.checked_mul(self.parts.bits.centres())?, 4)?,
            list_starts: section(self.lists.checked_add(1)?, 4)?,
            centres: section(self.lists, stride(self.parts.dimensions))?,
            scales: section(self.lists, 4)?,
            norms: section(terms(self.lists), 4)?,
            row_starts: section(self.entries.checked_add(1)?, 4)?,
            rows: section(self.rows, 4)?,
            blocks: section(self.entries.div_ceil(LANES), block)?,
            terms: section(terms(self.entries), 4)?,
            end,
        })
    }

    fn numbers(&self) -> [u64; 7] {
        let metric = if self.metric == Metric::Dot { 0 } else { 1 };
        let bits = if self.parts.bits == CodeBits::Four { 4 } else { 8 };
        let sizes = [self.parts.dimensions, self.parts.count, self.rows, self.entries, self.lists];
        let [dimensions, parts, rows, entries, lists] = sizes.map(|size| size as u64);
        [metric, bits, dimensions, parts, rows, entries, lists]
    }

    fn read(mut head: &[u8]) -> Option<Sizes> {
        let mut number = || usize::try_from(head.try_get_u64_le().ok()?).ok();
        let metric = match number()? {
            0 => Metric::Dot,
            1 => Metric::Euclid,
            _ => return None,
        };
        let bits = match number()? {
            4 => CodeBits::Four,
            8 => CodeBits::Eight,
            _ => return None,
        };
        let (dimensions, count, rows, entries, lists) = (number()?, number()?, number()?, number()?, number()?);
        let counted = dimensions <= 1 << 24
            && rows <= u32::MAX as usize
            && entries <= rows
            && lists <= entries
            && count <= dimensions;
        counted.then_some(Sizes { metric, parts: Parts { dimensions, count, bits }, rows, entries, lists })
    }
}

/// Bytes that begin at a cache line, as those of a mapped file do.
#[derive(Clone, Copy, bytemuck::Pod, bytemuck::Zeroable)]
#[repr(C, align(64))]
struct Line([u8; LINE]);

struct Lines {
    lines: Vec<Line>,
    length: usize,
}

impl AsRef<[u8]> for Lines {
    fn as_ref(&self) -> &[u8] {
        bytemuck::cast_slice(&self.lines).get(..self.length).unwrap_or_default()
    }
}

impl Lines {
    fn new(length: usize) -> Lines {
        Lines { lines: vec![Line([0; LINE]); length.div_ceil(LINE)], length }
    }

    fn set(&mut self, start: usize, bytes: &[u8]) {
        let all: &mut [u8] = bytemuck::cast_slice_mut(&mut self.lines);
        if let Some(into) = all.get_mut(start..start + bytes.len()) {
            into.copy_from_slice(bytes);
        }
    }
}

impl Ivf {
    /// Puts what was built into the bytes that it is searched in.
    pub(super) fn assemble(sizes: Sizes, contents: &Contents<'_>) -> Option<Ivf> {
        let sections = sizes.sections()?;
        let mut lines = Lines::new(sections.end);
        lines.set(0, MAGIC);
        let head: Vec<u8> = sizes.numbers().iter().flat_map(|number| number.to_le_bytes()).collect();
        lines.set(MAGIC.len(), &head);
        lines.set(sections.codebooks.start, bytemuck::cast_slice(contents.codebooks));
        lines.set(sections.list_starts.start, bytemuck::cast_slice(contents.list_starts));
        lines.set(sections.centres.start, bytemuck::cast_slice(contents.centres));
        lines.set(sections.scales.start, bytemuck::cast_slice(contents.scales));
        lines.set(sections.norms.start, bytemuck::cast_slice(contents.norms));
        lines.set(sections.row_starts.start, bytemuck::cast_slice(contents.row_starts));
        lines.set(sections.rows.start, bytemuck::cast_slice(contents.rows));
        lines.set(sections.blocks.start, contents.blocks);
        lines.set(sections.terms.start, bytemuck::cast_slice(contents.terms));
        Some(Ivf { bytes: Bytes::from_owner(lines), sizes, sections })
    }

    /// Writes it, with a checksum at its end.
    ///
    /// # Errors
    /// What `into` says.
    pub fn write_to(&self, into: &mut impl Write) -> io::Result<()> {
        into.write_all(&self.bytes)?;
        into.write_all(&crc32fast::hash(&self.bytes).to_le_bytes())
    }

    /// Opens what [`Ivf::write_to`] wrote. It is searched in these bytes, a mapped file for instance;
    /// only if they do not begin at a multiple of four bytes they are copied.
    ///
    /// # Errors
    /// [`Malformed`] when they are anything else.
    pub fn open(bytes: Bytes) -> Result<Ivf, Malformed> {
        let refused = || Malformed::new("lists of codes");
        let (content, crc) = bytes.split_last_chunk::<4>().ok_or_else(refused)?;
        if u32::from_le_bytes(*crc) != crc32fast::hash(content) {
            return Err(refused());
        }
        let head = content.strip_prefix(MAGIC.as_slice()).ok_or_else(refused)?;
        let sizes = Sizes::read(head).ok_or_else(refused)?;
        let sections = sizes.sections().filter(|sections| sections.end == content.len()).ok_or_else(refused)?;
        let bytes = if bytemuck::try_cast_slice::<u8, u32>(content.get(..LINE).unwrap_or_default()).is_ok() {
            bytes.slice(..content.len())
        } else {
            let mut lines = Lines::new(content.len());
            lines.set(0, content);
            Bytes::from_owner(lines)
        };
        let ivf = Ivf { bytes, sizes, sections };
        if ivf.is_sound() { Ok(ivf) } else { Err(refused()) }
    }

    /// Whether every number in it leads to something that is there.
    fn is_sound(&self) -> bool {
        let ascending = |starts: &[u32], end: usize| {
            starts.first() == Some(&0)
                && starts.windows(2).all(|pair| matches!(pair, [a, b] if a <= b))
                && starts.last().is_some_and(|last| *last as usize == end)
        };
        ascending(self.words(&self.sections.list_starts), self.sizes.entries)
            && ascending(self.words(&self.sections.row_starts), self.sizes.rows)
            && self.words(&self.sections.rows).iter().all(|row| (*row as usize) < self.sizes.rows)
    }

    pub(super) fn section(&self, section: &Range<usize>) -> &[u8] {
        self.bytes.get(section.clone()).unwrap_or_default()
    }

    pub(super) fn words(&self, section: &Range<usize>) -> &[u32] {
        bytemuck::try_cast_slice(self.section(section)).unwrap_or_default()
    }

    pub(super) fn floats(&self, section: &Range<usize>) -> &[f32] {
        bytemuck::try_cast_slice(self.section(section)).unwrap_or_default()
    }
}
