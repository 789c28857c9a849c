//! The client of a control socket, for programs that may block.

mod error;
#[cfg(all(feature = "host", feature = "codec"))]
mod host;
mod watch;

use std::io::{self, Write};
use std::os::fd::AsFd;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::unistd::geteuid;
use serde_json::{Map, Value, json};

pub use error::ClientError;
#[cfg(all(feature = "host", feature = "codec"))]
pub use host::{HostClient, HostStartError, StartedByHost};
pub use watch::Watch;

use super::MAX_MESSAGE;
use super::stream::{self, Received};
use super::value::{Fields, Unreadable, int, milliseconds};
use super::view::{Status, console_of, read_stream};
use crate::child::Signal;
use crate::monitor::{Attach, AttachTo, Attached, SessionId};
use crate::socket;
use crate::terminal::WindowSize;

/// The default timeout of a call.
pub const DEFAULT_TIMEOUT: Duration = Duration::from_secs(10);

/// The most connections that [`Client::statuses`] has open at once.
const AT_ONCE: usize = 256;

/// The least time for a connection where the time for all of them has passed.
const LEAST_TIMEOUT: Duration = Duration::from_millis(1);

/// A connection to the control socket of one sandbox.
///
/// Each call blocks for at most [`DEFAULT_TIMEOUT`] or [`timeout`](Self::timeout), so that a
/// supervisor that hangs or is stopped does not block the client. After any error but
/// [`ClientError::Call`] the connection can't be used any more.
///
/// ```no_run
/// use vmon::control::Client;
/// # fn main() -> Result<(), vmon::control::ClientError> {
/// let mut client = Client::connect("/var/lib/host/run/Sandboxfile/web.sock")?;
/// println!("{}: {}", client.status()?.name, client.status()?.phase.as_str());
/// client.stop(None)?;
/// for event in client.watch()? {
///     println!("{}", event?.phase.as_str());
/// }
/// # Ok(())
/// # }
/// ```
#[derive(Debug)]
pub struct Client {
    stream: UnixStream,
    path: PathBuf,
    timeout: Duration,
    /// The interface of the methods.
    interface: &'static str,
    /// The received part of the next message.
    unfinished: Vec<u8>,
}

impl Client {
    /// Connects to the socket at `path`, of any length that the system can reach.
    ///
    /// # Errors
    ///
    /// [`ClientError::NotServed`] if no supervisor listens on it, and other variants of
    /// [`ClientError`].
    pub fn connect(path: impl AsRef<Path>) -> Result<Self, ClientError> {
        Self::connect_within(path.as_ref(), DEFAULT_TIMEOUT)
    }

    fn connect_within(path: &Path, timeout: Duration) -> Result<Self, ClientError> {
        let stream = socket::dial(path, Some(timeout))
            .map_err(|error| ClientError::of_connect(path, error))?;
        let (path, interface) = (path.to_owned(), "io.vmon.Monitor");
        let client = Self { stream, path, timeout, interface, unfinished: Vec::new() };
        // In a directory that others can write to, any user may listen on a socket of that name.
        let owner = socket::peer_uid(&client.stream).map_err(|error| client.io(error))?;
        let us = geteuid();
        if owner != 0 && owner != us.as_raw() && !us.is_root() {
            return Err(ClientError::Stranger { path: client.path, owner });
        }
        client.stream.set_nonblocking(true).map_err(|error| client.io(error))?;
        Ok(client)
    }

    /// Sets the timeout of each call.
    #[must_use]
    pub fn timeout(mut self, timeout: Duration) -> Self {
        self.timeout = timeout;
        self
    }

    /// Returns the current status of the sandbox.
    ///
    /// # Errors
    ///
    /// As all calls: see [`ClientError`].
    pub fn status(&mut self) -> Result<Status, ClientError> {
        let deadline = self.send("GetStatus", json!({}), "")?;
        self.receive_status(deadline)
    }

    /// Returns the status of several sandboxes, in the order of their sockets. All are asked at the
    /// same time, 256 at once, so that those that do not answer cost one `timeout`, not one each.
    pub fn statuses<P: AsRef<Path>>(
        sockets: impl IntoIterator<Item = P>,
        timeout: Duration,
    ) -> Vec<Result<Status, ClientError>> {
        let mut statuses = Vec::new();
        let mut sockets = sockets.into_iter().peekable();
        while sockets.peek().is_some() {
            let deadline = later(timeout);
            let ask = |path: P| {
                let left = deadline.saturating_duration_since(Instant::now());
                let mut client = Self::connect_within(path.as_ref(), left.max(LEAST_TIMEOUT))?;
                client.send("GetStatus", json!({}), "")?;
                Ok(client)
            };
            let asked: Vec<_> = sockets.by_ref().take(AT_ONCE).map(ask).collect();
            let received = asked.into_iter().map(|client| client?.receive_status(deadline));
            statuses.extend(received);
        }
        statuses
    }

