//! The lifecycle of one child: started, relayed, stopped, drained, reported.
//!
//! A [`Monitor`] is a [`Handler`] of a [`Reactor`]. It goes through the states `STARTING`,
//! `RUNNING`, `STOPPING`, `DRAINING` and `STOPPED`, tells its [`Observer`]s of each, and is done
//! when they are.
//!
//! What one thread can't avoid waiting for, and so holds up every monitor of the reactor for as
//! long as it takes: the write of a regular file while the kernel throttles dirty pages; open,
//! rename and unlink of log files; `exec` of a child; and in an [`Observer`] whatever that does.

mod attach;
mod attachments;
mod channel;
mod channels;
mod check;
mod console;
#[cfg(feature = "consoles")]
mod console_channels;
mod console_report;
mod descendants;
mod draining;
mod keys;
mod limits;
mod logs;
mod name;
mod observer;
mod post_rotate;
mod report;
mod reports;
mod requests;
mod restarting;
mod running;
mod sandbox;
mod service;
mod starting;
mod stdio;
mod transition;

use std::collections::VecDeque;
use std::fmt;
#[cfg(feature = "consoles")]
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream;
use std::time::{Duration, Instant};

use chrono::{DateTime, Utc};
use tracing::{debug, warn};

pub use crate::child::{Identity, Liveness};
pub use attach::{Attach, AttachError, AttachTo, Attached, SessionId, SessionReport};
pub use console::{Console, ConsoleError, DEFAULT_CONSOLE_NAME, STDIO};
pub use console_report::{ConsoleReport, ConsoleState};
pub use keys::{SourceKey, TimerKey};
pub use name::{Name, NameError};
pub use observer::{Claim, Observer, Progress, Starting};
pub use report::{Phase, Report};
pub use requests::RequestError;
#[cfg(feature = "codec")]
pub use sandbox::codec;
pub use sandbox::{
    DEFAULT_CONFIG_FILE, DEFAULT_STOP_TIMEOUT, Forward, Input, LogRate, OnLogError, OverRate,
    Restart, Rootfs, Sandbox,
};
pub use service::{Desk, Service};
pub use transition::{End, Outcome, Reason, StartError, Transition};

use crate::child::{Cgroup, Child, ChildIo, Command, ExitStatus, Reach, Signal};
use crate::reactor::{Handler, HandlerId, Reactor, Ready, SourceId, TimerId};
use crate::terminal;
use channels::Channels;
#[cfg(feature = "consoles")]
use console_channels::GivenConsoles;
use descendants::{Remains, Trouble};
use keys::{Cx, Source, Timer};
use limits::Limits;
#[cfg(feature = "consoles")]
use logs::LogOpener;
use post_rotate::PostRotate;
use reports::Reports;
use restarting::Again;
use running::Request;

/// How long the child's streams must be silent after its end to be at theirs, although somebody
/// still has them open.
const QUIET: Duration = Duration::from_millis(200);

/// How long observers may take to grant a start.
const CLAIM_TIMEOUT: Duration = Duration::from_secs(5);

