//! The monitor of one child: it is started, relayed, stopped, drained and reported.
//!
//! A [`Monitor`] is a [`Handler`](crate::reactor::Handler) of a [`Reactor`]. It goes through the
//! states `STARTING`, `RUNNING`, `STOPPING`, `DRAINING` and `STOPPED`, reports each to its
//! [`Observer`]s, and is done when they are.
//!
//! Some calls block although one thread serves every monitor of the reactor: the write of a regular
//! file while the kernel throttles dirty pages; open, rename and unlink of log files; `exec` of a
//! child; and whatever an [`Observer`] does.

mod attach;
mod attachments;
mod backoff;
mod call_out;
mod channel;
mod channels;
mod check;
mod console;
#[cfg(feature = "consoles")]
mod console_channels;
mod console_report;
mod drain;
mod handler;
mod keys;
mod lifecycle;
mod log_claim;
mod logs;
mod name;
mod observer;
mod packet_clients;
mod parts;
mod post_rotate;
mod report;
mod requests;
mod sandbox;
mod service;
mod signals;
mod stdio;
mod transition;
mod tty;
mod wait;

use std::fmt;
use std::mem;
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream;
use std::time::Duration;

use chrono::Utc;
use tracing::{Span, error_span};

pub use crate::child::{Identity, Liveness};
pub use attach::{Attach, AttachError, AttachTo, Attached, EndOfInput, SessionId, SessionReport};
pub use call_out::PanicError;
pub use console::{Console, ConsoleError, DEFAULT_CONSOLE_NAME, STDIO};
pub use console_report::{ConsoleReport, ConsoleState};
pub use drain::Drain;
pub use keys::{SourceKey, TimerKey};
pub use name::{Name, NameError};
pub use observer::{Claim, Observer, Progress, Starting};
pub use report::{Phase, Report};
pub use requests::RequestError;
#[cfg(feature = "codec")]
pub use sandbox::codec;
pub use sandbox::{
    DEFAULT_CONFIG_FILE, DEFAULT_KEEP_RUNS, DEFAULT_STOP_TIMEOUT, Forward, Input, LogRate,
    OnLogError, OverRate, Restart, Rootfs, Sandbox,
};
pub use service::{Service, ServiceContext};
pub use signals::{command_signals, forwarded_signals, hold_forwarded_signals, own_signals};
pub use transition::{AdoptError, End, Event, Outcome, Reason, StartError, Transition};
pub use wait::{Wait, WaitKind};

use crate::child::{Child, ChildIo, Command, Counted, ExitStatus, KillScope, Signal};
use crate::reactor::{HandlerId, Reactor};
use crate::relay::Drivers;
pub use crate::relay::LogDriver;
use crate::terminal::WindowSize;
use channels::Channels;
#[cfg(feature = "consoles")]
use console_channels::GivenConsoles;
use keys::Cx;
use lifecycle::{Launch, Lifecycle, StopRequest};
use observer::Observers;
use parts::{CurrentRun, Parts, Reported};
use service::Services;

/// Identifies a monitored sandbox: its handler in the [`Reactor`]. Unique in the process, also after
/// the monitor has been removed.
pub type SandboxId = HandlerId;

/// Monitors one child. See the [module](self).
///
/// A monitor that is removed from its reactor, or dropped, before its child has ended does not end
/// the child: the child loses its streams, and the host has to stop and reap it. When such a monitor
/// is dropped its observers receive [`Transition::Stopped`], with the child's exit status if the
/// child has ended and else [`Reason::SupervisorLost`], and its name is free. Added to a reactor
/// again, it ends in the same way.
///
/// A [rotate command](Sandbox::rotate_command) that runs then is left to the host too; one that runs
/// when the sandbox has stopped is reaped by the reactor.
///
/// ```no_run
/// use vmon::child::Command;
/// use vmon::monitor::{Monitor, Sandbox};
/// use vmon::reactor::Reactor;
///
/// # fn main() -> Result<(), Box<dyn std::error::Error>> {
/// let mut reactor = Reactor::new()?;
/// let sandbox = Sandbox::new("web", "/var/lib/host/log")?;
/// let id = Monitor::builder(sandbox).spawn(&mut reactor, Command::new("web-server"));
/// reactor.run()?;
/// println!("{:?}", reactor.remove(id).and_then(Monitor::into_end));
/// # Ok(())
/// # }
/// ```
pub struct Monitor {
    lifecycle: Lifecycle,
    services: Services,
    /// Whether [`Event::Done`] has been yielded.
    done: bool,
    /// See [`in_span`](Self::in_span). `None` also if no subscriber is interested.
    span: Option<Box<Span>>,
}

