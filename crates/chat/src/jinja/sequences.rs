//! Filters that go through the items of a value.

use std::cmp::Ordering;
use std::rc::Rc;

use super::budget::Stop;
use super::draft::Draft;
use super::functions::count_or;
use super::run::{Passed, Run};
use super::tree::Operator;
use super::value::{Items, List, Text, Value};
use super::{filters, operators, tests, text};

pub(crate) fn apply(run: &mut Run<'_>, name: &str, value: Value, passed: Passed) -> Result<Value, Stop> {
    match name {
        "first" | "last" => {
            let [] = passed.read(name, [])?;
            let items = run.items_of(&value)?;
            let found = if name == "first" { items.items.first() } else { items.items.last() };
            Ok(found.cloned().unwrap_or(Value::Undefined))
        }
        "list" => {
            let [] = passed.read(name, [])?;
            run.items_of(&value).map(Value::List)
        }
        "reverse" => reverse(run, &value, passed),
        "join" => join(run, &value, passed),
        "map" => map(run, &value, passed),
        "select" | "reject" | "selectattr" | "rejectattr" => select(run, name, &value, passed),
        "sort" | "dictsort" | "unique" | "groupby" | "min" | "max" => ordered(run, name, value, passed),
        "sum" => sum(run, &value, passed),
        "batch" | "slice" => cut(run, name, &value, passed),
        _ => Err(Stop::wrong(format!("there is no filter `{}`", super::shortened(name, 40)))),
    }
}

fn reverse(run: &mut Run<'_>, value: &Value, passed: Passed) -> Result<Value, Stop> {
    let [] = passed.read("reverse", [])?;
    match value {
        Value::Text(_) => operators::slice(&run.budget, value, [None, None, Some(-1)]),
        _ => {
            let items = run.items_of(value)?;
            operators::slice(&run.budget, &Value::List(items), [None, None, Some(-1)])
        }
    }
}

fn join(run: &mut Run<'_>, value: &Value, passed: Passed) -> Result<Value, Stop> {
    let [separator, attribute] = passed.read("join", ["d", "attribute"])?;
    let separator = separator.map_or(Ok(Text::from("")), |separator| separator.to_text(&run.budget))?;
    let items = run.items_of(value)?;
    let mut draft = Draft::new(&run.budget)?;
    for (place, item) in items.items.iter().enumerate() {
        run.budget.spend(1)?;
        draft.push(if place == 0 { "" } else { separator.as_str() })?;
        match &attribute {
            None => draft.write(item)?,
            Some(path) => draft.write(&at_path(run, item, path)?)?,
        }
    }
    Ok(draft.value())
}

/// The attribute of an attribute: `function.name`.
fn at_path(run: &mut Run<'_>, value: &Value, path: &Value) -> Result<Value, Stop> {
    let Value::Text(path) = path else { return run.item(value, path) };
    let mut value = value.clone();
    for part in path.as_str().split('.') {
        run.budget.spend(1)?;
        if matches!(value, Value::Undefined) {
            return Err(Stop::wrong(format!("`{}` is asked of an undefined value", super::shortened(part, 40))));
        }
        let part = match part.parse() {
            Ok(place) => Value::Int(place),
            Err(_) => Value::text(&run.budget, part)?,
        };
        value = run.item(&value, &part)?;
    }
    Ok(value)
}

fn map(run: &mut Run<'_>, value: &Value, mut passed: Passed) -> Result<Value, Stop> {
    let mut out = Items::new(&run.budget)?;
    if !value.is_true() {
        return out.list();
    }
    let items = run.items_of(value)?;
    if passed.positional.is_empty() {
        let [attribute, default] = passed.read("map", ["attribute", "default"])?;
        let Some(attribute) = attribute else { return Err(Stop::wrong("`map` needs a filter or an attribute")) };
        for item in &items.items {
            let found = at_path(run, item, &attribute)?;
            let missing = matches!(found, Value::Undefined);
            out.push(default.clone().filter(|_| missing).unwrap_or(found))?;
        }
        return out.list();
    }
    let filter = passed.positional.remove(0).to_text(&run.budget)?;
    for item in &items.items {
        let again = copied(run, &passed)?;
        out.push(run.deeper(|run| filters::apply(run, filter.as_str(), item.clone(), again))?)?;
    }
    out.list()
}

