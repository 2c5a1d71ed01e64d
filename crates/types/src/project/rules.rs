//! What a schema cannot say: rules between settings, and the inside of texts.
//!
//! Rules read the document leniently: a setting whose shape is wrong is silent here, so that it
//! is reported once, and every rule that does not need it still speaks.

use std::collections::HashMap;
use std::ops::RangeInclusive;
use std::sync::LazyLock;

use serde::de::DeserializeOwned;
use serde_json::Value;

use super::address::Address;
use super::check::Found;
use super::features::{self, Features, JOIN_MEMORY_RANGE};
use super::generate::GenerateProfile;
use super::model::{
    CpuThreads, DEADLINE_MS, MAX_BODIES_RANGE, MAX_BODY_RANGE, MAX_QUEUE_RANGE, Profile, Server, TaskKind,
};
use super::quote::{abbreviated, shown};
use super::vectors::{self, Vectors, WARM_RANGE};
use super::{jobs, routes, source, store};
use crate::ByteSize;

/// The most threads one profile may start; beyond it the machine only switches between them.
const PROFILE_THREADS_MAX: usize = 4_096;

static SERVER_DEFAULTS: LazyLock<Value> = LazyLock::new(|| serde_json::to_value(Server::default()).unwrap_or_default());
static VECTORS_DEFAULTS: LazyLock<Value> =
    LazyLock::new(|| serde_json::to_value(Vectors::default()).unwrap_or_default());
static FEATURES_DEFAULTS: LazyLock<Value> =
    LazyLock::new(|| serde_json::to_value(Features::default()).unwrap_or_default());
static PROFILE_DEFAULTS: LazyLock<Value> =
    LazyLock::new(|| serde_json::to_value(Profile::default()).unwrap_or_default());

static GENERATE_DEFAULTS: LazyLock<Value> =
    LazyLock::new(|| serde_json::to_value(GenerateProfile::default()).unwrap_or_default());

/// Puts every broken rule of the document into `found`.
pub(super) fn check(document: &Value, found: &mut Found) {
    addresses(&Table { value: document.get("server"), defaults: &SERVER_DEFAULTS, pointer: "/server" }, found);
    let vectors = Table { value: document.get("vectors"), defaults: &VECTORS_DEFAULTS, pointer: "/vectors" };
    vectors.check_size("warm", &WARM_RANGE, found);
    vectors::check(document.get("vectors"), found);
    let store = Table { value: document.get("features"), defaults: &FEATURES_DEFAULTS, pointer: "/features" };
    store.check_size("join_memory", &JOIN_MEMORY_RANGE, found);
    features::check_store(document.get("features"), found);
    features::check(document, found);
    let models = items(document, "models");
    unique_names(models, "/models", "model", found);
    for (at, model) in models.iter().enumerate() {
        check_model(model, &format!("/models/{at}"), found);
    }
    store::check(document.get("store"), found);
    jobs::check(document, found);
    routes::check(document, found);
}

/// What is served by nobody's mistake, but perhaps not on purpose.
pub(super) fn warn(document: &Value, found: &mut Found) {
    // Features are served, and programs run, without a model.
    if ["models", "feature_views", "commands", "webhooks"].iter().all(|table| items(document, table).is_empty()) {
        let right = "write a [[models]] table with name, source and task".to_owned();
        found.key("/models", "no model is declared, so nothing is served".to_owned(), right);
    }
    features::warn(document, found);
    routes::warn(document, found);
}

/// One table of the document, with the values that hold where it says nothing.
struct Table<'a> {
    value: Option<&'a Value>,
    defaults: &'static Value,
    pointer: &'a str,
}

impl Table<'_> {
    fn pointer(&self, name: &str) -> String {
        format!("{}/{name}", self.pointer)
    }

    fn written(&self, name: &str) -> Option<&Value> {
        self.value.and_then(|table| table.get(name))
    }

    /// The setting's value or its default; `None` where what is written has a wrong shape.
    fn read<T: DeserializeOwned>(&self, name: &str, found: &Found) -> Option<T> {
        if found.is_broken(&self.pointer(name)) {
            return None;
        }
        let value = self.written(name).or_else(|| self.defaults.get(name))?;
        serde_json::from_value(value.clone()).ok()
    }

    /// Of two settings that disagree, the one to point at: the first that is written.
    fn blamed(&self, first: &str, second: &str) -> String {
        if self.written(first).is_none() && self.written(second).is_some() {
            self.pointer(second)
        } else {
            self.pointer(first)
        }
    }

    fn check_size(&self, name: &str, range: &RangeInclusive<ByteSize>, found: &mut Found) {
        if found.is_broken(&self.pointer(name)) {
            return;
        }
        let Some(written) = self.written(name) else { return };
        let size = serde_json::from_value::<ByteSize>(written.clone());
        if !size.is_ok_and(|size| range.contains(&size)) {
            let right = format!("write a size from {:?} to {:?}", range.start().to_string(), range.end().to_string());
            found.value(&self.pointer(name), format!("{} is out of range", shown(written)), right);
        }
    }
}

