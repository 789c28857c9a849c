//! The pause between two looks of a command that follows: it ends early when nobody wants more.

use std::io;
use std::os::fd::AsFd;
use std::os::unix::net::UnixStream;
use std::time::{Duration, Instant};

use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use signal_hook::consts::{SIGHUP, SIGINT, SIGTERM};
use signal_hook::low_level::pipe;

/// Watches for INT, TERM and HUP, and for the end of our stdout's reader.
#[derive(Debug)]
pub struct Pause {
    signals: UnixStream,
}

/// What comes after a pause.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Next {
    /// Another look.
    Look,
    /// The end.
    Leave,
}

impl Pause {
    /// From now on those signals end a pause, and nothing else.
    pub fn new() -> io::Result<Self> {
        let (signals, written) = UnixStream::pair()?;
        for signal in [SIGINT, SIGTERM, SIGHUP] {
            pipe::register(signal, written.try_clone()?)?;
        }
        Ok(Self { signals })
    }

    /// Waits; says whether to go on.
    pub fn wait(&self, time: Duration) -> Next {
        let over = Instant::now() + time;
        let stdout = io::stdout();
        loop {
            let left = over.saturating_duration_since(Instant::now());
            // Rounded up, so as not to turn idly in the last millisecond.
            let timeout = PollTimeout::try_from(left.as_millis() + 1).unwrap_or(PollTimeout::MAX);
            let mut watched = [
                PollFd::new(self.signals.as_fd(), PollFlags::POLLIN),
                // Asked for nothing, poll(2) still tells that the reader is gone.
                PollFd::new(stdout.as_fd(), PollFlags::empty()),
            ];
            match poll(&mut watched, timeout) {
                Ok(0) => return Next::Look,
                // POLLNVAL: macOS has it for a device. It is no end.
                Ok(_) if watched.iter().any(tells) => return Next::Leave,
                Ok(_) if left.is_zero() => return Next::Look,
                Ok(_) => std::thread::sleep(left),
                Err(Errno::EINTR) if !left.is_zero() => {}
                Err(_) => return Next::Look,
            }
        }
    }
}

fn tells(fd: &PollFd<'_>) -> bool {
    let ends = PollFlags::POLLIN | PollFlags::POLLERR | PollFlags::POLLHUP;
    fd.revents().is_some_and(|events| events.intersects(ends))
}
