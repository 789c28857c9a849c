//! Labels of sandboxes: keys with values, chosen by the user.

use std::collections::BTreeMap;

/// The labels of a sandbox, in the order of their keys.
///
/// A key is 1 to [`MAX_KEY`](Self::MAX_KEY) bytes of ASCII letters, digits, `.`, `_`, `-` and `/`,
/// such as `app` or `org.example/tier`. A value is at most [`MAX_VALUE`](Self::MAX_VALUE) bytes of
/// UTF-8 without control characters, and may be empty. There are at most
/// [`MAX_COUNT`](Self::MAX_COUNT) labels, and all keys and values together are at most
/// [`MAX_TOTAL`](Self::MAX_TOTAL) bytes, so that a record and a reply of the control socket stay
/// bounded.
///
/// ```
/// use vmon::monitor::Labels;
///
/// # fn main() -> Result<(), vmon::monitor::LabelError> {
/// let mut labels = Labels::default();
/// labels.insert("tier", "back end")?;
/// labels.insert("app", "web")?;
/// labels.insert("app", "shop")?;
/// assert_eq!(labels.get("app"), Some("shop"));
/// assert_eq!(labels.iter().collect::<Vec<_>>(), [("app", "shop"), ("tier", "back end")]);
/// assert!(labels.insert("two words", "").is_err());
/// # Ok(())
/// # }
/// ```
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Labels {
    values: BTreeMap<String, String>,
    /// The bytes of all keys and values.
    total: usize,
}

/// A label that a sandbox can't have.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum LabelError {
    /// No key.
    #[error("the key of a label must not be empty")]
    NoKey,
    /// A character that keys do not have.
    #[error(
        "the label key {0:?} is not allowed: give letters, digits, '.', '_', '-' and '/' of ASCII"
    )]
    Key(String),
    /// A key of this many bytes.
    #[error("the key of a label is too long: {0} bytes, at most {max}", max = Labels::MAX_KEY)]
    KeyTooLong(usize),
    /// A control character in the value.
    #[error(
        "the value of the label {key} is not allowed: it has the control character {character:?}"
    )]
    Value {
        /// The key.
        key: String,
        /// The first such character.
        character: char,
    },
    /// A value of this many bytes.
    #[error(
        "the value of the label {key} is too long: {length} bytes, at most {max}",
        max = Labels::MAX_VALUE
    )]
    ValueTooLong {
        /// The key.
        key: String,
        /// Its length in bytes.
        length: usize,
    },
    /// All keys and values together, in bytes.
    #[error("the labels are too long: {0} bytes in all, at most {max}", max = Labels::MAX_TOTAL)]
    TotalTooLong(usize),
    /// One label more than a sandbox can have.
    #[error("there are too many labels: at most {max}", max = Labels::MAX_COUNT)]
    TooMany,
}

impl Labels {
    /// The longest key, in bytes.
    pub const MAX_KEY: usize = 256;

    /// The longest value, in bytes.
    pub const MAX_VALUE: usize = 4096;

    /// The most bytes of all keys and values of a sandbox.
    pub const MAX_TOTAL: usize = 64 << 10;

    /// The most labels of a sandbox.
    pub const MAX_COUNT: usize = 256;

    /// Adds a label. It replaces one of the same key.
    ///
    /// # Errors
    ///
    /// A [`LabelError`] that says what a label may be. The labels are unchanged then.
    pub fn insert(
        &mut self,
        key: impl Into<String>,
        value: impl Into<String>,
    ) -> Result<(), LabelError> {
        let (key, value) = (key.into(), value.into());
        check(&key, &value)?;
        let replaced = self.values.get(&key).map(|old| key.len() + old.len());
        let total = self.total - replaced.unwrap_or(0) + key.len() + value.len();
        if total > Self::MAX_TOTAL {
            return Err(LabelError::TotalTooLong(total));
        }
        if replaced.is_none() && self.values.len() == Self::MAX_COUNT {
            return Err(LabelError::TooMany);
        }
        self.values.insert(key, value);
        self.total = total;
        Ok(())
    }

    /// The value of the label with this key.
    pub fn get(&self, key: &str) -> Option<&str> {
        self.values.get(key).map(String::as_str)
    }

    /// All keys with their values, in the order of the keys.
    pub fn iter(&self) -> impl Iterator<Item = (&str, &str)> {
        self.values.iter().map(|(key, value)| (key.as_str(), value.as_str()))
    }

