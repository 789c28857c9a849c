//! The attributes of a command as steps of a child between fork and exec. Everything is prepared
//! before: the steps allocate nothing and take no lock.

use std::io;
use std::os::fd::{AsRawFd, OwnedFd, RawFd};
use std::sync::Arc;
use std::sync::atomic::{AtomicI32, Ordering};

use nix::errno::Errno;
use nix::sys::resource::rlim_t;
use nix::sys::stat::{Mode, mode_t, umask};
use nix::unistd::geteuid;

use super::attributes::PassedDescriptor;
use super::command::Command;
use super::error::SpawnFailure;
use super::limits::Resource;
use super::platform;

/// The prepared attributes.
#[derive(Default)]
pub(super) struct Setup {
    moves: Vec<Move>,
    /// The descriptors that are moved, which stay open as long as this exists.
    sources: Vec<Arc<OwnedFd>>,
    umask: Option<Mode>,
    /// The score in decimal digits.
    oom_score_adj: Option<String>,
    limits: Vec<(Resource, (rlim_t, rlim_t))>,
    ids: Ids,
}

/// The ids to set.
#[derive(Default)]
struct Ids {
    groups: Option<Vec<libc::gid_t>>,
    gid: Option<libc::gid_t>,
    uid: Option<libc::uid_t>,
}

impl Ids {
    /// Checks ids. `groups` are left out if the process has them already: setting them is a right of
    /// root's alone, even then.
    ///
    /// Without `groups`, a child of another user gets none: those of this process are root's, as a
    /// rule.
    fn new(
        uid: Option<u32>,
        gid: Option<u32>,
        groups: Option<Vec<u32>>,
    ) -> Result<Self, SpawnFailure> {
        /// (uid_t) -1 and (gid_t) -1 mean no change (setresuid(2)), so the child would stay root.
        const NO_CHANGE: u32 = u32::MAX;
        if uid == Some(NO_CHANGE) {
            return Err(SpawnFailure::User(Errno::EINVAL.into()));
        }
        if gid == Some(NO_CHANGE) {
            return Err(SpawnFailure::Group(Errno::EINVAL.into()));
        }
        let is_other = uid.is_some_and(|uid| uid != geteuid().as_raw());
        let groups = groups.or(is_other.then(Vec::new));
        Ok(Self { groups: groups.filter(|groups| !platform::has_groups(groups)), gid, uid })
    }
}

/// A descriptor of this process and its number in the child.
struct Move {
    /// Changes in the child if another move takes this number.
    from: AtomicI32,
    to: RawFd,
    /// Whether another move takes the number `from`.
    is_in_the_way: bool,
}

/// The step that failed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Step {
    Descriptor(RawFd),
    OomScore,
    /// The index of the limit.
    Limit(u32),
    Groups,
    Group,
    User,
}

/// The form in which a child that shares no memory reports a step.
impl Step {
    pub(super) fn to_bytes(self) -> [u8; 5] {
        let (kind, number) = match self {
            Self::Descriptor(number) => (0, number.to_ne_bytes()),
            Self::Limit(index) => (1, index.to_ne_bytes()),
            Self::OomScore => (2, [0; 4]),
            Self::Groups => (3, [0; 4]),
            Self::Group => (4, [0; 4]),
            Self::User => (5, [0; 4]),
        };
        let [a, b, c, d] = number;
        [kind, a, b, c, d]
    }

    pub(super) fn from_bytes([kind, a, b, c, d]: [u8; 5]) -> Option<Self> {
        let number = [a, b, c, d];
        Some(match kind {
            0 => Self::Descriptor(RawFd::from_ne_bytes(number)),
            1 => Self::Limit(u32::from_ne_bytes(number)),
            2 => Self::OomScore,
            3 => Self::Groups,
            4 => Self::Group,
            5 => Self::User,
            _ => return None,
        })
    }
}

/// A step that failed, and its error.
pub(super) type Failed = (Step, Errno);

impl Setup {
    /// Prepares the attributes of `command`.
    ///
    /// # Errors
    ///
    /// One of them is impossible. Nothing has been changed.
    pub(super) fn new(command: &Command) -> Result<Self, SpawnFailure> {
        let mut setup = Self::default();
        if let Some(attributes) = command.attributes.as_deref() {
            setup.umask = attributes.umask.map(|mask| {
                Mode::from_bits_truncate(mode_t::try_from(mask).unwrap_or(mode_t::MAX))
            });
            setup.oom_score_adj = attributes.oom_score_adj.map(|score| score.to_string());
            let limits = attributes.limits.iter();
            setup.limits = limits.map(|(resource, limit)| (*resource, limit.values())).collect();
            setup.ids = Ids::new(attributes.uid, attributes.gid, attributes.groups.clone())?;
            setup.prepare_moves(&attributes.descriptors)?;
        }
        if let Some(limit) = command.file_limit
            && !setup.limits.iter().any(|(resource, _)| *resource == Resource::NOFILE)
        {
            let (_, hard) = Resource::NOFILE.current()?;
            setup.limits.push((Resource::NOFILE, (limit.soft().min(hard), hard)));
        }
        Ok(setup)
    }

