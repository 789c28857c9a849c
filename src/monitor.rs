//! The monitor of one child: it is started, relayed, stopped, drained and reported.
//!
//! A [`Monitor`] is a [`Handler`](crate::reactor::Handler) of a
//! [`Reactor`](crate::reactor::Reactor). It goes through the states `STARTING`, `RUNNING`,
//! `STOPPING`, `DRAINING` and `STOPPED`, reports each to its [`Observer`]s, and is done when they
//! are.
//!
//! Some calls block although one thread serves every monitor of the reactor: the write of a regular
//! file while the kernel throttles dirty pages; open, rename and unlink of log files; `exec` of a
//! child; and whatever an [`Observer`] does.

mod attach;
mod attachments;
mod background;
mod backoff;
mod builder;
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
mod labels;
mod lifecycle;
mod log_claim;
mod logs;
mod name;
mod observer;
mod output;
mod packet_clients;
mod parts;
mod post_rotate;
mod release;
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

use tracing::Span;

pub use crate::child::{Identity, Liveness};
pub use attach::{Attach, AttachError, AttachTo, Attached, EndOfInput, SessionId, SessionReport};
pub use builder::Builder;
pub use call_out::PanicError;
#[cfg(feature = "host")]
pub(crate) use call_out::message_of;
pub use console::{Console, ConsoleError, DEFAULT_CONSOLE_NAME, STDIO};
pub use console_report::{ConsoleReport, ConsoleState};
pub use drain::Drain;
pub use keys::{SourceKey, TimerKey};
#[cfg(feature = "control")]
pub(crate) use labels::json as labels_json;
pub use labels::{LabelError, Labels};
pub use name::{Name, NameError};
pub use observer::{Claim, Observer, Progress, Starting};
pub use output::Output;
pub use release::{Released, ReleasedConsole, Unwritten};
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

use crate::child::{ExitStatus, Signal};
use crate::reactor::HandlerId;
pub use crate::relay::LogDriver;
use crate::terminal::WindowSize;
use channels::Channels;
use keys::Cx;
use lifecycle::{Lifecycle, StopRequest};
use service::Services;

/// Identifies a monitored sandbox: its handler in the [`Reactor`](crate::reactor::Reactor). Unique
/// in the process, also after the monitor has been removed.
pub type SandboxId = HandlerId;

/// Monitors one child. See the [module](self).
///
/// A monitor that is removed from its reactor, or dropped, before its child has ended does not end
/// the child: the child loses its streams, and the host has to stop and reap it. When such a monitor
/// is dropped its observers receive [`Transition::Stopped`], with the child's exit status if the
/// child has ended and else [`Reason::SupervisorLost`], and its name is free. Added to a reactor
/// again, it ends in the same way.
///
/// A [rotate command](Sandbox::rotate_command) or [stop command](Sandbox::stop_command) that runs then
/// is left to the host too; a rotate command that runs when the sandbox has stopped is reaped by the
/// reactor.
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
    /// Asks the child to end, as SIGTERM to the supervisor does: the stop signal, or the [stop
    /// command](Sandbox::stop_command), then KILL after the stop timeout. A second request at least a second later kills at once; a request while
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

    /// Gives the child back to the host, with its pid and descriptors, and ends the run: nothing is
    /// killed and nothing is reaped. Also a child that is being stopped is released, and gets no KILL
    /// then; a [stop command](Sandbox::stop_command) that runs is ended.
    ///
    /// No byte of the child is lost. What was read goes to the log first, as far as it can be
    /// written without waiting; the rest is in [`Released::unwritten`]. The log of an unfinished line
    /// of records ends there; the few bytes of it that a full disk holds up, and entries that the
    /// journal has not taken, are in [`End::bytes_dropped`].
    ///
    /// A descriptor that the host gave blocks again if it did before. Of those that vmon has made,
    /// pipes block, and the master of a PTY does not.
    ///
    /// Attached clients and services end as they do when a sandbox has stopped, the command is not
    /// started again, and observers receive [`Transition::Stopped`] with [`Reason::Released`] and an
    /// unknown exit status, so the record names the pid of the child and no process is ended because
    /// of it. The name is free.
    ///
    /// On Linux a child that was spawned here still dies with the thread that has started it, unless
    /// [`Command::parent_death`](crate::child::Command::parent_death) is false: only the child itself
    /// can change that (prctl(2)).
    ///
    /// ```
    /// use vmon::child::Command;
    /// use vmon::monitor::{Input, Monitor, Reason, Sandbox};
    /// use vmon::reactor::Reactor;
    ///
    /// # fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// # let directory = tempfile::tempdir()?;
    /// # let log_dir = directory.path();
    /// let mut reactor = Reactor::new()?;
    /// let sandbox = Sandbox::new("web", log_dir)?.input(Input::Attached);
    /// let id = Monitor::builder(sandbox).spawn(&mut reactor, Command::new("cat"));
    /// reactor.poll_once(None)?;
    /// let released = reactor.call(id, |monitor, cx| monitor.release(cx)).ok_or("gone")??;
    /// reactor.run()?;
    /// let end = reactor.remove(id).and_then(Monitor::into_end).ok_or("no end")?;
    /// assert_eq!(end.reason(), Reason::Released);
    /// # let child = nix::unistd::Pid::from_raw(released.pid as i32);
    /// # drop(released); // `cat` ends with its input
    /// # nix::sys::wait::waitpid(child, None)?;
    /// # Ok(())
    /// # }
    /// ```
    ///
    /// # Errors
    ///
    /// No child runs, or it has just ended.
    pub fn release(&mut self, cx: &mut Cx<'_>) -> Result<Released, RequestError> {
        self.in_span(|monitor| {
            let released = monitor.lifecycle.release(cx);
            monitor.follow(cx);
            released
        })
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

    /// Gives the child input without a session, all of it or none: to its stdin if that is a pipe
    /// ([`Input::Attached`] or `Forward`), or to its terminal. What the child does not take at once
    /// waits, up to 64 KiB; attached clients are not read meanwhile. For more,
    /// [`attach`](Self::attach) a stream, which the kernel bounds.
    ///
    /// # Errors
    ///
    /// There is no child, it has no input or has closed it, or more than 64 KiB would wait.
    pub fn send_input(&mut self, bytes: &[u8], cx: &mut Cx<'_>) -> Result<(), RequestError> {
        self.in_span(|monitor| monitor.lifecycle.send_input(bytes, cx))
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

    /// Whether no child runs, also one that has not been reaped yet.
    #[cfg(feature = "host")]
    pub(crate) fn child_has_ended(&self) -> bool {
        self.lifecycle.child_has_ended()
    }

    /// Whether the host reaps the child.
    #[cfg(feature = "host")]
    pub(crate) fn host_reaps(&self) -> bool {
        self.lifecycle.parts.host_reaps
    }

    /// The state of the child.
    pub fn phase(&self) -> Phase {
        self.lifecycle.phase()
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
        if let Some(panic) = lifecycle.parts.channels.take_output_panic() {
            lifecycle.parts.note_panic(panic);
        }
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

impl fmt::Debug for Monitor {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let name = &self.lifecycle.parts.sandbox.name;
        let state = self.lifecycle.phase().as_str();
        f.debug_struct("Monitor").field("name", name).field("state", &state).finish()
    }
}
