//! Reports what a command could not do for some of its sandboxes, and its exit code.

use std::fmt;

use vmon::terminal::Messages;

use super::{NOT_ALL_DONE, messages};

/// Reports the failures of a command, and has its exit code.
#[derive(Debug)]
pub struct Outcome {
    pub messages: Messages,
    /// Whether failures are only collected: they have been printed before.
    is_silent: bool,
    failures: Vec<String>,
    /// 1 after a failure.
    pub code: u8,
}

impl Outcome {
    pub fn new(messages: &Messages) -> Self {
        Self { messages: messages.clone(), is_silent: false, failures: Vec::new(), code: 0 }
    }

    /// One for the same command that does not print failures.
    pub fn silent(&self) -> Self {
        Self { is_silent: true, ..Self::new(&self.messages) }
    }

    /// The value of a result, if it is not a failure, which is printed.
    pub fn ok<T>(&mut self, result: Result<T, impl fmt::Display>) -> Option<T> {
        result.map_err(|error| self.failed(&error.to_string())).ok()
    }

    /// Prints a failure, as one line.
    pub fn failed(&mut self, text: &str) {
        if !self.is_silent {
            messages::failure(&self.messages, text);
        }
        self.failures.push(text.to_owned());
        self.code = NOT_ALL_DONE;
    }

    /// All failures.
    pub fn failures(&self) -> &[String] {
        &self.failures
    }
}
