//! `/v1/files`: what clients upload for batches, and what batches leave for them.

use axum::body::Body;
use axum::extract::multipart::{Field, MultipartError, MultipartRejection};
use axum::extract::rejection::QueryRejection;
use axum::extract::{Multipart, Query, State};
use axum::response::{IntoResponse, Response};
use futures::StreamExt;
use halny_store::Files;
use halny_store::files::{File, Listing, blob_of};
use halny_types::{Fault, TenantId};
use http::{HeaderValue, StatusCode, header};
use serde::Deserialize;
use serde_json::{Value, json};

use crate::error::Shape;
use crate::path::Named;
use crate::{ApiError, Background, Shared};

/// The largest file, as OpenAI has it.
pub(crate) const FILE_BYTES_MAX: usize = 512 * 1024 * 1024;
/// Files that are uploaded at once.
pub(crate) const UPLOADS_MAX: usize = 16;
/// The largest file for a batch, as OpenAI has it.
pub(crate) const BATCH_FILE_BYTES_MAX: u64 = 200 * 1024 * 1024;
/// The most entries of a list.
const LIST_MAX: u32 = 10_000;
/// The longest name of a file.
const NAME_CHARS_MAX: usize = 512;
/// How long a field of the form that is no file may be.
const FIELD_BYTES_MAX: usize = 4_096;
/// How long a file may be kept that is to expire: an hour to 30 days.
pub(crate) const EXPIRY_RANGE_S: std::ops::RangeInclusive<i64> = 3_600..=2_592_000;
/// Files for batches expire after 30 days unless their owner says otherwise.
const BATCH_EXPIRY_S: i64 = 2_592_000;
/// What a client may say that a file is for.
const PURPOSES: [&str; 6] = ["assistants", "batch", "fine-tune", "vision", "user_data", "evals"];

/// A fresh name for a file: later ones sort after earlier ones.
pub(crate) fn fresh_id() -> String {
    format!("file-{}", halny_jobs::JobId::fresh())
}

fn tenant() -> TenantId {
    TenantId::anonymous()
}

pub(super) fn respond(answer: Result<Response, ApiError>) -> Response {
    answer.unwrap_or_else(|error| {
        let mut response = error.respond(Shape::OpenAi);
        if error.fault() == Fault::Conflict {
            // OpenAI's clients try a 409 again, which would not help here.
            response.headers_mut().insert("x-should-retry", HeaderValue::from_static("false"));
        }
        response
    })
}

fn seconds(millis: i64) -> i64 {
    millis / 1_000
}

fn described(file: &File) -> Value {
    json!({
        "id": file.id,
        "object": "file",
        "bytes": file.bytes,
        "created_at": seconds(file.created_ms),
        "expires_at": file.expires_ms.map(seconds),
        "filename": file.name,
        "purpose": file.purpose,
        "status": "processed",
        "status_details": null,
    })
}

/// `POST /v1/files`, as `multipart/form-data`. The file goes into its place as it comes.
pub(crate) async fn upload(State(shared): State<Shared>, form: Result<Multipart, MultipartRejection>) -> Response {
    respond(receive(&shared, form).await)
}

/// What the form says beside the file.
#[derive(Default)]
struct About {
    purpose: Option<String>,
    expiry_anchor: Option<String>,
    expiry_s: Option<String>,
}

/// A file whose bytes are in their place, which nothing describes yet.
struct Received {
    id: String,
    name: String,
    bytes: u64,
}

async fn receive(shared: &Shared, form: Result<Multipart, MultipartRejection>) -> Result<Response, ApiError> {
    let background = shared.background()?;
    let files = &background.files;
    // The form's reader holds what comes until it has found where a part ends.
    let _place = background.uploads.try_acquire().map_err(|_| {
        let text = format!("{UPLOADS_MAX} files are being uploaded, no more are taken; try again");
        ApiError::new(Fault::Overload, text).retry_after(std::time::Duration::from_secs(1))
    })?;
    let mut form = form.map_err(|error| {
        ApiError::invalid(format!(
            "a file is sent as multipart/form-data with `purpose` and `file`: {}",
            error.body_text()
        ))
    })?;
    let (mut about, mut received) = (About::default(), None);
    let outcome = read_form(files, &mut form, &mut about, &mut received).await;
    // In whichever order they come, a file that nothing describes must not stay.
    let described = match outcome {
        Ok(()) => describe(files, &about, received.as_ref()).await,
        Err(error) => Err(error),
    };
    match (described, received) {
        (Ok(file), _) => Ok(axum::Json(self::described(&file)).into_response()),
        (Err(error), Some(received)) => {
            // Where the database did not answer, it may have the file all the same; if not, the blob goes with time.
            if error.fault().http_status() < 500 {
                remove_blob(background, &received.id).await;
            }
            Err(error)
        }
        (Err(error), None) => Err(error),
    }
}