impl Monitor {
    /// A monitor of this sandbox, to be given observers and a child.
    pub fn builder(sandbox: Sandbox) -> Builder {
        Builder {
            sandbox,
            observers: Observers::default(),
            services: Services::default(),
            scope: KillScope::Group,
            host_reaps: false,
            drain: Drain::default(),
            log_drivers: None,
            #[cfg(feature = "consoles")]
            given_consoles: GivenConsoles::default(),
        }
    }

    /// Asks the child to end, as SIGTERM to the supervisor does: the stop signal, then KILL after
    /// the stop timeout. A second request at least a second later kills at once; a request while
    /// the output of an ended child waits for a reader or a full disk gives up on that output.
    ///
    /// Returns at once. The end is reported to the observers.
    pub fn stop(&mut self, cx: &mut Cx<'_>) {
        self.handle(lifecycle::Event::Stop(StopRequest::Urgent), cx);
    }

    /// As [`stop`](Self::stop), but KILL follows after `timeout`, if one is given, instead of the
    /// sandbox's stop timeout. A second request never kills at once: the earlier of both times
    /// counts.
    pub fn stop_within(&mut self, timeout: Option<Duration>, cx: &mut Cx<'_>) {
        self.handle(lifecycle::Event::Stop(StopRequest::Within(timeout)), cx);
    }

    /// Hands in the status of a child that the host has reaped ([`Builder::host_reaps`]): what
    /// `wait` of a [`std::process::Child`] or of tokio's returns. Other pids than that of the
    /// current child are ignored, so a loop on `waitpid(-1)` may hand each status to each monitor.
    ///
    /// Does nothing if the monitor has seen the end itself.
    pub fn reaped(&mut self, pid: u32, status: impl Into<ExitStatus>, cx: &mut Cx<'_>) {
        self.handle(lifecycle::Event::Reaped { pid, status: status.into() }, cx);
    }

    /// Sends `signal` to the child's process group, or to the child alone if it leads none.
    ///
    /// # Errors
    ///
    /// There is no child to signal now.
    pub fn signal_child(&mut self, signal: Signal) -> Result<(), RequestError> {
        self.in_span(|monitor| monitor.lifecycle.signal_child(signal))
    }

    /// Closes the log, and those of consoles, and opens them again by their names, after they have
    /// been moved away. Sockets of the sandbox that have been removed are made again.
    ///
    /// # Errors
    ///
    /// There is no log now, or one can't be opened; the next write tries again.
    pub fn reopen_log(&mut self, cx: &mut Cx<'_>) -> Result<(), RequestError> {
        self.in_span(|monitor| {
            let reopened = monitor.lifecycle.reopen_log();
            monitor.follow(cx);
            reopened
        })
    }

    /// Attaches a client: `preamble` goes to it first, then the end of the log as asked for, then
    /// the child's output from there on, without a gap. What it sends goes to the child.
    ///
    /// The monitor owns the stream from here on and makes it non-blocking. A client that does not
    /// keep up is skipped forward, with a line that says how many bytes it has missed; it never
    /// delays the child. At most 256 KiB wait for one client, and 4 MiB for all of them; the tail
    /// of the log is at most as long.
    ///
    /// The log of a child on pipes holds both its streams, and so does its tail. A client of a
    /// console stays attached while the console is closed and opened again; what it sends meanwhile
    /// is lost.
    ///
    /// # Errors
    ///
    /// The request can't be met. Nothing has been sent, and the stream is returned.
    pub fn attach(
        &mut self,
        client: UnixStream,
        request: &Attach,
        preamble: impl FnOnce(&Attached) -> Vec<u8>,
        cx: &mut Cx<'_>,
    ) -> Result<Attached, (AttachError, UnixStream)> {
        self.in_span(|monitor| monitor.lifecycle.attach(client, request, preamble, cx))
    }

