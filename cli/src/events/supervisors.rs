//! Watches for the ends of supervisors: one that is killed writes nothing to the record.

use std::collections::BTreeMap;
use std::os::fd::BorrowedFd;

use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use vmon::child::ProcessEnd;
use vmon::monitor::Identity;

/// Pid, start time, boot and pid namespace.
type Key = (u32, u64, String, Option<u64>);

fn key(supervisor: &Identity) -> Key {
    let Identity { pid, start, boot_id, pid_namespace, .. } = supervisor;
    (*pid, *start, boot_id.clone(), *pid_namespace)
}

/// The supervisors of unfinished runs. `None` for one that can't be watched, as in another pid
/// namespace, or that has ended.
#[derive(Debug, Default)]
pub struct Supervisors(BTreeMap<Key, Option<ProcessEnd>>);

impl Supervisors {
    /// Watches these from now on, and no others.
    pub fn follow<'a>(&mut self, supervisors: impl Iterator<Item = &'a Identity>) {
        let mut before = std::mem::take(&mut self.0);
        for supervisor in supervisors {
            let key = key(supervisor);
            let watched = before.remove(&key);
            self.0.entry(key).or_insert_with(|| match watched {
                Some(watched) => watched,
                None => ProcessEnd::of(supervisor).ok().filter(|end| end.event_fd().is_some()),
            });
        }
    }

    /// Each is readable once a supervisor has ended.
    pub fn event_fds(&self) -> impl Iterator<Item = BorrowedFd<'_>> {
        self.0.values().flatten().filter_map(ProcessEnd::event_fd)
    }

    /// Whether a watched supervisor has ended since the last call.
    pub fn have_ended(&mut self) -> bool {
        let mut any = false;
        for watched in self.0.values_mut() {
            let fd = watched.as_ref().and_then(ProcessEnd::event_fd);
            let has_ended = fd.is_some_and(|fd| {
                let mut fds = [PollFd::new(fd, PollFlags::POLLIN)];
                poll(&mut fds, PollTimeout::ZERO).is_ok_and(|ready| ready > 0)
            });
            if has_ended {
                *watched = None;
                any = true;
            }
        }
        any
    }

    /// Whether the ends of all are seen.
    pub fn are_watched(&self) -> bool {
        self.0.values().all(Option::is_some)
    }
}
