//! HTTP and gRPC surfaces, one module a protocol. Knows requests and answers, nothing about models.
//!
//! A request's way: [`connection`] tells HTTP/1.1 from HTTP/2 and gives up on who says nothing;
//! [`admission`] counts it in, names it, and refuses what is over the limits; a protocol's module
//! ([`openai`], [`rerank`], [`classify`], [`oip`], `qdrant`, `feast`, and [`pipelines`] for paths of the project's own) reads the body, checks it, makes a
//! [`RequestContext`](halny_types::RequestContext) and hands items to the
//! [residency](halny_residency); the answer takes the protocol's own shape, and so does every
//! error, in [`error`], the one place that knows what a fault is called where.
//!
//! Two ports: clients use one; the operator's, which can load and unload models, listens on
//! loopback only until credentials exist, and answers only to who addresses it by a loopback name,
//! so that a page in the operator's browser cannot.
//!
//! Not a framework's own server (`axum::serve`): it has no limit on the time a head may take, none
//! on connections, and no wait for those that are at work when it stops.

pub mod admission;
mod answer;
pub mod body;
mod bounded;
pub mod classify;
pub mod connection;
pub mod error;
mod feast;
mod features;
pub mod health;
mod http2;
mod incoming;
pub mod jobs;
pub mod oip;
pub mod openai;
mod path;
pub mod pipelines;
pub mod playground;
pub mod prepare;
mod qdrant;
pub mod rerank;
mod routes;
pub mod server;
mod sse;
pub mod state;
mod writing;

pub use error::ApiError;
pub use features::watch_features;
pub use jobs::Background;
pub use pipelines::Routes;
pub use qdrant::{follow_models, watch_collections};
pub use routes::{admin_router, data_router};
pub use server::{Listener, ServeError, serve};
pub use state::{Limits, LiveLimits, Shared};