pub(super) fn items<'a>(table: &'a Value, name: &str) -> &'a [Value] {
    table.get(name).and_then(Value::as_array).map_or(&[], Vec::as_slice)
}

fn addresses(server: &Table<'_>, found: &mut Found) {
    server.check_size("max_body", &MAX_BODY_RANGE, found);
    server.check_size("max_bodies", &MAX_BODIES_RANGE, found);
    let mut read = |name: &str, example: &str| {
        let text = server.read::<String>(name, found)?;
        let address = Address::parse(&text);
        if address.is_none() {
            let wrong = format!("{} is not host:port", abbreviated(&text));
            found.value(&server.pointer(name), wrong, format!("write an address such as {example:?}"));
        }
        address
    };
    let data = read("address", "127.0.0.1:8080");
    let admin = read("admin_address", "127.0.0.1:8081");
    let Some(admin) = admin else { return };
    if !admin.is_loopback() {
        let wrong = "the admin port has no credentials yet, so other machines must not reach it".to_owned();
        let right = "write a loopback address such as \"127.0.0.1:8081\"".to_owned();
        found.value(&server.pointer("admin_address"), wrong, right);
    } else if data.is_some_and(|data| data.collides_with(&admin)) {
        let wrong = "the admin port is the clients' port too".to_owned();
        let right = "write another port in admin_address or in address".to_owned();
        found.value(&server.blamed("admin_address", "address"), wrong, right);
    }
}

/// Names that are equal, or equal but for case: files and labels made of them would collide.
pub(super) fn unique_names(tables: &[Value], pointer: &str, what: &str, found: &mut Found) {
    let mut seen: HashMap<String, (usize, &str)> = HashMap::new();
    for (at, table) in tables.iter().enumerate() {
        let own = format!("{pointer}/{at}/name");
        // A profile without a name is called `default`.
        let default = (what == "profile" && table.is_object()).then_some("default");
        let Some(name) = table.get("name").map_or(default, Value::as_str) else { continue };
        if found.is_broken(&own) {
            continue;
        }
        let Some((first, taken)) = seen.get(&name.to_ascii_lowercase()).copied() else {
            seen.insert(name.to_ascii_lowercase(), (at, name));
            continue;
        };
        let wrong = if taken == name {
            format!("{what} {first} has the name {} too", abbreviated(name))
        } else {
            format!(
                "{} differs from the name of {what} {first}, {}, only by case",
                abbreviated(name),
                abbreviated(taken)
            )
        };
        found.value(&own, wrong, format!("write a name that no other {what} has"));
    }
}

fn check_model(model: &Value, pointer: &str, found: &mut Found) {
    let own = Table { value: Some(model), defaults: &Value::Null, pointer };
    if let Some(source) = own.read::<String>("source", found)
        && let Err(reason) = source::check(&source)
    {
        let right = "write a folder, hf://owner/name[@revision] or s3://bucket/prefix".to_owned();
        found.value(&own.pointer("source"), format!("{} {reason}", abbreviated(&source)), right);
    }
    if let Some(task) = own.read::<TaskKind>("task", found)
        && !task.takes_text()
        && own.written("text").is_some()
    {
        let wrong = format!("a {:?} model reads no texts, so these options mean nothing", task.as_str());
        let right = "take the text options out, or write another task".to_owned();
        found.value(&own.pointer("text"), wrong, right);
    }
    let profiles = items(model, "profiles");
    unique_names(profiles, &own.pointer("profiles"), "profile", found);
    check_generate(&own, profiles, found);
    let text_pointer = own.pointer("text");
    let text = Table { value: own.written("text"), defaults: &Value::Null, pointer: &text_pointer };
    let max_tokens = text.read::<usize>("max_tokens", found);
    for (at, profile) in profiles.iter().enumerate().filter(|(_, profile)| profile.is_object()) {
        let pointer = format!("{pointer}/profiles/{at}");
        let profile = Table { value: Some(profile), defaults: &PROFILE_DEFAULTS, pointer: &pointer };
        check_profile(&profile, found);
        check_tokens(&profile, &text, max_tokens, found);
    }
    if profiles.is_empty() && !found.is_broken(&own.pointer("profiles")) {
        let profile = Table { value: None, defaults: &PROFILE_DEFAULTS, pointer: "" };
        check_tokens(&profile, &text, max_tokens, found);
    }
}

