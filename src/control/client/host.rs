//! The client of a host's control socket.

use std::collections::BTreeMap;
use std::ffi::{OsStr, OsString};
use std::path::Path;

use nix::unistd::geteuid;
use serde_json::{Value, json};

use super::super::Start;
use super::super::value::{Fields, Unreadable};
use super::{Client, ClientError};
use crate::child::Command;
use crate::monitor::codec;
use crate::socket;
use crate::timestamp::rfc3339;

/// A connection to the control socket of a host.
#[derive(Debug)]
pub struct HostClient(Client);

/// A sandbox that a host has started.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct StartedByHost {
    /// Its name, with a number if the host has appended one.
    pub name: String,
    /// The pid of the child.
    pub pid: u32,
}

/// Why a host has not started a sandbox.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum HostStartError {
    /// The host has refused it, or the command could not be started.
    #[error("{message}")]
    NotStarted {
        /// The reason.
        message: String,
        /// The exit code of a command that represents this: 126, 127, or 125.
        exit_code: u8,
    },
    /// The call has failed.
    #[error(transparent)]
    Client(#[from] ClientError),
}

impl HostClient {
    /// Connects to the socket at `path`. Only a host of root or of this process's own user is used,
    /// by root too: a start hands over the environment, and the reply is believed.
    ///
    /// # Errors
    ///
    /// [`ClientError::Stranger`] if another user's process listens, and as [`Client::connect`].
    pub fn connect(path: impl AsRef<Path>) -> Result<Self, ClientError> {
        let client = Client::connect(path)?;
        let owner = socket::peer_uid(&client.stream).map_err(|error| client.io(error))?;
        if owner != 0 && owner != geteuid().as_raw() {
            return Err(ClientError::Stranger { path: client.path, owner });
        }
        Ok(Self(Client { interface: "io.vmon.Host", ..client }))
    }

    /// Starts a sandbox. The command gets the environment of this process, with the changes of the
    /// command, and runs in the working directory of this process unless it has another one.
    ///
    /// Waits without a limit until the command runs: a log or a record may delay that.
    ///
    /// # Errors
    ///
    /// [`HostStartError::NotStarted`], or the call has failed.
    pub fn start(&mut self, start: &Start) -> Result<StartedByHost, HostStartError> {
        self.0.send("Start", parameters(start), "")?;
        let error = match self.0.reply(None) {
            Ok(reply) => {
                let started = read_started(&reply.parameters);
                return Ok(started.map_err(|error| self.0.unreadable("Start", &error))?);
            }
            Err(error) => error,
        };
        match &error {
            ClientError::Call { name, parameters, .. } if name == "io.vmon.Host.NotStarted" => {
                let parameters: Value = serde_json::from_str(parameters).unwrap_or_default();
                Err(read_refusal(&parameters).unwrap_or(HostStartError::Client(error)))
            }
            _ => Err(error.into()),
        }
    }
}

fn parameters(Start { spec, numbered, state_dir, db }: &Start) -> Value {
    let mut description = spec.to_json();
    let command = spec.command.as_ref();
    if let (Some(command), Some(description)) = (command, description.as_object_mut())
        && command.get_current_dir().is_none()
        && let Ok(directory) = std::env::current_dir()
    {
        description.insert("directory".to_owned(), codec::word(directory.as_os_str()));
    }
    let modified = spec.sandbox.config_last_modified;
    json!({
        "name": spec.sandbox.name.as_str(),
        "config_file": spec.sandbox.config_file.as_str(),
        "config_last_modified": rfc3339(modified),
        "numbered": numbered,
        "spec": description,
        "environment": command.map(environment),
        "state_dir": state_dir.as_deref().map(codec::word),
        "db": db.as_deref().map(codec::word),
    })
}

/// All variables of the command.
fn environment(command: &Command) -> Value {
    let mut variables: BTreeMap<OsString, OsString> = BTreeMap::new();
    if !command.get_env_clear() {
        variables.extend(std::env::vars_os());
    }
    for (key, value) in command.get_envs() {
        match value {
            Some(value) => variables.insert(key.clone(), value.clone()),
            None => variables.remove(key),
        };
    }
    let word = |(key, value): (OsString, OsString)| {
        codec::word(&[key.as_os_str(), &value].join(OsStr::new("=")))
    };
    variables.into_iter().map(word).collect()
}

fn read_started(reply: &Value) -> Result<StartedByHost, Unreadable> {
    let fields = Fields::of(reply)?;
    Ok(StartedByHost { name: fields.text("name")?.to_owned(), pid: fields.number("pid")? })
}

fn read_refusal(parameters: &Value) -> Option<HostStartError> {
    let fields = Fields::of(parameters).ok()?;
    Some(HostStartError::NotStarted {
        message: fields.text("message").ok()?.to_owned(),
        exit_code: fields.number("exit_code").ok()?,
    })
}
