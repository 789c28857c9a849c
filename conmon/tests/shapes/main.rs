//! The four shapes of a life, with a runtime that is a script: each message, file and order of
//! events that an engine relies on.

#![cfg(test)]
#![allow(unsafe_code)] // descriptors for a program take pre_exec

mod attach;
mod create;
mod descriptors;
mod end;
mod engine;
mod exec;
mod terminal;

use std::path::Path;
use std::time::{Duration, Instant};

/// How long anything may take before a test gives up on it: no more than a bound on failure.
pub const TIMEOUT: Duration = Duration::from_secs(60);

/// Waits until `done` is true.
#[track_caller]
pub fn eventually(what: &str, mut done: impl FnMut() -> bool) {
    let start = Instant::now();
    while !done() {
        assert!(start.elapsed() < TIMEOUT, "not within {TIMEOUT:?}: {what}");
        std::thread::sleep(Duration::from_millis(2));
    }
}

/// The text of a file, once it has one.
#[track_caller]
pub fn text_of(path: &Path) -> String {
    let mut text = String::new();
    eventually(&format!("{} has a content", path.display()), || {
        text = std::fs::read_to_string(path).unwrap_or_default();
        !text.is_empty()
    });
    text
}
