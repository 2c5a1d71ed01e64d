//! What a reader sees: the segments there are, as of one write.

use std::sync::Arc;

use halny_payload::PointId;

use super::open::OpenSegment;
use super::segment::{NEVER, Segment};
use crate::{CollectionConfig, Named, Payload, PayloadSelect, VectorSelect};

/// As of the last write, confirmed or not: what the writer itself looks at.
pub(super) const LATEST: u64 = NEVER - 1;

/// The segments of a space. Replaced whole when one is sealed, merged or begun.
pub(crate) struct View {
    /// The last write when it was made. Points that had died by then may be left out of its
    /// segments, so it does not serve a reader as of an earlier write.
    pub(super) made_at: u64,
    pub(super) config: Arc<CollectionConfig>,
    /// The oldest first. The last one is open; open ones before it wait to be sealed.
    pub(super) pieces: Vec<Piece>,
}

/// A segment.
#[derive(Clone)]
pub(crate) enum Piece {
    Sealed(Arc<Segment>),
    Open(Arc<OpenSegment>),
}

/// A view as of one write: points that were written later, or had died, are not in it.
#[derive(Clone)]
pub(crate) struct Reading {
    pub(super) view: Arc<View>,
    pub(super) at: u64,
}

/// Where a point is: the place of its segment in the view, and its row there.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(crate) struct Place {
    pub(super) piece: usize,
    pub(super) row: u32,
}

impl Piece {
    pub(super) fn serial(&self) -> u64 {
        match self {
            Piece::Sealed(segment) => segment.serial,
            Piece::Open(open) => open.serial,
        }
    }

    /// The segment, once it gets no more writes.
    pub(super) fn sealed(&self) -> Option<&Arc<Segment>> {
        match self {
            Piece::Sealed(segment) => Some(segment),
            Piece::Open(_) => None,
        }
    }

    /// How many vectors of that name it holds, those of dead points included.
    pub(super) fn vectors_of(&self, name: &str) -> usize {
        match self {
            Piece::Sealed(segment) => segment.column(name).map_or(0, |column| column.rows().len()),
            Piece::Open(open) => open.read().column(name).map_or(0, |column| column.rows().len()),
        }
    }

    /// The row of the point that lived as of the write `at`.
    pub(super) fn row_of(&self, id: &PointId, at: u64) -> Option<u32> {
        match self {
            Piece::Sealed(segment) => segment.row_of(id).filter(|row| segment.lives(*row, at)),
            Piece::Open(open) => open.read().row_of(id, at),
        }
    }

    pub(super) fn bury(&self, row: u32, at: u64) {
        match self {
            Piece::Sealed(segment) => segment.bury(row, at),
            Piece::Open(open) => open.bury(row, at),
        }
    }

    /// When the point died, [`NEVER`] if it has not.
    pub(super) fn died(&self, row: u32) -> u64 {
        match self {
            Piece::Sealed(segment) => segment.died(row),
            Piece::Open(open) => open.read().died(row),
        }
    }

    pub(super) fn payload(&self, row: u32) -> Arc<Payload> {
        match self {
            Piece::Sealed(segment) => segment.payload(row).map(Arc::new).unwrap_or_default(),
            Piece::Open(open) => open.read().payload(row).cloned().unwrap_or_default(),
        }
    }

    /// A point's vectors, those that `wanted` names.
    pub(super) fn vectors(&self, row: u32, config: &CollectionConfig, wanted: &VectorSelect) -> Named {
        let names = config.vectors.keys().filter(|name| wanted.takes(name));
        match self {
            Piece::Sealed(segment) => {
                let vector = |name: &String| Some((name.clone(), segment.column(name)?.vector(row)?.to_vec()));
                names.filter_map(vector).collect()
            }
            Piece::Open(open) => {
                let rows = open.read();
                let vector = |name: &String| Some((name.clone(), rows.column(name)?.vector(row)?.to_vec()));
                names.filter_map(vector).collect()
            }
        }
    }

    /// How many points live as of the write `at`.
    pub(super) fn count(&self, at: u64) -> usize {
        match self {
            Piece::Sealed(segment) if segment.alive() == segment.len() => segment.len(),
            Piece::Sealed(segment) => (0..segment.len() as u32).filter(|row| segment.lives(*row, at)).count(),
            Piece::Open(open) => {
                let rows = open.read();
                (0..rows.len() as u32).filter(|row| rows.lives(*row, at)).count()
            }
        }
    }

    pub(super) fn id(&self, row: u32) -> Option<PointId> {
        match self {
            Piece::Sealed(segment) => segment.id(row),
            Piece::Open(open) => open.read().id(row),
        }
    }
}

/// Which of these segments are not sealed, the oldest first: their points are in logs.
pub(super) fn open_serials(pieces: &[Piece]) -> impl Iterator<Item = u64> + '_ {
    pieces.iter().filter_map(|piece| match piece {
        Piece::Open(open) => Some(open.serial),
        Piece::Sealed(_) => None,
    })
}

impl Reading {
    /// Where the point of that id is.
    pub(super) fn place_of(&self, id: &PointId) -> Option<Place> {
        let pieces = self.view.pieces.iter().enumerate().rev();
        pieces.into_iter().find_map(|(piece, segment)| Some(Place { piece, row: segment.row_of(id, self.at)? }))
    }

    pub(super) fn piece(&self, place: Place) -> Option<&Piece> {
        self.view.pieces.get(place.piece)
    }

    pub(super) fn payload(&self, place: Place, wanted: &PayloadSelect) -> Option<Payload> {
        if wanted.is_none() {
            return None;
        }
        let payload = self.piece(place).map(|piece| piece.payload(place.row)).unwrap_or_default();
        Some(wanted.of(payload))
    }

    pub(super) fn vectors(&self, place: Place, wanted: &VectorSelect) -> Named {
        if wanted.is_none() {
            return Named::new();
        }
        self.piece(place).map(|piece| piece.vectors(place.row, &self.view.config, wanted)).unwrap_or_default()
    }
}
