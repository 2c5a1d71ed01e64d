//! `POST /halny/v1/features/historical`: to each row of a table the values that held at its time, as Arrow IPC streams
//! both ways, which `pyarrow`, `polars` and `duckdb` read and write.
//!
//! The rows that are asked for are put on disk while they arrive, so that neither their number nor a client that is slow
//! takes memory, or a turn from other joins. The answer leaves as it is made.

use std::io::{self, Read as _, Seek as _};

use arrow::buffer::Buffer;
use arrow::ipc::reader::StreamDecoder;
use arrow::ipc::writer::StreamWriter;
use arrow::record_batch::RecordBatch;
use axum::body::{Body, Bytes};
use axum::extract::State;
use axum::response::{IntoResponse, Response};
use futures::{StreamExt, stream};
use halny_features::{Asked as Wanted, Batches, Features, FeaturesError, HistoricalRequest};
use halny_types::{Fault, guarded};
use http::header;
use http_body_util::BodyExt;
use tokio::io::AsyncWriteExt;

use super::Asked;
use crate::error::respond;
use crate::feast::features;
use crate::{ApiError, Shared, body};

pub(crate) const PATH: &str = "/halny/v1/features/historical";

const MEDIA_TYPE: &str = "application/vnd.apache.arrow.stream";
/// The largest batch that is read: it is in memory whole.
const BATCH_BYTES_MAX: usize = 64 << 20;
/// What is read of the file at once.
const PIECE_BYTES: usize = 1 << 20;
const PARAMETERS: [&str; 4] = ["features", "service", "timestamp", "full_feature_names"];

pub(super) async fn historical(State(shared): State<Shared>, asked: Asked, mut body: Body) -> Response {
    let answer = async {
        let begun = begin(&shared, &asked, &mut body).await;
        let (features, request) = match begun {
            Ok(begun) => begun,
            Err(error) => {
                // Whoever is still sending sees the answer only when the rest has been taken.
                crate::body::discard(&mut body).await;
                return Err(error);
            }
        };
        answered(features.historical(request).await?).await
    };
    respond(answer.await)
}

/// What is asked for is looked up before the rows are taken.
async fn begin<'a>(
    shared: &'a Shared,
    asked: &Asked,
    body: &mut Body,
) -> Result<(&'a Features, HistoricalRequest), ApiError> {
    let features = features(shared)?;
    let (wanted, full_feature_names) = wanted(asked)?;
    let timestamp = asked.one("timestamp").unwrap_or("event_timestamp").to_owned();
    features.check(&wanted, full_feature_names)?;
    let entities = entities(features, body).await?;
    Ok((features, HistoricalRequest { asked: wanted, entities, timestamp, full_feature_names }))
}

fn wanted(asked: &Asked) -> Result<(Wanted, bool), ApiError> {
    asked.only(&PARAMETERS)?;
    let named: Vec<String> = asked.all("features").flat_map(|list| list.split(',')).map(str::to_owned).collect();
    let wanted = match (asked.one("service"), named.is_empty()) {
        (Some(service), true) => Wanted::Service(service.to_owned()),
        (None, false) => Wanted::Features(named),
        (Some(_), false) => return Err(ApiError::invalid("write either features or service behind the `?`")),
        (None, true) => return Err(ApiError::invalid("write ?features=view:feature,... or ?service=name")),
    };
    let full = match asked.one("full_feature_names") {
        None | Some("false" | "0") => false,
        Some("true" | "1" | "") => true,
        Some(_) => return Err(ApiError::invalid("full_feature_names is true or false")),
    };
    Ok((wanted, full))
}

/// The rows that are asked for, read back from disk.
async fn entities(features: &Features, body: &mut Body) -> Result<Batches, ApiError> {
    let file = features.temporary_file().map_err(|error| unwritable(&error))?;
    let mut file = tokio::io::BufWriter::with_capacity(PIECE_BYTES, tokio::fs::File::from_std(file));
    while let Some(frame) = body.frame().await {
        let frame = frame.map_err(body::broken)?;
        if let Ok(data) = frame.into_data() {
            file.write_all(&data).await.map_err(|error| unwritable(&error))?;
        }
    }
    file.flush().await.map_err(|error| unwritable(&error))?;
    let mut file = file.into_inner().into_std().await;
    file.rewind().map_err(|error| unwritable(&error))?;
    Ok(stream::iter(Reading::new(file)).boxed())
}

