//! Rows by time: Parquet files that others write, parts that this crate writes, and joins over both.

pub(crate) mod chunks;
pub(crate) mod files;
pub(crate) mod join;
pub(crate) mod parts;
pub(crate) mod rows;
pub(crate) mod scan;
pub(crate) mod sort;
