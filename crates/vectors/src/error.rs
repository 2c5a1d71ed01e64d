//! Why a request to a collection was refused, or failed.

use halny_payload::{FilterError, PointId};
use halny_types::{Blame, Fault};
use thiserror::Error;

use crate::EmbeddingSpace;

/// Why a request to a collection was refused, or failed.
#[derive(Debug, Error)]
pub enum VectorsError {
    /// No collection or alias has this name.
    #[error("there is no collection {0:?}; GET /collections lists those there are")]
    NoCollection(String),
    /// No alias has this name.
    #[error("there is no alias {0:?}; GET /aliases lists those there are")]
    NoAlias(String),
    /// The name is taken.
    #[error("there is a collection or an alias {0:?} already")]
    Exists(String),
    /// A name breaks the rules of names.
    #[error("{0}")]
    Name(String),
    /// A setting is out of its range.
    #[error("{0}")]
    Config(String),
    /// The collection has no vector of that name.
    #[error("the collection has no vector {name:?}; it has {known}")]
    NoVector {
        /// What was asked for.
        name: String,
        /// What there is.
        known: String,
    },
    /// A vector of another size than the collection's.
    #[error("a vector of {is} dimensions was given where the collection's vector {name:?} has {expected}")]
    Dimensions {
        /// The vector's name.
        name: String,
        /// Its size here.
        expected: usize,
        /// The size that was given.
        is: usize,
    },
    /// A number that cannot be compared.
    #[error("a vector {name:?} holds {value} in place {place}; vectors are made of finite numbers")]
    NotFinite {
        /// The vector's name.
        name: String,
        /// Which number of it.
        place: usize,
        /// What it is.
        value: f32,
    },
    /// The vectors of the collection were made by another model.
    #[error(
        "the collection holds vectors of {holds}, and these are of {given}; vectors of two models cannot be compared"
    )]
    Space {
        /// What made the collection's vectors.
        holds: Box<EmbeddingSpace>,
        /// What made those of the request.
        given: String,
    },
    /// The collection has no vectors of that model version.
    #[error("the collection has no vectors of {0}; GET /halny/v1/collections/{{collection}}/spaces lists those it has")]
    NoSpace(String),
    /// No point has this id.
    #[error("there is no point {0}")]
    NoPoint(PointId),
    /// The point has no such vector.
    #[error("the point {id} has no vector {name:?}")]
    NoVectorOfPoint {
        /// The point.
        id: PointId,
        /// The vector.
        name: String,
    },
    /// A filter that cannot be read.
    #[error(transparent)]
    Filter(#[from] FilterError),
    /// A value is out of its range.
    #[error("{0}")]
    Invalid(String),
    /// Something that Qdrant has and Halny has not.
    #[error("`{0}` is not supported")]
    Unsupported(String),
    /// There is no such snapshot.
    #[error("there is no snapshot {0:?}")]
    NoSnapshot(String),
    /// A snapshot that is not whole.
    #[error("the snapshot cannot be restored: {0}")]
    Snapshot(String),
    /// The disk has no room.
    #[error("the disk has no room for what was to be written; nothing of it was kept")]
    NoRoom,
    /// A write or read failed.
    #[error("the collection's files cannot be written or read")]
    Files(#[from] std::io::Error),
    /// An earlier write failed in a way that leaves unknown what is on disk.
    #[error("the collection takes no writes since its disk failed; restart the server once the disk works")]
    Broken,
    /// The server that keeps the collections cannot be reached, is busy, or lost the request.
    #[error(
        "the {0} server of the collections cannot be reached, or has no connection free; a write under way is there whole or not at all, send it again"
    )]
    Unavailable(&'static str),
    /// The server that keeps the collections took too long.
    #[error("the {0} server of the collections took longer than it may; ask for less, or allow it more")]
    TooSlow(&'static str),
    /// The server that keeps the collections answered with what nobody expects.
    #[error("the {0} server of the collections refused the request; what it said is in the log")]
    Engine(&'static str),
    /// The collection was deleted, or the server stops.
    #[error("the collection was closed while the request waited")]
    Closed,
}

impl Blame for VectorsError {
    fn fault(&self) -> Fault {
        use VectorsError as E;
        match self {
            E::NoCollection(_) | E::NoAlias(_) | E::NoPoint(_) | E::NoSpace(_) | E::NoSnapshot(_) => Fault::Missing,
            E::Filter(error) => error.fault(),
            E::Unsupported(_) => Fault::Unsupported,
            E::Unavailable(_) => Fault::Overload,
            E::TooSlow(_) => Fault::Late,
            E::Engine(_) => Fault::Ours,
            E::NoRoom | E::Files(_) | E::Broken | E::Closed => Fault::Ours,
            E::Exists(_) => Fault::Conflict,
            E::Name(_) | E::Config(_) | E::NoVector { .. } | E::Dimensions { .. } => Fault::Caller,
            E::NotFinite { .. } | E::Space { .. } | E::NoVectorOfPoint { .. } => Fault::Caller,
            E::Invalid(_) | E::Snapshot(_) => Fault::Caller,
        }
    }
}
