//! What is wrong with a step that reads features.

use std::collections::BTreeMap;

use serde_json::Value;

use super::kind::Kind;
use super::scope::{Scope, chosen, kind_of_feature};
use super::step::ReadFeatures;
use super::{Mapping, instead_of};
use crate::project::check::Found;
use crate::project::features::{Catalogue, FeatureType};
use crate::project::locate::join;

/// A step that reads features, what it can read itself, and where it is: a JSON pointer.
pub(super) struct FeaturesRead<'a> {
    pub(super) read: &'a ReadFeatures,
    pub(super) scope: &'a Scope,
    pub(super) pointer: &'a str,
}

impl FeaturesRead<'_> {
    pub(super) fn check(&self, features: &Catalogue, found: &mut Found) {
        let read = self.read;
        let setting = if read.service.is_some() { "service" } else { "list" };
        let asked = format!("{}/{setting}", self.pointer);
        let chosen = match chosen(read, features) {
            Ok(Some(chosen)) => chosen,
            Ok(None) => return,
            Err(trouble) => return found.value(&asked, trouble.wrong, trouble.right),
        };
        // An entity may be meant by its own name.
        let entities = read.entities.iter().map(|(name, value)| (features.join_key(name), (name.as_str(), value)));
        self.given("entities", &chosen.keys, &entities.collect(), found);
        let request = read.request.iter().map(|(name, value)| (name.as_str(), (name.as_str(), value)));
        self.given("request", &chosen.request, &request.collect(), found);
        match chosen.named(read.full_feature_names) {
            Ok(named) => self.defaults(&named, found),
            Err(trouble) => found.value(&asked, trouble.wrong, trouble.right),
        }
    }

    /// That all that is needed is given, and of the right kind.
    fn given(
        &self,
        setting: &str,
        needed: &BTreeMap<String, FeatureType>,
        given: &BTreeMap<&str, (&str, &Value)>,
        found: &mut Found,
    ) {
        let table = format!("{}/{setting}", self.pointer);
        for (name, of) in needed {
            let Some((written, value)) = given.get(name.as_str()) else {
                let wrong = format!("the features need {name:?} ({of})");
                found.missing(&table, wrong, format!("write {setting} = {{ {name} = \"${{request.{name}}}\" }}"));
                continue;
            };
            // What cannot be read at all is told where it is read.
            let kind = Mapping::parse(value).ok().and_then(|mapping| self.scope.kind_of(&mapping).ok());
            let Some(slot) = kind else { continue };
            let wanted = kind_of_feature(*of);
            if !slot.of.fits(&wanted) {
                let wrong =
                    format!("{} is given for {name:?}, which is {} ({of})", slot.of.described(), wanted.described());
                found.value(&join(&table, written), wrong, format!("write a reference to {}", wanted.described()));
            }
        }
        for (name, (written, _)) in given.iter().filter(|(name, _)| !needed.contains_key(**name)) {
            let wrong = format!("none of the features needs {name:?}");
            let right = instead_of(name, needed.keys().map(String::as_str));
            found.key(&join(&table, written), wrong, right);
        }
    }

    fn defaults(&self, named: &BTreeMap<String, FeatureType>, found: &mut Found) {
        for (name, value) in &self.read.default {
            let pointer = join(&format!("{}/default", self.pointer), name);
            let Some(of) = named.get(name) else {
                let wrong = format!("none of the features is called {name:?}");
                found.key(&pointer, wrong, instead_of(name, named.keys().map(String::as_str)));
                continue;
            };
            let (is, wanted) = (Kind::of_value(value), kind_of_feature(*of));
            if !is.fits(&wanted) {
                let wrong = format!("{} stands for {name:?}, which is {} ({of})", is.described(), wanted.described());
                found.value(&pointer, wrong, format!("write {}", wanted.described()));
            }
        }
    }
}
