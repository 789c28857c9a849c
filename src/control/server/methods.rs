//! The interface `io.vmon.Monitor`: its methods, and the clients that watch transitions.

use std::io;
use std::os::fd::BorrowedFd;
use std::time::Duration;

use serde_json::{Value, json};

use super::super::INTERFACE_DESCRIPTION;
use super::super::call::Call;
use super::super::value::{Fields, int};
use super::super::view::{self, stream_of};
use super::backend::{Backend, Interface};
use super::connection::{Connection, Fate, Mode};
use super::connections::Connections;
use super::fault::{Fault, echo, reply};
use super::routing::{parameters, unknown_method};
use crate::child::Signal;
use crate::monitor::{
    Attach, AttachError, AttachTo, Attached, Phase, RequestError, ServiceContext, SessionId,
    Transition,
};
use crate::reactor::{Interest, SourceId, TimerId};
use crate::terminal::WindowSize;

const MONITOR: Interface =
    Interface { name: "io.vmon.Monitor", description: INTERFACE_DESCRIPTION, nested: 0 };

/// The result of a call.
enum Answer {
    /// The reply.
    Reply(Value),
    /// The state and all following transitions.
    Watch,
    /// The connection becomes a session.
    Attach(Attach),
}

impl Backend for ServiceContext<'_, '_> {
    fn interface(&self) -> Interface {
        MONITOR
    }

    fn call(&mut self, clients: &mut Connections, slot: usize, method: &str, call: &Call) {
        let answer = answer(method, call, self);
        if call.oneway {
            // A oneway call has no reply, so Watch and Attach have no effect.
            return;
        }
        match answer {
            Ok(Answer::Reply(parameters)) => clients.reply(slot, Ok(parameters), self),
            Ok(Answer::Watch) => watch(clients, slot, self),
            Ok(Answer::Attach(request)) => start_session(clients, slot, &request, self),
            Err(fault) => clients.reply(slot, Err(fault), self),
        }
    }

    fn register(
        &mut self,
        fd: BorrowedFd<'_>,
        interest: Interest,
        key: u32,
    ) -> io::Result<SourceId> {
        ServiceContext::register(self, &fd, interest, key)
    }

    fn want(&mut self, source: SourceId, interest: Interest) -> io::Result<()> {
        ServiceContext::want(self, source, interest)
    }

    fn would_block(&mut self, source: SourceId, interest: Interest) {
        ServiceContext::would_block(self, source, interest);
    }

    fn deregister(&mut self, source: SourceId) {
        ServiceContext::deregister(self, source);
    }

    fn turn(&self) -> u64 {
        ServiceContext::turn(self)
    }

    fn set_timer(&mut self, after: Duration, key: u32) -> TimerId {
        ServiceContext::set_timer(self, after, key)
    }

    fn cancel_timer(&mut self, timer: TimerId) {
        ServiceContext::cancel_timer(self, timer);
    }
}

/// Turns a connection into a session of the monitor, after the reply.
fn start_session(
    clients: &mut Connections,
    slot: usize,
    request: &Attach,
    cx: &mut ServiceContext<'_, '_>,
) {
    let sessions = cx.report().sessions.len();
    let Some(stream) = clients.hand_over(slot, sessions, cx) else { return };
    match cx.attach(stream, request, |attached| reply(attached_as(attached), false)) {
        Ok(_) => clients.left(),
        Err((error, stream)) => clients.take_back(slot, stream, of_attach(error), cx),
    }
}

/// The reply to an `Attach`.
pub(crate) fn attached_as(attached: &Attached) -> Value {
    json!({
        "session": int(attached.session.0),
        "stream": attached.to.as_str(),
        "console": view::console_of(&attached.to),
        "tail": int(attached.tail),
        "modes": attached.modes,
    })
}

