//! Writes of points: one request for each, more where it is large.

use std::collections::HashSet;

use halny_payload::{Filter, JsonPath, PointId};
use reqwest::{Method, StatusCode};
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use super::client::result;
use super::error::{Failure, told};
use super::points::Space;
use super::reading::IDS;
use crate::request::{last_of_each, merged};
use crate::{Named, Payload, Point, Selector, VectorsError, Write};

/// The most ids of one request.
pub(super) const IDS_MAX: usize = 50_000;
/// The most points of one request.
const POINTS_MAX: usize = 20_000;
/// Bytes of points in one request, about: a cluster takes 32 MiB unless told otherwise.
const BODY_BYTES: usize = 16 << 20;

#[derive(Deserialize)]
struct Done {
    operation_id: Option<u64>,
}

/// A point as it is sent.
#[derive(Serialize)]
struct Sent<'a> {
    id: PointId,
    vector: Vectors<'a>,
    #[serde(skip_serializing_if = "Option::is_none")]
    payload: Option<&'a Payload>,
}

#[derive(Serialize)]
#[serde(untagged)]
enum Vectors<'a> {
    One(&'a [f32]),
    Named(&'a Named),
}

/// Makes these writes one after the other, and gives the number of the last.
pub(super) async fn all(space: &Space, writes: Vec<Write>, wait: bool) -> Result<u64, VectorsError> {
    let (mut number, count) = (0, writes.len());
    for (place, write) in writes.into_iter().enumerate() {
        // The next one may need what this one made.
        let wait = wait || place + 1 < count;
        number = Writing { space, wait }.make(write).await?;
    }
    Ok(number)
}

struct Writing<'a> {
    space: &'a Space,
    wait: bool,
}

