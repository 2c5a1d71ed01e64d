//! What can be asked of a space.

use std::collections::BTreeMap;
use std::sync::Arc;

use halny_payload::{FacetValue, Filter, PointId};
use rand::seq::SliceRandom;
use roaring::RoaringBitmap;
use serde_json::Value;

use super::index::Index;
use super::recall::{Recall, RecallKey};
use super::search::{self, Hit};
use super::space::Space;
use super::view::{Piece, Place, Reading};
use super::warm::WarmStatus;
use crate::query::OrderBy;
use crate::{
    CollectionConfig, Named, PayloadSelect, Record, Scored, Scroll, Search, Select, SpaceStatus, VectorSelect,
    VectorStatus, VectorsError, scan,
};

impl Space {
    /// What the space holds.
    #[must_use]
    pub fn config(&self) -> Arc<CollectionConfig> {
        self.reading().view.config.clone()
    }

    /// The points nearest to a vector, the nearest first.
    #[must_use]
    pub fn search(&self, search: &Search, select: &Select) -> Vec<Scored> {
        if self.shared.recalls.notice(search) {
            self.builder.measure();
        }
        let reading = self.reading();
        let hits = search::nearest(&reading, search);
        self.shared.warmth.count(&reading, &search.vector, hits.iter().map(|(place, _)| *place));
        scored(&reading, &search.vector, hits, select)
    }

    /// How much of what was found lay in memory that is kept for it.
    #[must_use]
    pub fn warmth(&self) -> WarmStatus {
        self.shared.warmth.status(&self.reading())
    }

    /// How many of the nearest are found, of what was asked lately.
    #[must_use]
    pub fn recall(&self) -> BTreeMap<RecallKey, Recall> {
        self.shared.recalls.measured()
    }

    /// The points of these ids that are there, in the order of the ids.
    #[must_use]
    pub fn retrieve(&self, ids: &[PointId], select: &Select) -> Vec<Record> {
        let reading = self.reading();
        let record = |id: &PointId| Some(record(&reading, *id, reading.place_of(id)?, select));
        ids.iter().filter_map(record).collect()
    }

    /// The vector of that name of a point.
    ///
    /// # Errors
    /// When there is no such point, or it has no such vector.
    pub fn vector_of(&self, id: &PointId, name: &str) -> Result<Vec<f32>, VectorsError> {
        let reading = self.reading();
        let place = reading.place_of(id).ok_or(VectorsError::NoPoint(*id))?;
        let mut vectors = reading.vectors(place, &VectorSelect::Only(vec![name.to_owned()]));
        vectors.remove(name).ok_or_else(|| VectorsError::NoVectorOfPoint { id: *id, name: name.to_owned() })
    }

    /// Points in the order of their ids, and the id to go on with if there are more.
    #[must_use]
    pub fn scroll(&self, scroll: &Scroll) -> (Vec<Record>, Option<PointId>) {
        let reading = self.reading();
        let most = scroll.limit.saturating_add(1);
        let mut found = search::passing(&reading, scroll.filter.as_deref(), scroll.from, most);
        let next = found.get(scroll.limit).map(|(id, _)| *id);
        found.truncate(scroll.limit);
        let records = found.into_iter().map(|(id, place)| record(&reading, id, place, &scroll.select)).collect();
        (records, next)
    }

    /// How many points pass the filter.
    #[must_use]
    pub fn count(&self, filter: Option<&Filter>) -> usize {
        search::count(&self.reading(), filter)
    }

    /// The `limit` best points by a score of one's own, which may see any of them: greater is better.
    /// Every point that passes the filter and has the vector is looked at.
    #[must_use]
    pub fn best_by(
        &self,
        vector: &str,
        filter: Option<&Filter>,
        limit: usize,
        select: &Select,
        score: &dyn Fn(&[f32]) -> Option<f32>,
    ) -> Vec<Scored> {
        let reading = self.reading();
        let wanted = VectorSelect::Only(vec![vector.to_owned()]);
        let mut best: Vec<(f32, PointId, Place)> = search::passing(&reading, filter, None, usize::MAX)
            .into_iter()
            .filter_map(|(id, place)| {
                let vector = reading.vectors(place, &wanted).remove(vector)?;
                Some((score(&vector)?, id, place))
            })
            .collect();
        best.sort_by(|a, b| b.0.total_cmp(&a.0).then(a.1.cmp(&b.1)));
        best.truncate(limit);
        let scored = |(score, id, place): (f32, PointId, Place)| {
            let Record { id, payload, vectors } = record(&reading, id, place, select);
            Scored { id, score, payload, vectors }
        };
        best.into_iter().map(scored).collect()
    }

