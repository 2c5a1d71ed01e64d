//! `webhook`: tells another server, signed, at least once.
//!
//! After Standard Webhooks (standardwebhooks.com, 1.0): `webhook-id` is the same for every try, so that who receives can
//! tell a repetition; `webhook-signature` is `v1,` and the base64 of HMAC-SHA256 over `id.timestamp.body`. Where to send is
//! said by the project alone: a job names a webhook, and cannot make this server speak to anybody else.

use std::collections::HashMap;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use futures::future::BoxFuture;
use halny_types::project::jobs::JobKind;
use hmac::{Hmac, Mac};
use reqwest::redirect::Policy;
use reqwest::{Client, StatusCode, Url};
use serde::Deserialize;
use serde_json::{Value, json};
use sha2::Sha256;

use crate::{Failure, Handler, Run};

/// What a secret begins with, before its base64.
const SECRET_PREFIX: &str = "whsec_";

/// Where requests go, and what they are signed with.
pub struct Webhook {
    /// The name that jobs know it by.
    pub name: String,
    /// Where requests go.
    pub url: String,
    /// The secret: `whsec_` and base64.
    pub secret: String,
    /// Time for an answer.
    pub timeout: Duration,
}

struct Place {
    url: Url,
    secret: Vec<u8>,
    timeout: Duration,
}

/// Sends requests to webhooks.
pub struct Webhooks {
    client: Client,
    places: HashMap<String, Place>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Order {
    webhook: String,
    #[serde(rename = "type", default)]
    kind: Option<String>,
    #[serde(default)]
    data: Value,
}

impl Webhooks {
    /// Webhooks of these names.
    ///
    /// # Errors
    /// When a URL or a secret cannot be used; what is wrong, without the secret.
    pub fn new(webhooks: Vec<Webhook>) -> Result<Webhooks, String> {
        // Elsewhere than the project says is nowhere.
        let client = Client::builder().redirect(Policy::none()).connect_timeout(Duration::from_secs(10)).build();
        let client = client.map_err(|error| format!("webhooks cannot be sent: {error}"))?;
        let mut places = HashMap::new();
        for webhook in webhooks {
            let Webhook { name, url, secret, timeout } = webhook;
            let url =
                Url::parse(&url).map_err(|error| format!("the URL of the webhook {name:?} cannot be used: {error}"))?;
            let secret = secret_of(&secret).ok_or_else(|| {
                format!("the secret of the webhook {name:?} is not `whsec_` and the base64 of 24 to 64 bytes")
            })?;
            places.insert(name, Place { url, secret, timeout });
        }
        Ok(Webhooks { client, places })
    }

    fn place(&self, payload: &Value) -> Result<(Order, &Place), String> {
        let order: Order =
            serde_json::from_value(payload.clone()).map_err(|error| format!("this is nothing to send: {error}"))?;
        match self.places.get(&order.webhook) {
            Some(place) => Ok((order, place)),
            None => Err("there is no webhook of that name; the project declares them in [[webhooks]]".to_owned()),
        }
    }

    async fn send(&self, run: &Run) -> Result<Value, Failure> {
        let (order, place) = self.place(run.payload()).map_err(Failure::Fatal)?;
        let (id, now) =
            (run.job().id.to_string(), SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_secs());
        let body = json!({ "type": order.kind, "timestamp": now, "data": order.data }).to_string();
        let signature = sign(&place.secret, &format!("{id}.{now}.{body}"));
        let request = self
            .client
            .post(place.url.clone())
            .timeout(place.timeout)
            .header("content-type", "application/json")
            .header("webhook-id", &id)
            .header("webhook-timestamp", now.to_string())
            .header("webhook-signature", format!("v1,{signature}"))
            .body(body);
        // What the other says is not kept: it is theirs, and may be long.
        let answer = request.send().await.map_err(|error| Failure::Retry(reason(&error)))?;
        let status = answer.status();
        match status {
            _ if status.is_success() => Ok(json!({ "status": status.as_u16() })),
            // As Standard Webhooks has it: whoever answers so wants no more.
            StatusCode::GONE => Err(Failure::Fatal("the webhook answered 410: it is gone for good".to_owned())),
            _ => Err(Failure::Retry(format!("the webhook answered {}", status.as_u16()))),
        }
    }
}

fn secret_of(text: &str) -> Option<Vec<u8>> {
    let secret = STANDARD.decode(text.strip_prefix(SECRET_PREFIX)?).ok()?;
    (24..=64).contains(&secret.len()).then_some(secret)
}

fn sign(secret: &[u8], text: &str) -> String {
    // HMAC takes keys of any length.
    Hmac::<Sha256>::new_from_slice(secret).map_or_else(
        |_| String::new(),
        |mut mac| {
            mac.update(text.as_bytes());
            STANDARD.encode(mac.finalize().into_bytes())
        },
    )
}

/// Why there is no answer, without the URL.
fn reason(error: &reqwest::Error) -> String {
    let why = if error.is_timeout() {
        "did not answer in time"
    } else if error.is_connect() {
        "cannot be reached"
    } else {
        "broke the connection off"
    };
    format!("the webhook {why}")
}

impl Handler for Webhooks {
    fn kind(&self) -> &'static str {
        JobKind::Webhook.as_str()
    }

    fn check(&self, payload: &Value) -> Result<(), String> {
        self.place(payload).map(|_| ())
    }

    fn run<'a>(&'a self, run: &'a Run) -> BoxFuture<'a, Result<Value, Failure>> {
        Box::pin(self.send(run))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_signature_is_that_of_the_specifications_example() {
        // The example of standard-webhooks' own libraries.
        let secret = secret_of("whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw").unwrap();
        let text = "msg_p5jXN8AQM9LWM0D4loKWxJek.1614265330.{\"test\": 2432232314}";
        assert_eq!(sign(&secret, text), "g0hM9SsE+OTPJTGt/tmIKtSyZlE3uFJELVlNIOLJ1OE=");
    }

    #[test]
    fn a_secret_that_is_none_is_refused_without_being_shown() {
        let webhook = |secret: &str| Webhook {
            name: "app".to_owned(),
            url: "https://app.example.com".to_owned(),
            secret: secret.to_owned(),
            timeout: Duration::from_secs(1),
        };
        for secret in ["hush", "whsec_aHVzaA==", "whsec_%%%"] {
            let error = Webhooks::new(vec![webhook(secret)]).err().unwrap();
            assert!(error.contains("app") && !error.contains(secret), "{error}");
        }
    }
}