async fn remove_blob(background: &Background, id: &str) {
    if let Err(error) = background.jobs.blobs().delete(&blob_of(id)).await {
        tracing::warn!(%error, id, "a file that was refused could not be removed");
    }
}

fn broken(error: &MultipartError) -> ApiError {
    let text = format!("the form cannot be read: {}", error.body_text());
    match error.status() {
        StatusCode::PAYLOAD_TOO_LARGE => {
            ApiError::new(Fault::TooLarge, format!("a file may have {FILE_BYTES_MAX} bytes; send it in parts"))
        }
        _ => ApiError::invalid(text),
    }
}

async fn read_form(
    files: &Files,
    form: &mut Multipart,
    about: &mut About,
    received: &mut Option<Received>,
) -> Result<(), ApiError> {
    while let Some(field) = form.next_field().await.map_err(|error| broken(&error))? {
        match field.name().unwrap_or_default() {
            "file" if received.is_none() => {
                let id = fresh_id();
                // Known before the first byte is written, so that a broken-off upload is removed.
                *received = Some(Received { id: id.clone(), name: name_of(&field), bytes: 0 });
                let bytes = keep(files, &id, field).await?;
                if let Some(received) = received {
                    received.bytes = bytes;
                }
            }
            "file" => {
                return Err(
                    ApiError::invalid("the form has more than one `file`; send one a request").with_param("file")
                );
            }
            "purpose" => about.purpose = Some(text(field).await?),
            "expires_after[anchor]" => about.expiry_anchor = Some(text(field).await?),
            "expires_after[seconds]" => about.expiry_s = Some(text(field).await?),
            _ => {
                text(field).await?;
            }
        }
    }
    Ok(())
}

fn name_of(field: &Field<'_>) -> String {
    let name = field.file_name().unwrap_or("upload");
    name.chars().filter(|c| !c.is_control()).take(NAME_CHARS_MAX).collect()
}

async fn keep(files: &Files, id: &str, mut field: Field<'_>) -> Result<u64, ApiError> {
    let mut writer = files.writer(id).await?;
    loop {
        match field.chunk().await {
            Ok(Some(chunk)) => writer.write(&chunk).await?,
            Ok(None) => return Ok(writer.finish().await?),
            Err(error) => {
                let error = broken(&error);
                writer.abandon().await?;
                return Err(error);
            }
        }
    }
}

async fn text(mut field: Field<'_>) -> Result<String, ApiError> {
    let mut bytes = Vec::new();
    while let Some(chunk) = field.chunk().await.map_err(|error| broken(&error))? {
        bytes.extend_from_slice(&chunk);
        if bytes.len() > FIELD_BYTES_MAX {
            return Err(ApiError::invalid(format!("a field of the form has more than {FIELD_BYTES_MAX} bytes")));
        }
    }
    String::from_utf8(bytes).map_err(|_| ApiError::invalid("a field of the form is not UTF-8"))
}

async fn describe(files: &Files, about: &About, received: Option<&Received>) -> Result<File, ApiError> {
    let wrong = |param: &'static str, text: String| Err(ApiError::invalid(text).with_param(param));
    let Some(received) = received else {
        return wrong("file", "the form has no `file`; add it".to_owned());
    };
    let purpose = match about.purpose.as_deref() {
        Some(purpose) if PURPOSES.contains(&purpose) => purpose,
        Some(purpose) => {
            let shown: String = purpose.chars().take(64).collect();
            return wrong("purpose", format!("{shown:?} is no purpose; write one of {}", PURPOSES.join(", ")));
        }
        None => return wrong("purpose", format!("`purpose` is missing; write one of {}", PURPOSES.join(", "))),
    };
    if purpose == "batch" && received.bytes > BATCH_FILE_BYTES_MAX {
        let text = format!("a file for a batch may have {BATCH_FILE_BYTES_MAX} bytes, this one has {}", received.bytes);
        return Err(ApiError::new(Fault::TooLarge, text).with_param("file"));
    }
    if about.expiry_anchor.as_deref().is_some_and(|anchor| anchor != "created_at") {
        return wrong("expires_after", "`expires_after[anchor]` has to be \"created_at\"".to_owned());
    }
    let expiry_s = match &about.expiry_s {
        Some(text) => match text.parse::<i64>().ok().filter(|seconds| EXPIRY_RANGE_S.contains(seconds)) {
            Some(seconds) => Some(seconds),
            None => return wrong("expires_after", expiry_text("expires_after[seconds]")),
        },
        None => (purpose == "batch").then_some(BATCH_EXPIRY_S),
    };
    let now = files.now_ms().await?;
    let file = File {
        id: received.id.clone(),
        tenant: tenant().as_str().to_owned(),
        name: received.name.clone(),
        purpose: purpose.to_owned(),
        bytes: received.bytes,
        blob: blob_of(&received.id),
        created_ms: now,
        expires_ms: expiry_s.map(|seconds| now + seconds * 1_000),
    };
    files.add(&file).await?;
    Ok(file)
}

