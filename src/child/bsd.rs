//! macOS and the BSDs: std's fork and exec, kqueue's process filter, sysctl.

#[path = "bsd/left.rs"]
mod left;

use std::fs::File;
use std::io::{self, Read};
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::sync::Arc;

use nix::errno::Errno;
use nix::fcntl::{FcntlArg, FdFlag, OFlag, fcntl};
use nix::pty::{grantpt, posix_openpt, unlockpt};
use nix::sys::event::{EvFlags, EventFilter, FilterFlag, KEvent, Kqueue};
use nix::sys::signal::SigSet;
use nix::sys::termios::InputFlags;
use nix::unistd::{Pid, setpgid, setsid};

use super::ExitStatus;
use super::command::{Background, Command, LOWEST_PRIORITY};
use super::descriptors::{pipe, set_nonblocking};
use super::error::SpawnFailure;
use super::identity::{Identity, Process};
use super::lost::Leftovers;
use super::setup::{Setup, Step};
use super::signal::restore_sigchld;
use super::stdio::ChildStdio;

pub(crate) use left::{Cgroup, OomKills, Orphans};
pub(super) use left::{has_ended, has_no_child, reap_orphans};

pub(super) fn last_signal() -> i32 {
    libc::SIGUSR2
}

/// None: there are no cgroups.
pub(super) fn frozen_cgroup(_: Pid) -> Option<PathBuf> {
    None
}

/// None: libc does not define them here.
pub(crate) fn realtime_signals() -> Option<(i32, i32)> {
    None
}

/// Watches for the end of one process, through a kqueue with one `EVFILT_PROC` (kqueue(2)). A
/// kqueue is readable while it has an event.
#[derive(Debug, Default)]
pub(super) struct ExitWatch(Option<Kqueue>);

impl ExitWatch {
    pub(super) fn new(pid: Pid) -> io::Result<Self> {
        let queue = Kqueue::new()?;
        let ident = usize::try_from(pid.as_raw()).map_err(io::Error::other)?;
        let exit = KEvent::new(
            ident,
            EventFilter::EVFILT_PROC,
            EvFlags::EV_ADD,
            FilterFlag::NOTE_EXIT,
            0,
            0,
        );
        match queue.kevent(&[exit], &mut [], None) {
            Ok(_) => Ok(Self(Some(queue))),
            // It has ended, and only remains to be reaped.
            Err(Errno::ESRCH) => Ok(Self(None)),
            Err(error) => Err(error.into()),
        }
    }

    pub(super) fn fd(&self) -> Option<BorrowedFd<'_>> {
        self.0.as_ref().map(AsFd::as_fd)
    }
}

/// The option of wait(2) for children that were cloned without SIGCHLD, which is Linux's.
pub(super) const ANY_CHILD: libc::c_int = 0;

/// Fails with `ECHILD` unless this is an unreaped child of this process. Reaps nothing.
pub(super) fn check_own_child(pid: Pid) -> io::Result<()> {
    Ok(ended_status(pid).map(drop)?)
}

/// The exit status of this child if it has ended. It is not reaped.
pub(super) fn ended_status(pid: Pid) -> nix::Result<Option<ExitStatus>> {
    let id = libc::id_t::try_from(pid.as_raw()).map_err(|_| Errno::ECHILD)?;
    let mut info = MaybeUninit::<libc::siginfo_t>::zeroed();
    let look = libc::WEXITED | libc::WNOHANG | libc::WNOWAIT;
    // SAFETY: waitid(2) writes one siginfo_t to the pointer, which is valid for one.
    Errno::result(unsafe { libc::waitid(libc::P_PID, id, info.as_mut_ptr(), look) })?;
    // SAFETY: zeroed is a valid siginfo_t, and the kernel sets the pid of an ended child.
    let info = unsafe { info.assume_init() };
    Ok((info.si_pid != 0).then(|| ExitStatus::from_info(info.si_code, info.si_status)))
}

