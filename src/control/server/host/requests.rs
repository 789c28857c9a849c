//! The calls of `io.vmon.Host`, read and checked.

use std::ffi::OsString;
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::time::Duration;

use serde_json::{Map, Value, json};

use super::super::super::call::Call;
use super::super::super::value::Fields;
use super::super::fault::{Fault, echo};
use super::super::methods::{read_attach, read_signal, read_size};
use super::super::routing::{parameters, unknown_method};
use crate::child::{Command, Signal};
use crate::monitor::codec::{self, Spec};
use crate::monitor::{
    Attach, DEFAULT_CONFIG_FILE, Forward, Input, Name, Phase, Sandbox, SessionId,
};
use crate::terminal::WindowSize;

/// What a client asks of a host.
#[derive(Debug)]
pub(crate) enum Request {
    Start(Box<Start>),
    List(Filter),
    Inspect(Target),
    Stop { target: Target, timeout: Option<Duration> },
    Kill { target: Target, signal: Signal },
    Wait(Target),
    Resize { target: Target, session: Option<SessionId>, size: WindowSize },
    Attach { target: Target, attach: Attach },
    Watch { after: Option<String> },
}

/// Which sandboxes are listed: those that have all of these.
#[derive(Debug, Default)]
pub(crate) struct Filter {
    phase: Option<Phase>,
    config_file: Option<Name>,
    name: Option<Name>,
    /// Keys, and values if those are given.
    labels: Vec<(String, Option<String>)>,
}

/// A sandbox that a client names.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Target {
    pub(crate) config_file: Name,
    pub(crate) name: Name,
    /// Its number, if it must be this one and not another of the same name.
    pub(crate) id: Option<u32>,
}

/// What a client asks a host to start.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub struct Start {
    /// The sandbox and its command, with the directory and the environment that the client has
    /// given. Output is not forwarded and input not taken from the host's stdin, unless the client
    /// asks for that.
    pub spec: Spec,
    /// Whether the client leaves it to the host to append a number to the name if that is taken.
    pub numbered: bool,
    /// The state directory and the database in which the client expects the record.
    pub state_dir: Option<OsString>,
    /// See [`state_dir`](Self::state_dir).
    pub db: Option<OsString>,
}

impl Start {
    /// A start of this description, under its name only, by a host with any state directory.
    pub fn new(spec: Spec) -> Self {
        Self { spec, numbered: false, state_dir: None, db: None }
    }
}

impl Request {
    /// Reads a call of this method.
    pub(super) fn read(method: &str, call: &Call) -> Result<Self, Fault> {
        if call.upgrade && method != "Attach" {
            return Err(Fault::parameter("upgrade"));
        }
        match method {
            "Start" => start(call),
            "List" => Filter::read(call).map(Self::List),
            "Inspect" => Ok(Self::Inspect(Target::alone(call)?)),
            "Stop" => {
                let fields = target_and(call, &["timeout"])?;
                let timeout = fields.optional_number("timeout")?.map(Duration::from_millis);
                Ok(Self::Stop { target: Target::of(&fields)?, timeout })
            }
            "Kill" => {
                let fields = target_and(call, &["signal"])?;
                let signal =
                    fields.optional_text("signal")?.map_or(Ok(Signal::KILL), read_signal)?;
                Ok(Self::Kill { target: Target::of(&fields)?, signal })
            }
            "Wait" => Ok(Self::Wait(Target::alone(call)?)),
            "Resize" => {
                let names = ["session", "rows", "columns", "width", "height"];
                let fields = target_and(call, &names)?;
                let session = fields.optional_number("session")?.map(SessionId);
                let size = read_size(&fields)?;
                Ok(Self::Resize { target: Target::of(&fields)?, session, size })
            }
            "Attach" => {
                let fields = target_and(call, &["stream", "console", "read_only", "tail"])?;
                let (target, attach) = (Target::of(&fields)?, read_attach(&fields)?);
                match call.upgrade {
                    true => Ok(Self::Attach { target, attach }),
                    false => Err(Fault::new("ExpectedUpgrade", json!({}))),
                }
            }
            "Watch" => {
                let after = parameters(call, &["after"])?.optional_text("after")?;
                match call.more {
                    true => Ok(Self::Watch { after: after.map(str::to_owned) }),
                    false => Err(Fault::standard("ExpectedMore", json!({}))),
                }
            }
            _ => Err(unknown_method(call)),
        }
    }
}