/// Monitors one child. See the [module](self).
///
/// One that is taken off its reactor, or dropped, before its child has ended does not end it: the
/// child loses its streams and is the host's to stop and to reap. So is a
/// [rotate command](Sandbox::rotate_command) that runs at that moment; one that runs when all is
/// over is the reactor's.
///
/// ```no_run
/// use vmon::child::Command;
/// use vmon::monitor::{Monitor, Sandbox};
/// use vmon::reactor::Reactor;
///
/// # fn main() -> Result<(), Box<dyn std::error::Error>> {
/// let mut reactor = Reactor::new()?;
/// let sandbox = Sandbox::new("web", "Sandboxfile", "/var/lib/host/log")?;
/// let id = Monitor::builder(sandbox).spawn(&mut reactor, Command::new("web-server"));
/// reactor.run()?;
/// println!("{:?}", reactor.remove(id).and_then(Monitor::into_end));
/// # Ok(())
/// # }
/// ```
pub struct Monitor {
    sandbox: Sandbox,
    reports: Reports,
    supervisor: Identity,
    asked: DateTime<Utc>,
    state: State,
    /// Whom it answers for when the child has ended.
    reach: Reach,
    /// The child of this run, once it ran, and when that was seen.
    child: Option<(Identity, DateTime<Utc>)>,
    /// Set while that may be started again.
    again: Option<Box<Again>>,
    /// How often it has been started again.
    restarts: u32,
    /// When output or input was last seen; kept only where an idle timeout asks for it.
    moved: Option<Instant>,
    channels: Channels,
    #[cfg(feature = "consoles")]
    given_consoles: GivenConsoles,
    /// Set where generations of the logs are to be worked on.
    post_rotate: Option<Box<PostRotate>>,
    /// `None` for the one that is being called.
    services: Vec<Option<Box<dyn Service>>>,
    /// How many of them have been opened.
    services_open: usize,
    /// Transitions that the services have not been told yet.
    untold: VecDeque<Transition>,
}

/// What is to be monitored.
enum Launch {
    Spawn(Command),
    Adopt(Child, ChildIo),
}

/// A live child, what tells its end, and what limits its life.
struct Running {
    child: Child,
    exit: Option<SourceId>,
    limits: Limits,
    cgroup: Option<Cgroup>,
}

/// How far a stop has come.
struct Stop {
    cause: Cause,
    asked: Instant,
    kill: TimerId,
    kill_at: Instant,
    /// Whether KILL has been sent, or tried.
    killed: bool,
    trouble: Trouble,
}

/// What a stop comes from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Cause {
    /// Somebody asked for it.
    Request,
    MaxDuration,
    IdleTimeout,
}

/// What a drain ends with.
struct Drain {
    status: ExitStatus,
    reason: Reason,
    quiet: Option<TimerId>,
    limit: TimerId,
    limit_passed: bool,
    /// What the child left behind and the drain waits for.
    remains: Option<Remains>,
    /// The last stop request before or during the drain.
    asked: Option<Instant>,
}

enum State {
    Starting {
        launch: Launch,
        give_up: Instant,
    },
    Running(Running),
    Stopping(Running, Stop),
    Draining(Drain),
    /// Waits until the command is started again.
    Restarting(End, TimerId),
    Stopped(End),
    /// Between two states, within one method.
    Moving,
}

impl Monitor {
    /// A monitor of this sandbox, to be given observers and a child.
    pub fn builder(sandbox: Sandbox) -> Builder {
        let (reports, services) = (Reports::default(), Vec::new());
        Builder {
            sandbox,
            reports,
            services,
            reach: Reach::Group,
            #[cfg(feature = "consoles")]
            given_consoles: GivenConsoles::default(),
        }
    }

    /// Asks the child to end, as SIGTERM to the supervisor does: the stop signal, then KILL after
    /// the stop timeout. Asked again at least a second later, it kills at once; asked while the
    /// output of an ended child still waits for a reader or a full disk, it gives up on that.
    ///
    /// Returns at once. The end comes to the observers.
    pub fn stop(&mut self, cx: &mut Cx<'_>) {
        self.stop_requested(Request::Urgent, cx);
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
        let (State::Running(_) | State::Stopping(..) | State::Draining(_)) = self.state else {
            return Err((AttachError::NotRunning, client));
        };
        let attached = self.channels.attach(client, request, preamble, cx)?;
        debug!(name = %self.sandbox.name, session = attached.session.0, "attached");
        Ok(attached)
    }

    /// Gives the child's terminal the size of a session's terminal, which is in effect until
    /// another writer types or sends its size.
    ///
    /// # Errors
    ///
    /// No such session, a read-only session, or a child without a terminal.
    pub fn resize(
        &mut self,
        session: SessionId,
        rows: u16,
        columns: u16,
    ) -> Result<(), RequestError> {
        self.channels.resize(session, rows, columns)
    }

