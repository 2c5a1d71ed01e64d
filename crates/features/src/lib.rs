//! Features.

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
pub use store::{Counts, Features, FlushRule, Options};
pub use value::Value;
