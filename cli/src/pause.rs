//! The pause between two looks of a command that follows: it ends early when nobody wants more.

use std::io;
use std::os::fd::AsFd;
use std::os::unix::net::UnixStream;
use std::time::{Duration, Instant};

use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use signal_hook::consts::{SIGHUP, SIGINT, SIGTERM};
use signal_hook::low_level::pipe;
use vmon::terminal;

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
        loop {
            let left = over.saturating_duration_since(Instant::now());
            match self.poll(&[], Some(left)) {
                Ok((_, true)) => return Next::Leave,
                Ok((0, _)) => return Next::Look,
                Ok(_) if left.is_zero() => return Next::Look,
                // A descriptor that tells of nothing all the time.
                Ok(_) => std::thread::sleep(left),
                Err(Errno::EINTR) if !left.is_zero() => {}
                Err(_) => return Next::Look,
            }
        }
    }

    /// Waits until one of these is ready, or until the time is over; `None` waits for ever. Says
    /// whether to go on.
    pub fn wait_for(&self, fds: &[PollFd<'_>], time: Option<Duration>) -> Next {
        match self.poll(fds, time) {
            Ok((_, true)) => Next::Leave,
            _ => Next::Look,
        }
    }

    /// Whether to go on, without waiting.
    pub fn is_over(&self) -> bool {
        self.poll_for(&[], PollTimeout::ZERO).is_ok_and(|(_, over)| over)
    }

    /// How many descriptors tell something, and whether ours tell the end.
    fn poll(&self, fds: &[PollFd<'_>], time: Option<Duration>) -> Result<(i32, bool), Errno> {
        // Rounded up, so as not to turn idly in the last millisecond.
        let timeout = time.map_or(PollTimeout::NONE, |time| {
            PollTimeout::try_from(time.as_millis() + 1).unwrap_or(PollTimeout::MAX)
        });
        self.poll_for(fds, timeout)
    }

    fn poll_for(&self, fds: &[PollFd<'_>], timeout: PollTimeout) -> Result<(i32, bool), Errno> {
        let mut watched = vec![
            PollFd::new(self.signals.as_fd(), PollFlags::POLLIN),
            // Asked for nothing, poll(2) still tells that the reader is gone.
            PollFd::new(terminal::stdout(), PollFlags::empty()),
        ];
        watched.extend_from_slice(fds);
        let ready = poll(&mut watched, timeout)?;
        // POLLNVAL: macOS has it for a device. It is no end.
        Ok((ready, watched.iter().take(2).any(tells)))
    }
}

fn tells(fd: &PollFd<'_>) -> bool {
    let ends = PollFlags::POLLIN | PollFlags::POLLERR | PollFlags::POLLHUP;
    fd.revents().is_some_and(|events| events.intersects(ends))
}
