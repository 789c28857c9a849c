//! The failure of a child before execve, and how a child that shares no memory reports it.

use std::os::fd::{AsFd, OwnedFd};
use std::time::{Duration, Instant};

use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::unistd::Pid;
use tracing::warn;

use crate::child::setup::{Failed, Step};

/// The step that failed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Failure {
    Prepare(Errno),
    Cgroup(Errno),
    Directory(Errno),
    Setup(Failed),
    Execute(Errno),
}

/// How long execve is waited for. The user of the child may stop it before that, or have it wait in a
/// file system of its own.
const PATIENCE: Duration = Duration::from_secs(1);

/// A kind, a step of the setup, and an errno.
type Bytes = [u8; 10];

impl Failure {
    fn to_bytes(self) -> Bytes {
        let (kind, step, errno) = match self {
            Self::Prepare(errno) => (0, [0; 5], errno),
            Self::Cgroup(errno) => (1, [0; 5], errno),
            Self::Directory(errno) => (2, [0; 5], errno),
            Self::Execute(errno) => (3, [0; 5], errno),
            Self::Setup((step, errno)) => (4, step.to_bytes(), errno),
        };
        let ([a, b, c, d, e], [f, g, h, i]) = (step, (errno as i32).to_ne_bytes());
        [kind, a, b, c, d, e, f, g, h, i]
    }

    fn from_bytes([kind, a, b, c, d, e, f, g, h, i]: Bytes) -> Option<Self> {
        let errno = Errno::from_raw(i32::from_ne_bytes([f, g, h, i]));
        Some(match kind {
            0 => Self::Prepare(errno),
            1 => Self::Cgroup(errno),
            2 => Self::Directory(errno),
            3 => Self::Execute(errno),
            4 => Self::Setup((Step::from_bytes([a, b, c, d, e])?, errno)),
            _ => return None,
        })
    }
}

/// Reports a failure. In the child.
pub(super) fn send(writer: &OwnedFd, failure: Failure) {
    // A pipe with room for it. Without a reader, the host has ended.
    let _ = nix::unistd::write(writer, &failure.to_bytes());
}

/// The failure that the child has reported; `None` when it has called execve, and also if it has done
/// neither in time. Such a child is monitored as one that runs: a stop ends it.
pub(super) fn wait(reader: &OwnedFd, child: Pid) -> Option<Failure> {
    let give_up = Instant::now() + PATIENCE;
    loop {
        let left = give_up.saturating_duration_since(Instant::now());
        let timeout = PollTimeout::try_from(left).unwrap_or(PollTimeout::ZERO);
        match poll(&mut [PollFd::new(reader.as_fd(), PollFlags::POLLIN)], timeout) {
            Err(Errno::EINTR) => {}
            // At most PIPE_BUF bytes were written at once (pipe(7)).
            Ok(1..) => {
                let mut bytes = Bytes::default();
                let read = nix::unistd::read(reader, &mut bytes).ok()?;
                return Failure::from_bytes(bytes).filter(|_| read == bytes.len());
            }
            Ok(_) | Err(_) => {
                let waited = PATIENCE.as_secs();
                warn!(
                    "process {child} has not executed its program within {waited} s: its user may \
                     have stopped it"
                );
                return None;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_failure_is_reported_as_it_is() {
        let steps = [
            Step::Descriptor(7),
            Step::OomScore,
            Step::Limit(3),
            Step::Groups,
            Step::Group,
            Step::User,
        ];
        let errno = Errno::EACCES;
        let mut failures = vec![
            Failure::Prepare(errno),
            Failure::Cgroup(errno),
            Failure::Directory(errno),
            Failure::Execute(errno),
        ];
        failures.extend(steps.map(|step| Failure::Setup((step, errno))));
        for failure in failures {
            assert_eq!(Failure::from_bytes(failure.to_bytes()), Some(failure));
        }
        assert_eq!(Failure::from_bytes([9; 10]), None);
    }
}
