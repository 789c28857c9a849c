//! Replies, and errors as replies.

use serde_json::{Value, json};

use super::super::value::Unreadable;
use super::backend::Interface;

/// The interface of every varlink service.
pub(super) const SERVICE: &str = "org.varlink.service";

/// Length limit of an unknown name in an error reply.
const MAX_ECHO: usize = 256;

/// A varlink error.
#[derive(Debug)]
pub(crate) struct Fault {
    /// Whether it is an error of `org.varlink.service`, and not of the server's own interface.
    standard: bool,
    name: &'static str,
    parameters: Value,
}

impl Fault {
    /// An error of the server's interface.
    pub(crate) fn new(name: &'static str, parameters: Value) -> Self {
        Self { standard: false, name, parameters }
    }

    /// An error of every varlink service.
    pub(super) fn standard(name: &'static str, parameters: Value) -> Self {
        Self { standard: true, name, parameters }
    }

    /// A parameter that the method does not have, or with a value that it does not take.
    pub(super) fn parameter(name: &str) -> Self {
        Self::standard("InvalidParameter", json!({ "parameter": echo(name) }))
    }

    /// An error with a message.
    pub(crate) fn failed(message: &str) -> Self {
        Self::new("Failed", json!({ "message": message }))
    }

    /// Encodes it as a message of a server of this interface.
    pub(super) fn message(&self, interface: Interface) -> Vec<u8> {
        let interface = if self.standard { SERVICE } else { interface.name };
        let error = format!("{interface}.{}", self.name);
        message(&json!({ "error": error, "parameters": self.parameters }))
    }
}

impl From<Unreadable> for Fault {
    fn from(Unreadable(name): Unreadable) -> Self {
        Self::parameter(name)
    }
}

/// Encodes a reply as a message.
pub(crate) fn reply(parameters: Value, continues: bool) -> Vec<u8> {
    match continues {
        true => message(&json!({ "parameters": parameters, "continues": true })),
        false => message(&json!({ "parameters": parameters })),
    }
}

fn message(value: &Value) -> Vec<u8> {
    let mut bytes = value.to_string().into_bytes();
    bytes.push(0);
    bytes
}

/// A name for an error reply, truncated because it may be as long as a message.
pub(super) fn echo(name: &str) -> String {
    name.chars().take(MAX_ECHO).collect()
}