    /// Gives the child bytes that a client has sent before it was attached, as if they had come
    /// after that. Bytes of a read-only session are discarded.
    pub fn send(&mut self, session: SessionId, bytes: &[u8], cx: &mut Cx<'_>) {
        if let State::Running(_) | State::Stopping(..) = self.state
            && self.channels.send(session, bytes, cx)
        {
            self.note_moved();
        }
    }

    /// How it ended; `None` while it has not.
    pub fn end(&self) -> Option<&End> {
        match &self.state {
            State::Stopped(end) => Some(end),
            _ => None,
        }
    }

    /// How it ended; `None` if it has not.
    pub fn into_end(self) -> Option<End> {
        self.end().cloned()
    }

    /// The child's pid, from its start until it has been reaped.
    pub fn pid(&self) -> Option<u32> {
        match &self.state {
            State::Running(running) | State::Stopping(running, _) => Some(running.child.pid()),
            _ => None,
        }
    }

    /// The sandbox.
    pub fn sandbox(&self) -> &Sandbox {
        &self.sandbox
    }

    /// Adds a console on a descriptor of the host's own, as [`Builder::console`] does, also while the
    /// child runs. It is one of this run, or where there is none of the next.
    ///
    /// # Errors
    ///
    /// The name is another console's, or its log can't be opened; the descriptor is closed then. One
    /// that can't be read is a warning, and the console is [gone](ConsoleState::Gone).
    #[cfg(feature = "consoles")]
    pub fn add_console(
        &mut self,
        name: Name,
        descriptor: impl Into<OwnedFd>,
        cx: &mut Cx<'_>,
    ) -> Result<(), StartError> {
        let child = match &self.state {
            State::Running(running) | State::Stopping(running, _) => Some(running.child.pid()),
            _ => None,
        };
        let Self { channels, given_consoles, sandbox, post_rotate, .. } = self;
        let exists = channels.find(&name).is_some();
        given_consoles.try_give(name, descriptor.into(), sandbox, exists)?;
        let Some(child) = child else { return Ok(()) };
        let mut logs = LogOpener { sandbox, post_rotate: post_rotate.as_deref_mut() };
        for channel in given_consoles.open(sandbox, &mut logs)? {
            channels.add_console(channel, child, cx);
        }
        Ok(())
    }
}

/// A monitor that has no child yet. See [`Monitor::builder`].
pub struct Builder {
    sandbox: Sandbox,
    reports: Reports,
    services: Vec<Option<Box<dyn Service>>>,
    reach: Reach,
    #[cfg(feature = "consoles")]
    given_consoles: GivenConsoles,
}

impl Builder {
    /// A console on a descriptor of the host's own, beside those that the sandbox
    /// [describes](Sandbox::console), for the first run of the child: a socket, a pipe's reading
    /// end, the master of a PTY. It goes through a relay as theirs do, to a log of its own; what is
    /// opened for writing too takes input.
    ///
    /// The monitor owns the descriptor and sets `O_NONBLOCK` on it, so its open file description must
    /// be shared with nobody. At its end it is closed.
    #[cfg(feature = "consoles")]
    #[must_use]
    pub fn console(mut self, name: Name, descriptor: impl Into<OwnedFd>) -> Self {
        self.given_consoles.give(name, descriptor.into());
        self
    }

    /// Tells `observer` of the transitions too.
    #[must_use]
    pub fn observer(mut self, observer: impl Observer + 'static) -> Self {
        self.reports.add(Box::new(observer));
        self
    }

    /// Serves others beside the monitor, as a control socket does.
    #[must_use]
    pub fn service(mut self, service: impl Service + 'static) -> Self {
        self.services.push(Some(Box::new(service)));
        self
    }

