//! What a job reads records from: a file of the project's folder, or an uploaded one; lines of JSON, lines of text, or
//! Parquet.

use std::fs::File;
use std::path::{Component, Path, PathBuf};

use bytes::Bytes;
use futures::StreamExt;
use halny_jobs::Failure;
use halny_store::{Files, StoreError};
use halny_types::guarded;
use parquet::arrow::arrow_reader::{ParquetRecordBatchReader, ParquetRecordBatchReaderBuilder};
use parquet::file::reader::ChunkReader;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};
use tokio::sync::mpsc;
use tokio_util::io::ReaderStream;

use super::lines::Lines;

/// The longest line.
const LINE_BYTES_MAX: usize = 1024 * 1024;
/// Rows of Parquet that are read at once.
const ROWS_AT_ONCE: usize = 1_024;
/// The field that the lines of a text are in.
pub(super) const TEXT_FIELD: &str = "text";

/// Where records are, and how they are written.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Source {
    /// A file below the project's folder.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    path: Option<PathBuf>,
    /// An uploaded file, by its id.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    file: Option<String>,
    /// As the end of its name says, unless it is said.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    format: Option<Format>,
}

/// How records are written.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize, Serialize)]
#[serde(rename_all = "lowercase")]
pub(super) enum Format {
    /// An object on each line.
    Jsonl,
    /// A text on each line.
    Text,
    /// Rows of Parquet.
    Parquet,
}

/// Where a source is read on: behind so many records, at this byte where they are lines.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize, Serialize)]
pub(super) struct Position {
    pub(super) records: u64,
    pub(super) offset: u64,
}

/// A record, and where the source is read on behind it.
#[derive(Clone, Debug)]
pub(super) struct Record {
    pub(super) next: Position,
    pub(super) fields: Map<String, Value>,
}

/// Reads records, one after the other.
pub(super) enum Records {
    /// Of a file of the project's, or of one that was uploaded.
    Lines { lines: Lines, format: Format, is_uploaded: bool },
    /// With how many there are in the file.
    Rows(mpsc::Receiver<Result<Record, String>>, u64),
}

impl Source {
    /// Looks at what is said, not at what is there.
    pub(super) fn check(&self) -> Result<(), String> {
        match (&self.path, &self.file) {
            (Some(path), None) => {
                let is_below = path.components().all(|part| matches!(part, Component::Normal(_) | Component::CurDir));
                if !is_below || path.as_os_str().is_empty() {
                    return Err("`path` has to lead to a file below the project's folder, without `..`".to_owned());
                }
                self.format().map(|_| ())
            }
            (None, Some(_)) if self.format.is_some() => Ok(()),
            (None, Some(_)) => {
                Err("say the `format` of an uploaded file: \"jsonl\", \"text\" or \"parquet\"".to_owned())
            }
            _ => Err("a source has a `path` below the project's folder, or the id of an uploaded `file`".to_owned()),
        }
    }

    fn format(&self) -> Result<Format, String> {
        let end = self.path.as_deref().and_then(Path::extension).and_then(|end| end.to_str());
        match (self.format, end) {
            (Some(format), _) => Ok(format),
            (None, Some("jsonl" | "ndjson")) => Ok(Format::Jsonl),
            (None, Some("txt")) => Ok(Format::Text),
            (None, Some("parquet")) => Ok(Format::Parquet),
            _ => {
                Err("the file's name does not say its format; say `format`: \"jsonl\", \"text\" or \"parquet\""
                    .to_owned())
            }
        }
    }

    /// Opens it where it is to be read on.
    pub(super) async fn open(
        &self,
        files: &Files,
        tenant: &str,
        folder: &Path,
        from: Position,
    ) -> Result<Records, Failure> {
        self.check().map_err(Failure::Fatal)?;
        let format = self.format().map_err(Failure::Fatal)?;
        let lines = |bytes| Records::Lines {
            lines: Lines::new(bytes, from.offset, from.records, LINE_BYTES_MAX),
            format,
            is_uploaded: self.file.is_some(),
        };
        if let Some(id) = &self.file {
            let missing = |error| match error {
                StoreError::NoFile | StoreError::NoBlob => {
                    Failure::Fatal("its source file is not there any more".to_owned())
                }
                error => error.into(),
            };
            let file = files.get(tenant, id).await.map_err(missing)?;
            if format != Format::Parquet {
                return Ok(lines(files.read(&file, from.offset).await.map_err(missing)?));
            }
            let mut pieces = files.read(&file, 0).await.map_err(missing)?;
            let mut whole = Vec::new();
            while let Some(piece) = pieces.next().await {
                whole.extend_from_slice(&piece.map_err(missing)?);
            }
            return rows(Bytes::from(whole), from);
        }
        let path = folder.join(self.path.as_deref().unwrap_or(Path::new("")));
        // A link out of the folder is a way out of it.
        let path = path.canonicalize().map_err(|error| unreadable(self, &error))?;
        if !folder.canonicalize().is_ok_and(|folder| path.starts_with(folder)) {
            return Err(Failure::Fatal("its source lies outside of the project's folder".to_owned()));
        }
        if !path.is_file() {
            return Err(Failure::Fatal("its source is no file".to_owned()));
        }
        if format == Format::Parquet {
            return rows(File::open(&path).map_err(|error| unreadable(self, &error))?, from);
        }
        let mut file = tokio::fs::File::open(&path).await.map_err(|error| unreadable(self, &error))?;
        tokio::io::AsyncSeekExt::seek(&mut file, std::io::SeekFrom::Start(from.offset))
            .await
            .map_err(|error| unreadable(self, &error))?;
        let broken = |error: std::io::Error| {
            tracing::warn!(%error, "the source of a job cannot be read");
            StoreError::Blobs
        };
        Ok(lines(ReaderStream::with_capacity(file, 256 * 1024).map(move |piece| piece.map_err(broken)).boxed()))
    }

