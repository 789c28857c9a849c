//! Word to the service manager that has started us, as sd_notify(3) describes it: a datagram of
//! lines `KEY=value` to the socket in `$NOTIFY_SOCKET`.
//!
//! The command that we run is not the manager's business: it gets none of these variables.

use std::error::Error;
use std::ffi::OsStr;
use std::io;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::net::{SocketAddr, UnixDatagram};
use std::time::Duration;

use tracing::warn;
use vmon::child::Command;
use vmon::monitor::{Desk, Service, Transition};
use vmon::reactor::Ready;

use super::reason;

const SOCKET: &str = "NOTIFY_SOCKET";
const WATCHDOG_PID: &str = "WATCHDOG_PID";
const WATCHDOG_USEC: &str = "WATCHDOG_USEC";

/// The timers.
const WATCHDOG: u32 = 0;
const LATE: u32 = 1;

/// After what time a manager whose socket was full is told again.
const RETRY: Duration = Duration::from_millis(100);

/// Tells the manager how the run goes on.
pub struct Notifier {
    socket: UnixDatagram,
    manager: SocketAddr,
    /// How often the manager wants to hear that the loop turns.
    watchdog: Option<Duration>,
    ready: Readiness,
    /// What found the manager's socket full: it would wait for `READY=1` and then give us up.
    late: Option<String>,
}

/// Whether the command runs, and whether the manager knows.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Readiness {
    NotYet,
    Untold,
    Told,
}

impl Notifier {
    /// `None` where no manager waits for word; one that can't be reached is a warning.
    pub fn from_environment() -> Option<Self> {
        let name = std::env::var_os(SOCKET).filter(|name| !name.is_empty())?;
        let notifier = address(&name).and_then(|manager| {
            let socket = UnixDatagram::unbound()?;
            socket.set_nonblocking(true)?;
            Ok(Self { socket, manager, watchdog: watchdog(), ready: Readiness::NotYet, late: None })
        });
        notifier.inspect_err(|error| warn!("can't use the socket ${SOCKET} {name:?}: {error}")).ok()
    }

    /// The manager is told `READY=1` once, with which process to watch: us, who take its signals
    /// and tell the exit code. A newer status takes the place of one that is late.
    fn tell(&mut self, lines: String, desk: &mut Desk<'_, '_>) {
        let ready = match self.ready {
            Readiness::Untold => format!("READY=1\nMAINPID={}\n", std::process::id()),
            Readiness::NotYet | Readiness::Told => String::new(),
        };
        match self.send(&(ready + &lines)) {
            Ok(()) => {
                self.late = None;
                if self.ready == Readiness::Untold {
                    self.ready = Readiness::Told;
                }
            }
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                if self.late.replace(lines).is_none() {
                    desk.set_timer(RETRY, LATE);
                }
            }
            Err(error) => warn!("can't tell the service manager: {}", reason(&error)),
        }
    }

    fn send(&self, lines: &str) -> io::Result<()> {
        self.socket.send_to_addr(lines.as_bytes(), &self.manager).map(drop)
    }

    fn running(&mut self, pid: u32, desk: &mut Desk<'_, '_>) {
        if self.ready == Readiness::NotYet {
            self.ready = Readiness::Untold;
        }
        self.tell(format!("STATUS=running, pid {pid}\n"), desk);
    }

    /// One that finds the socket full is not told again: the next one comes in time.
    fn alive(&self) {
        match self.send("WATCHDOG=1\n") {
            Err(error) if error.kind() != io::ErrorKind::WouldBlock => {
                warn!("can't tell the service manager: {}", reason(&error));
            }
            _ => {}
        }
    }
}

impl Service for Notifier {
    fn open(&mut self, desk: &mut Desk<'_, '_>) -> Result<(), Box<dyn Error + Send + Sync>> {
        self.timer(WATCHDOG, desk);
        Ok(())
    }

    fn ready(&mut self, _: u32, _: Ready, _: &mut Desk<'_, '_>) {}

    fn timer(&mut self, key: u32, desk: &mut Desk<'_, '_>) {
        if key == LATE {
            if let Some(lines) = self.late.take() {
                self.tell(lines, desk);
            }
        } else if let Some(interval) = self.watchdog {
            self.alive();
            desk.set_timer(interval, WATCHDOG);
        }
    }

    fn transition(&mut self, transition: &Transition, desk: &mut Desk<'_, '_>) {
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
        self.tell(lines, desk);
    }

    fn is_done(&self) -> bool {
        true
    }
}

/// `command` without the manager's variables: what it would say in our name would be believed
/// (systemd.exec(5), `NotifyAccess=all`), and its watchdog is ours.
pub fn hide(command: Command) -> Command {
    [SOCKET, WATCHDOG_PID, WATCHDOG_USEC].into_iter().fold(command, Command::env_remove)
}

/// Half of what the manager waits for, as sd_watchdog_enabled(3) recommends; `None` where it does
/// not, or waits for another process.
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

/// A path, or a name in the abstract namespace after an `@`.
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