impl Writing<'_> {
    async fn make(&self, write: Write) -> Result<u64, VectorsError> {
        match write {
            Write::Upsert(points) => {
                let points = last_of_each(points, |point| point.id);
                let sent = points.iter().map(|Point { id, vectors, payload }| self.sent(*id, vectors, Some(payload)));
                self.in_parts(Method::PUT, &["points"], sent).await.map_err(told)
            }
            Write::Delete(points) => self.change(Method::POST, &["points", "delete"], points, json!({}), false).await,
            Write::SetPayload { points, payload, key } => {
                let mut body = json!({ "payload": payload });
                if let Some(key) = key {
                    body["key"] = json!(key.quoted());
                }
                self.change(Method::POST, &["points", "payload"], points, body, true).await
            }
            Write::OverwritePayload { points, payload } => {
                let body = json!({ "payload": payload });
                self.change(Method::PUT, &["points", "payload"], points, body, true).await
            }
            Write::DeletePayload { points, keys } => {
                let keys: Vec<String> = keys.iter().map(JsonPath::quoted).collect();
                let body = json!({ "keys": keys });
                self.change(Method::POST, &["points", "payload", "delete"], points, body, true).await
            }
            Write::ClearPayload(points) => {
                self.change(Method::POST, &["points", "payload", "clear"], points, json!({}), true).await
            }
            Write::UpdateVectors(updates) => self.update_vectors(merged(updates)).await,
            Write::DeleteVectors { points, names } => self.delete_vectors(points, names).await,
        }
    }

    async fn update_vectors(&self, mut updates: Vec<(PointId, Named)>) -> Result<u64, VectorsError> {
        let ids: Vec<PointId> = updates.iter().map(|(id, _)| *id).collect();
        self.check_there(&ids).await?;
        updates.retain(|(_, vectors)| !vectors.is_empty());
        let sent = updates.iter().map(|(id, vectors)| self.sent(*id, vectors, None));
        let done = self.in_parts(Method::PUT, &["points", "vectors"], sent).await;
        self.or_absent(done, &ids).await
    }

    async fn delete_vectors(&self, points: Selector, names: Vec<String>) -> Result<u64, VectorsError> {
        let config = self.space.config.load_full();
        let known: Vec<&String> = names.iter().filter(|name| config.vectors.contains_key(*name)).collect();
        if known.is_empty() {
            if let Selector::Ids(ids) = &points {
                self.check_there(ids).await?;
            }
            return self.nothing().await;
        }
        let body = json!({ "vector": known });
        self.change(Method::POST, &["points", "vectors", "delete"], points, body, true).await
    }

    /// Vectors as they are sent: the only one that has no name, alone.
    fn sent<'p>(&self, id: PointId, vectors: &'p Named, payload: Option<&'p Payload>) -> Sent<'p> {
        let vector = match vectors.get("") {
            Some(only) if vectors.len() == 1 => Vectors::One(only),
            _ => Vectors::Named(vectors),
        };
        Sent { id, vector, payload }
    }

    /// Sends points, as many at once as one request may hold.
    async fn in_parts<'p>(
        &self,
        method: Method,
        what: &[&str],
        points: impl Iterator<Item = Sent<'p>>,
    ) -> Result<u64, Failure> {
        let (mut body, mut count, mut number) = (Vec::new(), 0, None);
        for point in points {
            let bytes = serde_json::to_vec(&point).map_err(|error| super::error::broken("write a point", &error))?;
            if count == POINTS_MAX || (count > 0 && body.len() + bytes.len() > BODY_BYTES) {
                number = Some(self.send(method.clone(), what, ended(body)).await?);
                (body, count) = (Vec::new(), 0);
            }
            body.extend_from_slice(if count == 0 { b"{\"points\":[" } else { b"," });
            body.extend_from_slice(&bytes);
            count += 1;
        }
        if count > 0 {
            number = Some(self.send(method, what, ended(body)).await?);
        }
        match number {
            Some(number) => Ok(number),
            None => Ok(self.nothing().await?),
        }
    }

    /// Makes a change of points that are named or pass. Those that are named have to be there where they are `needed`.
    async fn change(
        &self,
        method: Method,
        what: &[&str],
        points: Selector,
        body: Value,
        needed: bool,
    ) -> Result<u64, VectorsError> {
        let send = |which: &str, value: Value| {
            let mut body = body.clone();
            body[which] = value;
            self.send(method.clone(), what, body.to_string().into_bytes())
        };
        match points {
            Selector::Filter(filter) => {
                let reading = self.space.reading(&IDS, Some(&filter));
                if !reading.asks() {
                    let filter = reading.request().remove("filter").unwrap_or_else(|| json!({}));
                    return send("filter", filter).await.map_err(told);
                }
                let mut number = None;
                for ids in self.space.passing(&filter).await?.chunks(IDS_MAX) {
                    // One that is gone by then is none.
                    let these = Filter::has_id(ids.to_vec()).write(&|_| true).json;
                    number = Some(send("filter", these).await.map_err(told)?);
                }
                match number {
                    Some(number) => Ok(number),
                    None => self.nothing().await,
                }
            }
            Selector::Ids(mut ids) => {
                let mut seen = HashSet::with_capacity(ids.len());
                ids.retain(|id| seen.insert(*id));
                if needed {
                    self.check_there(&ids).await?;
                }
                let mut number = None;
                for some in ids.chunks(IDS_MAX) {
                    let done = send("points", json!(some)).await;
                    number = Some(if needed { self.or_absent(done, some).await? } else { done.map_err(told)? });
                }
                match number {
                    Some(number) => Ok(number),
                    None => self.nothing().await,
                }
            }
        }
    }

    async fn send(&self, method: Method, what: &[&str], body: Vec<u8>) -> Result<u64, Failure> {
        let path: Vec<&str> = ["collections", &self.space.name].iter().chain(what).copied().collect();
        let answer = self.space.cluster.client.send(method, &path, Some(self.wait), Some(body)).await?;
        Ok(result::<Done>(&answer)?.operation_id.unwrap_or(0))
    }

    /// A write of nothing, for its number.
    async fn nothing(&self) -> Result<u64, VectorsError> {
        let body = json!({ "points": [] }).to_string().into_bytes();
        self.send(Method::POST, &["points", "delete"], body).await.map_err(told)
    }

    /// Refuses ids of which one is not there, before anything is changed: a cluster would change the others.
    async fn check_there(&self, ids: &[PointId]) -> Result<(), VectorsError> {
        let there = self.space.there(ids, &IDS).await?;
        match ids.iter().find(|id| !there.contains_key(id)) {
            Some(absent) => Err(VectorsError::NoPoint(*absent)),
            None => Ok(()),
        }
    }

    /// What is told where one of these points was not found: that, or that the space itself is gone.
    async fn or_absent(&self, done: Result<u64, Failure>, ids: &[PointId]) -> Result<u64, VectorsError> {
        match done {
            Err(failure) if failure.is(StatusCode::NOT_FOUND) => {
                self.check_there(ids).await?;
                Err(VectorsError::Closed)
            }
            done => done.map_err(told),
        }
    }
}

fn ended(mut body: Vec<u8>) -> Vec<u8> {
    body.extend_from_slice(b"]}");
    body
}
