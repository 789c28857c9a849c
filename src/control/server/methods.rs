//! The methods of the interfaces.

use std::time::Duration;

use serde_json::{Value, json};

use super::super::INTERFACE_DESCRIPTION;
use super::super::call::Call;
use super::super::value::{Fields, Unreadable, int};
use super::super::view::{self, stream_of};
use crate::child::Signal;
use crate::monitor::{
    Attach, AttachError, AttachTo, Phase, RequestError, ServiceContext, SessionId,
};
use crate::terminal::WindowSize;

const SERVICE: &str = "org.varlink.service";
const MONITOR: &str = "io.vmon.Monitor";

/// Length limit of an unknown name in an error reply.
const MAX_ECHO: usize = 256;

/// The interface of every varlink service.
const SERVICE_DESCRIPTION: &str = include_str!("org.varlink.service.varlink");

/// The result of a call.
pub(super) enum Answer {
    /// The reply.
    Reply(Value),
    /// The state and all following transitions.
    Watch,
    /// The connection becomes a session.
    Attach(Attach),
}

/// A varlink error.
#[derive(Debug)]
pub(super) struct Fault {
    interface: &'static str,
    name: &'static str,
    parameters: Value,
}

impl Fault {
    pub(super) fn new(name: &'static str, parameters: Value) -> Self {
        Self { interface: MONITOR, name, parameters }
    }

    fn standard(name: &'static str, parameters: Value) -> Self {
        Self { interface: SERVICE, name, parameters }
    }

    fn parameter(name: &str) -> Self {
        Self::standard("InvalidParameter", json!({ "parameter": echo(name) }))
    }

    pub(super) fn of_attach(error: AttachError) -> Self {
        match error {
            AttachError::NotRunning => Self::new("NotRunning", json!({})),
            AttachError::NoSuchStream(stream) => {
                Self::new("NoSuchStream", json!({ "stream": stream.as_str() }))
            }
            AttachError::NoSuchConsole(console) => {
                Self::new("NoSuchConsole", json!({ "console": console.as_str() }))
            }
            error => Self::new("Failed", json!({ "message": error.to_string() })),
        }
    }

    /// Encodes it as a message.
    pub(super) fn message(&self) -> Vec<u8> {
        let error = format!("{}.{}", self.interface, self.name);
        message(&json!({ "error": error, "parameters": self.parameters }))
    }
}

impl From<RequestError> for Fault {
    fn from(error: RequestError) -> Self {
        match error {
            RequestError::NotRunning => Self::new("NotRunning", json!({})),
            RequestError::NoSuchSession(session) => {
                Self::new("NoSuchSession", json!({ "session": int(session.0) }))
            }
            RequestError::ReadOnly(session) => {
                Self::new("ReadOnly", json!({ "session": int(session.0) }))
            }
            RequestError::NoTerminal => Self::new("NotATerminal", json!({})),
            error => Self::new("Failed", json!({ "message": error.to_string() })),
        }
    }
}