pub(super) fn expiry_text(name: &str) -> String {
    format!("`{name}` is {} to {} seconds", EXPIRY_RANGE_S.start(), EXPIRY_RANGE_S.end())
}

#[derive(Debug, Default, Deserialize)]
pub(crate) struct ListQuery {
    purpose: Option<String>,
    after: Option<String>,
    order: Option<String>,
    limit: Option<u32>,
}

/// `GET /v1/files`.
pub(crate) async fn list(State(shared): State<Shared>, query: Result<Query<ListQuery>, QueryRejection>) -> Response {
    let answer = async {
        let Query(query) = query.map_err(|error| ApiError::invalid(error.body_text()))?;
        let ascending = match query.order.as_deref() {
            None | Some("desc") => false,
            Some("asc") => true,
            Some(_) => return Err(ApiError::invalid("`order` is \"asc\" or \"desc\"").with_param("order")),
        };
        let limit = query.limit.unwrap_or(LIST_MAX);
        if !(1..=LIST_MAX).contains(&limit) {
            return Err(ApiError::invalid(format!("`limit` is 1 to {LIST_MAX}")).with_param("limit"));
        }
        let listing = Listing { purpose: query.purpose, after: query.after, ascending };
        // One more tells whether there is more.
        let found = shared.background()?.files.list(tenant().as_str(), &listing, limit + 1).await?;
        Ok(listed(found.iter().map(described).collect(), limit as usize))
    };
    respond(answer.await)
}

/// A page of a list: of one more entry than it has, only that it is there is told.
pub(super) fn listed(mut data: Vec<Value>, limit: usize) -> Response {
    let has_more = data.len() > limit;
    data.truncate(limit);
    let id = |entry: Option<&Value>| entry.map_or(Value::Null, |entry| entry["id"].clone());
    let (first, last) = (id(data.first()), id(data.last()));
    let body = json!({ "object": "list", "data": data, "has_more": has_more, "first_id": first, "last_id": last });
    axum::Json(body).into_response()
}

/// `GET /v1/files/{file}`.
pub(crate) async fn retrieve(State(shared): State<Shared>, Named(id): Named<String>) -> Response {
    let answer = async {
        let file = shared.background()?.files.get(tenant().as_str(), &id).await?;
        Ok(axum::Json(described(&file)).into_response())
    };
    respond(answer.await)
}

/// `GET /v1/files/{file}/content`.
pub(crate) async fn content(State(shared): State<Shared>, Named(id): Named<String>) -> Response {
    let answer = async {
        let files = &shared.background()?.files;
        let file = files.get(tenant().as_str(), &id).await?;
        let bytes = files.read(&file, 0).await?;
        let headers = [
            (header::CONTENT_TYPE, "application/octet-stream".to_owned()),
            (header::CONTENT_LENGTH, file.bytes.to_string()),
            // Whatever it holds, no browser takes it for a page of this server.
            (header::CONTENT_DISPOSITION, "attachment".to_owned()),
            (header::X_CONTENT_TYPE_OPTIONS, "nosniff".to_owned()),
        ];
        Ok((headers, Body::from_stream(bytes.map(|piece| piece.map_err(std::io::Error::other)))).into_response())
    };
    respond(answer.await)
}

/// `DELETE /v1/files/{file}`.
pub(crate) async fn delete(State(shared): State<Shared>, Named(id): Named<String>) -> Response {
    let answer = async {
        shared.background()?.files.delete(tenant().as_str(), &id).await?;
        Ok(axum::Json(json!({ "id": id, "object": "file", "deleted": true })).into_response())
    };
    respond(answer.await)
}