    /// Attaches a client on a Unix socket of type `SOCK_SEQPACKET`, with the framing that the clients
    /// of conmon use. It gets the child's output from now on, both streams of a child on pipes, once
    /// the log has it: each packet is one byte, 2 for stdout or the terminal and 3 for stderr, and
    /// at most 8,192 bytes of the child. What it sends, in packets of at most 32 KiB, is the
    /// child's input; the kernel discards the rest of a longer packet. While the child does not take
    /// its input, no packet client is read; the output goes on.
    ///
    /// The end of its input, which an empty packet is as well, is not the end of the client: it gets
    /// the output until it closes its socket. The monitor owns the socket from here on and makes
    /// it non-blocking and close-on-exec. Up to 1,024 clients may be attached, over all runs; an
    /// idle one costs a descriptor and no buffer.
    ///
    /// A client that takes packets loses none: while its queue is full the output is not read. At
    /// most 256 KiB wait for one client, and 4 MiB for all of them. A client that has taken nothing
    /// for a second while its queue is full is skipped, so that it holds up the child no longer:
    /// the further output is left out until it has taken all that waits. It then gets a line with
    /// the number of missed bytes (of stderr, or of the terminal if the child has one), and the
    /// output from there on. Bytes that were read before the client came, and that have waited for
    /// a full disk since, may be left out too.
    ///
    /// When the child has ended, each client has a second, and another one after each packet that
    /// it takes, to take what waits for it. The drain waits for that, bounded by a
    /// [stop](Self::stop) as a drain is. All clients are closed before
    /// [`Transition::Stopped`] is reported.
    ///
    /// A service that accepts clients does so when it gets [`Transition::Running`]: clients that
    /// wait in its listen queue then miss nothing.
    ///
    /// # Errors
    ///
    /// The request can't be met. Nothing has been sent, and the socket is returned.
    pub fn attach_packets(
        &mut self,
        client: OwnedFd,
        end: EndOfInput,
        cx: &mut Cx<'_>,
    ) -> Result<SessionId, (AttachError, OwnedFd)> {
        self.in_span(|monitor| monitor.lifecycle.attach_packets(client, end, cx))
    }

    /// Gives the child's terminal the size of a session's terminal, which is in effect until
    /// another writer types or sends its size. If it has that size already, the program is made to
    /// draw its screen again: the window is a column wider until the next output, for 200 ms at
    /// most.
    ///
    /// # Errors
    ///
    /// No such session, a read-only session, or a child without a terminal.
    pub fn resize(
        &mut self,
        session: SessionId,
        size: WindowSize,
        cx: &mut Cx<'_>,
    ) -> Result<(), RequestError> {
        self.in_span(|monitor| monitor.channels().resize(session, size, cx))
    }

    /// Gives the child's terminal this size, without a session: rows and columns as given, 0
    /// included, which is the size of a terminal that was never given one. Programs that poll or
    /// wait for SIGWINCH notice a change only. The size is in effect until a session that has sent
    /// its size types, or until the next resize.
    ///
    /// # Errors
    ///
    /// There is no child, a child without a terminal, or the error of the system.
    pub fn resize_terminal(&mut self, size: WindowSize) -> Result<(), RequestError> {
        self.in_span(|monitor| monitor.channels().resize_terminal(size))
    }

    /// Gives the child bytes that a client has sent before it was attached, as if they had come
    /// after that. Bytes of a read-only session are discarded.
    pub fn send(&mut self, session: SessionId, bytes: &[u8], cx: &mut Cx<'_>) {
        self.in_span(|monitor| monitor.lifecycle.send(session, bytes, cx));
    }

