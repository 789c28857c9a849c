//! A socket that the child listens at.
//!
//! A path is no proof of who listens there: another VM's socket, or a stale one that a new process
//! has replaced, would give its output to our log and take our input. So the process that listens
//! has to be the child, or to have been started by it, unless any may be.

use std::io;
use std::path::Path;

use super::two_way;
use crate::monitor::channel::backend::Opened;
use crate::relay::Kind;
use crate::socket;

/// The descriptors, if a process listens there now. `child` is the process that must have started
/// it; `None` if any process may listen.
pub(super) fn connect(path: &Path, child: Option<u32>) -> io::Result<Option<Opened>> {
    let stream = match socket::try_dial(path) {
        Ok(stream) => stream,
        Err(error) => match error.kind() {
            // No socket yet; no listener; and, on Linux, a full listen queue.
            io::ErrorKind::NotFound
            | io::ErrorKind::ConnectionRefused
            | io::ErrorKind::WouldBlock => return Ok(None),
            _ => return Err(error),
        },
    };
    if let Some(child) = child {
        platform::check(&stream, child)?;
    }
    two_way(stream.into(), Kind::Socket).map(Some)
}

fn refused(listener: &str) -> io::Error {
    let reason = format!(
        "{listener} listens there, which the command has not started: give another path, or \
         'unix-any' instead of 'unix' to connect to any process"
    );
    io::Error::new(io::ErrorKind::PermissionDenied, reason)
}

#[cfg(target_os = "linux")]
mod platform {
    use std::io;
    use std::os::unix::net::UnixStream;

    use crate::process::table::Entry;
    use crate::socket;

    /// Checks that the process that has called listen(2) is the child, of its session, or a
    /// descendant of those.
    pub(super) fn check(stream: &UnixStream, child: u32) -> io::Result<()> {
        let listener = socket::peer_pid(stream)?;
        let child = i32::try_from(child).map_err(io::Error::other)?;
        // Without the process table for the usual case: the VMM itself.
        if listener == child || Entry::below(child)?.contains(&listener) {
            return Ok(());
        }
        Err(super::refused(&match listener {
            0 => "a process of another pid namespace".to_owned(),
            pid => format!("process {pid}"),
        }))
    }
}

#[cfg(not(target_os = "linux"))]
mod platform {
    use std::io;
    use std::os::unix::net::UnixStream;

    use nix::unistd::geteuid;

    use crate::socket;

    /// Checks that the listener is a process of our own user; which one can't be found out.
    pub(super) fn check(stream: &UnixStream, _: u32) -> io::Result<()> {
        match socket::peer_uid(stream)? == geteuid().as_raw() {
            true => Ok(()),
            false => Err(super::refused("a process of another user")),
        }
    }
}
