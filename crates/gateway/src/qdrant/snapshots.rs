//! Snapshots of collections: made, listed, fetched, restored, removed.

use std::time::{Duration, SystemTime};

use axum::body::Body;
use axum::extract::multipart::MultipartRejection;
use axum::extract::{Extension, Multipart, Query, State};
use axum::response::{IntoResponse, Response};
use halny_types::Fault;
use halny_vectors::VectorsError;
use halny_vectors::embedded::Snapshot;
use http::{HeaderMap, header};
use serde::Deserialize;
use serde_json::{Value, json};
use tokio::io::AsyncWriteExt;
use tokio_util::io::ReaderStream;

use super::collections::collection_name;
use super::reply::{respond, small};
use super::space::files;
use crate::admission::Arrived;
use crate::path::Named;
use crate::{ApiError, Shared, body};

/// Bytes of a snapshot that are read at once to be sent.
const CHUNK_BYTES: usize = 256 * 1024;

fn described(snapshot: &Snapshot) -> Value {
    json!({
        "name": snapshot.name,
        "creation_time": date_time(snapshot.made),
        "size": snapshot.bytes,
        "checksum": snapshot.checksum,
    })
}

/// Date and time without a zone, as Qdrant writes it: in UTC.
fn date_time(at: SystemTime) -> Option<String> {
    let seconds = at.duration_since(SystemTime::UNIX_EPOCH).unwrap_or(Duration::ZERO).as_secs();
    let at = time::OffsetDateTime::from_unix_timestamp(i64::try_from(seconds).ok()?).ok()?;
    let (date, time) = (at.date(), at.time());
    let (year, month, day) = (date.year(), u8::from(date.month()), date.day());
    Some(format!("{year:04}-{month:02}-{day:02}T{:02}:{:02}:{:02}", time.hour(), time.minute(), time.second()))
}

/// `POST /collections/{collection}/snapshots`
pub(super) async fn create(
    State(shared): State<Shared>,
    Extension(arrived): Extension<Arrived>,
    Named(name): Named<String>,
) -> Response {
    let answer = async {
        let made = files(&shared)?.make_snapshot(&name).await?;
        small(&shared, arrived, described(&made)).await
    };
    respond(answer.await)
}

/// `GET /collections/{collection}/snapshots`
pub(super) async fn list(
    State(shared): State<Shared>,
    Extension(arrived): Extension<Arrived>,
    Named(name): Named<String>,
) -> Response {
    let answer = async {
        let store = files(&shared)?.clone();
        let listed = blocking(move || store.snapshots(&name)).await?;
        small(&shared, arrived, listed.iter().map(described).collect::<Vec<_>>()).await
    };
    respond(answer.await)
}

/// `GET /collections/{collection}/snapshots/{snapshot}`
pub(super) async fn download(
    State(shared): State<Shared>,
    Named((name, snapshot)): Named<(String, String)>,
) -> Response {
    let answer = async {
        let store = files(&shared)?.clone();
        let path = blocking(move || store.snapshot_path(&name, &snapshot)).await?;
        let file = tokio::fs::File::open(path).await.map_err(VectorsError::Files)?;
        let length = file.metadata().await.map_err(VectorsError::Files)?.len();
        let body = Body::from_stream(ReaderStream::with_capacity(file, CHUNK_BYTES));
        let headers = [
            (header::CONTENT_TYPE, "application/octet-stream".to_owned()),
            (header::CONTENT_LENGTH, length.to_string()),
        ];
        Ok((headers, body).into_response())
    };
    respond(answer.await)
}

