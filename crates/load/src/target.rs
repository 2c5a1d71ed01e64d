//! The server's address and the parts of a request that never change.

use std::net::{SocketAddr, TcpStream, ToSocketAddrs};
use std::time::Duration;

use bytes::Bytes;
use http::{HeaderMap, HeaderName, HeaderValue, Method, Request, Uri, header};
use http_body_util::Full;

use crate::bodies::Body;
use crate::{Api, LoadError, Options};

const JSON_LENGTH: HeaderName = HeaderName::from_static("inference-header-content-length");

/// Where requests go, and their head.
#[derive(Debug, Clone)]
pub(crate) struct Target {
    pub(crate) address: SocketAddr,
    pub(crate) host: String,
    uri: Uri,
    headers: HeaderMap,
}

impl Target {
    /// Resolves the host once and picks the first address that takes a connection, so that a
    /// run never changes servers and a server that is not there is an error before the run.
    pub(crate) fn resolve(options: &Options) -> Result<Self, LoadError> {
        let place = Place::parse(&options.url)?;
        let path = format!("{}{}", place.prefix, api_path(&options.api, &place.prefix));
        let bad = |reason: String| LoadError::BadUrl { url: options.url.clone(), reason };
        let uri: Uri = path.parse().map_err(|error| bad(format!("{path}: {error}")))?;
        let headers = headers(options, &place.host)?;
        let address = connectable(&place, &options.url, options.timeout)?;
        Ok(Self { address, host: place.host, uri, headers })
    }

    pub(crate) fn request(&self, body: &Body) -> Request<Full<Bytes>> {
        let mut request = Request::new(Full::new(body.bytes.clone()));
        *request.method_mut() = Method::POST;
        *request.uri_mut() = self.uri.clone();
        *request.headers_mut() = self.headers.clone();
        if let Some(length) = &body.json_length {
            request.headers_mut().insert(JSON_LENGTH, length.clone());
        }
        request
    }

    pub(crate) fn path(&self) -> String {
        self.uri.to_string()
    }
}

struct Place {
    /// As in the `Host` header.
    host: String,
    name: String,
    port: u16,
    prefix: String,
}

impl Place {
    fn parse(url: &str) -> Result<Self, LoadError> {
        let bad = |reason: &str| LoadError::BadUrl { url: url.to_owned(), reason: reason.to_owned() };
        let Some((scheme, _)) = url.split_once("://") else {
            return Err(LoadError::NoScheme { url: url.to_owned() });
        };
        if scheme.eq_ignore_ascii_case("https") {
            return Err(LoadError::HttpsUnsupported { url: url.to_owned() });
        }
        if !scheme.eq_ignore_ascii_case("http") {
            return Err(bad("its scheme is not http"));
        }
        let uri: Uri = url.parse().map_err(|error: http::uri::InvalidUri| bad(&error.to_string()))?;
        let authority = uri.authority().ok_or_else(|| bad("it names no host"))?;
        if authority.as_str().contains('@') {
            return Err(bad("a name and password cannot stand in it; give an Authorization header"));
        }
        if uri.query().is_some() {
            return Err(bad("it has a query; a query belongs to the path of a template"));
        }
        let name = authority.host().trim_start_matches('[').trim_end_matches(']').to_owned();
        if name.is_empty() {
            return Err(bad("it names no host"));
        }
        if authority
            .as_str()
            .rsplit_once(':')
            .is_some_and(|(_, port)| !port.ends_with(']') && port.parse::<u16>().map_or(true, |port| port == 0))
        {
            return Err(bad("its port is not a number between 1 and 65535"));
        }
        Ok(Self {
            host: authority.as_str().to_owned(),
            name,
            port: authority.port_u16().unwrap_or(80),
            prefix: uri.path().trim_end_matches('/').to_owned(),
        })
    }
}

fn api_path(api: &Api, prefix: &str) -> String {
    match api {
        // OpenAI clients are given a base address that ends in /v1; both forms are understood.
        Api::OpenAi { .. } if prefix.ends_with("/v1") => "/embeddings".to_owned(),
        Api::OpenAi { .. } => "/v1/embeddings".to_owned(),
        Api::OpenInference { model, .. } => format!("/v2/models/{}/infer", percent_encoded(model)),
        Api::Template { path, .. } => path.clone(),
    }
}