/// Replies with the state; transitions follow unless it is final.
fn watch(clients: &mut Connections, slot: usize, cx: &mut ServiceContext<'_, '_>) {
    let report = cx.report();
    let last = report.phase == Phase::Stopped;
    let event = json!({ "event": view::state(&report) });
    clients.with(slot, cx, |connection, cx| {
        if last {
            connection.close(cx);
        } else {
            connection.mode = Mode::Watching(report.phase);
        }
        connection.send(reply(event, !last), cx)
    });
}

/// Sends the transition to clients that watch.
pub(super) fn send_transition(
    clients: &mut Connections,
    transition: &Transition,
    cx: &mut ServiceContext<'_, '_>,
) {
    if !clients.iter().any(Connection::is_watching) {
        return;
    }
    let (event, phase) = view::transition(transition);
    let last = phase == Phase::Stopped;
    let message = reply(json!({ "event": event }), !last);
    clients.each(cx, |connection, cx| match connection.mode {
        Mode::Watching(reported) if reported != phase => {
            if last {
                connection.close(cx);
            } else {
                connection.mode = Mode::Watching(phase);
            }
            connection.send_event(message.clone(), cx)
        }
        _ => Fate::Stays,
    });
}

/// Executes a call, as far as that needs no connection.
fn answer(method: &str, call: &Call, cx: &mut ServiceContext<'_, '_>) -> Result<Answer, Fault> {
    if call.upgrade && method != "Attach" {
        return Err(Fault::parameter("upgrade"));
    }
    match method {
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
        _ => Err(unknown_method(call)),
    }
}

fn done((): ()) -> Answer {
    Answer::Reply(json!({}))
}

fn signal(call: &Call, cx: &mut ServiceContext<'_, '_>) -> Result<Answer, Fault> {
    let name = parameters(call, &["signal"])?.text("signal")?;
    Ok(done(cx.signal(read_signal(name)?)?))
}

pub(super) fn read_signal(name: &str) -> Result<Signal, Fault> {
    name.parse().map_err(|_| Fault::new("InvalidSignal", json!({ "signal": echo(name) })))
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
    let request = read_attach(&parameters)?;
    match call.upgrade {
        true => Ok(Answer::Attach(request)),
        false => Err(Fault::new("ExpectedUpgrade", json!({}))),
    }
}

/// The request of an `Attach`.
pub(super) fn read_attach(parameters: &Fields<'_>) -> Result<Attach, Fault> {
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
    Ok(Attach { to, read_only, tail })
}

fn resize(call: &Call, cx: &mut ServiceContext<'_, '_>) -> Result<Answer, Fault> {
    let parameters = parameters(call, &["session", "rows", "columns", "width", "height"])?;
    let session = parameters.number("session")?;
    cx.resize(SessionId(session), read_size(&parameters)?)?;
    Ok(done(()))
}

/// The size of a terminal.
pub(super) fn read_size(parameters: &Fields<'_>) -> Result<WindowSize, Fault> {
    let size = |name| match parameters.number::<u16>(name)? {
        0 => Err(Fault::parameter(name)),
        number => Ok(number),
    };
    let (rows, columns) = (size("rows")?, size("columns")?);
    let pixels = |name| Ok::<_, Fault>(parameters.optional_number::<u16>(name)?.unwrap_or(0));
    let (width, height) = (pixels("width")?, pixels("height")?);
    Ok(WindowSize { rows, columns, width, height })
}

/// Why a client is not attached.
pub(crate) fn of_attach(error: AttachError) -> Fault {
    match error {
        AttachError::NotRunning => Fault::new("NotRunning", json!({})),
        AttachError::NoSuchStream(stream) => {
            Fault::new("NoSuchStream", json!({ "stream": stream.as_str() }))
        }
        AttachError::NoSuchConsole(console) => {
            Fault::new("NoSuchConsole", json!({ "console": console.as_str() }))
        }
        error => Fault::failed(&error.to_string()),
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
            error => Self::failed(&error.to_string()),
        }
    }
}