fn unwritable(error: &io::Error) -> ApiError {
    tracing::error!(%error, "the rows of a join cannot be put on disk");
    ApiError::new(Fault::Ours, "the rows cannot be put on disk; see the log")
}

/// Batches of a stream in a file.
struct Reading {
    file: std::fs::File,
    decoder: StreamDecoder,
    piece: Buffer,
    /// Since the last batch.
    bytes: usize,
    /// Whether there was one.
    any: bool,
    ended: bool,
}

impl Reading {
    fn new(file: std::fs::File) -> Reading {
        let (decoder, piece) = (StreamDecoder::new(), Buffer::from(Vec::<u8>::new()));
        Reading { file, decoder, piece, bytes: 0, any: false, ended: false }
    }

    /// The next batch, if it is in what was read. The decoder panics at offsets that lie.
    fn decode(&mut self) -> Result<Option<RecordBatch>, FeaturesError> {
        let lies = || FeaturesError::Invalid("the body is an Arrow IPC stream whose offsets lie".to_owned());
        let (decoder, piece) = (&mut self.decoder, &mut self.piece);
        guarded(|| decoder.decode(piece)).ok_or_else(lies)?.map_err(|error| no_stream(&error))
    }

    /// The next batch; nothing behind the last.
    fn read(&mut self) -> Result<Option<RecordBatch>, FeaturesError> {
        loop {
            if !self.piece.is_empty() {
                let before = self.piece.len();
                let batch = self.decode()?;
                self.bytes += before - self.piece.len();
                if self.bytes > BATCH_BYTES_MAX {
                    let most = BATCH_BYTES_MAX >> 20;
                    let text = format!("a batch of more than {most} MiB; write batches of fewer rows");
                    return Err(FeaturesError::Invalid(text));
                }
                if batch.is_some() {
                    (self.bytes, self.any) = (0, true);
                    return Ok(batch);
                }
                continue;
            }
            let mut piece = vec![0; PIECE_BYTES];
            let count = self.file.read(&mut piece)?;
            if count == 0 {
                self.decoder.finish().map_err(|error| no_stream(&error))?;
                let nothing = || FeaturesError::Invalid("the body is no Arrow IPC stream: it is empty".to_owned());
                let schema = self.decoder.schema().ok_or_else(nothing)?;
                // A table without rows has columns all the same.
                return Ok((!std::mem::replace(&mut self.any, true)).then(|| RecordBatch::new_empty(schema)));
            }
            piece.truncate(count);
            self.piece = Buffer::from(piece);
        }
    }
}

fn no_stream(error: &arrow::error::ArrowError) -> FeaturesError {
    let text: String = error.to_string().chars().take(200).collect();
    FeaturesError::Invalid(format!("the body is no Arrow IPC stream that can be read: {text}"))
}

impl Iterator for Reading {
    type Item = Result<RecordBatch, FeaturesError>;

    fn next(&mut self) -> Option<Self::Item> {
        if self.ended {
            return None;
        }
        let read = self.read().transpose();
        self.ended = !matches!(read, Some(Ok(_)));
        read
    }
}

/// The answer, once it is known that there is one. What goes wrong later breaks it off: a stream without its end is read by
/// nobody as a whole one.
async fn answered(batches: Batches) -> Result<Response, ApiError> {
    let mut batches = batches.fuse();
    // Tables without rows have a batch too, which says what columns there are.
    let first = batches.next().await.transpose()?.ok_or_else(unwritten)?;
    let writer = StreamWriter::try_new(Vec::new(), &first.schema()).map_err(|_| unwritten())?;
    let batches = stream::iter([Ok(first)]).chain(batches);
    let pieces = stream::unfold(Some((writer, batches)), |state| async {
        let (mut writer, mut batches) = state?;
        match batches.next().await {
            Some(Ok(batch)) => match writer.write(&batch) {
                Ok(()) => Some((Ok(Bytes::from(std::mem::take(writer.get_mut()))), Some((writer, batches)))),
                Err(error) => Some((Err(io::Error::other(error)), None)),
            },
            Some(Err(error)) => {
                tracing::warn!(%error, "a join broke off");
                Some((Err(io::Error::other(error)), None))
            }
            None => {
                let end = writer.finish().map(|()| Bytes::from(std::mem::take(writer.get_mut())));
                Some((end.map_err(io::Error::other), None))
            }
        }
    });
    Ok(([(header::CONTENT_TYPE, MEDIA_TYPE)], Body::from_stream(pieces)).into_response())
}

fn unwritten() -> ApiError {
    ApiError::new(Fault::Ours, "the answer could not be written")
}
