//! The attributes of a command in its JSON form.

use std::collections::BTreeMap;

use serde_json::{Map, Value, json};

use super::{read_word, word};
use crate::child::{Attributes, PassedDescriptor, Resource, ResourceLimit};
use crate::terminal::WindowSize;

/// The keys of the attributes; `null` for one that was not given.
pub(super) fn write(attributes: &Attributes) -> Map<String, Value> {
    let Attributes { descriptors, uid, gid, groups, umask, limits, oom_score_adj, pty_size, term } =
        attributes;
    let numbers: Vec<i32> = descriptors.iter().map(|passed| passed.number).collect();
    let limits: Map<String, Value> = limits
        .iter()
        .map(|(resource, limit)| (resource.to_string(), json!([limit.soft, limit.hard])))
        .collect();
    let keys = [
        ("preserve_fds", json!((!numbers.is_empty()).then_some(numbers))),
        ("uid", json!(uid)),
        ("gid", json!(gid)),
        ("groups", json!(groups)),
        ("umask", json!(umask.map(|mask| format!("{mask:04o}")))),
        ("ulimits", json!((!limits.is_empty()).then_some(limits))),
        ("oom_score_adj", json!(oom_score_adj)),
        ("tty_size", json!(pty_size.map(|size| [size.rows, size.columns]))),
        ("term", json!(term.as_deref().map(word))),
    ];
    keys.into_iter().map(|(key, value)| (key.to_owned(), value)).collect()
}

/// Reads the output of [`write`]; `None` if an attribute can't be read.
pub(super) fn read(value: &Value) -> Option<Option<Box<Attributes>>> {
    let attributes = Attributes {
        descriptors: numbers(&value["preserve_fds"])?
            .unwrap_or_default()
            .into_iter()
            .map(|number| PassedDescriptor { number, descriptor: None })
            .collect(),
        uid: given(&value["uid"], number)?,
        gid: given(&value["gid"], number)?,
        groups: numbers(&value["groups"])?,
        umask: given(&value["umask"], |mask| {
            u32::from_str_radix(mask.as_str()?, 8).ok().filter(|mask| *mask <= 0o777)
        })?,
        limits: given(&value["ulimits"], limits)?.unwrap_or_default(),
        oom_score_adj: given(&value["oom_score_adj"], |score| score.as_i64()?.try_into().ok())?,
        pty_size: given(&value["tty_size"], |size| match size.as_array()?.as_slice() {
            [rows, columns] => Some(WindowSize::new(number(rows)?, number(columns)?)),
            _ => None,
        })?,
        term: given(&value["term"], read_word)?,
    };
    Some((attributes != Attributes::default()).then(|| Box::new(attributes)))
}

/// `Some(None)` if there is no value, `None` if it can't be read.
fn given<T>(value: &Value, read: impl FnOnce(&Value) -> Option<T>) -> Option<Option<T>> {
    if value.is_null() { Some(None) } else { read(value).map(Some) }
}

fn number<T: TryFrom<u64>>(value: &Value) -> Option<T> {
    value.as_u64()?.try_into().ok()
}

fn numbers<T: TryFrom<u64>>(value: &Value) -> Option<Option<Vec<T>>> {
    given(value, |value| value.as_array()?.iter().map(number).collect())
}

fn limits(value: &Value) -> Option<BTreeMap<Resource, ResourceLimit>> {
    let limit = |(resource, limit): (&String, &Value)| match limit.as_array()?.as_slice() {
        [soft, hard] => {
            let (soft, hard) = (given(soft, number)?, given(hard, number)?);
            Some((resource.parse().ok()?, ResourceLimit::new(soft, hard)))
        }
        _ => None,
    };
    value.as_object()?.iter().map(limit).collect()
}
