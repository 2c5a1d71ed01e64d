//! Changing a payload at a path, and taking parts out of it.

use halny_payload::{JsonPath, Step};
use serde_json::Value;

use crate::Payload;

/// Sets the fields of `new` in `old`; its other fields stay, and what is set to null goes.
pub(crate) fn merge(old: &mut Payload, new: &Payload) {
    for (key, value) in new {
        if value.is_null() {
            old.shift_remove(key);
        } else {
            old.insert(key.clone(), value.clone());
        }
    }
}

/// The same of the object at `path`. What is there and no object is replaced; what is missing is made.
pub(crate) fn merge_at(old: &mut Payload, path: &JsonPath, new: &Payload) {
    in_payload(old, path.steps(), true, &mut |place| match place {
        Value::Object(object) => merge(object, new),
        other => {
            let mut object = Payload::new();
            merge(&mut object, new);
            *other = Value::Object(object);
        }
    });
}

/// Removes what is at `path`. One item of a list stays: asked for twice, it would take another.
pub(crate) fn remove(payload: &mut Payload, path: &JsonPath) {
    let Some((last, steps)) = path.steps().split_last() else { return };
    in_payload(payload, steps, false, &mut |place| match (last, place) {
        (Step::Key(key), Value::Object(object)) => drop(object.shift_remove(key)),
        (Step::All, Value::Array(items)) => items.clear(),
        _ => {}
    });
}

/// What is at these paths, within what it is in. Of a list all items are meant, or none.
pub(crate) fn project(payload: &Payload, paths: &[JsonPath]) -> Payload {
    let paths: Vec<&[Step]> = paths.iter().map(JsonPath::steps).collect();
    kept_of_object(payload, &paths)
}

fn kept_of_object(object: &Payload, paths: &[&[Step]]) -> Payload {
    let mut kept = Payload::new();
    for (key, value) in object {
        let below: Vec<&[Step]> =
            paths.iter().filter_map(|path| below(path, |step| *step == Step::Key(key.clone()))).collect();
        if !below.is_empty() {
            kept.insert(key.clone(), kept_of(value, &below));
        }
    }
    kept
}

fn below<'a>(path: &&'a [Step], is: impl Fn(&Step) -> bool) -> Option<&'a [Step]> {
    path.split_first().filter(|(first, _)| is(first)).map(|(_, rest)| rest)
}

fn kept_of(value: &Value, paths: &[&[Step]]) -> Value {
    if paths.iter().any(|path| path.is_empty()) {
        return value.clone();
    }
    match value {
        Value::Object(object) => Value::Object(kept_of_object(object, paths)),
        Value::Array(items) => {
            let below: Vec<&[Step]> = paths.iter().filter_map(|path| below(path, |step| *step == Step::All)).collect();
            if below.is_empty() {
                return Value::Array(Vec::new());
            }
            Value::Array(items.iter().map(|item| kept_of(item, &below)).collect())
        }
        other => other.clone(),
    }
}

/// [`at_each`] place of a payload, which stays an object.
fn in_payload(payload: &mut Payload, steps: &[Step], make: bool, with: &mut dyn FnMut(&mut Value)) {
    let mut whole = Value::Object(std::mem::take(payload));
    at_each(&mut whole, steps, make, with);
    if let Value::Object(whole) = whole {
        *payload = whole;
    }
}

/// Does something at each place that `steps` leads to; makes objects and empty lists on the way where `make` says so.
fn at_each(value: &mut Value, steps: &[Step], make: bool, with: &mut dyn FnMut(&mut Value)) {
    let Some((first, rest)) = steps.split_first() else { return with(value) };
    if make && !value.is_array() && matches!(first, Step::Index(_) | Step::All) {
        *value = Value::Array(Vec::new());
    }
    match first {
        Step::Key(key) => {
            if make && !value.is_object() {
                *value = Value::Object(Payload::new());
            }
            let Value::Object(object) = value else { return };
            if make && !object.contains_key(key) {
                object.insert(key.clone(), Value::Object(Payload::new()));
            }
            if let Some(inner) = object.get_mut(key) {
                at_each(inner, rest, make, with);
            }
        }
        Step::Index(index) => {
            if let Some(inner) = value.as_array_mut().and_then(|items| items.get_mut(*index)) {
                at_each(inner, rest, make, with);
            }
        }
        Step::All => {
            for inner in value.as_array_mut().into_iter().flatten() {
                at_each(inner, rest, make, with);
            }
        }
    }
}
