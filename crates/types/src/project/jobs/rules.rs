//! The rules between settings of queues, schedules, commands and webhooks.

use serde_json::Value;

use super::{BATCH_QUEUE, DEFAULT_QUEUE};
use crate::project::check::Found;
use crate::project::quote::abbreviated;
use crate::project::rules::{items, unique_names};
use crate::project::server_place::{check_variable, is_variable};

/// Puts every broken rule of jobs into `found`.
pub(in crate::project) fn check(document: &Value, found: &mut Found) {
    for (table, what) in
        [("queues", "queue"), ("schedules", "schedule"), ("commands", "command"), ("webhooks", "webhook")]
    {
        unique_names(items(document, table), &format!("/{table}"), what, found);
    }
    let queues = items(document, "queues");
    for (at, queue) in queues.iter().enumerate() {
        check_backoff(queue, &format!("/queues/{at}"), found);
    }
    let mut known = vec![DEFAULT_QUEUE, BATCH_QUEUE];
    known.extend(queues.iter().filter_map(|queue| queue.get("name").and_then(Value::as_str)));
    for (at, schedule) in items(document, "schedules").iter().enumerate() {
        let pointer = format!("/schedules/{at}/queue");
        if let Some(queue) = schedule.get("queue").and_then(Value::as_str)
            && !found.is_broken(&pointer)
            && !known.contains(&queue)
        {
            let wrong = format!("there is no queue {}", abbreviated(queue));
            found.value(&pointer, wrong, "write one of [[queues]], \"default\" or \"batches\"".to_owned());
        }
    }
    for (at, command) in items(document, "commands").iter().enumerate() {
        check_command(command, &format!("/commands/{at}"), found);
    }
    for (at, webhook) in items(document, "webhooks").iter().enumerate() {
        check_webhook(webhook, &format!("/webhooks/{at}"), found);
    }
}

fn check_backoff(queue: &Value, pointer: &str, found: &mut Found) {
    let read = |name: &str, default: u64, found: &Found| {
        if found.is_broken(&format!("{pointer}/{name}")) {
            return None;
        }
        queue.get(name).map_or(Some(default), Value::as_u64)
    };
    let (first, longest) = (read("backoff_ms", 1_000, found), read("backoff_max_ms", 600_000, found));
    if let (Some(first), Some(longest)) = (first, longest)
        && first > longest
    {
        let wrong = format!("the first pause, {first} ms, is longer than the longest, {longest} ms (backoff_max_ms)");
        let blamed = if queue.get("backoff_ms").is_some() { "backoff_ms" } else { "backoff_max_ms" };
        found.value(
            &format!("{pointer}/{blamed}"),
            wrong,
            "write backoff_max_ms no smaller than backoff_ms".to_owned(),
        );
    }
}

fn check_command(command: &Value, pointer: &str, found: &mut Found) {
    let program = command.get("program").and_then(Value::as_array).and_then(|parts| parts.first());
    if program.and_then(Value::as_str).is_some_and(|name| name.trim().is_empty()) {
        let right = "write the program's name or path".to_owned();
        found.value(&format!("{pointer}/program/0"), "the program has no name", right);
    }
    if let Some(size) = command.get("memory")
        && !found.is_broken(&format!("{pointer}/memory"))
    {
        let least = crate::ByteSize::mib(1);
        let size = serde_json::from_value::<crate::ByteSize>(size.clone());
        if !size.is_ok_and(|size| size >= least) {
            let right = format!("write a size of {:?} or more, such as \"2GiB\"", least.to_string());
            found.value(&format!("{pointer}/memory"), "no program starts in so little memory", right);
        }
    }
    let variables = command.get("env").and_then(Value::as_object);
    for name in variables.into_iter().flat_map(|variables| variables.keys()) {
        if !is_variable(name) {
            let wrong = format!("{} is no name of an environment variable", abbreviated(name));
            let pointer = crate::project::locate::join(&format!("{pointer}/env"), name);
            found.key(&pointer, wrong, "write one of letters, digits and `_`".to_owned());
        }
    }
}

fn check_webhook(webhook: &Value, pointer: &str, found: &mut Found) {
    let (url, variable) = (format!("{pointer}/url"), format!("{pointer}/secret_env"));
    if let Some(name) = webhook.get("secret_env").and_then(Value::as_str)
        && !found.is_broken(&variable)
    {
        check_variable(name, &variable, "HALNY_WEBHOOK_SECRET", found);
    }
    let Some(text) = webhook.get("url").and_then(Value::as_str).filter(|_| !found.is_broken(&url)) else { return };
    let Some(rest) = ["https://", "http://"].iter().find_map(|scheme| text.strip_prefix(scheme)) else {
        let wrong = format!("{} is no place to send to", abbreviated(text));
        return found.value(&url, wrong, "write a URL that begins with https:// or http://".to_owned());
    };
    let host = rest.split(['/', '?', '#']).next().unwrap_or_default();
    if host.is_empty() || host.starts_with(':') {
        found.value(&url, "the URL names no host", "write https://host/path".to_owned());
    } else if host.contains('@') {
        // Not shown: it may be a password.
        let wrong = "the URL holds a name or a password, which do not belong into this file";
        found.value(&url, wrong, "take them out; requests are signed with the secret of secret_env".to_owned());
    }
}