/// What language models alone have, and that a step can serve all that run.
fn check_generate(model: &Table<'_>, profiles: &[Value], found: &mut Found) {
    let task = model.read::<TaskKind>("task", found);
    let others = task.filter(|task| *task != TaskKind::Generate);
    let refuse = |pointer: &str, task: TaskKind, found: &mut Found| {
        let wrong = format!("a {:?} model writes no text, so these options mean nothing", task.as_str());
        found.value(pointer, wrong, "take them out, or write task = \"generate\"".to_owned());
    };
    if let Some(task) = others.filter(|_| model.written("generate").is_some()) {
        refuse(&model.pointer("generate"), task, found);
    }
    for (at, profile) in profiles.iter().enumerate() {
        let Some(options) = profile.get("generate") else { continue };
        let pointer = format!("{}/{at}/generate", model.pointer("profiles"));
        if let Some(task) = others {
            refuse(&pointer, task, found);
        }
        let options = Table { value: Some(options), defaults: &GENERATE_DEFAULTS, pointer: &pointer };
        let (running, step) =
            (options.read::<usize>("max_running", found), options.read::<usize>("step_tokens", found));
        if let (Some(running), Some(step)) = (running, step)
            && running > step
        {
            let wrong = format!("a step of {step} tokens (step_tokens) cannot serve {running} requests (max_running)");
            let right = format!("write max_running = {step} or less, or a larger step_tokens");
            found.value(&options.blamed("max_running", "step_tokens"), wrong, right);
        }
    }
    let adapters = model.written("generate").map_or(&[] as &[Value], |options| items(options, "adapters"));
    unique_names(adapters, &format!("{}/adapters", model.pointer("generate")), "adapter", found);
}

/// A text of the greatest length must fit into a batch.
fn check_tokens(profile: &Table<'_>, text: &Table<'_>, max_tokens: Option<usize>, found: &mut Found) {
    let batch_tokens = profile.read::<usize>("max_batch_tokens", found);
    let (Some(text_tokens), Some(batch_tokens)) = (max_tokens, batch_tokens) else { return };
    if batch_tokens < text_tokens {
        let wrong = format!(
            "a text of {text_tokens} tokens (max_tokens) fits into no batch of {batch_tokens} (max_batch_tokens)"
        );
        let written = profile.written("max_batch_tokens").is_some();
        let blamed = if written { profile.pointer("max_batch_tokens") } else { text.pointer("max_tokens") };
        let right = format!("write max_batch_tokens = {text_tokens} or more, or a smaller max_tokens");
        found.value(&blamed, wrong, right);
    }
}

fn check_profile(profile: &Table<'_>, found: &mut Found) {
    profile.check_size("max_queue", &MAX_QUEUE_RANGE, found);
    let delay = profile.read::<u64>("max_batch_delay_ms", found);
    let deadline = profile.written("deadline_ms").map_or(Some(DEADLINE_MS), |_| profile.read("deadline_ms", found));
    if let (Some(delay), Some(deadline)) = (delay, deadline)
        && delay >= deadline
    {
        let wrong = format!("waiting {delay} ms for a batch leaves nothing of a deadline of {deadline} ms");
        let right = format!("write max_batch_delay_ms smaller than {deadline}, or a longer deadline_ms");
        found.value(&profile.blamed("max_batch_delay_ms", "deadline_ms"), wrong, right);
    }
    let batch = profile.read::<usize>("max_batch_size", found);
    let queue = profile.read::<usize>("max_queue_items", found);
    if let (Some(batch), Some(queue)) = (batch, queue)
        && batch > queue
    {
        let wrong = format!("a queue of {queue} items (max_queue_items) never fills a batch of {batch}");
        let right = format!("write max_batch_size = {queue} or less, or a larger max_queue_items");
        found.value(&profile.blamed("max_batch_size", "max_queue_items"), wrong, right);
    }
    let instances = profile.read::<CpuThreads>("instances", found);
    let threads = profile.read::<CpuThreads>("threads", found);
    if let (Some(CpuThreads::Count(instances)), Some(CpuThreads::Count(threads))) = (instances, threads)
        && instances.saturating_mul(threads) > PROFILE_THREADS_MAX
    {
        let total = instances.saturating_mul(threads);
        let wrong = format!("{instances} instances of {threads} threads are {total} threads");
        let right = format!("write instances and threads whose product is at most {PROFILE_THREADS_MAX}");
        found.value(&profile.pointer("instances"), wrong, right);
    }
}