    fn receive_status(&mut self, deadline: Instant) -> Result<Status, ClientError> {
        let reply = self.reply(Some(deadline))?.parameters;
        let status = Fields::of(&reply).and_then(|reply| Status::read(reply.some("status")?));
        status.map_err(|error| self.unreadable("GetStatus", &error))
    }

    /// Sends a signal to the child's process group.
    ///
    /// # Errors
    ///
    /// [`ClientError::Call`] with `NotRunning`, and as all calls.
    pub fn signal(&mut self, signal: Signal) -> Result<(), ClientError> {
        // By number: client and server run on the same system.
        self.call("Signal", json!({ "signal": signal.number().to_string() })).map(drop)
    }

    /// Asks the supervisor to stop the child, and to kill it after `timeout` or the sandbox's own
    /// stop timeout. Returns before the child has stopped; [`watch`](Self::watch) reports the end.
    ///
    /// # Errors
    ///
    /// [`ClientError::Call`] with `NotRunning` after the end, and as all calls.
    pub fn stop(&mut self, timeout: Option<Duration>) -> Result<(), ClientError> {
        self.call("Stop", json!({ "timeout": timeout.map(milliseconds) })).map(drop)
    }

    /// Asks the supervisor to close the log and open it again by its name.
    ///
    /// # Errors
    ///
    /// [`ClientError::Call`] with `NotRunning` or `Failed`, and as all calls.
    pub fn reopen_log(&mut self) -> Result<(), ClientError> {
        self.call("ReopenLog", json!({})).map(drop)
    }

    /// Sets the size of a session's terminal, and with it that of the child's terminal.
    ///
    /// # Errors
    ///
    /// [`ClientError::Call`] with `NoSuchSession`, `ReadOnly` or `NotATerminal`, and as all calls.
    pub fn resize(&mut self, session: SessionId, size: WindowSize) -> Result<(), ClientError> {
        let WindowSize { rows, columns, width, height } = size;
        let session = int(session.0);
        if (width, height) != (0, 0) {
            let pixels = json!({ "session": session, "rows": rows, "columns": columns,
                "width": width, "height": height });
            match self.call("Resize", pixels) {
                // The supervisor of an earlier vmon refuses unknown parameters.
                Err(error) if error.name() == Some("InvalidParameter") => {}
                result => return result.map(drop),
            }
        }
        let size = json!({ "session": session, "rows": rows, "columns": columns });
        self.call("Resize", size).map(drop)
    }

    /// Attaches to a stream of the child. The returned blocking socket carries the child's output;
    /// what is written to it becomes the child's input.
    ///
    /// # Errors
    ///
    /// [`ClientError::Call`] with `NotRunning` or `NoSuchStream`, and as all calls.
    pub fn attach(mut self, request: &Attach) -> Result<(Attached, UnixStream), ClientError> {
        let mut parameters = json!({
            "stream": request.to.as_ref().map(AttachTo::as_str),
            "read_only": request.read_only,
            "tail": int(request.tail),
        });
        let console = request.to.as_ref().and_then(console_of);
        // The supervisor of an earlier vmon refuses unknown parameters.
        if let (Some(console), Value::Object(parameters)) = (console, &mut parameters) {
            parameters.insert("console".to_owned(), console.into());
        }
        let deadline = self.send("Attach", parameters, "upgrade")?;
        let reply = self.reply(Some(deadline))?.parameters;
        let attached = read_attached(&reply).map_err(|error| self.unreadable("Attach", &error))?;
        let stream = &self.stream;
        let blocking = stream.set_nonblocking(false).and_then(|()| stream.set_write_timeout(None));
        blocking.map_err(|error| self.io(error))?;
        Ok((attached, self.stream))
    }

    /// Follows the transitions of the sandbox until its end.
    ///
    /// # Errors
    ///
    /// As all calls.
    pub fn watch(mut self) -> Result<Watch, ClientError> {
        let deadline = self.send("Watch", json!({}), "more")?;
        Watch::begin(self, deadline)
    }

    /// As [`watch`](Self::watch), without waiting for the supervisor, which may be suspended: errors of
    /// the call and the first event come from [`Watch::next_within`].
    ///
    /// # Errors
    ///
    /// The call can't be sent.
    pub fn begin_watch(mut self) -> Result<Watch, ClientError> {
        self.send("Watch", json!({}), "more")?;
        Ok(Watch::asked(self))
    }

    fn call(&mut self, method: &'static str, parameters: Value) -> Result<Value, ClientError> {
        let deadline = self.send(method, parameters, "")?;
        Ok(self.reply(Some(deadline))?.parameters)
    }

