//! What outlives a process: the metadata database and blobs.
//!
//! One schema on two databases. [`Database`] is SQLite in a folder of this host, or PostgreSQL, which
//! several servers share; the capabilities above write their SQL once, in what both understand
//! (`$1` for parameters; `BIGINT`, `DOUBLE PRECISION` and `TEXT` for columns), and ask
//! [`Database::dialect`] in the few places where they differ. [`Blobs`] are a folder or a bucket.
//!
//! What is promised:
//!
//! 1. **What was committed stays.** SQLite runs with `synchronous=FULL`; a PostgreSQL that does not wait
//!    for its disk is warned of. Blobs in a folder are synced, and so is the folder.
//! 2. **A write sees no half of another.** [`Database::write`] is one transaction, on SQLite begun with the
//!    lock that it will need, so that it never fails in the middle for want of it.
//! 3. **A schema is never used by a Halny that does not know it.** Migrations run at the start, once,
//!    under a lock; a database that a newer Halny has used is refused.
//! 4. **A blob is there whole or not at all**, and [`Blobs::create`] lets exactly one of those win that
//!    write the same name.
//! 5. **A moved database is not used by accident.** After [`transfer`] the old one says where its
//!    contents went, and is refused.
//!
//! Not an ORM: a handful of statements, each seen by the planner of two databases, reads best as SQL.

mod bell;
pub mod blobs;
pub mod database;
pub mod error;
pub mod files;
mod migrations;
#[cfg(feature = "testsuite")]
pub mod testsuite;
pub mod transfer;

pub use bell::Bell;
pub use blobs::Blobs;
pub use database::{Clock, Database, Dialect, Place, Write};
pub use error::StoreError;
pub use files::Files;