/// `DELETE /collections/{collection}/snapshots/{snapshot}`
pub(super) async fn delete(
    State(shared): State<Shared>,
    Extension(arrived): Extension<Arrived>,
    Named((name, snapshot)): Named<(String, String)>,
) -> Response {
    let answer = async {
        let store = files(&shared)?.clone();
        blocking(move || store.delete_snapshot(&name, &snapshot)).await?;
        small(&shared, arrived, true).await
    };
    respond(answer.await)
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Recover {
    location: String,
    checksum: Option<String>,
    /// There is one replica.
    priority: Option<Value>,
    api_key: Option<Value>,
}

/// `PUT /collections/{collection}/snapshots/recover`: from a snapshot of this server.
pub(super) async fn recover(
    State(shared): State<Shared>,
    Extension(arrived): Extension<Arrived>,
    Named(name): Named<String>,
    headers: HeaderMap,
    body: Body,
) -> Response {
    let answer = async {
        let form: Recover = body::json(&shared, &headers, body).await?;
        let _ = (form.priority, form.api_key);
        let (collection, snapshot) = own_snapshot(&form.location, &headers)?;
        let store = files(&shared)?.clone();
        let of_store = store.clone();
        let path = blocking(move || of_store.snapshot_path(&collection, &snapshot)).await?;
        store.restore(collection_name(&name)?, &path, form.checksum.as_deref()).await?;
        small(&shared, arrived, true).await
    };
    respond(answer.await)
}

#[derive(Debug, Deserialize)]
pub(super) struct UploadQuery {
    checksum: Option<String>,
}

/// `POST /collections/{collection}/snapshots/upload`: from a file, as `multipart/form-data`. It is
/// under the limit of all bodies.
pub(super) async fn upload(
    State(shared): State<Shared>,
    Extension(arrived): Extension<Arrived>,
    Named(name): Named<String>,
    Query(query): Query<UploadQuery>,
    form: Result<Multipart, MultipartRejection>,
) -> Response {
    let answer = async {
        let refused = |text: String| ApiError::invalid(format!("the form cannot be read: {text}"));
        let mut form = form.map_err(|error| refused(error.body_text()))?;
        let store = files(&shared)?;
        let name = collection_name(&name)?;
        let work = store.workplace()?;
        let path = work.path().join("uploaded");
        while let Some(mut field) = form.next_field().await.map_err(|error| refused(error.body_text()))? {
            if field.name() != Some("snapshot") {
                continue;
            }
            let mut file = tokio::fs::File::create(&path).await.map_err(VectorsError::Files)?;
            while let Some(chunk) = field.chunk().await.map_err(|error| refused(error.body_text()))? {
                file.write_all(&chunk).await.map_err(VectorsError::Files)?;
            }
            file.flush().await.map_err(VectorsError::Files)?;
            drop(file);
            store.restore(name, &path, query.checksum.as_deref()).await?;
            return small(&shared, arrived, true).await;
        }
        Err(ApiError::invalid("the form has no field `snapshot` with the file"))
    };
    respond(answer.await)
}

/// The collection and the snapshot that a location on this server names. Nothing is fetched from
/// anywhere: a URL in a request must not make the server speak to others.
fn own_snapshot(location: &str, headers: &HeaderMap) -> Result<(String, String), ApiError> {
    let elsewhere = || {
        let text = "`location` has to be the URL of a snapshot on this server: \
                    http://HOST/collections/COLLECTION/snapshots/NAME, with the host that the request is sent to";
        ApiError::new(Fault::Unsupported, text)
    };
    let url: http::Uri = location.parse().map_err(|_| elsewhere())?;
    let host = headers.get(header::HOST).and_then(|host| host.to_str().ok());
    if url.authority().map(http::uri::Authority::as_str) != host {
        return Err(elsewhere());
    }
    let parts: Vec<&str> = url.path().trim_start_matches('/').split('/').collect();
    match parts.as_slice() {
        ["collections", collection, "snapshots", snapshot] => Ok(((*collection).to_owned(), (*snapshot).to_owned())),
        _ => Err(ApiError::new(Fault::Missing, "`location` names no snapshot of this server")),
    }
}

/// Reads or writes files on a thread that may wait for a disk.
async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> Result<T, VectorsError> + Send + 'static,
) -> Result<T, ApiError> {
    let done = tokio::task::spawn_blocking(work).await;
    Ok(done.map_err(|_| ApiError::new(Fault::Ours, "the work on the files of a collection broke off"))??)
}