    /// Sends a call and returns the deadline of its reply.
    fn send(
        &mut self,
        method: &str,
        parameters: Value,
        flag: &str,
    ) -> Result<Instant, ClientError> {
        let mut call = Map::new();
        call.insert("method".to_owned(), format!("{}.{method}", self.interface).into());
        call.insert("parameters".to_owned(), parameters);
        if !flag.is_empty() {
            call.insert(flag.to_owned(), true.into());
        }
        let mut message = Value::Object(call).to_string().into_bytes();
        message.push(0);
        let deadline = later(self.timeout);
        let mut rest = message.as_slice();
        while !rest.is_empty() {
            match (&self.stream).write(rest) {
                Ok(count) => rest = rest.get(count..).unwrap_or_default(),
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                    self.wait(PollFlags::POLLOUT, Some(deadline))?;
                }
                // A server that refuses the connection has sent an error before it closed it.
                Err(error) if error.kind() == io::ErrorKind::BrokenPipe => break,
                Err(error) => return Err(self.io(error)),
            }
        }
        Ok(deadline)
    }

    /// Waits for the next reply.
    fn reply(&mut self, deadline: Option<Instant>) -> Result<Reply, ClientError> {
        loop {
            match stream::take(&self.stream, &mut self.unfinished) {
                Ok(Received::Whole) => {
                    let message = std::mem::take(&mut self.unfinished);
                    return Reply::read(message.strip_suffix(&[0]).unwrap_or(&message), &self.path);
                }
                Ok(Received::Part) if self.unfinished.len() > MAX_MESSAGE => {
                    return Err(self.protocol("a reply is too long"));
                }
                Ok(Received::Part) => {}
                Ok(Received::End) => return Err(ClientError::Closed(self.path.clone())),
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                    self.wait(PollFlags::POLLIN, deadline)?;
                }
                Err(error) if error.kind() == io::ErrorKind::ConnectionReset => {
                    return Err(ClientError::Closed(self.path.clone()));
                }
                Err(error) => return Err(self.io(error)),
            }
        }
    }

    fn wait(&self, event: PollFlags, deadline: Option<Instant>) -> Result<(), ClientError> {
        let timeout = match deadline.map(|at| at.saturating_duration_since(Instant::now())) {
            Some(Duration::ZERO) => return Err(ClientError::Timeout(self.path.clone())),
            // Rounded up, so that poll(2) does not return before the deadline.
            Some(left) => PollTimeout::try_from(left.as_millis() + 1).unwrap_or(PollTimeout::MAX),
            None => PollTimeout::NONE,
        };
        match poll(&mut [PollFd::new(self.stream.as_fd(), event)], timeout) {
            Ok(_) | Err(Errno::EINTR) => Ok(()),
            Err(error) => Err(self.io(error.into())),
        }
    }

    fn io(&self, source: io::Error) -> ClientError {
        ClientError::Io { path: self.path.clone(), source }
    }

    fn protocol(&self, what: impl Into<String>) -> ClientError {
        ClientError::Protocol { path: self.path.clone(), what: what.into() }
    }

    fn unreadable(&self, method: &str, error: &Unreadable) -> ClientError {
        self.protocol(format!("the reply to {method} has a missing or invalid {}", error.0))
    }
}

/// A reply of the server.
struct Reply {
    parameters: Value,
    /// Whether another reply to the same call follows.
    continues: bool,
}

impl Reply {
    fn read(message: &[u8], path: &Path) -> Result<Self, ClientError> {
        let no_reply = || ClientError::Protocol {
            path: path.to_owned(),
            what: "the response is not a varlink reply".to_owned(),
        };
        let message: Value = serde_json::from_slice(message).map_err(|_| no_reply())?;
        let Value::Object(mut reply) = message else { return Err(no_reply()) };
        let parameters = reply.remove("parameters").unwrap_or_else(|| json!({}));
        let continues = reply.get("continues").and_then(Value::as_bool).unwrap_or(false);
        match reply.get("error").and_then(Value::as_str) {
            None => Ok(Self { parameters, continues }),
            Some("io.vmon.Monitor.PermissionDenied" | "io.vmon.Host.PermissionDenied") => {
                Err(ClientError::Refused { path: path.to_owned() })
            }
            Some(name) => Err(ClientError::Call {
                path: path.to_owned(),
                name: name.to_owned(),
                parameters: parameters.to_string(),
            }),
        }
    }
}

fn read_attached(reply: &Value) -> Result<Attached, Unreadable> {
    let fields = Fields::of(reply)?;
    Ok(Attached {
        session: SessionId(fields.number("session")?),
        to: read_stream(&fields)?,
        tail: fields.number("tail")?,
        // Missing from the reply of an earlier vmon.
        modes: fields.optional_text("modes")?.unwrap_or_default().to_owned(),
    })
}

/// `time` from now; a century from now if that is not representable.
fn later(time: Duration) -> Instant {
    let now = Instant::now();
    now.checked_add(time).unwrap_or(now + Duration::from_secs(100 * 365 * 86_400))
}
