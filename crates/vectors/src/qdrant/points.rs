//! What can be asked of a space: points by id, in order, counted, by chance, and how it stands.

use std::collections::BTreeMap;
use std::sync::Arc;

use arc_swap::ArcSwap;
use futures::future::try_join_all;
use halny_payload::{Condition, FacetValue, FieldKind, Filter, PointId};
use reqwest::Method;
use serde::Deserialize;
use serde_json::{Value, json};

use super::client::result;
use super::error::{Failure, broken, told};
use super::reading::{Answered, IDS, Reading};
use super::settings::{Info, Mark, unsupported};
use super::{Cluster, configure, search, writes};
use crate::{
    CollectionConfig, Points, Reconfigure, Record, Scored, Scroll, Search, Select, SpaceStatus, VectorStatus,
    VectorsError, Waiting, Write, scan,
};

/// The most points that are read at once.
pub(super) const PAGE: usize = 1_000;
/// Bytes of vectors that are read at once, about. Payloads are as large as they are: a page that is too large for that is
/// asked for in halves.
const PAGE_BYTES: usize = 16 << 20;
/// The most that one request may ask for.
pub(super) const LIMIT_MAX: usize = 1_000_000;

/// A space: a collection of the cluster's.
pub(super) struct Space {
    pub(super) cluster: Arc<Cluster>,
    /// What the cluster calls it.
    pub(super) name: String,
    pub(super) config: ArcSwap<CollectionConfig>,
    /// Vectors that Halny cannot ask, and what they are.
    others: BTreeMap<String, &'static str>,
}

/// A page of points in the order of their ids.
#[derive(Deserialize)]
struct Page<'a> {
    #[serde(borrow)]
    points: Vec<Answered<'a>>,
    next_page_offset: Option<PointId>,
}

#[derive(Deserialize)]
struct Count {
    count: usize,
}

#[derive(Deserialize)]
struct Hits {
    hits: Vec<Hit>,
}

#[derive(Deserialize)]
struct Hit {
    value: Value,
    count: u64,
}

impl Space {
    /// What the cluster tells of, which is ours if it is marked.
    pub(super) fn of(
        cluster: &Arc<Cluster>,
        name: &str,
        info: &Info,
        mark: Option<&Mark>,
    ) -> Result<Space, VectorsError> {
        let known = info.known(mark)?;
        Ok(Space {
            cluster: Arc::clone(cluster),
            name: name.to_owned(),
            config: ArcSwap::from_pointee(known.config),
            others: known.others,
        })
    }

    pub(super) fn reading<'a>(&self, select: &'a Select, filter: Option<&'a Filter>) -> Reading<'a> {
        Reading::new(self.config.load_full(), !self.others.is_empty(), select, filter)
    }

    /// Refuses a vector that is there and that Halny does not have.
    pub(super) fn check_vector(&self, name: &str) -> Result<(), VectorsError> {
        self.others.get(name).map_or(Ok(()), |what| Err(unsupported(what)))
    }

    /// The answer to a request about the points.
    pub(super) async fn ask(&self, what: &[&str], body: &Value) -> Result<Vec<u8>, Failure> {
        let path: Vec<&str> = ["collections", &self.name].iter().chain(what).copied().collect();
        self.cluster.client.send(Method::POST, &path, None, Some(body.to_string().into_bytes())).await
    }

    /// Points from an id on, at most so many, those that pass, and the id to go on with.
    async fn page(
        &self,
        reading: &Reading<'_>,
        from: Option<PointId>,
        most: usize,
    ) -> Result<(Vec<Record>, Option<PointId>), Failure> {
        let mut request = reading.request();
        request.insert("limit".to_owned(), json!(most));
        if let Some(from) = from {
            request.insert("offset".to_owned(), json!(from));
        }
        let answer = self.ask(&["points", "scroll"], &request.into()).await?;
        let page: Page<'_> = result(&answer)?;
        let records = page.points.into_iter().filter_map(|point| reading.record(point).transpose());
        Ok((records.collect::<Result<_, VectorsError>>()?, page.next_page_offset))
    }

    async fn scrolled(&self, scroll: &Scroll) -> Result<(Vec<Record>, Option<PointId>), VectorsError> {
        let reading = self.reading(&scroll.select, scroll.filter.as_deref());
        let mut pages = Pages::new(&reading, scroll.from);
        let wanted = scroll.limit.saturating_add(1);
        let mut records: Vec<Record> = Vec::new();
        while records.len() < wanted {
            // What passes is not known before it is read where the filter is asked here.
            let most = if reading.asks() { usize::MAX } else { wanted - records.len() };
            let Some(more) = pages.next(self, &reading, most).await? else { break };
            records.extend(more);
        }
        let next = records.get(scroll.limit).map(|record| record.id);
        records.truncate(scroll.limit);
        Ok((records, next))
    }

