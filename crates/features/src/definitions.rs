//! The views and services of a project, ready for use: names resolved, layouts made, expressions compiled.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::Arc;

use halny_types::project::features::{
    BatchSource, FEATURES_MAX, FeatureService, FeatureType, FeatureView, OnDemandView,
};
use halny_types::project::{Problem, Project, problem_at};
use parking_lot::Mutex;

use crate::FeaturesError;
use crate::error::shown;
use crate::expression::Expression;
use crate::key::KeyPart;
use crate::moment::SECOND;
use crate::packed::Layout;
use crate::selection::Selection;

/// Lists of features that are remembered.
const SELECTIONS_MAX: usize = 256;

/// Everything that a project says of features. It does not change: a new project file makes new ones.
#[derive(Debug, Default)]
pub struct Definitions {
    views: BTreeMap<String, Arc<View>>,
    on_demand: BTreeMap<String, Arc<OnDemand>>,
    /// The join key of each entity.
    join_keys: BTreeMap<String, String>,
    /// By name, the versions in ascending order.
    services: BTreeMap<String, Vec<Arc<Service>>>,
    /// What was asked for by lists of features: clients ask for the same again and again.
    selections: Mutex<HashMap<Vec<String>, Arc<Selection>>>,
}

/// Something that is wrong with a definition that `halny check` alone cannot see.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DefinitionProblem {
    /// The JSON pointer of the setting in the project file.
    pub pointer: String,
    /// What is wrong.
    pub wrong: String,
    /// What would be right.
    pub right: String,
}

impl DefinitionProblem {
    /// The problem with its line in the text of the project file.
    #[must_use]
    pub fn located(self, text: &str) -> Problem {
        problem_at(text, &self.pointer, self.wrong, self.right)
    }
}

/// A feature of a view.
#[derive(Clone, Debug)]
pub struct NamedType {
    /// Its name.
    pub name: String,
    /// Its type.
    pub value_type: FeatureType,
}

/// A view whose rows are kept.
#[derive(Debug)]
pub struct View {
    /// Its name.
    pub name: String,
    /// What makes its key, in order.
    pub keys: Vec<KeyPart>,
    /// Its features, in order.
    pub features: Vec<NamedType>,
    /// How long a row holds, in microseconds; 0 is for ever.
    pub ttl_micros: i64,
    /// Whether rows may be pushed.
    pub push: bool,
    /// The files that it is read from.
    pub batch: Option<BatchSource>,
    pub(crate) layout: Layout,
    /// Changes with whatever makes rows that were read before worth reading again.
    pub(crate) fingerprint: u32,
}

/// A view whose features are computed.
#[derive(Debug)]
pub struct OnDemand {
    /// Its name.
    pub name: String,
    pub(crate) inputs: Vec<Input>,
    /// Its features.
    pub features: Vec<NamedType>,
    pub(crate) expressions: Vec<Expression>,
}

/// What an expression reads.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Input {
    /// A feature of a view.
    Feature { view: String, feature: usize },
    /// A field of the request.
    Field { name: String, value_type: FeatureType },
}

/// A version of a service.
#[derive(Debug)]
pub struct Service {
    /// Its name.
    pub name: String,
    /// Its version.
    pub version: u32,
    /// Its features, as `view:feature`.
    pub features: Vec<String>,
    /// Of the served rows, how many are logged, 0 to 1.
    pub log_sample: f64,
    pub(crate) selection: Arc<Selection>,
}

impl Definitions {
    /// Those of a project that was checked.
    ///
    /// # Errors
    /// Every expression that does not compile, and whatever else no schema can say.
    pub fn new(project: &Project) -> Result<Definitions, Vec<DefinitionProblem>> {
        let mut problems = Vec::new();
        let mut definitions = Definitions::default();
        let keys: HashMap<&str, KeyPart> = project
            .entities
            .iter()
            .map(|it| (it.name.as_str(), KeyPart { name: it.join_key().to_owned(), value_type: it.value_type }))
            .collect();
        let join_key = |it: &halny_types::project::features::Entity| (it.name.clone(), it.join_key().to_owned());
        definitions.join_keys = project.entities.iter().map(join_key).collect();
        for (at, view) in project.feature_views.iter().enumerate() {
            match View::new(view, &keys) {
                Ok(made) => drop(definitions.views.insert(view.name.clone(), Arc::new(made))),
                Err((wrong, right)) => {
                    problems.push(DefinitionProblem { pointer: format!("/feature_views/{at}"), wrong, right });
                }
            }
        }
        for (at, view) in project.on_demand_views.iter().enumerate() {
            let made = OnDemand::new(view, &format!("/on_demand_views/{at}"), &definitions.views, &mut problems);
            definitions.on_demand.insert(view.name.clone(), Arc::new(made));
        }
        if problems.is_empty() {
            for (at, service) in project.feature_services.iter().enumerate() {
                if let Err(error) = definitions.add_service(service) {
                    let right = "correct the features of this service".to_owned();
                    let pointer = format!("/feature_services/{at}/features");
                    problems.push(DefinitionProblem { pointer, wrong: error.to_string(), right });
                }
            }
        }
        if problems.is_empty() { Ok(definitions) } else { Err(problems) }
    }

