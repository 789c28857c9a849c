//! Linux: a file is reopened with a new file description through `/proc/self/fd`.

use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};

use nix::errno::Errno;
use nix::fcntl::{OFlag, open};
use nix::sys::socket::MsgFlags;
use nix::sys::stat::Mode;

use super::handle::Direction;

pub(crate) const SEND_FLAGS: MsgFlags = MsgFlags::MSG_DONTWAIT.union(MsgFlags::MSG_NOSIGNAL);

/// Opens a new file description of the same pipe, FIFO or device.
pub(super) fn reopen(stream: BorrowedFd<'_>, direction: Direction) -> io::Result<OwnedFd> {
    let path = format!("/proc/self/fd/{}", stream.as_raw_fd());
    Ok(open(path.as_str(), flags(direction), Mode::empty())?)
}

/// Opens a new file description of the same terminal, through `/proc`. A terminal of another user,
/// as after su(1), is opened as `/dev/tty`, which needs no permissions.
///
/// Fails for a PTY master, because opening one creates a new PTY.
pub(super) fn reopen_terminal(stream: BorrowedFd<'_>, direction: Direction) -> io::Result<OwnedFd> {
    if is_pty_master(stream) {
        return Err(Errno::EINVAL.into());
    }
    reopen(stream, direction).or_else(|refused| {
        let controlling = open("/dev/tty", flags(direction), Mode::empty())?;
        match (device(stream), device(controlling.as_fd())) {
            (Some(ours), Some(controlling_device)) if ours == controlling_device => Ok(controlling),
            _ => Err(refused),
        }
    })
}

fn flags(direction: Direction) -> OFlag {
    let access = match direction {
        Direction::Read => OFlag::O_RDONLY,
        Direction::Write => OFlag::O_WRONLY,
    };
    access | OFlag::O_NONBLOCK | OFlag::O_NOCTTY | OFlag::O_CLOEXEC
}

/// Whether this is the master of a PTY.
pub(crate) fn is_pty_master(stream: BorrowedFd<'_>) -> bool {
    let mut number: libc::c_uint = 0;
    // SAFETY: TIOCGPTN writes one unsigned int to the pointer; it fails on all but a PTY master.
    unsafe { libc::ioctl(stream.as_raw_fd(), libc::TIOCGPTN, &mut number) == 0 }
}

/// The device number of the terminal, also if it was opened as `/dev/tty`.
fn device(terminal: BorrowedFd<'_>) -> Option<libc::c_uint> {
    let mut number: libc::c_uint = 0;
    // SAFETY: TIOCGDEV writes one unsigned int to the pointer.
    let result = unsafe { libc::ioctl(terminal.as_raw_fd(), libc::TIOCGDEV, &mut number) };
    (result == 0).then_some(number)
}
