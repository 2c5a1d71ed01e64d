//! A file of an object store, read in pieces by code that blocks.
//!
//! Parquet's own reader for object stores fetches every wanted column of a row group whole, which for a row group of a
//! million rows is hundreds of megabytes. This one fetches pages as they are read, and keeps a few pieces around them.

use std::collections::VecDeque;
use std::io::Read;
use std::sync::Arc;

use bytes::{Buf, Bytes, BytesMut};
use object_store::path::Path;
use object_store::{ObjectStore, ObjectStoreExt};
use parking_lot::Mutex;
use parquet::errors::{ParquetError, Result};
use parquet::file::reader::{ChunkReader, Length};
use tokio::runtime::Handle;

/// One piece: what S3 answers about as fast as less.
const PIECE_BYTES: u64 = 256 << 10;
/// Pieces that are kept: 4 MiB.
const PIECES_KEPT: usize = 16;

/// A file of an object store. Its methods block: they are for threads that may.
#[derive(Clone)]
pub(crate) struct Chunks(Arc<Inside>);

struct Inside {
    store: Arc<dyn ObjectStore>,
    path: Path,
    bytes: u64,
    runtime: Handle,
    /// The pieces that were read last, by number.
    kept: Mutex<VecDeque<(u64, Bytes)>>,
}

impl Chunks {
    pub(crate) fn new(store: Arc<dyn ObjectStore>, path: Path, bytes: u64, runtime: Handle) -> Chunks {
        Chunks(Arc::new(Inside { store, path, bytes, runtime, kept: Mutex::default() }))
    }

    fn fetch(&self, start: u64, end: u64) -> Result<Bytes> {
        let inside = &self.0;
        if start > end || end > inside.bytes {
            return Err(ParquetError::EOF("the file ends before what it says is in it".to_owned()));
        }
        let read = inside.store.get_range(&inside.path, start..end);
        inside.runtime.block_on(read).map_err(|error| ParquetError::External(Box::new(error)))
    }

    fn piece(&self, number: u64) -> Result<Bytes> {
        let kept = self.0.kept.lock().iter().find(|(known, _)| *known == number).map(|(_, bytes)| bytes.clone());
        if let Some(bytes) = kept {
            return Ok(bytes);
        }
        let start = number * PIECE_BYTES;
        let bytes = self.fetch(start, (start + PIECE_BYTES).min(self.0.bytes))?;
        let mut pieces = self.0.kept.lock();
        if pieces.len() == PIECES_KEPT {
            pieces.pop_front();
        }
        pieces.push_back((number, bytes.clone()));
        Ok(bytes)
    }

    /// What stands from `start` on, to the end of its piece.
    fn rest_of_piece(&self, start: u64) -> Result<Bytes> {
        if start >= self.0.bytes {
            return Ok(Bytes::new());
        }
        let piece = self.piece(start / PIECE_BYTES)?;
        Ok(piece.slice((start % PIECE_BYTES) as usize..))
    }
}

impl Length for Chunks {
    fn len(&self) -> u64 {
        self.0.bytes
    }
}

impl ChunkReader for Chunks {
    type T = From;

    fn get_read(&self, start: u64) -> Result<From> {
        Ok(From { chunks: self.clone(), at: start })
    }

    fn get_bytes(&self, start: u64, length: usize) -> Result<Bytes> {
        let end = start.saturating_add(length as u64);
        if end > self.0.bytes || length as u64 >= PIECE_BYTES {
            return self.fetch(start, end);
        }
        let mut first = self.rest_of_piece(start)?;
        if first.len() >= length {
            first.truncate(length);
            return Ok(first);
        }
        let mut all = BytesMut::with_capacity(length);
        while all.len() < length {
            let piece = self.rest_of_piece(start + all.len() as u64)?;
            let wanted = piece.len().min(length - all.len());
            all.extend_from_slice(&piece[..wanted]);
        }
        Ok(all.freeze())
    }
}

/// Reads from some byte on.
pub(crate) struct From {
    chunks: Chunks,
    at: u64,
}

impl Read for From {
    fn read(&mut self, buffer: &mut [u8]) -> std::io::Result<usize> {
        let mut piece = self.chunks.rest_of_piece(self.at).map_err(std::io::Error::other)?;
        let count = piece.len().min(buffer.len());
        piece.copy_to_slice(&mut buffer[..count]);
        self.at += count as u64;
        Ok(count)
    }
}