    fn add_service(&mut self, service: &FeatureService) -> Result<(), FeaturesError> {
        let features = self.expanded(service.features.iter().map(String::as_str))?;
        let selection = Arc::new(Selection::new(self, &features)?);
        let made = Service {
            name: service.name.as_str().to_owned(),
            version: service.version,
            features,
            log_sample: service.log_sample,
            selection,
        };
        let versions = self.services.entry(made.name.clone()).or_default();
        versions.push(Arc::new(made));
        versions.sort_by_key(|known| known.version);
        Ok(())
    }

    /// References with every view written out: `view` is `view:a`, `view:b`. More than a request may have are refused.
    pub(crate) fn expanded<'a>(&self, references: impl Iterator<Item = &'a str>) -> Result<Vec<String>, FeaturesError> {
        let mut all = Vec::new();
        for reference in references {
            if reference.contains(':') {
                all.push(reference.to_owned());
            } else {
                let features = self.features_of(reference)?;
                all.extend(features.iter().map(|feature| format!("{reference}:{}", feature.name)));
            }
            // At once: a view that is named a million times is a billion features.
            if all.len() > FEATURES_MAX {
                return Err(FeaturesError::TooMany { what: "features", count: all.len(), most: FEATURES_MAX });
            }
        }
        Ok(all)
    }

    /// What a list of references asks for.
    pub(crate) fn selected(&self, references: &[String]) -> Result<Arc<Selection>, FeaturesError> {
        if let Some(known) = self.selections.lock().get(references) {
            return Ok(Arc::clone(known));
        }
        let features = self.expanded(references.iter().map(String::as_str))?;
        let made = Arc::new(Selection::new(self, &features)?);
        let mut known = self.selections.lock();
        if known.len() >= SELECTIONS_MAX {
            known.clear();
        }
        known.insert(references.to_vec(), Arc::clone(&made));
        Ok(made)
    }

    fn features_of(&self, view: &str) -> Result<&[NamedType], FeaturesError> {
        let kept = self.views.get(view).map(|view| view.features.as_slice());
        kept.or_else(|| self.on_demand.get(view).map(|view| view.features.as_slice()))
            .ok_or_else(|| FeaturesError::NoView(shown(view)))
    }

    /// The join key that is meant by the name of a column: a join key, or the name of its entity.
    #[must_use]
    pub fn join_key<'a>(&'a self, column: &'a str) -> Option<&'a str> {
        let is_key = self.join_keys.values().any(|key| key == column);
        if is_key { Some(column) } else { self.join_keys.get(column).map(String::as_str) }
    }

    /// The view of that name.
    ///
    /// # Errors
    /// When there is none.
    pub fn view(&self, name: &str) -> Result<&Arc<View>, FeaturesError> {
        self.views.get(name).ok_or_else(|| FeaturesError::NoView(shown(name)))
    }

    /// All views, by name.
    pub fn views(&self) -> impl Iterator<Item = &Arc<View>> {
        self.views.values()
    }

    /// The on-demand view of that name.
    pub(crate) fn on_demand(&self, name: &str) -> Option<&Arc<OnDemand>> {
        self.on_demand.get(name)
    }

    /// All on-demand views, by name.
    pub fn on_demand_views(&self) -> impl Iterator<Item = &Arc<OnDemand>> {
        self.on_demand.values()
    }

    /// All services, by name and version.
    pub fn services(&self) -> impl Iterator<Item = &Arc<Service>> {
        self.services.values().flatten()
    }

    /// The service that `name` or `name@version` means; the name alone means the highest version.
    ///
    /// # Errors
    /// When there is none.
    pub fn service(&self, reference: &str) -> Result<&Arc<Service>, FeaturesError> {
        let (name, version) = match reference.rsplit_once('@') {
            Some((name, version)) => (name, Some(version.parse::<u32>().ok())),
            None => (reference, None),
        };
        let versions = self.services.get(name).map_or(&[] as &[_], Vec::as_slice);
        let found = match version {
            None => versions.last(),
            Some(version) => versions.iter().find(|known| Some(known.version) == version),
        };
        found.ok_or_else(|| FeaturesError::NoService(shown(reference)))
    }
}

