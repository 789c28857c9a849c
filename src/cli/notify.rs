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

/// The one timer.
const WATCHDOG: u32 = 0;

/// Tells the manager how the run goes on.
pub struct Notifier {
    socket: UnixDatagram,
    manager: SocketAddr,
    /// How often the manager wants to hear that the loop turns.
    watchdog: Option<Duration>,
    ready: bool,
}

impl Notifier {
    /// `None` where no manager waits for word; one that can't be reached is a warning.
    pub fn from_environment() -> Option<Self> {
        let name = std::env::var_os(SOCKET).filter(|name| !name.is_empty())?;
        let notifier = address(&name).and_then(|manager| {
            let socket = UnixDatagram::unbound()?;
            socket.set_nonblocking(true)?;
            Ok(Self { socket, manager, watchdog: watchdog(), ready: false })
        });
        notifier.inspect_err(|error| warn!("can't use the socket ${SOCKET} {name:?}: {error}")).ok()
    }

    fn tell(&self, lines: &str) {
        if let Err(error) = self.socket.send_to_addr(lines.as_bytes(), &self.manager) {
            warn!("can't tell the service manager: {}", reason(&error));
        }
    }

    /// The manager is told each `READY=1` once, and which process to watch: us, who take its
    /// signals and tell the exit code.
    fn running(&mut self, pid: u32) {
        let status = format!("STATUS=running, pid {pid}\n");
        if std::mem::replace(&mut self.ready, true) {
            return self.tell(&status);
        }
        self.tell(&format!("READY=1\nMAINPID={}\n{status}", std::process::id()));
    }
}

impl Service for Notifier {
    fn open(&mut self, desk: &mut Desk<'_, '_>) -> Result<(), Box<dyn Error + Send + Sync>> {
        self.timer(WATCHDOG, desk);
        Ok(())
    }

    fn ready(&mut self, _: u32, _: Ready, _: &mut Desk<'_, '_>) {}

    fn timer(&mut self, _: u32, desk: &mut Desk<'_, '_>) {
        if let Some(interval) = self.watchdog {
            self.tell("WATCHDOG=1\n");
            desk.set_timer(interval, WATCHDOG);
        }
    }

    fn transition(&mut self, transition: &Transition, _: &mut Desk<'_, '_>) {
        match transition {
            Transition::Running { child, .. } => self.running(child.pid),
            Transition::Stopping { .. } => self.tell("STOPPING=1\nSTATUS=stopping\n"),
            Transition::Draining { .. } => self.tell("STATUS=reading the rest of the output\n"),
            Transition::Restarting { end, after, .. } => {
                let how = end.reason();
                self.tell(&format!("STATUS={how}; to be started again in {after:?}\n"));
            }
            Transition::Stopped { end, .. } => {
                let (how, code) = (end.reason(), end.exit_code());
                self.tell(&format!("STOPPING=1\nSTATUS={how}, exit code {code}\n"));
            }
            _ => {}
        }
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
