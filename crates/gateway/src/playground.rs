//! `GET /`: a page to try the served models on, from the binary itself.
//!
//! It talks to the same endpoints that clients use and keeps nothing. Everything it needs stands in
//! the page: a machine without a way to the internet shows it as well, and its policy allows the
//! browser to run this script and no other.

use std::sync::LazyLock;

use axum::response::{Html, IntoResponse, Response};
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use http::{HeaderMap, HeaderValue, header};
use serde_json::json;
use sha2::{Digest, Sha256};

/// The release of Qdrant whose REST API is spoken; its clients warn of one that is far from theirs.
const QDRANT_VERSION: &str = "1.20.0";

const STYLE: &str = include_str!("playground/page.css");
// `recommend.js` stands before `search.js`, which starts the page.
const SCRIPT: &str = concat!(
    include_str!("playground/page.js"),
    include_str!("playground/recommend.js"),
    include_str!("playground/search.js")
);

static PAGE: LazyLock<String> = LazyLock::new(|| {
    let page = include_str!("playground/page.html");
    page.replacen("/* style */", STYLE, 1).replacen("/* script */", SCRIPT, 1)
});

/// Names the page's own script and style by their digests (Content Security Policy Level 3, 2.3.1).
static POLICY: LazyLock<String> = LazyLock::new(|| {
    format!(
        "default-src 'none'; script-src 'sha256-{}'; style-src 'sha256-{}'; img-src blob: data:; \
         connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'",
        digest(SCRIPT),
        digest(STYLE)
    )
});

fn digest(text: &str) -> String {
    STANDARD.encode(Sha256::digest(text))
}

/// `GET /`: the page for a browser, with headers that keep other sites' scripts and frames out of it;
/// for anyone else what this is, in the form in which Qdrant's clients ask for it.
pub async fn page(request: HeaderMap) -> Response {
    let browser = |accept: &HeaderValue| accept.to_str().is_ok_and(|accept| accept.contains("text/html"));
    if !request.get(header::ACCEPT).is_some_and(browser) {
        let version = json!({
            "title": "halny, with the REST API of the vector search engine qdrant",
            "version": QDRANT_VERSION,
            "halny_version": env!("CARGO_PKG_VERSION"),
        });
        return axum::Json(version).into_response();
    }
    let headers = [
        (header::CONTENT_SECURITY_POLICY, POLICY.as_str()),
        (header::X_CONTENT_TYPE_OPTIONS, "nosniff"),
        (header::REFERRER_POLICY, "no-referrer"),
        (header::CACHE_CONTROL, "no-cache"),
    ];
    (headers, Html(PAGE.as_str())).into_response()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn page_holds_its_style_and_script_and_loads_nothing_else() {
        assert!(PAGE.contains(STYLE) && PAGE.contains(SCRIPT));
        for foreign in ["http:", "https:", "//cdn", "src=\"", "@import", "url("] {
            let places = PAGE.matches(foreign).count();
            // The namespace of the icon's SVG is a name, not an address that is fetched.
            let allowed = usize::from(foreign == "http:");
            assert!(places <= allowed, "{foreign} stands in the page {places} times");
        }
    }
}