impl View {
    fn new(view: &FeatureView, keys: &HashMap<&str, KeyPart>) -> Result<View, (String, String)> {
        let named = |it: &halny_types::project::features::Feature| NamedType {
            name: it.name.clone(),
            value_type: it.value_type,
        };
        let features: Vec<NamedType> = view.features.iter().map(named).collect();
        let layout = Layout::new(&view.name, features.iter().map(|it| (it.name.as_str(), it.value_type)));
        let layout = layout.ok_or_else(|| {
            let wrong = "two of its features cannot be told apart where they are stored".to_owned();
            (wrong, "rename one of them, whichever was added last".to_owned())
        })?;
        let keys = view.entities.iter().map(|entity| keys.get(entity.as_str()).cloned()).collect::<Option<Vec<_>>>();
        let keys = keys.ok_or_else(|| ("one of its entities is not declared".to_owned(), "declare it".to_owned()))?;
        // Should a release word this otherwise, files are read once more, which does no harm.
        // With a longer ttl, rows hold that were dropped when they were read.
        let read = format!("{keys:?} {features:?} {:?} {}", view.source.batch, view.ttl_s);
        let fingerprint = crc32fast::hash(read.as_bytes());
        Ok(View {
            name: view.name.clone(),
            keys,
            features,
            ttl_micros: i64::try_from(view.ttl_s).unwrap_or(i64::MAX).saturating_mul(SECOND),
            push: view.source.push,
            batch: view.source.batch.clone(),
            layout,
            fingerprint,
        })
    }

    /// The place of a feature.
    ///
    /// # Errors
    /// When the view has none of that name.
    pub(crate) fn feature(&self, name: &str) -> Result<usize, FeaturesError> {
        self.features
            .iter()
            .position(|feature| feature.name == name)
            .ok_or_else(|| no_feature(&self.name, name, &self.features))
    }

    /// The key under which the online store keeps a row.
    pub(crate) fn storage_key(&self, key: &[u8]) -> Vec<u8> {
        let mut all = Vec::with_capacity(self.name.len() + 1 + key.len());
        all.extend(self.name.as_bytes());
        all.push(0);
        all.extend(key);
        all
    }
}

pub(crate) fn no_feature(view: &str, feature: &str, known: &[NamedType]) -> FeaturesError {
    let known: Vec<&str> = known.iter().take(20).map(|feature| feature.name.as_str()).collect();
    FeaturesError::NoFeature { view: view.to_owned(), feature: shown(feature), known: known.join(", ") }
}

impl OnDemand {
    fn new(
        view: &OnDemandView,
        pointer: &str,
        views: &BTreeMap<String, Arc<View>>,
        problems: &mut Vec<DefinitionProblem>,
    ) -> OnDemand {
        let sources: BTreeSet<&str> = view.sources.iter().map(String::as_str).collect();
        let inputs = std::cell::RefCell::new(Vec::new());
        let number = |input: Input| {
            let mut inputs = inputs.borrow_mut();
            inputs.iter().position(|known| *known == input).unwrap_or_else(|| {
                inputs.push(input);
                inputs.len() - 1
            })
        };
        let resolve = |owner: &str, name: &str| {
            if owner == "request" {
                let value_type = view.request.get(name).copied().ok_or_else(|| {
                    let known: Vec<&str> = view.request.keys().map(String::as_str).collect();
                    (
                        format!("the request has no field {name:?}"),
                        format!("declare it in request = {{ {name} = \"...\" }}, or write one of {}", known.join(", ")),
                    )
                })?;
                return Ok((number(Input::Field { name: name.to_owned(), value_type }), value_type));
            }
            let source = views.get(owner).filter(|_| sources.contains(owner)).ok_or_else(|| {
                (
                    format!("{owner:?} is no source of this view"),
                    format!("write {owner:?} into sources, or read one of {}", view.sources.join(", ")),
                )
            })?;
            let feature = source.feature(name).map_err(|error| (error.to_string(), "write one of them".to_owned()))?;
            let value_type = source.features.get(feature).map(|it| it.value_type);
            let value_type = value_type.ok_or_else(|| (String::new(), String::new()))?;
            Ok((number(Input::Feature { view: owner.to_owned(), feature }), value_type))
        };
        let (mut features, mut expressions) = (Vec::new(), Vec::new());
        for (at, feature) in view.features.iter().enumerate() {
            match Expression::compile(&feature.expression, feature.value_type, &resolve) {
                Ok(expression) => {
                    features.push(NamedType { name: feature.name.clone(), value_type: feature.value_type });
                    expressions.push(expression);
                }
                Err((wrong, right)) => {
                    let pointer = format!("{pointer}/features/{at}/expression");
                    problems.push(DefinitionProblem { pointer, wrong, right });
                }
            }
        }
        OnDemand { name: view.name.clone(), inputs: inputs.into_inner(), features, expressions }
    }
}