impl Target {
    /// Whether a client that names `other` means this sandbox.
    pub(crate) fn is_meant_by(&self, other: &Self) -> bool {
        self.name == other.name
            && self.config_file == other.config_file
            && (other.id.is_none() || other.id == self.id)
    }

    fn alone(call: &Call) -> Result<Self, Fault> {
        Self::of(&target_and(call, &[])?)
    }

    fn of(fields: &Fields<'_>) -> Result<Self, Fault> {
        let name = fields.text("name")?;
        Ok(Self {
            config_file: config_file(fields)?,
            // An invalid name belongs to no sandbox.
            name: name.parse().map_err(|_| no_such(name))?,
            id: fields.optional_number("id")?,
        })
    }
}

/// No sandbox of this name is supervised.
pub(crate) fn no_such(name: &str) -> Fault {
    Fault::new("NoSuchSandbox", json!({ "name": echo(name) }))
}

/// The parameters of a method that names a sandbox and has these others.
fn target_and<'a>(call: &'a Call, others: &[&str]) -> Result<Fields<'a>, Fault> {
    let names = [&["name", "config_file", "id"], others].concat();
    parameters(call, &names)
}

fn config_file(fields: &Fields<'_>) -> Result<Name, Fault> {
    fields
        .optional_text("config_file")?
        .unwrap_or(DEFAULT_CONFIG_FILE)
        .parse()
        .map_err(|_| Fault::parameter("config_file"))
}

impl Filter {
    fn read(call: &Call) -> Result<Self, Fault> {
        let fields = parameters(call, &["state", "config_file", "name", "labels"])?;
        let name = |key: &'static str| {
            let text = fields.optional_text(key)?;
            text.map(|text| text.parse::<Name>().map_err(|_| Fault::parameter(key))).transpose()
        };
        let phase = fields.optional_text("state")?;
        let phase = phase.map(|word| word.parse().map_err(|_| Fault::parameter("state")));
        let mut labels = Vec::new();
        if fields.get("labels").is_some() {
            for word in fields.list("labels")? {
                let word = word.as_str().ok_or_else(|| Fault::parameter("labels"))?;
                labels.push(match word.split_once('=') {
                    Some((key, value)) => (key.to_owned(), Some(value.to_owned())),
                    None => (word.to_owned(), None),
                });
            }
        }
        let (config_file, name) = (name("config_file")?, name("name")?);
        Ok(Self { phase: phase.transpose()?, config_file, name, labels })
    }

    /// Whether a sandbox in this phase is listed.
    pub(crate) fn includes(&self, sandbox: &Sandbox, phase: Phase) -> bool {
        let has = |(key, value): &(String, Option<String>)| match sandbox.labels.get(key) {
            Some(found) => value.as_deref().is_none_or(|value| value == found),
            None => false,
        };
        self.phase.is_none_or(|wanted| wanted == phase)
            && self.config_file.as_ref().is_none_or(|name| *name == sandbox.config_file)
            && self.name.as_ref().is_none_or(|name| *name == sandbox.name)
            && self.labels.iter().all(has)
    }
}

fn start(call: &Call) -> Result<Request, Fault> {
    let names = [
        "name",
        "config_file",
        "config_last_modified",
        "numbered",
        "spec",
        "environment",
        "state_dir",
        "db",
    ];
    let fields = parameters(call, &names)?;
    let name: Name = fields.text("name")?.parse().map_err(|_| Fault::parameter("name"))?;
    let given = fields.some("spec")?;
    let mut spec = read_spec(given, name, config_file(&fields)?)?;
    if let Some(text) = fields.optional_text("config_last_modified")? {
        let time = chrono::DateTime::parse_from_rfc3339(text);
        let time = time.map_err(|_| Fault::parameter("config_last_modified"))?;
        spec.sandbox.config_last_modified = time.into();
    }
    let command = spec.command.take().ok_or_else(|| Fault::parameter("spec.command"))?;
    let command = match fields.get("environment") {
        Some(environment) => {
            with_environment(command, environment).ok_or_else(|| Fault::parameter("environment"))?
        }
        None => command,
    };
    spec.command = Some(command);
    let word = |name: &'static str| {
        let value = fields.get(name);
        value.map(|value| codec::read_word(value).ok_or_else(|| Fault::parameter(name))).transpose()
    };
    Ok(Request::Start(Box::new(Start {
        spec,
        numbered: fields.flag("numbered")?.unwrap_or(false),
        state_dir: word("state_dir")?,
        db: word("db")?,
    })))
}