/// Starts `command` in a session of its own. Without a parent-death signal on these systems, it
/// outlives a supervisor that is killed.
pub(super) fn spawn(
    command: &Command,
    stdio: &ChildStdio<'_>,
    _cgroup: Option<&Cgroup>,
) -> Result<(Pid, ExitWatch), SpawnFailure> {
    let setup = Setup::new(command)?;
    // std reports a failure of exec through a descriptor of its own, and so do the steps below: no
    // descriptor of the child may take its number.
    let reserved = setup.reserve();
    let setup = Arc::new(setup);
    let steps = match command.attributes.is_some() {
        true => Some(pipe()?),
        false => None,
    };
    let (reader, writer) = steps.unzip();
    let mut std = std_command(command);
    let [stdin, stdout, stderr] = stdio.fds.map(|fd| fd.try_clone_to_owned().map(Stdio::from));
    std.stdin(stdin?).stdout(stdout?).stderr(stderr?);
    let terminal = stdio.terminal;
    let in_child = Arc::clone(&setup);
    let background = command.background;
    let prepare = move || {
        match background {
            Some(background) => move_to_background(background)?,
            None => drop(setsid()?),
        }
        // The child does not inherit the signal mask of this thread.
        SigSet::empty().thread_set_mask()?;
        if terminal {
            // TIOCSCTTY is declared as unsigned int, but ioctl takes unsigned long.
            let request = libc::TIOCSCTTY as libc::c_ulong;
            // SAFETY: TIOCSCTTY takes an integer, not a pointer.
            Errno::result(unsafe { libc::ioctl(libc::STDOUT_FILENO, request, 0) })?;
        }
        let steps = [Setup::pass_descriptors, Setup::set_limits, Setup::set_ids];
        if let Err((step, errno)) = steps.iter().try_for_each(|step| step(&in_child)) {
            if let Some(writer) = &writer {
                // A pipe with room for it. Without it, the step is not named.
                let _ = nix::unistd::write(writer, &step.to_bytes());
            }
            return Err(errno.into());
        }
        Ok(())
    };
    // SAFETY: between fork and exec the closure makes only the calls pthread_sigmask, setsid,
    // setpgid, getdtablesize, fcntl, setpriority, sigaction, ioctl, dup2, umask, setrlimit,
    // setgroups, setgid, setuid and write, each async-signal-safe or a plain system call, on values
    // it owns; it allocates nothing.
    unsafe { std.pre_exec(prepare) };
    let keep = KeepChildren::new();
    let spawned = std.spawn();
    // The closure holds the writer.
    drop(std);
    drop(reserved);
    drop(keep);
    let spawned = spawned.map_err(|error| match reader.and_then(failed_step) {
        Some(step) => setup.failure(step, error),
        None => SpawnFailure::Execute(error),
    })?;
    let pid = Pid::from_raw(i32::try_from(spawned.id()).map_err(io::Error::other)?);
    // The child is not reaped yet, so the pid can't be reused.
    // A child that can't be watched is polled.
    Ok((pid, ExitWatch::new(pid).unwrap_or_default()))
}

/// The step that the child has reported.
fn failed_step(reader: OwnedFd) -> Option<Step> {
    let mut bytes = Vec::new();
    File::from(reader).read_to_end(&mut bytes).ok()?;
    Step::from_bytes(bytes.try_into().ok()?)
}

/// Unsupported: there is no such score.
pub(super) fn set_oom_score_adj(_: &[u8]) -> nix::Result<()> {
    Err(Errno::ENOTSUP)
}

/// Whether the process has these supplementary groups. Unknown here: on macOS the groups of a process
/// are not its user's.
pub(super) fn has_groups(_: &[libc::gid_t]) -> bool {
    false
}

/// Sets the supplementary groups of the calling process.
pub(super) fn set_groups(groups: &[libc::gid_t]) -> nix::Result<()> {
    let count = groups.len().try_into().map_err(|_| Errno::EINVAL)?;
    // SAFETY: setgroups(2) reads that many ids from the pointer.
    Errno::result(unsafe { libc::setgroups(count, groups.as_ptr()) }).map(drop)
}

/// Sets the group ids of the calling process.
pub(super) fn set_gid(gid: libc::gid_t) -> nix::Result<()> {
    nix::unistd::setgid(nix::unistd::Gid::from_raw(gid))
}

/// Sets the user ids of the calling process.
pub(super) fn set_uid(uid: libc::uid_t) -> nix::Result<()> {
    nix::unistd::setuid(nix::unistd::Uid::from_raw(uid))
}

/// The highest descriptor that is set close-on-exec. This thread is blocked until exec, and one
/// call for each descriptor of a process without a limit would take a second.
const MOST_DESCRIPTORS: libc::c_int = 1 << 16;

