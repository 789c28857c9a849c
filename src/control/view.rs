//! Status and events of a sandbox, and their encoding in the control interface.

use std::path::PathBuf;
use std::time::Duration;

use chrono::{DateTime, Utc};
use serde_json::{Value, json};

use super::value::{Fields, Unreadable, int, milliseconds};
use crate::child::{ExitStatus, Identity, Signal};
use crate::monitor::{
    AttachTo, ConsoleReport, ConsoleState, End, Labels, Phase, Reason, Report, SessionId,
    SessionReport, StartError, Transition, Wait, labels_json,
};
use crate::timestamp::rfc3339;

/// The status of a sandbox at one moment, from its supervisor.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub struct Status {
    /// Its name.
    pub name: String,
    /// The namespace of its log and record.
    pub config_file: String,
    /// Its labels, without those that this version does not allow.
    pub labels: Labels,
    /// Its phase.
    pub phase: Phase,
    /// The process that serves the socket.
    pub supervisor: Identity,
    /// The child, until it has been reaped.
    pub child: Option<Identity>,
    /// Time of the request to start this run.
    pub started_at: DateTime<Utc>,
    /// Time at which the child of this run ran.
    pub running_at: Option<DateTime<Utc>>,
    /// Number of restarts of the command.
    pub restarts: u32,
    /// When the command is started again, in the state RESTARTING.
    pub restart_at: Option<DateTime<Utc>>,
    /// Whether the child has a terminal; `None` without streams.
    pub tty: Option<bool>,
    /// The path of the log, with U+FFFD in place of bytes that are not UTF-8. `None` if the output
    /// goes to log drivers of the host, or the sandbox has no logs.
    pub log: Option<PathBuf>,
    /// Bytes of this run's output in the log.
    pub bytes_logged: u64,
    /// Bytes that the log, or the supervisor's stdout and stderr, dropped.
    pub bytes_dropped: u64,
    /// The consoles beside the child's stdio, in the order of their definition.
    pub consoles: Vec<ConsoleStatus>,
    /// The attached clients.
    pub sessions: Vec<SessionReport>,
    /// What holds it up, as far as this version knows the kinds.
    pub waits: Vec<Wait>,
    /// How the last run ended, if no run is in progress.
    pub end: Option<Ended>,
}

/// The status of a console at one moment: see [`ConsoleReport`].
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct ConsoleStatus {
    /// Its name.
    pub name: String,
    /// `unix`, `listen`, `pty`, `fifo` or `descriptor`.
    pub kind: String,
    /// The path of its socket, FIFO or PTY, with U+FFFD in place of bytes that are not UTF-8.
    pub path: Option<PathBuf>,
    /// Its state.
    pub state: ConsoleState,
    /// The path of its log, likewise. `None` if the sandbox has no logs.
    pub log: Option<PathBuf>,
    /// Bytes of this run in its log.
    pub bytes_logged: u64,
    /// Bytes of this run that its log, or the supervisor's stdout, dropped.
    pub bytes_dropped: u64,
    /// Number of times it was opened in this run.
    pub opened: u32,
}

/// How a run ended.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct Ended {
    /// The reason: see [`End::reason`]. `None` while the output is still being read, and for a word
    /// that this version does not know.
    pub reason: Option<Reason>,
    /// The exit code, if the child exited or could not be started.
    pub exit_code: Option<i32>,
    /// The signal that ended the child.
    pub signal: Option<Signal>,
    /// Why the child could not be started.
    pub message: Option<String>,
    /// Bytes of output in the log, once all is read.
    pub bytes_logged: Option<u64>,
    /// Bytes that a log or another output dropped.
    pub bytes_dropped: Option<u64>,
}

impl Ended {
    /// The exit code of a command that reports the child's end, as [`End::exit_code`].
    pub fn code(&self) -> u8 {
        let status = match (self.exit_code, self.signal) {
            (Some(code), _) => return u8::try_from(code).unwrap_or(125),
            (None, Some(signal)) => ExitStatus::Signal(signal),
            (None, None) => ExitStatus::Unknown,
        };
        status.exit_code()
    }
}

/// A transition of a sandbox, or its state at the start of a [`Watch`](super::Watch).
#[derive(Debug, Clone)]
#[non_exhaustive]
pub struct WatchEvent {
    /// The new state.
    pub phase: Phase,
    /// Time of the transition; for the first event of a watch, time of the reply.
    pub at: DateTime<Utc>,
    /// The child, with [`Phase::Running`].
    pub child: Option<Identity>,
    /// With [`Phase::Draining`], [`Phase::Restarting`] and [`Phase::Stopped`].
    pub end: Option<Ended>,
    /// Delay after `at` until the next run, with [`Phase::Restarting`].
    pub restart_in: Option<Duration>,
}

impl WatchEvent {
    /// Whether no event follows.
    pub fn is_final(&self) -> bool {
        self.phase == Phase::Stopped
    }
}

