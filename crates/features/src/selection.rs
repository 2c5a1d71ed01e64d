//! What a request asks for, as places: which views are read, what is computed, and what goes where in the answer.
//!
//! Both the online store and the join fill the same row of *slots* (features that are read, then fields of the request,
//! then features that are computed), so that what is computed from them is computed by the same lines.

use std::collections::BTreeMap;
use std::sync::Arc;

use halny_types::project::features::{FEATURES_MAX, FeatureType, feature_reference};

use crate::definitions::{Definitions, Input, OnDemand, View, no_feature};
use crate::error::shown;
use crate::key::KeyPart;
use crate::{FeaturesError, Value};

/// What a request asks for.
#[derive(Debug)]
pub(crate) struct Selection {
    pub(crate) views: Vec<Picked>,
    pub(crate) computed: Vec<Computed>,
    /// Fields of the request and their slots.
    pub(crate) fields: Vec<(String, FeatureType, usize)>,
    /// The join keys of all views, each once.
    pub(crate) keys: Vec<KeyPart>,
    pub(crate) outputs: Vec<Output>,
    pub(crate) slots: usize,
    /// The names of the columns, short and in full; nothing where two would be the same.
    short: Option<Arc<[String]>>,
    full: Option<Arc<[String]>>,
}

/// A view that is read.
#[derive(Debug)]
pub(crate) struct Picked {
    pub(crate) view: Arc<View>,
    /// The slot of each of its features that is wanted.
    pub(crate) slots: Vec<Option<usize>>,
    /// Its key, as places in [`Selection::keys`].
    pub(crate) keys: Vec<usize>,
}

impl Picked {
    /// The features that are wanted, with their slots.
    pub(crate) fn wanted(&self) -> impl Iterator<Item = (usize, usize)> + '_ {
        self.slots.iter().enumerate().filter_map(|(feature, slot)| slot.map(|slot| (feature, slot)))
    }
}

/// An on-demand view of which something is computed.
#[derive(Debug)]
pub(crate) struct Computed {
    pub(crate) view: Arc<OnDemand>,
    /// The slot of each input.
    inputs: Vec<usize>,
    /// The features that are wanted, and their slots.
    wanted: Vec<(usize, usize)>,
}

/// A column of the answer.
#[derive(Clone, Debug)]
pub(crate) struct Output {
    pub(crate) view: String,
    pub(crate) feature: String,
    pub(crate) value_type: FeatureType,
    pub(crate) slot: usize,
    /// The view that it is read from, as a place in [`Selection::views`]; nothing when it is computed.
    pub(crate) read_from: Option<usize>,
}

impl Output {
    /// `view__feature`, as Feast calls it.
    pub(crate) fn full_name(&self) -> String {
        format!("{}__{}", self.view, self.feature)
    }

    pub(crate) fn name(&self, full: bool) -> String {
        if full { self.full_name() } else { self.feature.clone() }
    }
}

impl Selection {
    /// What these references ask for, each `view:feature`.
    ///
    /// # Errors
    /// When one means nothing, or there are too many.
    pub(crate) fn new(definitions: &Definitions, references: &[String]) -> Result<Selection, FeaturesError> {
        if references.len() > FEATURES_MAX {
            return Err(FeaturesError::TooMany { what: "features", count: references.len(), most: FEATURES_MAX });
        }
        let mut making = Making { definitions, picked: Vec::new(), fields: Vec::new(), computed: Vec::new(), slots: 0 };
        let mut sources: Vec<(&str, &str, Source)> = Vec::new();
        for reference in references {
            let (view, Some(feature)) = feature_reference(reference) else {
                return Err(FeaturesError::NoView(shown(reference)));
            };
            sources.push((view, feature, making.source(view, feature)?));
        }
        // Only now is it known how many slots are read.
        making.fields.iter_mut().enumerate().for_each(|(at, field)| field.2 = making.slots + at);
        let mut selection = making.finish(&sources);
        selection.short = selection.name(false).ok().map(Arc::from);
        selection.full = selection.name(true).ok().map(Arc::from);
        debug_assert!(selection.outputs.iter().all(|output| output.slot < selection.slots));
        Ok(selection)
    }

    /// Computes what is to be computed of one row; gives how many values could not be.
    pub(crate) fn compute(&self, slots: &mut [Value]) -> u64 {
        let mut failed = 0;
        for computed in &self.computed {
            let results: Vec<(usize, Value)> = {
                let inputs: Vec<&Value> = computed.inputs.iter().map(|slot| &slots[*slot]).collect();
                let evaluate = |(feature, slot): &(usize, usize)| {
                    let value = computed.view.expressions[*feature].evaluate(&inputs);
                    failed += u64::from(value.is_err());
                    (*slot, value.unwrap_or_default())
                };
                computed.wanted.iter().map(evaluate).collect()
            };
            results.into_iter().for_each(|(slot, value)| slots[slot] = value);
        }
        failed
    }

    /// The slots of features that are computed and asked for.
    pub(crate) fn computed_slots(&self) -> impl Iterator<Item = usize> + '_ {
        self.computed.iter().flat_map(|computed| computed.wanted.iter().map(|(_, slot)| *slot))
    }

    /// The names of the columns of the answer.
    ///
    /// # Errors
    /// When two are the same, or one is that of a join key.
    pub(crate) fn names(&self, full: bool) -> Result<Arc<[String]>, FeaturesError> {
        match if full { &self.full } else { &self.short } {
            Some(names) => Ok(Arc::clone(names)),
            None => self.name(full).map(Arc::from),
        }
    }

    fn name(&self, full: bool) -> Result<Vec<String>, FeaturesError> {
        let mut seen: BTreeMap<String, String> =
            self.keys.iter().map(|key| (key.name.clone(), format!("the join key {:?}", key.name))).collect();
        let mut names = Vec::with_capacity(self.outputs.len());
        for output in &self.outputs {
            let name = output.name(full);
            let reference = format!("{}:{}", output.view, output.feature);
            if let Some(first) = seen.insert(name.clone(), reference.clone()) {
                return Err(FeaturesError::Ambiguous { name, first, second: reference });
            }
            names.push(name);
        }
        Ok(names)
    }
}