/// The same arguments once more.
fn copied(run: &Run<'_>, passed: &Passed) -> Result<Passed, Stop> {
    run.budget.spend(1 + passed.positional.len() as u64 + passed.named.len() as u64)?;
    Ok(Passed { positional: passed.positional.clone(), named: passed.named.clone() })
}

fn select(run: &mut Run<'_>, name: &str, value: &Value, mut passed: Passed) -> Result<Value, Stop> {
    if !value.is_true() {
        return Items::new(&run.budget)?.list();
    }
    let items = run.items_of(value)?;
    let wanted = name.starts_with("select");
    let attribute = if name.ends_with("attr") {
        if passed.positional.is_empty() {
            return Err(Stop::wrong(format!("`{name}` needs an attribute")));
        }
        Some(passed.positional.remove(0))
    } else {
        None
    };
    let test =
        if passed.positional.is_empty() { None } else { Some(passed.positional.remove(0).to_text(&run.budget)?) };
    let mut out = Items::new(&run.budget)?;
    for item in &items.items {
        let subject = match &attribute {
            Some(attribute) => at_path(run, item, attribute)?,
            None => item.clone(),
        };
        let holds = match &test {
            Some(test) => {
                let again = copied(run, &passed)?;
                tests::holds(run, test.as_str(), &subject, again)?
            }
            None => subject.is_true(),
        };
        if holds == wanted {
            out.push(item.clone())?;
        }
    }
    out.list()
}

/// Items with what they are ordered by.
struct Keyed {
    keys: Vec<Value>,
    item: Value,
}

fn keyed(run: &mut Run<'_>, items: &Rc<List>, attribute: Option<&Value>, case: bool) -> Result<Vec<Keyed>, Stop> {
    let mut found = Vec::new();
    let paths: Vec<Option<Value>> = match attribute {
        None | Some(Value::None) => vec![None],
        Some(Value::Text(text)) => {
            text.as_str().split(',').map(|path| Value::text(&run.budget, path).map(Some)).collect::<Result<_, _>>()?
        }
        Some(other) => vec![Some(other.clone())],
    };
    for item in &items.items {
        let mut keys = Vec::with_capacity(paths.len());
        for path in &paths {
            let key = match path {
                Some(path) => at_path(run, item, path)?,
                None => item.clone(),
            };
            keys.push(match key {
                Value::Text(text) if !case => text::lower(&run.budget, text.as_str())?,
                other => other,
            });
        }
        found.push(Keyed { keys, item: item.clone() });
    }
    Ok(found)
}

/// Sorts, stably; the first comparison that cannot be made is the error.
fn sorted(run: &Run<'_>, items: &mut [Keyed], reverse: bool) -> Result<(), Stop> {
    let mut stop = None;
    items.sort_by(|a, b| {
        if stop.is_some() {
            return Ordering::Equal;
        }
        for (a, b) in a.keys.iter().zip(&b.keys) {
            match a.order(b, &run.budget) {
                Ok(Ordering::Equal) => {}
                Ok(order) => return if reverse { order.reverse() } else { order },
                Err(why) => {
                    stop = Some(why);
                    break;
                }
            }
        }
        Ordering::Equal
    });
    stop.map_or(Ok(()), Err)
}

fn ordered(run: &mut Run<'_>, name: &str, value: Value, passed: Passed) -> Result<Value, Stop> {
    let is = |flag: &Option<Value>| flag.as_ref().is_some_and(Value::is_true);
    let (mut value, mut reverse) = (value, None);
    let (attribute, case);
    match name {
        "sort" => [reverse, case, attribute] = passed.read(name, ["reverse", "case_sensitive", "attribute"])?,
        "dictsort" => {
            let by;
            [case, by, reverse] = passed.read(name, ["case_sensitive", "by", "reverse"])?;
            attribute = Some(Value::Int(i64::from(by.as_ref().and_then(Value::as_str) == Some("value"))));
            value = filters::apply(run, "items", value, Passed::default())?;
        }
        "groupby" => {
            let default;
            [attribute, default, case] = passed.read(name, ["attribute", "default", "case_sensitive"])?;
            if attribute.is_none() || default.is_some() {
                return Err(Stop::wrong("`groupby` takes an attribute and no default"));
            }
        }
        _ => [case, attribute] = passed.read(name, ["case_sensitive", "attribute"])?,
    }
    let items = run.items_of(&value)?;
    // What the keys hold beside the items: freed when this returns.
    let _room = run.budget.hold(items.items.len().saturating_mul(3 * size_of::<Keyed>()))?;
    let mut keyed = keyed(run, &items, attribute.as_ref(), is(&case))?;
    match name {
        "unique" => return unique(run, keyed),
        "min" | "max" => sorted(run, &mut keyed, false)?,
        _ => sorted(run, &mut keyed, is(&reverse))?,
    }
    let first_of = |run: &Run<'_>, keyed: &[Keyed], last: bool| -> Result<Value, Stop> {
        let Some(end) = (if last { keyed.last() } else { keyed.first() }) else { return Ok(Value::Undefined) };
        // Of equal ones Python's `max` takes the first.
        for candidate in keyed {
            if candidate.keys[0].equals(&end.keys[0], &run.budget)? {
                return Ok(candidate.item.clone());
            }
        }
        Ok(end.item.clone())
    };
    match name {
        "min" | "max" => first_of(run, &keyed, name == "max"),
        "groupby" => grouped(run, &keyed, attribute.as_ref()),
        _ => {
            let mut out = Items::new(&run.budget)?;
            out.extend(keyed.into_iter().map(|one| one.item))?;
            out.list()
        }
    }
}

