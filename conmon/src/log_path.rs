//! The values of `--log-path`: which log drivers are meant.

use std::ffi::OsString;
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::PathBuf;

/// The log drivers that were asked for. Without any of them nothing is logged.
#[derive(Debug, Default, Clone, PartialEq, Eq)]
pub struct Drivers {
    /// The path of the k8s-file; of several ones the last one counts.
    pub k8s_file: Option<PathBuf>,
    pub journald: bool,
    /// The container gets the stdio of this process.
    pub passthrough: bool,
}

/// A value of `--log-path` that can't be used. These texts are what callers look for.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub enum LogPathError {
    #[error("Log driver not provided. Use --log-path")]
    None,
    #[error("log-path must not be empty")]
    Empty,
    #[error("k8s-file requires a filename")]
    NoPath,
    #[error("No such log driver {}", .0.display())]
    Unknown(OsString),
}

impl Drivers {
    /// Reads all values of `--log-path`.
    ///
    /// # Errors
    ///
    /// The first value that can't be used, or that there is none.
    pub fn parse(values: &[OsString]) -> Result<Self, LogPathError> {
        if values.is_empty() {
            return Err(LogPathError::None);
        }
        let mut drivers = Self::default();
        values.iter().try_for_each(|value| drivers.add(value.as_bytes()))?;
        Ok(drivers)
    }

    /// Adds `DRIVER:PATH`, `DRIVER` or `PATH`. Colons only separate: several count as one, and what
    /// follows the path is ignored.
    fn add(&mut self, value: &[u8]) -> Result<(), LogPathError> {
        let mut parts = value.split(|&byte| byte == b':').filter(|part| !part.is_empty());
        let first = parts.next().ok_or(LogPathError::Empty)?;
        let path = parts.next();
        if value.starts_with(b":") && path.is_none() {
            self.k8s_file = Some(path_of(first));
            return Ok(());
        }
        match (first, path) {
            (b"none" | b"off" | b"null", _) => {}
            (b"journald", _) => self.journald = true,
            (b"passthrough", _) => self.passthrough = true,
            (b"k8s-file", Some(path)) => self.k8s_file = Some(path_of(path)),
            (b"k8s-file", None) => return Err(LogPathError::NoPath),
            (path, None) if !value.contains(&b':') => self.k8s_file = Some(path_of(path)),
            (driver, _) => return Err(LogPathError::Unknown(OsString::from_vec(driver.to_vec()))),
        }
        Ok(())
    }
}

fn path_of(bytes: &[u8]) -> PathBuf {
    PathBuf::from(OsString::from_vec(bytes.to_vec()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn parse(values: &[&str]) -> Result<Drivers, LogPathError> {
        Drivers::parse(&values.iter().map(OsString::from).collect::<Vec<_>>())
    }

    fn file(path: &str) -> Result<Drivers, LogPathError> {
        Ok(Drivers { k8s_file: Some(path.into()), ..Drivers::default() })
    }

    #[test]
    fn a_path_is_a_k8s_file() {
        for value in ["/a/b", ":/a/b", "k8s-file:/a/b", "k8s-file:/a/b:c", "k8s-file::/a/b"] {
            assert_eq!(parse(&[value]), file("/a/b"), "{value}");
        }
        // A colon first: a file of that name.
        for value in [":journald", ":none", ":passthrough", ":k8s-file"] {
            assert_eq!(parse(&[value]), file(value.trim_start_matches(':')), "{value}");
        }
    }

    #[test]
    fn the_other_drivers_have_a_name() {
        for value in ["none", "off", "null", "none:", "off:x", "null:/a"] {
            assert_eq!(parse(&[value]), Ok(Drivers::default()), "{value}");
        }
        for value in ["journald", "journald:", "journald:x"] {
            assert!(parse(&[value]).is_ok_and(|it| it.journald && it.k8s_file.is_none()));
        }
        for value in ["passthrough", "passthrough:"] {
            assert!(parse(&[value]).is_ok_and(|it| it.passthrough));
        }
    }

    #[test]
    fn several_drivers_add_up_and_of_files_the_last_one_counts() {
        let drivers = parse(&["k8s-file:/a", "journald", "none", "/b"]).unwrap();
        let k8s_file = Some("/b".into());
        assert_eq!(drivers, Drivers { k8s_file, journald: true, passthrough: false });
    }

    #[test]
    fn an_invalid_value_is_refused_with_the_text_that_callers_look_for() {
        for (values, text) in [
            (&[][..], "Log driver not provided. Use --log-path"),
            (&[""], "log-path must not be empty"),
            (&[":"], "log-path must not be empty"),
            (&["::"], "log-path must not be empty"),
            (&["k8s-file"], "k8s-file requires a filename"),
            (&["k8s-file:"], "k8s-file requires a filename"),
            (&["syslog:"], "No such log driver syslog"),
            (&["syslog:x"], "No such log driver syslog"),
            (&[":a:b"], "No such log driver a"),
            (&["none", "a::b"], "No such log driver a"),
        ] {
            assert_eq!(parse(values).unwrap_err().to_string(), text, "{values:?}");
        }
    }
}
