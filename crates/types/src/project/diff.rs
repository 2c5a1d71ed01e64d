//! What a running server must do when its project file has changed.

use std::collections::HashMap;

use super::features::Features;
use super::{Model, Project, Server, Vectors};
use crate::{ModelName, RouteName};

/// The difference between two project files, as work for a running server.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ProjectDiff {
    /// Models to load (those that are preloaded), in the order of the new file.
    pub added: Vec<ModelName>,
    /// Models to drain and unload, in the order of the old file.
    pub removed: Vec<ModelName>,
    /// Models of which any setting differs, in the order of the new file.
    pub changed: Vec<ModelName>,
    /// Routes that are new, gone or differ, in the order of the new file and then of the old.
    pub routes: Vec<RouteName>,
    /// Whether entities, views or services differ.
    pub features: bool,
    /// Settings outside the models that apply at once, such as `server.max_body`.
    pub live: Vec<&'static str>,
    /// Settings that only a restart applies: what is bound, started or loaded once in a process.
    pub restart: Vec<&'static str>,
}

impl ProjectDiff {
    /// Whether there is nothing to do.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        *self == ProjectDiff::default()
    }
}

/// Compares two checked projects. The order of the models means nothing.
#[must_use]
pub fn diff(old: &Project, new: &Project) -> ProjectDiff {
    let mut diff = ProjectDiff::default();
    let by_name = |project: &'_ Project| -> HashMap<ModelName, Model> {
        project.models.iter().map(|model| (model.name.clone(), model.clone())).collect()
    };
    let (old_models, new_models) = (by_name(old), by_name(new));
    for model in &new.models {
        match old_models.get(&model.name) {
            None => diff.added.push(model.name.clone()),
            Some(before) if before != model => diff.changed.push(model.name.clone()),
            Some(_) => {}
        }
    }
    let gone = old.models.iter().filter(|model| !new_models.contains_key(&model.name));
    diff.removed.extend(gone.map(|model| model.name.clone()));
    let by_name =
        |project: &'_ Project, name: &RouteName| project.routes.iter().find(|route| route.name == *name).cloned();
    let differs = |name: &RouteName| by_name(old, name) != by_name(new, name);
    for route in new.routes.iter().chain(&old.routes) {
        if differs(&route.name) && !diff.routes.contains(&route.name) {
            diff.routes.push(route.name.clone());
        }
    }
    diff_server(&old.server, &new.server, &mut diff);
    if old.onnxruntime != new.onnxruntime {
        diff.restart.push("onnxruntime.library");
    }
    if old.cache != new.cache {
        diff.restart.push("cache.folder");
    }
    // How much is kept in memory changes at once.
    if (Vectors { warm: new.vectors.warm, ..old.vectors.clone() }) != new.vectors {
        diff.restart.push("vectors");
    }
    if (Features { join_memory: new.features.join_memory, ..old.features.clone() }) != new.features {
        diff.restart.push("features");
    }
    diff.features = old.entities != new.entities
        || old.feature_views != new.feature_views
        || old.on_demand_views != new.on_demand_views
        || old.feature_services != new.feature_services
        || old.features.join_memory != new.features.join_memory;
    if old.store != new.store {
        diff.restart.push("store");
    }
    diff_jobs(old, new, &mut diff);
    diff
}

/// A worker has its queues and handlers from its start.
fn diff_jobs(old: &Project, new: &Project, diff: &mut ProjectDiff) {
    let differing = [
        ("jobs", old.jobs != new.jobs),
        ("queues", old.queues != new.queues),
        ("schedules", old.schedules != new.schedules),
        ("commands", old.commands != new.commands),
        ("webhooks", old.webhooks != new.webhooks),
    ];
    diff.restart.extend(differing.into_iter().filter(|(_, differs)| *differs).map(|(name, _)| name));
}