    /// Adds a console on a descriptor of the host's own, as [`Builder::console`] does, also while
    /// the child runs. It belongs to this run, or to the next one if no child runs.
    ///
    /// # Errors
    ///
    /// Another console has the name, or its log can't be opened; the descriptor is closed. A
    /// descriptor that can't be read causes a warning, and the console is
    /// [gone](ConsoleState::Gone).
    #[cfg(feature = "consoles")]
    pub fn add_console(
        &mut self,
        name: Name,
        descriptor: impl Into<OwnedFd>,
        cx: &mut Cx<'_>,
    ) -> Result<(), StartError> {
        let descriptor = descriptor.into();
        self.in_span(|monitor| monitor.lifecycle.add_console(name, descriptor, cx))
    }

    /// What is known of the sandbox now.
    pub fn report(&self) -> Report {
        self.lifecycle.report()
    }

    /// How it ended; `None` while it has not.
    pub fn end(&self) -> Option<&End> {
        self.lifecycle.end_of_all()
    }

    /// How it ended; `None` if it has not.
    pub fn into_end(self) -> Option<End> {
        self.end().cloned()
    }

    /// The [log drivers](Builder::log_drivers) of a sandbox that has stopped, each once; none
    /// before. They have every byte then that [`End::bytes_logged`] counts.
    pub fn take_log_drivers(&mut self) -> Vec<LogDriver> {
        if self.end().is_none() {
            return Vec::new();
        }
        let drivers = self.lifecycle.parts.log_drivers.take();
        drivers.map(|drivers| drivers.into_drivers()).unwrap_or_default()
    }

    /// The child's pid, from its start until it has been reaped.
    pub fn pid(&self) -> Option<u32> {
        self.lifecycle.pid()
    }

    /// The sandbox.
    pub fn sandbox(&self) -> &Sandbox {
        &self.lifecycle.parts.sandbox
    }

    fn channels(&mut self) -> &mut Channels {
        &mut self.lifecycle.parts.channels
    }

    fn handle(&mut self, event: lifecycle::Event<'_>, cx: &mut Cx<'_>) {
        self.in_span(|monitor| {
            monitor.lifecycle.handle(event, cx);
            monitor.follow(cx);
        });
    }

    /// Calls within the span of the sandbox, which every message of the call is in. An inner call
    /// stays in the span of the outer one.
    fn in_span<R>(&mut self, call: impl FnOnce(&mut Self) -> R) -> R {
        match self.span.take() {
            Some(span) => {
                let result = span.in_scope(|| call(self));
                self.span = Some(span);
                result
            }
            None => call(self),
        }
    }

    /// What follows each call: the services receive the transitions that it has caused, and a panic
    /// of an observer or a service ends the sandbox.
    fn follow(&mut self, cx: &mut Cx<'_>) {
        let Self { lifecycle, services, .. } = self;
        if mem::take(&mut lifecycle.parts.reopen) {
            services.reopen(lifecycle, cx);
            #[cfg(feature = "consoles")]
            lifecycle.parts.channels.listen_again(cx);
        }
        services.report(lifecycle, cx);
        if lifecycle.parts.panic.is_some() {
            lifecycle.handle(lifecycle::Event::Panicked, cx);
            services.report(lifecycle, cx);
        }
        if lifecycle.end_of_all().is_some() {
            services.ask_whether_done(lifecycle, cx);
            if lifecycle.parts.panic.is_some() {
                lifecycle.handle(lifecycle::Event::Panicked, cx);
            }
        }
    }
}

impl Drop for Monitor {
    /// The observers receive the end of a run that is not over.
    fn drop(&mut self) {
        if let Some(transition) = self.lifecycle.abandon() {
            self.in_span(|monitor| monitor.lifecycle.parts.observers.report_last(&transition));
        }
    }
}

/// A monitor that has no child yet. See [`Monitor::builder`].
pub struct Builder {
    sandbox: Sandbox,
    observers: Observers,
    services: Services,
    scope: KillScope,
    host_reaps: bool,
    drain: Drain,
    log_drivers: Option<Box<Drivers>>,
    #[cfg(feature = "consoles")]
    given_consoles: GivenConsoles,
}