fn unique(run: &Run<'_>, keyed: Vec<Keyed>) -> Result<Value, Stop> {
    let mut out = Items::new(&run.budget)?;
    let mut seen: Vec<Value> = Vec::new();
    for one in keyed {
        let mut known = false;
        for key in &seen {
            known = known || key.equals(&one.keys[0], &run.budget)?;
        }
        if !known {
            seen.extend(one.keys.into_iter().next());
            out.push(one.item)?;
        }
    }
    out.list()
}

fn grouped(run: &mut Run<'_>, keyed: &[Keyed], attribute: Option<&Value>) -> Result<Value, Stop> {
    let mut groups = Items::new(&run.budget)?;
    let mut from = 0;
    while let Some(first) = keyed.get(from) {
        let mut group = Items::new(&run.budget)?;
        for one in &keyed[from..] {
            if !one.keys[0].equals(&first.keys[0], &run.budget)? {
                break;
            }
            group.push(one.item.clone())?;
        }
        from += group.len();
        let name = attribute.map_or(Ok(Value::Undefined), |path| at_path(run, &first.item, path))?;
        let mut pair = Items::new(&run.budget)?;
        pair.extend([name, group.list()?])?;
        groups.push(pair.tuple()?)?;
    }
    groups.list()
}

fn sum(run: &mut Run<'_>, value: &Value, passed: Passed) -> Result<Value, Stop> {
    let [attribute, start] = passed.read("sum", ["attribute", "start"])?;
    let items = run.items_of(value)?;
    let mut total = start.unwrap_or(Value::Int(0));
    for item in &items.items {
        let item = match &attribute {
            None | Some(Value::None) => item.clone(),
            Some(path) => at_path(run, item, path)?,
        };
        run.budget.spend(1)?;
        total = operators::apply(&run.budget, Operator::Add, &total, &item)?;
    }
    Ok(total)
}

/// `batch` makes lists of `count` items, `slice` makes `count` lists.
fn cut(run: &mut Run<'_>, name: &str, value: &Value, passed: Passed) -> Result<Value, Stop> {
    let [count, fill] = passed.read(name, ["count", "fill_with"])?;
    let items = run.items_of(value)?;
    let length = items.items.len();
    let count = count_or(count, 0)?;
    if count == 0 {
        return Err(Stop::wrong(format!("`{name}` needs a count above zero")));
    }
    let fill = fill.filter(|fill| !matches!(fill, Value::None));
    let mut out = Items::new(&run.budget)?;
    let lists = if name == "batch" { length.div_ceil(count) } else { count };
    out.reserve(lists)?;
    let mut from = 0;
    for place in 0..lists {
        let (size, full) = if name == "batch" {
            (count.min(length - from), count)
        } else {
            (
                length / count + usize::from(place < length % count),
                length / count + usize::from(!length.is_multiple_of(count)),
            )
        };
        let mut list = Items::new(&run.budget)?;
        list.extend(items.items.iter().skip(from).take(size).cloned())?;
        if let Some(fill) = &fill {
            list.reserve(full - size)?;
            for _ in size..full {
                list.push(fill.clone())?;
            }
        }
        from += size;
        out.push(list.list()?)?;
    }
    out.list()
}
