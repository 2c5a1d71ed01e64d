//! What the project file says of routes: paths of its own, each answered by steps over models and collections.
//!
//! A route is a small program without loops: steps read fields of the request and what other steps give,
//! by references such as `${hits.points}`. Their order follows from what they read, so nobody writes it.
//! Every reference has a type that is known before anything runs, except what payloads hold, so that
//! [`check`](super::check) finds a step that reads what nobody writes, with its line.
//!
//! Not a template language for values (Jinja, CEL): what one can express is not checked before it runs,
//! and needs bounds of time and memory at run time.

mod feature_rules;
mod field;
mod field_rules;
mod kind;
mod mapping;
mod model;
mod reading;
mod rules;
mod scope;
mod step;
mod template;

pub use field::{Field, FieldType, INTEGER_MAX};
pub use kind::{Kind, Record, Slot};
pub use mapping::Mapping;
pub use model::{ROUTES_MAX, Route, STEPS_MAX, Slo};
pub use scope::Scope;
pub use step::{
    Action, Classify, Count, Embed, FetchPayload, Generate, Join, Message, Payload, ReadFeatures, Rerank, Search, Step,
};
pub use template::{Part, Piece, Reference, Template};

pub(super) use rules::{check, warn};

/// Paths that Halny answers itself: a route's path is none of them and is not below one.
pub const RESERVED_PATHS: [&str; 15] = [
    "/aliases",
    "/collections",
    "/get-online-features",
    "/halny",
    "/health",
    "/inference.GRPCInferenceService",
    "/materialize",
    "/materialize-incremental",
    "/metrics",
    "/openapi.json",
    "/push",
    "/rerank",
    "/v1",
    "/v2",
    "/write-to-online-store",
];

/// Whether a path is one of Halny's own, or below one.
#[must_use]
pub fn is_reserved(path: &str) -> bool {
    path == "/"
        || RESERVED_PATHS
            .iter()
            .any(|own| path.strip_prefix(own).is_some_and(|rest| rest.is_empty() || rest.starts_with('/')))
}

/// What is wrong with something, and what would be right.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Trouble {
    /// What is wrong.
    pub wrong: String,
    /// What would be right.
    pub right: String,
}

impl Trouble {
    fn new(wrong: impl Into<String>, right: impl Into<String>) -> Trouble {
        Trouble { wrong: wrong.into(), right: right.into() }
    }
}

impl std::fmt::Display for Trouble {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}; {}", self.wrong, self.right)
    }
}

impl std::error::Error for Trouble {}

/// The longest name of a field or a step.
const NAME_CHARS_MAX: usize = 64;

/// Whether a text can be the name of a field or a step, so that references can be told apart.
fn is_name(text: &str) -> bool {
    text.len() <= NAME_CHARS_MAX
        && text.starts_with(|c: char| c.is_ascii_alphabetic() || c == '_')
        && text.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"_-".contains(&byte))
}

/// What is meant by a name that is not known, or which names there are.
pub(super) fn instead_of<'a>(name: &str, known: impl IntoIterator<Item = &'a str>) -> String {
    let mut known: Vec<&str> = known.into_iter().collect();
    known.sort_unstable();
    known.dedup();
    let nearest = known
        .iter()
        .filter(|_| name.len() <= NAME_CHARS_MAX)
        .map(|known| (strsim::jaro_winkler(name, known), *known))
        .filter(|(likeness, _)| *likeness >= 0.84)
        .max_by(|a, b| a.0.total_cmp(&b.0));
    match (nearest, known.as_slice()) {
        (Some((_, nearest)), _) => format!("write {nearest}"),
        (None, []) => "there is none to read".to_owned(),
        (None, [only]) => format!("write {only}"),
        (None, known) => format!("write one of {}", known.join(", ")),
    }
}
