//! The vocabulary of Halny: names, units, faults, deadlines, and the model of the project file.
//!
//! Every other crate speaks in these words, so that a deadline made at the gateway is the same
//! deadline a lane refuses by, and an error knows from birth whose fault it is. Nothing here
//! does I/O: no file is opened, no clock but the monotonic one is read.
//!
//! Not `std::time::Instant` for deadlines: it cannot be made up, and a scheduler that cannot be
//! given a made-up time cannot be tested without sleeping.

pub mod context;
pub mod fault;
pub mod guard;
pub mod name;
pub mod project;
pub mod tick;
pub mod units;
pub mod version;

pub use context::{Priority, RequestContext, RequestId};
pub use fault::{Blame, Fault};
pub use guard::guarded;
pub use name::{
    CollectionName, ModelName, NAME_BYTES_MAX, NameError, ProfileName, QueueName, RouteName, ServiceName, TenantId,
};
pub use tick::Tick;
pub use units::ByteSize;
pub use version::ModelVersion;