/// Moves the calling process to a new process group with this priority, sets inherited descriptors
/// close-on-exec, and resets ignored signals. Exec resets caught ones.
fn move_to_background(priority: Background) -> io::Result<()> {
    setpgid(Pid::from_raw(0), Pid::from_raw(0))?;
    // SAFETY: takes and returns integers.
    let descriptors = unsafe { libc::getdtablesize() }.min(MOST_DESCRIPTORS);
    for fd in libc::STDERR_FILENO + 1..descriptors {
        // Not closed now: std reports a failure of exec through a descriptor of its own.
        // SAFETY: takes integers; a closed descriptor is an error.
        unsafe { libc::fcntl(fd, libc::F_SETFD, libc::FD_CLOEXEC) };
    }
    if priority == Background::Low {
        // SAFETY: takes integers. A failure does not stop the command.
        unsafe { libc::setpriority(libc::PRIO_PROCESS, 0, LOWEST_PRIORITY) };
    }
    for signal in 1..=last_signal() {
        let mut current = MaybeUninit::<libc::sigaction>::zeroed();
        // SAFETY: with a null new action, sigaction(2) only writes the current one to the pointer,
        // which is valid for one sigaction.
        let queried = unsafe { libc::sigaction(signal, std::ptr::null(), current.as_mut_ptr()) };
        // SAFETY: zeroed is a valid sigaction, and on success the kernel has filled it.
        let mut action = unsafe { current.assume_init() };
        if queried == 0 && action.sa_sigaction == libc::SIG_IGN {
            action.sa_sigaction = libc::SIG_DFL;
            // SAFETY: SIG_DFL installs no handler.
            unsafe { libc::sigaction(signal, &raw const action, std::ptr::null_mut()) };
        }
    }
    Ok(())
}

fn std_command(command: &Command) -> std::process::Command {
    let mut std = std::process::Command::new(command.get_program());
    std.args(command.get_args());
    if command.get_env_clear() {
        std.env_clear();
    }
    for (key, value) in command.get_envs() {
        match value {
            Some(value) => std.env(key, value),
            None => std.env_remove(key),
        };
    }
    if let Some(directory) = command.get_current_dir() {
        std.current_dir(directory);
    }
    std
}

/// A guard that keeps ended children as zombies, also in a process whose `SIGCHLD` has `SIG_IGN` or
/// `SA_NOCLDWAIT` (wait(2)).
///
/// It is held during a spawn, because std's spawn panics if it can't wait for the child of a failed
/// exec. If the process keeps zombies anyway, nothing is changed. Otherwise another child that ends
/// meanwhile stays a zombie, which costs a pid; a panic would cost every sandbox.
struct KeepChildren(Option<libc::sigaction>);

impl KeepChildren {
    fn new() -> Self {
        let mut current = std::mem::MaybeUninit::<libc::sigaction>::zeroed();
        // SAFETY: with a null new action, sigaction(2) only writes the current one to the pointer,
        // which is valid for one sigaction.
        let queried =
            unsafe { libc::sigaction(libc::SIGCHLD, std::ptr::null(), current.as_mut_ptr()) };
        // SAFETY: zeroed is a valid sigaction, and on success the kernel has filled it.
        let current = unsafe { current.assume_init() };
        let thrown_away =
            current.sa_sigaction == libc::SIG_IGN || current.sa_flags & libc::SA_NOCLDWAIT != 0;
        if queried != 0 || !thrown_away {
            return Self(None);
        }
        restore_sigchld();
        Self(Some(current))
    }
}

impl Drop for KeepChildren {
    fn drop(&mut self) {
        if let Some(former) = &self.0 {
            // SAFETY: the action was in force before, so its handler, if any, is still there.
            unsafe { libc::sigaction(libc::SIGCHLD, former, std::ptr::null_mut()) };
        }
    }
}

/// The input mode of a terminal whose characters are UTF-8. Only macOS has one.
#[cfg(target_os = "macos")]
pub(super) const UTF8_INPUT: InputFlags = InputFlags::IUTF8;
#[cfg(not(target_os = "macos"))]
pub(super) const UTF8_INPUT: InputFlags = InputFlags::empty();

/// A new PTY: its master, close-on-exec and non-blocking, and the path of its slave.
///
/// posix_openpt takes neither flag here, so a fork of another thread may inherit the master.
pub(super) fn open_pty() -> io::Result<(OwnedFd, PathBuf)> {
    let master = posix_openpt(OFlag::O_RDWR | OFlag::O_NOCTTY)?;
    fcntl(&master, FcntlArg::F_SETFD(FdFlag::FD_CLOEXEC))?;
    set_nonblocking(master.as_fd())?;
    grantpt(&master)?;
    unlockpt(&master)?;
    // SAFETY: ptsname's static buffer is copied before this thread can call it again; other
    // threads of the host must not call ptsname at the same time.
    let path = unsafe { nix::pty::ptsname(&master) }?;
    Ok((master.into(), path.into()))
}

