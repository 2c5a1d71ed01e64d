//! What the project file says of features: entities, views, services, and where their values are kept.
//!
//! A *view* holds features of one or more *entities*: rows with a time, from Parquet files or pushed. An *on-demand view*
//! computes features from those of views and from fields of the request. A *service* is a versioned list of
//! features that a model is served with. The words are Feast's.
//!
//! Names of views, features and keys are identifiers without `__`, so that `view.feature` can be read in an
//! expression and `view__feature` can be taken apart again.

mod catalogue;
mod model;
mod rules;
mod store;
mod value_type;

pub use catalogue::{Catalogue, ChosenFeatures};
pub use model::{
    BatchSource, Entity, FEATURES_MAX, Feature, FeatureService, FeatureView, OnDemandFeature, OnDemandView, Source,
};
pub use rules::{feature_reference, is_identifier};
pub use store::{FeatureEngine, Features, JOIN_MEMORY_RANGE};
pub use value_type::{FeatureType, Scalar};

pub(super) use rules::{check, warn};
pub(super) use store::check as check_store;