    /// Has the monitor answer for everything that its child has started, daemons too, and not only
    /// for the child's process group: for a program that has [become a
    /// subreaper](crate::process::become_subreaper) and monitors one sandbox.
    ///
    /// What has come down to this process is reaped when it ends, and counts as left behind when
    /// the child has ended, unless it is of this process's own session: a child leads one of its
    /// own, so that is what others of this program have started. Where this process has children
    /// already, only what is of the child's session is taken for the child's.
    ///
    /// Linux only: elsewhere it is the group all the same.
    #[must_use]
    pub fn answer_for_descendants(mut self) -> Self {
        self.reach = Reach::of_subreaper();
        self
    }

    /// Adds the monitor to `reactor`, which starts `command` as soon as the observers grant it.
    ///
    /// Never waits: whether the child was started comes to the observers, and to
    /// [`Monitor::end`] if it was not.
    ///
    /// On Linux the child is killed when the thread that runs the reactor ends
    /// (`PR_SET_PDEATHSIG`, prctl(2)).
    pub fn spawn(self, reactor: &mut Reactor<Monitor>, command: Command) -> HandlerId {
        self.add(reactor, Launch::Spawn(command))
    }

    /// Adds the monitor to `reactor`, which takes over a child that the host has started.
    ///
    /// From here on vmon relays, reaps and records: the host neither waits for the child nor reads
    /// its streams. If the name turns out to be another live supervisor's, the monitor ends with
    /// [`StartError::Taken`], closes `io` and leaves the child to the host.
    ///
    /// # Errors
    ///
    /// `pid` is not a child of this process.
    pub fn start(
        self,
        reactor: &mut Reactor<Monitor>,
        pid: u32,
        io: ChildIo,
    ) -> Result<HandlerId, StartError> {
        let child = Child::adopt(pid)
            .map_err(|error| StartError::Monitor(format!("pid {pid}: {error}")))?;
        Ok(self.add(reactor, Launch::Adopt(child, io)))
    }

    fn add(self, reactor: &mut Reactor<Monitor>, launch: Launch) -> HandlerId {
        reactor.add(Monitor {
            sandbox: self.sandbox,
            reports: self.reports,
            reach: self.reach,
            supervisor: Identity::current(),
            asked: Utc::now(),
            state: State::Starting { launch, give_up: Instant::now() + CLAIM_TIMEOUT },
            child: None,
            again: None,
            restarts: 0,
            moved: None,
            channels: Channels::default(),
            #[cfg(feature = "consoles")]
            given_consoles: self.given_consoles,
            post_rotate: None,
            services: self.services,
            services_open: 0,
            untold: VecDeque::new(),
        })
    }
}

/// The signals that a monitor understands: requests to stop (TERM, INT, QUIT and HUP), USR1, at
/// which it closes the log and opens it by its name, the terminal's WINCH, TSTP and CONT, and XFSZ,
/// which would end the process where the log meets a file size limit. INT, QUIT, HUP and TSTP are left out where this process ignores them, as under
/// `nohup` and in a shell's background.
///
/// For [`Reactor::watch_signals`], in a program that is a command.
pub fn command_signals() -> Vec<Signal> {
    let always = [Signal::TERM, Signal::USR1, Signal::WINCH, Signal::CONT, Signal::XFSZ];
    let unless_ignored = [Signal::INT, Signal::QUIT, Signal::HUP, Signal::TSTP];
    let heeded = unless_ignored.into_iter().filter(|&signal| !crate::child::is_ignored(signal));
    always.into_iter().chain(heeded).collect()
}

impl Handler for Monitor {
    type Source = SourceKey;
    type Timer = TimerKey;

    fn start(&mut self, cx: &mut Cx<'_>) {
        let checked = check::check(
            &self.sandbox,
            #[cfg(feature = "consoles")]
            &self.given_consoles,
        );
        if let Err(error) = checked {
            return self.not_started(error, cx);
        }
        self.claim(cx);
        self.channels.follow_deadline(cx);
    }