enum Source {
    /// View and slot.
    Read(usize, usize, FeatureType),
    /// On-demand view and feature.
    Computed(usize, usize, FeatureType),
}

struct Making<'a> {
    definitions: &'a Definitions,
    picked: Vec<(Arc<View>, Vec<Option<usize>>)>,
    fields: Vec<(String, FeatureType, usize)>,
    computed: Vec<(Arc<OnDemand>, Vec<Place>, Vec<usize>)>,
    slots: usize,
}

/// Where an input of an on-demand view stands.
enum Place {
    Slot(usize),
    Field(usize),
}

impl Making<'_> {
    fn source(&mut self, view: &str, feature: &str) -> Result<Source, FeaturesError> {
        if let Ok(kept) = self.definitions.view(view) {
            let at = kept.feature(feature)?;
            let (place, slot) = self.read(&Arc::clone(kept), at);
            return Ok(Source::Read(place, slot, kept.features[at].value_type));
        }
        let on_demand = self.definitions.on_demand(view).ok_or_else(|| FeaturesError::NoView(shown(view)))?;
        let at = on_demand.features.iter().position(|known| known.name == feature);
        let at = at.ok_or_else(|| no_feature(view, feature, &on_demand.features))?;
        let value_type = on_demand.features[at].value_type;
        let place = match self.computed.iter().position(|(known, ..)| Arc::ptr_eq(known, on_demand)) {
            Some(place) => place,
            None => {
                let inputs = on_demand.inputs.iter().map(|input| self.input(input)).collect::<Result<Vec<_>, _>>()?;
                self.computed.push((Arc::clone(on_demand), inputs, Vec::new()));
                self.computed.len() - 1
            }
        };
        let wanted = &mut self.computed[place].2;
        let which = wanted.iter().position(|known| *known == at).unwrap_or_else(|| {
            wanted.push(at);
            wanted.len() - 1
        });
        Ok(Source::Computed(place, which, value_type))
    }

    /// The place of a view and the slot of its feature.
    fn read(&mut self, view: &Arc<View>, feature: usize) -> (usize, usize) {
        let place = self.picked.iter().position(|(known, _)| Arc::ptr_eq(known, view)).unwrap_or_else(|| {
            self.picked.push((Arc::clone(view), vec![None; view.features.len()]));
            self.picked.len() - 1
        });
        let slot = *self.picked[place].1[feature].get_or_insert_with(|| {
            self.slots += 1;
            self.slots - 1
        });
        (place, slot)
    }

    fn input(&mut self, input: &Input) -> Result<Place, FeaturesError> {
        match input {
            Input::Feature { view, feature } => {
                let view = Arc::clone(self.definitions.view(view)?);
                Ok(Place::Slot(self.read(&view, *feature).1))
            }
            Input::Field { name, value_type } => {
                let known = self.fields.iter().position(|(known, ..)| known == name);
                if let Some(known) = known
                    && self.fields[known].1 != *value_type
                {
                    let (expected, is) = (self.fields[known].1.to_string(), value_type.to_string());
                    return Err(FeaturesError::Type { name: format!("request.{name}"), expected, is });
                }
                Ok(Place::Field(known.unwrap_or_else(|| {
                    self.fields.push((name.clone(), *value_type, 0));
                    self.fields.len() - 1
                })))
            }
        }
    }

    fn finish(self, sources: &[(&str, &str, Source)]) -> Selection {
        let mut slots = self.slots + self.fields.len();
        let mut computed = Vec::new();
        for (view, inputs, wanted) in self.computed {
            let slot = |place: &Place| match place {
                Place::Slot(slot) => *slot,
                Place::Field(field) => self.slots + field,
            };
            let inputs = inputs.iter().map(slot).collect();
            let first = slots;
            slots += wanted.len();
            let wanted = wanted.into_iter().enumerate().map(|(at, feature)| (feature, first + at)).collect();
            computed.push(Computed { view, inputs, wanted });
        }
        let mut keys: Vec<KeyPart> = Vec::new();
        let mut views = Vec::new();
        for (view, slots) in self.picked {
            let place = |part: &KeyPart| {
                keys.iter().position(|known| known.name == part.name).unwrap_or_else(|| {
                    keys.push(part.clone());
                    keys.len() - 1
                })
            };
            let keys = view.keys.iter().map(place).collect();
            views.push(Picked { view, slots, keys });
        }
        let output = |(view, feature, source): &(&str, &str, Source)| {
            let (slot, read_from, value_type) = match source {
                Source::Read(view, slot, of) => (*slot, Some(*view), *of),
                Source::Computed(view, which, of) => (computed[*view].wanted[*which].1, None, *of),
            };
            Output { view: (*view).to_owned(), feature: (*feature).to_owned(), value_type, slot, read_from }
        };
        let outputs = sources.iter().map(output).collect();
        Selection { views, computed, fields: self.fields, keys, outputs, slots, short: None, full: None }
    }
}