    /// How many there are.
    pub fn len(&self) -> usize {
        self.values.len()
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.values.is_empty()
    }
}

fn check(key: &str, value: &str) -> Result<(), LabelError> {
    let allowed = |byte: u8| byte.is_ascii_alphanumeric() || b"._-/".contains(&byte);
    if key.is_empty() {
        return Err(LabelError::NoKey);
    }
    if key.len() > Labels::MAX_KEY {
        return Err(LabelError::KeyTooLong(key.len()));
    }
    if !key.bytes().all(allowed) {
        return Err(LabelError::Key(key.to_owned()));
    }
    if value.len() > Labels::MAX_VALUE {
        return Err(LabelError::ValueTooLong { key: key.to_owned(), length: value.len() });
    }
    match value.chars().find(|character| character.is_control()) {
        Some(character) => Err(LabelError::Value { key: key.to_owned(), character }),
        None => Ok(()),
    }
}

/// The JSON form, in records and replies: an object of strings.
#[cfg(any(feature = "codec", feature = "control"))]
pub(crate) mod json {
    use serde_json::Value;

    use super::Labels;

    pub(crate) fn write(labels: &Labels) -> Value {
        labels.iter().map(|(key, value)| (key.to_owned(), Value::from(value))).collect()
    }

    /// Labels that this version does not allow are left out, so that a record or a reply of another
    /// version stays readable.
    pub(crate) fn read(value: &Value) -> Labels {
        let mut labels = Labels::default();
        for (key, value) in value.as_object().into_iter().flatten() {
            if let Some(value) = value.as_str() {
                let _ = labels.insert(key, value);
            }
        }
        labels
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn insert(key: &str, value: &str) -> Result<(), LabelError> {
        Labels::default().insert(key, value)
    }

    #[test]
    fn a_key_is_a_word_of_ascii_and_a_value_any_text_without_control_characters() {
        for key in ["a", "A.b_c-d/9", "/", "org.opencontainers.image.title", &"k".repeat(256)] {
            assert_eq!(insert(key, ""), Ok(()), "{key}");
        }
        for value in ["", "a=b", "\"quoted\\", " ", "ä 日本 \u{1f980}", &"v".repeat(4096)] {
            assert_eq!(insert("k", value), Ok(()), "{value}");
        }
    }

    #[test]
    fn an_error_says_what_a_label_may_be() {
        let said = |key: &str, value: &str| insert(key, value).unwrap_err().to_string();
        assert_eq!(said("", "x"), "the key of a label must not be empty");
        for key in ["a b", "ä", "a=b", "a\n", "a:b"] {
            assert!(said(key, "").starts_with(&format!("the label key {key:?} is not allowed: ")));
        }
        let long = said(&"k".repeat(257), "");
        assert_eq!(long, "the key of a label is too long: 257 bytes, at most 256");
        for (value, character) in [
            ("a\nb", "'\\n'"),
            ("\0", "'\\0'"),
            ("\u{1b}[1m", "'\\u{1b}'"),
            ("\u{85}", "'\\u{85}'"),
        ] {
            let expected = format!("it has the control character {character}");
            assert!(said("k", value).ends_with(&expected), "{}", said("k", value));
        }
        let long = said("k", &"ä".repeat(2049));
        assert_eq!(long, "the value of the label k is too long: 4098 bytes, at most 4096");
    }

    #[test]
    fn all_labels_together_are_bounded() {
        let mut labels = Labels::default();
        let value = "v".repeat(Labels::MAX_VALUE - 1);
        for key in 'a'..='p' {
            labels.insert(key, &*value).unwrap();
        }
        assert_eq!(labels.insert("q", ""), Err(LabelError::TotalTooLong(Labels::MAX_TOTAL + 1)));
        assert_eq!(labels.len(), 16);
        // A replaced value does not count.
        labels.insert("a", "").unwrap();
        labels.insert("a", &*value).unwrap();
        assert_eq!(labels.get("a"), Some(&*value));
    }

    #[test]
    fn the_number_of_labels_is_bounded() {
        let mut labels = Labels::default();
        for key in 0..Labels::MAX_COUNT {
            labels.insert(key.to_string(), "").unwrap();
        }
        assert_eq!(labels.insert("more", ""), Err(LabelError::TooMany));
        labels.insert("7", "replaced").unwrap();
        assert_eq!((labels.len(), labels.get("7")), (Labels::MAX_COUNT, Some("replaced")));
    }
}