impl Builder {
    /// A console on a descriptor of the host's own, beside those that the sandbox
    /// [describes](Sandbox::console), for the first run of the child: a socket, the reading end of
    /// a pipe, the master of a PTY. It is relayed as those are, to a log of its own; a descriptor
    /// that is open for writing too takes input.
    ///
    /// The monitor owns the descriptor and sets `O_NONBLOCK` on it, so its open file description
    /// must not be shared. At its end it is closed.
    #[cfg(feature = "consoles")]
    #[must_use]
    pub fn console(mut self, name: Name, descriptor: impl Into<OwnedFd>) -> Self {
        self.given_consoles.give(name, descriptor.into());
        self
    }

    /// The sandbox.
    pub fn sandbox(&self) -> &Sandbox {
        &self.sandbox
    }

    /// Adds an observer of the transitions.
    #[must_use]
    pub fn observer(mut self, observer: impl Observer + 'static) -> Self {
        self.observers.add(Box::new(observer));
        self
    }

    /// Adds a service on the monitor's loop, such as a control socket.
    #[must_use]
    pub fn service(mut self, service: impl Service + 'static) -> Self {
        self.services.add(Box::new(service));
        self
    }

    /// Ends everything that the child has started, daemons too, with the child, and not only the
    /// child's process group: for a program that has [become a
    /// subreaper](crate::process::become_subreaper) and monitors one sandbox.
    ///
    /// Orphans that become children of this process are reaped when they end, and count as left
    /// behind when the child has ended, except for processes of this process's own session: the
    /// child leads another session, so this program has started those. If this process has children
    /// already, or other monitors, only processes of the child's session count.
    ///
    /// Linux only: elsewhere the child's process group is ended.
    #[must_use]
    pub fn answer_for_descendants(mut self) -> Self {
        self.scope = KillScope::of_subreaper();
        self
    }

    /// Leaves it to the host to reap the child, for a host that awaits its children itself, with
    /// `wait` of a [`std::process::Child`] or of tokio's, or with a loop on `waitpid(-1)`.
    ///
    /// The monitor looks for the end without reaping the child (`WNOWAIT`, waitid(2)). If the host
    /// comes first, the status is lost to the monitor, so the host hands each one in with
    /// [`Monitor::reaped`]. One that has not been handed in five seconds after the monitor has
    /// missed it is [unknown](ExitStatus::Unknown).
    #[must_use]
    pub fn host_reaps(mut self) -> Self {
        self.host_reaps = true;
        self
    }

    /// Sets when the drain of the output is over, once the child has been reaped: after a quiet
    /// period by default.
    #[must_use]
    pub fn drain(mut self, drain: Drain) -> Self {
        self.drain = drain;
        self
    }

    /// Logs the child's own output to exactly these drivers instead of the sandbox's log: without
    /// any, it is not logged. No directory is made then and no log claimed, [`Report::log`] is
    /// `None`, and an attached client gets no tail. Consoles keep logs of their own.
    ///
    /// Each driver gets every byte. One that can't be written to holds up the others and the child,
    /// as a log does ([`Sandbox::on_log_error`]). A restart of the command goes on with the same
    /// drivers; [`Monitor::take_log_drivers`] returns them at the end.
    ///
    /// ```
    /// use vmon::child::Command;
    /// use vmon::logfile::{K8sFile, K8sFileOptions};
    /// use vmon::monitor::{LogDriver, Monitor, Sandbox};
    /// use vmon::reactor::Reactor;
    ///
    /// # fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// # let directory = tempfile::tempdir()?;
    /// let path = directory.path().join("ctr.log");
    /// let log = K8sFile::open(&path, K8sFileOptions::default())?;
    /// let mut reactor = Reactor::new()?;
    /// let id = Monitor::builder(Sandbox::new("ctr", directory.path())?)
    ///     .log_drivers([LogDriver::K8sFile(log)])
    ///     .spawn(&mut reactor, Command::new("echo").args(["hello"]));
    /// reactor.run()?;
    /// for driver in reactor.remove(id).map(|mut it| it.take_log_drivers()).unwrap_or_default() {
    ///     driver.sync()?;
    /// }
    /// assert!(std::fs::read_to_string(path)?.ends_with(" stdout F hello\n"));
    /// # Ok(())
    /// # }
    /// ```
    #[must_use]
    pub fn log_drivers(mut self, drivers: impl IntoIterator<Item = LogDriver>) -> Self {
        self.log_drivers = Some(Box::new(Drivers::new(drivers)));
        self
    }