/// Reads a description. A key that the codec does not have, or a value that it does not write, is
/// refused: the codec itself reads records of other versions, and takes those for the defaults.
fn read_spec(given: &Value, name: Name, config_file: Name) -> Result<Spec, Fault> {
    let given = given.as_object().ok_or_else(|| Fault::parameter("spec"))?;
    let spec = Value::Object(given.clone());
    let mut spec =
        Spec::from_json(&spec, name, config_file).ok_or_else(|| Fault::parameter("spec"))?;
    let is_given = |key: &str| given.get(key).is_some_and(|value| !value.is_null());
    let pty = spec.command.as_ref().is_some_and(Command::get_pty);
    if !is_given("forward") {
        spec.sandbox.forward = Forward::Off;
    }
    if !is_given("stdin") {
        spec.sandbox.input = if pty { Input::Attached } else { Input::Null };
    }
    let read = spec.to_json();
    check_keys(given, read.as_object().unwrap_or(&Map::new()))?;
    Ok(spec)
}

fn check_keys(given: &Map<String, Value>, read: &Map<String, Value>) -> Result<(), Fault> {
    let is_read = |(key, value): &(&String, &Value)| {
        value.is_null() || read.get(*key).is_some_and(|read| is_same(value, read))
    };
    match given.iter().find(|entry| !is_read(entry)) {
        Some((key, _)) => Err(Fault::parameter(&format!("spec.{key}"))),
        None => Ok(()),
    }
}

/// Whether two values are the same: 10 is 10.0.
fn is_same(one: &Value, other: &Value) -> bool {
    one == other || (one.is_number() && one.as_f64() == other.as_f64())
}

/// The command with exactly the variables `NAME=value` of this array of words.
fn with_environment(command: Command, environment: &Value) -> Option<Command> {
    let mut command = command.env_clear();
    for variable in environment.as_array()? {
        let variable = codec::read_word(variable)?;
        let bytes = variable.as_bytes();
        let split = bytes.iter().position(|byte| *byte == b'=').filter(|at| *at > 0)?;
        let (key, value) = bytes.split_at(split);
        let value = value.get(1..)?;
        if bytes.contains(&0) {
            return None;
        }
        command = command.env(OsString::from_vec(key.to_vec()), OsString::from_vec(value.to_vec()));
    }
    Some(command)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(parameters: &Value) -> Result<Request, String> {
        let call = json!({ "method": "io.vmon.Host.Start", "parameters": parameters });
        let call = Call::read(call.to_string().as_bytes(), 1000).unwrap();
        Request::read("Start", &call).map_err(|fault| format!("{fault:?}"))
    }

    fn start_of(parameters: &Value) -> Start {
        match read(parameters).unwrap() {
            Request::Start(start) => *start,
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn a_description_is_read_as_the_codec_writes_it() {
        let start = start_of(&json!({
            "name": "web", "spec": { "command": ["sh", "-c", "x"], "stop_timeout_seconds": 3 },
            "environment": ["A=b=c", "E="],
        }));
        let command = start.spec.command.unwrap();
        assert_eq!(command.get_args(), ["-c", "x"]);
        let variables =
            [("A", "b=c"), ("E", "")].map(|(key, value)| (key.into(), Some(value.into())));
        assert_eq!((command.get_env_clear(), command.get_envs()), (true, &variables[..]));
        let sandbox = start.spec.sandbox;
        assert_eq!(sandbox.stop_timeout, Duration::from_secs(3));
        assert_eq!((sandbox.forward, sandbox.input), (Forward::Off, Input::Null));
        let whole = Spec::new(sandbox, Some(Command::new("x")), json!({ "a": [1] })).to_json();
        start_of(&json!({ "name": "web", "spec": whole }));
    }

    #[test]
    fn a_key_or_value_that_the_codec_does_not_write_is_refused() {
        for spec in [
            json!({ "command": ["x"], "restrat": "always" }),
            json!({ "command": ["x"], "restart": "alwyas" }),
            json!({ "command": ["x"], "version": 2 }),
            json!({ "command": ["x"], "stop_timeout_seconds": -1 }),
            json!({ "command": "x" }),
            json!({}),
            json!("x"),
        ] {
            let fault = read(&json!({ "name": "web", "spec": spec })).unwrap_err();
            assert!(fault.contains("InvalidParameter") && fault.contains("spec"), "{fault}");
        }
        for environment in [json!(["A"]), json!(["=b"]), json!([1]), json!({ "A": "b" })] {
            let spec = json!({ "command": ["x"] });
            let parameters = json!({ "name": "web", "spec": spec, "environment": environment });
            assert!(read(&parameters).unwrap_err().contains("environment"));
        }
    }
}
