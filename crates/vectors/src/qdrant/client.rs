//! Requests to the cluster: bounded in time and in what they may answer.

use std::net::IpAddr;
use std::time::Duration;

use reqwest::header::{HeaderMap, HeaderName, HeaderValue};
use reqwest::redirect::Policy;
use reqwest::{Method, Url};
use serde::de::{Deserialize, DeserializeOwned};
use serde_json::{Value, value::RawValue};
use tokio::sync::Semaphore;

use super::error::{Failure, broken};
use crate::VectorsError;

const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);
const REQUEST_TIMEOUT: Duration = Duration::from_secs(60);
/// Requests that are under way at once, and how long another waits.
const REQUESTS_MAX: usize = 64;
const PLACE_TIMEOUT: Duration = Duration::from_secs(5);
/// A million ids with their scores take about 100 MB.
const ANSWER_BYTES_MAX: usize = 128 << 20;
/// What is kept of an answer that says why a request was refused.
const REFUSAL_BYTES_MAX: usize = 4 << 10;

/// The header in which Qdrant takes its key.
const API_KEY: HeaderName = HeaderName::from_static("api-key");

/// The cluster's REST API.
pub(super) struct Client {
    http: reqwest::Client,
    url: Url,
    /// Requests that may be under way: each of those that read holds a thread, and the memory of its answer.
    places: Semaphore,
}

/// What stands in an answer beside how long it took.
#[derive(serde::Deserialize)]
struct Reply<T> {
    result: T,
}

impl Client {
    /// # Errors
    /// When the URL, or the key, is none.
    pub(super) fn new(url: &str, api_key: Option<&str>) -> Result<Client, VectorsError> {
        Client::within(url, api_key, REQUEST_TIMEOUT)
    }

    /// The same with another time for each request.
    pub(super) fn within(url: &str, api_key: Option<&str>, timeout: Duration) -> Result<Client, VectorsError> {
        let refused = |text: &str| VectorsError::Config(text.to_owned());
        // Neither is shown: one of them may be in the place of the other.
        let unreadable = "the URL of the Qdrant cluster cannot be read; write http://host:6333 or https://host:6333";
        let url = Url::parse(url).map_err(|_| refused(unreadable))?;
        if !["http", "https"].contains(&url.scheme()) || !url.has_host() {
            return Err(refused(unreadable));
        }
        if !url.username().is_empty() || url.password().is_some() || url.query().is_some() || url.fragment().is_some() {
            return Err(refused(
                "the URL of the Qdrant cluster says more than where it is; the API key has a setting of its own",
            ));
        }
        let mut headers = HeaderMap::new();
        if let Some(key) = api_key {
            let mut value = HeaderValue::from_str(key)
                .map_err(|_| refused("the API key of the Qdrant cluster has characters that no key has"))?;
            value.set_sensitive(true);
            headers.insert(API_KEY, value);
            if url.scheme() == "http" && !is_loopback(&url) {
                tracing::warn!("the API key is sent to the Qdrant cluster unencrypted; use an https:// URL");
            }
        }
        let http = reqwest::Client::builder()
            .user_agent(concat!("halny/", env!("CARGO_PKG_VERSION")))
            .default_headers(headers)
            // The key belongs to this address alone.
            .redirect(Policy::none())
            .no_proxy()
            .connect_timeout(CONNECT_TIMEOUT)
            .timeout(timeout)
            .build()
            .map_err(|_| refused("no TLS settings can be used for the Qdrant cluster"))?;
        Ok(Client { http, url, places: Semaphore::new(REQUESTS_MAX) })
    }

    /// What `GET` of this path answers, whole.
    pub(super) async fn get_bare<T: DeserializeOwned>(&self, path: &[&str]) -> Result<T, Failure> {
        read(&self.send(Method::GET, path, None, None).await?)
    }

    /// The result of a `GET`.
    pub(super) async fn get<T: DeserializeOwned>(&self, path: &[&str]) -> Result<T, Failure> {
        Ok(self.get_bare::<Reply<T>>(path).await?.result)
    }

    /// Makes a change that answers nothing but that it was made.
    pub(super) async fn change(&self, method: Method, path: &[&str], body: Option<&Value>) -> Result<(), Failure> {
        let body = body.map(|body| body.to_string().into_bytes());
        self.send(method, path, None, body).await.map(drop)
    }

