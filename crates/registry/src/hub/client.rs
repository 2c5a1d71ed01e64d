//! Requests to a hub: addresses, the token, redirects, retries.

use std::time::Duration;

use reqwest::{
    Response, StatusCode, Url,
    header::{AUTHORIZATION, ETAG, HeaderMap, HeaderValue, LOCATION, RANGE, RETRY_AFTER},
    redirect::Policy,
};

use super::{HubOptions, RetryPolicy, listing::MAX_LISTING_BYTES, redirect};
use crate::{RegistryError, Sha256Digest};

/// Longer than a handshake across the world takes.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(10);

/// A server that sends nothing for so long has broken off.
const READ_TIMEOUT: Duration = Duration::from_secs(60);

/// Asks one repository of one hub.
pub(super) struct Client {
    http: reqwest::Client,
    endpoint: Url,
    authorization: Option<HeaderValue>,
    repository: String,
    pub(super) retry: RetryPolicy,
}

/// How one attempt failed.
pub(super) enum Failure {
    /// Another attempt would fail as well.
    Final(RegistryError),
    /// Another attempt may succeed, not before `after` if the hub said so.
    Again { error: RegistryError, after: Option<Duration> },
}

impl Failure {
    pub(super) fn again(error: RegistryError) -> Self {
        Self::Again { error, after: None }
    }
}

/// What the hub's own answer said about a file before it redirected to its CDN.
#[derive(Debug, Clone, Default)]
pub(super) struct Linked {
    pub(super) bytes: Option<u64>,
    pub(super) sha256: Option<Sha256Digest>,
    pub(super) git_sha1: Option<String>,
}

impl Linked {
    /// `X-Linked-Etag` is the SHA-256 of a file in large file storage; a plain `ETag` of the hub is
    /// git's SHA-1 of a small one.
    fn take_from(&mut self, headers: &HeaderMap) {
        let text = |value: Option<&HeaderValue>| value?.to_str().ok().map(str::to_owned);
        let etag = text(headers.get("x-linked-etag").or_else(|| headers.get(ETAG)));
        if let Some(etag) = etag {
            let bare = etag.trim_start_matches("W/").trim_matches('"');
            self.sha256 = self.sha256.or(bare.parse().ok());
            if self.git_sha1.is_none() && super::is_commit(bare) {
                self.git_sha1 = Some(bare.to_owned());
            }
        }
        let bytes = text(headers.get("x-linked-size")).and_then(|text| text.parse().ok());
        self.bytes = self.bytes.or(bytes);
    }
}

/// The hub's or the CDN's answer after all redirects.
pub(super) struct Answer {
    pub(super) response: Response,
    pub(super) linked: Linked,
}

impl Client {
    pub(super) fn new(options: &HubOptions, repository: &str) -> Result<Self, RegistryError> {
        let bad = |reason: &str| RegistryError::BadEndpoint { reason: reason.to_owned() };
        let endpoint =
            Url::parse(&options.endpoint).map_err(|_| bad("its address is not one; it is written https://host"))?;
        if !matches!(endpoint.scheme(), "https" | "http") || endpoint.host_str().is_none() {
            return Err(bad("its address must begin with https:// or http://"));
        }
        let authorization = match &options.token {
            None => None,
            Some(token) => {
                let mut value = HeaderValue::from_str(&format!("Bearer {}", token.0))
                    .map_err(|_| bad("the token holds characters that no token has"))?;
                value.set_sensitive(true);
                Some(value)
            }
        };
        if authorization.is_some() && endpoint.scheme() == "http" && !redirect::is_loopback(&endpoint) {
            tracing::warn!("the token is sent to the hub unencrypted; use an https:// endpoint");
        }
        let builder = reqwest::Client::builder()
            .user_agent(concat!("halny/", env!("CARGO_PKG_VERSION")))
            .redirect(Policy::none())
            .connect_timeout(CONNECT_TIMEOUT)
            .read_timeout(READ_TIMEOUT);
        let builder = if redirect::is_loopback(&endpoint) { builder.no_proxy() } else { builder };
        let http = builder.build().map_err(|_| bad("no TLS or proxy settings can be used"))?;
        let (repository, retry) = (repository.to_owned(), options.retry);
        Ok(Self { http, endpoint, authorization, repository, retry })
    }

    /// The endpoint as a folder's name: what two hubs hold must not mix.
    pub(super) fn host_folder(&self) -> String {
        let host = self.endpoint.host_str().unwrap_or_default().replace(['[', ']', ':'], "_");
        match self.endpoint.port() {
            Some(port) => format!("{host}_{port}"),
            None => host,
        }
    }

