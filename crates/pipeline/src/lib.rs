//! Routes: typed steps over models and collections, run in one process, side by side where nothing waits.
//!
//! A route of the project file, once checked, becomes a [`Plan`]: what each step reads, and so what it has
//! to wait for. Running one is asking for the fields of its answer; each asks for the steps that it reads, and
//! those for theirs, each step once. So nothing runs that is not needed, everything runs as soon as it can, and
//! a step that only fallbacks read runs only when one of them is used. What it promises:
//!
//! 1. A step begins when all that it reads is there, and no later: steps that do not read each other run side
//!    by side.
//! 2. No step gets more time than is left of the request's deadline, nor more than its own.
//! 3. A step that fails, or takes too long, is replaced by its fallback, where it has one, unless the request
//!    itself is at fault. Each answer tells which steps were.
//! 4. When whoever asked goes, every step at work is dropped where it is, and none begins any more.
//! 5. A value of one request is never seen by another.
//!
//! What steps do is behind [`Capabilities`]: the gateway does them with the models and collections it has, tests
//! with fakes.
//!
//! Not a graph of tasks in an executor of its own (`dagrs`, `async_dag`): those spawn, so that what a client
//! no longer waits for goes on. Not `tower`: a layer wraps one call, it does not join several.

mod capabilities;
mod describe;
mod error;
mod perform;
mod plan;
mod request;
mod run;
mod seen;
mod trace;
mod value;

pub use capabilities::{
    Capabilities, Classified, FeaturesAsked, FeaturesRequest, FetchRequest, Fetched, GenerateRequest, Inputs, Point,
    PromptText, Sampling, SearchFor, SearchRequest, Tell, Wrote,
};
pub use describe::{openapi, request_schema, response_schema};
pub use error::{PlanError, RequestError, RouteError, StepError};
pub use plan::Plan;
pub use request::Asked;
pub use run::{Event, Running};
pub use trace::{Outcome, StepTrace, Trace};
pub use value::{Outputs, Value, Vector};