    /// Sends a request, and gives the bytes of its answer. With `wait` it is said whether to wait for a write.
    pub(super) async fn send(
        &self,
        method: Method,
        path: &[&str],
        wait: Option<bool>,
        body: Option<Vec<u8>>,
    ) -> Result<Vec<u8>, Failure> {
        let mut url = self.url.clone();
        if let Ok(mut segments) = url.path_segments_mut() {
            segments.pop_if_empty().extend(path);
        }
        if let Some(wait) = wait {
            url.set_query(Some(if wait { "wait=true" } else { "wait=false" }));
        }
        let mut request = self.http.request(method, url).header("accept", "application/json");
        if let Some(body) = body {
            request = request.header("content-type", "application/json").body(body);
        }
        let place = tokio::time::timeout(PLACE_TIMEOUT, self.places.acquire()).await;
        let Ok(Ok(_place)) = place else {
            tracing::warn!("more requests to the Qdrant cluster are under way than it answers in time");
            return Err(Failure::Gone);
        };
        let answer = request.send().await.map_err(Failure::of)?;
        let status = answer.status();
        if status.is_success() {
            return limited(answer, ANSWER_BYTES_MAX).await?.ok_or(Failure::AnswerTooLarge(ANSWER_BYTES_MAX));
        }
        let said = beginning(answer, REFUSAL_BYTES_MAX).await?;
        Err(Failure::Refused { status, said: refusal(&said) })
    }
}

/// The body of an answer; nothing where it is larger than that.
async fn limited(mut answer: reqwest::Response, most: usize) -> Result<Option<Vec<u8>>, Failure> {
    if answer.content_length().is_some_and(|length| length > most as u64) {
        return Ok(None);
    }
    let mut bytes = Vec::new();
    while let Some(piece) = answer.chunk().await.map_err(Failure::of)? {
        if bytes.len() + piece.len() > most {
            return Ok(None);
        }
        bytes.extend_from_slice(&piece);
    }
    Ok(Some(bytes))
}

/// The first bytes of an answer.
async fn beginning(mut answer: reqwest::Response, most: usize) -> Result<Vec<u8>, Failure> {
    let mut bytes = Vec::new();
    while let Some(piece) = answer.chunk().await.map_err(Failure::of)? {
        bytes.extend_from_slice(&piece);
        if bytes.len() >= most {
            bytes.truncate(most);
            break;
        }
    }
    Ok(bytes)
}

/// Why a request was refused, in the words of Qdrant.
fn refusal(said: &[u8]) -> String {
    let error = serde_json::from_slice::<Value>(said).ok();
    let error = error.as_ref().and_then(|error| error.pointer("/status/error")?.as_str());
    error.map_or_else(|| String::from_utf8_lossy(said).into_owned(), str::to_owned)
}

/// The result in an answer, which may be read where it lies.
pub(super) fn result<'a, T: Deserialize<'a>>(bytes: &'a [u8]) -> Result<T, Failure> {
    #[derive(serde::Deserialize)]
    struct Raw<'a> {
        #[serde(borrow)]
        result: &'a RawValue,
    }
    let raw: Raw<'a> = read(bytes)?;
    serde_json::from_str(raw.result.get()).map_err(|error| unreadable(&error))
}

fn read<'a, T: Deserialize<'a>>(bytes: &'a [u8]) -> Result<T, Failure> {
    serde_json::from_slice(bytes).map_err(|error| unreadable(&error))
}

fn unreadable(error: &serde_json::Error) -> Failure {
    Failure::Told(broken("read an answer", error))
}

/// Whether it is this machine.
fn is_loopback(url: &Url) -> bool {
    let host = url.host_str().unwrap_or_default().trim_matches(['[', ']']);
    host == "localhost" || host.parse::<IpAddr>().is_ok_and(|address| address.is_loopback())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_no_url_or_has_a_secret_in_it_is_refused_without_showing_it() {
        for url in [
            "hunter2",
            "qdrant://hunter2",
            "http://",
            "http://me:hunter2@db:6333",
            "http://hunter2@db:6333",
            "http://db:6333?api-key=hunter2",
            "http://db:6333/#hunter2",
        ] {
            let refused = Client::new(url, None).err().map(|error| error.to_string()).unwrap();
            assert!(!refused.contains("hunter2"), "{refused}");
        }
        let refused = Client::new("http://db:6333", Some("hunter2\n")).err().map(|error| error.to_string()).unwrap();
        assert!(!refused.contains("hunter2"), "{refused}");
        for url in ["http://db:6333", "https://db", "http://[::1]:6333/behind/a/proxy/"] {
            assert!(Client::new(url, Some("hunter2")).is_ok(), "{url}");
        }
    }
}
