//! Names of sandboxes, consoles and config files. Each is one path component.

use std::fmt;
use std::str::FromStr;

/// The name of a sandbox or of its config file.
///
/// Names become file names, so a name is exactly one path component:
/// `[A-Za-z0-9][A-Za-z0-9_.+-]*`, at most 128 bytes. No name can lead out of the log directory.
///
/// ```
/// use vmon::monitor::Name;
/// assert!("web-1".parse::<Name>().is_ok());
/// assert!("../../tmp/evil".parse::<Name>().is_err());
/// ```
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Name(String);

/// A name that could not be a file name of its own.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum NameError {
    /// No name at all.
    #[error("a name must not be empty")]
    Empty,
    /// Longer than [`Name::MAX_LEN`].
    #[error("the name {0:?} is too long: at most {max} bytes", max = Name::MAX_LEN)]
    TooLong(String),
    /// A byte that names do not have.
    #[error(
        "the name {0:?} is not allowed: a letter or digit first, then letters, digits, '_', '.', '+' and '-'"
    )]
    Character(String),
}

impl Name {
    /// The longest name, in bytes.
    pub const MAX_LEN: usize = 128;

    /// Checks `name`.
    ///
    /// # Errors
    ///
    /// A [`NameError`] that says what a name may be.
    pub fn new(name: impl Into<String>) -> Result<Self, NameError> {
        let name = name.into();
        let Some(first) = name.bytes().next() else {
            return Err(NameError::Empty);
        };
        if name.len() > Self::MAX_LEN {
            return Err(NameError::TooLong(name));
        }
        let allowed = |byte: u8| byte.is_ascii_alphanumeric() || b"_.+-".contains(&byte);
        if !first.is_ascii_alphanumeric() || !name.bytes().all(allowed) {
            return Err(NameError::Character(name));
        }
        Ok(Self(name))
    }

    /// The name as text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl FromStr for Name {
    type Err = NameError;

    fn from_str(name: &str) -> Result<Self, NameError> {
        Self::new(name)
    }
}

impl TryFrom<&str> for Name {
    type Error = NameError;

    fn try_from(name: &str) -> Result<Self, NameError> {
        Self::new(name)
    }
}

impl TryFrom<String> for Name {
    type Error = NameError;

    fn try_from(name: String) -> Result<Self, NameError> {
        Self::new(name)
    }
}

impl fmt::Display for Name {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}