/// The reply of `GetStatus`.
pub(super) fn status(report: &Report) -> Value {
    let sessions: Vec<Value> = report.sessions.iter().map(session).collect();
    json!({
        "name": report.name.as_str(),
        "config_file": report.config_file.as_str(),
        "labels": labels_json::write(&report.labels),
        "state": report.phase.as_str(),
        "supervisor": process(&report.supervisor),
        "child": report.child.as_ref().map(process),
        "started_at": rfc3339(report.started_at),
        "running_at": report.running_at.map(rfc3339),
        "restarts": report.restarts,
        "restart_at": report.restart_at.map(rfc3339),
        "tty": report.tty,
        "log": report.log.as_ref().map(|path| path.to_string_lossy()),
        "bytes_logged": int(report.bytes_logged),
        "bytes_dropped": int(report.bytes_dropped),
        "consoles": report.consoles.iter().map(console).collect::<Value>(),
        "sessions": sessions,
        "waits": report.waits.iter().map(wait).collect::<Value>(),
        "end": report.end.as_ref().map(end),
    })
}

/// The first reply of `Watch`.
pub(super) fn state(report: &Report) -> Value {
    let end = report.end.as_ref().map(end).unwrap_or_default();
    event(report.phase, Utc::now(), report.child.as_ref(), end, None)
}

/// A further reply of `Watch`, and its state.
pub(super) fn transition(transition: &Transition) -> (Value, Phase) {
    let (phase, at, child, end, restart_in) = match transition {
        Transition::Running { at, child } => (Phase::Running, at, Some(child), Value::Null, None),
        Transition::Stopping { at } => (Phase::Stopping, at, None, Value::Null, None),
        Transition::Draining { at, status } => (Phase::Draining, at, None, bare_end(*status), None),
        Transition::Restarting { at, end: ended, after } => {
            (Phase::Restarting, at, None, end(ended), Some(*after))
        }
        Transition::Stopped { at, end: ended } => (Phase::Stopped, at, None, end(ended), None),
    };
    (event(phase, *at, child, end, restart_in), phase)
}

fn event(
    phase: Phase,
    at: DateTime<Utc>,
    child: Option<&Identity>,
    end: Value,
    restart_in: Option<Duration>,
) -> Value {
    json!({
        "state": phase.as_str(),
        "at": rfc3339(at),
        "child": child.map(process),
        "end": end,
        "restart_in": restart_in.map(milliseconds),
    })
}

fn process(identity: &Identity) -> Value {
    json!({
        "pid": identity.pid,
        "start": int(identity.start),
        "boot_id": identity.boot_id,
        "pid_namespace": identity.pid_namespace.map(int),
    })
}

fn console(console: &ConsoleReport) -> Value {
    json!({
        "name": console.name.as_str(),
        "kind": console.kind,
        "path": console.path.as_ref().map(|path| path.to_string_lossy()),
        "state": console.state.as_str(),
        "log": console.log.as_ref().map(|path| path.to_string_lossy()),
        "bytes_logged": int(console.bytes_logged),
        "bytes_dropped": int(console.bytes_dropped),
        "opened": console.opened,
    })
}

fn session(session: &SessionReport) -> Value {
    json!({
        "session": int(session.session.0),
        "stream": session.to.as_str(),
        "console": console_of(&session.to),
        "read_only": session.read_only,
        "missed": int(session.missed),
    })
}

fn wait(wait: &Wait) -> Value {
    json!({ "kind": wait.kind.as_str(), "reason": wait.reason, "since": rfc3339(wait.since) })
}

/// How a run ended.
pub(super) fn end(end: &End) -> Value {
    json!({
        "reason": end.reason().as_str(),
        "exit_code": end.recorded_code(),
        "signal": end.signal().map(Signal::number),
        "message": end.error().map(StartError::to_string),
        "bytes_logged": int(end.bytes_logged),
        "bytes_dropped": int(end.bytes_dropped),
    })
}

/// The end of a child whose output is still being read.
fn bare_end(status: ExitStatus) -> Value {
    json!({
        "reason": null,
        "exit_code": status.code(),
        "signal": status.signal().map(Signal::number),
        "message": null,
        "bytes_logged": null,
        "bytes_dropped": null,
    })
}

impl Status {
    pub(super) fn read(value: &Value) -> Result<Self, Unreadable> {
        let fields = Fields::of(value)?;
        let sessions = fields.list("sessions")?.iter().map(read_session);
        Ok(Self {
            name: fields.text("name")?.to_owned(),
            config_file: fields.text("config_file")?.to_owned(),
            // Missing in replies of an earlier vmon.
            labels: fields.get("labels").map(labels_json::read).unwrap_or_default(),
            phase: read_phase(&fields)?,
            supervisor: read_process(fields.some("supervisor")?)?,
            child: fields.get("child").map(read_process).transpose()?,
            started_at: read_time(fields.text("started_at")?)?,
            running_at: fields.optional_text("running_at")?.map(read_time).transpose()?,
            restarts: fields.number("restarts")?,
            restart_at: fields.optional_text("restart_at")?.map(read_time).transpose()?,
            tty: fields.flag("tty")?,
            log: fields.optional_text("log")?.map(PathBuf::from),
            bytes_logged: fields.number("bytes_logged")?,
            bytes_dropped: fields.number("bytes_dropped")?,
            consoles: match fields.get("consoles") {
                // Missing in replies of an earlier vmon.
                None => Vec::new(),
                Some(_) => {
                    let consoles = fields.list("consoles")?.iter().map(read_console);
                    consoles.collect::<Result<_, _>>()?
                }
            },
            sessions: sessions.collect::<Result<_, _>>()?,
            waits: match fields.get("waits") {
                // Missing in replies of an earlier vmon.
                None => Vec::new(),
                Some(_) => {
                    let waits = fields.list("waits")?.iter().map(read_wait);
                    waits.filter_map(Result::transpose).collect::<Result<_, _>>()?
                }
            },
            end: fields.get("end").map(read_end).transpose()?,
        })
    }
}