/// RFC 3986: everything but the unreserved characters is encoded, the slash included.
fn percent_encoded(segment: &str) -> String {
    let mut encoded = String::with_capacity(segment.len());
    for byte in segment.bytes() {
        if byte.is_ascii_alphanumeric() || b"-._~".contains(&byte) {
            encoded.push(char::from(byte));
        } else {
            encoded.push_str(&format!("%{byte:02X}"));
        }
    }
    encoded
}

fn headers(options: &Options, host: &str) -> Result<HeaderMap, LoadError> {
    let binary = matches!(options.api, Api::OpenInference { binary: true, .. });
    let content_type = if binary { "application/octet-stream" } else { "application/json" };
    let mut headers = HeaderMap::new();
    let host = HeaderValue::from_str(host).map_err(|_| LoadError::refused("the host", host, "printable ASCII"))?;
    headers.insert(header::HOST, host);
    headers.insert(header::CONTENT_TYPE, HeaderValue::from_static(content_type));
    headers.insert(header::USER_AGENT, HeaderValue::from_static("halny-bench"));
    for (name, value) in &options.headers {
        // Values may be secrets: the error names the header only.
        let refused = |allowed: &str| LoadError::refused("a header", format!("{name:?}"), allowed);
        let key =
            HeaderName::from_bytes(name.as_bytes()).map_err(|_| refused("a header name, such as Authorization"))?;
        if key == header::CONTENT_LENGTH || key == header::TRANSFER_ENCODING {
            return Err(refused("a header other than those that frame the body"));
        }
        let value =
            HeaderValue::from_str(value).map_err(|_| refused("a header whose value is printable ASCII on one line"))?;
        headers.insert(key, value);
    }
    Ok(headers)
}

fn connectable(place: &Place, url: &str, timeout: Duration) -> Result<SocketAddr, LoadError> {
    let resolve = |source| LoadError::Resolve { host: place.name.clone(), source };
    let addresses = (place.name.as_str(), place.port).to_socket_addrs().map_err(resolve)?;
    let mut last = std::io::Error::new(std::io::ErrorKind::NotFound, "the name has no address");
    for address in addresses {
        match TcpStream::connect_timeout(&address, timeout) {
            Ok(_) => return Ok(address),
            Err(error) => last = error,
        }
    }
    Err(LoadError::Connect { url: url.to_owned(), source: last })
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

    use super::*;

    fn refusal(url: &str) -> String {
        match Place::parse(url) {
            Ok(_) => panic!("{url} was accepted"),
            Err(error) => error.to_string(),
        }
    }

    #[test]
    fn addresses_that_cannot_be_used_are_refused_with_what_to_write() {
        assert!(refusal("127.0.0.1:8080").contains("no scheme; write http://127.0.0.1:8080"));
        assert!(refusal("https://a").contains("does not support"));
        assert!(refusal("ftp://a").contains("not http"));
        assert!(refusal("http://").contains("cannot be used"));
        assert!(refusal("http://me:secret@a").contains("Authorization"));
        assert!(refusal("http://a:0").contains("port"));
        assert!(refusal("http://a:99999").contains("cannot be used"));
        assert!(refusal("http://a/?x=1").contains("query"));
    }

    #[test]
    fn a_base_address_with_or_without_v1_gives_one_path() {
        let api = Api::OpenAi { model: "m".into(), dimensions: None, base64: false };
        for url in ["http://a", "http://a/", "http://a/v1", "http://a:80/v1/"] {
            let prefix = Place::parse(url).unwrap().prefix;
            assert_eq!(format!("{prefix}{}", api_path(&api, &prefix)), "/v1/embeddings", "{url}");
        }
        assert_eq!(Place::parse("http://[::1]:8080/x/").unwrap().name, "::1");
    }

    #[test]
    fn a_model_name_cannot_leave_its_path_segment() {
        let api = Api::OpenInference { model: "../a b?c".into(), input: "text".into(), column: false, binary: false };
        assert_eq!(api_path(&api, ""), "/v2/models/..%2Fa%20b%3Fc/infer");
    }
}
