//! Collections of vectors with payloads, each bound to what made its vectors.
//!
//! A collection holds points: an id, vectors by name, a payload in JSON. It finds those nearest to a
//! vector, among all or among those that pass a filter on payloads. What it promises:
//!
//! 1. A write that was answered, and asked to be waited for, is there after a crash of the process
//!    or the machine; one that was not answered is there whole or not at all.
//! 2. A write is seen whole or not at all, by every search that begins after its answer.
//! 3. Searches, writes and builds of indexes do not wait for each other.
//! 4. Every score that is given out is computed on the vector itself, at full precision.
//! 5. A vector is compared only with vectors of its *embedding space*: of the same model version,
//!    pooling and dimensions. Several spaces may be under one name; one is active, and is
//!    switched at once.
//!
//! The contract is in [`Collections`], [`Spaces`] and [`Points`]. [`embedded`] keeps collections in this
//! process, in files; [`postgres`] in PostgreSQL with pgvector and [`qdrant`] in a Qdrant cluster, for several servers.
//! What each promises less, its docs say; `tests/contract` asks the same of all.
//!
//! Not a library for indexes alone, as `usearch` or `hnswlib` are: they know neither payloads nor
//! crashes, and forget or block while they build.

mod compression;
mod config;
mod contract;
mod edit;
pub mod embedded;
mod error;
mod point;
pub mod postgres;
pub mod qdrant;
pub mod query;
mod request;
mod scan;

pub use config::{
    CodeBits, CollectionConfig, DIMENSIONS_MAX, Distance, EF_CONSTRUCT, EF_MAX, EmbeddingSpace, M, METADATA_BYTES_MAX,
    Precision, Segmenting, Tier, VECTOR_NAME_BYTES_MAX, VECTORS_MAX, VectorConfig,
};
pub use contract::{AliasChange, Collections, Points, Reconfigure, SpaceStatus, Spaces, VectorStatus, Waiting};
pub use error::VectorsError;
pub use point::{Named, Payload, Point};
pub use request::{PayloadSelect, Record, Scored, Scroll, Search, SearchParams, Select, Selector, VectorSelect, Write};
