//! The project file, `halny.toml`: what it may say, its JSON Schema, and what is wrong with one.
//!
//! A file is checked whole: [`check`] gives every problem it finds, each with its line, what is
//! wrong and what would be right, never only the first. The shape (names, types, ranges) is
//! checked against the JSON Schema that is generated from the types in [`model`]; what a schema
//! cannot say (two models of one name) is checked after.
//!
//! Not serde's own errors: they stop at the first, and know no line of a value that is well-formed
//! but wrong.

mod address;
mod check;
mod diff;
pub mod features;
pub mod generate;
pub mod jobs;
mod json;
mod locate;
pub mod model;
mod quote;
pub mod routes;
mod rules;
mod schema;
mod server_place;
mod shape;
mod source;
mod store;
mod vectors;

pub use check::{Checked, FILE_BYTES_MAX, PROBLEMS_MAX, Problem, check, problem_at};
pub use diff::{ProjectDiff, diff};
pub use generate::{Adapter, CellFormat, GenerateOptions, GenerateProfile};
pub use model::{
    Cache, CpuThreads, Model, OnnxRuntime, Packing, Pooling, Precision, Profile, Project, Server, TaskKind, TextOptions,
};
pub use routes::Route;
pub use schema::schema;
pub use store::{Store, StoreEngine};
pub use vectors::{VectorEngine, Vectors, WARM_RANGE};