    fn prepare_moves(&mut self, passed: &[PassedDescriptor]) -> Result<(), SpawnFailure> {
        for PassedDescriptor { number, descriptor } in passed {
            let failed = |error| SpawnFailure::Descriptor(*number, error);
            if *number <= libc::STDERR_FILENO {
                let why = "0, 1 and 2 are the standard streams: give a number from 3 on";
                return Err(failed(io::Error::new(io::ErrorKind::InvalidInput, why)));
            }
            let Some(descriptor) = descriptor else {
                let why = "the record has only its number: pass the descriptor again";
                return Err(failed(io::Error::new(io::ErrorKind::NotFound, why)));
            };
            // The child's streams get the numbers up to 2 first.
            let source = match descriptor.as_raw_fd() > libc::STDERR_FILENO {
                true => Arc::clone(descriptor),
                // A number of at least 3, close-on-exec.
                false => Arc::new(descriptor.try_clone().map_err(failed)?),
            };
            let from = AtomicI32::new(source.as_raw_fd());
            self.moves.push(Move { from, to: *number, is_in_the_way: false });
            self.sources.push(source);
        }
        let targets: Vec<RawFd> = self.moves.iter().map(|one| one.to).collect();
        for one in &mut self.moves {
            let from = *one.from.get_mut();
            one.is_in_the_way = from != one.to && targets.contains(&from);
        }
        Ok(())
    }

    /// Whether ids are changed.
    #[cfg(any(target_os = "linux", target_os = "android"))]
    pub(super) fn changes_ids(&self) -> bool {
        let Ids { groups, gid, uid } = &self.ids;
        groups.is_some() || gid.is_some() || uid.is_some()
    }

    /// Gives the descriptors their numbers. In the child, after its streams.
    pub(super) fn pass_descriptors(&self) -> Result<(), Failed> {
        let targets = |number: RawFd| self.moves.iter().any(|other| other.to == number);
        for one in self.moves.iter().filter(|one| one.is_in_the_way) {
            let failed = |errno| (Step::Descriptor(one.to), errno);
            loop {
                // The lowest free number from 3 on. One that is to be taken is occupied by this
                // copy until then, so the next copy gets another.
                let copy = duplicate(one.from()).map_err(failed)?;
                one.from.store(copy, Ordering::Relaxed);
                if !targets(copy) {
                    break;
                }
            }
        }
        for one in &self.moves {
            one.carry_out().map_err(|errno| (Step::Descriptor(one.to), errno))?;
        }
        Ok(())
    }

    /// Sets the umask, the OOM score and the limits. In the child, after its descriptors, which a
    /// limit could prevent, and before the ids, whose owner may set lower values only.
    pub(super) fn set_limits(&self) -> Result<(), Failed> {
        if let Some(mask) = self.umask {
            umask(mask);
        }
        if let Some(score) = &self.oom_score_adj {
            platform::set_oom_score_adj(score.as_bytes())
                .map_err(|errno| (Step::OomScore, errno))?;
        }
        for ((resource, limit), index) in self.limits.iter().zip(0..) {
            resource.set(*limit).map_err(|errno| (Step::Limit(index), errno))?;
        }
        Ok(())
    }

    /// Gives up the rights of this process: groups first, the user last. In the child.
    pub(super) fn set_ids(&self) -> Result<(), Failed> {
        let Ids { groups, gid, uid } = &self.ids;
        if let Some(groups) = groups {
            platform::set_groups(groups).map_err(|errno| (Step::Groups, errno))?;
        }
        if let Some(gid) = gid {
            platform::set_gid(*gid).map_err(|errno| (Step::Group, errno))?;
        }
        if let Some(uid) = uid {
            platform::set_uid(*uid).map_err(|errno| (Step::User, errno))?;
        }
        Ok(())
    }

    /// Descriptors that keep other files of this process from getting a number that the child is to
    /// use.
    pub(super) fn reserve(&self) -> Vec<OwnedFd> {
        use nix::fcntl::{FcntlArg, fcntl};
        use std::os::fd::FromRawFd;

        let reserve = |(one, source): (&Move, &Arc<OwnedFd>)| {
            let copy = fcntl(source, FcntlArg::F_DUPFD_CLOEXEC(one.to)).ok()?;
            // SAFETY: the system has just returned this descriptor; nothing else owns it.
            let copy = unsafe { OwnedFd::from_raw_fd(copy) };
            // A higher one if the number is in use already.
            (copy.as_raw_fd() == one.to).then_some(copy)
        };
        self.moves.iter().zip(&self.sources).filter_map(reserve).collect()
    }

    /// The failure of a step, with its error.
    pub(super) fn failure(&self, step: Step, error: io::Error) -> SpawnFailure {
        match step {
            Step::Descriptor(number) => SpawnFailure::Descriptor(number, error),
            Step::OomScore => SpawnFailure::OomScore(error),
            Step::Limit(index) => {
                let index = usize::try_from(index).ok();
                match index.and_then(|index| self.limits.get(index)) {
                    Some((resource, _)) => SpawnFailure::Limit(*resource, error),
                    None => SpawnFailure::System(error),
                }
            }
            Step::Groups => SpawnFailure::Groups(error),
            Step::Group => SpawnFailure::Group(error),
            Step::User => SpawnFailure::User(error),
        }
    }
}

impl Move {
    fn from(&self) -> RawFd {
        self.from.load(Ordering::Relaxed)
    }

    /// In the child.
    fn carry_out(&self) -> nix::Result<()> {
        let (from, to) = (self.from(), self.to);
        // SAFETY: takes integers. The descriptor table is the child's own, in which nothing owns the
        // number `to`; it stays open across exec.
        let result = unsafe {
            match from == to {
                // dup2 would do nothing (dup(2)), and leave it close-on-exec.
                true => libc::fcntl(to, libc::F_SETFD, 0),
                false => libc::dup2(from, to),
            }
        };
        Errno::result(result).map(drop)
    }
}

/// A close-on-exec copy of a descriptor, with the lowest free number from 3 on. In the child.
fn duplicate(from: RawFd) -> nix::Result<RawFd> {
    // SAFETY: takes integers. The descriptor table is the child's own, and the copy ends with exec.
    Errno::result(unsafe { libc::fcntl(from, libc::F_DUPFD_CLOEXEC, libc::STDERR_FILENO + 1) })
}
