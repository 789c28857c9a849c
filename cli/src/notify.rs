//! Notification of the service manager that has started this process, with the protocol of
//! sd_notify(3): datagrams of `KEY=value` lines to the socket in `$NOTIFY_SOCKET`.
//!
//! The command that is run does not inherit these variables.

use std::error::Error;
use std::ffi::OsStr;
use std::io;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::net::{SocketAddr, UnixDatagram};
use std::time::Duration;

use tracing::warn;
use vmon::child::Command;
use vmon::monitor::{Service, ServiceContext, Transition};

use super::reason;

const SOCKET: &str = "NOTIFY_SOCKET";
const WATCHDOG_PID: &str = "WATCHDOG_PID";
const WATCHDOG_USEC: &str = "WATCHDOG_USEC";

/// Timer keys.
const WATCHDOG: u32 = 0;
const RESEND: u32 = 1;

/// Time after which a message is sent again that found the manager's socket full.
pub const RETRY: Duration = Duration::from_millis(100);

/// The service manager that has started this process.
pub struct Manager {
    socket: UnixDatagram,
    address: SocketAddr,
    /// Interval of watchdog messages, half of the manager's timeout.
    watchdog: Option<Duration>,
}

/// Reports the state of the run to the service manager.
pub struct Notifier {
    manager: Manager,
    ready: Readiness,
    /// A message that found the socket full. The manager waits for `READY=1` and stops the service
    /// if that never arrives.
    unsent: Option<String>,
}

/// Whether `READY=1` has been sent.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Readiness {
    NotYet,
    Pending,
    Reported,
}

impl Manager {
    /// `None` without a service manager. Prints a warning if its socket can't be used.
    pub fn from_environment() -> Option<Self> {
        let name = std::env::var_os(SOCKET).filter(|name| !name.is_empty())?;
        let manager = address(&name).and_then(|address| {
            let socket = UnixDatagram::unbound()?;
            socket.set_nonblocking(true)?;
            Ok(Self { socket, address, watchdog: watchdog() })
        });
        manager.inspect_err(|error| warn!("can't use the socket ${SOCKET} {name:?}: {error}")).ok()
    }

    /// Interval of watchdog messages.
    pub fn watchdog(&self) -> Option<Duration> {
        self.watchdog
    }

    fn send(&self, lines: &str) -> io::Result<()> {
        self.socket.send_to_addr(lines.as_bytes(), &self.address).map(drop)
    }

    /// Sends lines. Returns false if the socket is full.
    pub fn report(&self, lines: &str) -> bool {
        match self.send(lines) {
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => return false,
            Err(error) => warn!("can't notify the service manager: {}", reason(&error)),
            Ok(()) => {}
        }
        true
    }
}

impl Notifier {
    /// `None` without a service manager.
    pub fn from_environment() -> Option<Self> {
        let manager = Manager::from_environment()?;
        Some(Self { manager, ready: Readiness::NotYet, unsent: None })
    }

    /// Sends lines, preceded once by `READY=1` with this process as the main one: it receives the
    /// manager's signals and returns the exit code. A new message replaces an unsent one.
    fn notify(&mut self, lines: String, desk: &mut ServiceContext<'_, '_>) {
        let ready = match self.ready {
            Readiness::Pending => format!("READY=1\nMAINPID={}\n", std::process::id()),
            Readiness::NotYet | Readiness::Reported => String::new(),
        };
        match self.manager.send(&(ready + &lines)) {
            Ok(()) => {
                self.unsent = None;
                if self.ready == Readiness::Pending {
                    self.ready = Readiness::Reported;
                }
            }
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                if self.unsent.replace(lines).is_none() {
                    desk.set_timer(RETRY, RESEND);
                }
            }
            Err(error) => warn!("can't notify the service manager: {}", reason(&error)),
        }
    }

    fn running(&mut self, pid: u32, desk: &mut ServiceContext<'_, '_>) {
        if self.ready == Readiness::NotYet {
            self.ready = Readiness::Pending;
        }
        self.notify(format!("STATUS=running, pid {pid}\n"), desk);
    }
}

impl Service for Notifier {
    fn open(
        &mut self,
        desk: &mut ServiceContext<'_, '_>,
    ) -> Result<(), Box<dyn Error + Send + Sync>> {
        self.timer(WATCHDOG, desk);
        Ok(())
    }

    fn timer(&mut self, key: u32, desk: &mut ServiceContext<'_, '_>) {
        if key == RESEND {
            if let Some(lines) = self.unsent.take() {
                self.notify(lines, desk);
            }
        } else if let Some(interval) = self.manager.watchdog {
            // If the socket is full the message is dropped: the next one is in time.
            self.manager.report("WATCHDOG=1\n");
            desk.set_timer(interval, WATCHDOG);
        }
    }

    fn transition(&mut self, transition: &Transition, desk: &mut ServiceContext<'_, '_>) {
        let lines = match transition {
            Transition::Running { child, .. } => return self.running(child.pid, desk),
            Transition::Stopping { .. } => "STOPPING=1\nSTATUS=stopping\n".to_owned(),
            Transition::Draining { .. } => "STATUS=reading the rest of the output\n".to_owned(),
            Transition::Restarting { end, after, .. } => {
                format!("STATUS={}; to be started again in {after:?}\n", end.reason())
            }
            Transition::Stopped { end, .. } => {
                let (how, code) = (end.reason(), end.exit_code());
                format!("STOPPING=1\nSTATUS={how}, exit code {code}\n")
            }
            _ => return,
        };
        self.notify(lines, desk);
    }
}

/// Removes the manager's variables from the environment of `command`. With `NotifyAccess=all`
/// (systemd.exec(5)) the manager would accept its messages as those of this process.
pub fn hide(command: Command) -> Command {
    [SOCKET, WATCHDOG_PID, WATCHDOG_USEC].into_iter().fold(command, Command::env_remove)
}

/// Half of the manager's watchdog timeout, as sd_watchdog_enabled(3) recommends. `None` without a
/// watchdog, or if it is for another process.
fn watchdog() -> Option<Duration> {
    let number = |name| std::env::var(name).ok()?.parse::<u64>().ok();
    if std::env::var_os(WATCHDOG_PID).is_some()
        && number(WATCHDOG_PID) != Some(u64::from(std::process::id()))
    {
        return None;
    }
    let interval = Duration::from_micros(number(WATCHDOG_USEC)? / 2);
    (!interval.is_zero()).then_some(interval)
}

/// Parses the address: a path, or `@` and a name in the abstract namespace.
fn address(name: &OsStr) -> io::Result<SocketAddr> {
    match name.as_bytes() {
        [b'@', name @ ..] => abstract_address(name),
        [b'/', ..] => SocketAddr::from_pathname(name),
        _ => Err(io::Error::new(io::ErrorKind::Unsupported, "neither a path nor @NAME")),
    }
}

#[cfg(any(target_os = "linux", target_os = "android"))]
fn abstract_address(name: &[u8]) -> io::Result<SocketAddr> {
    use std::os::linux::net::SocketAddrExt;
    SocketAddr::from_abstract_name(name)
}

#[cfg(not(any(target_os = "linux", target_os = "android")))]
fn abstract_address(_: &[u8]) -> io::Result<SocketAddr> {
    Err(io::Error::new(io::ErrorKind::Unsupported, "this system has no abstract sockets"))
}
