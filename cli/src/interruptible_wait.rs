//! An interruptible wait: it ends early on a signal, or when stdout is closed by its reader.

use std::io;
use std::os::fd::AsFd;
use std::os::unix::net::UnixStream;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use signal_hook::consts::{SIGHUP, SIGINT, SIGTERM};
use signal_hook::flag;
use signal_hook::low_level::pipe;
use vmon::terminal;

/// Watches for SIGINT, SIGTERM and SIGHUP, and for the end of stdout's reader.
#[derive(Debug)]
pub struct InterruptibleWait {
    signals: UnixStream,
    /// Whether a signal ends the process at once.
    blocked: Arc<AtomicBool>,
}

/// How a wait has ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum WaitResult {
    /// The time has passed, or a descriptor is ready.
    Continue,
    /// A signal has arrived, or stdout is closed.
    Quit,
}

impl InterruptibleWait {
    /// Installs the signal handlers. The signals no longer terminate the process.
    pub fn new() -> io::Result<Self> {
        let (signals, written) = UnixStream::pair()?;
        let blocked = Arc::new(AtomicBool::new(false));
        for signal in [SIGINT, SIGTERM, SIGHUP] {
            flag::register_conditional_shutdown(signal, 0, blocked.clone())?;
            pipe::register(signal, written.try_clone()?)?;
        }
        Ok(Self { signals, blocked })
    }

    /// Calls what may wait for a supervisor or for a lock of the record, and writes nothing. A signal
    /// meanwhile ends the process with exit code 0, as between two waits. `None` if it has come
    /// before.
    pub fn while_blocked<R>(&self, call: impl FnOnce() -> R) -> Option<R> {
        self.blocked.store(true, Ordering::SeqCst);
        let result = (!self.is_over()).then(call);
        self.blocked.store(false, Ordering::SeqCst);
        result
    }

    /// Waits for this time.
    pub fn wait(&self, time: Duration) -> WaitResult {
        let over = Instant::now() + time;
        loop {
            let left = over.saturating_duration_since(Instant::now());
            match self.poll(&[], Some(left)) {
                Ok((_, true)) => return WaitResult::Quit,
                Ok((0, _)) => return WaitResult::Continue,
                Ok(_) if left.is_zero() => return WaitResult::Continue,
                // A descriptor is ready without an end condition, and poll(2) would return at once.
                Ok(_) => std::thread::sleep(left),
                Err(Errno::EINTR) if !left.is_zero() => {}
                Err(_) => return WaitResult::Continue,
            }
        }
    }

    /// Waits until one of these is ready, or the time has passed; `None` is no limit.
    pub fn wait_for(&self, fds: &[PollFd<'_>], time: Option<Duration>) -> WaitResult {
        match self.poll(fds, time) {
            Ok((_, true)) => WaitResult::Quit,
            _ => WaitResult::Continue,
        }
    }

    /// Whether a signal has arrived or stdout is closed, without waiting.
    pub fn is_over(&self) -> bool {
        self.poll(&[], Some(Duration::ZERO)).is_ok_and(|(_, over)| over)
    }

    /// The number of ready descriptors, and whether one of this type's own is ready.
    fn poll(&self, fds: &[PollFd<'_>], time: Option<Duration>) -> Result<(i32, bool), Errno> {
        // Rounded up, to avoid a busy loop in the last millisecond.
        let timeout = time.map_or(PollTimeout::NONE, |time| {
            let milliseconds = time.as_millis() + u128::from(!time.is_zero());
            PollTimeout::try_from(milliseconds).unwrap_or(PollTimeout::MAX)
        });
        let mut watched = vec![
            PollFd::new(self.signals.as_fd(), PollFlags::POLLIN),
            // With no events requested, poll(2) still reports a closed reader.
            PollFd::new(terminal::stdout(), PollFlags::empty()),
        ];
        watched.extend_from_slice(fds);
        let ready = poll(&mut watched, timeout)?;
        // macOS reports POLLNVAL for a device, which is not the end.
        Ok((ready, watched.iter().take(2).any(has_ended)))
    }
}

fn has_ended(fd: &PollFd<'_>) -> bool {
    let ends = PollFlags::POLLIN | PollFlags::POLLERR | PollFlags::POLLHUP;
    fd.revents().is_some_and(|events| events.intersects(ends))
}
