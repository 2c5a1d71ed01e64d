//! Features: what is known of a user or an item when a model is asked about it, and what was known at any time before.
//!
//! A *view* holds rows: a key of one or more entities, a time from which on it holds, values of features. Online the newest
//! row of each key is served; offline all rows are kept, and joined to moments of the past to train with. What a model is
//! trained with has to be what it would have been served, so both sides are one crate, and share the code that could
//! make them differ. What it promises:
//!
//! 1. *No value of the future, none that expired.* A row is served, or joined, at a moment when its time has come and is no
//!    longer ago than the view's ttl. One pure function says so for both ([`age()`]). A row whose time is to come hides
//!    nothing that holds: it waits beside the online store, and is in it within a second of its time.
//! 2. *The newest row holds*: that of the latest event; of one event's rows the one that was made later; of those the one
//!    that was written later. An older row never takes the place of a newer one, whoever writes it and whenever
//!    ([`online`]).
//! 3. *What was answered is kept.* A push is answered when it is on disk: in one transaction in the journal of this server
//!    and, with the embedded store, among the values that are served. The journal is read by every join, and becomes
//!    Parquet files when it is long or old. With a Redis server, a push is journalled first, then served, then answered;
//!    what a crash kept from being served is served when the features are opened again.
//! 4. *Late data is not missed.* Materialising knows what it read by file, not by time. Running it again does no harm.
//! 5. *A schema that changed serves no wrong value.* Stored rows say which features they hold, of which types.
//! 6. *A join keeps to its memory* ([`Options::join_memory`]), which bounds what sorts and merges; beside it there are pages
//!    of the files that are read and one batch, which do not grow with the rows.
//! 7. *What is computed is computed alike*: on-demand features are the same expressions over the same values online and in
//!    the join. What an expression cannot compute is null, and counted ([`Counts::on_demand_failed`]).
//!
//! [`Features`] is the one handle. Its methods are async, and compute in the CPU pool or on threads that may block. With
//! several servers on one Redis and one offline store, pushed rows are seen by the joins of other servers once they are in
//! Parquet files, and each server materialises for itself, which the fence makes harmless.
//!
//! Not Feast itself, whose definitions and protocol this follows: it needs Python in the path of every request and leaves
//! durability of pushes, late data and skew to its user. Not a stream processor: values are computed elsewhere, or on
//! demand.

mod background;
mod columns;
mod definitions;
mod error;
mod expression;
mod historical;
mod json;
mod key;
mod local;
mod materialise;
mod moment;
mod offline;
pub mod online;
mod packed;
mod push;
mod replay;
mod selection;
mod serve;
mod served;
mod statistics;
mod store;
mod value;

pub use definitions::{DefinitionProblem, Definitions, NamedType, OnDemand, Service, View};
pub use error::FeaturesError;
pub use historical::{Batches, HistoricalRequest};
pub use key::{KEY_BYTES_MAX, KeyPart};
pub use materialise::Materialised;
pub use moment::{Age, Clock, Moment, age};
pub use offline::files::{Folders, Places};
pub use packed::ROW_BYTES_MAX;
pub use push::{PUSH_ROWS_MAX, PushTo, Pushed};
pub use replay::{Difference, Replayed, Skew};
pub use serve::{Asked, OnlineRequest, OnlineResponse, SERVE_ROWS_MAX, SERVE_VALUES_MAX, Status};
pub use statistics::{FeatureStatistics, Numbers, TOP_VALUES, TopValues};
pub use store::{Counts, Features, FlushRule, Options, offline_folder};
pub use value::Value;
