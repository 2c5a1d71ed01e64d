//! Payloads of points: filters over JSON values, and the indexes that answer them.
//!
//! What a filter means is what Qdrant means by it. [`Filter::matches`] is the definition; a
//! [`PayloadIndex`] answers the same for many points at once, from bitmaps, as far as it has indexes
//! of the fields, and says where it has to be asked point by point.

mod condition;
mod error;
mod filter;
mod id;
mod index;
mod kind;
mod path;
mod values;

pub use condition::{Condition, GeoPoint, Match, Range, Region, Scalar};
pub use error::FilterError;
pub use filter::{Filter, Subject, Written};
pub use id::PointId;
pub use index::{FacetValue, PayloadIndex, Selection};
pub use kind::{FieldKind, TextOptions};
pub use path::{JsonPath, Step};
pub use values::order_value;
