//! Preparing a monitor: what observes and serves it, what it logs to, and the child that it is given.

use std::fmt;
#[cfg(feature = "consoles")]
use std::os::fd::OwnedFd;

use chrono::Utc;
use tracing::{Span, error_span};

use super::channels::Channels;
#[cfg(feature = "consoles")]
use super::console_channels::GivenConsoles;
use super::drain::Drain;
use super::lifecycle::{Launch, Lifecycle};
#[cfg(feature = "consoles")]
use super::name::Name;
use super::observer::{Observer, Observers};
use super::output::{Output, OutputCallback};
use super::parts::{CurrentRun, Parts, Reported};
use super::sandbox::{DEFAULT_CONFIG_FILE, Sandbox};
use super::service::{Service, Services};
use super::transition::AdoptError;
use super::{Monitor, SandboxId};
use crate::child::{Child, ChildIo, Command, Counted, Identity, KillScope};
use crate::reactor::Reactor;
use crate::relay::{Drivers, LogDriver};

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
            output: None,
            #[cfg(feature = "consoles")]
            given_consoles: GivenConsoles::default(),
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
    output: Option<Box<OutputCallback>>,
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
    /// missed it is [unknown](crate::child::ExitStatus::Unknown).
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
    /// any, it is not logged. No directory is made then and no log claimed,
    /// [`Report::log`](super::Report::log) is `None`, and an attached client gets no tail. Consoles
    /// keep logs of their own.
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

    /// Gives each piece of output to the host: that of the child's own stdio and of the consoles, in
    /// this and every further run. It replaces an earlier callback.
    ///
    /// A byte is given once the log has taken it, exactly once, and each stream in its order; of two
    /// streams, in the order in which they were read. What the log never gets, since a stop gave it
    /// up on a full disk, is not given; what it [leaves out](super::OnLogError::Drop) is. All of a
    /// run is given before its end is reported. [Without a log](Sandbox::log_off), or without [log
    /// drivers](Self::log_drivers), it is given when it has been read.
    ///
    /// It is called on the thread that runs the reactor and must not block, as it delays every
    /// sandbox there. A [panic](super::PanicError) in it ends the sandbox as one of an observer does:
    /// it is never called again, and the child is stopped.
    ///
    /// ```
    /// use vmon::child::Command;
    /// use vmon::monitor::{Monitor, Output, Sandbox};
    /// use vmon::reactor::Reactor;
    ///
    /// # fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// let (lines, received) = std::sync::mpsc::channel();
    /// let mut reactor = Reactor::new()?;
    /// Monitor::builder(Sandbox::new("web", "/var/lib/host/log")?.log_off(true))
    ///     .output(move |Output { stream, bytes, .. }| {
    ///         let _ = lines.send((stream, bytes.to_vec()));
    ///     })
    ///     .spawn(&mut reactor, Command::new("echo").arg("hello"));
    /// reactor.run()?;
    /// assert_eq!(received.try_recv()?.1, b"hello\n");
    /// # Ok(())
    /// # }
    /// ```
    #[must_use]
    pub fn output(mut self, callback: impl FnMut(Output<'_>) + Send + 'static) -> Self {
        self.output = Some(OutputCallback::new(callback));
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
    /// wait for it without [`host_reaps`](Self::host_reaps). If another live supervisor has the
    /// name, the monitor ends with [`StartError::Taken`](super::StartError::Taken), closes `io` and
    /// leaves the child to the host.
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
        let own_log = self.log_drivers.is_none() && !self.sandbox.log_off;
        let parts = Parts {
            sandbox: self.sandbox,
            supervisor: Identity::current(),
            scope: self.scope,
            _counted: Counted::new(),
            log_claim: None,
            own_log,
            log_drivers: self.log_drivers,
            host_reaps: self.host_reaps,
            drain: self.drain,
            observers: self.observers,
            reported: Reported::default(),
            run: CurrentRun { asked: Utc::now(), restarts: 0, child: None },
            backoff: None,
            channels: Channels::read_by(self.output),
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

impl From<Sandbox> for Builder {
    /// Without observers and services, as [`Monitor::builder`] makes it.
    fn from(sandbox: Sandbox) -> Self {
        Monitor::builder(sandbox)
    }
}

impl fmt::Debug for Builder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Builder").field("sandbox", &self.sandbox).finish_non_exhaustive()
    }
}