    /// The endpoint with `parts` added, each escaped, so that none can reach out of its place.
    fn url<'a>(&self, parts: impl IntoIterator<Item = &'a str>) -> Url {
        let mut url = self.endpoint.clone();
        if let Ok(mut path) = url.path_segments_mut() {
            path.pop_if_empty().extend(parts);
        }
        url
    }

    pub(super) fn file_url(&self, commit: &str, name: &str) -> Url {
        let repository = self.repository.split('/');
        self.url(repository.chain(["resolve", commit]).chain(name.split('/')))
    }

    /// The listing of the repository at `revision`, as JSON.
    pub(super) async fn listing(&self, revision: &str) -> Result<Vec<u8>, RegistryError> {
        let api = ["api", "models"].into_iter().chain(self.repository.split('/'));
        let mut url = self.url(api.chain(["revision", revision]));
        url.set_query(Some("blobs=true"));
        let mut attempt = 0;
        loop {
            attempt += 1;
            let what = format!("revision {revision}");
            match self.listing_once(&url, &what).await {
                Ok(body) => return Ok(body),
                Err(failure) => self.pause(failure, attempt).await?,
            }
        }
    }

    async fn listing_once(&self, url: &Url, what: &str) -> Result<Vec<u8>, Failure> {
        let mut response = self.get(url, 0, what).await?.response;
        let mut body = Vec::new();
        while let Some(chunk) = response.chunk().await.map_err(|e| network(&e))? {
            body.extend_from_slice(&chunk);
            if body.len() as u64 > MAX_LISTING_BYTES {
                return Err(Failure::Final(RegistryError::BadListing {
                    repository: self.repository.clone(),
                    reason: format!("it is longer than {MAX_LISTING_BYTES} bytes"),
                }));
            }
        }
        Ok(body)
    }

    /// Waits before attempt number `attempt` + 1, or gives the error if there is to be none.
    pub(super) async fn pause(&self, failure: Failure, attempt: u32) -> Result<(), RegistryError> {
        let (error, after) = match failure {
            Failure::Final(error) => return Err(error),
            Failure::Again { error, after } => (with_attempts(error, attempt), after),
        };
        let doubled = 2_u32.saturating_pow(attempt.saturating_sub(1).min(16));
        let backoff = self.retry.first_wait.saturating_mul(doubled);
        let wait = backoff.min(self.retry.longest_wait).max(after.unwrap_or_default());
        if attempt >= self.retry.attempts || wait > self.retry.longest_wait {
            return Err(error);
        }
        tracing::info!(%error, wait_ms = wait.as_millis(), "the hub is asked again");
        tokio::time::sleep(wait).await;
        Ok(())
    }

    /// Asks for `url` from byte `from` on. The answer is 200, 206 or 416.
    pub(super) async fn get(&self, url: &Url, from: u64, what: &str) -> Result<Answer, Failure> {
        let mut url = url.clone();
        let mut linked = Linked::default();
        for _ in 0..=redirect::MAX_HOPS {
            let at_hub = redirect::same_origin(&url, &self.endpoint);
            let mut request = self.http.get(url.clone());
            if from > 0 {
                request = request.header(RANGE, format!("bytes={from}-"));
            }
            if let Some(authorization) = self.authorization.as_ref().filter(|_| at_hub) {
                request = request.header(AUTHORIZATION, authorization.clone());
            }
            let response = request.send().await.map_err(|error| network(&error))?;
            if at_hub {
                linked.take_from(response.headers());
            }
            if !is_redirect(response.status()) {
                return match self.refusal(&response, at_hub, what) {
                    Some(failure) => Err(failure),
                    None => Ok(Answer { response, linked }),
                };
            }
            let location = response.headers().get(LOCATION).and_then(|value| value.to_str().ok());
            url = location
                .ok_or("it has no address")
                .and_then(|location| redirect::target(&self.endpoint, &url, location))
                .map_err(|reason| Failure::Final(RegistryError::BadRedirect { reason }))?;
        }
        let reason = "there are more than 5 in a row";
        Err(Failure::Final(RegistryError::BadRedirect { reason }))
    }

    fn refusal(&self, response: &Response, at_hub: bool, what: &str) -> Option<Failure> {
        let status = response.status();
        let repository = || self.repository.clone();
        Some(match status.as_u16() {
            200 | 206 | 416 => return None,
            // A CDN's signed address that has run out: the hub gives a new one.
            401 | 403 if !at_hub => Failure::again(RegistryError::HubStatus { status: status.as_u16() }),
            status @ (401 | 403) => Failure::Final(RegistryError::AccessDenied { repository: repository(), status }),
            404 => Failure::Final(RegistryError::NotFound { repository: repository(), what: what.to_owned() }),
            429 => {
                let after = retry_after(response);
                let retry_after_s = after.map_or(60, |after| after.as_secs());
                let error = RegistryError::RateLimited { attempts: 1, retry_after_s };
                Failure::Again { error, after }
            }
            status @ (408 | 500..=599) => {
                Failure::Again { error: RegistryError::HubStatus { status }, after: retry_after(response) }
            }
            status => Failure::Final(RegistryError::HubStatus { status }),
        })
    }
}

fn is_redirect(status: StatusCode) -> bool {
    matches!(status.as_u16(), 301 | 302 | 303 | 307 | 308)
}

/// The hub gives seconds; a date is left to the backoff.
fn retry_after(response: &Response) -> Option<Duration> {
    let text = response.headers().get(RETRY_AFTER)?.to_str().ok()?;
    text.trim().parse().ok().map(Duration::from_secs)
}

/// A failed request in words, without its address: a CDN's address holds a signature.
pub(super) fn network(error: &reqwest::Error) -> Failure {
    let reason = if error.is_timeout() {
        "no answer in time"
    } else if error.is_connect() {
        "no connection"
    } else if error.is_body() || error.is_decode() {
        "the answer broke off"
    } else {
        "the request failed"
    };
    Failure::again(RegistryError::Network { reason: reason.to_owned(), attempts: 1 })
}

fn with_attempts(error: RegistryError, attempts: u32) -> RegistryError {
    match error {
        RegistryError::Network { reason, .. } => RegistryError::Network { reason, attempts },
        RegistryError::RateLimited { retry_after_s, .. } => RegistryError::RateLimited { attempts, retry_after_s },
        other => other,
    }
}