    fn ready(&mut self, SourceKey(source): SourceKey, ready: Ready, cx: &mut Cx<'_>) {
        match source {
            Source::Exit => self.look_for_exit(cx),
            Source::Service { service, key } => {
                self.with_service(service, cx, |service, desk| service.ready(key, ready, desk));
            }
            Source::Output(output) => self.read_output(output, cx),
            Source::Sink(output) => {
                self.channels.sink_ready(output, cx);
                self.output_moved(false, cx);
            }
            Source::HostInput => {
                self.channels.read_host(cx);
                self.note_moved();
            }
            Source::Input(channel) => self.channels.input_ready(channel, cx),
            #[cfg(feature = "consoles")]
            Source::Listener(channel) => self.channels.connect(channel, cx),
            Source::PostRotate => self.look_at_rotation(cx),
            Source::ClientInput(client) => {
                if let Some(bytes) = self.channels.read_client(client, cx) {
                    self.send(client, &bytes, cx);
                }
            }
            Source::ClientOutput(client) => self.channels.flush_client(client, cx),
        }
        self.channels.follow_deadline(cx);
    }

    fn timer(&mut self, TimerKey(timer): TimerKey, cx: &mut Cx<'_>) {
        match timer {
            Timer::Claim => self.claim(cx),
            Timer::Observer(index) => {
                self.reports.retry(index, &mut cx.timers, |index| Timer::Observer(index).key());
            }
            Timer::LogRetry => {
                self.channels.retry_logs(cx);
                self.output_moved(false, cx);
            }
            Timer::LogTurn => {
                self.channels.log_turn();
                // It may have rotated a log.
                self.hand_on(cx);
            }
            Timer::Exit => self.look_for_exit(cx),
            Timer::Kill => self.kill("the stop timeout has passed", cx),
            Timer::Quiet => self.quiet(cx),
            Timer::DrainLimit => self.drain_limit(cx),
            Timer::Leftovers => self.look_at_remains(cx),
            #[cfg(feature = "consoles")]
            Timer::Connect(channel) => self.channels.connect(channel, cx),
            Timer::Restart => self.start_again(cx),
            Timer::MaxDuration => self.stopping(Cause::MaxDuration, None, cx),
            Timer::Idle => self.look_for_idleness(cx),
            Timer::PostRotate => self.look_at_rotation(cx),
            Timer::Attachments => self.channels.close_attachments(cx),
            Timer::Service { service, key } => {
                self.with_service(service, cx, |service, desk| service.timer(key, desk));
            }
            Timer::ReadOutput(output) => self.read_output(output, cx),
            Timer::TrimPipe(output) => self.channels.trim(output, cx),
        }
        self.channels.follow_deadline(cx);
    }

    fn signal(&mut self, signal: i32, cx: &mut Cx<'_>) {
        match Signal::from_number(signal) {
            Some(Signal::TERM | Signal::INT | Signal::QUIT) => {
                self.stop_requested(Request::Urgent, cx);
            }
            Some(Signal::HUP) => self.stop_requested(Request::Once, cx),
            Some(Signal::USR1) => {
                // What does not run opens it anew anyway.
                if let Err(RequestError::System(error)) = self.reopen_log() {
                    warn!("{error}");
                }
            }
            Some(Signal::CHLD) => {
                self.reap_left_of_rotations();
                self.orphan_ended(cx);
            }
            Some(Signal::WINCH) => self.channels.host_resized(),
            Some(Signal::TSTP) => self.channels.leave_terminal(),
            Some(Signal::CONT) => self.channels.enter_terminal(),
            _ => {}
        }
        self.channels.follow_deadline(cx);
    }

    fn after_signal(signal: i32) {
        terminal::suspend_after(signal);
    }

    fn is_done(&self) -> bool {
        matches!(self.state, State::Stopped(_))
            && self.reports.are_done()
            && !self.channels.has_attachments()
            && self.services_are_done()
    }
}

impl fmt::Debug for Monitor {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let state = self.phase().as_str();
        f.debug_struct("Monitor").field("name", &self.sandbox.name).field("state", &state).finish()
    }
}