fn diff_server(old: &Server, new: &Server, diff: &mut ProjectDiff) {
    // Taken apart without `..`, so that a new setting does not compile until it is sorted in here.
    let Server {
        address,
        admin_address,
        max_body,
        max_bodies,
        max_concurrent_requests,
        max_connections,
        header_timeout_ms,
        body_timeout_ms,
        drain_timeout_ms,
        max_inputs_per_request,
        metrics_on_data_port,
        cpu_threads,
    } = new;
    let restart = [
        ("server.address", *address != old.address),
        ("server.admin_address", *admin_address != old.admin_address),
        ("server.cpu_threads", *cpu_threads != old.cpu_threads),
        ("server.max_connections", *max_connections != old.max_connections),
        ("server.metrics_on_data_port", *metrics_on_data_port != old.metrics_on_data_port),
    ];
    let live = [
        ("server.body_timeout_ms", *body_timeout_ms != old.body_timeout_ms),
        ("server.drain_timeout_ms", *drain_timeout_ms != old.drain_timeout_ms),
        ("server.header_timeout_ms", *header_timeout_ms != old.header_timeout_ms),
        ("server.max_body", *max_body != old.max_body),
        ("server.max_bodies", *max_bodies != old.max_bodies),
        ("server.max_concurrent_requests", *max_concurrent_requests != old.max_concurrent_requests),
        ("server.max_inputs_per_request", *max_inputs_per_request != old.max_inputs_per_request),
    ];
    let changed = |settings: &[(&'static str, bool)]| -> Vec<&'static str> {
        settings.iter().filter(|(_, differs)| *differs).map(|(name, _)| *name).collect()
    };
    diff.restart.extend(changed(&restart));
    diff.live.extend(changed(&live));
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use crate::project::check;

    fn project(text: &str) -> Project {
        check(text).unwrap().project
    }

    fn model(name: &str, rest: &str) -> String {
        format!("[[models]]\nname = {name:?}\nsource = \"x\"\ntask = \"embed\"\n{rest}\n")
    }

    #[test]
    fn equal_projects_leave_nothing_to_do_whatever_the_order() {
        let (a, b) = (model("a", ""), model("b", "preload = false"));
        let (old, new) = (project(&format!("{a}{b}")), project(&format!("{b}{a}")));
        assert!(diff(&old, &new).is_empty());
        let written_out = project(&model("a", "[[models.profiles]]\nname = \"default\""));
        assert!(diff(&project(&a), &written_out).is_empty(), "a default that is written out changes nothing");
    }

    #[test]
    fn models_are_added_removed_or_changed() {
        let old = project(&(model("a", "") + &model("b", "") + &model("c", "")));
        let new = project(&(model("d", "") + &model("b", "[[models.profiles]]\ndeadline_ms = 9") + &model("c", "")));
        let diff = diff(&old, &new);
        let name = |name: &str| vec![ModelName::new(name).unwrap()];
        assert_eq!((diff.added, diff.removed, diff.changed), (name("d"), name("a"), name("b")));
        assert!(diff.live.is_empty() && diff.restart.is_empty());
    }

    #[test]
    fn server_settings_apply_at_once_or_after_a_restart() {
        let old = project("");
        let new = project(
            "[server]\naddress = \"127.0.0.1:1\"\nmax_body = \"1MiB\"\ncpu_threads = 2\n[cache]\nfolder = \"/c\"\n[vectors]\nfolder = \"v\"\n\
             [onnxruntime]\nlibrary = \"/l.so\"",
        );
        let diff = diff(&old, &new);
        assert_eq!(diff.live, ["server.max_body"]);
        assert_eq!(
            diff.restart,
            ["server.address", "server.cpu_threads", "onnxruntime.library", "cache.folder", "vectors"]
        );
    }

    #[test]
    fn every_server_setting_is_sorted_in() {
        let new = Server {
            address: String::new(),
            admin_address: String::new(),
            max_body: crate::ByteSize(1),
            max_bodies: crate::ByteSize(1),
            max_concurrent_requests: 1,
            max_connections: 1,
            header_timeout_ms: 1,
            body_timeout_ms: 1,
            drain_timeout_ms: 1,
            max_inputs_per_request: 1,
            metrics_on_data_port: false,
            cpu_threads: crate::project::CpuThreads::Count(1),
        };
        let fields = serde_json::to_value(&new).unwrap().as_object().unwrap().len();
        let diff = diff(&Project::default(), &Project { server: new, ..Project::default() });
        assert_eq!(diff.live.len() + diff.restart.len(), fields);
    }
}