    /// Adds the monitor to `reactor`. The next turn asks the observers for the claim and starts
    /// `command` as soon as they grant it; so does a [`Reactor::call`] of the monitor before that
    /// turn. No observer and no service is called before this method has returned.
    ///
    /// Never blocks: whether the child was started is reported to the observers, and by
    /// [`Monitor::end`] if it was not.
    ///
    /// On Linux the child is killed when the *thread* ends that has polled the reactor when the child
    /// was started (`PR_SET_PDEATHSIG`, prctl(2)). A host that polls on threads of a pool, which end
    /// when they are idle, calls [`Command::parent_death`].
    pub fn spawn(self, reactor: &mut Reactor<Monitor>, command: Command) -> SandboxId {
        reactor.add(self.build(command))
    }

    /// The monitor that [`spawn`](Self::spawn) adds, for a host whose reactor has handlers of its
    /// own beside monitors: the host adds it as one of them (`examples/beside.rs`).
    pub fn build(self, command: Command) -> Monitor {
        self.monitor(Launch::Spawn(command))
    }

    /// Adds the monitor to `reactor`, which takes over a child that the host has started. As with
    /// [`spawn`](Self::spawn), observers and services are called from the next turn on.
    ///
    /// From here on vmon relays, reaps and records: the host must not read the child's streams, nor
    /// wait for it without [`host_reaps`](Self::host_reaps). If another live supervisor has the name, the monitor ends with
    /// [`StartError::Taken`], closes `io` and leaves the child to the host.
    ///
    /// # Errors
    ///
    /// `pid` is not a child of this process. The error has `io`.
    pub fn start(
        self,
        reactor: &mut Reactor<Monitor>,
        pid: u32,
        io: ChildIo,
    ) -> Result<SandboxId, AdoptError> {
        self.adopt(pid, io).map(|monitor| reactor.add(monitor))
    }

    /// The monitor that [`start`](Self::start) adds; compare [`build`](Self::build).
    ///
    /// # Errors
    ///
    /// As [`start`](Self::start).
    pub fn adopt(self, pid: u32, io: ChildIo) -> Result<Monitor, AdoptError> {
        match Child::adopt(pid) {
            Ok(child) => Ok(self.monitor(Launch::Adopt(Some((child, io))))),
            Err(source) => Err(AdoptError { pid, io, source }),
        }
    }

    fn monitor(self, launch: Launch) -> Monitor {
        let span = span_of(&self.sandbox);
        let parts = Parts {
            sandbox: self.sandbox,
            supervisor: Identity::current(),
            scope: self.scope,
            _counted: Counted::new(),
            log_claim: None,
            own_log: self.log_drivers.is_none(),
            log_drivers: self.log_drivers,
            host_reaps: self.host_reaps,
            drain: self.drain,
            observers: self.observers,
            reported: Reported::default(),
            run: CurrentRun { asked: Utc::now(), restarts: 0, child: None },
            backoff: None,
            channels: Channels::default(),
            #[cfg(feature = "consoles")]
            given_consoles: self.given_consoles,
            post_rotate: None,
            reopen: false,
            panic: None,
        };
        let lifecycle = Lifecycle::new(launch, parts);
        Monitor { lifecycle, services: self.services, done: false, span }
    }
}

/// The span of this sandbox, if a subscriber is interested: its name, and its config file unless
/// that is the default.
fn span_of(Sandbox { name, config_file, .. }: &Sandbox) -> Option<Box<Span>> {
    let config_file = Some(config_file).filter(|it| it.as_str() != DEFAULT_CONFIG_FILE);
    let span = error_span!("sandbox", %name, config_file = config_file.map(display));
    (!span.is_disabled()).then(|| Box::new(span))
}

impl fmt::Debug for Builder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Builder").field("sandbox", &self.sandbox).finish_non_exhaustive()
    }
}

impl fmt::Debug for Monitor {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let name = &self.lifecycle.parts.sandbox.name;
        let state = self.lifecycle.phase().as_str();
        f.debug_struct("Monitor").field("name", name).field("state", &state).finish()
    }
}
