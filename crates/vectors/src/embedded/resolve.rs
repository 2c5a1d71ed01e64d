//! From a write as it was asked to the changes that it makes, point by point.

use std::sync::Arc;

use halny_payload::PointId;

use super::log::{RECORD_BYTES_MAX, TooLarge};
use super::record::{self, Change};
use super::search;
use super::view::Reading;
use crate::request::{last_of_each, merged};
use crate::{Named, Payload, PayloadSelect, Point, Selector, VectorSelect, VectorsError, Write, edit};

/// The changes that `write` makes to the points in `reading`.
///
/// # Errors
/// When it names a point that is not there and needs one, or changes more than one write may.
pub(super) fn changes(reading: &Reading, write: Write) -> Result<Vec<Change>, VectorsError> {
    match write {
        Write::Upsert(points) => Ok(last_of_each(points, |point| point.id).into_iter().map(Change::Put).collect()),
        Write::Delete(points) => Ok(selected(reading, points, false)?.into_iter().map(Change::Delete).collect()),
        Write::SetPayload { points, payload, key } => edited(reading, points, |old| match &key {
            Some(key) => edit::merge_at(old, key, &payload),
            None => edit::merge(old, &payload),
        }),
        Write::OverwritePayload { points, payload } => edited(reading, points, |old| old.clone_from(&payload)),
        Write::DeletePayload { points, keys } => {
            edited(reading, points, |payload| keys.iter().for_each(|key| edit::remove(payload, key)))
        }
        Write::ClearPayload(points) => edited(reading, points, Payload::clear),
        Write::UpdateVectors(updates) => {
            let update = |(id, vectors)| revectored(reading, id, |old: &mut Named| old.extend(vectors));
            bounded(merged(updates).into_iter().map(update))
        }
        Write::DeleteVectors { points, names } => {
            let points = selected(reading, points, true)?;
            let forget = |old: &mut Named| old.retain(|name, _| !names.contains(name));
            bounded(points.into_iter().map(|id| revectored(reading, id, forget)))
        }
    }
}

/// The ids of the points that are meant and there. One that is named and not there is an error
/// where `needed`, and left out otherwise.
fn selected(reading: &Reading, points: Selector, needed: bool) -> Result<Vec<PointId>, VectorsError> {
    match points {
        Selector::Ids(mut ids) => {
            let mut seen = std::collections::HashSet::with_capacity(ids.len());
            ids.retain(|id| seen.insert(*id));
            let (there, absent): (Vec<_>, Vec<_>) = ids.into_iter().partition(|id| reading.place_of(id).is_some());
            match absent.first().filter(|_| needed) {
                Some(absent) => Err(VectorsError::NoPoint(*absent)),
                None => Ok(there),
            }
        }
        Selector::Filter(filter) => {
            Ok(search::passing(reading, Some(&filter), None, usize::MAX).into_iter().map(|(id, _)| id).collect())
        }
    }
}

fn edited(reading: &Reading, points: Selector, edit: impl Fn(&mut Payload)) -> Result<Vec<Change>, VectorsError> {
    let change = |id| changed(reading, id, |point| edit(Arc::make_mut(&mut point.payload)));
    bounded(selected(reading, points, true)?.into_iter().map(change))
}

/// All of these changes, unless they are more than one write may make: a few words can mean every point there is.
fn bounded(changes: impl Iterator<Item = Result<Change, VectorsError>>) -> Result<Vec<Change>, VectorsError> {
    let mut bytes = 0;
    let mut all = Vec::new();
    for change in changes {
        let change = change?;
        bytes += record::weight(&change);
        if bytes > RECORD_BYTES_MAX {
            return Err(VectorsError::Invalid(TooLarge.to_string()));
        }
        all.push(change);
    }
    Ok(all)
}

fn revectored(reading: &Reading, id: PointId, edit: impl FnOnce(&mut Named)) -> Result<Change, VectorsError> {
    changed(reading, id, |point| edit(&mut point.vectors))
}

fn changed(reading: &Reading, id: PointId, edit: impl FnOnce(&mut Point)) -> Result<Change, VectorsError> {
    let place = reading.place_of(&id).ok_or(VectorsError::NoPoint(id))?;
    let vectors = reading.vectors(place, &VectorSelect::All);
    let payload = reading.payload(place, &PayloadSelect::All).map(Arc::new).unwrap_or_default();
    let mut point = Point { id, vectors, payload };
    edit(&mut point);
    Ok(Change::Put(point))
}
