//! Non-blocking access to one of the standard streams.

use std::io::{self, Read, Write};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};

use nix::errno::Errno;
use nix::fcntl::{FcntlArg, OFlag, fcntl, open};
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::socket::{MsgFlags, recv, send};
use nix::sys::stat::{Mode as Permissions, SFlag, fstat};
use nix::unistd::{isatty, read, write};

use super::platform;

/// The direction of a handle. A reader that also has the pipe open for writing never gets the end
/// of file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Direction {
    /// For reading.
    Read,
    /// For writing.
    Write,
}

/// How a handle avoids blocking.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Mode {
    /// A private open file description with `O_NONBLOCK`, or a file that never blocks.
    Private,
    /// A shared socket: each call has `MSG_DONTWAIT` (recv(2)).
    Socket,
    /// A shared description that can't be reopened: polled before each call, which transfers no
    /// more than readiness guarantees.
    Guarded { chunk: usize },
}

/// A pipe that is ready for writing takes this many bytes without blocking (pipe(7)).
const PIPE_CHUNK: usize = libc::PIPE_BUF;

/// A terminal that is ready for writing is guaranteed to take only one byte: a blocking write
/// returns after all bytes were taken (Linux: `n_tty_write`).
const TERMINAL_CHUNK: usize = 1;

/// A non-blocking handle on one of the standard streams: reads and writes return `WouldBlock`.
/// Other processes that share the stream are not affected.
///
/// ```
/// use std::io::{ErrorKind, Write};
/// use vmon::terminal::{self, Direction, Handle};
///
/// # fn main() -> std::io::Result<()> {
/// if let Some(mut stdout) = Handle::open(terminal::stdout(), Direction::Write)? {
///     match stdout.write(b"ready\n") {
///         Err(error) if error.kind() == ErrorKind::WouldBlock => {} // poll, and try again
///         written => assert!(written? <= 6),
///     }
/// }
/// # Ok(())
/// # }
/// ```
#[derive(Debug)]
pub struct Handle {
    fd: OwnedFd,
    mode: Mode,
    terminal: bool,
}

impl Handle {
    /// Opens a handle; `None` if the stream is closed, or if it is not open for writing and
    /// `direction` is [`Write`](Direction::Write). A stream that can't be read, or has ended, is
    /// read as `/dev/null`.
    ///
    /// # Errors
    ///
    /// No descriptor can be opened, as with `EMFILE`.
    pub fn open(stream: BorrowedFd<'_>, direction: Direction) -> io::Result<Option<Self>> {
        let kind = match fstat(stream) {
            Ok(stat) => SFlag::from_bits_truncate(stat.st_mode) & SFlag::S_IFMT,
            Err(Errno::EBADF) => return Ok(None),
            Err(error) => return Err(error.into()),
        };
        // Reopening would ignore the access mode: with `>&0`, output would go to the input file.
        if !is_open_for(stream, direction)? {
            return match direction {
                Direction::Read => Self::at_end().map(Some),
                Direction::Write => Ok(None),
            };
        }
        let terminal = isatty(stream).unwrap_or(false);
        let reopened = match kind {
            // Never blocks, and a new description would start at offset 0.
            SFlag::S_IFREG | SFlag::S_IFBLK | SFlag::S_IFDIR => {
                return Self::shared(stream, Mode::Private, terminal).map(Some);
            }
            SFlag::S_IFSOCK => return Self::shared(stream, Mode::Socket, terminal).map(Some),
            _ if terminal => platform::reopen_terminal(stream, direction),
            _ => platform::reopen(stream, direction),
        };
        if kind == SFlag::S_IFIFO && direction == Direction::Read && has_ended(stream) {
            return Self::at_end().map(Some);
        }
        match reopened {
            Ok(fd) => Ok(Some(Self { fd, mode: Mode::Private, terminal })),
            // If reopening fails for any reason, the shared description is polled.
            Err(_) => {
                let chunk = if kind == SFlag::S_IFIFO { PIPE_CHUNK } else { TERMINAL_CHUNK };
                Self::shared(stream, Mode::Guarded { chunk }, terminal).map(Some)
            }
        }
    }

    fn shared(stream: BorrowedFd<'_>, mode: Mode, terminal: bool) -> io::Result<Self> {
        Ok(Self { fd: stream.try_clone_to_owned()?, mode, terminal })
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

    /// Writes as many bytes as possible without blocking.
    ///
    /// # Errors
    ///
    /// `WouldBlock` if no byte can be written, else those of write(2). `BrokenPipe` comes without a
    /// signal if the process ignores `SIGPIPE`, as Rust programs do.
    pub(crate) fn offer(&self, bytes: &[u8]) -> io::Result<usize> {
        loop {
            let result = match self.mode {
                Mode::Private => write(&self.fd, bytes),
                Mode::Socket => send(self.fd.as_raw_fd(), bytes, platform::SEND_FLAGS),
                Mode::Guarded { chunk } => {
                    self.poll(PollFlags::POLLOUT)?;
                    write(&self.fd, bytes.get(..chunk).unwrap_or(bytes))
                }
            };
            match result {
                Err(Errno::EINTR) => {}
                result => return Ok(result?),
            }
        }
    }

    /// Polls the shared description; `WouldBlock` if it is not ready.
    fn poll(&self, flags: PollFlags) -> io::Result<()> {
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

/// Whether a FIFO is empty and has no writers. poll(2) reports that only for a description that was
/// open while there was a writer; a new one waits for the next writer (Linux: `fifo_open`).
fn has_ended(fifo: BorrowedFd<'_>) -> bool {
    let mut fds = [PollFd::new(fifo, PollFlags::POLLIN)];
    let is_ready = poll(&mut fds, PollTimeout::ZERO).is_ok_and(|ready| ready > 0);
    is_ready && fds.iter().filter_map(PollFd::revents).all(|events| events == PollFlags::POLLHUP)
}

impl Read for Handle {
    /// Reads available bytes; `WouldBlock` if there are none.
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        loop {
            let result = match self.mode {
                Mode::Private => read(&self.fd, buffer),
                Mode::Socket => recv(self.fd.as_raw_fd(), buffer, MsgFlags::MSG_DONTWAIT),
                Mode::Guarded { .. } => {
                    self.poll(PollFlags::POLLIN)?;
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