#[cfg(target_os = "macos")]
pub(super) fn process(pid: u32) -> io::Result<Option<Process>> {
    let mut info = MaybeUninit::<libc::proc_bsdinfo>::zeroed();
    let size = libc::c_int::try_from(size_of::<libc::proc_bsdinfo>()).map_err(io::Error::other)?;
    let pid = libc::c_int::try_from(pid).map_err(io::Error::other)?;
    // SAFETY: proc_pidinfo writes at most `size` bytes to the buffer, which has that many.
    let written = unsafe {
        libc::proc_pidinfo(pid, libc::PROC_PIDTBSDINFO, 0, info.as_mut_ptr().cast(), size)
    };
    if written != size {
        return match Errno::last() {
            Errno::ESRCH => Ok(None),
            error => Err(error.into()),
        };
    }
    // SAFETY: all of it has been written.
    let info = unsafe { info.assume_init() };
    let start = info.pbi_start_tvsec * 1_000_000 + info.pbi_start_tvusec;
    Ok(Some(Process { start, ended: info.pbi_status == libc::SZOMB }))
}

#[cfg(target_os = "freebsd")]
pub(super) fn process(pid: u32) -> io::Result<Option<Process>> {
    let pid = libc::c_int::try_from(pid).map_err(io::Error::other)?;
    let mib = [libc::CTL_KERN, libc::KERN_PROC, libc::KERN_PROC_PID, pid];
    let mut info = MaybeUninit::<libc::kinfo_proc>::zeroed();
    let mut size = size_of::<libc::kinfo_proc>();
    // SAFETY: sysctl reads four integers and writes at most `size` bytes to the buffer.
    let result = unsafe {
        libc::sysctl(mib.as_ptr(), 4, info.as_mut_ptr().cast(), &mut size, std::ptr::null(), 0)
    };
    match Errno::result(result) {
        Err(Errno::ESRCH) => return Ok(None),
        Err(error) => return Err(error.into()),
        Ok(_) if size == 0 => return Ok(None),
        Ok(_) => {}
    }
    // SAFETY: zeroed at first and filled by the kernel; every field is an integer or a pointer.
    let info = unsafe { info.assume_init() };
    let seconds = u64::try_from(info.ki_start.tv_sec).unwrap_or_default();
    let micros = u64::try_from(info.ki_start.tv_usec).unwrap_or_default();
    let ended = i32::from(info.ki_stat) == i32::from(libc::SZOMB);
    Ok(Some(Process { start: seconds * 1_000_000 + micros, ended }))
}

/// See [`Identity::signal`], which has just checked the process. There is no pidfd here.
pub(super) fn signal(identity: &Identity, signal: super::Signal) -> io::Result<()> {
    if identity.pid == std::process::id() {
        return Ok(());
    }
    let pid = i32::try_from(identity.pid).map_err(io::Error::other)?;
    // SAFETY: kill takes two integers and touches no memory of ours.
    Errno::result(unsafe { libc::kill(pid, signal.number()) })?;
    Ok(())
}

/// Unsupported: without a pidfd, the pid may be reused between the check and the signal.
pub(crate) fn end_lost_session(
    _: &Identity,
    _: Option<&str>,
    _: Option<&Path>,
) -> io::Result<Leftovers> {
    Err(io::ErrorKind::Unsupported.into())
}

/// As for [`end_lost_session`].
pub(crate) fn signal_marked(_: &Identity, _: &str, _: super::Signal) -> io::Result<()> {
    Err(io::ErrorKind::Unsupported.into())
}

/// As for [`end_lost_session`].
pub(crate) fn check_parent(_: &Identity, _: &Identity, _: &str) -> io::Result<()> {
    Err(io::ErrorKind::Unsupported.into())
}

/// As for [`end_lost_session`].
pub(crate) fn end_marked(_: &str) -> io::Result<usize> {
    Err(io::ErrorKind::Unsupported.into())
}

/// The kernel's boot id (macOS: a UUID, FreeBSD: 16 random bytes), in hexadecimal; empty if it has
/// none. The boot time does not serve: it changes when the clock is set.
pub(super) fn boot_id() -> String {
    [c"kern.bootsessionuuid", c"kern.boot_id"].into_iter().find_map(read_sysctl).unwrap_or_default()
}

fn read_sysctl(name: &std::ffi::CStr) -> Option<String> {
    let mut value = [0_u8; 64];
    let mut size = value.len();
    // SAFETY: the name is NUL-terminated, and at most `size` bytes are written to the buffer.
    let result = unsafe {
        libc::sysctlbyname(
            name.as_ptr(),
            value.as_mut_ptr().cast(),
            &mut size,
            std::ptr::null_mut(),
            0,
        )
    };
    let value = value.get(..size).filter(|value| result == 0 && !value.is_empty())?;
    Some(value.iter().map(|byte| format!("{byte:02x}")).collect())
}

/// These systems have no pid namespaces.
pub(super) fn pid_namespace() -> Option<u64> {
    None
}
