//! What features there are, for whoever asks for some by name: their types, and what has to be given to get them.

use std::collections::BTreeMap;

use serde_json::Value;

use super::{Entity, FeatureService, FeatureType, FeatureView, OnDemandView, feature_reference};
use crate::project::Project;
use crate::project::quote::abbreviated;
use crate::project::routes::{Trouble, instead_of};
use crate::project::rules::items;

/// The features of a project, as far as they can be read.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Catalogue {
    keys: BTreeMap<String, (String, FeatureType)>,
    views: BTreeMap<String, Listed>,
    services: BTreeMap<String, BTreeMap<u32, Vec<String>>>,
    /// Whether every part of the project's features could be read.
    whole: bool,
}

/// A view, of whichever kind.
#[derive(Clone, Debug, Default, PartialEq)]
struct Listed {
    features: Vec<(String, FeatureType)>,
    entities: Vec<String>,
    sources: Vec<String>,
    request: BTreeMap<String, FeatureType>,
}

/// What was chosen, and what has to be given for it.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct ChosenFeatures {
    /// View, feature and type, in the order in which they are served.
    pub features: Vec<(String, String, FeatureType)>,
    /// The join keys.
    pub keys: BTreeMap<String, FeatureType>,
    /// The fields of the request that on-demand features read.
    pub request: BTreeMap<String, FeatureType>,
}

impl ChosenFeatures {
    /// What each is called.
    ///
    /// # Errors
    /// When two are called alike.
    pub fn named(&self, full: bool) -> Result<BTreeMap<String, FeatureType>, Trouble> {
        let mut named = BTreeMap::new();
        for (view, feature, of) in &self.features {
            let name = if full { format!("{view}__{feature}") } else { feature.clone() };
            if named.insert(name.clone(), *of).is_some() {
                let wrong = format!("two of the features are called {name:?}");
                return Err(Trouble {
                    wrong,
                    right: "write full_feature_names = true, or ask for one of them".to_owned(),
                });
            }
        }
        Ok(named)
    }
}

impl Catalogue {
    /// That of a project that was checked.
    #[must_use]
    pub fn of(project: &Project) -> Catalogue {
        let mut catalogue = Catalogue { whole: true, ..Catalogue::default() };
        project.entities.iter().for_each(|it| catalogue.entity(it));
        project.feature_views.iter().for_each(|it| catalogue.view(it));
        project.on_demand_views.iter().for_each(|it| catalogue.on_demand(it));
        project.feature_services.iter().for_each(|it| catalogue.service(it));
        catalogue
    }

    /// That of a file of which parts may be wrong: those are left out.
    pub(in crate::project) fn of_document(document: &Value) -> Catalogue {
        let mut catalogue = Catalogue { whole: true, ..Catalogue::default() };
        fn each<T: serde::de::DeserializeOwned>(document: &Value, list: &str, mut take: impl FnMut(&T)) -> bool {
            let read = |item: &Value| serde_json::from_value::<T>(item.clone());
            items(document, list).iter().fold(true, |whole, item| match read(item) {
                Ok(item) => {
                    take(&item);
                    whole
                }
                Err(_) => false,
            })
        }
        let whole = [
            each(document, "entities", |it| catalogue.entity(it)),
            each(document, "feature_views", |it| catalogue.view(it)),
            each(document, "on_demand_views", |it| catalogue.on_demand(it)),
            each(document, "feature_services", |it| catalogue.service(it)),
        ];
        catalogue.whole = whole.into_iter().all(|whole| whole);
        catalogue
    }

    fn entity(&mut self, entity: &Entity) {
        self.keys.insert(entity.name.clone(), (entity.join_key().to_owned(), entity.value_type));
    }

    fn view(&mut self, view: &FeatureView) {
        let features = view.features.iter().map(|it| (it.name.clone(), it.value_type)).collect();
        let listed = Listed { features, entities: view.entities.clone(), ..Listed::default() };
        self.views.insert(view.name.clone(), listed);
    }

    fn on_demand(&mut self, view: &OnDemandView) {
        let features = view.features.iter().map(|it| (it.name.clone(), it.value_type)).collect();
        let (sources, request) = (view.sources.clone(), view.request.clone());
        self.views.insert(view.name.clone(), Listed { features, sources, request, ..Listed::default() });
    }

    fn service(&mut self, service: &FeatureService) {
        let versions = self.services.entry(service.name.as_str().to_owned()).or_default();
        versions.insert(service.version, service.features.clone());
    }

    /// The join key that is meant by the name of a column: a join key, or the name of its entity.
    #[must_use]
    pub fn join_key<'a>(&'a self, column: &'a str) -> &'a str {
        self.keys.get(column).map_or(column, |(key, _)| key.as_str())
    }

    /// The features of a service: `name` for its highest version, or `name@version`.
    ///
    /// # Errors
    /// When there is none of that name; nothing where that cannot be told.
    pub fn of_service(&self, reference: &str) -> Result<Option<ChosenFeatures>, Trouble> {
        let (name, version) = match reference.split_once('@') {
            Some((name, version)) => (name, Some(version)),
            None => (reference, None),
        };
        let versions = self.services.get(name);
        let found = versions.and_then(|versions| match version {
            None => versions.values().next_back(),
            Some(version) => versions.get(&version.parse().ok()?),
        });
        match (found, versions) {
            (Some(features), _) => self.of_features(features),
            (None, _) if !self.whole => Ok(None),
            (None, Some(_)) => {
                let wrong = format!("the feature service {name:?} has no such version");
                Err(Trouble { wrong, right: format!("write {name:?}, which is its highest, or another version") })
            }
            (None, None) => {
                let wrong = format!("no feature service is called {}", abbreviated(name));
                Err(Trouble { wrong, right: instead_of(name, self.services.keys().map(String::as_str)) })
            }
        }
    }

    /// The features that references name: `view:feature`, or `view` for all of its features.
    ///
    /// # Errors
    /// When there is none of that name; nothing where that cannot be told.
    pub fn of_features(&self, references: &[String]) -> Result<Option<ChosenFeatures>, Trouble> {
        let mut chosen = ChosenFeatures::default();
        for reference in references {
            let (view, feature) = feature_reference(reference);
            let Some(listed) = self.views.get(view) else {
                if !self.whole {
                    return Ok(None);
                }
                let wrong = format!("no view of features is called {}", abbreviated(view));
                return Err(Trouble { wrong, right: instead_of(view, self.views.keys().map(String::as_str)) });
            };
            let before = chosen.features.len();
            let wanted = listed.features.iter().filter(|(name, _)| feature.is_none_or(|feature| feature == name));
            chosen.features.extend(wanted.map(|(name, of)| (view.to_owned(), name.clone(), *of)));
            if let Some(feature) = feature.filter(|_| chosen.features.len() == before) {
                let wrong = format!("the view {view:?} has no feature {}", abbreviated(feature));
                let known = listed.features.iter().map(|(name, _)| name.as_str());
                return Err(Trouble { wrong, right: instead_of(feature, known) });
            }
            let sources = listed.sources.iter().filter_map(|source| self.views.get(source));
            for entity in std::iter::once(listed).chain(sources).flat_map(|listed| &listed.entities) {
                if let Some((key, of)) = self.keys.get(entity) {
                    chosen.keys.insert(key.clone(), *of);
                }
            }
            chosen.request.extend(listed.request.iter().map(|(name, of)| (name.clone(), *of)));
        }
        Ok(Some(chosen))
    }
}