    pub(super) async fn all(
        &self,
        filter: Option<&Filter>,
        select: &Select,
        with: &mut dyn FnMut(Record),
    ) -> Result<(), VectorsError> {
        let reading = self.reading(select, filter);
        let mut pages = Pages::new(&reading, None);
        while let Some(records) = pages.next(self, &reading, usize::MAX).await? {
            records.into_iter().for_each(&mut *with);
        }
        Ok(())
    }

    /// The ids of all points that pass.
    pub(super) async fn passing(&self, filter: &Filter) -> Result<Vec<PointId>, VectorsError> {
        let reading = self.reading(&IDS, Some(filter));
        let mut pages = Pages::new(&reading, None);
        let mut ids = Vec::new();
        while let Some(records) = pages.next(self, &reading, usize::MAX).await? {
            ids.extend(records.into_iter().map(|record| record.id));
        }
        Ok(ids)
    }

    /// Those of these ids that are there, in whatever order.
    pub(super) async fn there(
        &self,
        ids: &[PointId],
        select: &Select,
    ) -> Result<BTreeMap<PointId, Record>, VectorsError> {
        let reading = self.reading(select, None);
        let bare = select.payload.is_none() && select.vectors.is_none();
        let mut size = if bare { writes::IDS_MAX } else { page_size(&reading) };
        let mut found = BTreeMap::new();
        let mut rest = ids;
        while !rest.is_empty() {
            let (some, after) = rest.split_at(size.min(rest.len()));
            let mut request = reading.request();
            request.insert("ids".to_owned(), json!(some));
            let answer = match self.ask(&["points"], &request.into()).await {
                Err(Failure::AnswerTooLarge(_)) if some.len() > 1 => {
                    size = some.len() / 2;
                    continue;
                }
                answer => answer.map_err(told)?,
            };
            for point in result::<Vec<Answered<'_>>>(&answer).map_err(told)? {
                found.extend(reading.record(point)?.map(|record| (record.id, record)));
            }
            rest = after;
        }
        Ok(found)
    }

    async fn by_id(&self, ids: &[PointId], select: &Select) -> Result<Vec<Record>, VectorsError> {
        let found = self.there(ids, select).await?;
        Ok(ids.iter().filter_map(|id| found.get(id).cloned()).collect())
    }

    async fn counted(&self, filter: Option<&Filter>) -> Result<usize, VectorsError> {
        let reading = self.reading(&IDS, filter);
        if reading.asks() {
            let mut count = 0;
            self.all(filter, &IDS, &mut |_| count += 1).await?;
            return Ok(count);
        }
        let mut request = json!({ "exact": true });
        if let Some(filter) = reading.request().remove("filter") {
            request["filter"] = filter;
        }
        let answer = self.ask(&["points", "count"], &request).await.map_err(told)?;
        Ok(result::<Count>(&answer).map_err(told)?.count)
    }

    async fn sampled(&self, filter: Option<&Filter>, most: usize) -> Result<Vec<PointId>, VectorsError> {
        let mut request = self.reading(&IDS, filter).request();
        request.insert("query".to_owned(), json!({ "sample": "random" }));
        request.insert("limit".to_owned(), json!(most.min(LIMIT_MAX)));
        let answer = self.ask(&["points", "query"], &request.into()).await.map_err(told)?;
        let found: search::Found<'_> = result(&answer).map_err(told)?;
        Ok(found.points.into_iter().map(|point| point.id).collect())
    }

    async fn facets(
        &self,
        field: &str,
        filter: Option<&Filter>,
        limit: usize,
    ) -> Result<Vec<(FacetValue, u64)>, VectorsError> {
        let path: halny_payload::JsonPath = field.parse()?;
        let mut request = json!({ "key": path.quoted(), "limit": limit.min(LIMIT_MAX), "exact": true });
        if let Some(filter) = self.reading(&IDS, filter).request().remove("filter") {
            request["filter"] = filter;
        }
        let answer = self.ask(&["facet"], &request).await.map_err(told)?;
        let hits: Hits = result(&answer).map_err(told)?;
        let read = |hit: Hit| {
            let value = match &hit.value {
                Value::Bool(value) => FacetValue::Bool(*value),
                Value::String(text) => FacetValue::Text(text.clone()),
                other => FacetValue::Integer(other.as_i64().ok_or_else(|| broken("read a facet", other))?),
            };
            Ok((value, hit.count))
        };
        let counts = hits.hits.into_iter().map(read).collect::<Result<_, VectorsError>>()?;
        Ok(scan::most_first(counts, limit))
    }

    async fn stands(&self) -> Result<SpaceStatus, VectorsError> {
        let config = self.config.load_full();
        let with_vector =
            |name: &String| Filter { must: vec![Condition::HasVector(name.clone())], ..Filter::default() };
        let filters: Vec<Filter> = config.vectors.keys().map(with_vector).collect();
        let counts = try_join_all(filters.iter().map(|filter| self.counted(Some(filter))));
        let info = async { self.cluster.info(&self.name).await.map_err(told)?.ok_or(VectorsError::Closed) };
        let (info, points, counts) = futures::try_join!(info, self.counted(None), counts)?;
        let mut status = SpaceStatus {
            points,
            segments: info.segments_count.unwrap_or(1),
            unfinished: usize::from(info.status != "green"),
            ..SpaceStatus::default()
        };
        // The cluster counts those of all vectors together.
        let (indexed, all) = (info.indexed_vectors_count.unwrap_or(0), counts.iter().sum::<usize>().max(1));
        for ((name, vector), count) in config.vectors.iter().zip(counts) {
            let share = (indexed as f64 * count as f64 / all as f64) as usize;
            let vector_bytes = count * vector.dimensions * 4;
            let known = VectorStatus { vectors: count, indexed: share.min(count), index_bytes: 0, vector_bytes };
            status.vectors.insert(name.clone(), known);
        }
        for (field, known) in &info.payload_schema {
            let path = field.parse::<halny_payload::JsonPath>().map(|path| path.to_string());
            if let Some(field) = path.ok().filter(|path| config.fields.contains_key(path)) {
                status.fields.insert(field, known.points);
            }
        }
        Ok(status)
    }
}