    /// How many records there are.
    pub(super) async fn count(&self, files: &Files, tenant: &str, folder: &Path) -> Result<u64, Failure> {
        let mut records = self.open(files, tenant, folder, Position::default()).await?;
        if let Records::Rows(_, total) = records {
            return Ok(total);
        }
        let mut count = 0;
        while records.next().await?.is_some() {
            count += 1;
        }
        Ok(count)
    }
}

fn unreadable(source: &Source, error: &std::io::Error) -> Failure {
    let name = source.path.as_deref().unwrap_or(Path::new("")).display().to_string();
    let text = format!("the source {name:?} cannot be read: {}", error.kind());
    if error.kind() == std::io::ErrorKind::NotFound { Failure::Fatal(text) } else { Failure::Retry(text) }
}

impl Records {
    /// The next record; nothing at the end.
    pub(super) async fn next(&mut self) -> Result<Option<Record>, Failure> {
        match self {
            Records::Rows(rows, _) => rows.recv().await.transpose().map_err(Failure::Fatal),
            Records::Lines { lines, format, is_uploaded } => loop {
                let line = lines.next().await.map_err(|error| match is_uploaded {
                    true => error.into(),
                    false => Failure::Retry("its source cannot be read; the log says why".to_owned()),
                })?;
                let Some(line) = line else { return Ok(None) };
                let wrong = |what: &str| Failure::Fatal(format!("line {} of the source {what}", line.number));
                let text = line.text.as_deref().ok_or_else(|| wrong("is longer than 1 MiB"))?;
                if text.is_empty() {
                    continue;
                }
                let fields = match format {
                    Format::Jsonl => serde_json::from_slice(text).map_err(|_| wrong("is no JSON object"))?,
                    _ => {
                        let text = std::str::from_utf8(text).map_err(|_| wrong("is not UTF-8"))?;
                        Map::from_iter([(TEXT_FIELD.to_owned(), Value::from(text))])
                    }
                };
                return Ok(Some(Record { next: Position { records: line.number, offset: line.next }, fields }));
            },
        }
    }
}

/// Rows of Parquet, read on a thread that may wait for a disk.
fn rows(file: impl ChunkReader + 'static, from: Position) -> Result<Records, Failure> {
    let wrong = |error: &dyn std::fmt::Display| Failure::Fatal(format!("the source is no Parquet: {error}"));
    let builder = ParquetRecordBatchReaderBuilder::try_new(file).map_err(|error| wrong(&error))?;
    let total = builder.metadata().file_metadata().num_rows().max(0).unsigned_abs();
    let offset = usize::try_from(from.records).unwrap_or(usize::MAX);
    let reader = builder.with_batch_size(ROWS_AT_ONCE).with_offset(offset).build().map_err(|error| wrong(&error))?;
    let (give, rows) = mpsc::channel(2 * ROWS_AT_ONCE);
    tokio::task::spawn_blocking(move || {
        // A file may make its reader panic.
        if guarded(|| give_rows(reader, from.records, &give)).is_none() {
            let _ = give.blocking_send(Err("the source is no Parquet: its reader gave up".to_owned()));
        }
    });
    Ok(Records::Rows(rows, total))
}

/// Gives the rows behind the first `number` to whoever reads them.
fn give_rows(reader: ParquetRecordBatchReader, mut number: u64, give: &mpsc::Sender<Result<Record, String>>) {
    for batch in reader {
        let written = batch.and_then(|batch| {
            let mut writer = arrow::json::ArrayWriter::new(Vec::new());
            writer.write(&batch)?;
            writer.finish()?;
            Ok(writer.into_inner())
        });
        let parsed = written.map_err(|error| error.to_string()).and_then(|bytes| {
            serde_json::from_slice::<Vec<Map<String, Value>>>(&bytes).map_err(|error| error.to_string())
        });
        let records = match parsed {
            Ok(records) => records,
            Err(error) => {
                let _ = give.blocking_send(Err(format!("the source cannot be read behind row {number}: {error}")));
                return;
            }
        };
        for fields in records {
            number += 1;
            // Nobody reads on: the job has ended.
            if give.blocking_send(Ok(Record { next: Position { records: number, offset: 0 }, fields })).is_err() {
                return;
            }
        }
    }
}
