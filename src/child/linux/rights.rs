//! The rights of the calling process: user and group ids, and the OOM score. All but [`has_groups`] are
//! for a child before exec, so they allocate nothing and take no lock.

use nix::errno::Errno;
use nix::fcntl::{OFlag, open};
use nix::sys::stat::Mode;
use nix::unistd::{getgroups, getresgid};

// The system calls with ids of 32 bits.
#[cfg(not(any(target_arch = "x86", target_arch = "arm")))]
use libc::{SYS_setgroups as SETGROUPS, SYS_setresgid as SETRESGID, SYS_setresuid as SETRESUID};
#[cfg(any(target_arch = "x86", target_arch = "arm"))]
use libc::{
    SYS_setgroups32 as SETGROUPS, SYS_setresgid32 as SETRESGID, SYS_setresuid32 as SETRESUID,
};

/// Sets `oom_score_adj` of the calling process. The kernel shares it among the processes of one
/// memory, but not with one that vfork has started.
pub(in crate::child) fn set_oom_score_adj(score: &[u8]) -> nix::Result<()> {
    let flags = OFlag::O_WRONLY | OFlag::O_CLOEXEC;
    let file = open(c"/proc/self/oom_score_adj", flags, Mode::empty())?;
    nix::unistd::write(&file, score).map(drop)
}

/// Whether the process has these supplementary groups.
///
/// initgroups(3) puts the user's group among them, and not every process of that user has it there. To
/// a process that can set no groups and has no other group id it makes no difference. To another it
/// does: a child of root that changes its group would keep root's.
pub(in crate::child) fn has_groups(groups: &[libc::gid_t]) -> bool {
    let only = (!can_set_groups()).then(only_gid).flatten();
    let sorted = |mut groups: Vec<libc::gid_t>| {
        groups.retain(|group| Some(*group) != only);
        groups.sort_unstable();
        groups.dedup();
        groups
    };
    let current = getgroups().map(|groups| groups.iter().map(|group| group.as_raw()).collect());
    current.is_ok_and(|current| sorted(current) == sorted(groups.to_vec()))
}

/// The group id of the process, if it is real, effective and saved, so that without `CAP_SETGID` it has
/// to stay.
fn only_gid() -> Option<libc::gid_t> {
    let ids = getresgid().ok()?;
    (ids.real == ids.effective && ids.saved == ids.effective).then(|| ids.effective.as_raw())
}

/// Whether the calling thread has `CAP_SETGID`, also if that can't be told.
fn can_set_groups() -> bool {
    /// `_LINUX_CAPABILITY_VERSION_3`.
    const VERSION: u32 = 0x2008_0522;
    const CAP_SETGID: u32 = 6;
    let mut header = [VERSION, 0];
    // Effective, permitted and inheritable: the lower halves, then the upper ones.
    let mut sets = [0_u32; 6];
    // SAFETY: capget(2) reads and writes a version and a pid, and writes two times three integers.
    let result = unsafe { libc::syscall(libc::SYS_capget, header.as_mut_ptr(), sets.as_mut_ptr()) };
    let [effective, ..] = sets;
    result != 0 || effective & (1 << CAP_SETGID) != 0
}

// The functions of C libraries set the ids of every thread, and to do so they signal the threads of
// the process that they take themselves to be in: those of the host. The system calls set the ids of
// the calling process alone.

/// Sets the supplementary groups of the calling process.
pub(in crate::child) fn set_groups(groups: &[libc::gid_t]) -> nix::Result<()> {
    // SAFETY: setgroups(2) reads that many ids from the pointer.
    Errno::result(unsafe { libc::syscall(SETGROUPS, groups.len(), groups.as_ptr()) }).map(drop)
}

/// Sets the group ids of the calling process.
pub(in crate::child) fn set_gid(gid: libc::gid_t) -> nix::Result<()> {
    let gid = libc::c_ulong::from(gid);
    // SAFETY: takes integers.
    Errno::result(unsafe { libc::syscall(SETRESGID, gid, gid, gid) }).map(drop)
}

/// Sets the user ids of the calling process.
pub(in crate::child) fn set_uid(uid: libc::uid_t) -> nix::Result<()> {
    let uid = libc::c_ulong::from(uid);
    // SAFETY: takes integers.
    Errno::result(unsafe { libc::syscall(SETRESUID, uid, uid, uid) }).map(drop)
}
