//! What a child has beside its program and its streams: descriptors, user and group ids, limits,
//! and the size and type of its terminal.

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::os::fd::{AsFd, AsRawFd, OwnedFd, RawFd};
use std::sync::Arc;

use nix::fcntl::{FcntlArg, FdFlag, fcntl};

use super::limits::{Resource, ResourceLimit};
use crate::terminal::WindowSize;

/// The attributes that few commands set. An absent one is inherited from this process.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Attributes {
    /// At most one for each number.
    pub(crate) descriptors: Vec<PassedDescriptor>,
    pub(crate) uid: Option<u32>,
    pub(crate) gid: Option<u32>,
    pub(crate) groups: Option<Vec<u32>>,
    pub(crate) umask: Option<u32>,
    pub(crate) limits: BTreeMap<Resource, ResourceLimit>,
    pub(crate) oom_score_adj: Option<i16>,
    pub(crate) pty_size: Option<WindowSize>,
    pub(crate) term: Option<OsString>,
}

impl Attributes {
    /// Replaces the descriptor of the same number.
    pub(crate) fn pass(&mut self, passed: PassedDescriptor) {
        self.descriptors.retain(|other| other.number != passed.number);
        self.descriptors.push(passed);
    }
}

/// A descriptor that the child gets under this number.
#[derive(Debug, Clone)]
pub(crate) struct PassedDescriptor {
    pub(crate) number: RawFd,
    /// `None` in a command from a record, which has the number only.
    pub(crate) descriptor: Option<Arc<OwnedFd>>,
}

impl PassedDescriptor {
    /// A descriptor of this process, which is close-on-exec from now on.
    pub(super) fn new(number: RawFd, descriptor: Arc<OwnedFd>) -> Self {
        // Fails for a closed descriptor only.
        let _ = fcntl(descriptor.as_fd(), FcntlArg::F_SETFD(FdFlag::FD_CLOEXEC));
        Self { number, descriptor: Some(descriptor) }
    }
}

impl PartialEq for PassedDescriptor {
    /// Two open descriptors of a process are the same if their numbers are.
    fn eq(&self, other: &Self) -> bool {
        let number = |it: &Self| it.descriptor.as_ref().map(|it| it.as_raw_fd());
        (self.number, number(self)) == (other.number, number(other))
    }
}

impl Eq for PassedDescriptor {}