    /// The `limit` first points by a value of their payloads, with the value and the number that it is
    /// ordered by. A point with several values comes once for each.
    #[must_use]
    pub fn ordered(
        &self,
        order: &OrderBy,
        filter: Option<&Filter>,
        limit: usize,
        select: &Select,
    ) -> Vec<(Record, Value, f64)> {
        let reading = self.reading();
        let mut found: Vec<(PointId, Place, Value, f64)> = Vec::new();
        for (id, place) in search::passing(&reading, filter, None, usize::MAX) {
            let payload = reading.payload(place, &PayloadSelect::All).unwrap_or_default();
            let values = scan::order_values(order, &payload).into_iter();
            found.extend(values.map(|(value, number)| (id, place, value, number)));
        }
        found.sort_by(|(.., a), (.., b)| if order.descending { b.total_cmp(a) } else { a.total_cmp(b) });
        found.truncate(limit);
        found
            .into_iter()
            .map(|(id, place, value, number)| (record(&reading, id, place, select), value, number))
            .collect()
    }

    /// The ids of `most` points by chance, each as likely as any other.
    #[must_use]
    pub fn sample(&self, filter: Option<&Filter>, most: usize) -> Vec<PointId> {
        let reading = self.reading();
        let mut ids: Vec<PointId> =
            search::passing(&reading, filter, None, usize::MAX).into_iter().map(|(id, _)| id).collect();
        ids.shuffle(&mut rand::rng());
        ids.truncate(most);
        ids
    }

    /// The values of a field and how many of the points that pass have each, most first.
    ///
    /// # Errors
    /// When the field has no index that knows its values.
    pub fn facet(
        &self,
        field: &str,
        filter: Option<&Filter>,
        limit: usize,
    ) -> Result<Vec<(FacetValue, u64)>, VectorsError> {
        let reading = self.reading();
        let mut counts: BTreeMap<FacetValue, u64> = BTreeMap::new();
        for piece in &reading.view.pieces {
            let passing = search::passing_in(&reading, piece, filter, None, usize::MAX);
            let within: RoaringBitmap = passing.into_iter().map(|(_, row)| row).collect();
            let values = match piece {
                Piece::Sealed(segment) => segment.fields().facet(field, &within),
                Piece::Open(open) => open.read().fields.facet(field, &within),
            };
            for (value, count) in values.ok_or_else(|| scan::no_facet(field))? {
                *counts.entry(value).or_default() += count;
            }
        }
        Ok(scan::most_first(counts, limit))
    }

    /// How the space stands.
    #[must_use]
    pub fn status(&self) -> SpaceStatus {
        let reading = self.reading();
        let config = &reading.view.config;
        let mut status = SpaceStatus {
            points: search::count(&reading, None),
            segments: reading.view.pieces.len(),
            building: self.shared.building.lock().iter().map(|progress| progress.share()).reduce(f32::min),
            ..SpaceStatus::default()
        };
        for (name, vector) in &config.vectors {
            let mut column = VectorStatus::default();
            for piece in &reading.view.pieces {
                let vectors = piece.vectors_of(name);
                let index = piece.sealed().and_then(|segment| segment.column(name)?.index());
                column.vectors += vectors;
                column.vector_bytes += vectors * vector.dimensions * 4;
                column.indexed += index.as_ref().map_or(0, |_| vectors);
                column.index_bytes += index.as_deref().map_or(0, Index::memory_bytes);
            }
            status.vectors.insert(name.clone(), column);
        }
        for piece in &reading.view.pieces {
            status.unfinished += match piece {
                Piece::Sealed(segment) => usize::from(!segment.unindexed(config).is_empty()),
                Piece::Open(_) => 1,
            };
            for field in config.fields.keys() {
                let points = match piece {
                    Piece::Sealed(segment) => segment.fields().points_with(field),
                    Piece::Open(open) => open.read().fields.points_with(field),
                };
                *status.fields.entry(field.clone()).or_default() += points as usize;
            }
        }
        // The last one is open for as long as the space is.
        status.unfinished -= 1;
        status
    }
}

fn scored(reading: &Reading, vector: &str, hits: Vec<Hit>, select: &Select) -> Vec<Scored> {
    let Some(config) = reading.view.config.vectors.get(vector) else { return Vec::new() };
    let scored = |(place, similarity): Hit| {
        let id = reading.piece(place)?.id(place.row)?;
        let Record { id, payload, vectors } = record(reading, id, place, select);
        Some(Scored { id, score: config.distance.score(similarity), payload, vectors })
    };
    hits.into_iter().filter_map(scored).collect()
}

fn record(reading: &Reading, id: PointId, place: Place, select: &Select) -> Record {
    let vectors: Named = reading.vectors(place, &select.vectors);
    Record { id, payload: reading.payload(place, &select.payload), vectors }
}