/// How many points are read at once.
pub(super) fn page_size(reading: &Reading<'_>) -> usize {
    (PAGE_BYTES / reading.vector_bytes().max(1)).clamp(1, PAGE)
}

/// All points, a page at a time.
struct Pages {
    size: usize,
    from: Option<PointId>,
    done: bool,
}

impl Pages {
    fn new(reading: &Reading<'_>, from: Option<PointId>) -> Pages {
        Pages { size: page_size(reading), from, done: false }
    }

    /// The next points that pass, of at most so many that are read; nothing behind the last.
    async fn next(
        &mut self,
        space: &Space,
        reading: &Reading<'_>,
        most: usize,
    ) -> Result<Option<Vec<Record>>, VectorsError> {
        if self.done {
            return Ok(None);
        }
        loop {
            let size = self.size.min(most);
            match space.page(reading, self.from, size).await {
                Err(Failure::AnswerTooLarge(_)) if size > 1 => self.size = size / 2,
                page => {
                    let (records, next) = page.map_err(told)?;
                    (self.from, self.done) = (next, next.is_none());
                    return Ok(Some(records));
                }
            }
        }
    }
}

impl Points for Space {
    fn blocks(&self) -> bool {
        true
    }

    fn config(&self) -> Arc<CollectionConfig> {
        self.config.load_full()
    }

    fn write(&self, writes: Vec<Write>, wait: bool) -> Waiting<'_, u64> {
        Box::pin(writes::all(self, writes, wait))
    }

    fn configure(&self, change: Reconfigure) -> Waiting<'_, ()> {
        Box::pin(configure::configure(self, change))
    }

    fn search(&self, search: &Search, select: &Select) -> Result<Vec<Scored>, VectorsError> {
        self.cluster.wait(search::nearest(self, search, select))
    }

    fn retrieve(&self, ids: &[PointId], select: &Select) -> Result<Vec<Record>, VectorsError> {
        self.cluster.wait(self.by_id(ids, select))
    }

    fn scroll(&self, scroll: &Scroll) -> Result<(Vec<Record>, Option<PointId>), VectorsError> {
        self.cluster.wait(self.scrolled(scroll))
    }

    fn count(&self, filter: Option<&Filter>) -> Result<usize, VectorsError> {
        self.cluster.wait(self.counted(filter))
    }

    fn each(&self, filter: Option<&Filter>, select: &Select, with: &mut dyn FnMut(Record)) -> Result<(), VectorsError> {
        self.cluster.wait(self.all(filter, select, with))
    }

    fn status(&self) -> Result<SpaceStatus, VectorsError> {
        self.cluster.wait(self.stands())
    }

    fn sample(&self, filter: Option<&Filter>, most: usize) -> Result<Vec<PointId>, VectorsError> {
        if self.reading(&IDS, filter).asks() {
            return scan::sample(self, filter, most);
        }
        if most == 0 { Ok(Vec::new()) } else { self.cluster.wait(self.sampled(filter, most)) }
    }

    fn facet(
        &self,
        field: &str,
        filter: Option<&Filter>,
        limit: usize,
    ) -> Result<Vec<(FacetValue, u64)>, VectorsError> {
        let counts = [FieldKind::Keyword, FieldKind::Integer, FieldKind::Bool, FieldKind::Uuid];
        if !self.config.load().fields.get(field).is_some_and(|kind| counts.contains(kind)) {
            return Err(scan::no_facet(field));
        }
        if self.reading(&IDS, filter).asks() {
            return scan::facet(self, field, filter, limit);
        }
        if limit == 0 { Ok(Vec::new()) } else { self.cluster.wait(self.facets(field, filter, limit)) }
    }
}
