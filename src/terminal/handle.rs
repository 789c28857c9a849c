//! One of our standard streams, to be read or written without ever waiting.

use std::io::{self, Read, Write};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};

use nix::errno::Errno;
use nix::fcntl::{FcntlArg, OFlag, fcntl, open};
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::socket::{MsgFlags, recv, send};
use nix::sys::stat::{Mode as Permissions, SFlag, fstat};
use nix::unistd::{isatty, read, write};

use super::platform;

/// What a handle is for. A pipe opened for both would never end.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Direction {
    /// To be read.
    Read,
    /// To be written.
    Write,
}

/// How a handle avoids waiting.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Mode {
    /// An open file description of our own, non-blocking; or a file that never blocks.
    Private,
    /// A shared socket: each call says so itself (recv(2), `MSG_DONTWAIT`).
    Socket,
    /// A shared description that can't be reopened: asked before each call, and given no more
    /// than the answer guarantees.
    Guarded { chunk: usize },
}

/// A pipe that is ready for writing takes this many bytes without blocking (pipe(7)).
const PIPE_CHUNK: usize = libc::PIPE_BUF;

/// A terminal that is ready for writing takes one byte at least, and no more for sure: a blocking
/// write waits until all of it has been taken (Linux: `n_tty_write`).
const TERMINAL_CHUNK: usize = 1;

/// A private handle on one of our standard streams, which never waits and never changes what others
/// have of that stream: reads and writes answer `WouldBlock`.
#[derive(Debug)]
pub struct Handle {
    fd: OwnedFd,
    mode: Mode,
    terminal: bool,
}

impl Handle {
    /// `None` when the stream is closed, or was not opened for writing and is to be written. What
    /// is to be read and can't be, or has ended already, is read as `/dev/null`.
    ///
    /// # Errors
    ///
    /// `EMFILE` and the like: no descriptor was to be had.
    pub fn open(stream: BorrowedFd<'_>, direction: Direction) -> io::Result<Option<Self>> {
        let kind = match fstat(stream) {
            Ok(stat) => SFlag::from_bits_truncate(stat.st_mode) & SFlag::S_IFMT,
            Err(Errno::EBADF) => return Ok(None),
            Err(error) => return Err(error.into()),
        };
        // Reopening would go round the mode: `>&0` would write into our own input.
        if !is_open_for(stream, direction)? {
            return match direction {
                Direction::Read => Self::at_end().map(Some),
                Direction::Write => Ok(None),
            };
        }
        let terminal = isatty(stream).unwrap_or(false);
        let reopened = match kind {
            // Its offset would start anew; and it never blocks.
            SFlag::S_IFREG | SFlag::S_IFBLK | SFlag::S_IFDIR => {
                return Ok(Some(Self {
                    fd: stream.try_clone_to_owned()?,
                    mode: Mode::Private,
                    terminal,
                }));
            }
            SFlag::S_IFSOCK => {
                return Ok(Some(Self {
                    fd: stream.try_clone_to_owned()?,
                    mode: Mode::Socket,
                    terminal,
                }));
            }
            _ if terminal => platform::reopen_terminal(stream, direction),
            _ => platform::reopen(stream, direction),
        };
        if kind == SFlag::S_IFIFO && direction == Direction::Read && has_ended(stream) {
            return Self::at_end().map(Some);
        }
        // Refused for whatever reason: the shared description will do, with more care.
        let handle = match reopened {
            Ok(fd) => Self { fd, mode: Mode::Private, terminal },
            Err(_) => {
                let chunk = if kind == SFlag::S_IFIFO { PIPE_CHUNK } else { TERMINAL_CHUNK };
                Self { fd: stream.try_clone_to_owned()?, mode: Mode::Guarded { chunk }, terminal }
            }
        };
        Ok(Some(handle))
    }

    fn at_end() -> io::Result<Self> {
        let flags = OFlag::O_RDONLY | OFlag::O_CLOEXEC;
        let fd = open("/dev/null", flags, Permissions::empty())?;
        Ok(Self { fd, mode: Mode::Private, terminal: false })
    }

    /// Whether the stream is a terminal.
    pub fn is_terminal(&self) -> bool {
        self.terminal
    }

    /// Writes as much as is taken at once.
    ///
    /// # Errors
    ///
    /// `WouldBlock` when nothing is, else write(2)'s; `BrokenPipe` without a signal, provided that
    /// the process ignores `SIGPIPE`, as Rust programs do.
    pub(crate) fn offer(&self, bytes: &[u8]) -> io::Result<usize> {
        loop {
            let result = match self.mode {
                Mode::Private => write(&self.fd, bytes),
                Mode::Socket => send(self.fd.as_raw_fd(), bytes, platform::SEND_FLAGS),
                Mode::Guarded { chunk } => {
                    self.ask(PollFlags::POLLOUT)?;
                    write(&self.fd, bytes.get(..chunk).unwrap_or(bytes))
                }
            };
            match result {
                Err(Errno::EINTR) => {}
                result => return Ok(result?),
            }
        }
    }

    /// Whether the shared description is ready, without waiting.
    fn ask(&self, flags: PollFlags) -> io::Result<()> {
        let mut fds = [PollFd::new(self.fd.as_fd(), flags)];
        match poll(&mut fds, PollTimeout::ZERO)? {
            0 => Err(io::ErrorKind::WouldBlock.into()),
            _ => Ok(()),
        }
    }
}

fn is_open_for(stream: BorrowedFd<'_>, direction: Direction) -> io::Result<bool> {
    let flags = OFlag::from_bits_retain(fcntl(stream, FcntlArg::F_GETFL)?);
    let access = flags & OFlag::O_ACCMODE;
    Ok(access == OFlag::O_RDWR
        || match direction {
            Direction::Read => access == OFlag::O_RDONLY,
            Direction::Write => access == OFlag::O_WRONLY,
        })
}

/// Whether a FIFO is empty and its writers are gone. Only a description that has seen them is told
/// so by poll(2); one that is opened afterwards would wait for the next (Linux: `fifo_open`).
fn has_ended(fifo: BorrowedFd<'_>) -> bool {
    let mut fds = [PollFd::new(fifo, PollFlags::POLLIN)];
    let told = poll(&mut fds, PollTimeout::ZERO).is_ok_and(|ready| ready > 0);
    told && fds.iter().filter_map(PollFd::revents).all(|events| events == PollFlags::POLLHUP)
}

impl Read for Handle {
    /// Reads what is there, or answers `WouldBlock`.
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        loop {
            let result = match self.mode {
                Mode::Private => read(&self.fd, buffer),
                Mode::Socket => recv(self.fd.as_raw_fd(), buffer, MsgFlags::MSG_DONTWAIT),
                Mode::Guarded { .. } => {
                    self.ask(PollFlags::POLLIN)?;
                    read(&self.fd, buffer)
                }
            };
            match result {
                Err(Errno::EINTR) => {}
                result => return Ok(result?),
            }
        }
    }
}

impl Write for Handle {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.offer(bytes)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl AsFd for Handle {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }
}
