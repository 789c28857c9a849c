//! Parses parameters and replies: JSON objects with fields of known types.

use std::time::Duration;

use serde_json::{Map, Value};

/// The name of a field that is missing or has a wrong type.
#[derive(Debug)]
pub(super) struct Unreadable(pub(super) &'static str);

/// The fields of an object; null counts as missing.
pub(super) struct Fields<'a>(pub(super) &'a Map<String, Value>);

impl<'a> Fields<'a> {
    pub(super) fn of(value: &'a Value) -> Result<Self, Unreadable> {
        value.as_object().map(Self).ok_or(Unreadable("an object"))
    }

    pub(super) fn get(&self, name: &'static str) -> Option<&'a Value> {
        self.0.get(name).filter(|value| !value.is_null())
    }

    pub(super) fn some(&self, name: &'static str) -> Result<&'a Value, Unreadable> {
        self.get(name).ok_or(Unreadable(name))
    }

    pub(super) fn text(&self, name: &'static str) -> Result<&'a str, Unreadable> {
        self.some(name)?.as_str().ok_or(Unreadable(name))
    }

    pub(super) fn optional_text(&self, name: &'static str) -> Result<Option<&'a str>, Unreadable> {
        self.get(name).map(|value| value.as_str().ok_or(Unreadable(name))).transpose()
    }

    pub(super) fn number<N: TryFrom<i64>>(&self, name: &'static str) -> Result<N, Unreadable> {
        self.optional_number(name)?.ok_or(Unreadable(name))
    }

    pub(super) fn optional_number<N: TryFrom<i64>>(
        &self,
        name: &'static str,
    ) -> Result<Option<N>, Unreadable> {
        let Some(value) = self.get(name) else { return Ok(None) };
        let number = value.as_i64().and_then(|number| N::try_from(number).ok());
        number.map(Some).ok_or(Unreadable(name))
    }

    pub(super) fn flag(&self, name: &'static str) -> Result<Option<bool>, Unreadable> {
        self.get(name).map(|value| value.as_bool().ok_or(Unreadable(name))).transpose()
    }

    pub(super) fn list(&self, name: &'static str) -> Result<&'a [Value], Unreadable> {
        let list = self.some(name)?.as_array().ok_or(Unreadable(name))?;
        Ok(list)
    }
}

/// A varlink int, which is a signed 64-bit integer.
pub(super) fn int(number: u64) -> i64 {
    i64::try_from(number).unwrap_or(i64::MAX)
}

/// A time in milliseconds.
pub(super) fn milliseconds(time: Duration) -> i64 {
    i64::try_from(time.as_millis()).unwrap_or(i64::MAX)
}
