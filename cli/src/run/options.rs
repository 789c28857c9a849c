//! The options of `vmon run` that the library knows nothing of, as the record keeps them beside the
//! rest of what was asked for: `vmon restart` reads them there.

use std::ffi::{OsStr, OsString};
use std::os::unix::ffi::{OsStrExt, OsStringExt};

use serde_json::{Map, Value, json};

/// Those that there are. A host may have recorded whatever it likes.
const NAMES: [&str; 6] =
    ["runtime-dir", "pid-file", "exit-file", "on-exit", "metrics-interval", "log-level"];

/// The options by name, without their dashes, each with its one value.
#[derive(Debug, Clone, Default)]
pub struct Options(Map<String, Value>);

impl Options {
    /// Adds `--name value`, where there is a value.
    pub fn add(&mut self, name: &str, value: Option<impl AsRef<OsStr>>) {
        debug_assert!(NAMES.contains(&name), "{name} would not be read back");
        if let Some(value) = value {
            let value = value.as_ref();
            // As the rest of the spec has what is not UTF-8.
            let value = value
                .to_str()
                .map_or_else(|| json!({ "bytes": value.as_bytes() }), |text| json!(text));
            self.0.insert(name.to_owned(), value);
        }
    }

    /// Whether this option is on record.
    pub fn has(recorded: &Value, name: &str) -> bool {
        recorded.get(name).is_some()
    }

    pub fn to_json(&self) -> Value {
        Value::Object(self.0.clone())
    }

    /// What [`to_json`](Self::to_json) has written, as arguments: `--name=value` each. `None` for
    /// what is nothing of the kind.
    pub fn arguments(recorded: &Value) -> Option<Vec<OsString>> {
        if recorded.is_null() {
            return Some(Vec::new());
        }
        let options = recorded.as_object()?.iter();
        let one = |(name, value): (&String, &Value)| {
            NAMES.contains(&name.as_str()).then_some(())?;
            Some(argument(name, &read(value)?))
        };
        options.map(one).collect()
    }
}

/// One word, so that no value is taken for an option.
pub fn argument(name: &str, value: &OsStr) -> OsString {
    let mut argument = OsString::from(format!("--{name}="));
    argument.push(value);
    argument
}

fn read(value: &Value) -> Option<OsString> {
    if let Some(text) = value.as_str() {
        return Some(text.into());
    }
    let bytes = value.get("bytes")?.as_array()?.iter();
    let bytes: Option<Vec<u8>> = bytes.map(|byte| byte.as_u64()?.try_into().ok()).collect();
    bytes.map(OsString::from_vec)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_recorded_becomes_the_same_arguments_again() {
        let mut options = Options::default();
        options.add("on-exit", Some("--x y"));
        options.add("pid-file", Some(OsString::from_vec(vec![b'/', 0xff])));
        options.add("exit-file", None::<&str>);
        let arguments = Options::arguments(&options.to_json()).unwrap();
        let expected =
            [OsString::from("--on-exit=--x y"), OsString::from_vec(b"--pid-file=/\xff".to_vec())];
        assert_eq!(arguments, expected);
        assert_eq!(Options::arguments(&Value::Null), Some(Vec::new()));
        assert_eq!(Options::arguments(&json!({ "on-exit": 1 })), None);
        assert_eq!(Options::arguments(&json!({ "tenant": "x" })), None);
    }
}