impl WatchEvent {
    pub(super) fn read(value: &Value) -> Result<Self, Unreadable> {
        let fields = Fields::of(value)?;
        Ok(Self {
            phase: read_phase(&fields)?,
            at: read_time(fields.text("at")?)?,
            child: fields.get("child").map(read_process).transpose()?,
            end: fields.get("end").map(read_end).transpose()?,
            restart_in: fields.optional_number("restart_in")?.map(Duration::from_millis),
        })
    }
}

fn read_phase(fields: &Fields<'_>) -> Result<Phase, Unreadable> {
    fields.text("state")?.parse().map_err(|_| Unreadable("state"))
}

fn read_process(value: &Value) -> Result<Identity, Unreadable> {
    let fields = Fields::of(value)?;
    Ok(Identity {
        pid: fields.number("pid")?,
        start: fields.number("start")?,
        boot_id: fields.text("boot_id")?.to_owned(),
        pid_namespace: fields.optional_number("pid_namespace")?,
    })
}

fn read_session(value: &Value) -> Result<SessionReport, Unreadable> {
    let fields = Fields::of(value)?;
    Ok(SessionReport {
        session: SessionId(fields.number("session")?),
        to: read_stream(&fields)?,
        read_only: fields.flag("read_only")?.ok_or(Unreadable("read_only"))?,
        missed: fields.number("missed")?,
    })
}

/// `None` for a kind that this version does not know.
fn read_wait(value: &Value) -> Result<Option<Wait>, Unreadable> {
    let fields = Fields::of(value)?;
    let Ok(kind) = fields.text("kind")?.parse() else { return Ok(None) };
    let (reason, since) = (fields.text("reason")?.to_owned(), read_time(fields.text("since")?)?);
    Ok(Some(Wait { kind, reason, since }))
}

fn read_end(value: &Value) -> Result<Ended, Unreadable> {
    let fields = Fields::of(value)?;
    Ok(Ended {
        reason: fields.optional_text("reason")?.and_then(|word| word.parse().ok()),
        exit_code: fields.optional_number("exit_code")?,
        signal: fields.optional_number("signal")?.and_then(Signal::from_number),
        message: fields.optional_text("message")?.map(str::to_owned),
        bytes_logged: fields.optional_number("bytes_logged")?,
        bytes_dropped: fields.optional_number("bytes_dropped")?,
    })
}

fn read_time(text: &str) -> Result<DateTime<Utc>, Unreadable> {
    let time = DateTime::parse_from_rfc3339(text).map_err(|_| Unreadable("a time"))?;
    Ok(time.with_timezone(&Utc))
}

fn read_console(value: &Value) -> Result<ConsoleStatus, Unreadable> {
    let fields = Fields::of(value)?;
    Ok(ConsoleStatus {
        name: fields.text("name")?.to_owned(),
        kind: fields.text("kind")?.to_owned(),
        path: fields.optional_text("path")?.map(PathBuf::from),
        state: fields.text("state")?.parse().map_err(|_| Unreadable("state"))?,
        log: fields.optional_text("log")?.map(PathBuf::from),
        bytes_logged: fields.number("bytes_logged")?,
        bytes_dropped: fields.number("bytes_dropped")?,
        opened: fields.number("opened")?,
    })
}

/// The stream named by `stream` and `console`.
pub(super) fn read_stream(fields: &Fields<'_>) -> Result<AttachTo, Unreadable> {
    let console = fields.get("console").map(|_| fields.text("console")).transpose()?;
    stream_of(fields.text("stream")?, console).ok_or(Unreadable("stream"))
}

/// The stream of this name; a console needs the console's name as well.
pub(super) fn stream_of(name: &str, console: Option<&str>) -> Option<AttachTo> {
    match (name, console) {
        ("console", Some(console)) => console.parse().ok().map(AttachTo::Console),
        ("stdout", None) => Some(AttachTo::Stdout),
        ("stderr", None) => Some(AttachTo::Stderr),
        ("tty", None) => Some(AttachTo::Tty),
        _ => None,
    }
}

/// The name of the console, if the stream is one.
pub(super) fn console_of(stream: &AttachTo) -> Option<&str> {
    match stream {
        AttachTo::Console(name) => Some(name.as_str()),
        AttachTo::Stdout | AttachTo::Stderr | AttachTo::Tty => None,
    }
}
