//! Collections in this process, in files under one folder.
//!
//! [`Store`] knows the collections by name; a [`Collection`] has spaces, one of them active; a
//! [`Space`] holds points. On disk:
//!
//! ```text
//! lock                          held by the one server that may write here
//! catalog.json                  names and aliases, and which folder each is in
//! collections/N/collection.json which spaces there are, and which is active
//! collections/N/spaces/M/       one space: manifest.json, log/, segments/
//! snapshots/N/                  snapshots of the collection in that folder
//! ```
//!
//! Folders are numbered: a name that a client made up never becomes a path.

mod builder;
mod collection;
mod contract;
#[cfg(test)]
mod failures;
mod faults;
mod files;
mod index;
mod log;
mod merge;
mod open;
mod plan;
mod points;
mod recall;
mod record;
mod resolve;
mod search;
mod segment;
mod sieve;
mod snapshot;
mod space;
mod store;
mod tune;
mod view;
mod warm;
mod writer;

pub use collection::Collection;
pub use recall::{Recall, RecallKey};
pub use snapshot::Snapshot;
pub use space::Space;
pub use store::Store;
pub use tune::{TUNE_LIMIT_MAX, Trial, Tuning, Wanted};
pub use warm::WarmStatus;