/// Encodes a reply as a message.
pub(super) fn reply(parameters: Value, continues: bool) -> Vec<u8> {
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

/// Executes a call, as far as that needs no connection.
pub(super) fn answer(call: &Call, cx: &mut ServiceContext<'_, '_>) -> Result<Answer, Fault> {
    let (interface, method) = call.method.rsplit_once('.').unwrap_or(("", &call.method));
    let unknown = || {
        let method = echo(&call.method);
        Fault::standard("MethodNotFound", json!({ "method": method }))
    };
    match interface {
        SERVICE => service(method, call).unwrap_or_else(|| Err(unknown())),
        MONITOR => monitor(method, call, cx).unwrap_or_else(|| Err(unknown())),
        _ => {
            let interface = echo(interface);
            Err(Fault::standard("InterfaceNotFound", json!({ "interface": interface })))
        }
    }
}

type Answered = Option<Result<Answer, Fault>>;

fn service(method: &str, call: &Call) -> Answered {
    let answered = match method {
        "GetInfo" => parameters(call, &[]).map(|_| {
            json!({
                "vendor": "vmon",
                "product": "vmon",
                "version": env!("CARGO_PKG_VERSION"),
                "url": env!("CARGO_PKG_REPOSITORY"),
                "interfaces": [SERVICE, MONITOR],
            })
        }),
        "GetInterfaceDescription" => description(call),
        _ => return None,
    };
    Some(answered.map(Answer::Reply))
}

fn description(call: &Call) -> Result<Value, Fault> {
    match parameters(call, &["interface"])?.optional_text("interface")? {
        Some(MONITOR) => Ok(json!({ "description": INTERFACE_DESCRIPTION })),
        Some(SERVICE) => Ok(json!({ "description": SERVICE_DESCRIPTION })),
        Some(other) => {
            Err(Fault::standard("InterfaceNotFound", json!({ "interface": echo(other) })))
        }
        None => Err(Fault::parameter("interface")),
    }
}

fn monitor(method: &str, call: &Call, cx: &mut ServiceContext<'_, '_>) -> Answered {
    if call.upgrade && method != "Attach" {
        return Some(Err(Fault::parameter("upgrade")));
    }
    let answered = match method {
        "GetStatus" => parameters(call, &[])
            .map(|_| Answer::Reply(json!({ "status": view::status(&cx.report()) }))),
        "Signal" => signal(call, cx),
        "Stop" => stop(call, cx),
        "ReopenLog" => parameters(call, &[]).and_then(|_| Ok(done(cx.reopen_log()?))),
        "Attach" => attach(call),
        "Resize" => resize(call, cx),
        "Watch" => parameters(call, &[]).and_then(|_| match call.more {
            true => Ok(Answer::Watch),
            false => Err(Fault::standard("ExpectedMore", json!({}))),
        }),
        _ => return None,
    };
    Some(answered)
}

fn done((): ()) -> Answer {
    Answer::Reply(json!({}))
}

fn signal(call: &Call, cx: &mut ServiceContext<'_, '_>) -> Result<Answer, Fault> {
    let parameters = parameters(call, &["signal"])?;
    let name = parameters.text("signal")?;
    let signal: Signal =
        name.parse().map_err(|_| Fault::new("InvalidSignal", json!({ "signal": echo(name) })))?;
    Ok(done(cx.signal(signal)?))
}

fn stop(call: &Call, cx: &mut ServiceContext<'_, '_>) -> Result<Answer, Fault> {
    let timeout = parameters(call, &["timeout"])?.optional_number("timeout")?;
    if cx.report().phase == Phase::Stopped {
        return Err(Fault::from(RequestError::NotRunning));
    }
    cx.stop(timeout.map(Duration::from_millis));
    Ok(done(()))
}

fn attach(call: &Call) -> Result<Answer, Fault> {
    let parameters = parameters(call, &["stream", "console", "read_only", "tail"])?;
    let console = parameters.optional_text("console")?;
    let to = match (parameters.optional_text("stream")?, console) {
        (None, None) => None,
        // An invalid name belongs to no console.
        (None | Some("console"), Some(name)) => Some(AttachTo::Console(
            name.parse()
                .map_err(|_| Fault::new("NoSuchConsole", json!({ "console": echo(name) })))?,
        )),
        (Some("console"), None) => return Err(Fault::parameter("console")),
        (Some(name), None) => {
            Some(stream_of(name, None).ok_or_else(|| Fault::parameter("stream"))?)
        }
        (Some(_), Some(_)) => return Err(Fault::parameter("stream")),
    };
    let read_only = parameters.flag("read_only")?.unwrap_or(false);
    let tail = parameters.optional_number("tail")?.unwrap_or(0);
    match call.upgrade {
        true => Ok(Answer::Attach(Attach { to, read_only, tail })),
        false => Err(Fault::new("ExpectedUpgrade", json!({}))),
    }
}

fn resize(call: &Call, cx: &mut ServiceContext<'_, '_>) -> Result<Answer, Fault> {
    let parameters = parameters(call, &["session", "rows", "columns", "width", "height"])?;
    let size = |name| match parameters.number::<u16>(name)? {
        0 => Err(Fault::parameter(name)),
        number => Ok(number),
    };
    let session = parameters.number("session")?;
    let (rows, columns) = (size("rows")?, size("columns")?);
    let pixels = |name| Ok::<_, Fault>(parameters.optional_number::<u16>(name)?.unwrap_or(0));
    let (width, height) = (pixels("width")?, pixels("height")?);
    cx.resize(SessionId(session), WindowSize { rows, columns, width, height })?;
    Ok(done(()))
}

/// The parameters of a call. One that the method does not have is refused.
fn parameters<'a>(call: &'a Call, known: &[&str]) -> Result<Fields<'a>, Fault> {
    match call.parameters.keys().find(|name| !known.contains(&name.as_str())) {
        Some(name) => Err(Fault::parameter(name)),
        None => Ok(Fields(&call.parameters)),
    }
}

impl From<Unreadable> for Fault {
    fn from(Unreadable(name): Unreadable) -> Self {
        Self::parameter(name)
    }
}

/// A name for an error reply, truncated because it may be as long as a message.
fn echo(name: &str) -> String {
    name.chars().take(MAX_ECHO).collect()
}
